"""The local engine: one thread runs the batch, and any number of calls hand it asks and await completions.

Every ask in flight, of whatever call, shares one running batch. Those that do not fit wait in order, and nothing is
computed or kept for an ask before it joins, so 100,000 of them cost no more than their own tuples.

**A draw follows from its ask alone**, up to the rounding of logits, which another batch shape may round differently:
in float32 log-probabilities move by about 1e-6 nats, so about one token in a million flips. In half precision they move
by about 1e-2, and after some hundred tokens a flip is likely: ask for float32 where runs must agree.

Cost: a request is a prompt, computed once for all asks that share it, and its new tokens. `Usage` counts the prompt in
full whatever was at hand, so that what a run spent does not hang on what ran before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from samplewise.engines.base import Arrival, failed
from samplewise.errors import BadRequest, EngineError, EngineUnavailable
from samplewise.types import Ask, Capability, Completion, Generate, Json, Usage, explores

from .batch import Batch
from .check import choose
from .examine import examine
from .forward import Forward
from .jobs import Done, Job, engine_error, given, num_new, prepare
from .language import Language, checked
from .model import Checkpoint, load
from .taps import can_explore

MAX_ROWS = 1024
LINGER_S = 0.1  # that the worker waits for asks to come
JOIN_ROWS = 1024  # asks looked at between two steps


@dataclass(eq=False)
class _Call:
    """One call of `answer`. The worker moves `next`; the caller sets `cancelled`."""

    asks: Sequence[Ask]
    loop: asyncio.AbstractEventLoop
    next: int = 0
    waves: dict[int, int] = field(default_factory=dict)  # first position of asks that explore -> how many join together
    cancelled: bool = False
    arrivals: asyncio.Queue[list[Arrival]] = field(default_factory=asyncio.Queue)


class _Tag(NamedTuple):
    call: _Call
    position: int


class Local:
    """A causal model of `transformers` in this process. Made by `local(...)`."""

    def __init__(
        self,
        source: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
    ) -> None:
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        with ThreadPoolExecutor(1) as apart:  # see _work
            self.checkpoint, self._forward, has_taps = apart.submit(_open, source, device, dtype).result()
        model = self.checkpoint.model
        kind = str(model.dtype).removeprefix("torch.")
        self.name = f"local({self.checkpoint.name})"
        self.identity = f"local:{self.checkpoint.name}:{self.checkpoint.digest}:{kind}:{model.device.type}"
        self._language = checked(Language(self.checkpoint.tokenizer, self.checkpoint.vocab_size))
        total = _free_bytes(model.device) if max_bytes is None else max_bytes
        self._row_bytes = total * 3 // 4
        self._batch = Batch(
            self._forward,
            self._language,
            self.checkpoint.stops,
            model.device,
            max_rows=max_rows or MAX_ROWS,
            chunk=MAX_ROWS,
            prefix_bytes=total // 4,
        )
        self.can = frozenset(Capability) - {Capability.ENUMERATE, Capability.TOP}
        if not has_taps:
            self.can -= {Capability.EXPLORE}
        self._lock = threading.Condition()
        self._calls: deque[_Call] = deque()  # with asks that have not joined, in order
        self._open: set[_Tag] = set()  # asks that have begun and are not delivered; the worker's alone
        self._closed = self._tidy = False
        self._thread: threading.Thread | None = None

    @property
    def digest(self) -> str:
        """sha256 over the files of the checkpoint: weights, config, tokenizer and chat template."""
        return self.checkpoint.digest

    def exploration(self) -> dict[str, Json]:
        """What the model has to offer to those who explore, found out by trying (see examine.Examined). For people, and
        only while nothing runs: EngineError where something does."""
        with self._lock:
            if self._thread is not None:
                raise EngineError(f"{self.name} is at work; look at it before or after")
            with ThreadPoolExecutor(1) as apart:  # see _work
                return apart.submit(examine, self._forward).result()._asdict()

    # ------------------------------------------------------------------------------------------- the side of the calls

    def worst_case(self, ask: Ask) -> Usage:
        try:
            num_prompt = len(self._language.prompt(ask.messages)) + len(given(ask))
        except EngineError:  # it will fail, at no cost
            num_prompt = 0
        num = num_new(ask, num_prompt, self.checkpoint.max_context) if isinstance(ask, Generate) else 0
        return Usage(1, num_prompt, num)

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        call = _Call(asks, asyncio.get_running_loop())
        remaining = len(asks)
        with self._lock:
            if self._closed:
                refusal = failed(EngineUnavailable(f"{self.name} is closed"))
                call.arrivals.put_nowait([Arrival(position, refusal) for position in range(remaining)])
            elif remaining:
                self._calls.append(call)
                self._lock.notify()
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
                    self._thread.start()
        try:
            while remaining:
                for arrival in await call.arrivals.get():
                    remaining -= 1
                    yield arrival
        finally:
            if remaining:
                with self._lock:
                    call.cancelled = self._tidy = True

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify()
            thread = self._thread
        if thread is not None:
            await asyncio.to_thread(thread.join)
        self._batch.prefixes.clear()
        self._forward.forget()

    # --------------------------------------------------------------------------------------------- the worker's thread

    def _work(self) -> None:
        """Runs while there is something to do, and then ends, so that the threads of torch that serve it end too: every
        thread that computes has a pool of them, and as soon as there are more than cores libgomp slows all of them
        down. For the same reason a model is loaded in a thread of its own."""
        with torch.inference_mode():
            while self._busy():
                try:
                    self._admit()
                    if self._batch.num_rows:
                        self._deliver(self._batch.step())
                except Exception as error:  # a fault outside the model: no row can be trusted, the next ones can
                    self._fail(engine_error(error))

    def _busy(self) -> bool:
        """Whether there is something to do. If not for a while, this thread is no longer the worker."""
        with self._lock:
            if not (self._calls or self._batch.num_rows or self._closed):
                self._lock.wait(LINGER_S)
            if self._tidy:
                self._tidy = False
                self._calls = deque(call for call in self._calls if not call.cancelled)
                self._batch.drop([i for i, job in enumerate(self._batch.jobs) if job.tag.call.cancelled])
                self._open = {tag for tag in self._open if not tag.call.cancelled}
            if self._closed:
                self._fail(EngineUnavailable(f"{self.name} was closed"))
            elif self._calls or self._batch.num_rows:
                return True
            self._thread = None
            return False

    def _admit(self) -> None:
        """Asks that fit join, in order; those that explore together join together."""
        joining: list[Job] = []
        scoring: list[Job] = []
        done: list[Done] = []
        taken: set[str] = set()  # groups of those that join
        running = [_need(job) for job in self._batch.jobs] if self._calls else []
        num_rows, longest = len(running), max(running, default=0)
        for _ in range(JOIN_ROWS):
            call = self._head() if num_rows < self._batch.max_rows else None
            if call is None:
                break
            size = _together(call)
            if num_rows and num_rows + size > self._batch.max_rows:
                break
            tags = [_Tag(call, call.next + i) for i in range(size)]
            self._open.update(tags)
            call.next += len(tags)
            made = [prepare(call.asks[tag.position], tag, self._language, self.checkpoint.max_context) for tag in tags]
            jobs = [job for job in made if isinstance(job, Job)]
            if why := self._refusal(jobs, taken):
                made = [failed(BadRequest(why)) if isinstance(job, Job) else job for job in made]
                jobs = []
            most = max([longest, *map(_need, jobs)])
            needed = (num_rows + len(jobs)) * most * self._forward.bytes_per_token
            if num_rows and jobs and needed > self._row_bytes:
                call.next -= len(tags)
                self._open.difference_update(tags)
                break
            taken.update(job.ask.group for job in jobs if isinstance(job.ask, Generate) and explores(job.ask))
            num_rows, longest = num_rows + len(jobs), most
            done += [Done(tag, job) for tag, job in zip(tags, made, strict=True) if isinstance(job, Completion)]
            for job in jobs:
                (joining if isinstance(job.ask, Generate) else scoring).append(job)
        self._deliver(done)
        if joining:
            self._deliver(self._batch.join(joining))
        if scoring:
            self._deliver(self._batch.score(scoring))

    def _refusal(self, jobs: Sequence[Job], taken: Collection[str]) -> str:
        """Why jobs that would join together, where groups `taken` join already, cannot; or ""."""
        wave = [job.ask for job in jobs if isinstance(job.ask, Generate) and explores(job.ask)]
        if not wave:
            return ""
        if len(jobs) > self._batch.max_rows:
            return f"{len(jobs)} samples explore together, and max_rows={self._batch.max_rows} of them fit; raise it"
        if Capability.EXPLORE not in self.can:
            return f"{self.name} cannot explore: it does not show the states that enter its head"
        if twice := next((ask.group for ask in wave if ask.group in taken), None):
            return f"group {twice!r} is drawn already; ask for a group once at a time"
        return self._batch.exploring.refusal(wave)

    def _head(self) -> _Call | None:
        """The first call that has asks waiting."""
        with self._lock:
            while self._calls and (self._calls[0].cancelled or self._calls[0].next >= len(self._calls[0].asks)):
                self._calls.popleft()
            return self._calls[0] if self._calls else None

    def _deliver(self, done: Iterable[Done]) -> None:
        by_call: dict[_Call, list[Arrival]] = {}
        for tag, completion in done:
            self._open.discard(tag)
            by_call.setdefault(tag.call, []).append(Arrival(tag.position, completion))
        for call, arrivals in by_call.items():
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed: nobody waits any more
                call.loop.call_soon_threadsafe(call.arrivals.put_nowait, arrivals)

    def _fail(self, error: EngineError) -> None:
        """Every ask that has begun fails, and once the engine is closed the others too."""
        self._batch.drop(range(self._batch.num_rows))
        tags = list(self._open)
        if self._closed:
            tags += [_Tag(call, position) for call in self._calls for position in range(call.next, len(call.asks))]
            self._calls.clear()
        self._deliver([Done(tag, failed(error)) for tag in tags])


class _Opened(NamedTuple):
    checkpoint: Checkpoint
    forward: Forward
    explores: bool


def _open(source: str, device: str | None, dtype: str | None) -> _Opened:
    checkpoint = load(source, device, dtype)
    forward = choose(checkpoint.model, checkpoint.name, checkpoint.vocab_size)
    return _Opened(checkpoint, forward, can_explore(forward))


def _together(call: _Call) -> int:
    """How many of a call's next asks join at once: one, or so many that no group is cut in two."""
    if not explores(call.asks[call.next]):
        return 1
    if call.next not in call.waves:
        waiting = (call.asks[position] for position in range(call.next, len(call.asks)))
        run = [ask.group for ask in itertools.takewhile(explores, waiting) if isinstance(ask, Generate)]
        last = {group: at for at, group in enumerate(run)}
        start = end = 0
        for at, group in enumerate(run):
            end = max(end, last[group] + 1)
            if at + 1 == end:
                call.waves[call.next + start] = end - start
                start = end
    return call.waves[call.next]


def _need(job: Job) -> int:
    """Tokens that a job's row may come to hold."""
    return len(job.ids) + (job.ask.max_tokens if isinstance(job.ask, Generate) else 0)


def _free_bytes(device: torch.device) -> int:
    """How much memory keys and values may take."""
    if device.type == "cuda":
        return int(0.6 * torch.cuda.mem_get_info(device)[0])
    try:
        return int(0.25 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not every system says
        return 2 << 30
