"""Draws by need: what a stop rule has in flight, what it sees, and what a run pays for."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.events import Event, StopChecked, Stopped, in_words
from samplewise.core.keys import Key
from samplewise.core.types import (
    Ask,
    Candidate,
    Capability,
    Completion,
    Generate,
    Message,
    Pool,
    Question,
    Score,
    Stop,
    Usage,
)
from samplewise.engines.base import Arrival
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.recipe import Recipe, recipe
from samplewise.samplers.base import Sampler, Step, candidate
from samplewise.stop.base import StopRule
from samplewise.store.database import Store
from samplewise.verify.base import Judge

QUESTION = Question("q", (Message("user", "spell a word"),))


def solve(made: Recipe | str, engine: Any = None, key: Key | None = None, **more: Any) -> Result:
    read = more.pop("read", lambda _, text: text[:1] or None)
    return asyncio.run(
        run_question(QUESTION, recipe(made), RunContext(engine or Toy(3), **more), key or Key(0), read=read)
    )


class Harbour(Toy):
    """Answers after others have had their say, asks of a call in an order drawn by a key, and keeps count of what is on
    its way. Draws from number `num_arriving` on never arrive."""

    def __init__(
        self, order: Key | None = None, room: int = 0, max_concurrency: int = 32, num_arriving: float = math.inf
    ) -> None:
        super().__init__(3)
        self._num_arriving = num_arriving
        self._order, self._room, self.max_concurrency = order, room, max_concurrency
        self._waiting: list[tuple[int, asyncio.Event]] = []
        self.waves: list[int] = []
        self.under_way = self.most = self.answered = self.cancelled = 0

    def may_bill(self, ask: Ask) -> bool:
        return True  # as an endpoint would

    def free_slots(self) -> int:
        return self._room - self.under_way

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        self.waves.append(len(asks))
        self.under_way += len(asks)
        self.most = max(self.most, self.under_way)
        left = len(asks)
        order = list(range(len(asks)))
        if self._order is not None:
            order = self._order.fold(len(self.waves)).generator().permutation(len(asks)).tolist()
        try:
            for position in order:
                ask = asks[position]
                assert isinstance(ask, Generate)
                for _ in range(3 + 5 * (Key(ask.seed).seed() % 4)):  # later asks overtake earlier ones
                    await asyncio.sleep(0)
                if ask.draw >= self._num_arriving:
                    await asyncio.Event().wait()
                self.answered, self.under_way, left = self.answered + 1, self.under_way - 1, left - 1
                yield Arrival(position, self.one(ask))
        finally:
            self.cancelled += left
            self.under_way -= left


def after(draws: int, need: int | None = None) -> StopRule[int]:
    """Stops after so many draws, and says beforehand that it needs `need` of them."""
    return StopRule(
        "after",
        lambda question: 0,
        lambda state, candidate, answer: state + 1,
        lambda state, spent: Stop("cap", {"draws": state}) if state >= draws else None,
        (),
        "exact",
        "draws",
        at_least=lambda state: max(1, (draws if need is None else need) - state),
    )


def with_rule(line: str, rule: StopRule[Any], ahead: Any = 0) -> Recipe:
    plain = recipe(line)
    return replace(plain, stop=rule, ahead=ahead)


# --- waves ------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.sampled_from(["lead(3)", "lead(1)", "cap(7)", "either(lead(4), cap(9))"]))
def test_no_token_is_in_vain_by_default(seed: int, rule: str) -> None:
    """Whatever is sent is seen before the rule can stop, so that everything paid for is part of the answer."""
    engine = Harbour(Key(seed))
    result = solve(f"repeat(40, max_tokens=4) | until({rule}) | vote", engine, Key(seed))
    assert result.paid == result.spent
    assert (engine.answered, engine.cancelled) == (result.spent.requests, 0)


def test_what_is_needed_is_sent_at_once() -> None:
    engine = Harbour()
    assert solve("repeat(40) | until(cap(12)) | vote", engine).spent.requests == 12
    assert engine.waves == [12]
    engine = Harbour()
    solve("repeat(40, wave=5) | until(cap(12)) | vote", engine)
    assert engine.waves == [5, 5, 2], "the sampler's own wave still bounds"
    engine = Harbour()
    solve(with_rule("repeat(40) | vote", after(12, need=1)), engine)
    assert engine.waves == [1] * 12, "a rule that may stop at any draw sees one at a time"


RULES = ["lead(3)", "passed(logp, score=-0.4)", "either(lead(4), cap(9))"]


@given(
    st.integers(0, 10**6),
    st.sampled_from(RULES),
    st.one_of(st.integers(0, 30), st.just("idle")),
    st.sampled_from(["", ", wave=4"]),
    st.one_of(st.none(), st.integers(0, 60)),
)
def test_neither_the_order_of_arrival_nor_what_is_ahead_decides(
    seed: int, rule: str, ahead: int | str, wave: str, limit: int | None
) -> None:
    budget = Budget(completion_tokens=limit)
    draw = f"repeat(20, max_tokens=4{wave})"
    plain = solve(f"{draw} | until({rule}) | vote", key=Key(seed), budget=budget)
    engine = Harbour(Key(seed), room=10)
    other = solve(f"{draw} | until({rule}, ahead={ahead}) | vote", engine, Key(seed), budget=budget)
    assert repr(other._replace(paid=plain.paid)) == repr(plain)
    assert other.paid.requests == engine.answered + engine.cancelled, "what is cut off may be billed"
    assert engine.answered >= other.spent.requests
    assert budget.admits(other.paid), "what is ahead counts too"


def test_so_many_draws_are_ahead_of_the_need() -> None:
    for ahead in (0, 1, 5):
        engine = Harbour()
        solve(with_rule("repeat(40) | vote", after(12, need=1), ahead), engine)
        assert engine.most == 1 + ahead
    engine = Harbour(room=8)
    result = solve(with_rule("repeat(40) | vote", after(12, need=1), "idle"), engine)
    assert 8 <= engine.most <= 9  # one is needed, whether there is room or not
    assert result.spent.requests == 12
    assert solve(with_rule("repeat(40) | vote", after(12, need=1), "idle"), Toy(3)).paid.requests == 12, "it says none"


def test_what_is_on_its_way_at_a_stop_is_cancelled_and_told() -> None:
    events: list[Event] = []
    engine = Harbour(num_arriving=10)
    result = solve(with_rule("repeat(40, max_tokens=4) | vote", after(6, need=1), 20), engine, on_event=events.append)
    told = events[-1]
    assert isinstance(told, Stopped)
    assert engine.under_way == 0
    assert engine.cancelled > 0
    assert (told.draws, told.overshoot) == (6, result.paid.requests - 6 - told.cancelled)
    assert told.overshoot + told.cancelled == sum(engine.waves) - 6
    assert told.at_most.completion_tokens == 4 * told.cancelled, "at most: nobody knows what a cancelled draw cost"
    assert result.paid.completion_tokens >= result.spent.completion_tokens + told.at_most.completion_tokens
    assert result.stop.evidence["order"] == "asks"


def test_a_replay_stops_where_the_run_did() -> None:
    with Store(":memory:") as store:
        line = "repeat(30) | until(lead(3), ahead=9) | vote"
        once = solve(line, Harbour(), store=store)
        engine = Harbour()
        again = solve(line, engine, store=store)
        assert repr(again._replace(paid=once.paid)) == repr(once)
        plain = solve("repeat(30) | until(lead(3)) | vote", engine, store=store)
        assert (plain.paid, plain.pool) == (Usage(), once.pool)


# --- the fold ---------------------------------------------------------------------------------------------------------


class Log(NamedTuple):
    seen: list[str]
    starts: list[str]

    def rule(self, stop_at: int = 10**9) -> StopRule[tuple[str, ...]]:
        def start(question: Question) -> tuple[str, ...]:
            self.starts.append(question.id)
            return ()

        def see(state: tuple[str, ...], candidate: Candidate, answer: str | None) -> tuple[str, ...]:
            self.seen.append(candidate.text)
            return (*state, candidate.text)

        return StopRule("log", start, see, lambda state, spent: Stop("cap") if len(state) >= stop_at else None)


def test_every_draw_is_seen_once_and_in_the_order_of_its_ask() -> None:
    log = Log([], [])
    result = solve(with_rule("repeat(200, max_tokens=4) | vote", log.rule(), 7), Harbour(Key(3)))
    assert log.seen == [each.text for each in result.pool.candidates]
    assert len(log.seen) == 200
    assert log.starts == ["q"]


def test_where_earlier_candidates_change_the_fold_begins_again() -> None:
    """A resampling step replaces its pool: the rule must not go on counting what is no longer there."""

    def step(key: Key, state: Any, completions: Sequence[Completion]) -> tuple[Any, Step]:
        num, held = state
        held = (*completions, *held[:1])  # newest first, one survivor
        asks = (Generate(QUESTION.messages, max_tokens=8, seed=100 * num + i) for i in range(2))
        return (num + 1, held), Step(tuple(asks) if num < 3 else ())

    sampler: Sampler[Any] = Sampler(
        "particles",
        frozenset({Capability.GENERATE}),
        lambda variants: (0, ()),
        step,
        lambda state: Pool(tuple(candidate(c, "direct") for c in state[1])),
    )
    log = Log([], [])
    made = replace(recipe("repeat(1) | first"), sampler=sampler, stop=log.rule())
    result = solve(made)
    assert len(log.starts) == 3, "once at the start, and once for each of the later pools"
    last = [each.text for each in result.pool.candidates]
    assert log.seen[-len(last) :] == last
    assert result.stop.reason == "finished"
    log = Log([], [])
    stopped = solve(replace(recipe("repeat(1) | first"), sampler=sampler, stop=log.rule(3)))
    assert stopped.stop == Stop("cap", {"rule": "log", "guarantee": "heuristic", "about": "mode", "order": "steps"})


def test_where_a_judge_thinks_again_the_fold_begins_again() -> None:
    """It compares candidates with one another, so that a new one changes the scores of those before it."""
    judge = Judge(
        "judge", lambda *what: (), lambda k, q, candidates, a, h: tuple(1.0 / len(candidates) for _ in candidates)
    )

    def see(state: tuple[float, ...], candidate: Candidate, answer: str | None) -> tuple[float, ...]:
        return (*state, candidate.scores["judge"])

    def decide(state: tuple[float, ...], spent: Usage) -> Stop | None:
        return Stop("settled", {"scores": list(state)}) if len(state) == 4 else None

    rule = StopRule("fair", lambda question: (), see, decide, ("judge",))
    result = solve(replace(recipe("repeat(9) | vote"), stop=rule, verifiers={"judge": judge}))
    assert result.stop.evidence["scores"] == [0.25] * 4, "not 1, 1/2, 1/3, 1/4"


class Meter(NamedTuple):
    """A verifier that computes 5 tokens a candidate, and never likes one."""

    asked: list[int]

    def __call__(self, question: Question, candidate: Candidate) -> Score:
        return Score(0.0)

    def score_all(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[float]:
        self.asked.append(len(pairs))
        return [0.0] * len(pairs)

    def tokens_of(self, question: Question, candidate: Candidate) -> int:
        return 5


@pytest.mark.parametrize("ahead", [0, 6])
def test_a_verdict_that_costs_is_asked_for_where_the_rule_can_stop(ahead: int) -> None:
    meter = Meter([])
    made = with_rule("repeat(20, max_tokens=4) | vote", after(12, need=6), ahead)
    made = replace(made, verifiers={"meter": meter})
    result = solve(made, Harbour())
    assert meter.asked == [6, 1, 1, 1, 1, 1, 1]
    assert len(result.pool.candidates) == 12


@given(st.integers(0, 200), st.integers(0, 20))
def test_what_is_ahead_takes_nothing_from_a_verdict(limit: int, seed: int) -> None:
    """Draws that are on their way hold what they can cost: a verifier that is paid out of the same budget would find
    less there, and another answer would come out."""
    results = []
    for ahead in (0, 10):
        made = with_rule("repeat(20, max_tokens=4) | vote", after(12, need=1), ahead)
        made = replace(made, verifiers={"meter": Meter([])})
        result = solve(made, Harbour(Key(seed)), Key(seed), budget=Budget(tokens=limit))
        assert result.spent.tokens <= limit
        results.append(repr(result._replace(paid=Usage())))
    assert results[0] == results[1]


# --- what a person is told --------------------------------------------------------------------------------------------


def test_the_standing_is_told_after_every_draw() -> None:
    events: list[Event] = []
    result = solve("repeat(30) | until(lead(3)) | vote", on_event=events.append)
    told = [event for event in events if isinstance(event, StopChecked)]
    assert [event.draws for event in told] == list(range(1, len(result.answers) + 1))
    assert told[-1].first - told[-1].second == 3
    assert told[-1].first == result.answers.count(result.answer)
    assert told[-1].spent == result.spent


def test_reasons_in_words() -> None:
    label = {"guarantee": "anytime-valid", "about": "mode"}
    assert in_words(Stop("settled", label), 8, 64) == "stopped: settled after 8 of 64 (anytime-valid, mode)"
    assert in_words(Stop("settled", label), 8) == "stopped: settled after 8 (anytime-valid, mode)"
    futile = in_words(Stop("futile", {"guarantee": "model-based", "about": "verifier"}), 38, 64)
    assert futile == "gave up: futile after 38 of 64, more draws are not worth their price (model-based, verifier)"
    assert in_words(Stop("finished"), 64, 64) == "finished: all 64 draws"
    assert in_words(Stop("budget", {"unsent": 3}), 5, 8) == "stopped: the budget was used up after 5 of 8"
    assert in_words(Stop("cancelled"), 5, 8) == "interrupted after 5 of 8"


def test_how_many_draws_a_recipe_makes() -> None:
    assert (
        recipe("repeat(64) | until(lead(3)) | vote").max_draws
        == recipe("vary(ladder) | repeat(64, wave=7)").max_draws
        == 64
    )
