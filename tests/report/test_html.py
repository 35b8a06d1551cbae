"""The page: what it shows without a script, what it embeds, and that no text can do anything but be read."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from samplewise.core.errors import StoreError
from samplewise.core.types import Candidate, Message, Pool, Problem, Question, Selection, Stop, Usage
from samplewise.report import compact
from samplewise.report.build import ReportEntry, build_report
from samplewise.report.data import CurvePoint, DrawView, PoolView, ProblemView, Report, Series
from samplewise.report.html import SCRIPTS, embedded, render_html
from samplewise.report.json import report_json
from samplewise.report.rows import axis, series_class
from samplewise.store.database import Store
from samplewise.store.records import Record, Run

NAN = float("nan")
HOSTILE = '</script><img src=x onerror="document.title=1">\u2028\u2029<!--<script>&amp;\x00\x1b[31m${x} \ud800'


class Page(HTMLParser):
    """Elements with their attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open = ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.styles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open = tag

    def handle_endtag(self, tag: str) -> None:
        self.open = ""

    def handle_data(self, data: str) -> None:
        if self.open == "script":
            name = self.elements[-1][1].get("id") or "module"
            self.scripts[name] = self.scripts.get(name, "") + data
        elif self.open == "style":
            self.styles.append(data)

    def count(self, tag: str, kind: str | None = None) -> int:
        return sum(t == tag and (kind is None or kind in (a.get("class") or "").split()) for t, a in self.elements)

    @property
    def data(self) -> Any:
        return json.loads(self.scripts["report"])

    def pools(self, index: int) -> Any:
        return json.loads(zlib.decompress(base64.b64decode(self.scripts[f"draws-{index}"])))


def hostile(report: Report) -> Report:
    """`report` with every text made hostile."""
    draw = DrawView(HOSTILE, HOSTILE, NAN, HOSTILE, 3, NAN, HOSTILE, {HOSTILE: 0.5, "__proto__": NAN})
    view = ProblemView(
        HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, (PoolView(HOSTILE, (draw,), {HOSTILE: 0, "__proto__": None}),)
    )
    methods = tuple(m._replace(name=HOSTILE + m.name, recipe=HOSTILE) for m in report.methods)
    return report._replace(
        title=HOSTILE,
        facts={HOSTILE: HOSTILE, "command": HOSTILE},
        notes=(HOSTILE,),
        baseline=HOSTILE + report.baseline,
        methods=methods,
        series=(Series(HOSTILE, "accuracy", (CurvePoint(1, 10, 0.5, 0.4, 0.6),)),),
        views=(view,),
    )


def test_page_has_a_row_per_method_and_marks_the_best_and_the_baseline(small: Report) -> None:
    text = render_html(small)
    page = Page(text)
    assert page.count("tr", "method") == 3
    assert page.count("tr", "is-best") == page.count("tr", "is-baseline") == 1
    assert "<title>Game of 24</title>" in text
    assert "0.512 <span" in text
    assert "[0.46, 0.56]" in text
    assert 'class="note">3 answers could not be read</p>' in text
    assert "samplewise compare --seed 7</pre>" in text
    assert "100 unscored" in text


def test_reading_keeps_an_interval_on_one_line(small: Report) -> None:
    assert "accuracy 0.512\N{NO-BREAK SPACE}[0.46,\N{NO-BREAK SPACE}0.56], +0.113" in render_html(small)


def test_embedded_data_survives_the_round_trip(small: Report) -> None:
    page = Page(render_html(small))
    assert page.data["title"] == "Game of 24"
    assert page.data["methods"][0]["difference"] is None
    assert page.data["series"][0]["points"][1]["value"] is None
    (problem,) = page.data["index"]["problems"]
    assert problem == {
        "id": "p1",
        "prompt": "4 6 1 1",
        "reference": "[24, NaN]",
        "marks": [1, "none"],
        "tags": ["solved", "disagree"],
        "num_right": 1,
        "num_draws": 2,
    }
    draws = page.pools(0)
    strings, (pool,) = draws["strings"], draws["pools"]
    assert [strings[i] for i in pool["text"]] == ["6 * 4 = 24", "6 + 4 = 10"]
    assert pool["answer"] == [strings.index("24"), None]
    assert pool["grade"] == [1, None]
    assert pool["logp"] == [-3.25, None]
    assert pool["scores"] == [["reward", [0.5, None]], ["judge", [None, None]]]
    assert pool["chosen"] == [["vote", 0], ["judge", None]]


def test_every_problem_can_be_rebuilt_from_the_page(make_report: Any) -> None:
    report = make_report(problems=3, draws=5)
    page = Page(render_html(report))
    for index, view in enumerate(report.views):
        data = page.pools(index)
        for packed, pool in zip(data["pools"], view.pools, strict=True):
            assert [data["strings"][i] for i in packed["text"]] == [s.text for s in pool.draws]
            assert [data["strings"][i] for i in packed["arm"]] == [s.arm for s in pool.draws]
            assert packed["tokens"] == [s.num_tokens for s in pool.draws]
            assert dict(packed["chosen"]) == pool.chosen


def test_hostile_texts_stay_texts(small: Report) -> None:
    text = render_html(hostile(small))
    text.encode("utf-8")  # a lone surrogate in a text must not make the page unwritable
    page = Page(text)
    plain = Page(render_html(small))
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert page.count("img") == 0
    assert page.count("script") == 3
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    written = HOSTILE.replace("\ud800", "?")
    assert page.data["title"] == page.data["index"]["problems"][0]["id"] == written
    assert page.pools(0)["strings"][0] == written
    assert not set("<>&\u2028\u2029") & set(page.scripts["report"])


def test_embedded_json_ends_no_script_whatever_it_holds() -> None:
    text = embedded({"a": HOSTILE})
    assert json.loads(text) == {"a": HOSTILE}
    assert not set("<>&\u2028\u2029") & set(text)


def test_policy_admits_only_the_script_and_style_of_the_page(small: Report) -> None:
    text = render_html(small)
    page = Page(text)
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "unsafe" not in policy
    for name, content in (("script", page.scripts["module"]), ("style", "".join(page.styles))):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert not any("style" in attributes for _, attributes in page.elements)  # the policy would drop them


def test_page_asks_the_network_for_nothing(make_report: Any) -> None:
    text = render_html(make_report(problems=2, draws=2))
    assert not re.findall(r"""(?:src|href|action|data|poster)\s*=\s*["']?\s*(?:https?:)?//""", text)
    assert not re.findall(r"url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|import\(", text)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_scripts_only_ever_set_texts() -> None:
    script = "".join(files("samplewise.report").joinpath(name).read_text("utf-8") for name in SCRIPTS)
    assert not re.findall(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser", script
    )


def test_empty_report_is_a_page_that_says_so(empty: Report) -> None:
    text = render_html(empty)
    assert "No methods were compared." in text
    assert Page(text).count("table") == Page(text).count("section") == 0
    assert Page(text).data["index"] == {"recipes": [], "choices": [], "problems": []}


def test_problem_without_pools_and_pool_without_draws(small: Report) -> None:
    views = (ProblemView("a", "", None, ()), ProblemView("b", "", None, (PoolView("repeat(0)", (), {"vote": None}),)))
    page = Page(render_html(small._replace(views=views)))
    assert page.pools(0) == {"pools": [], "strings": []}
    assert [p["marks"] for p in page.data["index"]["problems"]] == [[""], ["none"]]
    assert [p["tags"] for p in page.data["index"]["problems"]] == [["unsolved"], ["unsolved"]]


@pytest.mark.parametrize(
    ("grades", "chosen", "tags"),
    [
        ((1.0, 0.0), {"vote": 0, "best": 1}, ["solved", "disagree"]),
        ((1.0, 0.0), {"vote": 0}, ["solved"]),
        ((1.0, 0.0), {"vote": 1}, ["unsolved", "missed"]),
        ((1.0, 0.0), {"vote": None}, ["unsolved", "missed"]),
        ((1.0, NAN), {"vote": 0, "best": 1}, ["solved"]),  # unknown is not wrong, so it does not disagree
        ((0.5, 0.0), {"vote": 0, "best": 1}, ["unsolved"]),
        ((1.0, 0.0), {}, ["solved"]),
        ((0.0, NAN), {}, ["unsolved"]),
    ],
)
def test_tags(grades: tuple[float, ...], chosen: dict[str, int | None], tags: list[str]) -> None:
    draws = tuple(DrawView("", "", grade, "direct", 1, NAN, "stop", {}) for grade in grades)
    assert compact.problem_tags(ProblemView("p", "", None, (PoolView("repeat(2)", draws, chosen),))) == tags


def test_two_pools_of_one_recipe_are_told_apart() -> None:
    def pool(grade: float) -> PoolView:
        return PoolView("repeat(1)", (DrawView("", "", grade, "direct", 1, NAN, "stop", {}),), {"vote": 0})

    index = compact.problem_index([ProblemView("p", "", None, (pool(1.0), pool(0.0)))])
    assert index["recipes"] == ["repeat(1)", "repeat(1) (2)"]
    assert index["choices"] == [[0, "vote"], [1, "vote"]]
    assert index["problems"][0]["marks"] == [1, 0]


def test_long_text_is_cut_in_the_middle_and_says_so() -> None:
    draw = DrawView("a" * 30_000 + "b" * 30_000, None, NAN, "direct", 1, NAN, "stop", {})
    packed = compact.pack_draws(ProblemView("p", "", None, (PoolView("repeat(1)", (draw,), {}),)))
    (text, *_) = json.loads(zlib.decompress(base64.b64decode(packed)))["strings"]
    assert text == "a" * 10_000 + "\n[… 40,000 characters left out of this page …]\n" + "b" * 10_000


def test_repeated_texts_are_stored_once_and_the_page_stays_small(make_report: Any) -> None:
    """A page of 200 problems x 5 pools x 64 draws of 60 words must stay below 15 MB; this is a twentieth of it."""
    report = make_report(problems=10, words=60)
    size = len(render_html(report)) - len(render_html(report._replace(views=())))
    assert size < 15e6 / 20
    same = report._replace(views=tuple(v._replace(pools=v.pools[:1] * 5) for v in report.views))
    assert len(render_html(same)) - len(render_html(report._replace(views=()))) < 0.5 * size


def test_colours_start_over_dashed_after_eight(make_report: Any) -> None:
    report = make_report(problems=1, draws=1, methods=9)
    names = [m.name for m in report.methods]
    assert series_class(names[0], report) == "c-base"
    assert [series_class(name, report) for name in names[1:]] == [f"c{i}" for i in range(8)]
    more = report._replace(series=(*report.series, Series("another", "accuracy", ())))
    assert series_class("another", more) == "c0 dashed"


def test_axis_of_the_bars_is_as_wide_as_the_figures(small: Report, empty: Report) -> None:
    assert axis(small) == (0.3, 0.7)
    assert axis(empty) == (0, 1)
    perfect = small.methods[0].accuracy._replace(value=1.0, low=1.0, high=1.0)
    assert axis(small._replace(methods=(small.methods[0]._replace(accuracy=perfect, coverage=perfect),))) == (0.9, 1)


def test_the_plain_data_imports_neither_rich_nor_torch() -> None:
    names = ("data", "html", "markdown", "json")
    code = f"import sys, {', '.join(f'samplewise.report.{name}' for name in names)}\n"
    code += "print([m for m in ('rich', 'torch', 'transformers', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_that_drew_nothing_is_one_clear_line() -> None:
    with Store(":memory:") as store:
        store.start_run(Run("r", "repeat(2) | vote", "t", "toy", 0, {"engine": {"name": "toy"}}, 0.0, None))
        store.end_run("r")
        (run,) = store.runs()
        with pytest.raises(StoreError, match=r"^run r \(repeat\(2\) \| vote\) has no draw: nothing can be compared"):
            build_report(store, [ReportEntry("a", run, "vote")], title="t", baseline="a")


def test_pass_at_k_stands_on_the_page_for_independent_draws() -> None:
    with Store(":memory:") as store:
        lines = {"r": "repeat(2) | vote", "one": "repeat(1) | first", "s": "repeat(2) | until(lead(2)) | vote"}
        for name, line in lines.items():
            store.start_run(Run(name, line, "t", "toy", 0, {"engine": {"name": "toy"}}, 0.0, None))
            for question, both in (("a", (1.0, 0.0)), ("b", (0.0, 0.0))):
                grades = both[:1] if name == "one" else both
                pool = Pool(tuple(Candidate("x") for _ in grades))
                answers = tuple("right" if grade else f"w{i}" for i, grade in enumerate(grades))
                asked = Problem(Question(question, (Message("user", question),)), "right")
                record = Record(asked, 0, pool, answers, grades, Usage(), Stop("finished"))
                store.save(name, record, "vote", Selection(answers[0], 0), grades[0])
            store.end_run(name)
        runs = store.runs()
        entries = [ReportEntry(run.id, run, "first" if run.id == "one" else "vote") for run in runs]
        report = build_report(store, entries, title="t", baseline="r")
    (passes,) = report.passes  # neither one draw nor a run that stops by a rule
    assert (passes.recipe, passes.table.run) == ("repeat(2)", "r")
    assert [(row.k, row.pass_at.value, row.num_questions) for row in passes.table.rows] == [(1, 0.25, 2), (2, 0.5, 2)]
    (data,) = report_json(report)["passes"]
    assert data["rows"][1] | {"pass_low": 0, "pass_high": 1, "majority_low": 0, "majority_high": 1} == {
        "k": 2,
        "pass": 0.5,
        "pass_low": 0,
        "pass_high": 1,
        "majority": 0.25,  # a tie of right and wrong
        "majority_low": 0,
        "majority_high": 1,
        "questions": 2,
    }
    page = render_html(report)
    assert page.count('<section aria-labelledby="passes-title"') == 1
    assert len(re.findall(r'data-label="pass@k">0\.\d{3}', page)) == 2
    assert "passes-title" not in render_html(report._replace(passes=()))
