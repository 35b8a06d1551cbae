"""The command `merge`: the stores of several processes as one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from samplewise.core.checks import check_choice
from samplewise.core.errors import UsageError

from .app import AsJson, app, out, print_json, say


@app.command()
def merge(
    stores: Annotated[list[Path], typer.Argument(help="The stores to merge, such as those of a run's shards")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The merged store; one that exists is added to")
    ] = None,
    on_conflict: Annotated[
        str, typer.Option("--on-conflict", help="stop: write nothing; first: keep what the store named first holds")
    ] = "stop",
    as_json: AsJson = False,
) -> None:
    """Merge stores into one. What two of them hold differently is an error, unless --on-conflict first."""
    from samplewise.store.merge import merge_stores

    if output is None:
        raise UsageError("give the store to write: samplewise merge a.db b.db -o all.db")
    try:
        check_choice("on-conflict", on_conflict, ("stop", "first"))
    except ValueError as error:
        raise UsageError(str(error)) from None
    merged = merge_stores(stores, output, on_conflict=on_conflict)  # type: ignore[arg-type]  # checked
    table = Table("run", "task", "recipe", "questions", box=None)
    for run in merged.runs:
        of = "" if run.num_questions is None else f" of {run.num_questions:,}"
        table.add_row(run.id, run.task, run.recipe, f"{run.num_done:,}{of}")
    out.print(table)
    for conflict in merged.conflicts:
        say(f"kept what came first: {conflict}")
    for note in merged.notes:
        say(note)
    rows, added = merged.rows, merged.added
    say(f"{output}: {rows['draws']:,} draws ({added['draws']:,} new), {rows['runs']:,} runs ({added['runs']:,} new)")
    if as_json:
        print_json(
            output=str(output),
            rows=rows,
            added=added,
            runs=[run._asdict() for run in merged.runs],
            conflicts=[conflict._asdict() for conflict in merged.conflicts],
            notes=list(merged.notes),
        )
