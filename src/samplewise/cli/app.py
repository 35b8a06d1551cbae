"""What every command shares: the options, the console, and how a result or a mistake is said."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from samplewise.errors import UsageError
from samplewise.types import Json

app = typer.Typer(
    name="samplewise",
    help="Many samples, one good answer, as few tokens as possible.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console()
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 120  # into a file or a pipe: room for the tables

Engine = Annotated[
    str,
    typer.Option("--engine", "-e", help="What draws: tiny, local:PATH_OR_NAME, toy ...", envvar="SAMPLEWISE_ENGINE"),
]
Recipe = Annotated[str, typer.Option("--recipe", "-r", help="One line: repeat(16) | vote")]
Recipes = Annotated[list[str], typer.Option("--recipe", "-r", help="A line to compare; give several")]
StorePath = Annotated[
    Path, typer.Option("--store", help="The SQLite file that keeps every draw", envvar="SAMPLEWISE_STORE")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same run")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object as the last line")]
MaxRequests = Annotated[int | None, typer.Option("--max-requests", min=0, help="At most so many requests, in all")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=0, help="At most so many tokens, prompt and completion, in all")
]
MaxUsd = Annotated[float | None, typer.Option("--max-usd", min=0.0, help="At most so much money, in all")]
MaxSeconds = Annotated[float | None, typer.Option("--max-seconds", min=0.0, help="At most so long for each question")]


def _sandbox(value: str | None) -> str | None:
    if value is not None:
        from samplewise.verify.sandbox import use

        use(value)  # type: ignore[arg-type]  # a wrong word is a UsageError
    return value


Sandbox = Annotated[
    str | None,
    typer.Option(
        "--sandbox", callback=_sandbox, help="Where programs are graded: bubblewrap; none gives them your own rights"
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write an HTML report here")]

DEFAULT_STORE = Path("samplewise.db")


def write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    say(f"report: {path}")


def say(text: str) -> None:
    out.print(text, style="dim", markup=False, highlight=False)


def print_json(**fields: Json) -> None:
    """The last line of standard output. Unknown numbers are null."""
    sys.stdout.flush()
    print(json.dumps(_known(fields), ensure_ascii=False), flush=True)


def _known(value: Json) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items()}
    return [_known(v) for v in value] if isinstance(value, list | tuple) else value


def fail(message: str, code: int) -> NoReturn:
    print(f"samplewise: {message}", file=sys.stderr)
    sys.exit(code)
