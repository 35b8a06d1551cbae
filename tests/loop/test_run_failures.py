"""Engines that fail: one request, all of them, for a while, or in ways the protocol forbids. No run is lost to them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from samplewise.core import errors, retry
from samplewise.core.errors import (
    AuthError,
    BadRequest,
    ContextOverflow,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    MissingExtra,
    RateLimited,
)
from samplewise.core.events import Arrived, Event, Retried
from samplewise.core.keys import Key
from samplewise.core.retry import MAX_RETRIES
from samplewise.core.types import Ask, Completion, Generate, Message, Problem, Question, Score
from samplewise.engines.base import Arrival, failed
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.recipe import recipe
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task

QUESTION = Question("q", (Message("user", "spell a word"),))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF_S", 0.0)


def solve(engine: Any, line: str = "repeat(6, max_tokens=4)", **more: Any) -> Result:
    return asyncio.run(
        run_question(QUESTION, recipe(line), RunContext(engine, **more), Key(0), read=lambda _, text: text or None)
    )


class Moody(Toy):
    """Fails an ask as `mood(number of its earlier attempts, its place in the first wave)` says: an error, or None."""

    def __init__(self, mood: Callable[[int, int], EngineError | None], retry_after_s: float | None = None) -> None:
        super().__init__(3)
        self.mood, self.retry_after_s = mood, retry_after_s
        self.attempts: Counter[int] = Counter()
        self.places: dict[int, int] = {}

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            assert isinstance(ask, Generate)
            place = self.places.setdefault(ask.seed, len(self.places))
            error = self.mood(self.attempts[place], place)
            self.attempts[place] += 1
            if error is None:
                yield Arrival(position, self.one(ask))
            else:
                yield Arrival(position, failed(error, retry_after_s=self.retry_after_s))


def same_pool(one: Result, other: Result) -> bool:
    return repr(one.pool) == repr(other.pool)


# --- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [EngineTimeout("late"), EngineUnavailable("gone"), RateLimited("slow down")])
def test_what_may_help_is_tried_again(error: EngineError) -> None:
    engine = Moody(lambda attempts, place: error if attempts < 2 and place % 2 else None)
    result = solve(engine)
    assert same_pool(result, solve(Toy(3)))
    assert result.stop.reason == "finished"
    assert [engine.attempts[i] for i in range(6)] == [1, 3, 1, 3, 1, 3]
    assert result.spent.requests == 6
    assert result.paid.requests == 12  # attempts that failed are paid for all the same


@pytest.mark.parametrize("error", [BadRequest("no"), ContextOverflow("too long"), AuthError("who?")])
def test_what_cannot_help_is_not(error: EngineError) -> None:
    engine = Moody(lambda attempts, place: error if place == 2 else None)
    result = solve(engine)
    assert set(engine.attempts.values()) == {1}
    assert (len(result.pool.candidates), result.pool.num_failed) == (5, 1)
    assert result.stop.reason == "finished"


def test_there_is_an_end_to_trying() -> None:
    engine = Moody(lambda attempts, place: EngineUnavailable("gone"))
    result = solve(engine)
    assert set(engine.attempts.values()) == {MAX_RETRIES + 1}
    assert (len(result.pool.candidates), result.pool.num_failed) == (0, 6)
    assert (result.answer, result.stop.reason) == (None, "finished")
    assert result.paid.requests == 6 * (MAX_RETRIES + 1)


def test_the_engine_says_how_long_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF_S", 0.001)
    for retry_after_s, waits in [(None, [0.001, 0.002, 0.004]), (0.003, [0.003] * 3)]:
        events: list[Event] = []
        engine = Moody(lambda attempts, place: RateLimited("slow down") if attempts < 3 else None, retry_after_s)
        solve(engine, on_event=events.append)
        retried = [event for event in events if isinstance(event, Retried)]
        assert [event.wait_s for event in retried] == waits
        assert all(event.num == 6 and event.failure is not None for event in retried)
        assert retried[0].failure is not None
        assert (retried[0].failure.kind, retried[0].failure.message) == ("RateLimited", "slow down")


def test_failed_attempts_count_against_the_budget() -> None:
    """The failed attempts of a wave were not in the books when its retries were admitted: ten asks and one that failed
    made eleven requests of a budget of ten."""
    engine = Moody(lambda attempts, place: EngineTimeout("late") if place == 3 else None)
    result = solve(engine, "repeat(10)", budget=Budget(requests=10))
    assert sum(engine.attempts.values()) == result.paid.requests == 10
    assert (len(result.pool.candidates), result.pool.num_failed) == (9, 1)
    for limit in range(30):
        engine = Moody(lambda attempts, place: EngineTimeout("late") if attempts < 1 + place % 3 else None)
        paid = solve(engine, "repeat(10)", budget=Budget(requests=limit)).paid
        assert sum(engine.attempts.values()) == paid.requests <= limit


def test_waiting_ends_with_the_deadline_and_with_a_cancellation() -> None:
    engine = Moody(lambda attempts, place: RateLimited("slow down") if place == 5 else None, retry_after_s=60.0)
    result = solve(engine, budget=Budget(seconds=5.0))
    assert (len(result.pool.candidates), result.stop.reason) == (5, "budget")

    async def going() -> Result:
        cancel = asyncio.Event()
        asyncio.get_running_loop().call_later(0.05, cancel.set)
        return await run_question(
            QUESTION, recipe("repeat(6)"), RunContext(engine, cancel=cancel), Key(0), read=lambda _, t: t
        )

    assert asyncio.run(going()).stop.reason == "cancelled"


def test_failures_are_told() -> None:
    events: list[Event] = []
    solve(Moody(lambda attempts, place: BadRequest("no") if place in (1, 4) else None), on_event=events.append)
    assert [e.source for e in events if isinstance(e, Arrived)].count("failure") == 2


@pytest.mark.parametrize("line", ["repeat(8, wave=3)", "repeat(8) | until(lead(99)) | vote"])
def test_a_failure_leaves_the_other_draws_as_they_are(line: str) -> None:
    plain = solve(Toy(3), line).pool.candidates
    broken = solve(Moody(lambda attempts, place: BadRequest("no") if place == 2 else None), line).pool
    assert repr(broken.candidates) == repr((*plain[:2], *plain[3:]))


# --- engines that break the protocol ----------------------------------------------------------------------------------


class Rogue(Toy):
    """Its `answer` is whatever the test wants."""

    def __init__(self, answer: Callable[[Rogue, Sequence[Ask]], AsyncIterator[Any]]) -> None:
        super().__init__(3)
        self._answer = answer
        self.num_calls = 0

    def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        self.num_calls += 1
        return self._answer(self, asks)


def breaks_off(error: Exception, after: int, times: int = 10**9) -> Rogue:
    async def answer(engine: Rogue, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        call = engine.num_calls
        for position, ask in enumerate(asks):
            if position == after and call <= times:
                raise error
            yield Arrival(position, engine.one(ask))

    return Rogue(answer)


@pytest.mark.parametrize("after", [0, 2, 5])
@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyError("x"), EngineTimeout("late"), BadRequest("no")])
def test_an_engine_that_raises_has_failed_the_rest(error: Exception, after: int) -> None:
    """The exception went through the loop and took the run with it, paid draws and all."""
    with Store(":memory:") as store:
        engine = breaks_off(error, after)
        result = solve(engine, store=store)
        assert len(result.pool.candidates) + result.pool.num_failed == 6
        if isinstance(error, BadRequest):  # raised once, so believed: nothing is tried again
            assert engine.num_calls == 1
            assert len(result.pool.candidates) == after
        else:
            assert engine.num_calls == MAX_RETRIES + 1 if after == 0 else engine.num_calls > 1
        assert store.num_draws() == len(result.pool.candidates)


def test_an_engine_that_raises_once_loses_nothing() -> None:
    result = solve(breaks_off(RuntimeError("boom"), 2, times=1))
    assert same_pool(result, solve(Toy(3)))


def test_the_failure_names_the_engine_and_the_error() -> None:
    events: list[Event] = []
    solve(breaks_off(RuntimeError("boom"), 0), on_event=events.append)
    failure = next(event.failure for event in events if isinstance(event, Retried))
    assert failure is not None
    assert failure.kind == "EngineUnavailable"
    assert failure.message == "toy(3, seed=0, scale=1.0) broke off: RuntimeError: boom"


def test_what_the_user_must_change_is_no_failed_request() -> None:
    with pytest.raises(MissingExtra):
        solve(breaks_off(MissingExtra("the engine", "local"), 2))


def test_an_answer_that_never_comes_is_a_failure() -> None:
    """The run ended as if its budget were used up, and the draws after the gap were lost."""

    async def forgetful(engine: Rogue, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            if position % 2 == 0 or engine.num_calls > 2:
                yield Arrival(position, engine.one(ask))

    assert same_pool(solve(Rogue(forgetful)), solve(Toy(3)))

    async def silent(engine: Rogue, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        return
        yield

    result = solve(Rogue(silent))
    assert (result.pool.num_failed, result.stop.reason) == (6, "finished")


def test_answers_that_nobody_asked_for_are_ignored() -> None:
    """A second answer to an ask was paid for twice and stored over the first; a position out of range was an
    IndexError, and -1 the last ask."""

    async def generous(engine: Rogue, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            for other in (position, position, position - 1, -1, len(asks), 10**9):
                yield Arrival(other, engine.one(ask) if other == position else Completion("wrong", "stop"))

    with Store(":memory:") as store:
        result = solve(Rogue(generous), store=store)
        plain = solve(Toy(3))
        assert same_pool(result, plain)
        assert result.paid == plain.paid
        assert store.num_draws() == 6


@pytest.mark.parametrize("rubbish", [None, 3, "x", (), (1, 2, 3), ("0", None)])
def test_rubbish_is_a_failure(rubbish: object) -> None:
    async def odd(engine: Rogue, asks: Sequence[Ask]) -> AsyncIterator[Any]:
        yield rubbish

    result = solve(Rogue(odd))
    assert result.pool.num_failed == 6


def test_an_engine_that_fails_while_it_is_closed_loses_nothing() -> None:
    async def sulky(engine: Rogue, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        try:
            for position, ask in enumerate(asks):
                await asyncio.sleep(0)
                yield Arrival(position, engine.one(ask))
        finally:
            raise RuntimeError("I was not done")

    result = solve(Rogue(sulky), "repeat(50) | until(lead(2)) | vote")
    assert result.stop.reason == "settled"
    assert result.answer


def test_an_engine_that_clings_to_a_cancelled_ask_does_not_hold_the_run_up() -> None:
    async def clinging(engine: Rogue, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        yield Arrival(0, engine.one(asks[0]))
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("on the way out") from None

    result = solve(Rogue(clinging), budget=Budget(seconds=2.0))
    assert (len(result.pool.candidates), result.stop.reason) == (1, "budget")


def test_every_kind_of_engine_error_can_be_a_value() -> None:
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, EngineError):
            completion = failed(cls("why"))
            assert completion.failure is not None
            assert (completion.finish, completion.failure.kind) == ("error", cls.__name__)
            assert completion.failure.retryable == cls.retryable


@pytest.mark.parametrize(("error", "num_done"), [(EngineUnavailable("gone"), 0), (ContextOverflow("too long"), 3)])
def test_a_question_that_nobody_answered_for_now_is_asked_again(error: EngineError, num_done: int) -> None:
    """What cannot be answered is a question answered by nothing; what was not answered is still to do."""
    problems = [Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(3)]
    task = Task("words", tuple(problems), lambda _, text: text or None, lambda *_: Score(1.0))
    line = recipe("repeat(4, max_tokens=4) | vote")
    with Store(":memory:") as store:
        failing = asyncio.run(run_task(task, line, Moody(lambda attempts, place: error), store))
        assert (failing.num_done, failing.cancelled) == (num_done, num_done < 3)
        assert str(error) in failing.failure
        again = asyncio.run(run_task(task, line, Moody(lambda attempts, place: None), store))
        assert (again.run, again.num_done, again.failure) == (failing.run, 3, "")
        assert (again.spent.completion_tokens > 0) is (num_done == 0)
