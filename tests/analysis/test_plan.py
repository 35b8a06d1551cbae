"""Replays against rules run by hand, plans against worlds whose best recipe is known, and both commands."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samplewise.analysis.plan.calibrate import CalibrationGoal, calibrate_run, targets_by_question
from samplewise.analysis.plan.make import PlanSettings, RunPlan, choose_option, forecast_cost, plan_run
from samplewise.analysis.plan.options import NAN, Goal, Option
from samplewise.cli import main
from samplewise.core.errors import BadRequest, SetupError
from samplewise.core.files import data_folder
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import (
    Ask,
    Candidate,
    Generate,
    Message,
    Pool,
    Problem,
    Question,
    Score,
    Selection,
    Stop,
    Usage,
)
from samplewise.engines.base import Arrival, failed
from samplewise.engines.toy import Toy
from samplewise.measure import Estimate, pass_at
from samplewise.measure.extrapolate import PassModel
from samplewise.recipe import parse_choice, recipe
from samplewise.report.build import ReportEntry, build_report
from samplewise.report.html import render_html
from samplewise.report.plan_page import plan_report
from samplewise.runs.arrays import load_outcomes
from samplewise.runs.bills import RunBill, bill_run
from samplewise.runs.orders import StoredPool, draw_orders, replay_pools, replay_rule, stored_pools
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.records import Record, Run
from samplewise.tasks.base import Task

NUM, DRAWS = 40, 16


def stored_run(store: Store, line: str = "repeat(16) | vote", *, num: int = NUM, usd: float = 0.0) -> Run:
    """A pilot without an engine: chances from a Beta, an exact score `puzzle`, and `likelihood`, a noisy one in [0, 1].
    Harder questions have longer draws, as real ones do."""
    run = Run("pilot", line, "made up", "nobody", 0, {"engine": {"name": "nobody"}}, 0.0, None)
    store.start_run(run)
    generator = Key(1).generator()
    for number in range(num):
        chance = generator.beta(0.8, 1.2)
        right = generator.random(DRAWS) < chance
        sure = np.where(right, generator.beta(6, 2, DRAWS), generator.beta(2, 4, DRAWS))
        answers = tuple("yes" if ok else f"no{generator.integers(4)}" for ok in right)
        length = 10 + round(20 * (1 - chance))
        pool = Pool(
            tuple(
                Candidate(f"text {answer}", num_tokens=length, scores={"likelihood": float(s), "puzzle": float(ok)})
                for answer, s, ok in zip(answers, sure, right, strict=True)
            )
        )
        question = Question(f"q{number}", (Message("user", f"{number}"),))
        spent = Usage(DRAWS, 4 * DRAWS, length * DRAWS, usd=usd)
        record = Record(
            Problem(question, "yes"), number, pool, answers, tuple(map(float, right)), spent, Stop("finished")
        )
        store.save(run.id, record, "vote", Selection(answers[0], 0), float(right[0]))
    store.end_run(run.id)
    return store.runs()[0]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(":memory:") as opened:
        yield opened


# --- replays ----------------------------------------------------------------------------------------------------------


def pool(answers: str, grades: str, costs: tuple[float, ...] | None = None) -> StoredPool:
    num = len(answers)
    candidates = tuple(Candidate(a, scores={"puzzle": float(g)}) for a, g in zip(answers, grades, strict=True))
    return StoredPool(Question("q", ()), candidates, tuple(answers), tuple(map(float, grades)), costs or (1.0,) * num)


def test_a_replay_is_the_rule_on_that_order() -> None:
    one = pool("abbaab", "011001", (1.0, 2.0, 4.0, 8.0, 16.0, 32.0))
    rule = build("stop", "lead(2)")
    found = replay_rule(rule, one, [1, 0, 3, 5, 4, 2])
    assert (found.draws, found.tokens) == (5, 2 + 1 + 8 + 32 + 16) if found.stop else found.draws == 6
    for order in itertools.permutations(range(6), 5):
        found = replay_rule(rule, one, order)
        by_hand = next(
            (n for n in range(1, 6) if abs(sum(1 if one.answers[i] == "a" else -1 for i in order[:n])) >= 2), None
        )
        assert found.draws == (by_hand or 5)
        assert (found.stop is None) == (by_hand is None)
        assert found.tokens == sum(one.costs[i] for i in order[: found.draws])
        if found.stop is not None:
            assert found.stop.reason == "settled"
            assert found.stop.evidence["rule"] == "lead"


def test_a_rule_sees_what_was_spent() -> None:
    from samplewise.stop.base import StopRule

    rule = StopRule(
        "thrifty",
        lambda question: 0,
        lambda state, candidate, answer: state + 1,
        lambda state, spent: Stop("cap") if spent.tokens >= 5 else None,
    )
    one = pool("aaaa", "1111", (2.0, 2.0, 2.0, 2.0))
    assert replay_rule(rule, one, [3, 2, 1, 0]).draws == 3


def test_first_pass_has_the_draws_and_the_success_of_the_closed_form() -> None:
    """Without replacement from c right of n: P(solved by k) is pass@k, the mean draws the sum of what is left over."""
    pools = [
        pool("y" * c + "n" * (12 - c), "1" * c + "0" * (12 - c))._replace(question=Question(f"{c}", ()))
        for c in range(7)
    ]
    rule, selector = build("stop", "passed(puzzle)"), parse_choice("best(puzzle)")[1]
    found = replay_pools([rule] * 7, selector, pools, Key(3), caps=[4, 12], num_orders=1000)
    grades = np.array([each.grades for each in pools])
    for each in found:
        exact = pass_at(grades, [each.cap])[0]
        assert each.grades.mean(axis=1) == pytest.approx(exact, abs=0.064)  # four standard errors at 1,000 orders
        left = 1 + (1 - pass_at(grades, list(range(1, each.cap)))).sum(axis=0)
        assert each.draws.mean(axis=1) == pytest.approx(left, abs=0.5)
        assert (each.tokens == each.draws).all()
    assert found[1].reasons["cap"] == pytest.approx(1 / 7)  # only the question without a right draw
    assert found[0].reasons["cap"] > found[1].reasons["cap"]
    again = replay_pools([rule] * 7, selector, pools, Key(3), caps=[4], num_orders=1000)
    assert (again[0].draws == found[0].draws).all(), "all caps share the orders"


@pytest.mark.slow
def test_first_pass_on_recorded_game24() -> None:
    """Solved and mean draws of the first pass on 100 draws of GPT-4 a puzzle, at caps of 1 to 100."""
    if data_folder() is None:
        pytest.skip("the recorded draws are not at hand")
    from samplewise.recorded import load_recording

    pools = []
    for problem, draws in zip(*load_recording("game24_gpt4_100x/cot")[1:3], strict=True):
        grades = tuple(draw.grade for draw in draws)
        candidates = tuple(Candidate("", scores={"puzzle": grade}) for grade in grades)
        pools.append(StoredPool(problem.question, candidates, ("",) * 100, grades, (1.0,) * 100))
    caps, solved = [1, 5, 10, 20, 50, 100], [0.040, 0.143, 0.215, 0.295, 0.407, 0.490]
    rules, selector = [build("stop", "passed(puzzle)")] * 100, parse_choice("best(puzzle)")[1]
    found = replay_pools(rules, selector, pools, Key(5), caps=caps, num_orders=50)
    assert [each.grades.mean() for each in found] == pytest.approx(solved, abs=0.015)
    mean_draws = [1.00, 4.66, 8.79, 16.24, 35.51, 62.89]
    assert [each.draws.mean() for each in found] == pytest.approx(mean_draws, rel=0.02)


def test_orders_are_permutations_by_the_key() -> None:
    orders = draw_orders(["direct"] * 7, Key(4), 50)
    assert (np.sort(orders, axis=1) == np.arange(7)).all()
    assert (orders == draw_orders(["direct"] * 7, Key(4), 50)).all()
    assert len({tuple(o) for o in orders.tolist()}) > 45
    arms = ["a", "b", "c", "a", "b", "c", "a"]
    dealt = draw_orders(arms, Key(4), 300)
    assert all([arms[i] for i in order] == arms for order in dealt.tolist())
    assert len({tuple(o) for o in dealt.tolist()}) == 6 * 2 * 2
    with pytest.raises(ValueError, match="caps must be"):
        replay_pools([], parse_choice("vote")[1], [pool("ab", "10")], Key(0), caps=[3])


def test_a_replay_costs_the_draws_of_its_order() -> None:
    one = pool("aaaa", "1111", (1.0, 2.0, 4.0, 8.0))
    found = replay_pools([build("stop", "cap(2)")], parse_choice("vote")[1], [one], Key(7), caps=[4], num_orders=200)[0]
    assert set(found.tokens[0].tolist()) == {3.0, 5.0, 6.0, 9.0, 10.0, 12.0}


def test_where_only_a_sum_is_known_a_draw_costs_its_tokens_and_an_even_share_of_the_rest(store: Store) -> None:
    run = stored_run(store, num=2)
    bill = bill_run(store, run, recipe(run.recipe))
    first = stored_pools(store, run.id, bill)[0]
    assert set(first.costs) == {first.candidates[0].num_tokens + 4.0}
    assert (first.fixed, first.rest, bill.note) == (0.0, 0.0, "")
    assert first.cost([3, 1]) == 2 * first.costs[0]


def test_what_unknown_helpers_cost_is_said(store: Store) -> None:
    run = stored_run(store, "vary(idea(2)) | repeat(16) | vote", num=10)
    bill = bill_run(store, run, recipe(run.recipe))
    assert "what its helpers cost is not known" in bill.note
    assert bill.whole().sum() == sum(outcome.spent.tokens for outcome in store.outcomes(run.id))
    assert bill.note in plan_run(store, run, settings=PlanSettings(selectors=["vote"], num_orders=20)).notes
    report = build_report(store, [ReportEntry("ideas", run, "vote")], title="", baseline="ideas")
    assert bill.note in report.notes


def pilot_bill(store: Store) -> RunBill:
    return bill_run(store, store.runs()[0], recipe(store.runs()[0].recipe))


# --- plans ------------------------------------------------------------------------------------------------------------


def planned(store: Store, goal: Goal = Goal(), **settings: Any) -> RunPlan:  # noqa: B008 - immutable
    run = store.runs()[0] if store.runs() else stored_run(store)
    return plan_run(store, run, goal, PlanSettings(num_orders=20, **settings))


def test_fixed_numbers_are_the_subset_means(store: Store) -> None:
    plan = planned(store, selectors=["best(puzzle)"])
    grades = np.array([each.grades for each in stored_pools(store, "pilot", pilot_bill(store))])
    fixed = {o.cap: o for o in plan.options if o.kind == "fixed"}
    assert list(fixed) == list(range(1, 17))
    for k, option in fixed.items():
        assert option.accuracy.value == pytest.approx(pass_at(grades, [k])[0].mean())
        assert option.tokens == pytest.approx(k * plan.tokens_per_draw)
        assert option.recipe == f"repeat({k}) | best(puzzle)"
        assert option.range_tokens[0] < option.tokens < option.range_tokens[1]
    assert (plan.num_questions, plan.num_draws) == (NUM, DRAWS)


def test_the_cheapest_that_reaches_an_accuracy_is_the_first_pass(store: Store) -> None:
    """An exact checker: stopping at the first pass has the accuracy of the fixed number at less than its tokens."""
    plan = planned(store, Goal(accuracy=0.8))
    assert plan.best is not None
    assert plan.best.recipe.endswith("until(passed(puzzle)) | best(puzzle)")
    assert plan.best.accuracy.value >= 0.8
    assert plan.best.over_fixed.low > 0
    reaching = [o for o in plan.options if o.kind in ("fixed", "rule") and o.accuracy.value >= 0.8]
    assert plan.best.tokens == min(o.tokens for o in reaching)
    assert recipe(plan.best.recipe).line == plan.best.recipe, "the line can be pasted"
    assert plan.sure is None or plan.sure.accuracy.low >= 0.8
    assert abs(plan.held_out - plan.best.accuracy.value) < 0.1
    whole = next(o for o in plan.options if o.kind == "rule" and o.cap == DRAWS and "passed(puzzle)" in o.recipe)
    assert whole.accuracy.value == pytest.approx(
        next(o for o in plan.options if o.recipe == f"repeat({DRAWS}) | best(puzzle)").accuracy.value
    )


def test_beyond_the_pilot_it_is_the_model_and_says_so(store: Store) -> None:
    plan = planned(store, selectors=["best(puzzle)"])
    most = max(o.accuracy.value for o in plan.options if o.kind != "beyond")
    plan = planned(store, Goal(accuracy=most + 0.01), selectors=["best(puzzle)"])
    grades = np.array([each.grades for each in stored_pools(store, "pilot", pilot_bill(store))])
    model = PassModel(grades)
    if plan.best is not None:
        assert plan.best.kind == "beyond"
        assert plan.answer.startswith("by extrapolation beyond the pilot")
        assert plan.best.cap == model.needed(most + 0.01).draws
        draws = 1 + sum(1 - e.value for e in model.at(range(1, plan.best.cap)))
        assert plan.best.draws == pytest.approx(draws)
    assert any("agreed with the grader" in note for note in plan.notes)
    beyond = [o for o in plan.options if o.kind == "beyond"]
    assert {o.cap for o in beyond} >= {2 * DRAWS, 16 * DRAWS}
    assert all(o.accuracy.value <= plan.ceiling.value + 1e-9 for o in beyond)
    assert plan.ceiling == model.at([16 * DRAWS])[0]
    for option in beyond:
        assert option.costs.mean() == pytest.approx(option.tokens, rel=0.02), "200 questions stand for the law"
        assert option.range_tokens[0] <= option.tokens <= option.range_tokens[1]
    assert math.isnan(plan.held_out) == (plan.best is not None)


def test_what_cannot_be_reached_is_said(store: Store) -> None:
    plan = planned(store, Goal(accuracy=1.0), selectors=["vote"], rules=["lead(3)"])
    assert plan.best is None
    assert "cannot be reached by these selectors" in plan.answer or "coverage ends at" in plan.answer
    assert any("assume that its shares of answers are exact" in note for note in plan.notes)
    assert all(o.kind != "beyond" for o in plan.options), "the plug-in is shown, and never recommended"
    poor = planned(store, Goal(tokens=1.0), selectors=["vote"], rules=["lead(3)"])
    assert poor.best is None
    assert poor.answer.startswith("cannot be paid for: the cheapest recipe costs ")


def test_a_budget_buys_the_most_accurate(store: Store) -> None:
    plan = planned(store, Goal(tokens=100.0), selectors=["vote", "best(puzzle)"])
    affordable = [o for o in plan.options if o.tokens <= 100 and o.kind != "plug-in"]
    assert plan.best is not None
    assert plan.best.accuracy.value == max(o.accuracy.value for o in affordable)
    costs = forecast_cost(plan, plan.best, 1000)
    assert costs.tokens == pytest.approx(1000 * plan.best.tokens)
    assert costs.low < costs.tokens < costs.high


def test_money_needs_a_price(store: Store) -> None:
    run = stored_run(store)
    with pytest.raises(SetupError, match="has no price; give --price"):
        plan_run(store, run, Goal(usd=0.01))
    settings = PlanSettings(selectors=["first"], num_orders=20)
    plan = plan_run(store, run, Goal(usd=0.0001), settings._replace(usd_per_token=1e-6))
    assert plan.best is not None
    assert plan.best.tokens <= 100
    with Store(":memory:") as paid:
        priced = plan_run(paid, stored_run(paid, usd=0.016), settings=settings)
        assert priced.usd_per_token == pytest.approx(0.016 / (DRAWS * priced.tokens_per_draw), rel=0.2)


def test_rules_stand_beside_the_fixed_number_at_equal_tokens(store: Store) -> None:
    plan = planned(store, selectors=["vote"], rules=["lead(2)", "passed(puzzle)"])
    rules = [o for o in plan.options if o.kind == "rule"]
    assert {o.recipe.split(" | ")[1] for o in rules} == {"until(lead(2))"}, "a vote looks at no score"
    assert {o.cap for o in rules} == {DRAWS // 2, DRAWS}
    for option in rules:
        assert option.over_fixed.num_problems == NUM
        assert sum(option.reasons.values()) == pytest.approx(1.0)
        assert option.tokens == pytest.approx(option.costs.mean())


def test_a_learned_score_gets_its_target_from_other_questions(store: Store) -> None:
    plan = planned(store, Goal(accuracy=0.7), selectors=["best(likelihood)"])
    assert any("found on other questions" in note for note in plan.notes)
    rules = [o for o in plan.options if o.kind == "rule"]
    assert rules
    assert all("likelihood" in o.recipe.split(" | ")[1] for o in rules)
    assert rules[-1].reasons.get("success", 0) > 0.3
    assert not [o for o in plan.options if o.kind == "beyond"], "a score that errs foretells nothing"


def test_what_is_no_pilot_is_refused(store: Store) -> None:
    with pytest.raises(SetupError, match="draws a fixed number"):
        plan_run(store, stored_run(store, "repeat(16) | until(lead(3)) | vote"))
    with Store(":memory:") as other:
        run = stored_run(other, num=3)
        row = next(iter(other.records(run.id)))
        for name in ("x",):
            short = row._replace(
                problem=Problem(Question(name, ()), 0), number=9, pool=Pool(row.pool.candidates[:1]),
                answers=row.answers[:1], grades=row.grades[:1],
            )  # fmt: skip
            other.save(run.id, short, "vote", Selection(None, None), 0.0)
        with pytest.raises(SetupError, match="at least two graded draws"):
            plan_run(other, run)


def option(value: float, tokens: float, kind: Any = "fixed") -> Option:
    nothing = np.zeros(0)
    accuracy = Estimate(value, value - 0.1, value + 0.1, 0.05, 9, 0)
    return Option("r", "s", kind, 1, 1.0, tokens, (0.0, 0.0), accuracy, NAN, {}, nothing, nothing)


def test_choosing_by_hand() -> None:
    seen = [option(0.5, 10), option(0.8, 50), option(0.795, 40), option(0.81, 90), option(math.nan, 1)]
    far = [option(0.9, 200, "beyond"), option(0.99, 5, "plug-in")]
    everything = [*seen, *far]
    assert choose_option(everything, Goal()) == seen[1]  # .8 is the cheapest within .01 of .81
    assert choose_option(everything, Goal(accuracy=0.79)) == seen[2]
    assert choose_option(everything, Goal(accuracy=0.85)) == far[0]
    assert choose_option(everything, Goal(accuracy=0.95)) is None
    assert choose_option(everything, Goal(tokens=60)) == seen[1]
    assert choose_option(everything, Goal(usd=0.6), 0.01) == seen[1]
    assert choose_option(everything, Goal(tokens=300)) == far[0]
    assert choose_option([], Goal()) is None


def test_the_page_has_curves_and_points(store: Store) -> None:
    plan = planned(store, selectors=["vote", "best(puzzle)"])
    report = plan_report(plan, store.runs()[0])
    names = [series.name for series in report.series]
    assert names[0] == "vote", "the fixed numbers of the run's own selector come first"
    assert {"best(puzzle)", "best(puzzle) beyond the pilot"} <= set(names)
    page = render_html(report)
    assert plan.best is not None
    assert plan.best.recipe.replace("'", "&#x27;") in page


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibration_of_a_run(store: Store) -> None:
    run = stored_run(store, num=200)
    found = calibrate_run(store, run, "likelihood", CalibrationGoal(level=0.8, risk=0.3))
    assert found.raw is not None
    assert found.held_out.brier.value < found.raw.brier.value
    assert found.held_out.error < 0.05
    assert found.calibration.method == "isotonic"
    assert float(found.calibration(found.target)) == pytest.approx(0.8, abs=1e-6)
    scores = [t.score for t in found.targets if math.isfinite(t.score)]
    assert scores == sorted(scores)
    assert found.stops.predicted > found.stops.right.value, "the first good one of several is over-scored"
    assert found.stops.right.low > 0.7
    assert found.risk is not None
    assert found.risk.needed == 9
    assert recipe(found.recipe).line == found.recipe
    exact = calibrate_run(store, run, "puzzle", CalibrationGoal(risk=0.2))
    assert exact.stops.right.value == 1.0
    assert exact.risk is not None
    assert not math.isnan(exact.risk.threshold)
    assert calibrate_run(store, run, "likelihood", CalibrationGoal(level=0.999)).recipe == ""


def test_a_target_does_not_see_its_own_question(store: Store) -> None:
    """Turned grades of a question move the targets of others, and never its own."""
    outcomes = load_outcomes(store, stored_run(store).id, scores=["likelihood"])
    before = targets_by_question(outcomes, "likelihood", 0.6, Key(6), "platt")
    for question in (0, 17):
        turned = outcomes.graded.grades.copy()
        turned[question] = 1 - turned[question]
        after = targets_by_question(
            outcomes._replace(graded=outcomes.graded._replace(grades=turned)), "likelihood", 0.6, Key(6), "platt"
        )
        assert after[question] == before[question]
        assert (after != before).sum() >= NUM // 2


def test_a_calibration_wants_ten_questions(store: Store) -> None:
    with pytest.raises(SetupError, match="9 questions of run pilot have both"):
        calibrate_run(store, stored_run(store, num=9), "likelihood")


# --- on the command line ----------------------------------------------------------------------------------------------


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["samplewise", *words, "--store", str(tmp_path / "s.db")])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capsys.readouterr()

    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "abc"[i % 3]) for i in range(12))
    right = lambda problem, answer: Score(float(answer is not None and answer.startswith(problem.reference)))  # noqa: E731
    task = Task("words", problems, lambda question, text: text or None, right)
    with Store(tmp_path / "s.db") as kept:
        asyncio.run(run_task(task, recipe("repeat(6, max_tokens=3) | until(lead(2)) | vote"), Toy(3), kept))
    assert "no finished run without a stop rule" in call("plan")[2]
    with Store(tmp_path / "s.db") as kept:
        asyncio.run(run_task(task, recipe("repeat(12, max_tokens=3) | vote"), Toy(3), kept))
    code, said, _ = call("plan", "--accuracy", "0.3", "--orders", "20", "--json", "--html", str(tmp_path / "p.html"))
    assert code == 0
    found = json.loads(said.splitlines()[-1])
    assert f"recipe: {found['recipe']}" in said
    assert recipe(found["recipe"]).line == found["recipe"]
    assert found["forecast"]["questions"] == 12
    assert (tmp_path / "p.html").read_text().startswith("<!doctype html>")
    code, said, _ = call("plan", "--usd", "0.001", "--price", "2", "--questions", "1000", "--orders", "20")
    assert code == 0
    assert "for 1,000 questions" in said
    assert " USD (" in " ".join(said.split())
    assert call("plan", "--usd", "1", "--accuracy", "0.5")[0] == 2
    assert call("plan", "--run", "nonsense")[0] == 3
    code, said, _ = call("calibrate", "--verifier", "likelihood", "--level", "0.2", "--risk", "0.4", "--json")
    assert code == 0
    found = json.loads(said.splitlines()[-1])
    assert found["verifier"] == "likelihood"
    assert found["risk"]["needed"] == 6
    assert len(found["targets"]) == 7
    assert call("calibrate", "--verifier", "likelihood", "--method", "spline")[0] == 2


def test_options_credit_asks_with_the_draws_that_they_give() -> None:
    """Two in eight asks failed: one ask holds a draw with probability 3/4, and a draw was credited for it."""

    class Failing(Toy):
        async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
            lost = {i for i, ask in enumerate(asks) if isinstance(ask, Generate) and ask.draw in (2, 5)}
            for i in lost:
                yield Arrival(i, failed(BadRequest("lost"), Usage(1, 5, 0)))
            kept = [i for i in range(len(asks)) if i not in lost]
            async for position, completion in super().answer([asks[i] for i in kept]):
                yield Arrival(kept[position], completion)

    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "abc"[i % 3]) for i in range(12))

    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer is not None and answer[:1] == problem.reference))

    task = Task("words", problems, lambda _, text: text or None, grade)
    with Store(":memory:") as store:
        asyncio.run(run_task(task, recipe("repeat(8, max_tokens=3) | vote"), Failing(3), store))
        (run,) = store.runs()
        plan = plan_run(store, run, settings=PlanSettings(selectors=("vote",), num_orders=5))
        grades = load_outcomes(store, run.id).graded.grades
    (one,) = (option for option in plan.options if option.kind == "fixed" and option.cap == 1)
    assert grades.shape == (12, 6)
    assert one.accuracy.value == pytest.approx(grades.mean() * 6 / 8)
