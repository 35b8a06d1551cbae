"""How groups explored: out of a trace, out of a store, in words and on the page."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from samplewise.cli.commands import app
from samplewise.core.types import Capability, Completion, Message, Problem, Question, Score, Usage
from samplewise.engines.base import Arrival
from samplewise.engines.team import Team
from samplewise.engines.toy import Toy, toy
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.report import compact
from samplewise.report.build import ReportEntry, build_report
from samplewise.report.data import ExplorationSummary, Report
from samplewise.report.explored import DEPENDENCE, describe_exploration, explored_questions, summarize_exploration
from samplewise.report.html import render_html
from samplewise.report.json import exploration_json, report_json
from samplewise.report.markdown import render_markdown
from samplewise.report.trace import describe_trace
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.records import Run
from samplewise.tasks.base import Task

NAN = float("nan")


def group(samples: int = 8, policy: str = "esamp(beta=0.5)", problem: str = "", **numbers: float) -> dict[str, Any]:
    return {"arm": "direct", "policy": policy, "samples": samples, "numbers": numbers, "problem": problem}


def info(*groups: dict[str, Any], logp: Sequence[float | None] = (), logq: Sequence[float | None] = ()) -> Any:
    return {"explored": list(groups), "logp": list(logp), "logq": list(logq)}


LOOKED: dict[str, Any] = {
    "effective_temperature": 0.8,
    "divergence_nats": 0.02,
    "entropy_before": 1.25,
    "entropy_after": 1.0,
}
ONE = group(seen=40.0, guided=10.0, error_first=1.0, error_last=0.5, **LOOKED)
TWO = group(6, seen=10.0, guided=10.0, error_first=2.0, error_last=1.5, clipped=1.0, trained=10.0)


def test_means_are_over_the_groups_that_measured_a_thing() -> None:
    told = summarize_exploration(
        [{"moves": []}, info(ONE, logp=[-3.0, None], logq=[-2.0]), info(TWO, logp=[-5.0])], "repeat(8)"
    )
    assert told is not None
    assert told._replace(remembered=0.0, members=0.0) == ExplorationSummary(
        recipe="repeat(8)",
        policy="esamp(beta=0.5)",
        num_groups=2,
        num_draws=14,
        guided=0.625,  # of 0.25 and 1, whatever the groups' sizes
        temperature=0.8,
        entropy_before=1.25,
        entropy_after=1.0,
        divergence=0.02,
        error_first=1.5,
        error_last=1.0,
        clipped=1.0,
        remembered=0.0,
        members=0.0,
        logp=-4.0,
        logq=-2.0,
    )
    assert math.isnan(told.remembered)
    assert math.isnan(told.members)
    assert "members" not in exploration_json(told)


def test_in_words() -> None:
    told = summarize_exploration([info(ONE, logp=[-3.0], logq=[-2.25])])
    assert told is not None
    assert describe_exploration(told) == [
        "explores by esamp(beta=0.5): 8 draws; 25% of the tokens guided; effective temperature 0.80; entropy 1.25 -> "
        "1.00 nats a token; KL 0.020 nats a token; prediction error 1.00 -> 0.50; log-prob of a "
        "draw -2.2 as drawn, -3.0 under the model",
        DEPENDENCE,
    ]
    wrong = group(policy="lss", seen=8.0, guided=0.0, remembered=1234.0, problem="it saw 3 of 4 tokens")
    told = summarize_exploration([info(group(policy="lss", seen=8.0, guided=4.0), wrong)])
    assert told is not None
    assert describe_exploration(told) == [
        "explores by lss: means of 2 groups, 16 draws; 25% of the tokens guided; 1,234 draws remembered",
        DEPENDENCE,
        "1 of 2 groups failed: it saw 3 of 4 tokens",
    ]


def test_draws_that_do_not_depend_on_one_another_are_not_said_to() -> None:
    told = summarize_exploration([info(group(policy="reshape(heat=1.5)", seen=9.0))])
    assert told is not None
    assert describe_exploration(told) == ["explores by reshape(heat=1.5): 8 draws"]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ((6.0, 5.0), "5.5 of the 8 draws of a group decoded one answer"),
        ((0.0, 0.0), "NO draw reached the text after which the answer begins: all are plain draws"),
    ],
)
def test_it_is_said_how_many_draws_decoded_one_answer(members: tuple[float, float], words: str) -> None:
    told = summarize_exploration([info(*(group(policy="consensus", seen=9.0, members=num) for num in members))])
    assert told is not None
    assert words in describe_exploration(told)[0]
    assert exploration_json(told)["members"] == sum(members) / 2


def test_traces_without_groups_say_nothing() -> None:
    assert summarize_exploration([]) is None
    assert summarize_exploration([None, "words", {"moves": []}, info(logp=[-1.0], logq=[-1.0])]) is None
    assert describe_trace([info(logp=[-1.0])]) == []
    assert describe_trace([info(ONE)])[0].startswith("explores by esamp(beta=0.5): 8 draws")


# --- out of a store ---------------------------------------------------------------------------------------------------


class Grouped(Toy):
    """The toy, whose groups end as those of a real engine do. Each draw's text and log-probs follow from its ask."""

    can = frozenset(Capability)
    name = identity = "grouped"

    def __init__(self, tell: bool = True) -> None:
        super().__init__()
        self.tell = tell  # an engine of before said nothing
        self.ended: dict[str, int] = {}

    async def answer(self, asks: Sequence[Any]) -> Any:
        for position, ask in enumerate(asks):
            completion = Completion(f"{ask.seed % 10}", "stop", Usage(1, 2, 3), logp_sum=-2.0)
            if ask.group_size:
                self.ended[ask.group] = self.ended.get(ask.group, 0) + 1
                completion = completion._replace(logq=(-ask.draw / 4, -0.5))
                if self.ended[ask.group] == ask.group_size and self.tell:
                    self.ended[ask.group] = 0
                    numbers = {"seen": 8.0, "guided": 2.0, "remembered": float(ask.group_size)}
                    told = {"policy": ask.sampling.explore, "samples": ask.group_size, "numbers": numbers}
                    completion = completion._replace(explored={**told, "problem": ""})
            yield Arrival(position, completion)


QUESTIONS = [Question(f"q{i}", (Message("user", f"question {i}"),)) for i in range(3)]


def read(question: Question, text: str) -> str:
    return text


def grade(problem: Problem, answer: str | None) -> Score:
    return Score(float(answer == "3"))


TASK = Task("three", tuple(Problem(question, "3") for question in QUESTIONS), read, grade, "made up", "none")
LINES = (
    "repeat(4) | vote",
    "repeat(4, explore=lss) | vote",
    "vary(ladder(0.5, 2.0)) | repeat(5, explore=css, wave=3) | vote",
)


def ran(store: Store, *lines: str, engine: Any = None, budget: Budget = Budget()) -> list[ReportEntry]:
    for line in lines:
        asyncio.run(run_task(TASK, recipe(line), engine or Grouped(), store, budget=budget))
    return [ReportEntry(run.recipe, run, "vote") for run in store.runs()]


class Replayed(NamedTuple):
    question: str
    trace: tuple[Any, ...]
    logq: tuple[float, ...]


def replays(store: Store, run: Run, question: str | None = None) -> list[Replayed]:
    return [
        Replayed(one.question, one.trace, one.logq(record)) for record, one in explored_questions(store, run, question)
    ]


def test_a_stored_run_is_rereplays() -> None:
    with Store(":memory:") as store:
        plain, lss, css = (entry.run for entry in ran(store, *LINES))
        assert (replays(store, plain)) == []
        found = replays(store, lss)
        assert [each.question for each in found] == ["q0", "q1", "q2"]
        assert found[0].logq == (-0.5, -0.75, -1.0, -1.25)
        assert [len(each.trace) for each in replays(store, css)] == [2, 2, 2]
        (one,) = replays(store, css, "q1")
        assert [each["samples"] for each in one.trace[0]["explored"] + one.trace[1]["explored"]] == [1, 2, 2]
        assert one == (replays(store, css))[1]


def test_a_run_under_a_budget_is_played_no_further_than_it_came() -> None:
    """Another run with the same draws went on, and its later waves are in the store too."""
    with Store(":memory:") as store:
        (cut,) = ran(store, "repeat(6, explore=lss, wave=3) | vote", budget=Budget(requests=9))
        entries = ran(store, "repeat(6, explore=lss, wave=3) | vote")
        assert [len(each.logq) for each in replays(store, cut.run)] == [3, 3, 3]
        assert summarize_exploration([info for each in replays(store, cut.run) for info in each.trace]) is None
        whole = next(entry.run for entry in entries if entry.run.id != cut.run.id)
        assert [len(each.logq) for each in replays(store, whole)] == [6, 6, 6]


def test_of_a_team_the_solvers_draws_are_found() -> None:
    with Store(":memory:") as store:
        (entry,) = ran(store, LINES[1], engine=Team({"": Grouped(), "other": toy()}))
        assert [each.logq for each in replays(store, entry.run)] == [(-0.5, -0.75, -1.0, -1.25)] * 3


def test_what_is_not_there_is_not_made_up() -> None:
    """Draws that were lost since, draws of before groups told of themselves, a recipe with a part of the user's own."""
    with Store(":memory:") as store:
        (entry,) = ran(store, LINES[1])
        store._db.execute("DELETE FROM draws WHERE digest = (SELECT MIN(digest) FROM draws)")
        shapes = [[math.isnan(value) for value in each.logq] for each in replays(store, entry.run)]
        assert sorted(shapes) == [[False] * 4, [False] * 4, [True] * 4]
        assert (replays(store, entry.run._replace(recipe="mine(3) | vote"))) == []
    with Store(":memory:") as store:
        (entry,) = ran(store, LINES[1], engine=Grouped(tell=False))
        assert [len(each.logq) for each in replays(store, entry.run)] == [4, 4, 4]
        assert build_report(store, [entry], title="t", baseline=entry.name).explored == ()


@pytest.fixture
def report() -> Any:
    with Store(":memory:") as store:
        yield build_report(store, ran(store, *LINES), title="t", baseline=LINES[0])


def test_a_report_tells_of_every_run_that_explored(report: Report) -> None:
    lss, css = report.explored
    assert (lss.recipe, lss.policy, lss.num_groups, lss.num_draws) == ("repeat(4, explore=lss)", "lss", 3, 12)
    assert (lss.guided, lss.remembered, lss.logp) == (0.25, 4.0, -2.0)
    assert lss.logq == pytest.approx(-0.875)
    assert (css.recipe, css.policy, css.num_groups) == (LINES[2].rpartition(" | ")[0], "css", 9)
    assert math.isnan(lss.temperature)
    for view in report.views:
        plain, lss_pool, _ = view.pools
        assert all(math.isnan(draw.logq) for draw in plain.draws)
        assert [draw.logq for draw in lss_pool.draws] == [-0.5, -0.75, -1.0, -1.25]


def test_two_choices_on_one_run_are_one_row() -> None:
    with Store(":memory:") as store:
        (entry,) = ran(store, LINES[1])
        both = [entry, ReportEntry("first", entry.run, "first")]
        assert len(build_report(store, both, title="t", baseline="first").explored) == 1


def test_the_page_has_a_section_for_it(report: Report, small: Report) -> None:
    text = render_html(report)
    (section,) = re.findall('<section [^>]*id="explored">.*?</section>', text, re.S)
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', section)
    assert heads == ["Policy", "Groups", "Guided", "Remembered", "Log-prob"]  # what was measured
    row = re.findall(r'<tr role="row"><th scope="row".*?</tr>', section, re.S)[0]
    assert re.findall("<td[^>]*>([^<]*)</td>", row) == ["3", "25%", "4", "−2.0 → −0.9"]
    assert '<p class="note">Draws of one group are not independent' in section
    assert "How draws explored" not in render_html(small)
    hostile = ExplorationSummary("<b>", "<i>", 1, 1, dependent=False, problems=("<u>",))
    (section,) = re.findall(
        '<section [^>]*id="explored">.*?</section>', render_html(small._replace(explored=(hostile,))), re.S
    )
    assert not re.findall("<[biu]>", section)
    assert section.count("note") == 1
    assert "&lt;i&gt;: &lt;u&gt;" in section


def test_draws_carry_both_log_probs(report: Report) -> None:
    plain, lss, _ = compact.draw_columns(report.views[0])["pools"]
    assert plain["logq"] is None
    assert lss["logq"] == [-0.5, -0.75, -1, -1.25]
    assert lss["logp"] == [-2, -2, -2, -2]


def test_the_other_writers_tell_it(report: Report) -> None:
    data = report_json(report)
    assert json.loads(json.dumps(data, allow_nan=False))["explored"][0] == {
        **dict.fromkeys(name for name in ExplorationSummary._fields if name != "members"),
        "recipe": "repeat(4, explore=lss)",
        "policy": "lss",
        "num_groups": 3,
        "num_draws": 12,
        "guided": 0.25,
        "remembered": 4.0,
        "logp": -2.0,
        "logq": pytest.approx(-0.875),
        "dependent": True,
        "problems": [],
    }
    assert "- `repeat(4, explore=lss)`: explores by lss: means of 3 groups, 12 draws; 25% of" in render_markdown(report)


# --- the commands -----------------------------------------------------------------------------------------------------


def test_show_and_report_tell_it(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        (entry,) = ran(store, LINES[1])
    where = ["--store", str(tmp_path / "s.db")]
    done = CliRunner().invoke(app, ["show", *where, "--json"])
    assert done.exit_code == 0
    assert "explores by lss: means of 3 groups, 12 draws; 25% of the tokens guided" in " ".join(done.stdout.split())
    assert json.loads(done.stdout.splitlines()[-1])["explored"]["num_groups"] == 3
    done = CliRunner().invoke(app, ["show", entry.run.id, "--question", "q1", *where])
    assert "explores by lss: 4 draws; 25% of the tokens guided" in " ".join(done.stdout.split())
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", *where, "--output", str(page)])
    assert done.exit_code == 0
    assert "means of 3 groups" in done.stdout
    assert "How draws explored" in page.read_text("utf-8")


def test_show_says_nothing_of_what_did_not_explore(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        ran(store, LINES[0])
    done = CliRunner().invoke(app, ["show", "--store", str(tmp_path / "s.db"), "--json"])
    assert done.exit_code == 0
    assert "explores" not in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["explored"] is None


def test_ask_tells_it_of_the_bundled_model() -> None:
    pytest.importorskip("torch", reason="the local engine's extra is not installed")
    line = "repeat(4, explore=lss, max_tokens=40) | vote"
    done = CliRunner().invoke(app, ["ask", "make 24 from 4 6 7 8", "-e", "tiny", "-r", line])
    assert done.exit_code == 0
    said = " ".join(done.stdout.split())
    assert re.search(r"explores by lss: 4 draws; \d+% of the tokens guided; .*\d+ draws remembered", said)
    assert DEPENDENCE in said
