"""The tables of the page as static HTML: readable, printable and testable without a script."""

from __future__ import annotations

import math
from html import escape
from typing import NamedTuple

from samplewise.measure import Estimate
from samplewise.report import format as fmt
from samplewise.report.data import ExplorationSummary, MethodRow, Report

BAR_WIDTH, BAR_HEIGHT, BAR_MARGIN = 190, 26, 8
NUM_COLOURS = 8  # in page.css; the ninth name starts over, dashed


# Columns of how groups explored, and what they mean.
EXPLORED = {
    "Groups": "groups that ended; the other columns are means over them",
    "Guided": "share of the tokens at which the policy changed the distribution",
    "Effective temperature": "at which the model has the entropy of the distribution drawn from; below 1 is sharper",
    "Entropy": "of the model's distribution and of the one drawn from, nats a token",
    "KL": "of the distribution drawn from against the model's, nats a token",
    "Prediction error": "of the learner, relative, at a group's first and last token, which are different contexts",
    "Clipped": "share of the learner's steps whose gradient was clipped",
    "Remembered": "draws in a group's memory at its end",
    "Members": "draws of a group that decoded one answer together",
    "Log-prob": "of a whole draw under the model at temperature 1, and under the distribution drawn from, nats",
}


class _Optional(NamedTuple):
    """Which columns a report has figures for."""

    coverage: bool
    seconds: bool


class Axis(NamedTuple):
    """The common axis of the interval bars."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """Return the horizontal position of a value in pixels."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(BAR_MARGIN + share * (BAR_WIDTH - 2 * BAR_MARGIN), 1)


def names_in_order(report: Report) -> tuple[str, ...]:
    """Return every name that gets a colour: all but the baseline, which is grey."""
    names = dict.fromkeys([row.name for row in report.methods] + [series.name for series in report.series])
    return tuple(name for name in names if name != report.baseline)


def series_class(name: str, report: Report) -> str:
    """Return the CSS class with the colour of a name. `seriesClass` in page.js must agree."""
    names = names_in_order(report)
    if name not in names:
        return "c-base"
    index = names.index(name)
    return f"c{index % NUM_COLOURS}" + (" dashed" if index >= NUM_COLOURS else "")


def axis(report: Report) -> Axis:
    """Return an axis in steps of 0.1, just wide enough for every interval and ceiling."""
    values = [x for row in report.methods for x in (*row.accuracy[:3], row.coverage.value) if not math.isnan(x)]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    low, high = max(0, math.floor(low * 10 + 1e-9)), min(10, math.ceil(high * 10 - 1e-9))
    if high <= low:
        low, high = max(0, high - 1), max(high, 1)
    return Axis(low / 10, high / 10)


def methods_table(report: Report) -> str:
    """Return the table of methods, with a bar for each interval."""
    optional = _Optional(
        coverage=any(not math.isnan(row.coverage.value) for row in report.methods),
        seconds=any(not math.isnan(row.seconds) for row in report.methods),
    )
    scale = axis(report)
    heads = [
        _head("Method", "text"),
        _head("Draws", title="draws per problem"),
        _head("Tokens", title="mean tokens per problem, prompt and completion, helpers and verifiers included"),
        _head("Accuracy", title="of the chosen answer, with its 95 % interval"),
        f'<th scope="col" role="columnheader" class="bar">{_ticks(scale)}</th>',
        _head("Coverage", title="at least one right answer among the draws: the ceiling") if optional.coverage else "",
        _head("Difference", title="accuracy minus the baseline's, paired by problem, with its 95 % interval"),
        _head("p", title="that the difference is 0: paired t test over problems, Holm-adjusted"),
    ]
    if optional.seconds:
        heads.append(_head("Seconds", title="engine wall clock per problem"))
    rows = "\n".join(_row(row, report, scale, optional) for row in report.methods)
    return f"""<table class="methods" role="table">
<thead role="rowgroup"><tr role="row">{"".join(heads)}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody>
</table>"""


def explored_table(report: Report) -> str:
    """Return a table with a row for each run that explored. Columns that no policy measured are left out."""
    cells = [_explored_cells(summary) for summary in report.explored]
    shown = [name for name in EXPLORED if any(row[name] != fmt.UNKNOWN for row in cells)]
    heads = "".join(
        f'<th scope="col" role="columnheader" class="number" title="{escape(EXPLORED[name])}">{escape(name)}</th>'
        for name in shown
    )
    rows = "\n".join(
        f'<tr role="row"><th scope="row" role="rowheader"><span class="name">{escape(summary.policy)}</span>'
        f"<code>{escape(summary.recipe)}</code></th>"
        + "".join(
            f'<td role="cell" class="number" data-label="{escape(name)}">{_number(row[name])}</td>' for name in shown
        )
        + "</tr>"
        for summary, row in zip(report.explored, cells, strict=True)
    )
    return f"""<table class="methods explored" role="table">
<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Policy</th>{heads}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody>
</table>"""


def _explored_cells(s: ExplorationSummary) -> dict[str, str]:
    def measured(value: float, text: str) -> str:
        return fmt.UNKNOWN if math.isnan(value) else text

    return {
        "Groups": f"{s.num_groups:,}",
        "Guided": measured(s.guided, f"{s.guided:.0%}"),
        "Effective temperature": measured(s.temperature, f"{s.temperature:.2f}"),
        "Entropy": measured(s.entropy_after, f"{s.entropy_before:.2f} → {s.entropy_after:.2f}"),
        "KL": measured(s.divergence, f"{s.divergence:.3f}"),
        "Prediction error": measured(s.error_first, f"{s.error_first:.2f} → {s.error_last:.2f}"),
        "Clipped": measured(s.clipped, f"{s.clipped:.0%}"),
        "Remembered": measured(s.remembered, f"{s.remembered:,.0f}"),
        "Members": measured(s.members, f"{s.members:.1f}"),
        "Log-prob": measured(s.logp + s.logq, f"{s.logp:.1f} → {s.logq:.1f}"),
    }


def passes_table(report: Report) -> str:
    """Return a table of pass@k and maj@k: for each run a row for each k."""
    heads = "".join(
        f'<th scope="col" role="columnheader" class="number">{name}</th>'
        for name in ("k", "pass@k", "maj@k", "Problems")
    )
    rows = "\n".join(
        f'<tr role="row"><th scope="row" role="rowheader"><code>{escape(passes.recipe)}</code></th>'
        + "".join(
            f'<td role="cell" class="number" data-label="{name}">{_number(text)}</td>'
            for name, text in (
                ("k", f"{row.k}"),
                ("pass@k", fmt.estimate(row.pass_at)),
                ("maj@k", fmt.estimate(row.majority_at)),
                ("Problems", f"{row.num_questions:,}"),
            )
        )
        + "</tr>"
        for passes in report.passes
        for row in passes.table.rows
    )
    return f"""<table class="methods explored passes" role="table">
<thead role="rowgroup"><tr role="row"><th scope="col" role="columnheader">Draws</th>{heads}</tr></thead>
<tbody role="rowgroup">
{rows}
</tbody>
</table>"""


def values_table(report: Report) -> str:
    """Return the table of the values behind the curves."""
    rows = "\n".join(
        f"<tr><td>{escape(series.name)}</td><td>{escape(series.kind)}</td><td>{point.num_draws}</td>"
        f"<td>{fmt.tokens(point.tokens)}</td>"
        f"<td>{_number(fmt.estimate(Estimate(point.value, point.low, point.high, math.nan, 0, 0)))}</td></tr>"
        for series in report.series
        for point in series.points
    )
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Method", "Kind", "Draws", "Tokens", "Value"))
    return f'<table class="values"><thead><tr>{heads}</tr></thead><tbody>\n{rows}\n</tbody></table>'


def _head(name: str, kind: str = "number", title: str = "") -> str:
    tip = f' title="{escape(title)}"' if title else ""
    return (
        f'<th scope="col" role="columnheader" aria-sort="none" class="{kind}" data-kind="{kind}">'
        f'<button type="button"{tip}>{name}</button></th>'
    )


def _row(row: MethodRow, report: Report, scale: Axis, optional: _Optional) -> str:
    is_best, is_base = row.name in fmt.best_methods(report), row.name == report.baseline
    tags = ('<span class="tag best">best</span>' if is_best else "") + (
        '<span class="tag">baseline</span>' if is_base else ""
    )
    num_unscored = row.accuracy.num_unscored
    unscored = f'<small class="unscored">{num_unscored} unscored</small>' if num_unscored else ""
    if row.short:
        unscored += f'<small class="unscored">{len(row.short)} with fewer draws</small>'
    difference = math.nan if row.difference is None else row.difference.value
    code = f"<code>{escape(row.recipe)}</code>" if row.recipe != row.name else ""
    significant = " significant" if fmt.is_significant(row) else ""
    cells = [
        f'<th scope="row" role="rowheader" data-sort="{escape(row.name)}"><span class="name">'
        f'<i class="swatch {series_class(row.name, report)}" aria-hidden="true"></i>'
        f"<span>{escape(row.name)}{tags}</span></span>"
        f"{code}</th>",
        _cell("Draws", row.num_draws, f"{row.num_draws:,}"),
        _cell("Tokens", row.tokens, fmt.tokens(row.tokens) + _fixed(row)),
        _cell("Accuracy", row.accuracy.value, _interval(row.accuracy) + unscored, "accuracy"),
        f'<td role="cell" class="bar" aria-hidden="true">{_bar(row, report, scale)}</td>',
        _cell("Coverage", row.coverage.value, _interval(row.coverage)) if optional.coverage else "",
        _cell("Difference", difference, _interval(row.difference, signed=True), f"difference{significant}"),
        _cell("p", row.p_value, _number(escape(fmt.p_value(row.p_value)))),
    ]
    if optional.seconds:
        cells.append(_cell("Seconds", row.seconds, fmt.seconds(row.seconds)))
    kinds = (" is-best" if is_best else "") + (" is-baseline" if is_base else "")
    return f'<tr role="row" class="method{kinds}" data-series="{escape(row.name)}">{"".join(cells)}</tr>'


def _fixed(row: MethodRow) -> str:
    """Return the part of the tokens that comes before the first draw, as a line of its own."""
    helpers = 0.0 if row.parts is None else row.parts.helpers
    return f'<small class="unscored">{fmt.tokens(helpers)} before the first draw</small>' if helpers else ""


def _cell(label: str, value: float, text: str, kind: str = "") -> str:
    key = "" if math.isnan(value) else f"{value:.9g}"
    return f'<td role="cell" class="number {kind}" data-label="{label}" data-sort="{key}">{text}</td>'


def _interval(e: Estimate | None, *, signed: bool = False) -> str:
    value, _, ends = fmt.estimate(e, signed=signed).partition(" ")
    return _number(value) + (f' <span class="ends">{_number(ends)}</span>' if ends else "")


def _number(text: str) -> str:
    return text.replace("-", "−")


def _ticks(scale: Axis) -> str:
    """Return the axis in the table's head."""
    middle = (scale.low + scale.high) / 2
    ticks = "".join(
        f'<text x="{scale.x(v)}" y="14" text-anchor="{anchor}">{v:.2g}</text><path d="M{scale.x(v)} 18v6"/>'
        for v, anchor in ((scale.low, "start"), (middle, "middle"), (scale.high, "end"))
    )
    span = f'<path d="M{scale.x(scale.low)} 21H{scale.x(scale.high)}"/>'
    return _svg("axis", 24, ticks + span)


def _bar(row: MethodRow, report: Report, scale: Axis) -> str:
    middle = BAR_HEIGHT / 2
    parts = []
    base = next((base.accuracy.value for base in report.methods if base.name == report.baseline), math.nan)
    if not math.isnan(base):
        parts.append(f'<path class="base" d="M{scale.x(base)} 0V{BAR_HEIGHT}"/>')
    accuracy, ceiling = row.accuracy, row.coverage.value
    if not math.isnan(ceiling):
        x = scale.x(ceiling)
        parts.append(f'<path class="ceiling" d="M{x} {middle - 4}l4 4l-4 4l-4 -4z"/>')
    if not (math.isnan(accuracy.low) or math.isnan(accuracy.high)):
        parts.append(f'<path class="interval" d="M{scale.x(accuracy.low)} {middle}H{scale.x(accuracy.high)}"/>')
    if not math.isnan(accuracy.value):
        parts.append(f'<circle class="value" cx="{scale.x(accuracy.value)}" cy="{middle}" r="4"/>')
    return _svg(series_class(row.name, report), BAR_HEIGHT, "".join(parts))


def _svg(kind: str, height: int, inner: str) -> str:
    box = f'width="{BAR_WIDTH}" height="{height}" viewBox="0 0 {BAR_WIDTH} {height}"'
    return f'<svg class="{kind}" {box} aria-hidden="true">{inner}</svg>'
