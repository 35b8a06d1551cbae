"""The commands `store check`, `store vacuum` and `store stats`: looking after a store's file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from .app import AsJson, app, out, print_json, say

group = typer.Typer(help="Look after a store: check it, shrink it, measure it.", no_args_is_help=True)
app.add_typer(group, name="store")

File = Annotated[Path, typer.Argument(help="The store's file")]
UNITS = ("B", "kB", "MB", "GB", "TB")


@group.command()
def check(file: File, as_json: AsJson = False) -> None:
    """Check that a store is whole: the file itself, and that its rows fit together. Exit code 1 where they do not."""
    from samplewise.store.upkeep import check_store

    health = check_store(file)
    for problem in health.problems:
        out.print(f"wrong: {problem}", highlight=False)
    for note in health.notes:
        say(f"note: {note}")
    verdict = f"{len(health.problems)} kinds of problems" if health.problems else "whole"
    say(f"{file}: {health.num_draws:,} draws, {health.num_runs:,} runs: {verdict}")
    if as_json:
        print_json(
            ok=not health.problems,
            draws=health.num_draws,
            runs=health.num_runs,
            problems=[problem._asdict() for problem in health.problems],
            notes=[note._asdict() for note in health.notes],
        )
    if health.problems:
        raise typer.Exit(1)


@group.command()
def vacuum(
    file: File,
    pack: Annotated[bool, typer.Option("--pack", help="Pack texts too: a third of the size, read as before")] = False,
    as_json: AsJson = False,
) -> None:
    """Give back the space of what was deleted from a store. Needs as much space again while it works."""
    from samplewise.store.upkeep import vacuum_store

    before, after = vacuum_store(file, pack=pack)
    say(f"{file}: {in_units(before)} before, {in_units(after)} now")
    if as_json:
        print_json(before=before, after=after)


@group.command()
def stats(file: File, as_json: AsJson = False) -> None:
    """Show how many rows and bytes a store holds, by table, engine and run."""
    from samplewise.store.upkeep import measure_store

    size = measure_store(file)
    for heading, rows in (("table", size.tables), ("draws of engine", size.engines), ("records of run", size.runs)):
        table = Table(heading, "rows", "bytes", box=None)
        for column in table.columns[1:]:
            column.justify = "right"
        for name, (num, num_bytes) in rows.items():
            table.add_row(name, f"{num:,}", in_units(num_bytes))
        if rows:
            out.print(table)
    say(f"{file}: {in_units(size.file_bytes)} on disk, {in_units(size.free_bytes)} of them free (store vacuum)")
    if as_json:
        tables, engines, runs = (
            {name: {"rows": num, "bytes": num_bytes} for name, (num, num_bytes) in rows.items()}
            for rows in (size.tables, size.engines, size.runs)
        )
        print_json(file=size.file_bytes, free=size.free_bytes, tables=tables, engines=engines, runs=runs)


def in_units(num_bytes: float) -> str:
    """Return a number of bytes with three digits and a unit, in powers of 1,000."""
    for unit in UNITS[:-1]:
        if num_bytes < 999.5:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1_000
    return f"{num_bytes:,.3g} {UNITS[-1]}"
