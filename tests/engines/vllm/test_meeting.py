"""Draws that wait for one another, and the seats that they need at once. No vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

pytest.importorskip("torch", reason="the local engine's extra is not installed")

from samplewise.core.types import Generate, Sampling
from samplewise.engines.vllm.meeting import HOLD_S, MAX_TRIES, Meeting, Room, meeting_groups

ASK = Generate((), sampling=Sampling(explore="consensus"), group="g", group_size=3)


def go(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 5))


class Held(list[float]):
    """Remember how long vLLM was held each time."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_draws_wait_until_nobody_is_under_way() -> None:
    async def work() -> None:
        room, held = Room(8), Held()
        meeting = Meeting(ASK, "m", room, held)
        assert (meeting.cue, meeting.tokens_after, meeting.size) == ("The answer is", 64, 3)
        first, second = (asyncio.create_task(meeting.wait()) for _ in range(2))
        await settled()
        assert not first.done()
        assert not second.done()
        meeting.leave()  # the third ends, or cannot answer any more
        assert await first == await second == 2
        assert (room._taken, held) == (2, [HOLD_S])

    go(work())


@pytest.mark.parametrize(("when", "members"), [("it waits", 1), ("vLLM is held", 1), ("it was let go", 2)])
def test_a_draw_that_is_cancelled_is_not_waited_for(when: str, members: int) -> None:
    async def work() -> None:
        async def hold(seconds: float) -> None:
            if when == "vLLM is held":
                await asyncio.sleep(0)

        room = Room(8)
        meeting = Meeting(ASK, "m", room, hold)

        async def draw() -> int:
            try:
                members = await meeting.wait()
            finally:
                meeting.leave()
            room.leave()
            return members

        first, second = (asyncio.create_task(draw()) for _ in range(2))
        await settled()
        if when == "it waits":
            first.cancel()
            await settled()
            meeting.leave()
        else:
            meeting.leave()
            await asyncio.sleep(0)
            first.cancel()
        assert await second == members
        await settled()
        assert first.cancelled()
        assert room._taken == 0, "seats leak"

    go(work())


def test_a_group_that_never_gets_its_step_is_given_up() -> None:
    async def work() -> None:
        room, held = Room(8), Held()
        meeting = Meeting(ASK, "m", room, held)

        async def draw() -> int:
            tries = 0
            while await meeting.wait(again=tries > 0):
                room.leave()
                tries += 1
            return tries

        assert await asyncio.gather(*(draw() for _ in range(3))) == [MAX_TRIES] * 3
        assert held == [HOLD_S * 2**i for i in range(MAX_TRIES)]
        assert room._taken == 0

    go(work())


def test_a_group_gets_its_seats_at_once_and_before_those_who_come_later() -> None:
    async def work() -> None:
        room, order = Room(4), list[str]()
        for _ in range(3):
            await room.enter()

        async def group() -> None:
            async with room.reserved(3):
                order.append("group")

        async def late() -> None:
            await room.enter()
            order.append("late")

        tasks = [asyncio.create_task(group()), asyncio.create_task(late())]
        await settled()
        room.leave()
        await settled()
        assert order == []
        room.leave()
        await asyncio.gather(*tasks)
        assert order == ["group", "late"]
        assert room._taken == 5

    go(work())


def test_the_last_draw_to_end_brings_the_report() -> None:
    meeting = Meeting(ASK, "m", Room(4), Held())
    worker = {"numbers": {"seen": 8.0, "guided": 8.0, "members": 2.0}, "problem": ""}
    assert meeting.report(9, None) is None
    assert meeting.report(7, worker) is None
    report = meeting.report(30, None)
    assert report is not None
    assert report["numbers"] == {"seen": 46.0, "guided": 8.0, "members": 2.0}
    assert (report["policy"], report["samples"], report["problem"]) == ("consensus", 3, "")
    nobody = Meeting(ASK._replace(group_size=1), "m", Room(4), Held()).report(30, None)
    assert nobody is not None
    assert nobody["numbers"] == {"seen": 30.0, "guided": 0.0, "members": 0.0}


def test_asks_that_wait_are_found_by_group() -> None:
    others = [
        Generate(()),
        ASK._replace(sampling=Sampling(explore="css")),
        ASK._replace(sampling=Sampling(explore="x")),
    ]
    assert meeting_groups([*others, ASK, ASK._replace(draw=1)]) == {"g": [ASK, ASK._replace(draw=1)]}
    apart = meeting_groups([ASK, *others, ASK._replace(draw=1)])
    assert len(apart["g"]) == 1, "a group that comes in pieces is not whole"
