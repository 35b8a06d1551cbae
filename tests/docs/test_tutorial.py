"""The tutorial's notebook runs, and its page is what the notebook says."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "notebook.py"
TIMEOUT_S = 600


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_notebook", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_the_notebooks(script: ModuleType) -> None:
    notebook = script.read_notebook()
    assert script.PAGE.read_text(encoding="utf-8") == script.page_of(notebook), "make docs"
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "make docs"
    assert all(cell["outputs"] for cell in cells)


def test_a_cell_prints_shows_its_last_value_and_knows_the_cells_before(script: ModuleType) -> None:
    names: dict[str, object] = {}
    assert script.run_cell("x = 2\nprint(x)\nx + 1", names) == "2\n3\n"
    assert script.run_cell("x", names) == "2\n"
    assert script.run_cell("y = x", names) == ""
    assert script.run_cell("!echo one\n!echo two  ", names) == "one\ntwo\n"
    with pytest.raises(RuntimeError, match="false ended with 1"):
        script.run_cell("!false", names)
    with pytest.raises(ZeroDivisionError):
        script.run_cell("1 / 0", names)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra [local]")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment |= {"HF_HUB_OFFLINE": "1", "SAMPLEWISE_CONFIG": "none"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--run"], capture_output=True, text=True, env=environment, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr[-3000:]
