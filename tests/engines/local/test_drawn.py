"""The local engine says how many tokens it has drawn while it draws."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from samplewise.api import asolve
from samplewise.core.events import Arrived, Drawn, Event
from samplewise.core.types import Generate, Message, Sampling
from samplewise.engines.local import engine as local_engine
from samplewise.engines.local import local
from samplewise.engines.local.batch import Batch
from samplewise.engines.local.engine import Local
from samplewise.loop import dispatch

PUZZLE = "make 24 from 4 6 7 8"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Local:
    """The bundled model, a step of it no faster than the event loop can watch."""
    step = Batch.step

    def slowly(batch: Batch) -> object:
        time.sleep(0.003)
        return step(batch)

    monkeypatch.setattr(Batch, "step", slowly)
    monkeypatch.setattr(local_engine, "COUNT_EVERY_S", 0.0)
    monkeypatch.setattr(dispatch, "DRAWN_EVERY_S", 0.002)
    return local("tiny")


def test_the_count_rises_before_any_draw_has_ended(slow: Local) -> None:
    events: list[Event] = []
    result = asyncio.run(asolve(PUZZLE, engine=slow, recipe="repeat(8) | vote", on_event=events.append))
    first = next(index for index, event in enumerate(events) if isinstance(event, Arrived))
    total = sum(event.usage.completion_tokens for event in events if isinstance(event, Arrived))
    early = [event.tokens for event in events[:first] if isinstance(event, Drawn)]
    told = [event.tokens for event in events if isinstance(event, Drawn)]
    assert any(0 < tokens < total for tokens in early), told
    assert told == sorted(told)
    assert told[-1] == total == result.paid.completion_tokens > 0
    assert slow._tags == {}


def test_an_ask_knows_its_own_count(slow: Local) -> None:
    """Rows are moved as others end; the count stays with the ask. Nothing is kept of what was given up."""
    asks = [
        Generate((Message("user", PUZZLE),), max_tokens=num, sampling=Sampling(), seed=num) for num in (2, 30, 5, 30, 9)
    ]
    seen: dict[int, list[int]] = {position: [] for position in range(len(asks))}

    async def go(num_wanted: int) -> dict[int, int]:
        drawn: dict[int, int] = {}

        async def watch() -> None:
            while True:
                for position, ask in enumerate(asks):
                    if position not in drawn:
                        seen[position].append(slow.num_drawn(ask))
                await asyncio.sleep(0.001)

        watcher = asyncio.create_task(watch())
        async with contextlib.aclosing(slow.answer(asks)) as arrivals:  # type: ignore[type-var]
            async for position, completion in arrivals:
                drawn[position] = completion.usage.completion_tokens
                if len(drawn) == num_wanted:
                    break
        watcher.cancel()
        return drawn

    drawn = asyncio.run(go(len(asks)))
    for position, counts in seen.items():
        assert counts == sorted(counts)
        assert 0 == counts[0] <= counts[-1] <= drawn[position] <= asks[position].max_tokens
    assert min(seen[1][-1], seen[3][-1]) > asks[4].max_tokens
    assert slow._tags == {}
    assert len(asyncio.run(go(1))) == 1
    assert slow._tags == {}
    assert [slow.num_drawn(ask) for ask in asks] == [0] * len(asks)
