"""The commands that one begins with: `init`, which writes a small example, and `completion`, for the shell."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from samplewise.core.errors import UsageError

from . import completion as shell_completion
from .app import app, out, say
from .config import FILE

IN_PROCESS = ("local", "tiny")  # engines that need the extra
QUESTIONS = "questions.jsonl"
# Of the kind that the embedded model knows: the number that a response ends on is its answer.
PUZZLES = ((4, 6, 7, 8), (3, 5, 6, 10), (2, 4, 6, 11), (2, 4, 5, 10), (1, 6, 10, 12), (4, 4, 7, 7))
EXAMPLES = [
    {"id": "-".join(map(str, puzzle)), "question": f"make 24 from {' '.join(map(str, puzzle))}", "answer": 24}
    for puzzle in PUZZLES
]

SETTINGS = """\
# Settings of samplewise for this folder and those below it. Flags and SAMPLEWISE_... variables beat them.
engine = "{engine}"
recipe = "fast"
store = "samplewise.db"           # keeps every draw: the same command again costs nothing
# confirm_above_usd = 1.0         # a run that may cost more asks first

[engines]                         # names for --engine, and for helpers and judges in a recipe
# mine = 'http("MODEL", base_url="http://127.0.0.1:8000/v1")'

[presets]                         # names for --recipe; `samplewise serve` offers them too
fast = "repeat(8) | until(lead(3)) | vote"
careful = "repeat(32) | vote"

[prices]                          # USD per million tokens
# "MODEL" = {{ input = 0.1, cached = 0.05, output = 0.4 }}
"""


@app.command("init")
def write_example(
    folder: Annotated[Path, typer.Argument(help="Where the example goes")] = Path(),
    engine: Annotated[str, typer.Option("--engine", "-e", help="What is to answer")] = "tiny",
) -> None:
    """Write a small example: questions with answers, settings, and the command that runs them."""
    from samplewise.core import registry
    from samplewise.core.spec import parse_spec

    spec = parse_spec(engine)
    registry.factory("engine", spec.name, engine, spec.column)
    settings = SETTINGS.format(engine=engine.replace("\\", "\\\\").replace('"', '\\"'))
    rows = "".join(json.dumps(row) + "\n" for row in EXAMPLES)
    files = {folder / FILE: settings, folder / QUESTIONS: rows}
    for path in files:
        if path.exists():
            raise UsageError(f"{path} is there already; name another folder: samplewise init FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in files.items():
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error
    for path in files:
        say(f"wrote {path}")
    if spec.name in IN_PROCESS and importlib.util.find_spec("torch") is None:
        say(f"{spec.name} runs in this process, which takes an extra: pip install 'samplewise[local]'")
        say('or give your endpoint: samplewise init FOLDER --engine \'http("MODEL", base_url="...")\'')
    inside = "" if folder == Path() else f"cd {folder} && "
    out.print(f"next: {inside}samplewise run {QUESTIONS}", highlight=False)


@app.command("completion")
def print_completion(
    shell: Annotated[
        str | None,
        typer.Argument(help="bash, zsh or fish; yours", autocompletion=lambda: [*shell_completion.SHELLS]),
    ] = None,
) -> None:
    """Print the script that completes commands, options and names in a shell."""
    from samplewise.core.errors import UnknownName

    if shell is None:
        shell = Path(os.environ.get("SHELL", "")).name
        if shell not in shell_completion.SHELLS:
            raise UsageError(f"name a shell: samplewise completion {', '.join(shell_completion.SHELLS)}")
    if shell not in shell_completion.SHELLS:
        raise UnknownName("shell", shell, shell_completion.SHELLS)
    if is_shown():
        file = shell_completion.FILES[shell]
        print(f"samplewise: {shell} reads it from a file: samplewise completion {shell} > {file}", file=sys.stderr)
    print(shell_completion.script_of(shell))


def is_shown() -> bool:
    """Return whether standard output is read by a person, and kept nowhere."""
    return sys.stdout.isatty()
