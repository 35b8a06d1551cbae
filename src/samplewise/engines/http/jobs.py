"""One call of `answer`: its asks as jobs (one request each), the tasks that serve them, and the arrivals."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from samplewise.core.types import Ask, Completion, Generate, Json
from samplewise.engines.base import Arrival


class RequestJob(NamedTuple):
    """Asks that one request answers, which differ in their seeds alone. `positions` are their indices in the call.

    With `by_ids` the prompt is sent as token ids, also where the ask has no prefix. `fields` are added to the request.
    `is_sent`: in a batch, by an earlier process, so it must be answered as it is.
    """

    positions: tuple[int, ...]
    asks: tuple[Ask, ...]
    by_ids: bool = False
    fields: Mapping[str, Json] = {}
    is_sent: bool = False

    def after(self, num: int) -> RequestJob:
        """Return the job without its first `num` asks."""
        return self._replace(positions=self.positions[num:], asks=self.asks[num:])


def is_draft(ask: Ask) -> bool:
    """Return whether an ask takes several requests: the protocol has no word for what it wants (see drafts.py)."""
    if not isinstance(ask, Generate):
        return False
    needs_text = bool(ask.prefix) and "whole" in ask.want
    return needs_text or ask.reject_below is not None or ask.forbid_first is not None


def group_asks(asks: Sequence[Ask], max_size: int) -> Iterator[RequestJob]:
    """Yield jobs of at most `max_size` asks, in the order of their first ones. Only draws can share a request."""
    if max_size <= 1:
        yield from (RequestJob((position,), (ask,)) for position, ask in enumerate(asks))
        return
    groups: dict[object, list[int]] = {}
    for position, ask in enumerate(asks):
        key: object = position
        if isinstance(ask, Generate) and ask.sampling.temperature > 0 and not is_draft(ask):
            # several greedy draws at once are often refused
            key = (ask.messages, ask.prefix, ask.sampling, ask.max_tokens, ask.stop, ask.want)
        groups.setdefault(key, []).append(position)
    for positions in groups.values():
        for start in range(0, len(positions), max_size):
            part = tuple(positions[start : start + max_size])
            yield RequestJob(part, tuple(asks[position] for position in part))


class Recipient(Protocol):
    """Takes the completions of asks, and jobs for asks that a request left unanswered."""

    def deliver(self, position: int, completion: Completion) -> None: ...

    def add(self, job: RequestJob) -> None: ...


class ServeJob(Protocol):
    """Makes a job's request, and delivers a completion for each of its asks or adds jobs for those that are left."""

    async def __call__(self, job: RequestJob, call: Recipient) -> None: ...


class AnswerCall:
    """Serve jobs that together hold `num_asks` asks, with at most `num_workers` tasks.

    Jobs are made lazily. `close`, or closing `arrivals`, cancels all tasks at once.
    """

    def __init__(self, serve: ServeJob, jobs: Iterator[RequestJob], num_asks: int, num_workers: int) -> None:
        self._serve, self._num_workers = serve, num_workers
        self._jobs, self._added = jobs, deque[RequestJob]()
        self._num_left = num_asks
        self._ready: deque[Arrival] = deque()
        self.undelivered: set[int] = set()  # positions of completions that nobody has taken
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None  # done when `_ready` has something
        self._tasks: set[asyncio.Task[None]] = set()

    def deliver(self, position: int, completion: Completion) -> None:
        """Hand over the completion of an ask."""
        self._ready.append(Arrival(position, completion))
        self.undelivered.add(position)
        self._wake()

    def add(self, job: RequestJob) -> None:
        """Add a job, for asks that a request left unanswered."""
        self._added.append(job)
        if len(self._tasks) < self._num_workers:
            task = asyncio.ensure_future(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def arrivals(self) -> AsyncGenerator[Arrival]:
        """Yield arrivals in the order in which they come. Raises what a job raised."""
        try:
            await self.begin()
            while (arrival := await self.next()) is not None:
                yield arrival
        finally:
            await self.close()

    async def begin(self) -> None:
        """Begin to serve the jobs. One ask alone is served to its end here: nothing can come before, so it needs no
        task of its own."""
        first = list(itertools.islice(self._jobs, self._num_workers))
        if self._num_left == 1 and first:
            await self._serve_one(first[0])
        else:
            for job in first:
                self.add(job)

    async def next(self) -> Arrival | None:
        """Return the next arrival, None after the last one. Raises what a job raised, after what arrived before."""
        while self._num_left:
            if self._ready:
                self._num_left -= 1
                arrival = self._ready.popleft()
                self.undelivered.discard(arrival.position)
                return arrival
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return None

    async def close(self) -> None:
        """Cancel what still runs, and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _next(self) -> RequestJob | None:
        return self._added.popleft() if self._added else next(self._jobs, None)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _work(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the call is over
            while self._error is None and (job := self._next()) is not None:
                await self._serve_one(job)

    async def _serve_one(self, job: RequestJob) -> None:
        try:
            await self._serve(job, self)
        except Exception as error:
            self._error = error
            self._wake()
