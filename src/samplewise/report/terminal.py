"""A report in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from samplewise.report import format as fmt
from samplewise.report.data import Method, Report
from samplewise.report.explored import in_words

WIDE = 150  # columns from which recipes fit into the table
# What is left out of a narrower table, from the width on that has room for it.
NEEDS = {"recipe": WIDE, "p": 120, "tokens": 120, "coverage": 92, "difference": 66, "samples": 48}


def table(report: Report, *, width: int = WIDE) -> Table:
    """The methods at equal tokens, in the columns that `width` has room for; the best accuracy is bold, the baseline
    says so."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("method", overflow="fold", min_width=16)
    columns = ("recipe", "samples", "tokens", "accuracy", "coverage", "difference", "p")
    shown = [name for name in columns if width >= NEEDS.get(name, 0)]
    for name in shown:
        text = name == "recipe"
        grid.add_column(name, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for m in report.methods:
        cells = _cells(m, report)
        grid.add_row(cells["method"], *(cells[name] for name in shown))
    return grid


def print_report(report: Report, console: Console) -> None:
    """Title, reading, table, notes, facts. In a narrow terminal the recipes stand beneath the table."""
    console.print(Text(fmt.one_line(report.title), "bold"))
    console.print(Text(fmt.one_line(fmt.reading(report))))
    console.print()
    if report.methods:
        console.print(table(report, width=console.width))
        console.print()
        if console.width < WIDE:
            console.print(_pairs([(m.name, m.recipe) for m in report.methods], "recipes"))
    for each in report.explored:
        console.print(Text(fmt.one_line(each.recipe), "bold"))
        for line in in_words(each):
            console.print(Text(f"  {fmt.one_line(line)}"))
        console.print()
    for note in report.notes:
        console.print(Text.assemble(("note: ", "yellow"), fmt.one_line(note)))
    if report.notes:
        console.print()
    if report.facts:
        console.print(_pairs(list(report.facts.items())))


def _cells(m: Method, report: Report) -> dict[str, Text]:
    name = Text(fmt.one_line(m.name))
    if m.name == report.baseline:
        name.append(" (baseline)", "dim")
    unscored = f" ({m.accuracy.num_unscored} unscored)" if m.accuracy.num_unscored else ""
    return {
        "method": name,
        "recipe": Text(fmt.one_line(m.recipe), "dim"),
        "samples": Text(str(m.samples)),
        "tokens": Text(fmt.tokens(m.tokens)),
        "accuracy": Text(fmt.estimate(m.accuracy) + unscored, "bold" if m.name in fmt.best(report) else ""),
        "coverage": Text(fmt.rate(m.coverage.value)),
        "difference": Text(fmt.estimate(m.difference, signed=True), "" if fmt.is_significant(m) else "dim"),
        "p": Text(fmt.p_value(m.p_value)),
    }


def _pairs(pairs: list[tuple[str, str]], title: str = "") -> Padding:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(overflow="fold", max_width=36)
    grid.add_column(overflow="fold")
    if title:
        grid.add_row(Text(title, "bold"))
    for name, text in pairs:
        grid.add_row(Text(fmt.one_line(name)), Text(fmt.one_line(text), "dim"))
    return Padding(grid, (0, 0, 1, 0))
