"""The demo, small: the same code as the real one, on a few puzzles of the embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("transformers", reason="needs the extra [local]")

from samplewise.demo import BASELINE, ROWS, demo
from samplewise.store import Store


def test_the_demo_compares_every_row_and_pays_once(tmp_path: Path) -> None:
    console = Console(record=True, width=160)
    first = demo(tmp_path, 5, 6, 0, console)
    with Store(tmp_path / "demo.db") as store:
        paid = store.num_draws()
    again = demo(tmp_path, 5, 6, 0, console)
    with Store(tmp_path / "demo.db") as store:
        assert store.num_draws() == paid, "a second demo draws nothing"
    # Five pools and one greedy answer a puzzle. Rows that draw alike share; so do the ladder's direct draws, 0 and 5,
    # and the first of the permuted ones: of one puzzle, which has but three other orders, the fifth too.
    assert paid == 5 * (5 * 6 + 1 - 3) - 1
    assert first["demo"] == again["demo"]
    methods = first["demo"]["methods"]
    assert [m["name"] for m in methods] == [row.name for row in ROWS]
    assert all(m["tokens"] <= first["demo"]["tokens"] + 1e-9 for m in methods)
    assert next(m for m in methods if m["name"] == BASELINE)["difference"] is None
    by_checker = {m["name"]: m for m in methods if m["name"].endswith("by checker")}
    assert all(m["accuracy"] == pytest.approx(m["coverage"]) for m in by_checker.values()), "the checker is exact"
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert "best by checker" in console.export_text()


def test_another_seed_draws_others(tmp_path: Path) -> None:
    console = Console(quiet=True)
    demo(tmp_path, 2, 2, 0, console)
    with Store(tmp_path / "demo.db") as store:
        before = store.num_draws()
    demo(tmp_path, 2, 2, 1, console)
    with Store(tmp_path / "demo.db") as store:
        assert store.num_draws() == 2 * before
