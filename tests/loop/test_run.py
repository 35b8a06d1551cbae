"""The loop: what it sends, what it spends, when it ends."""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.paid import paid_toy, unpriced_toy

from samplewise.core.errors import SetupError, StoreError, Unsupported, UsageError
from samplewise.core.events import Arrived, Dispatched, Drawn, Event, Stopped
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Capability, Completion, Generate, Message, Pool, Question, Score, Stop, Usage
from samplewise.engines.base import Arrival
from samplewise.engines.team import Team
from samplewise.engines.toy import Toy
from samplewise.loop import dispatch
from samplewise.loop.context import RunContext
from samplewise.loop.drive import check_recipe, run_question
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.recipe import Recipe, recipe
from samplewise.samplers.base import Sampler, Step, Variant, candidate
from samplewise.select import first
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.testing import WatchedEngine
from samplewise.vary.base import Vary

QUESTION = Question("q", (Message("user", "spell a word"),))


def solve(made: Recipe | str, engine: Any = None, key: Key | None = None, **more: Any) -> Result:
    read = more.pop("read", lambda _, text: text[:1] or None)
    return asyncio.run(
        run_question(QUESTION, recipe(made), RunContext(engine or Toy(3), **more), key or Key(0), read=read)
    )


class Slow(Toy):
    """Takes `delay` seconds an ask, one after the other; keeps the waves it got, and whether they were closed. After
    `num_willing` answers it gives no more and does not end."""

    def __init__(
        self, delay: float = 0.0, *, order: Callable[[int], Sequence[int]] = range, num_willing: int = sys.maxsize
    ) -> None:
        super().__init__(3)
        self.delay, self.order, self.num_willing = delay, order, num_willing
        self.waves: list[int] = []
        self.num_answered = self.num_closed = 0

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        self.waves.append(len(asks))
        try:
            for position in self.order(len(asks)):
                await asyncio.sleep(self.delay if self.num_answered < self.num_willing else 3600)
                self.num_answered += 1
                yield Arrival(position, self.one(asks[position]))
        finally:
            self.num_closed += 1


def sampler_of(step: Callable[[Key, Any, Sequence[Completion]], tuple[Any, Step]]) -> Recipe:
    """A recipe around a bare step function whose state is (completions so far, ...)."""

    def pool(state: tuple[Completion, ...]) -> Pool:
        good = tuple(candidate(c, "direct") for c in state if c.finish != "error")
        return Pool(good, len(state) - len(good))

    made: Sampler[Any] = Sampler("bare", frozenset({Capability.GENERATE}), lambda variants: (), step, pool)
    return replace(recipe("repeat(1) | first"), sampler=made)


def ask(seed: int, max_tokens: int = 4) -> Generate:
    return Generate(QUESTION.messages, max_tokens=max_tokens, seed=seed)


# --- budgets ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 60))
def test_tokens_are_admitted_by_their_worst_case(limit: int) -> None:
    watched = WatchedEngine(Toy(3))
    result = solve("repeat(10, max_tokens=4)", watched, budget=Budget(completion_tokens=limit))
    assert watched.used == result.spent == result.paid
    assert result.spent.completion_tokens <= limit
    if result.stop.reason == "budget":
        assert limit - result.spent.completion_tokens < 4  # not one more would have fitted
        assert result.stop.evidence["unsent"] == 10 - result.spent.requests
    else:
        assert result.spent.requests == 10


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "requests": st.integers(0, 12),
            "prompt_tokens": st.integers(0, 40),
            "completion_tokens": st.integers(0, 40),
            "tokens": st.integers(0, 80),
            "usd": st.floats(0, 0.1),
        },
    ),
    st.sampled_from(["", ", wave=1", ", wave=3"]),
    st.sampled_from([0.0, 0.5]),
)
def test_no_mix_of_limits_is_passed(limits: dict[str, Any], wave: str, fails: float) -> None:
    watched = WatchedEngine(Toy(3), fails=fails, usd_per_token=0.001)
    budget = Budget(**limits)
    result = solve(f"vary(ladder) | repeat(10, max_tokens=4{wave}) | vote", watched, budget=budget)
    assert budget.admits(watched.used)
    assert budget.admits(result.spent)
    assert len(result.pool.candidates) + result.pool.num_failed == result.spent.requests


def test_a_wave_is_cut_to_what_fits_and_goes_on_with_what_was_left_over() -> None:
    engine = Slow()
    result = solve("repeat(10, max_tokens=4)", engine, budget=Budget(completion_tokens=14))
    assert engine.waves[0] == 3  # 3 x 4 is the worst case of 12
    assert sum(engine.waves) == result.spent.requests > 3  # responses that ended early left room


def test_a_whole_step_is_sent_whole_or_not_at_all() -> None:
    def step(key: Key, state: Any, completions: Sequence[Completion]) -> tuple[Any, Step]:
        state = (*state, *completions)
        return state, Step(tuple(ask(len(state) + i) for i in range(3)) if len(state) < 9 else ())

    for limit, sent in [(2, 0), (3, 3), (5, 3), (6, 6), (8, 6), (9, 9), (100, 9)]:
        result = solve(sampler_of(step), budget=Budget(requests=limit))
        assert result.spent.requests == sent
        assert len(result.pool.candidates) == sent
        assert result.stop.reason == ("finished" if sent == 9 else "budget")


@given(st.integers(0, 100), st.integers(1, 9))
def test_shares_add_up(cap: int, num: int) -> None:
    shares = [Budget(cap, None, cap, None, float(cap), 7.0).share(num, i) for i in range(num)]
    assert sum(s.requests or 0 for s in shares) == sum(s.completion_tokens or 0 for s in shares) == cap
    assert math.isclose(sum(s.usd or 0 for s in shares), cap)
    assert all((s.prompt_tokens, s.tokens, s.seconds) == (None, None, 7.0) for s in shares)
    assert max(s.requests or 0 for s in shares) - min(s.requests or 0 for s in shares) <= 1


def test_an_unknown_price_is_not_below_a_limit() -> None:
    assert not Budget(usd=1.0).admits(Usage(usd=math.nan))
    assert Budget().admits(Usage(usd=math.nan))


def test_a_limit_in_money_needs_the_price_of_all_who_are_asked() -> None:
    """A judge without a price was never admitted by the limit, and the choice fell by chance without a word."""
    line, limit = recipe("repeat(4, max_tokens=3) | best(judge(wise))"), Budget(usd=2.0)
    with pytest.raises(SetupError, match=r"^toy.* has no known price"):
        check_recipe(line, Team({"": paid_toy(), "wise": unpriced_toy()}), limit)
    check_recipe(line, Team({"": paid_toy(), "wise": paid_toy(), "other": unpriced_toy()}), limit)


def test_what_a_helper_costs_counts_too() -> None:
    def begin(question: Question) -> tuple[Completion, ...]:
        return ()

    def think(key: Key, state: Any, completions: Sequence[Completion]) -> tuple[Any, Step]:
        return (*state, *completions), Step() if state or completions else Step((ask(1), ask(2)))

    def deal(state: Any) -> tuple[Variant, ...]:
        ideas = [Variant(f"idea/{i}", (Message("user", c.text),)) for i, c in enumerate(state)]
        return (Variant("direct", QUESTION.messages), *ideas)

    plain = recipe("repeat(4, max_tokens=4)")
    helper = Vary("helper", frozenset({Capability.GENERATE}), begin, think, deal)
    made = replace(plain, vary=helper, selector=first())
    result = solve(made)
    assert result.spent.requests == 6
    assert [c.arm for c in result.pool.candidates] == ["direct", "idea/0", "idea/1", "direct"]
    cut = solve(made, budget=Budget(requests=1))
    assert (cut.spent.requests, cut.stop.reason) == (1, "budget")
    assert [c.arm for c in cut.pool.candidates] == ["direct"], "thoughts that do not fit leave the direct draws"
    partly = solve(made, budget=Budget(requests=3))
    assert (partly.spent.requests, len(partly.pool.candidates)) == (3, 1)


# --- time and cancellation --------------------------------------------------------------------------------------------


def test_the_deadline_ends_a_wave_and_closes_the_engine() -> None:
    engine = Slow(num_willing=3)
    result = solve("repeat(500)", engine, budget=Budget(seconds=2.0))
    assert result.stop.reason == "budget"
    assert len(result.pool.candidates) == result.paid.requests == 3
    assert engine.num_closed == 1


def test_the_deadline_holds_for_an_engine_that_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its completions were at hand whenever the loop looked, so a whole wave was drawn, hours past the deadline."""

    class Instant(Slow):
        def one(self, ask: Ask) -> Completion:
            clock[0] += 1.0
            return super().one(ask)

    clock = [0.0]
    monkeypatch.setattr(dispatch, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    engine = Instant()
    result = solve("repeat(500)", engine, budget=Budget(seconds=10.0))
    assert result.stop.reason == "budget"
    assert engine.num_answered == len(result.pool.candidates) == 10
    assert engine.num_closed == 1


def test_no_time_no_ask() -> None:
    engine = Slow()
    result = solve("repeat(4)", engine, budget=Budget(seconds=0.0))
    assert (engine.waves, result.stop.reason, result.answer) == ([], "budget", None)


@pytest.mark.parametrize("rule", ["", " | until(lead(50))"])
def test_cancelling_mid_wave_keeps_what_came(rule: str) -> None:
    engine = Slow(0.001)
    with Store(":memory:") as store:
        cancel = asyncio.Event()

        def listen(event: Event) -> None:
            if store.num_draws() == 7:
                cancel.set()

        result = solve(f"repeat(400){rule} | vote", engine, store=store, on_event=listen, cancel=cancel)
        assert result.stop == Stop("cancelled")
        assert 7 <= store.num_draws() == result.paid.requests < 10
        assert 4 <= len(result.pool.candidates) <= store.num_draws()  # with a rule: the longest prefix of what came
        resumed = solve(f"repeat(30){rule} | vote", store=store)
        assert repr(resumed._replace(paid=Usage())) == repr(solve(f"repeat(30){rule} | vote")._replace(paid=Usage()))
    assert engine.num_closed == len(engine.waves)


def test_a_whole_step_that_is_cancelled_is_as_if_never_asked() -> None:
    def step(key: Key, state: Any, completions: Sequence[Completion]) -> tuple[Any, Step]:
        return (*state, *completions), Step(tuple(ask(len(state) + i) for i in range(50)))

    engine, cancel = Slow(0.001), asyncio.Event()
    with Store(":memory:") as store:
        result = solve(
            sampler_of(step),
            engine,
            store=store,
            cancel=cancel,
            on_event=lambda event: cancel.set() if store.num_draws() == 20 else None,
        )
        assert result.pool == Pool()
        assert result.spent == Usage()
        assert result.paid.requests == store.num_draws() >= 20  # paid, and kept for the next run


def test_cancelling_the_task_closes_the_engine() -> None:
    engine = Slow(0.01)

    async def going() -> None:
        task = asyncio.create_task(
            run_question(QUESTION, recipe("repeat(400)"), RunContext(engine), Key(0), read=lambda _, t: t)
        )
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(going())
    assert engine.num_closed == 1


# --- stopping early ---------------------------------------------------------------------------------------------------


def test_a_stop_rule_acts_within_a_wave_and_closes_the_stream() -> None:
    engine = Slow(0.001)
    result = solve("repeat(400) | until(lead(3)) | vote", engine)
    assert result.stop.reason == "settled"
    assert engine.num_closed == len(engine.waves)
    assert len(result.pool.candidates) <= engine.num_answered < 100
    assert result.spent.requests == len(result.pool.candidates)


@given(st.integers(0, 1000), st.sampled_from([None, 1, 2, 5]))
def test_where_a_rule_stops_does_not_depend_on_the_order_of_arrival(seed: int, wave: int | None) -> None:
    line = f"repeat(12, wave={wave}) | until(lead(3)) | vote"
    plain = solve(line, Slow(), Key(seed))
    shuffled = Slow(order=lambda n: Key(seed).generator().permutation(n).tolist())
    other = solve(line, shuffled, Key(seed))
    assert other._replace(paid=plain.paid) == plain
    assert other.paid.requests >= other.spent.requests  # what arrived before its turn was paid for all the same
    rule = recipe(line).stop
    assert rule is not None
    for n in range(1, len(plain.answers)):  # and it stopped at the first moment it could
        seen = plain.pool._replace(candidates=plain.pool.candidates[:n])
        assert rule.check(seen, plain.answers[:n]) is None


def test_candidates_are_scored_and_read_once() -> None:
    counts: Counter[str] = Counter()

    def verify(question: Question, drawn: Any) -> Score:
        counts["verified"] += 1
        return Score(0.0)

    def read(question: Question, text: str) -> str | None:
        counts["read"] += 1
        return text

    made = recipe("repeat(20) | until(passed(logp)) | best(logp)")
    made.verifiers["logp"] = verify
    result = solve(made, read=read)
    assert len(result.pool.candidates) == 20
    assert counts == {"verified": 20, "read": 20}
    assert all(c.scores == {"logp": 0.0} for c in result.pool.candidates)


# --- the store --------------------------------------------------------------------------------------------------------


def test_a_stored_draw_is_never_sent_again_and_counts_as_spent() -> None:
    with Store(":memory:") as store:
        once = solve("repeat(6, max_tokens=4) | vote", WatchedEngine(Toy(3)), store=store)
        again_engine = WatchedEngine(Toy(3))
        again = solve("repeat(6, max_tokens=4) | vote", again_engine, store=store)
        assert again_engine.asked == []
        assert again.paid == Usage()
        assert repr(again._replace(paid=once.paid)) == repr(once)
        more_engine = WatchedEngine(Toy(3))
        more = solve("repeat(9, max_tokens=4) | best(logp)", more_engine, store=store)
        assert len(more_engine.asked) == more.paid.requests == 3
        assert more.spent.requests == 9


def test_a_fresh_run_looks_only_for_what_the_store_can_hold() -> None:
    """Its key is new, so a seed of it is in no other run. What it has drawn itself, and what has no seed, is found."""

    def run(seeds: Sequence[int], *, is_fresh: bool) -> list[int]:
        asked = WatchedEngine(Toy(3))

        def step(key: Key, state: Any, completions: Sequence[Completion]) -> tuple[Any, Step]:
            state = (*state, *completions)
            return state, Step(tuple(map(ask, seeds[len(state) : len(state) + 1])))

        solve(sampler_of(step), asked, store=store, is_fresh=is_fresh)
        return [each.seed for each in asked.asked]

    with Store(":memory:") as store:
        assert run([5, 0], is_fresh=False) == [5, 0]
        assert run([5, 0], is_fresh=False) == []
        assert run([0, 5, 5, 6, 6, 0], is_fresh=True) == [5, 6]
        assert run([5, 6], is_fresh=False) == []
        assert store.num_draws() == 3


def test_another_engine_or_key_is_another_draw() -> None:
    with Store(":memory:") as store:
        for engine, key in [(Toy(3), Key(0)), (Toy(3, seed=1), Key(0)), (Toy(3), Key(1))]:
            assert solve("repeat(6)", engine, key, store=store).paid.requests == 6
        assert store.num_draws() == 18


def test_a_budget_cuts_a_replayed_run_where_it_cut_the_first() -> None:
    with Store(":memory:") as store:
        for limit in range(0, 60, 7):
            budget = Budget(completion_tokens=limit)
            once = solve("repeat(10, max_tokens=4)", store=store, budget=budget)
            again = solve("repeat(10, max_tokens=4)", store=store, budget=budget)
            assert repr(again._replace(paid=once.paid)) == repr(once)
            assert repr(solve("repeat(10, max_tokens=4)", budget=budget)._replace(paid=once.paid)) == repr(once)


def test_a_failed_ask_is_not_kept() -> None:
    with Store(":memory:") as store:
        watched = WatchedEngine(Toy(3), fails=0.5)
        broken = solve("repeat(12)", watched, store=store)
        assert 0 < broken.pool.num_failed < 12
        assert store.num_draws() == 12 - broken.pool.num_failed
        mended = solve("repeat(12)", store=store)
        assert mended.paid.requests == broken.pool.num_failed
        assert repr(mended.pool) == repr(solve("repeat(12)").pool)


def test_every_completion_is_in_the_store_before_anything_else_sees_it() -> None:
    with Store(":memory:") as store:
        counts: list[int] = []

        def listen(event: Event) -> None:
            if isinstance(event, Arrived):
                counts.append(store.num_draws())

        solve("repeat(5)", store=store, on_event=listen)
        assert counts == [1, 2, 3, 4, 5]


def test_a_store_that_fails_ends_the_run_with_its_own_error() -> None:
    engine = Slow()
    store = Store(":memory:")

    def listen(event: Event) -> None:
        if isinstance(event, Arrived):
            store.close()

    with pytest.raises(StoreError, match="cannot be written"):
        solve("repeat(5)", engine, store=store, on_event=listen)
    assert engine.num_closed == 1
    assert engine.num_answered == 2


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_events_tell_the_run_in_order() -> None:
    events: list[Event] = []
    with Store(":memory:") as store:
        solve("repeat(2)", store=store)
        result = solve("repeat(5, wave=3) | vote", store=store, on_event=events.append)
    kinds = [type(event).__name__ for event in events if not isinstance(event, Drawn)]
    assert kinds == ["Dispatched", "Arrived", "Arrived", "Arrived", "Dispatched", "Arrived", "Arrived", "Stopped"]
    sent = [event for event in events if isinstance(event, Dispatched)]
    assert [(event.num_sent, event.num_stored) for event in sent] == [(1, 2), (2, 0)]
    assert [e.source for e in events if isinstance(e, Arrived)] == ["store", "store", "engine", "engine", "engine"]
    assert events[-1] == Stopped("q", result.stop, result.spent, result.answer, 5)


def test_what_the_engine_cannot_do_is_said_before_anything_is_paid() -> None:
    engine = Slow()
    engine.can = frozenset({Capability.SEED})  # type: ignore[misc]
    with pytest.raises(Unsupported, match=r"repeat\(3\) \| first needs generate, which toy"):
        solve("repeat(3)", engine)
    assert engine.waves == []


def test_a_mix_that_cannot_be_is_said_before_anything_is_paid() -> None:
    engine = Slow()
    with pytest.raises(UsageError, match="twice"):
        solve("vary(ladder, ladder) | repeat(3)", engine)
    assert engine.waves == []


def test_questions_have_draws_of_their_own() -> None:
    one = solve("repeat(6)")
    other = asyncio.run(
        run_question(
            QUESTION._replace(id="other"), recipe("repeat(6)"), RunContext(Toy(3)), Key(0), read=lambda _, t: t
        )
    )
    assert [c.text for c in one.pool.candidates] != [c.text for c in other.pool.candidates]


def test_the_trace_holds_what_steps_tell() -> None:
    def step(key: Key, state: Any, completions: Sequence[Completion]) -> tuple[Any, Step]:
        state = (*state, *completions)
        return state, Step(
            (ask(len(state)),) if len(state) < 3 else (), {"done": len(state)} if len(state) != 1 else None
        )

    assert solve(sampler_of(step)).trace == ({"done": 0}, {"done": 2}, {"done": 3})


def test_digests_are_those_of_the_asks() -> None:
    with Store(":memory:") as store:
        watched = WatchedEngine(Toy(3))
        solve("repeat(3)", watched, store=store)
        assert len(store.draws([digest_of(watched.identity, a) for a in watched.asked])) == 3
