"""The bell that wakes who waits for a task, a deadline or a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from samplewise.loop.bell import Bell


@pytest.mark.parametrize("result", [7, KeyError("no")])
def test_a_task_is_done_when_who_waits_for_it_goes_on(result: int | KeyError) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        if isinstance(result, KeyError):
            raise result
        return result

    async def wait() -> None:
        bell = Bell()
        task = asyncio.ensure_future(bell.after(work()))
        await bell.wait(5.0)
        assert task.done()
        assert (task.exception() or task.result()) == result

    asyncio.run(wait())


def test_a_bell_rings_in_fewer_turns_of_the_loop_than_asyncio_wait() -> None:
    async def turns(*, with_bell: bool) -> int:
        bell, start, num = Bell(), asyncio.Event(), 0

        async def work() -> None:
            await start.wait()

        async def count() -> None:
            nonlocal num
            while True:
                await asyncio.sleep(0)
                num += 1

        task = asyncio.ensure_future(bell.after(work()))
        counting = asyncio.ensure_future(count())
        asyncio.get_running_loop().call_later(0.01, start.set)
        asyncio.get_running_loop().call_later(0.01, lambda: started.append(num))
        started: list[int] = []
        await (bell.wait() if with_bell else asyncio.wait({task}))
        counting.cancel()
        return num - started[0]

    assert asyncio.run(turns(with_bell=True)) == asyncio.run(turns(with_bell=False)) - 1


def test_time_ends_a_wait_and_a_ring_while_nobody_waits_is_lost() -> None:
    async def wait() -> None:
        bell = Bell()
        bell.ring()
        began = asyncio.get_running_loop().time()
        await bell.wait(0.02)
        assert asyncio.get_running_loop().time() - began >= 0.015
        asyncio.get_running_loop().call_later(0.01, bell.ring)
        await asyncio.wait_for(bell.wait(), 5.0)
        waiting = asyncio.ensure_future(bell.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        bell.ring()  # nobody waits any more, and nothing is left of who did

    asyncio.run(wait())
