"""Bills against the meter: what every table says a recipe costs is what running that recipe costs, to the token."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pytest
from tests.support.bills import (
    FAILED,
    IDEA,
    RECIPES,
    WORD,
    Claim,
    Meter,
    World,
    claims,
    costly_verifiers,
    effect_claims,
    largest_difference,
    words,
)

from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Ask, Completion, Generate, Pool, Selection, Usage
from samplewise.engines.base import Arrival
from samplewise.measure import majority_at
from samplewise.recipe import recipe
from samplewise.report.build import ReportEntry, build_report
from samplewise.report.data import Report
from samplewise.report.format import reading, tokens
from samplewise.runs.arrays import load_outcomes
from samplewise.runs.bills import bill_run
from samplewise.runs.orders import draw_orders, replay_rule, stored_pools
from samplewise.runs.redecide import redecide
from samplewise.runs.replay import replay_question
from samplewise.store.database import Store

NUM = 2


@pytest.fixture(autouse=True)
def verifiers() -> Iterator[None]:
    with costly_verifiers():
        yield


class Shuffled(Meter):
    """Answers the draws of each question by given completions, in their order, and helpers as ever."""

    def __init__(self, draws: Mapping[str, tuple[Completion, ...]]) -> None:
        super().__init__()
        self._draws = draws

    def replace(self, ask: Ask, completion: Completion) -> Completion:
        if not isinstance(ask, Generate) or ask.engine:
            return completion
        question = next(q for q in self._draws if f"word {q[1:]} " in ask.messages[-1].content)
        return self._draws[question][ask.draw]


def check(world: World, found: list[Claim]) -> None:
    difference, where = largest_difference(world, found)
    assert difference < 1e-9, where  # a mean over questions is rounded


@pytest.mark.parametrize("line", RECIPES)
def test_a_bill_is_what_running_costs(line: str) -> None:
    world = World(words(NUM))
    found = claims(world, line)
    check(world, found)
    if recipe(line).splittable and not any(name in line for name in ("listwise", "knockout", "first")):
        assert len({claim.recipe for claim in found if claim.where == "table"}) == 3, "at fewer draws too"


@pytest.mark.parametrize("line", [line for line in RECIPES if "first" in line or "until" in line or "idea" in line])
def test_failed_attempts_are_billed(line: str) -> None:
    world = World(words(NUM), partial(Meter, fails=0.3))
    check(world, claims(world, line))


@pytest.mark.parametrize("line", [line for line in RECIPES if "ahead" in line])
@pytest.mark.parametrize("fails", [0.0, 0.5])
def test_what_was_sent_ahead_and_given_up_is_billed_at_its_most(line: str, fails: float) -> None:
    """A request that waits to be sent again is not on its way: of it, the attempt that failed is billed."""
    world = World(words(NUM), partial(Meter, slow=True, fails=fails, retry_after_s=0.003))
    check(world, claims(world, line))


class Backwards(Meter):
    """Answers the last ask first."""

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        async for position, completion in super().answer(asks[::-1]):
            yield Arrival(len(asks) - 1 - position, completion)

    def fails_first(self, ask: Ask) -> bool:
        return isinstance(ask, Generate) and ask.draw >= 3


def test_a_draw_ahead_that_waits_to_be_sent_again_is_billed_the_attempt_that_failed() -> None:
    """Three draws suffice; the eight ahead have failed when they arrive, and would be sent again in a minute."""
    meter = Backwards(retry_after_s=60.0)
    world = World(words(1), lambda: meter)
    with Store(":memory:") as store:
        run, counted = world.run(f"repeat(20, {WORD}) | until(cap(3), ahead=8) | vote", store)
        (record,) = store.records(run.id)
    assert (meter.used.requests, meter.given_up) == (11, Usage())
    assert record.bill is not None
    assert record.bill.dropped[:3] == tuple(8 * amount for amount in FAILED[:3])
    assert record.bill.total.tokens == counted


@pytest.mark.parametrize("mix", [line for line in RECIPES if "vary" in line and "repeat(8" in line and "vote" in line])
def test_effect_bills_both_sides(mix: str) -> None:
    world = World(words(NUM))
    found = effect_claims(world, f"repeat(60, {WORD}) | vote", mix)
    check(world, found)
    assert len({claim.recipe for claim in found}) >= 6


def test_a_recipe_with_helpers_pays_all_of_them_at_any_number_of_draws() -> None:
    """Eight ideas are asked for before the first draw, however few draws follow."""
    world = World(words(NUM))
    line = f"vary(idea(8, helper='two', max_tokens=4)) | repeat(12, {WORD}) | vote"
    with Store(":memory:") as store:
        run, _ = world.run(line, store)
        bill = bill_run(store, run, recipe(line))
        helpers = {record.bill.helpers.requests for record in store.records(run.id) if record.bill is not None}
    assert min(helpers) >= 8
    for k in (1, 3, 12):
        assert bill.at(k).mean() == pytest.approx(world.cost(recipe(line).with_draws(k).line))
    assert bill.parts(3).helpers > 20 * bill.parts(3).draws / 3, "most of what three draws cost"


@pytest.mark.parametrize("rule", ["lead(2)", "asc(0.95)", "cap(5)"])
def test_a_replay_in_any_order_costs_what_a_run_in_that_order_costs(rule: str) -> None:
    """The engine hands over a pilot's draws in another order; the pilot's replay in this order has the same bill."""
    world = World(words(NUM))
    pilot = f"vary({IDEA}) | repeat(9, {WORD}) | vote"
    line = recipe(pilot).with_stop(rule)
    with Store(":memory:") as store:
        run, _ = world.run(pilot, store)
        pools = stored_pools(store, run.id, bill_run(store, run, recipe(pilot)))
        drawn = [replay_question(recipe(pilot), store, run, record).completions for record in store.records(run.id)]
    for order in draw_orders(["any"] * 9, Key(5), 12).tolist():
        replayed = [replay_rule(build("stop", rule), pool, order).tokens for pool in pools]
        shuffled = [tuple(completions[i] for i in order) for completions in drawn]
        engine = partial(Shuffled, {p.question.id: row for p, row in zip(world.task.problems, shuffled, strict=True)})
        with Store(":memory:") as store:
            again, tokens = World(world.task, engine).run(line.line, store)
            bills = bill_run(store, again, line)
        assert bills.whole().tolist() == replayed
        assert tokens == pytest.approx(sum(replayed) / NUM)


# --- comparisons ------------------------------------------------------------------------------------------------------


def reported(world: World, lines: list[str], tokens: float | None = None) -> Report:
    """Return the report of stored runs of these recipes."""
    with Store(":memory:") as store:
        runs = [world.run(line, store)[0] for line in lines]
        for run in runs:
            if recipe(run.recipe).stop is None:
                redecide(store, run, "vote")
        entries = [ReportEntry(f"row {i}", run, "vote") for i, run in enumerate(runs)]
        return build_report(store, entries, title="", baseline="row 0", tokens=tokens, views=False)


def test_beyond_what_rows_have_no_difference_is_claimed() -> None:
    world = World(words(6))
    report = reported(world, [f"repeat(4, {WORD}) | vote", f"repeat(40, {WORD}) | vote"], tokens=4000)
    assert [row.compared_at for row in report.methods] == ["draws end"] * 2
    assert all(row.ends for row in report.methods)
    assert report.methods[1].difference is not None
    assert math.isnan(report.methods[1].difference.value)
    assert math.isnan(report.methods[1].p_value)
    costs = [f"{row.tokens:,.0f}" for row in report.methods]
    assert reading(report) == (
        "At 4,000 tokens per problem the draws do not suffice to compare: "
        f"those of row 0 end at {tokens(report.methods[0].tokens)} and those of row 1 end at {costs[1]}."
    )
    assert [note.partition(":")[0] for note in report.cost_notes] == [
        f"The draws of row {i} end at {cost} tokens per problem, and 4,000 tokens per problem would pay for more"
        for i, cost in enumerate(costs)
    ]


def test_within_what_rows_have_the_difference_stands() -> None:
    world = World(words(6))
    lines = [f"repeat(4, {WORD}) | vote", f"repeat(40, {WORD}) | vote", f"repeat(40, {WORD}) | until(lead(2)) | vote"]
    report = reported(world, lines)
    assert [row.compared_at for row in report.methods[:2]] == ["equal tokens"] * 2
    assert not any(row.ends for row in report.methods), "a rule has had enough, and the common budget is the shortest's"
    assert abs(report.methods[0].tokens - report.methods[1].tokens) < 6


def test_helpers_that_the_tokens_do_not_pay_for_are_said() -> None:
    world = World(words(3))
    report = reported(world, [f"repeat(9, {WORD}) | vote", f"vary({IDEA}) | repeat(9, {WORD}) | vote"], tokens=30.0)
    mix = report.methods[1]
    assert (mix.num_draws, mix.tokens) == (0, 0.0)
    (note,) = report.cost_notes
    assert note.startswith("30 tokens per problem pay for no draw of row 1, which costs at least ")
    assert mix.least_tokens == pytest.approx(world.cost(f"vary({IDEA}) | repeat(1, {WORD}) | vote"))


def test_a_question_with_fewer_draws_is_marked_and_stands_with_all_it_has() -> None:
    world = World(words(10))
    line = f"repeat(8, {WORD}) | vote"
    with Store(":memory:") as store:
        run, _ = world.run(line, store)
        records = list(store.records(run.id))
        one = records[3]
        assert one.bill is not None
        short = one._replace(
            pool=Pool(one.pool.candidates[:1]),
            answers=one.answers[:1],
            grades=one.grades[:1],
            bill=one.bill._replace(draws=one.bill.draws[:1]),
        )
        store.save(run.id, short, "vote", Selection(one.answers[0], 0), one.grades[0])
        entry = ReportEntry("row", run, "vote")
        report = build_report(store, [entry], title="", baseline="row", views=False)
        outcomes = load_outcomes(store, run.id)
        bill = bill_run(store, run, recipe(line))
    (row,) = report.methods
    assert (row.num_draws, row.short) == (8, ("q3",))
    others = np.delete(np.arange(10), 3)
    full = majority_at(outcomes.graded.answers[others], outcomes.graded.grades[others], [8], key=Key(0))[0]
    expected = (full.sum() + one.grades[0]) / 10
    assert row.accuracy.value == pytest.approx(expected)
    assert report.notes == (
        f"1 of 10 problems have fewer than the 8 draws of repeat(8, {WORD}) (q3 has 1): with more draws than that they "
        "stand with all that they have.",
    )
    assert row.tokens == pytest.approx(bill.at(8).mean())
    assert bill.at(8)[3] == one.bill.draws[0].tokens
