"""Render a report as one HTML page that needs no network and no server.

What can be shown without a script is plain HTML: the table with its intervals, the notes, the values of the curves. The
script adds sorting, charts and the browser of problems, from data embedded in the page.

All texts are untrusted. They are escaped in HTML and only ever set as text by the script, and the page's policy admits
no script or style but its own (by digest), and no request at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html import escape
from importlib.resources import files
from string import Template

from samplewise.core.types import Json
from samplewise.report import compact
from samplewise.report import format as fmt
from samplewise.report.data import Report
from samplewise.report.explored import DEPENDENCE
from samplewise.report.json import report_json
from samplewise.report.rows import explored_table, methods_table, names_in_order, passes_table, values_table

SCRIPTS = ("page.js", "charts.js", "problems.js")  # in this order, one module


def render_html(report: Report) -> str:
    """Return the whole page. Write it as UTF-8."""
    style = _asset("page.css")
    script = "\n".join(_asset(name) for name in SCRIPTS)
    names = list(names_in_order(report))
    data = report_json(report) | {"names": names, "index": compact.problem_index(report.views)}
    page = Template(_asset("page.html")).substitute(
        policy=_policy(script, style),
        title=escape(report.title),
        reading=_keep_figures_together(escape(fmt.reading(report))),
        notes=_notes(report.notes),
        facts=_facts(report),
        methods=_methods(report),
        explored=_explored(report),
        passes=_passes(report),
        charts=_charts(report),
        problems=PROBLEMS if report.views else "",
        report=embedded(data),
        blocks="\n".join(
            f'<script type="text/plain" id="draws-{i}">{compact.pack_draws(view)}</script>'
            for i, view in enumerate(report.views)
        ),
        style=style,
        script=script,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate could not be written


def embedded(data: Json) -> str:
    """Return JSON that cannot end the script element it stands in, whatever its texts are."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _asset(name: str) -> str:
    return files("samplewise.report").joinpath(name).read_text("utf-8")


def _keep_figures_together(text: str) -> str:
    """Forbid line breaks inside an interval, and make minus signs as wide as a plus."""
    text = re.sub(r"(?<=[ \[])-(?=\d)", "−", text)
    return re.sub(r" (\[\S+), (\S+\])", "\N{NO-BREAK SPACE}\\1,\N{NO-BREAK SPACE}\\2", text)


def _policy(script: str, style: str) -> str:
    """Admit only this page's own script and style, by digest. Everything else is blocked, the network too."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    rules = (
        "default-src 'none'",
        "script-src 'sha256-{}'",
        "style-src 'sha256-{}'",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules).format(*digests)


def _notes(notes: tuple[str, ...]) -> str:
    return "\n".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _facts(report: Report) -> str:
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>"
        for name, text in report.facts.items()
        if name != "command"
    )
    command = report.facts.get("command")
    pre = f'<pre class="command" tabindex="0" aria-label="Command">{escape(command)}</pre>' if command else ""
    return (f'<dl class="facts">{rows}</dl>\n' if rows else "") + pre


def _methods(report: Report) -> str:
    if not report.methods:
        return ""
    budget = "" if math.isnan(report.tokens) else f" at {fmt.tokens(report.tokens)} tokens per problem"
    return f"""<section aria-labelledby="methods-title">
<h2 id="methods-title">Methods{budget}</h2>
{methods_table(report)}
<p class="caption">Accuracy is that of the chosen answer. Coverage is the share of problems with a right answer among
the draws, the ceiling of accuracy (the open diamond). Brackets and bars are 95 % intervals over problems. The
difference is paired by problem; p is from a paired t test, Holm-adjusted.</p>
{_notes((*report.cost_notes, *report.basis_notes, *report.choices))}
</section>"""


def _explored(report: Report) -> str:
    if not report.explored:
        return ""
    dependent = any(summary.dependent for summary in report.explored)
    notes = [f"{DEPENDENCE[:1].upper()}{DEPENDENCE[1:]}."] * dependent
    notes += [f"{summary.policy}: {summary.problems[0]}" for summary in report.explored if summary.problems]
    return f"""<section aria-labelledby="explored-title" id="explored">
<h2 id="explored-title">How draws explored</h2>
{explored_table(report)}
<p class="caption">Means over the groups of a run. The effective temperature is the one at which the model's
distribution has the entropy of the distribution drawn from: below 1, part of the effect is sharpening. KL is that of
the distribution drawn from against the model's, in nats a token. A dash was not measured.</p>
{_notes(tuple(notes))}
</section>"""


def _passes(report: Report) -> str:
    if not report.passes:
        return ""
    notes = [f"{passes.recipe}: {note}." for passes in report.passes for note in passes.table.notes]
    return f"""<section aria-labelledby="passes-title" id="passes">
<h2 id="passes-title">pass@k and maj@k</h2>
{passes_table(report)}
<p class="caption">What k of the stored draws would have done: means over all subsets of k of a problem's draws, with
95 % intervals over problems. pass@k: at least one of k is right; maj@k: the answer that most of k give is right. Only
problems with k graded draws count.</p>
{_notes(tuple(notes))}
</section>"""


def _charts(report: Report) -> str:
    if not report.series:
        return ""
    return f"""<section aria-labelledby="charts-title" id="charts">
<h2 id="charts-title">What more tokens buy</h2>
<div class="legend" role="group" aria-label="Methods shown"></div>
<div class="panels"></div>
<p class="caption">Shaded: 95 % intervals over problems. The dashed vertical line marks the budget of the table. Click a
name to hide it; in a chart, the arrow keys move along the points and from curve to curve.</p>
<details><summary>The values behind the curves</summary>
<div class="scroll" tabindex="0">{values_table(report)}</div>
</details>
</section>"""


PROBLEMS = """<section aria-labelledby="problems-title" id="problems">
<h2 id="problems-title">Problems and draws</h2>
<div class="browser">
<nav aria-label="Problems">
<input type="search" id="search" placeholder="Search id, prompt, reference" aria-label="Search problems">
<div class="filters" role="group" aria-label="Filter problems"></div>
<p class="count" role="status"></p>
<ol class="list"></ol>
</nav>
<article class="problem" aria-live="off" tabindex="-1"></article>
</div>
</section>"""
