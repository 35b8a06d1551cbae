"""Render a report as GitHub Markdown: the reading, the table, the notes, the facts."""

from __future__ import annotations

import re

from samplewise.report import format as fmt
from samplewise.report.data import MethodRow, Report
from samplewise.report.explored import describe_exploration

HEAD = ("method", "recipe", "draws", "tokens", "accuracy", "coverage", "difference", "p")


def render_markdown(report: Report) -> str:
    """Return the report without its curves and draws. The best accuracy is bold."""
    facts = {name: text for name, text in report.facts.items() if name != "command"}
    parts = [f"## {_text(report.title)}", _text(fmt.reading(report))]
    if report.methods:
        rows = [HEAD, ("---", "---", *["---:"] * 6), *(_row(row, report) for row in report.methods)]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    if report.explored:
        lines = [f"- {_code(s.recipe)}: {_text('. '.join(describe_exploration(s)))}" for s in report.explored]
        parts.append("\n".join(lines))
    if notes := (*report.cost_notes, *report.basis_notes, *report.choices, *report.notes):
        parts.append("\n".join(f"- {_text(note)}" for note in notes))
    if facts:
        parts.append("\n".join(f"- {_text(name)}: {_text(text)}" for name, text in facts.items()))
    if "command" in report.facts:
        parts.append(_fence(report.facts["command"]))
    return "\n\n".join(parts) + "\n"


def _row(row: MethodRow, report: Report) -> tuple[str, ...]:
    accuracy = fmt.estimate(row.accuracy)
    return (
        _text(row.name) + (" (baseline)" if row.name == report.baseline else ""),
        _code(row.recipe),
        str(row.num_draws),
        fmt.cost(row),
        f"**{accuracy}**" if row.name in fmt.best_methods(report) else accuracy,
        fmt.estimate(row.coverage),
        fmt.estimate(row.difference, signed=True),
        fmt.p_value(row.p_value),
    )


def _text(text: str) -> str:
    return re.sub(r"([\\`*_<>|~#&]|\](?=[(\[:]))", r"\\\1", fmt.one_line(text))


def _code(text: str) -> str:
    """Return a code span for a table cell: fences longer than any in the text, bars escaped, which only tables need."""
    text = fmt.one_line(text)
    if not text:
        return ""
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}".replace("|", "\\|")


def _fence(text: str) -> str:
    ticks = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{ticks}\n{text}\n{ticks}"
