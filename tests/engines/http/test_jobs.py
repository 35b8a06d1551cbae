"""One call of `answer`: which tasks serve its jobs, and what becomes of their errors."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from samplewise.core.errors import SetupError
from samplewise.core.types import Completion, Generate, Message
from samplewise.engines.http.jobs import AnswerCall, Recipient, RequestJob, group_asks

ASKS = [Generate((Message("user", "hi"),), seed=seed) for seed in range(3)]
DRAWN = Completion("a", "stop")


async def positions(call: AnswerCall, limit: int = 9) -> list[int]:
    found = []
    async for arrival in call.arrivals():
        found.append(arrival.position)
        if len(found) == limit:
            break
    return found


@pytest.mark.parametrize(("num_asks", "max_size"), [(1, 1), (3, 8), (3, 1)])
def test_one_ask_alone_needs_no_task(num_asks: int, max_size: int) -> None:
    tasks: list[Any] = []

    async def serve(job: RequestJob, call: Recipient) -> None:
        tasks.append(asyncio.current_task())
        for position in job.positions:
            call.deliver(position, DRAWN)

    async def go() -> None:
        call = AnswerCall(serve, group_asks(ASKS[:num_asks], max_size), num_asks, 8)
        assert sorted(await positions(call)) == list(range(num_asks))
        assert (asyncio.current_task() in tasks) == (num_asks == 1)

    asyncio.run(asyncio.wait_for(go(), 5))


def test_what_a_request_delivers_is_handed_over_before_it_ends() -> None:
    async def serve(job: RequestJob, call: Recipient) -> None:
        call.deliver(job.positions[0], DRAWN)
        await asyncio.sleep(60)

    call = AnswerCall(serve, group_asks(ASKS, 8), 3, 8)
    assert asyncio.run(asyncio.wait_for(positions(call, limit=1), 5)) == [0]


def test_what_one_request_leaves_is_asked_for_again() -> None:
    async def serve(job: RequestJob, call: Recipient) -> None:
        await asyncio.sleep(0)
        call.deliver(job.positions[0], DRAWN)
        if len(job.asks) > 1:
            call.add(job.after(1))

    call = AnswerCall(serve, group_asks(ASKS, 8), 3, 8)
    assert asyncio.run(asyncio.wait_for(positions(call), 5)) == [0, 1, 2]


@pytest.mark.parametrize("max_size", [8, 1])
def test_what_arrived_before_an_error_is_handed_over(max_size: int) -> None:
    served = []

    async def serve(job: RequestJob, call: Recipient) -> None:
        served.append(job)
        call.deliver(job.positions[0], DRAWN)
        raise SetupError("no such model")

    found: list[int] = []

    async def go() -> None:
        call = AnswerCall(serve, group_asks(ASKS, max_size), 3, 1)
        async for arrival in call.arrivals():
            found.append(arrival.position)

    with pytest.raises(SetupError):
        asyncio.run(asyncio.wait_for(go(), 5))
    assert found == [0]
    assert len(served) == 1, "after an error nothing more is asked"


def test_one_request_alone_ends_with_its_call() -> None:
    ended = []

    async def serve(job: RequestJob, call: Recipient) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(job)

    async def go() -> None:
        task = asyncio.ensure_future(positions(AnswerCall(serve, group_asks(ASKS[:1], 1), 1, 8)))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait({task}, timeout=5)
        assert task.cancelled()

    asyncio.run(go())
    assert len(ended) == 1
