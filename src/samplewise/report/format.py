"""How numbers read, the same in every writer: rates as decimals with three digits, unknown as a dash, never as 0."""

from __future__ import annotations

import json
import math

from samplewise.measure import Estimate
from samplewise.report.data import Method, Report
from samplewise.types import Json

UNKNOWN = "–"
SIGNIFICANT = 0.05


def rate(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.3f}"


def estimate(e: Estimate | None, *, signed: bool = False) -> str:
    """`0.412 [0.36, 0.47]`. Ends get a third digit where two would hide the value, or on which side of 0 they lie."""
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
    """Mean tokens: `23.4`, `1,024`."""
    if math.isnan(value):
        return UNKNOWN
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.1f}"


def seconds(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def p_value(value: float) -> str:
    return UNKNOWN if math.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def reference(value: Json) -> str:
    """A reference answer for people: text as it stands, other JSON as JSON; empty where there is none."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def one_line(text: str) -> str:
    """Text without line breaks and control characters (a terminal would obey an escape sequence)."""
    return "".join(c if c.isprintable() else " " for c in text).strip()


def best(report: Report) -> frozenset[str]:
    """Names of the methods with the highest accuracy; empty where none is known."""
    known = [m.accuracy.value for m in report.methods if not math.isnan(m.accuracy.value)]
    return frozenset(m.name for m in report.methods if known and m.accuracy.value == max(known))


def is_significant(method: Method) -> bool:
    """Whether both the interval and the test, where there is one, tell this method from the baseline."""
    return _interval_tells(method) and not method.p_value >= SIGNIFICANT


def reading(report: Report) -> str:
    """The result in one sentence."""
    leaders = [m for m in report.methods if m.name in best(report)]
    if not report.methods:
        return "No methods were compared."
    if not leaders:
        return "No accuracy is known: no chosen answer could be graded."
    budget = "" if math.isnan(report.tokens) else f"At {tokens(report.tokens)} tokens per problem, "
    first = leaders[0]
    accuracy = f"accuracy {estimate(first.accuracy)}"
    if any(m.name == report.baseline for m in leaders):
        others = [m.name for m in leaders if m.name != report.baseline]
        tied = f"; {_and(others)} {'reaches' if len(others) == 1 else 'reach'} the same" if others else ""
        return _sentence(f"{budget}no method answers better than the baseline, {report.baseline}: {accuracy}{tied}.")
    names = _and([m.name for m in leaders])
    verb = "answers" if len(leaders) == 1 else "answer"
    if first.difference is None or math.isnan(first.difference.value):
        return _sentence(f"{budget}{names} {verb} best: {accuracy}.")
    p = "" if math.isnan(first.p_value) else f", p {_equals(p_value(first.p_value))}"
    told = ". That is not enough to tell the two apart"
    if is_significant(first):
        told = ""
    elif _interval_tells(first) or first.p_value < SIGNIFICANT:
        told = ". Interval and test disagree: it is undecided"
    difference = estimate(first.difference, signed=True)
    return _sentence(f"{budget}{names} {verb} best: {accuracy}, {difference} against {report.baseline}{p}{told}.")


def _interval_tells(method: Method) -> bool:
    d = method.difference
    return d is not None and (d.low > 0 or d.high < 0)


def _equals(p: str) -> str:
    return f"{p[0]} {p[1:]}" if p.startswith("<") else f"= {p}"


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
