"""A bell: what a task waits for that others end, woken at once.

`asyncio.wait` is told of a task's end a turn of the event loop later, and tells who waits another turn later. With many
requests each turn is the work of others, and in a process that was idle it costs as much as the work itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Bell:
    """Wakes the one task that waits. A ring while nobody waits is lost: look at what it stands for before you wait."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def ring(self, _: Any = None) -> None:
        """Wake who waits. It may be the callback of a future, or of a timer."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until somebody rings, or the time is up."""
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if seconds is None else loop.call_later(seconds, self.ring)
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    async def after(self, work: Awaitable[T]) -> T:
        """Return what `work` returns, and ring: as a task, this is done when who waits goes on."""
        try:
            return await work
        finally:
            self.ring()
