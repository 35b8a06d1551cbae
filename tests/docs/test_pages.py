"""Every command and every block of Python on a page of docs/ and in the README is run, in order, in one folder a page.

A fenced `console` block holds commands after "$ "; a `python` block is executed. Blocks of other languages are for
reading. A page's later commands may use what its earlier ones made.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), ROOT / "README.md"])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = ("make ", "pip ", "git ", "cd ", "python -m venv")  # set-up, which the tests' own environment has behind it


def _steps(page: Path) -> list[list[str]]:
    steps = []
    for language, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            commands = [line[2:] for line in body.splitlines() if line.startswith("$ ")]
            steps += [["bash", "-ec", command] for command in commands if not command.startswith(ELSEWHERE)]
        elif language == "python":
            steps.append([sys.executable, "-c", body])
    return steps


@pytest.mark.parametrize("page", [page for page in PAGES if _steps(page)], ids=lambda page: page.stem)
def test_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    here = Path(sys.executable).parent
    environment = {"PATH": f"{here}:/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    for step in _steps(page):
        done = subprocess.run(step, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{page.name}: {step[-1]}\n{done.stdout}\n{done.stderr}"


def test_a_broken_command_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ samplewise nonsense\n```\n```python\nassert False\n```\n")
    assert len(_steps(page)) == 2
    for step in _steps(page):
        assert subprocess.run(step, capture_output=True, timeout=60).returncode != 0
