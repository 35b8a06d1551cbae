"""A recipe over a task: same work, same figures, whatever order, interruption or selector."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from samplewise.core.bill import CostSplit, bill_json
from samplewise.core.errors import BadRequest, ContextOverflow, SetupError
from samplewise.core.events import Event, Started, Stopped
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.spec import Spec
from samplewise.core.types import Ask, Candidate, Generate, Message, Pool, Problem, Question, Score, Selection, Usage
from samplewise.engines.base import Arrival, failed
from samplewise.engines.toy import Toy
from samplewise.loop.ledger import Budget
from samplewise.recipe import parse_choice, recipe
from samplewise.report.build import ReportEntry, build_report
from samplewise.runs.arrays import Outcomes, load_outcomes
from samplewise.runs.bills import bill_run
from samplewise.runs.redecide import accuracy_at, coverage_at, redecide, rescore
from samplewise.runs.run import run_task
from samplewise.select.base import Round, Selector
from samplewise.select.best import best
from samplewise.select.fit import fitted
from samplewise.select.votes import vote
from samplewise.store.database import Store
from samplewise.store.records import GRADE
from samplewise.tasks.base import Task

LINE = "repeat(10, max_tokens=4) | vote"


def make_task(num: int = 12) -> Task:
    """Say a word of the toy's language; the reference is one letter, right if the response begins with it."""

    def read(question: Question, text: str) -> str | None:
        return text[:2] or None

    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer is not None and answer[0] == problem.reference))

    problems = [Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "abc"[i % 3]) for i in range(num)]
    return Task("words", tuple(problems), read, grade)


def run(store: Store, line: str = LINE, *, seed: int = 0, **more: object) -> object:
    return asyncio.run(run_task(make_task(), recipe(line), Toy(3), store, seed=seed, **more))  # type: ignore[arg-type]


def state(store: Store) -> object:
    """Everything but the clock."""
    runs = [(r.id, r.recipe, r.task, r.seed) for r in store.runs()]
    return runs, [list(store.records(r[0])) for r in runs], [store.selections(r[0]) for r in runs]


def test_the_same_work_gives_the_same_store_whatever_the_concurrency() -> None:
    with Store(":memory:") as one, Store(":memory:") as many:
        run(one, concurrency=1)
        run(many, concurrency=12)
        assert state(one) == state(many)


def test_another_seed_draws_other_responses() -> None:
    with Store(":memory:") as store:
        run(store, seed=0)
        run(store, seed=1)
        first, second = (list(store.records(r.id)) for r in store.runs())
        assert [r.answers for r in first] != [r.answers for r in second]
        assert store.num_draws() == 240


def test_a_cancelled_run_goes_on_and_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    with Store(":memory:") as whole:
        full = run(whole)
        expected = state(whole)
    stopped = 0

    async def cut() -> object:
        cancel = asyncio.Event()

        def on_event(event: Event, /) -> None:
            nonlocal stopped
            stopped += isinstance(event, Stopped)
            if stopped == 5:
                cancel.set()

        with Store(tmp_path / "s.db") as store:
            return await run_task(
                make_task(), recipe(LINE), Toy(3), store, concurrency=1, on_event=on_event, cancel=cancel
            )

    first = asyncio.run(cut())
    assert first.cancelled  # type: ignore[attr-defined]
    assert 0 < first.num_done < 12  # type: ignore[attr-defined]
    events: list[Event] = []
    with Store(tmp_path / "s.db") as store:
        second = run(store, on_event=events.append)
        assert state(store) == expected
    assert events[0] == Started(second.run, 12, first.num_done)  # type: ignore[attr-defined]
    assert first.paid.requests + second.paid.requests == full.paid.requests  # type: ignore[attr-defined]


def test_a_budget_is_split_evenly_and_holds(tmp_path: Path) -> None:
    with Store(":memory:") as store:
        done = run(store, budget=Budget(requests=50))
        spent = [outcome.spent.requests for outcome in store.outcomes(done.run)]  # type: ignore[attr-defined]
        assert spent == [5, 5] + [4] * 10


def test_deciding_again_gives_what_a_run_with_that_selector_gave() -> None:
    for selector in ("vote", "first", "best(likelihood)", "weighted(likelihood)"):
        with Store(":memory:") as store, Store(":memory:") as other:
            run(store, "repeat(10, max_tokens=4) | first")
            run(other, f"repeat(10, max_tokens=4) | {selector}")
            (stored,), (wanted,) = store.runs(), other.runs()
            redecide(store, stored, selector)
            mine = [row for row in store.selections(stored.id) if row[1] == selector]
            assert mine == other.selections(wanted.id)


@pytest.mark.parametrize("name", ["vote", "first", "best(likelihood)", "weighted(likelihood)"])
def test_a_selector_without_a_formula_is_measured_by_subsets(name: str) -> None:
    with Store(":memory:") as store:
        run(store)
        (stored,) = store.runs()
        _, selector, verifiers = parse_choice(name)
        rescore(store, stored.id, verifiers)
        outcomes = load_outcomes(store, stored.id, scores=tuple(verifiers))
        bare = Selector("bare", selector.choose)
        ks = np.array([1, 4, 10])
        exact = accuracy_at(store, outcomes, selector, ks, Key(0))
        drawn = accuracy_at(store, outcomes, bare, ks, Key(0))
        # 64 subsets a problem, 12 problems: standard error at most .5 / sqrt(768) = .018, bound 4 of them: odds < 1e-4
        assert np.abs(exact.mean(axis=1) - drawn.mean(axis=1)).max() < 0.072


def test_tokens_count_everything() -> None:
    with Store(":memory:") as store:
        done = run(store)
        outcomes: Outcomes = load_outcomes(store, done.run)  # type: ignore[attr-defined]
        assert outcomes.tokens.sum() == done.spent.tokens  # type: ignore[attr-defined]
        (stored,) = store.runs()
        bill = bill_run(store, stored, recipe(stored.recipe))
        assert bill.whole().tolist() == outcomes.tokens.tolist()


def test_rows_of_a_report_stand_at_equal_tokens_beside_their_ceiling() -> None:
    with Store(":memory:") as store:
        run(store)
        run(store, "vary(ladder) | repeat(10, max_tokens=4) | vote")
        run(store, "repeat(10, max_tokens=4) | until(lead(2)) | vote")
        entries = [ReportEntry(r.recipe, r, str(recipe(r.recipe).stages.selector)) for r in store.runs()]
        report = build_report(store, entries, title="t", baseline=LINE)
    assert report.views
    assert len(report.series) == 6
    for method in report.methods:
        assert method.tokens <= report.tokens + 1e-9
        assert method.accuracy.value <= method.coverage.value + 1e-12
        assert (method.difference is None) == (method.name == LINE)
    plain, ladder, stopping = report.methods
    assert plain.recipe == f"repeat({plain.num_draws}, max_tokens=4) | vote"
    assert "ladder" in ladder.recipe
    assert "until(lead(2))" in stopping.recipe
    assert stopping.tokens < plain.tokens
    assert [row.basis for row in report.methods] == ["subsets", "subsets", "orders"]


def test_a_stop_rule_stands_at_its_mean_over_orders_where_the_store_has_its_draws() -> None:
    """The pool's 7 draws have 5,040 orders: all of them give the exact means, 100 come near. One run says so."""
    line = "repeat(7, max_tokens=4) | until(lead(2)) | vote"
    with Store(":memory:") as store:
        run(store, line)
        (stopped,) = store.runs()
        entries = [ReportEntry("lead", stopped, "vote")]
        (alone,) = build_report(store, entries, title="t", baseline="lead").methods
        run(store, "repeat(7, max_tokens=4) | vote")
        run(store, "repeat(7, max_tokens=4, temperature=0.5) | vote")  # other draws
        report = build_report(store, entries, title="t", baseline="lead")
        (row,) = report.methods
        pilot = next(r for r in store.runs() if r.recipe == "repeat(7, max_tokens=4) | vote")
        records = list(store.records(pilot.id))
    assert alone.basis == "one run"
    assert "one run, whose luck is not averaged out: lead" in report._replace(methods=(alone,)).basis_notes[-1]
    grades, rule = [], build("stop", "lead(2)")
    for record in records:
        for order in itertools.permutations(range(7)):
            state, seen = rule.start(record.problem.question), list[int]()
            while len(seen) < 7 and not rule.verdict(state, Usage()):
                seen.append(order[len(seen)])
                state = rule.see(state, record.pool.candidates[seen[-1]], record.answers[seen[-1]])
            pool = Pool(tuple(record.pool.candidates[i] for i in seen))
            position = vote().choose(Key(0), pool, tuple(record.answers[i] for i in seen)).position
            grades.append(0.0 if position is None else record.grades[seen[position]])
    assert row.basis == "orders"
    # 12 problems x 100 orders: standard errors of at most .5 / sqrt(1200) = .0145; 4.5 of them: odds below 1e-5
    assert row.accuracy.value == pytest.approx(np.mean(grades), abs=0.065)
    assert 0 < row.run_deviation < 0.25
    assert f"lead {row.run_deviation:.3f}" in report.basis_notes[0]


def test_draws_without_a_grade_are_left_out_by_every_method() -> None:
    """Not the whole question: the methods would be compared on different ones, or the hard ones would be gone."""

    def grade(problem: Problem, answer: str | None) -> Score:
        is_unknown = problem.question.id == "q1" or (answer is not None and answer.startswith("a"))
        return Score(math.nan) if is_unknown else Score(float(answer is not None and answer[0] == problem.reference))

    task = replace(make_task(), grade=grade)
    lines = ("repeat(10, max_tokens=4)", "repeat(10, max_tokens=4) | until(agreement)")
    with Store(":memory:") as store:
        for line in lines:
            asyncio.run(run_task(task, recipe(f"{line} | vote"), Toy(3), store))
        plain, stopped = (next(r for r in store.runs() if r.recipe == f"{line} | vote") for line in lines)
        outcomes, ks = load_outcomes(store, plain.id), np.array([1, 3])
        grades = outcomes.graded.grades
        assert np.isnan(grades).any(axis=1).sum() > 6
        by_formula = accuracy_at(store, outcomes, vote(), ks, Key(0))
        by_subsets = accuracy_at(store, outcomes, replace(vote(), expected=None), ks, Key(0))
        entries = [ReportEntry("plain", plain, "vote"), ReportEntry("stopped", stopped, "vote")]
        rows = {row.name: row for row in build_report(store, entries, title="", baseline="plain").methods}
    known = ~np.isnan(grades).all(axis=1)
    assert 0 < (~known).sum() < 6
    for accuracy in (by_formula, by_subsets):
        assert (np.isnan(accuracy) == ~known).all()
    assert np.nanmean(np.abs(by_formula - by_subsets)) < 0.05
    assert rows["stopped"].basis == "orders"
    for row in rows.values():
        assert row.coverage.num_problems == known.sum()
    assert rows["stopped"].accuracy.num_problems >= known.sum() - 1, "one question's vote never has a grade"


def test_a_question_without_a_draw_is_wrong_in_every_figure() -> None:
    class Refusing(Toy):
        async def answer(self, asks: Sequence[Ask]) -> AsyncGenerator[Arrival, None]:
            taken = [i for i, ask in enumerate(asks) if ask.messages[0].content not in ("word 2", "word 5")]
            for i in set(range(len(asks))) - set(taken):
                yield Arrival(i, failed(ContextOverflow("refused")))
            async for position, completion in super().answer([asks[i] for i in taken]):
                yield Arrival(taken[position], completion)

    lines = ("repeat(6, max_tokens=4) | vote", "repeat(6, max_tokens=4) | until(lead(2)) | vote")
    with Store(":memory:") as store:
        summaries = [asyncio.run(run_task(make_task(), recipe(line), Refusing(3), store)) for line in lines]
        assert all(summary.accuracy[2] == summary.accuracy[5] == 0 for summary in summaries)
        runs = [next(run for run in store.runs() if run.id == summary.run) for summary in summaries]
        outcomes, ks = load_outcomes(store, runs[0].id), np.array([1, 6])
        figures = [
            accuracy_at(store, outcomes, vote(), ks, Key(0)),
            accuracy_at(store, outcomes, replace(vote(), expected=None), ks, Key(0)),
            coverage_at(store, outcomes, ks, Key(0)),
        ]
        entries = [ReportEntry(run.recipe, run, "vote") for run in runs]
        rows = build_report(store, entries, title="", baseline=lines[0]).methods
    for figure in figures:
        assert (figure[:, [2, 5]] == 0).all()
        assert not np.isnan(figure).any()
    assert [(row.accuracy.num_problems, row.coverage.num_problems) for row in rows] == [(12, 12)] * 2


def test_a_curve_counts_asks_that_failed_as_they_are_paid_for() -> None:
    """k draws were credited for k asks, though two in six asks of some questions gave none."""

    class Failing(Toy):
        async def answer(self, asks: Sequence[Ask]) -> AsyncGenerator[Arrival, None]:
            lost = {
                i
                for i, ask in enumerate(asks)
                if isinstance(ask, Generate) and ask.draw in (1, 4) and ask.messages[0].content < "word 5"
            }
            for i in lost:
                yield Arrival(i, failed(BadRequest("lost"), Usage(1, 5, 0)))
            kept = [i for i in range(len(asks)) if i not in lost]
            async for position, completion in super().answer([asks[i] for i in kept]):
                yield Arrival(kept[position], completion)

    line = "repeat(6, max_tokens=4) | vote"
    with Store(":memory:") as store:
        asyncio.run(run_task(make_task(), recipe(line), Failing(3), store))
        (stored,) = store.runs()
        outcomes = load_outcomes(store, stored.id)
        report = build_report(store, [ReportEntry("mine", stored, "vote")], title="", baseline="mine")
    (curve,) = (series for series in report.series if series.kind == "coverage")
    grades = [row[~np.isnan(row)] for row in outcomes.graded.grades]
    assert {len(row) for row in grades} == {4, 6}
    for point in curve.points:
        best = []
        for row in grades:
            asks = [*row, *[0.0] * (6 - len(row))]  # an ask that failed is none of the right ones
            best.append(np.mean([max(some) for some in itertools.combinations(asks, point.num_draws)]))
        assert point.value == pytest.approx(np.mean(best))


def test_one_run_knows_no_coverage_of_what_could_not_be_graded() -> None:
    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(math.nan if problem.question.id == "q1" else float(answer is not None))

    line = "repeat(6, max_tokens=4) | until(lead(2)) | vote"
    with Store(":memory:") as store:
        asyncio.run(run_task(replace(make_task(), grade=grade), recipe(line), Toy(3), store))
        (entry,) = (ReportEntry("stopped", run, "vote") for run in store.runs())
        (row,) = build_report(store, [entry], title="", baseline="stopped").methods
    assert row.basis == "one run"
    assert (row.accuracy.num_unscored, row.coverage.num_unscored) == (1, 1)


def test_curves_of_a_mix_deal_arms_as_the_recipe_does() -> None:
    """Arms that are right at once and never: two draws in turn hold one of each, so coverage at 2 is 1, not 3/4."""
    arms, grades = ("direct", "b", "direct", "b"), (1.0, 0.0, 1.0, 0.0)
    with Store(":memory:") as store:
        run(store, "vary(ladder(0.5)) | repeat(4, max_tokens=4) | first")
        (stored,) = store.runs()
        for record in list(store.records(stored.id)):
            candidates = tuple(c._replace(arm=a) for c, a in zip(record.pool.candidates, arms, strict=True))
            mixed = record._replace(pool=record.pool._replace(candidates=candidates), answers=("y", "n", "y", "n"))
            selection = Selection("y", 0, (1.0, 0.0, 0.0, 0.0))
            store.save(stored.id, mixed._replace(grades=grades), "first", selection, 1.0)
        outcomes = load_outcomes(store, stored.id)
        ks = np.array([1, 2, 3, 4])
        assert (coverage_at(store, outcomes, ks, Key(0)) == 1.0).all()
        accuracy = {name: accuracy_at(store, outcomes, parse_choice(name)[1], ks, Key(0)) for name in ("first", "vote")}
    assert (accuracy["first"] == 1.0).all()  # over all subsets it is .5
    # a tie of one with one is drawn by the key, 12 problems x 64 orders: .5 with a standard error of .018
    assert accuracy["vote"].mean(axis=1) == pytest.approx([1.0, 0.5, 1.0, 0.5], abs=0.08)


def test_tokens_that_pay_for_no_draw_give_no_accuracy() -> None:
    with Store(":memory:") as store:
        run(store)
        (stored,) = store.runs()
        report = build_report(store, [ReportEntry("vote", stored, "vote")], title="t", baseline="vote", tokens=1.0)
    (row,) = report.methods
    assert (row.num_draws, row.tokens, row.recipe) == (0, 0.0, "repeat(1, max_tokens=4) | vote")
    assert math.isnan(row.accuracy.value)


class Slow(Toy):
    """Answers after a moment each, so that a stop rule can act while asks are in flight."""

    async def answer(self, asks: Sequence[Ask]) -> AsyncGenerator[Arrival]:
        for position, ask in enumerate(asks):
            await asyncio.sleep(0)
            yield Arrival(position, self.one(ask))


def test_what_a_stop_rule_saves_is_not_paid() -> None:
    with Store(":memory:") as store:
        line = recipe("repeat(10, max_tokens=4) | until(lead(2)) | vote")
        done = asyncio.run(run_task(make_task(), line, Slow(3), store))
        assert done.paid.requests == done.spent.requests < 120


def test_comparing_a_million_stored_outcomes_reads_no_texts(tmp_path: Path) -> None:
    """1,000 problems x 1,000 draws: pass@k and majority vote with intervals, from the file to the figures, in CPU
    time of one core, against that of parsing answers and bills alone: about 28 times that, and 200 with the texts."""
    num, draws = 1000, 1000
    rng = Key(0).generator()
    with Store(tmp_path / "big.db") as store:
        task = make_task(2)
        asyncio.run(run_task(task, recipe("repeat(2) | vote"), Toy(3), store))
        (stored,) = store.runs()
        record = next(iter(store.records(stored.id)))
        db = store._db
        db.execute("BEGIN")
        db.execute("DELETE FROM scores")
        db.execute("DELETE FROM selections")
        db.execute("DELETE FROM pools")
        plain = [name for name in Candidate._fields if name != "scores"]
        columns = json.dumps({n: [getattr(Candidate("a"), n)] * draws for n in plain} | {"num_failed": 0})
        bill = json.dumps(bill_json(CostSplit(draws=tuple(Usage(1, 1, 2 + i % 5) for i in range(draws)))))
        for i in range(num):
            kinds = rng.integers(0, 12, draws)
            grades = (kinds == 0).astype(float)
            answers = json.dumps([str(k) for k in kinds])
            problem = json.dumps([[f"q{i}", [], {}], None])
            row = (stored.id, f"q{i}", i, "[1000, 5, 4995]", '["finished", {}]', answers, problem, columns, bill)
            db.execute("INSERT INTO pools VALUES (?,?,?,?,?,?,?,?,?)", row)
            db.execute("INSERT INTO scores VALUES (?,?,?,?)", (stored.id, f"q{i}", GRADE, array("d", grades).tobytes()))
        db.execute("COMMIT")
        assert record.grades
        started = time.process_time()
        for answers, bill in db.execute("SELECT answers, bill FROM pools"):
            answers, bill = json.loads(answers), json.loads(bill)
            assert sum(bill[1][1][2]) + len(set(answers)) > 0
        yardstick = time.process_time() - started  # reads what must be read once, at this machine's speed of today
        started = time.process_time()
        entries = [ReportEntry("vote", stored, "vote"), ReportEntry("first", stored, "first")]
        report = build_report(store, entries, title="t", baseline="vote", views=False)
        elapsed = time.process_time() - started
    assert report.methods[0].num_draws == draws
    assert elapsed < 50 * yardstick, f"{elapsed:.1f} s, {elapsed / yardstick:.1f} times reading alone"


MEMORY = """
import asyncio
from pathlib import Path
from samplewise.engines.toy import Toy
from samplewise.runs.run import run_task
from samplewise.recipe import recipe
from samplewise.store.database import Store
from tests_task import make_task
with Store("draws.db") as store:
    done = asyncio.run(run_task(make_task(100), recipe("repeat(1000, max_tokens=4) | vote"), Toy(3), store))
assert done.paid.requests == 100_000
# of this program alone: ru_maxrss begins with what the process had that started it
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(int(peak.split()[1]) / 1024)
"""


@pytest.mark.slow
def test_a_run_of_100000_draws_stays_under_1_gb(tmp_path: Path) -> None:
    (tmp_path / "tests_task.py").write_text(Path(__file__).read_text())
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1024, f"{done.stdout} MB"


def test_a_selector_that_learns_from_labels_never_chooses_for_what_it_learned_from() -> None:
    """Every question is chosen for by a selector that was fitted on the other folds, and all folds are used."""
    seen: list[tuple[set[str], set[str]]] = []  # prompts' answers learned from, and chosen for

    def fit(rounds: Sequence[Round]) -> Selector:
        assert all(each.grades is not None for each in rounds)
        learned = {str(each.pool.candidates) for each in rounds}
        chosen: set[str] = set()
        seen.append((learned, chosen))

        def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
            chosen.add(str(pool.candidates))
            return vote().choose(key, pool, answers)

        return Selector("learner", choose)

    learner = Selector("learner", vote().choose, fit=fit, needs_labels=True)
    with Store(":memory:") as store:
        run(store)
        (stored,) = store.runs()
        rounds = [Round(r.pool, r.answers, r.grades) for r in store.records(stored.id)]
    for each, choosing in zip(rounds, fitted(learner, rounds, Key(0)), strict=True):
        choosing.choose(Key(0), each.pool, each.answers)
    assert len(seen) == 5
    assert len(set.union(*(chosen for _, chosen in seen))) == 12
    for learned, chosen in seen:
        assert chosen
        assert not learned & chosen
        assert len(learned | chosen) == 12


def test_selectors_that_learn_are_used_by_name() -> None:
    with Store(":memory:") as store:
        run(store)
        (stored,) = store.runs()
        plain = redecide(store, stored, "vote")
        assert redecide(store, stored, "dawid_skene") == plain, "one arm: plurality"
        assert len(redecide(store, stored, "learned")) == len(redecide(store, stored, "log_pool(fallback=True)")) == 12
        outcomes = load_outcomes(store, stored.id)
        _, chosen, _ = parse_choice("learned")
        assert accuracy_at(store, outcomes, chosen, np.array([3]), Key(0)).shape == (1, 12)


def test_an_error_of_a_grader_is_said_once(tmp_path: Path) -> None:
    """What the user must change comes out as itself, not as a group of one error a question."""

    def grade(problem: Problem, answer: str | None) -> Score:
        raise SetupError("install the grader")

    task = Task("broken", make_task().problems, make_task().read, grade)
    with Store(tmp_path / "s.db") as store, pytest.raises(SetupError, match="install the grader"):
        asyncio.run(run_task(task, recipe(LINE), Toy(3), store))


class Reader(NamedTuple):
    """A verifier that computes 7 tokens for each candidate, and likes long ones."""

    asked: list[int]

    def __call__(self, question: Question, candidate: Candidate) -> Score:
        return Score(self.score_all([(question, candidate)])[0])

    def score_all(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[float]:
        self.asked.append(len(pairs))
        return [float(len(candidate.text)) for _, candidate in pairs]

    def tokens_of(self, question: Question, candidate: Candidate) -> int:
        return 7


def test_tokens_that_a_verifier_computes_are_counted_and_asked_for_together() -> None:
    task = make_task(2)
    plain, reading = recipe(LINE), Reader([])
    line = replace(
        plain,
        stages=plain.stages._replace(selector=Spec("best", (Spec("reader"),))),
        verifiers={"reader": reading},
        selector=best("reader"),
    )
    with Store(":memory:") as store:
        drawn = asyncio.run(run_task(task, plain, Toy(3), store))
        scored = asyncio.run(run_task(task, line, Toy(3), store))
        tight = Budget(tokens=drawn.spent.tokens + 2 * 7 * 4)
        some = asyncio.run(run_task(task, line, Toy(3), store, budget=tight))
        run_of = {run.id: run for run in store.runs()}
        bill = bill_run(store, run_of[drawn.run], line)
        assert bill.parts(10).verifiers == 10 * 7.0
        assert bill.parts(3).verifiers == 3 * 7.0
    assert scored.spent.tokens == drawn.spent.tokens + 2 * 10 * 7
    assert reading.asked[:2] == [10, 10], "all of a question's candidates at once"
    assert drawn.spent.tokens < some.spent.tokens <= (tight.tokens or 0)
