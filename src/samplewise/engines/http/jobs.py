"""One call of `answer`: its asks as requests to be made, the tasks that make them, and what has arrived."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import NamedTuple, Protocol

from samplewise.engines.base import Arrival
from samplewise.types import Ask, Completion, Generate


class Job(NamedTuple):
    """Asks that one request answers: they differ in their seeds alone. `positions` are their places in the call."""

    positions: tuple[int, ...]
    asks: tuple[Ask, ...]

    def cut(self, num: int) -> tuple[Job, Job]:
        """The first `num` asks, and the others."""
        return Job(self.positions[:num], self.asks[:num]), Job(self.positions[num:], self.asks[num:])


def grouped(asks: Sequence[Ask], most: int) -> Iterator[Job]:
    """Jobs of at most `most` asks, in the order of their first ones. Only draws can share a request."""
    if most <= 1:
        yield from (Job((position,), (ask,)) for position, ask in enumerate(asks))
        return
    alike: dict[object, list[int]] = {}
    for position, ask in enumerate(asks):
        key: object = position
        if isinstance(ask, Generate) and ask.sampling.temperature > 0:  # several greedy draws at once are often refused
            key = (ask.messages, ask.prefix, ask.sampling, ask.max_tokens, ask.stop, ask.want, ask.floor)
        alike.setdefault(key, []).append(position)
    for positions in alike.values():
        for start in range(0, len(positions), most):
            some = tuple(positions[start : start + most])
            yield Job(some, tuple(asks[position] for position in some))


class Serve(Protocol):
    """Makes a job's request, and delivers a completion for each of its asks or adds jobs for those that are left."""

    async def __call__(self, job: Job, call: Call) -> None: ...


class Call:
    """Works on jobs, which together hold `num_asks` asks, with at most `num_workers` tasks. Jobs are made as their turn
    comes. Closing `arrivals` cancels all tasks at once."""

    def __init__(self, serve: Serve, jobs: Iterator[Job], num_asks: int, num_workers: int) -> None:
        self._serve, self._num_workers = serve, num_workers
        self._jobs, self._more = jobs, deque[Job]()
        self._left = num_asks
        self._ready: deque[Arrival] = deque()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None  # of whoever waits for `_ready`
        self._tasks: set[asyncio.Task[None]] = set()

    def deliver(self, position: int, completion: Completion) -> None:
        self._ready.append(Arrival(position, completion))
        self._wake()

    def add(self, job: Job) -> None:
        """One more job, for asks that a request left unanswered."""
        self._more.append(job)
        self._hire()

    async def arrivals(self) -> AsyncGenerator[Arrival]:
        """What arrives, in the order in which it does. Raises what a job raised."""
        for job in itertools.islice(self._jobs, self._num_workers):
            self.add(job)
        try:
            while self._left:
                while self._ready:
                    self._left -= 1
                    yield self._ready.popleft()
                if self._error is not None:
                    raise self._error
                if self._left:
                    self._waiter = asyncio.get_running_loop().create_future()
                    await self._waiter
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _next(self) -> Job | None:
        return self._more.popleft() if self._more else next(self._jobs, None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hire(self) -> None:
        if len(self._tasks) < self._num_workers:
            task = asyncio.ensure_future(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):  # the call is over
                while (job := self._next()) is not None:
                    await self._serve(job, self)
        except Exception as error:
            self._error = error
            self._wake()
