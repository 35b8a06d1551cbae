"""Every command and every block of Python on a page of docs/ and in the README is run, in order, in one folder a page.

A fenced `console` block holds commands after "$ "; a `python` block is executed. Blocks of other languages are for
reading. A page's later commands may use what its earlier ones made. Each step has a process of its own, forked from
one that has imported the package (shell.py).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra [local]")

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = ("make ", "pip ", "git ", "cd ", "python -m venv")  # set-up, which the tests' own environment has behind it

RunStep = Callable[[list[str], Path], tuple[int, str]]


def _steps(page: Path) -> list[list[str]]:
    steps = []
    for language, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
            steps += [["bash", command] for command in commands if not command.startswith(ELSEWHERE)]
        elif language == "python":
            steps.append(["python", body])
    return steps


@pytest.fixture(scope="module")
def run_step(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunStep]:
    """Runs a step in a folder; returns its exit code and its output."""
    log = tmp_path_factory.mktemp("steps") / "log"
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": str(ROOT / "src"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(Path(__file__).with_name("shell.py"))]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdin is not None
        assert shell.stdout is not None

        def run(step: list[str], folder: Path) -> tuple[int, str]:
            shell.stdin.write(json.dumps([step, str(folder), str(log)]) + "\n")
            shell.stdin.flush()
            return int(shell.stdout.readline()), log.read_text(encoding="utf-8")

        yield run
        shell.stdin.close()


@pytest.mark.parametrize("page", [page for page in PAGES if _steps(page)], ids=lambda page: page.stem)
def test_commands_of_a_page_run(page: Path, tmp_path: Path, run_step: RunStep) -> None:
    for step in _steps(page):
        code, output = run_step(step, tmp_path)
        assert code == 0, f"{page.name}: {step[-1]}\n{output}"


def test_a_broken_command_would_be_seen(tmp_path: Path, run_step: RunStep) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ samplewise nonsense\n$ false | false\n```\n```python\nassert False\n```\n")
    assert len(_steps(page)) == 3
    for step in _steps(page):
        assert run_step(step, tmp_path)[0] != 0
