"""The local engine: one thread runs the batch, and any number of calls send it asks and await completions.

All asks in flight, from every call, share one running batch. Asks that do not fit wait in order. Nothing is computed or
kept for an ask before it joins, so 100,000 waiting asks cost no more than their own tuples.

**A draw follows from its ask alone**, up to the rounding of logits, which another batch shape may round differently:
in float32 log-probabilities move by about 1e-6 nats, so about one token in a million flips. In half precision they move
by about 1e-2, and after some hundred tokens a flip is likely: use float32 where runs must agree.

Cost: a request is its prompt, computed once for all asks that share it, and its new tokens. `Usage` counts the prompt
in full even where it was cached, so that what a run spent does not depend on what ran before.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import json
import os
import string
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from samplewise.core.errors import BadRequest, EngineError, EngineUnavailable
from samplewise.core.types import Ask, Capability, Completion, Generate, Json, Usage, explores
from samplewise.engines.base import REASONING_MAX_TOKENS, Arrival, Engine, failed
from samplewise.models.loading import CausalCheckpoint, load_causal_model, quiet

from .batch import Batch
from .choose import Checked, choose_forward
from .examine import SPEED_ROWS, examine, model_facts, tokens_per_second
from .forward import Forward
from .int8 import is_emulated, quantize
from .language import Language, checked_language
from .prepared import Done, PreparedAsk, engine_error, num_new, prepare, token_ids
from .taps import can_explore

MAX_ROWS = 1024
EXIT_S = 30.0  # how long the end of the process waits for a worker's last step
LINGER_S = 0.1  # how long the worker waits for asks
COUNT_EVERY_S = 0.1  # how often the worker says what its rows have drawn
JOIN_ROWS = 1024  # asks considered between two steps


@dataclass(eq=False)
class _Call:
    """One call of `answer`. The worker moves `next`; the caller sets `cancelled`."""

    asks: Sequence[Ask]
    loop: asyncio.AbstractEventLoop
    next: int = 0
    waves: dict[int, int] = field(default_factory=dict)  # first position of asks that explore -> how many join together
    cancelled: bool = False
    drawn: list[int] = field(default_factory=list)  # tokens so far, by position; the worker writes them
    arrivals: asyncio.Queue[list[Arrival]] = field(default_factory=asyncio.Queue)


class _Tag(NamedTuple):
    call: _Call
    position: int


class Local(Engine):
    """A causal model of `transformers` in this process. Made by `local(...)`.

    `checked` is what the check at loading found.
    """

    def __init__(
        self,
        source: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
        template: Mapping[str, Json] | None = None,
        allow_slow: bool = False,
    ) -> None:
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        with ThreadPoolExecutor(1) as apart:  # see _work
            self.checkpoint, self._forward, self.checked, has_taps = apart.submit(
                _open, source, device, dtype, allow_slow
            ).result()
        model = self.checkpoint.model
        self.name = f"local({self.checkpoint.name})"
        loaded = self.checkpoint
        self.identity = f"local:{loaded.name}:{loaded.digest}:{loaded.dtype}:{model.device.type}"
        self.identity += f"?{json.dumps(template, sort_keys=True)}" if template else ""
        self._language = checked_language(Language(self.checkpoint.tokenizer, self.checkpoint.vocab_size, template))
        if self._language.reasons:
            context = self.checkpoint.max_context
            self.default_max_tokens = REASONING_MAX_TOKENS if context is None else min(REASONING_MAX_TOKENS, context)
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
        missing = {Capability.ENUMERATE, Capability.TOP} | (set() if has_taps else {Capability.EXPLORE})
        if not all(map(self._language.tokens_of, string.ascii_uppercase)):
            missing.add(Capability.SCORE_FIRST)
        self._can = frozenset(Capability) - missing
        self._lock = threading.Condition()
        self._calls: deque[_Call] = deque()  # with asks that have not joined, in order
        self._open: set[_Tag] = set()  # asks that have begun and are not delivered; the worker's alone
        self._tags: dict[int, _Tag] = {}  # of asks that were not handed over, by the id of the ask
        self._count_at = 0.0
        self._closed = self._tidy = False
        self._thread: threading.Thread | None = None

    @property
    def can(self) -> frozenset[Capability]:
        return self._can

    @property
    def notes(self) -> tuple[str, ...]:
        notes = []
        if self.default_max_tokens is not None:
            limit = f"a draw has {self.default_max_tokens:,} tokens unless the recipe says max_tokens"
            notes.append(f"its model reasons: {limit}")
        if is_emulated(self.checkpoint.model):
            lacking = f"this processor has no instructions for {self.checkpoint.dtype}"
            notes.append(f"{lacking}: float32 is several times as fast, and exact")
        if self.checkpoint.dtype == "int8":
            notes.append("8-bit weights draw from a distribution close to the checkpoint's, not from its own")
        return tuple(notes)

    @property
    def digest(self) -> str:
        """sha256 over the files of the checkpoint: weights, config, tokenizer and chat template."""
        return self.checkpoint.digest

    async def examine_model(self) -> dict[str, Json]:
        """Describe the model and the way it is run, and measure its speed: about five seconds, while nothing else runs
        (see examine.ModelFacts)."""
        facts = model_facts(self.checkpoint, self._language, self.checked, Capability.EXPLORE in self.can)
        speeds = {str(rows): await tokens_per_second(self, rows) for rows in SPEED_ROWS}
        return {**facts._asdict(), "tokens_per_s": speeds}

    def exploration(self) -> dict[str, Json]:
        """Examine by trying whether the model can explore (see examine.Examined). For people, and only while nothing
        runs: EngineError if something does."""
        with self._lock:
            if self._thread is not None:
                raise EngineError(f"{self.name} is busy; examine it before or after a run")
            with ThreadPoolExecutor(1) as apart:  # see _work
                return apart.submit(examine, self._forward).result()._asdict()

    # ------------------------------------------------------------------------------------------- the side of the calls

    def worst_case(self, ask: Ask) -> Usage:
        try:
            num_prompt = len(self._language.prompt(ask.messages)) + len(token_ids(ask))
        except EngineError:  # it fails, at no cost
            num_prompt = 0
        num = num_new(ask, num_prompt, self.checkpoint.max_context) if isinstance(ask, Generate) else 0
        return Usage(1, num_prompt, num)

    def may_bill(self, ask: Ask) -> bool:
        """Return False: this process computes, so nobody bills what it is not asked to finish."""
        return False

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        call = _Call(asks, asyncio.get_running_loop(), drawn=[0] * len(asks))
        self._tags.update((id(ask), _Tag(call, position)) for position, ask in enumerate(asks))
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
                    _workers[self._thread] = self
                    self._thread.start()
        try:
            while remaining:
                for arrival in await call.arrivals.get():
                    remaining -= 1
                    yield arrival
        finally:
            for ask in asks:
                self._tags.pop(id(ask), None)
            if remaining:
                with self._lock:
                    call.cancelled = self._tidy = True

    def num_drawn(self, ask: Ask) -> int:
        tag = self._tags.get(id(ask))
        return tag.call.drawn[tag.position] if tag else 0

    async def close(self) -> None:
        await asyncio.to_thread(self._end_work)
        self._batch.prefixes.clear()
        self._forward.forget()

    def _end_work(self, patience_s: float | None = None) -> None:
        """End the worker's thread after its step, and wait for that, at most so long."""
        with self._lock:
            self._closed = True
            self._lock.notify()
            thread = self._thread
        if thread is not None:
            thread.join(patience_s)

    # --------------------------------------------------------------------------------------------- the worker's thread

    def _work(self) -> None:
        """Run while there is something to do, then end, so that its torch threads end too.

        Every thread that computes has a pool of them, and when they outnumber the cores libgomp slows all of them
        down. For the same reason a model is loaded in a thread of its own.
        """
        with torch.inference_mode():
            while self._busy():
                try:
                    self._admit()
                    if self._batch.num_rows:
                        self._deliver(self._batch.step())
                        self._count()
                except Exception as error:  # a fault outside the model: the running rows cannot be trusted
                    self._fail(engine_error(error))

    def _count(self) -> None:
        """Note how many tokens every row has drawn."""
        if time.monotonic() >= self._count_at:
            self._count_at = time.monotonic() + COUNT_EVERY_S
            for job, num in zip(self._batch.jobs, self._batch.num_drawn, strict=True):
                job.tag.call.drawn[job.tag.position] = num

    def _busy(self) -> bool:
        """Return whether there is something to do. If not for a while, this thread is no longer the worker."""
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
        """Let asks that fit join, in order; those that explore together join together."""
        joining: list[PreparedAsk] = []
        scoring: list[PreparedAsk] = []
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
            prepared = [
                prepare(call.asks[tag.position], tag, self._language, self.checkpoint.max_context) for tag in tags
            ]
            jobs = [job for job in prepared if isinstance(job, PreparedAsk)]
            if why := self._refusal(jobs, taken):
                prepared = [failed(BadRequest(why)) if isinstance(job, PreparedAsk) else job for job in prepared]
                jobs = []
            most = max([longest, *map(_need, jobs)])
            needed = (num_rows + len(jobs)) * most * self._forward.bytes_per_token
            if num_rows and jobs and needed > self._row_bytes:
                call.next -= len(tags)
                self._open.difference_update(tags)
                break
            taken.update(job.ask.group for job in jobs if isinstance(job.ask, Generate) and explores(job.ask))
            num_rows, longest = num_rows + len(jobs), most
            done += [Done(tag, job) for tag, job in zip(tags, prepared, strict=True) if isinstance(job, Completion)]
            for job in jobs:
                (joining if isinstance(job.ask, Generate) else scoring).append(job)
        self._deliver(done)
        if joining:
            self._deliver(self._batch.join(joining))
        if scoring:
            self._deliver(self._batch.score(scoring))

    def _refusal(self, jobs: Sequence[PreparedAsk], taken: Collection[str]) -> str:
        """Return why jobs that would join together cannot, or "". Groups `taken` are joining already."""
        wave = [job.ask for job in jobs if isinstance(job.ask, Generate) and explores(job.ask)]
        if not wave:
            return ""
        if len(jobs) > self._batch.max_rows:
            return f"{len(jobs)} samples explore together, and max_rows={self._batch.max_rows} of them fit; raise it"
        if Capability.EXPLORE not in self.can:
            return f"{self.name} cannot explore: the states that enter its head cannot be read"
        if twice := next((ask.group for ask in wave if ask.group in taken), None):
            return f"group {twice!r} is drawn already; ask for a group once at a time"
        return self._batch.exploring.refusal(wave)

    def _head(self) -> _Call | None:
        """Return the first call that has asks waiting."""
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
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed
                call.loop.call_soon_threadsafe(call.arrivals.put_nowait, arrivals)

    def _fail(self, error: EngineError) -> None:
        """Fail every ask that has begun, and once the engine is closed the others too."""
        self._batch.drop(range(self._batch.num_rows))
        tags = list(self._open)
        if self._closed:
            tags += [_Tag(call, position) for call in self._calls for position in range(call.next, len(call.asks))]
            self._calls.clear()
        self._deliver([Done(tag, failed(error)) for tag in tags])


_workers: weakref.WeakKeyDictionary[threading.Thread, Local] = weakref.WeakKeyDictionary()


@atexit.register
def _end_workers() -> None:
    """End the workers of engines that nobody closed: a thread that computes while Python ends aborts the process.

    One that has just found nothing to do is its engine's worker no longer, and still ends its torch threads.
    """
    for thread, engine in list(_workers.items()):
        engine._end_work(EXIT_S)
        thread.join(EXIT_S)


class _Opened(NamedTuple):
    checkpoint: CausalCheckpoint
    forward: Forward
    checked: Checked
    explores: bool


def _open(source: str, device: str | None, dtype: str | None, allow_slow: bool) -> _Opened:
    checkpoint = load_causal_model(source, device, dtype)
    with quiet():
        if checkpoint.dtype == "int8":
            quantize(checkpoint.model, checkpoint.name)
        forward, checked = choose_forward(
            checkpoint.model, checkpoint.name, checkpoint.vocab_size, checkpoint.tokenizer, allow_slow
        )
        return _Opened(checkpoint, forward, checked, can_explore(forward))


def _together(call: _Call) -> int:
    """Return how many of a call's next asks join at once: one, or as many as keep every group whole."""
    if not explores(call.asks[call.next]):
        return 1
    if call.next not in call.waves:
        waiting = (call.asks[position] for position in range(call.next, len(call.asks)))
        run = [ask.group for ask in itertools.takewhile(explores, waiting) if isinstance(ask, Generate)]
        last = {group: index for index, group in enumerate(run)}
        start = end = 0
        for index, group in enumerate(run):
            end = max(end, last[group] + 1)
            if index + 1 == end:
                call.waves[call.next + start] = end - start
                start = end
    return call.waves[call.next]


def _need(job: PreparedAsk) -> int:
    """Return how many tokens a job's row can come to hold."""
    return len(job.ids) + (job.ask.max_tokens if isinstance(job.ask, Generate) else 0)


def _free_bytes(device: torch.device) -> int:
    """Return how much memory keys and values may take."""
    if device.type == "cuda":
        return int(0.6 * torch.cuda.mem_get_info(device)[0])
    try:
        return int(0.25 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # not on every system
        return 2 << 30
