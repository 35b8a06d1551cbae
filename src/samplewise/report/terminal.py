"""Print a report in the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from samplewise.report import format as fmt
from samplewise.report.data import MethodRow, Report
from samplewise.report.explored import describe_exploration

WIDE = 150  # columns from which recipes fit into the table
COLUMNS = ("recipe", "draws", "tokens", "accuracy", "coverage", "difference", "p")
# The console width from which a column is shown; the others always are.
SHOWN_FROM = {"recipe": WIDE, "p": 120, "tokens": 120, "coverage": 92, "difference": 66, "draws": 48}


def print_report(report: Report, console: Console) -> None:
    """Print title, reading, table, notes and facts. In a narrow terminal the recipes stand beneath the table."""
    console.print(Text(fmt.one_line(report.title), "bold"))
    console.print(Text(fmt.one_line(fmt.reading(report))))
    console.print()
    if report.methods:
        console.print(_methods_table(report, console.width))
        console.print()
        if console.width < WIDE:
            console.print(_pairs([(row.name, row.recipe) for row in report.methods], "recipes"))
    for summary in report.explored:
        console.print(Text(fmt.one_line(summary.recipe), "bold"))
        for line in describe_exploration(summary):
            console.print(Text(f"  {fmt.one_line(line)}"))
        console.print()
    notes = (*report.cost_notes, *report.basis_notes, *report.choices, *report.notes)
    for note in notes:
        console.print(Text.assemble(("note: ", "yellow"), fmt.one_line(note)))
    if notes:
        console.print()
    if report.facts:
        console.print(_pairs(list(report.facts.items())))


def _methods_table(report: Report, width: int) -> Table:
    """Return the methods in the columns that `width` has room for. The best accuracy is bold."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("method", overflow="fold", min_width=16)
    shown = [name for name in COLUMNS if width >= SHOWN_FROM.get(name, 0)]
    for name in shown:
        is_text = name == "recipe"
        table.add_column(name, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
    for row in report.methods:
        cells = _cells(row, report)
        table.add_row(cells["method"], *(cells[name] for name in shown))
    return table


def _cells(row: MethodRow, report: Report) -> dict[str, Text]:
    name = Text(fmt.one_line(row.name))
    if row.name == report.baseline:
        name.append(" (baseline)", "dim")
    unscored = f" ({row.accuracy.num_unscored} unscored)" if row.accuracy.num_unscored else ""
    unscored += f" ({len(row.short)} with fewer draws)" if row.short else ""
    return {
        "method": name,
        "recipe": Text(fmt.one_line(row.recipe), "dim"),
        "draws": Text(str(row.num_draws)),
        "tokens": Text(fmt.tokens(row.tokens)),
        "accuracy": Text(fmt.estimate(row.accuracy) + unscored, "bold" if row.name in fmt.best_methods(report) else ""),
        "coverage": Text(fmt.rate(row.coverage.value)),
        "difference": Text(fmt.estimate(row.difference, signed=True), "" if fmt.is_significant(row) else "dim"),
        "p": Text(fmt.p_value(row.p_value)),
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
