"""The command `export`: a stored run as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from samplewise.core.checks import check_choice
from samplewise.core.errors import UsageError

from .app import DEFAULT_STORE, AsJson, StorePath, app, print_json, say
from .stored import find_runs, say_partial


@app.command()
def export(
    run: Annotated[str | None, typer.Argument(help="A run's id; default: the last one that was begun")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write")] = None,
    form: Annotated[
        str | None,
        typer.Option("--format", help="csv, jsonl, parquet, inspect, eval or lm_eval; default: as the file is called"),
    ] = None,
    table: Annotated[
        str, typer.Option("--table", help="draws: one row a draw; decisions: one row a question and selector")
    ] = "draws",
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Export a stored run: its draws or its decisions as a table, or all of it as the log of a harness."""
    from samplewise.runs.export import export_run, format_of
    from samplewise.store.database import Store

    if output is None:
        raise UsageError("give the file to write: -o draws.csv")
    try:
        check_choice("table", table, ("draws", "decisions"))
    except ValueError as error:
        raise UsageError(str(error)) from None
    chosen = format_of(output, form)
    if table == "decisions" and chosen in ("inspect", "eval", "lm_eval"):
        raise UsageError(
            f"--table decisions is a table: csv, jsonl or parquet; {chosen} holds draws, with their grades"
        )
    with Store(store, must_exist=True) as kept:
        stored = find_runs(kept, run)[-1]
        say_partial(kept, stored)
        num = export_run(kept, stored, output, chosen, table)  # type: ignore[arg-type]  # checked
    say(f"{output}: {num} {'samples' if chosen in ('inspect', 'eval') else 'rows'} of run {stored.id}")
    if as_json:
        print_json(run=stored.id, output=str(output), format=chosen, rows=num)
