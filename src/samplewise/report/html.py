"""A report as one HTML page that needs no network and no server.

What can be said without a script is plain HTML: the table with its intervals, the notes, the values of the curves. The
script adds sorting, charts and the browser of problems, from data that lies in the page.

All texts are untrusted: escaped in HTML, only ever set as text by the script, and the policy of the page admits no
script or style but its own (by digest) and no request at all.
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

from samplewise.report import compact
from samplewise.report import format as fmt
from samplewise.report.data import Report
from samplewise.report.explored import DEPENDENCE
from samplewise.report.json import as_json
from samplewise.report.rows import explored_table, methods_table, names_in_order, values_table
from samplewise.types import Json

SCRIPTS = ("page.js", "charts.js", "problems.js")  # in this order, one module


def html(report: Report) -> str:
    """The whole page. Write it as UTF-8."""
    style = _asset("page.css")
    script = "\n".join(_asset(name) for name in SCRIPTS)
    data = as_json(report) | {"names": list(names_in_order(report)), "index": compact.index(report.views)}
    page = Template(_asset("page.html")).substitute(
        policy=_policy(script, style),
        title=escape(report.title),
        reading=_figures(escape(fmt.reading(report))),
        notes=_notes(report),
        facts=_facts(report),
        methods=_methods(report),
        explored=_explored(report),
        charts=_charts(report),
        problems=PROBLEMS if report.views else "",
        report=embedded(data),
        blocks="\n".join(
            f'<script type="text/plain" id="draws-{i}">{compact.pack(view)}</script>'
            for i, view in enumerate(report.views)
        ),
        style=style,
        script=script,
    )
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate could not be written


def embedded(data: Json) -> str:
    """JSON that cannot end the script element it stands in, whatever the texts are."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _asset(name: str) -> str:
    return files("samplewise.report").joinpath(name).read_text("utf-8")


def _figures(text: str) -> str:
    """No line break inside an interval, and minus signs that are as wide as a plus."""
    text = re.sub(r"(?<=[ \[])-(?=\d)", "−", text)
    return re.sub(r" (\[\S+), (\S+\])", "\N{NO-BREAK SPACE}\\1,\N{NO-BREAK SPACE}\\2", text)


def _policy(script: str, style: str) -> str:
    """Only this page's own script and style, by digest; everything else, the network above all, is shut."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    rules = (
        "default-src 'none'",
        "script-src 'sha256-{}'",
        "style-src 'sha256-{}'",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules).format(*digests)


def _notes(report: Report) -> str:
    return "\n".join(f'<p class="note">{escape(note)}</p>' for note in report.notes)


def _facts(report: Report) -> str:
    rows = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>"
        for name, text in report.facts.items()
        if name != "command"
    )
    command = report.facts.get("command")
    again = f'<pre class="command" tabindex="0" aria-label="Command">{escape(command)}</pre>' if command else ""
    return (f'<dl class="facts">{rows}</dl>\n' if rows else "") + again


def _methods(report: Report) -> str:
    if not report.methods:
        return ""
    at = "" if math.isnan(report.tokens) else f" at {fmt.tokens(report.tokens)} tokens per problem"
    return f"""<section aria-labelledby="methods-title">
<h2 id="methods-title">Methods{at}</h2>
{methods_table(report)}
<p class="caption">Accuracy is that of the chosen answer; coverage, the share of problems with a right answer among the
draws, is its ceiling (the open diamond). Brackets and bars are 95 % intervals over problems. The difference is paired
by problem; p is the paired t test, Holm-adjusted.</p>
</section>"""


def _explored(report: Report) -> str:
    if not report.explored:
        return ""
    dependent = any(each.dependent for each in report.explored)
    wrong = [f"{escape(each.policy)}: {escape(each.problems[0])}" for each in report.explored if each.problems]
    said = [f"{DEPENDENCE[:1].upper()}{DEPENDENCE[1:]}."] * dependent + wrong
    notes = "\n".join(f'<p class="note">{line}</p>' for line in said)
    return f"""<section aria-labelledby="explored-title" id="explored">
<h2 id="explored-title">How samples explored</h2>
{explored_table(report)}
<p class="caption">Means over the groups of a run. The effective temperature is the one at which the plain law has the
entropy of the law drawn from: below 1, a part of the effect is mere sharpening. KL is that of the law drawn from
against the plain one, in nats a token; a dash was not measured.</p>
{notes}
</section>"""


def _charts(report: Report) -> str:
    if not report.series:
        return ""
    return f"""<section aria-labelledby="charts-title" id="charts">
<h2 id="charts-title">What more tokens buy</h2>
<div class="legend" role="group" aria-label="Methods shown"></div>
<div class="panels"></div>
<p class="caption">Shaded: 95 % intervals over problems. The dashed vertical line marks the budget of the table. Click a
name to hide it; in a chart, the arrow keys walk along the points and from curve to curve.</p>
<details><summary>The values behind the curves</summary>
<div class="scroll" tabindex="0">{values_table(report)}</div>
</details>
</section>"""


PROBLEMS = """<section aria-labelledby="problems-title" id="problems">
<h2 id="problems-title">Problems and samples</h2>
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
