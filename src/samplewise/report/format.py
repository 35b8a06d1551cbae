"""Format numbers alike in every writer: rates with three decimals, unknown as a dash and never as 0."""

from __future__ import annotations

import json
import math
import re

from samplewise.core.types import Json
from samplewise.measure import Estimate
from samplewise.report.data import MethodRow, Report

UNKNOWN = "–"
SIGNIFICANT = 0.05


def rate(value: float) -> str:
    """Format a rate: `0.412`."""
    return UNKNOWN if math.isnan(value) else f"{value:.3f}"


def estimate(e: Estimate | None, *, signed: bool = False) -> str:
    """Format an estimate: `0.412 [0.36, 0.47]`.

    The ends get a third digit where two would put the value outside, or hide on which side of 0 they lie.
    """
    if e is None or math.isnan(e.value):
        return UNKNOWN
    sign = "+" if signed else ""
    value = f"{e.value:{sign}.3f}"
    if math.isnan(e.low) or math.isnan(e.high):
        return value
    low, high = round(e.low, 2), round(e.high, 2)
    hidden = signed and ((low == 0) != (e.low == 0) or (high == 0) != (e.high == 0))
    digits = 2 if low <= e.value <= high and not hidden else 3
    return f"{value} [{e.low:{sign}.{digits}f}, {e.high:{sign}.{digits}f}]"


def tokens(value: float) -> str:
    """Format mean tokens: `23.4`, `1,024`."""
    if math.isnan(value):
        return UNKNOWN
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.1f}"


def cost(row: MethodRow) -> str:
    """Format what a method costs, with the part that comes before the first draw: `818 (703 before the first draw)`."""
    helpers = 0.0 if row.parts is None else row.parts.helpers
    return tokens(row.tokens) + (f" ({tokens(helpers)} before the first draw)" if helpers else "")


def seconds(value: float) -> str:
    """Format seconds with three digits: `2.5`, `1,234`."""
    return UNKNOWN if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def p_value(value: float) -> str:
    """Format a p-value: `0.031`, `<0.001`."""
    return UNKNOWN if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def reference(value: Json) -> str:
    """Format a reference answer: text as it is, other JSON as JSON, "" where there is none."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def one_line(text: str) -> str:
    """Replace line breaks and control characters with spaces: a terminal would obey an escape sequence."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def best_methods(report: Report) -> frozenset[str]:
    """Return the names of the methods with the highest accuracy, of those that are compared; none where no accuracy is
    known."""
    rows = [row for row in report.methods if row.compared_at != "draws end"]
    known = [row.accuracy.value for row in rows if not math.isnan(row.accuracy.value)]
    return frozenset(row.name for row in rows if known and row.accuracy.value == max(known))


def is_significant(row: MethodRow) -> bool:
    """Return whether both the interval and the test, where there is one, tell a method from the baseline."""
    return _interval_excludes_zero(row) and not row.p_value >= SIGNIFICANT


def reading(report: Report) -> str:
    """Return the result in one sentence."""
    if not report.methods:
        return "No methods were compared."
    leaders = [row for row in report.methods if row.name in best_methods(report)]
    ended = [row for row in report.methods if row.ends]
    if ended and sum(row.compared_at != "draws end" for row in report.methods) < 2:
        ends = [f"those of {row.name} end at {tokens(row.tokens)}" for row in ended]
        return f"At {tokens(report.tokens)} tokens per problem the draws do not suffice to compare: {_and(ends)}."
    if not leaders:
        return "No accuracy is known: no chosen answer could be graded."
    first = leaders[0]
    budget = _budget(report, leaders)
    accuracy = f"accuracy {estimate(first.accuracy)}"
    if any(row.name == report.baseline for row in leaders):
        others = [row.name for row in leaders if row.name != report.baseline]
        tied = f"; {_and(others)} {'reaches' if len(others) == 1 else 'reach'} the same" if others else ""
        return _sentence(f"{budget}no method answers better than the baseline, {report.baseline}: {accuracy}{tied}.")
    names = _and([row.name for row in leaders])
    verb = "answers" if len(leaders) == 1 else "answer"
    if first.difference is None or math.isnan(first.difference.value):
        return _sentence(f"{budget}{names} {verb} best: {accuracy}.")
    p = "" if math.isnan(first.p_value) else f", p {_equals(p_value(first.p_value))}"
    doubt = ". That is not enough to tell the two apart"
    if is_significant(first):
        doubt = ""
    elif _interval_excludes_zero(first) or first.p_value < SIGNIFICANT:
        doubt = ". Interval and test disagree: it is undecided"
    difference = estimate(first.difference, signed=True)
    return _sentence(f"{budget}{names} {verb} best: {accuracy}, {difference} against {report.baseline}{p}{doubt}.")


def _budget(report: Report, leaders: list[MethodRow]) -> str:
    """Say what the leaders were compared at; "" where every method stands at its own cost."""
    if math.isnan(report.tokens):
        return ""
    costly = [row for row in leaders if row.compared_at == "own cost"]
    if costly:
        return f"At {tokens(costly[0].tokens)} tokens per problem, others at {tokens(report.tokens)}, "
    return f"At {tokens(report.tokens)} tokens per problem, "


def _interval_excludes_zero(row: MethodRow) -> bool:
    d = row.difference
    return d is not None and (d.low > 0 or d.high < 0)


def _equals(p: str) -> str:
    return f"{p[0]} {p[1:]}" if p.startswith("<") else f"= {p}"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(text: str) -> str:
    """Begin with a capital letter, but for a recipe."""
    return text if re.match(r"\w+\(", text) else text[:1].upper() + text[1:]
