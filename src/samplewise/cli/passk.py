"""The command `passk`: pass@k and maj@k of a stored run."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from .app import DEFAULT_STORE, AsJson, StorePath, app, out, print_json, say
from .stored import find_runs, say_partial


@app.command()
def passk(
    run: Annotated[str | None, typer.Argument(help="A run's id; default: the last one that was begun")] = None,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Show pass@k and maj@k of a stored run for k = 1, 2, 4 ..., with 95 % intervals over questions."""
    from samplewise.runs.passk import pass_table
    from samplewise.store.database import Store

    with Store(store, must_exist=True) as kept:
        stored = find_runs(kept, run)[-1]
        say_partial(kept, stored)
        measured = pass_table(kept, stored)
    table = Table("k", "pass@k", "maj@k", "questions", box=None)
    for row in measured.rows:
        table.add_row(f"{row.k}", *(_shown(each) for each in (row.pass_at, row.majority_at)), f"{row.num_questions}")
    out.print(table)
    for note in measured.notes:
        say(note)
    if as_json:
        rows = [
            {"k": row.k, "pass": list(row.pass_at[:3]), "majority": list(row.majority_at[:3])}
            | {"questions": row.num_questions}
            for row in measured.rows
        ]
        print_json(run=measured.run, rows=rows, notes=list(measured.notes))


def _shown(estimate: tuple[float, ...]) -> str:
    value, low, high = estimate[:3]
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
