"""A report in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from samplewise.report import format as fmt
from samplewise.report.data import Method, Report

WIDE = 140  # columns from which recipes fit into the table


def table(report: Report, *, recipes: bool = True) -> Table:
    """The methods at equal tokens; the best accuracy is bold, the baseline says so."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("method", overflow="fold")
    if recipes:
        grid.add_column("recipe", overflow="fold")
    for name in ("samples", "tokens", "accuracy", "coverage", "difference", "p"):
        grid.add_column(name, justify="right", no_wrap=True)
    for m in report.methods:
        grid.add_row(*_row(m, report, recipes))
    return grid


def print_report(report: Report, console: Console) -> None:
    """Title, reading, table, notes, facts. Below 140 columns the recipes stand beneath the table."""
    wide = console.width >= WIDE
    console.print(Text(fmt.one_line(report.title), "bold"))
    console.print(Text(fmt.one_line(fmt.reading(report))))
    console.print()
    if report.methods:
        console.print(table(report, recipes=wide))
        console.print()
        if not wide:
            console.print(_pairs([(m.name, m.recipe) for m in report.methods], "recipes"))
    for note in report.notes:
        console.print(Text.assemble(("note: ", "yellow"), fmt.one_line(note)))
    if report.notes:
        console.print()
    if report.facts:
        console.print(_pairs(list(report.facts.items())))


def _row(m: Method, report: Report, recipes: bool) -> list[Text]:
    name = Text(fmt.one_line(m.name))
    if m.name == report.baseline:
        name.append(" (baseline)", "dim")
    unscored = f" ({m.accuracy.num_unscored} unscored)" if m.accuracy.num_unscored else ""
    return [
        name,
        *([Text(fmt.one_line(m.recipe), "dim")] if recipes else []),
        Text(str(m.samples)),
        Text(fmt.tokens(m.tokens)),
        Text(fmt.estimate(m.accuracy) + unscored, "bold" if m.name in fmt.best(report) else ""),
        Text(fmt.rate(m.coverage.value)),
        Text(fmt.estimate(m.difference, signed=True), "" if fmt.is_significant(m) else "dim"),
        Text(fmt.p_value(m.p_value)),
    ]


def _pairs(pairs: list[tuple[str, str]], title: str = "") -> Padding:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(overflow="fold", max_width=36)
    grid.add_column(overflow="fold")
    if title:
        grid.add_row(Text(title, "bold"))
    for name, text in pairs:
        grid.add_row(Text(fmt.one_line(name)), Text(fmt.one_line(text), "dim"))
    return Padding(grid, (0, 0, 1, 0))
