"""Blocking work beside the event loop, in a bounded number of threads.

Readers, verifiers and graders start programs and wait for them. In the event loop that would hold up every reply, until
they are taken for time-outs. The threads are daemons: a run that is cancelled waits for none, and neither does the end
of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

MAX_THREADS = 16


class _Threads:
    """Threads of one process, started when all that there are have work."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._num_open = self._num_threads = 0  # work that has not ended; threads

    def add(self, work: Callable[[], None]) -> None:
        with self._lock:
            self._num_open += 1
            if self._num_open > self._num_threads and self._num_threads < MAX_THREADS:
                self._num_threads += 1
                threading.Thread(target=self._serve, name=f"samplewise-{self._num_threads}", daemon=True).start()
        self._work.put(work)

    def _serve(self) -> None:
        while True:
            self._work.get()()
            with self._lock:
                self._num_open -= 1


_threads: dict[int, _Threads] = {}  # by process: threads do not survive a fork


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the function returns, called in a thread. If this is cancelled, nobody waits for it any more."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # there is one where there is no error

    def work() -> None:
        result, error = None, None
        if future.cancelled():
            return
        try:
            result = context.run(function, *args, **kwargs)
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(settle, result, error)

    _threads.setdefault(os.getpid(), _Threads()).add(work)
    return await future


class Cancel(asyncio.Event):
    """An event that ends a run. Unlike another event's, its futures need no task each."""

    def __init__(self) -> None:
        super().__init__()
        self._futures: set[asyncio.Future[Any]] = set()

    def set(self) -> None:
        super().set()
        for future in self._futures:
            if not future.done():
                future.set_result(None)
        self._futures.clear()

    def future(self) -> asyncio.Future[Any]:
        """Return a future that is done once the event is set. Cancel it when nobody waits for it any more."""
        future = asyncio.get_running_loop().create_future()
        if self.is_set():
            future.set_result(None)
        else:
            self._futures.add(future)
            future.add_done_callback(self._futures.discard)
        return future


def when_set(event: asyncio.Event) -> asyncio.Future[Any]:
    """Return a future that is done once the event is set."""
    return event.future() if isinstance(event, Cancel) else asyncio.ensure_future(event.wait())


async def unless_cancelled(
    work: Coroutine[Any, Any, T], cancel: asyncio.Event | None, grace_s: float = 0.0
) -> T | None:
    """Return the result of `work`, None if the user cancels and it is not there `grace_s` later."""
    if cancel is None:
        return await work
    if cancel.is_set() and not grace_s:
        work.close()
        return None
    task, cancelled = asyncio.ensure_future(work), when_set(cancel)
    try:
        await asyncio.wait({task, cancelled}, return_when=asyncio.FIRST_COMPLETED)
        if grace_s and not task.done():
            await asyncio.wait({task}, timeout=grace_s)
        return task.result() if task.done() else None
    finally:
        await abandon(task)
        cancelled.cancel()


async def abandon(task: asyncio.Future[Any] | None) -> None:
    """Cancel a task that nobody waits for any more, and wait until it has ended. Its error is of no interest."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()
