"""The tables of the page as static HTML: readable, printable and testable without a script."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

from samplewise.measure import Estimate
from samplewise.report import format as fmt
from samplewise.report.data import Explored, Method, Report

BAR_WIDTH, BAR_HEIGHT, BAR_MARGIN = 190, 26, 8
NUM_COLOURS = 8  # in page.css; the 9th name starts over, dashed


# Columns of how groups explored, and what they are.
EXPLORED = {
    "Groups": "groups that ended; what follows is the mean over them",
    "Guided": "share of the tokens in which the policy had a say",
    "Effective temperature": "at which the plain law would have the entropy of the law drawn from; below 1 is sharper",
    "Entropy": "of the plain law and of the law drawn from, nats a token",
    "KL": "of the law drawn from against the plain one, nats a token",
    "Prediction error": "of the learner, relative, at a group's first and last token, which are different contexts",
    "Clipped": "share of the learner's steps whose gradient was cut",
    "Remembered": "draws in a group's memory at its end",
    "Log-prob": "of a whole sample under the model at temperature 1, and under the law that it was drawn from, nats",
}


class Axis(NamedTuple):
    """The common axis of the interval bars."""

    low: float
    high: float

    def x(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(BAR_MARGIN + share * (BAR_WIDTH - 2 * BAR_MARGIN), 1)


def names_in_order(report: Report) -> tuple[str, ...]:
    """Every name that gets a colour, the baseline apart (it is grey)."""
    names = dict.fromkeys([m.name for m in report.methods] + [s.name for s in report.series])
    return tuple(name for name in names if name != report.baseline)


def series_class(name: str, report: Report) -> str:
    """The colour of a name; `seriesClass` in page.js must agree."""
    names = names_in_order(report)
    if name not in names:
        return "c-base"
    at = names.index(name)
    return f"c{at % NUM_COLOURS}" + (" dashed" if at >= NUM_COLOURS else "")


def axis(report: Report) -> Axis:
    """From 0 to 1 in steps of 0.1, just wide enough for every interval and ceiling."""
    values = [x for m in report.methods for x in (*m.accuracy[:3], m.coverage.value) if not math.isnan(x)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low, high = max(0, math.floor(low * 10 + 1e-9)), min(10, math.ceil(high * 10 - 1e-9))
    if high <= low:
        low, high = max(0, high - 1), max(high, 1)
    return Axis(low / 10, high / 10)


def methods_table(report: Report) -> str:
    timed = any(not math.isnan(m.seconds) for m in report.methods)
    scale = axis(report)
    heads = [
        _head("Method", "text"),
        _head("Samples", title="draws per problem"),
        _head("Tokens", title="mean tokens per problem, prompt and completion, everything counted"),
        _head("Accuracy", title="of the chosen answer, with its 95 % interval"),
        f'<th scope="col" role="columnheader" class="bar">{_ticks(scale)}</th>',
        _head("Coverage", title="at least one right answer among the draws: the ceiling"),
        _head("Difference", title="accuracy less the baseline's, paired by problem, with its 95 % interval"),
        _head("p", title="that the difference is 0: paired t test over problems, Holm-adjusted"),
    ]
    if timed:
        heads.append(_head("Seconds", title="engine wall clock per problem"))
    rows = "\n".join(_row(m, report, scale, timed) for m in report.methods)
    return f"""<table class="methods" role="table">
<thead role="rowgroup"><tr role="row">{"".join(heads)}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody>
</table>"""


def explored_table(report: Report) -> str:
    """A row for each run that explored; columns that no policy measured are left out."""
    cells = [_explored_cells(each) for each in report.explored]
    shown = [name for name in EXPLORED if any(row[name] != fmt.UNKNOWN for row in cells)]
    heads = "".join(
        f'<th scope="col" role="columnheader" class="number" title="{escape(EXPLORED[name])}">{escape(name)}</th>'
        for name in shown
    )
    rows = "\n".join(
        f'<tr role="row"><th scope="row" role="rowheader"><span class="name">{escape(each.policy)}</span>'
        f"<code>{escape(each.recipe)}</code></th>"
        + "".join(
            f'<td role="cell" class="number" data-label="{escape(name)}">{_number(row[name])}</td>' for name in shown
        )
        + "</tr>"
        for each, row in zip(report.explored, cells, strict=True)
    )
    return f"""<table class="methods explored" role="table">
<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Policy</th>{heads}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody>
</table>"""


def _explored_cells(e: Explored) -> dict[str, str]:
    def told(value: float, words: str) -> str:
        return fmt.UNKNOWN if math.isnan(value) else words

    return {
        "Groups": f"{e.num_groups:,}",
        "Guided": told(e.guided, f"{e.guided:.0%}"),
        "Effective temperature": told(e.temperature, f"{e.temperature:.2f}"),
        "Entropy": told(e.entropy_after, f"{e.entropy_before:.2f} → {e.entropy_after:.2f}"),
        "KL": told(e.divergence, f"{e.divergence:.3f}"),
        "Prediction error": told(e.error_first, f"{e.error_first:.2f} → {e.error_last:.2f}"),
        "Clipped": told(e.clipped, f"{e.clipped:.0%}"),
        "Remembered": told(e.remembered, f"{e.remembered:,.0f}"),
        "Log-prob": told(e.logp + e.logq, f"{e.logp:.1f} → {e.logq:.1f}"),
    }


def values_table(report: Report) -> str:
    rows = "\n".join(
        f"<tr><td>{escape(s.name)}</td><td>{escape(s.kind)}</td><td>{p.samples}</td><td>{fmt.tokens(p.tokens)}</td>"
        f"<td>{_number(fmt.estimate(_estimate(p.value, p.low, p.high)))}</td></tr>"
        for s in report.series
        for p in s.points
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Method", "Kind", "Samples", "Tokens", "Value"))
    return f'<table class="values"><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>'


def _head(name: str, kind: str = "number", title: str = "") -> str:
    tip = f' title="{escape(title)}"' if title else ""
    return (
        f'<th scope="col" role="columnheader" aria-sort="none" class="{kind}" data-kind="{kind}">'
        f'<button type="button"{tip}>{name}</button></th>'
    )


def _row(m: Method, report: Report, scale: Axis, timed: bool) -> str:
    is_best, is_base = m.name in fmt.best(report), m.name == report.baseline
    tags = ('<span class="tag best">best</span>' if is_best else "") + (
        '<span class="tag">baseline</span>' if is_base else ""
    )
    unscored = f'<small class="unscored">{m.accuracy.num_unscored} unscored</small>' if m.accuracy.num_unscored else ""
    difference = _estimate(math.nan, math.nan, math.nan) if m.difference is None else m.difference
    significant = " significant" if fmt.is_significant(m) else ""
    cells = [
        f'<th scope="row" role="rowheader" data-sort="{escape(m.name)}"><span class="name">'
        f'<i class="swatch {series_class(m.name, report)}" aria-hidden="true"></i>'
        f"<span>{escape(m.name)}{tags}</span></span>"
        f"<code>{escape(m.recipe)}</code></th>",
        _cell("Samples", m.samples, f"{m.samples:,}"),
        _cell("Tokens", m.tokens, fmt.tokens(m.tokens)),
        _cell("Accuracy", m.accuracy.value, _interval(m.accuracy) + unscored, "accuracy"),
        f'<td role="cell" class="bar" aria-hidden="true">{_bar(m, report, scale)}</td>',
        _cell("Coverage", m.coverage.value, _interval(m.coverage)),
        _cell("Difference", difference.value, _interval(difference, signed=True), f"difference{significant}"),
        _cell("p", m.p_value, _number(escape(fmt.p_value(m.p_value)))),
    ]
    if timed:
        cells.append(_cell("Seconds", m.seconds, fmt.seconds(m.seconds)))
    kinds = (" is-best" if is_best else "") + (" is-baseline" if is_base else "")
    return f'<tr role="row" class="method{kinds}" data-series="{escape(m.name)}">{"".join(cells)}</tr>'


def _cell(label: str, value: float, text: str, kind: str = "") -> str:
    key = "" if math.isnan(value) else f"{value:.9g}"
    return f'<td role="cell" class="number {kind}" data-label="{label}" data-sort="{key}">{text}</td>'


def _interval(e: Estimate, *, signed: bool = False) -> str:
    value, _, ends = fmt.estimate(e, signed=signed).partition(" ")
    return _number(value) + (f' <span class="ends">{_number(ends)}</span>' if ends else "")


def _number(text: str) -> str:
    return text.replace("-", "−")


def _ticks(scale: Axis) -> str:
    """The axis in the table's head."""
    middle = (scale.low + scale.high) / 2
    marks = "".join(
        f'<text x="{scale.x(v)}" y="14" text-anchor="{anchor}">{v:.2g}</text><path d="M{scale.x(v)} 18v6"/>'
        for v, anchor in ((scale.low, "start"), (middle, "middle"), (scale.high, "end"))
    )
    span = f'<path d="M{scale.x(scale.low)} 21H{scale.x(scale.high)}"/>'
    return _svg("axis", 24, marks + span)


def _bar(m: Method, report: Report, scale: Axis) -> str:
    middle = BAR_HEIGHT / 2
    parts = []
    base = next((b.accuracy.value for b in report.methods if b.name == report.baseline), math.nan)
    if not math.isnan(base):
        parts.append(f'<path class="base" d="M{scale.x(base)} 0V{BAR_HEIGHT}"/>')
    a, ceiling = m.accuracy, m.coverage.value
    if not math.isnan(ceiling):
        x = scale.x(ceiling)
        parts.append(f'<path class="ceiling" d="M{x} {middle - 4}l4 4l-4 4l-4 -4z"/>')
    if not (math.isnan(a.low) or math.isnan(a.high)):
        parts.append(f'<path class="interval" d="M{scale.x(a.low)} {middle}H{scale.x(a.high)}"/>')
    if not math.isnan(a.value):
        parts.append(f'<circle class="value" cx="{scale.x(a.value)}" cy="{middle}" r="4"/>')
    return _svg(series_class(m.name, report), BAR_HEIGHT, "".join(parts))


def _svg(kind: str, height: int, inner: str) -> str:
    box = f'width="{BAR_WIDTH}" height="{height}" viewBox="0 0 {BAR_WIDTH} {height}"'
    return f'<svg class="{kind}" {box} aria-hidden="true">{inner}</svg>'


def _estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value, low, high, math.nan, 0, 0)
