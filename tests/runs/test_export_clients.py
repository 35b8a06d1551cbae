"""Exported tables in the programs that they are for: pandas, polars and DuckDB, from the environment .venv-clients."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.runs.test_export import EXPECTED, store, the_run

from samplewise.runs.export import decision_rows, export_run
from samplewise.store.database import Store

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
READER = Path(__file__).parent / "clients" / "read_tables.py"
FORMS = ("csv", "jsonl", "parquet")

pytestmark = [pytest.mark.clients, pytest.mark.slow]
__all__ = ["store"]  # the fixture


def read(kept: Store, folder: Path, table: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Export a table in every format; return the rows that each program reads of each."""
    if not PYTHON.exists():
        pytest.skip("the programs are not installed in .venv-clients: make test-clients installs them")
    for form in FORMS:
        export_run(kept, the_run(kept), folder / f"table.{form}", form, table)  # type: ignore[arg-type]
    done = subprocess.run([str(PYTHON), str(READER), str(folder)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("draws")
    kept = store.__wrapped__(folder)  # the fixture of the other file, once for all programs
    yield read(next(kept), folder, "draws")
    kept.close()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("program", ["pandas", "polars", "duckdb"])
def test_every_draw_is_read_with_every_value(seen: dict[str, Any], program: str, form: str) -> None:
    """Hard ones: quotes, commas and line ends, halves of surrogate pairs, a formula of spreadsheets, unknown values."""
    assert seen[program][form] == EXPECTED


def test_every_decision_is_read(store: Store, tmp_path: Path) -> None:
    expected = [dict(row) for row in decision_rows(store, the_run(store))]
    assert len(expected) == 2
    for program, tables in read(store, tmp_path, "decisions").items():
        for form, rows in tables.items():
            assert rows == expected, (program, form)
