"""A report as GitHub Markdown: the reading, the table, the notes, the facts."""

from __future__ import annotations

import re

from samplewise.report import format as fmt
from samplewise.report.data import Method, Report
from samplewise.report.explored import in_words

HEAD = ("method", "recipe", "samples", "tokens", "accuracy", "coverage", "difference", "p")


def markdown(report: Report) -> str:
    """The report without its curves and samples. The best accuracy is bold."""
    facts = {k: v for k, v in report.facts.items() if k != "command"}
    parts = [f"## {_text(report.title)}", _text(fmt.reading(report))]
    if report.methods:
        rows = [HEAD, ("---", "---", *["---:"] * 6), *(_row(m, report) for m in report.methods)]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    if report.explored:
        said = [f"- {_code(each.recipe)}: {_text('. '.join(in_words(each)))}" for each in report.explored]
        parts.append("\n".join(said))
    if report.notes:
        parts.append("\n".join(f"- {_text(note)}" for note in report.notes))
    if facts:
        parts.append("\n".join(f"- {_text(k)}: {_text(v)}" for k, v in facts.items()))
    if "command" in report.facts:
        parts.append(_fence(report.facts["command"]))
    return "\n\n".join(parts) + "\n"


def _row(m: Method, report: Report) -> tuple[str, ...]:
    accuracy = fmt.estimate(m.accuracy)
    baseline = m.name == report.baseline
    return (
        _text(m.name) + (" (baseline)" if baseline else ""),
        _code(m.recipe),
        str(m.samples),
        fmt.tokens(m.tokens),
        f"**{accuracy}**" if m.name in fmt.best(report) else accuracy,
        fmt.estimate(m.coverage),
        fmt.estimate(m.difference, signed=True),
        fmt.p_value(m.p_value),
    )


def _text(text: str) -> str:
    return re.sub(r"([\\`*_<>|~#&]|\](?=[(\[:]))", r"\\\1", fmt.one_line(text))


def _code(text: str) -> str:
    """A code span in a table cell: longer fences than the text has, and a bar escaped, which only tables need."""
    text = fmt.one_line(text)
    if not text:
        return ""
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}".replace("|", "\\|")


def _fence(text: str) -> str:
    ticks = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{ticks}\n{text}\n{ticks}"
