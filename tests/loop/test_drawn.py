"""Tokens are counted as they are drawn: none twice, none left out, and at the end as they are billed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from samplewise.core.errors import EngineUnavailable
from samplewise.core.events import Arrived, Drawn, Event
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Message, Question, Usage
from samplewise.engines.base import Arrival, failed
from samplewise.engines.team import Team
from samplewise.engines.toy import Toy
from samplewise.loop import dispatch
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.result import Result
from samplewise.recipe import recipe
from samplewise.store.database import Store

QUESTION = Question("q", (Message("user", "spell a word"),))
LINE = "repeat(12, max_tokens=9) | vote"


class Counting(Toy):
    """Draws a token of every ask in turn, and knows how many each has. `num_failing` asks fail at first, at the cost of
    two tokens."""

    def __init__(self, num_failing: int = 0) -> None:
        super().__init__(3)
        self.num_failing = num_failing
        self.drawn: dict[int, int] = {}  # by id of the ask; what has ended stays
        self.asks: list[Ask] = []
        self.lost = 0  # tokens of attempts that failed

    def num_drawn(self, ask: Ask) -> int:
        return self.drawn.get(id(ask), 0)

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        self.asks += asks
        completions = [self.one(ask) for ask in asks]
        for position in range(min(self.num_failing, len(asks))):
            completions[position] = failed(EngineUnavailable("busy"), Usage(1, 3, 2), retry_after_s=0.0)
        self.num_failing = 0
        for step in range(1, 11):
            for ask, completion in zip(asks, completions, strict=True):
                if step <= completion.usage.completion_tokens:
                    self.drawn[id(ask)] = step
            await asyncio.sleep(0.004)
            for position, completion in enumerate(completions):
                if completion.usage.completion_tokens == step:
                    yield Arrival(position, completion)
                    if completion.finish == "error":  # once it is handed over
                        self.drawn[id(asks[position])] = 0
                        self.lost += 2


def solve(engine: Any, line: str = LINE, **more: Any) -> Result:
    made = RunContext(engine, **more)
    return asyncio.run(run_question(QUESTION, recipe(line), made, Key(0), read=lambda _, text: text[:1] or None))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "DRAWN_EVERY_S", 0.001)


@pytest.mark.parametrize("num_failing", [0, 5])
@pytest.mark.parametrize("in_team", [False, True])
def test_every_count_is_what_the_engine_has_drawn(num_failing: int, in_team: bool) -> None:
    """The progress line counted only draws that had ended: 8 to 30 tokens/s where 60 were drawn."""
    engine = Counting(num_failing)
    counts: list[tuple[int, int]] = []  # as reported, as drawn
    num_arrived: list[int] = []
    arrived: list[Arrived] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Arrived):
            arrived.append(event)
        if isinstance(event, Drawn):
            counts.append((event.tokens, sum(engine.drawn.values()) + engine.lost))
            num_arrived.append(len(arrived))

    result = solve(Team({"": engine}) if in_team else engine, on_event=on_event)
    # A team takes replies from its engine before they are booked: failed attempts may be missing for that moment.
    late = 2 * num_failing if in_team else 0
    assert all(0 <= drawn - reported <= late for reported, drawn in counts), counts
    reported = [reported for reported, _ in counts]
    assert reported == sorted(reported)
    before = [tokens for tokens, num in zip(reported, num_arrived, strict=True) if num == 0]
    assert len({*before}) > 1  # it rises while no draw has ended
    assert reported[-1] == result.paid.completion_tokens == result.spent.completion_tokens + 2 * num_failing
    assert engine.lost == 2 * num_failing


def test_the_count_does_not_dip_when_a_team_hands_replies_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team takes all replies that are ready, and the engine forgets them, before the first one arrives here."""
    monkeypatch.setattr(dispatch, "DRAWN_EVERY_S", 0.0)

    class AllAtOnce(Counting):
        async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
            self.drawn = {id(ask): self.one(ask).usage.completion_tokens for ask in asks}
            await asyncio.sleep(0.01)
            for position, ask in enumerate(asks):
                del self.drawn[id(ask)]
                yield Arrival(position, self.one(ask))

    counts: list[int] = []
    result = solve(
        Team({"": AllAtOnce()}),
        on_event=lambda event: counts.append(event.tokens) if isinstance(event, Drawn) else None,
    )
    assert len(counts) > 12
    assert counts == sorted(counts)
    assert set(counts) - {0} == {result.paid.completion_tokens}  # all are drawn before any arrives


def test_of_an_engine_that_knows_nothing_the_count_is_of_the_draws_that_ended() -> None:
    counts, ended = [], 0

    def on_event(event: Event) -> None:
        nonlocal ended
        if isinstance(event, Arrived):
            ended += event.usage.completion_tokens
        if isinstance(event, Drawn):
            counts.append((event.tokens, ended))

    class Silent(Counting):
        def num_drawn(self, ask: Ask) -> None:  # type: ignore[override]
            return None

    result = solve(Silent(), on_event=on_event)
    assert len(counts) <= len(result.pool.candidates)
    # A count comes with a draw's bill, just before its arrival is told.
    assert all(before < tokens for tokens, before in counts)
    assert counts[-1][0] == result.paid.completion_tokens


def test_what_is_cut_off_no_longer_counts() -> None:
    engine = Counting()
    events: list[Event] = []

    async def go() -> Result:
        cancel = asyncio.Event()

        def on_event(event: Event) -> None:
            events.append(event)
            if sum(isinstance(event, Arrived) for event in events) == 4:
                cancel.set()

        context = RunContext(engine, on_event=on_event, cancel=cancel)
        return await run_question(QUESTION, recipe(LINE), context, Key(0), read=lambda _, text: text[:1] or None)

    asyncio.run(go())
    ended = sum(event.usage.completion_tokens for event in events if isinstance(event, Arrived))
    told = [event.tokens for event in events if isinstance(event, Drawn)]
    assert 4 <= sum(isinstance(event, Arrived) for event in events) < 12
    assert max(told) > ended  # some were drawing
    assert told[-1] == ended > 0
    assert min(told) >= 0


def test_what_the_store_answers_is_not_drawn_now() -> None:
    events: list[Event] = []
    with Store(":memory:") as store:
        first = solve(Counting(), "repeat(5, max_tokens=9) | vote", store=store)
        result = solve(Counting(), "repeat(8, max_tokens=9) | vote", store=store, on_event=events.append)
    told = [event.tokens for event in events if isinstance(event, Drawn)]
    assert told[-1] == result.paid.completion_tokens
    assert told[-1] == result.spent.completion_tokens - first.spent.completion_tokens > 0


def test_many_draws_are_not_counted_anew_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each count asks about every draw in flight, so a count with every arrival would be quadratic."""
    monkeypatch.setattr(dispatch, "DRAWN_EVERY_S", 3600.0)
    asked = 0

    class Watched(Toy):
        def num_drawn(self, ask: Ask) -> int:
            nonlocal asked
            asked += 1
            return 0

    events: list[Event] = []
    result = solve(Watched(3), "repeat(300) | vote", on_event=events.append)
    assert asked <= 2 * 300
    assert [event.tokens for event in events if isinstance(event, Drawn)] == [result.paid.completion_tokens]
