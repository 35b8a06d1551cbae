"""The report in the terminal, in Markdown and as JSON: exact on a small report."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from rich.console import Console

from samplewise.measure import Estimate
from samplewise.report import format as fmt
from samplewise.report.data import Report
from samplewise.report.json import report_json
from samplewise.report.markdown import render_markdown
from samplewise.report.terminal import print_report

NAN = float("nan")


def printed(report: Report, width: int, **options: Any) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    print_report(report, console)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"


NARROW = """\
Game of 24
At 1,000 tokens per problem, direct | vote answers best: accuracy 0.512 [0.46, 0.56], +0.113 [+0.05,
+0.17] against direct, p < 0.001.

method              draws             accuracy   coverage              difference
─────────────────────────────────────────────────────────────────────────────────
direct (baseline)       1   0.400 [0.35, 0.45]      0.400                       –
direct | vote           8   0.512 [0.46, 0.56]      0.700   +0.113 [+0.05, +0.17]
judge                   8     – (100 unscored)      0.700                       –

recipes
direct         repeat(1)
direct | vote  repeat(8) | vote
judge          repeat(8) | best(judge)

note: 3 answers could not be read

engine   tiny
seed     7
command  samplewise compare --seed 7

"""

WIDE = """\
Game of 24
At 1,000 tokens per problem, direct | vote answers best: accuracy 0.512 [0.46, 0.56], +0.113 [+0.05, +0.17] against direct, p < 0.001.

method              recipe                    draws   tokens             accuracy   coverage              difference        p
─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
direct (baseline)   repeat(1)                     1      120   0.400 [0.35, 0.45]      0.400                       –        –
direct | vote       repeat(8) | vote              8    1,000   0.512 [0.46, 0.56]      0.700   +0.113 [+0.05, +0.17]   <0.001
judge               repeat(8) | best(judge)       8    1,000     – (100 unscored)      0.700                       –        –

note: 3 answers could not be read

engine   tiny
seed     7
command  samplewise compare --seed 7

"""  # noqa: E501

MARKDOWN = """\
## Game of 24

At 1,000 tokens per problem, direct \\| vote answers best: accuracy 0.512 [0.46, 0.56], +0.113 [+0.05, +0.17] against direct, p \\< 0.001.

| method | recipe | draws | tokens | accuracy | coverage | difference | p |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| direct (baseline) | `repeat(1)` | 1 | 120 | 0.400 [0.35, 0.45] | 0.400 [0.35, 0.45] | – | – |
| direct \\| vote | `repeat(8) \\| vote` | 8 | 1,000 | **0.512 [0.46, 0.56]** | 0.700 [0.65, 0.75] | +0.113 [+0.05, +0.17] | <0.001 |
| judge | `repeat(8) \\| best(judge)` | 8 | 1,000 | – | 0.700 [0.65, 0.75] | – | – |

- 3 answers could not be read

- engine: tiny
- seed: 7

```
samplewise compare --seed 7
```
"""  # noqa: E501


def test_terminal_at_100_columns_has_the_recipes_beneath(small: Report) -> None:
    assert printed(small, 100) == NARROW


def test_terminal_at_160_columns_has_the_recipes_in_the_table(small: Report) -> None:
    assert printed(small, 160) == WIDE


def test_terminal_never_breaks_a_figure(make_report: Any) -> None:
    report = make_report(problems=20, draws=1)
    lines = printed(report, 100).splitlines()
    for m in report.methods:
        assert any(
            fmt.estimate(m.accuracy) in line and fmt.estimate(m.difference, signed=True) in line for line in lines
        )
    assert max(map(len, lines)) <= 100


def test_terminal_makes_the_best_bold_and_obeys_no_text(small: Report) -> None:
    assert "\x1b[1m0.512 [0.46, 0.56]" in printed(small, 100, force_terminal=True, color_system="standard")
    evil = small._replace(title="[red]\x1b]0;owned\x07", methods=(small.methods[0]._replace(name="[bold]\x1b[2J"),))
    text = printed(evil, 100)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]" in text
    assert "[bold]" in text


def test_markdown(small: Report) -> None:
    assert render_markdown(small) == MARKDOWN


def test_markdown_escapes_what_would_be_read_as_markup(small: Report) -> None:
    evil = small.methods[0]._replace(name="a|b <img> *c*\nd", recipe="x(`|`)")
    text = render_markdown(small._replace(methods=(evil,)))
    assert "| a\\|b \\<img\\> \\*c\\* d | ``x(`\\|`)`` |" in text


def test_empty_report_in_words(empty: Report) -> None:
    assert render_markdown(empty) == "## Nothing\n\nNo methods were compared.\n"
    assert printed(empty, 80) == "Nothing\nNo methods were compared.\n\n"
    assert report_json(empty, views=True) == {
        "title": "Nothing",
        "facts": {},
        "notes": [],
        "tokens": None,
        "baseline": "direct",
        "methods": [],
        "series": [],
        "explored": [],
        "passes": [],
        "views": [],
    }


def test_json_has_no_nan_and_puts_interval_ends_beside_the_value(small: Report) -> None:
    data = report_json(small, views=True)
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    direct, vote, judge = data["methods"]
    assert list(vote)[4:10] == [
        "accuracy",
        "accuracy_low",
        "accuracy_high",
        "coverage",
        "coverage_low",
        "coverage_high",
    ]
    assert (vote["accuracy"], vote["accuracy_low"]) == (0.5125, pytest.approx(0.46))
    assert direct["difference"] is direct["difference_low"] is direct["p_value"] is judge["accuracy"] is None
    assert judge["num_unscored"] == 100
    assert data["series"][0]["points"][0] == {
        "draws": 1,
        "tokens": 125,
        "value": 0.4,
        "value_low": 0.35,
        "value_high": 0.45,
    }
    (view,) = data["views"]
    assert view["reference"] == [24, None]
    assert view["pools"][0]["chosen"] == {"vote": 0, "judge": None}
    assert view["pools"][0]["draws"][0]["scores"] == {"reward": 0.5, "judge": None}
    assert "views" not in report_json(small)


def test_what_is_not_at_equal_tokens_says_so(small: Report) -> None:
    direct, vote, judge = small.methods
    assert small.cost_notes == ()
    costly = small._replace(methods=(direct, vote._replace(tokens=1500, compared_at="own cost"), judge))
    assert fmt.reading(costly).startswith("At 1,500 tokens per problem, others at 1,000, direct | vote answers best")
    note = (
        "direct | vote costs 1,500 tokens per problem and cannot be had in part: its difference is not at equal tokens."
    )
    assert costly.cost_notes == (note,)
    assert f"note: {note}" in printed(costly, 160)
    assert note.replace("|", "\\|") in render_markdown(costly)
    assert report_json(costly)["methods"][1]["compared_at"] == "own cost"
    (line,) = costly._replace(tokens=NAN).cost_notes
    assert line == "Every method stands at its own cost: these differences are not at equal tokens."


@pytest.mark.parametrize(
    ("value", "low", "high", "signed", "text"),
    [
        (0.4121, 0.361, 0.4689, False, "0.412 [0.36, 0.47]"),
        (0.998, 0.996, 0.9995, False, "0.998 [0.996, 1.000]"),  # two digits would put the value outside
        (0.052, 0.012, 0.091, True, "+0.052 [+0.01, +0.09]"),
        (0.021, 0.003, 0.041, True, "+0.021 [+0.003, +0.041]"),  # two digits would hide that 0 is outside
        (-0.021, -0.041, 0.0, True, "-0.021 [-0.04, +0.00]"),
        (0.5, NAN, NAN, False, "0.500"),
        (NAN, NAN, NAN, False, "–"),
    ],
)
def test_estimate(value: float, low: float, high: float, signed: bool, text: str) -> None:
    assert fmt.estimate(Estimate(value, low, high, NAN, 1, 0), signed=signed) == text


def test_numbers() -> None:
    assert [fmt.tokens(x) for x in (23.44, 24.0, 1024.4, NAN)] == ["23.4", "24", "1,024", "–"]
    assert [fmt.p_value(x) for x in (0.0002, 0.0314, 1.0, NAN)] == ["<0.001", "0.031", "1.000", "–"]
    assert [fmt.seconds(x) for x in (0.01234, 2.5, 1234.0, NAN)] == ["0.0123", "2.5", "1,234", "–"]
    assert fmt.rate(0.5) == "0.500"


def test_reading_says_what_is_known_and_no_more(small: Report) -> None:
    direct, vote, judge = small.methods
    best = "At 1,000 tokens per problem, direct | vote answers best: accuracy 0.512 [0.46, 0.56]"
    best += ", +0.113 [+0.05, +0.17] against direct"
    assert fmt.reading(small) == f"{best}, p < 0.001."
    assert fmt.reading(small._replace(methods=(direct, vote._replace(p_value=NAN)))) == f"{best}."
    split = small._replace(methods=(direct, vote._replace(p_value=0.2)))
    assert fmt.reading(split) == f"{best}, p = 0.200. Interval and test disagree: it is undecided."
    wide = Estimate(0.1125, -0.05, 0.27, 0.08, 100, 0)
    doubtful = small._replace(methods=(direct, vote._replace(p_value=0.2, difference=wide)))
    best = best.replace("[+0.05, +0.17]", "[-0.05, +0.27]")
    assert fmt.reading(doubtful) == f"{best}, p = 0.200. That is not enough to tell the two apart."
    worse = vote.accuracy._replace(value=0.1)
    assert fmt.reading(small._replace(methods=(direct, vote._replace(accuracy=worse)))) == (
        "At 1,000 tokens per problem, no method answers better than the baseline, direct: accuracy 0.400 [0.35, 0.45]."
    )
    tie = vote._replace(accuracy=direct.accuracy)
    assert fmt.reading(small._replace(methods=(direct, tie))).endswith(
        "0.400 [0.35, 0.45]; direct | vote reaches the same."
    )
    assert fmt.reading(small._replace(methods=(judge,))) == "No accuracy is known: no chosen answer could be graded."
    assert fmt.reading(small._replace(methods=(vote,), tokens=math.nan, baseline="x")).startswith(
        "Direct | vote answers best"
    )
