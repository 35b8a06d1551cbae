"""What ends a run is heard by whoever waits for it."""

from __future__ import annotations

import asyncio

from samplewise.loop.threads import Cancel, unless_cancelled, when_set


def test_who_waits_for_a_cancel_hears_it_without_a_task() -> None:
    async def go() -> None:
        cancel = Cancel()
        early, other, given_up = cancel.future(), cancel.future(), cancel.future()
        given_up.cancel()
        assert len(asyncio.all_tasks()) == 1, "nothing but this"
        await asyncio.sleep(0)
        assert not early.done()
        cancel.set()
        cancel.set()
        assert early.done()
        assert other.done()
        assert given_up.cancelled()
        assert cancel.future().done(), "it was set before"
        assert cancel.is_set()

    asyncio.run(go())


def test_what_waits_no_more_is_forgotten() -> None:
    async def go() -> int:
        cancel = Cancel()
        for _ in range(10):
            cancel.future().cancel()
        await asyncio.sleep(0)
        return len(cancel._futures)

    assert asyncio.run(go()) == 0


def test_any_event_ends_work() -> None:
    async def go(event: asyncio.Event) -> None:
        before = asyncio.all_tasks()
        asyncio.get_running_loop().call_later(0.01, event.set)
        assert await unless_cancelled(asyncio.sleep(10, "late"), event) is None
        assert await unless_cancelled(asyncio.sleep(0, "here"), asyncio.Event()) == "here"
        assert await when_set(event) in (None, True)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before, "no waiter is left"

    for event in (asyncio.Event(), Cancel()):
        asyncio.run(asyncio.wait_for(go(event), 5))
