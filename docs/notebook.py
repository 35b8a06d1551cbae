"""Run docs/tutorial.ipynb and write docs/tutorial.md, the page that the site shows of it.

python docs/notebook.py            run every cell, put what came out into the notebook, and write the page (`make docs`)
python docs/notebook.py --run      run every cell and change no file: what the tests do

Cells are plain Python. A line that begins with "!" is a command of the shell, as in Jupyter. The value of a cell's last
expression is shown.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NOTEBOOK, PAGE = Path(__file__).with_name("tutorial.ipynb"), Path(__file__).with_name("tutorial.md")


def read_notebook() -> dict[str, Any]:
    """Return the notebook."""
    return dict(json.loads(NOTEBOOK.read_text(encoding="utf-8")))


def run_cell(source: str, names: dict[str, Any]) -> str:
    """Run a cell with the names of those before it; return what it prints and shows. Raises what it raises."""
    commands = [line[1:].strip() for line in source.splitlines() if line.startswith("!")]
    if commands:
        return "".join(map(_run_command, commands))
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        value = None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    return printed.getvalue() + ("" if value is None else f"{value!r}\n")


def _run_command(command: str) -> str:
    folders = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": folders, "COLUMNS": "120"}
    done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def run_notebook(notebook: dict[str, Any]) -> None:
    """Run every cell in an empty folder, and put what came out into it. Raises what a cell raises."""
    names: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                number += 1
                text = run_cell("".join(cell["source"]), names)
                cell["execution_count"] = number
                lines = text.splitlines(keepends=True)
                cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []


def page_of(notebook: dict[str, Any]) -> str:
    """Return the notebook as a page: texts as they are, code and what came out as blocks."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```{'shell' if source.startswith('!') else 'py'}\n{source}\n```")
        parts += [f"```text\n{''.join(output['text']).rstrip()}\n```" for output in cell["outputs"]]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run the notebook; write it and its page, unless they are only to be checked."""
    notebook = read_notebook()
    run_notebook(notebook)
    if "--run" not in sys.argv:
        NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(page_of(notebook), encoding="utf-8")


if __name__ == "__main__":
    main()
