"""One question's purse: what may be spent, what was, and the asking itself.

Every completion is in the store before anything else sees it; an ask that the store can answer is never sent. A stored
draw counts as spent exactly as when it was paid for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple

from samplewise.engines.base import Arrival, Engine, failed, identity_of
from samplewise.errors import EngineError, EngineUnavailable, SamplewiseError
from samplewise.events import Arrived, Dispatched, OnEvent, Retried
from samplewise.store import Store, digest_of
from samplewise.types import Ask, Completion, Stop, Usage

MAX_RETRIES = 4  # of a failed ask, when its failure is retryable
BACKOFF_S = 0.25  # before the first retry; doubles with each


class Budget(NamedTuple):
    """The most that may be spent on one question; None is no limit. Checked before dispatch, by worst case."""

    requests: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens: int | None = None  # prompt and completion together
    usd: float | None = None
    seconds: float | None = None  # wall clock, from the start of the question

    def admits(self, spent: Usage) -> bool:
        """Whether spending this much stays within every limit (seconds are the loop's own business)."""
        used = (spent.requests, spent.prompt_tokens, spent.completion_tokens, spent.tokens, spent.usd)
        return all(cap is None or amount <= cap + 1e-12 for cap, amount in zip(self[:5], used, strict=True))

    def share(self, num: int, position: int) -> Budget:
        """The part of question `position` of `num`: an even split, what is left over to the first ones. Seconds are not
        split, since questions run side by side."""

        def part(cap: int | None) -> int | None:
            return None if cap is None else cap // num + (position < cap % num)

        counts = (part(self.requests), part(self.prompt_tokens), part(self.completion_tokens), part(self.tokens))
        return Budget(*counts, None if self.usd is None else self.usd / num, self.seconds)


class Purse:
    """Admits asks, gets their completions from the store or the engine, and keeps the books of one question."""

    def __init__(
        self,
        question_id: str,
        engine: Engine,
        budget: Budget,
        store: Store | None,
        on_event: OnEvent,
        cancel: asyncio.Event | None,
    ) -> None:
        self._question_id, self._engine, self._budget, self._store = question_id, engine, budget, store
        self._on_event, self._cancel = on_event, cancel
        self._deadline = math.inf if budget.seconds is None else time.monotonic() + budget.seconds
        self._extra = Usage()  # paid without being handed over: failed attempts, and arrivals after the decision
        self.spent = Usage()  # handed over
        self.paid = Usage()
        self._heard: dict[Ask, Completion] = {}  # what judges asked

    def admitted(self, asks: Sequence[Ask], burnt: Usage = Usage()) -> int:
        """How many of the first asks fit into what is left, if each costs its worst case and `burnt` is gone too."""
        total = self.spent.plus(self._extra).plus(burnt)
        for num, ask in enumerate(asks):
            total = total.plus(self._engine.worst_case(ask))
            if not self._budget.admits(total):
                return num
        return len(asks)

    def cancelled(self) -> bool:
        return (self._cancel is not None and self._cancel.is_set()) or time.monotonic() >= self._deadline

    def why(self, asks: Sequence[Ask]) -> Stop:
        """Why the run ends here, with asks unsent."""
        if self._cancel is not None and self._cancel.is_set():
            return Stop("cancelled")
        evidence = {"requests": self.spent.requests, "tokens": self.spent.tokens, "usd": self.spent.usd}
        return Stop("budget", {**evidence, "unsent": len(asks)})

    async def heard(self, asks: Sequence[Ask]) -> tuple[Completion, ...] | None:
        """The completions of asks that belong together; None where they do not fit into what is left, or somebody has
        cancelled. Asks that were heard before are not sent again."""
        new = list(dict.fromkeys(ask for ask in asks if ask not in self._heard))
        if self.cancelled() or self.admitted(new) < len(new):
            return None
        async with contextlib.aclosing(self.completions(new, splittable=False, singly=False)) as handovers:
            async for completions in handovers:
                self._heard.update(zip(new, completions, strict=True))
        return tuple(self._heard[ask] for ask in asks) if all(ask in self._heard for ask in asks) else None

    def charge(self, usage: Usage) -> bool:
        """Count what was computed here, such as a reward model's tokens; False where it does not fit into what is
        left."""
        if not self._budget.admits(self.spent.plus(self._extra).plus(usage)):
            return False
        self.spent = self.spent.plus(usage)
        return True

    async def completions(
        self, asks: Sequence[Ask], splittable: bool, singly: bool
    ) -> AsyncGenerator[list[Completion]]:
        """Completions in the order of the asks: one at a time, or all together. When cancelled it ends early, and of a
        splittable step hands over what came, up to the first gap."""
        ready: dict[int, Completion] = {}
        handed = 0
        async with contextlib.aclosing(self._arrivals(asks)) as arrivals:
            async for arrival in arrivals:
                ready[arrival.position] = arrival.completion
                self._extra = self._extra.plus(arrival.completion.usage)
                while singly and handed in ready:
                    handed += 1
                    yield [self._hand_over(ready.pop(handed - 1))]
        upto = next((position for position in range(len(asks)) if position not in ready), len(asks))
        if not singly and (upto == len(asks) or (splittable and upto > 0)):
            yield [self._hand_over(ready[position]) for position in range(upto)]

    def _hand_over(self, completion: Completion) -> Completion:
        self.spent = self.spent.plus(completion.usage)
        self._extra = Usage._make(a - b for a, b in zip(self._extra, completion.usage, strict=True))
        return completion

    async def _arrivals(self, asks: Sequence[Ask]) -> AsyncGenerator[Arrival]:
        """Each ask once: from the store, else from the engine, retried while that may help."""
        identities = [identity_of(self._engine, ask) for ask in asks]
        digests = [digest_of(*each) for each in zip(identities, asks, strict=True)] if self._store else []
        stored = self._store.draws(digests) if self._store else {}
        todo = [position for position in range(len(asks)) if not digests or digests[position] not in stored]
        self._on_event(Dispatched(self._question_id, len(todo), len(asks) - len(todo)))
        for position, digest in enumerate(digests):
            if digest in stored:
                self._on_event(Arrived(self._question_id, stored[digest].usage, "store"))
                yield Arrival(position, stored[digest])
        for attempt in range(MAX_RETRIES + 1):
            broken: dict[int, Completion] = {}
            async with contextlib.aclosing(self._engine_arrivals([asks[i] for i in todo])) as arrivals:
                async for arrival in arrivals:
                    position, completion = todo[arrival.position], arrival.completion
                    self.paid = self.paid.plus(completion.usage)
                    if completion.finish == "error":
                        broken[position] = completion
                        continue
                    if self._store:
                        self._store.put_draw(digests[position], identities[position], asks[position], completion)
                    self._on_event(Arrived(self._question_id, completion.usage, "engine"))
                    yield Arrival(position, completion)
            again = self._worth_retrying(broken, asks) if attempt < MAX_RETRIES else []
            for position in sorted(broken.keys() - set(again)):
                self._on_event(Arrived(self._question_id, broken[position].usage, "failure"))
                yield Arrival(position, broken[position])
            if not again or self.cancelled():
                return
            for position in again:
                self._extra = self._extra.plus(broken[position].usage)
            wait_s = max(_wait_s(broken[position], attempt) for position in again)
            self._on_event(Retried(self._question_id, len(again), wait_s, broken[again[0]].failure))
            if not await self._sleep(wait_s):
                return
            todo = again

    def _worth_retrying(self, broken: dict[int, Completion], asks: Sequence[Ask]) -> list[int]:
        retryable = sorted(i for i, c in broken.items() if c.failure is not None and c.failure.retryable)
        burnt = functools.reduce(Usage.plus, (c.usage for c in broken.values()), Usage())  # not in the books yet
        return retryable[: self.admitted([asks[i] for i in retryable], burnt)]

    async def _engine_arrivals(self, asks: Sequence[Ask]) -> AsyncGenerator[Arrival]:
        """The engine's arrivals, each position once, until all are here, somebody cancels, or the time is up.

        An ask that the engine leaves out, because it raised or forgot, has failed: a bad request must not lose a run.
        """
        if not asks:
            return
        missing = set(range(len(asks)))
        error: EngineError = EngineUnavailable(f"{self._engine.name} gave no answer")
        cancelled = asyncio.ensure_future(self._cancel.wait()) if self._cancel is not None else None
        stream = self._engine.answer(asks)
        arrival: asyncio.Future[Arrival] | None = None
        try:
            while missing and not self.cancelled():
                arrival = asyncio.ensure_future(anext(stream))
                left_s = None if self._deadline == math.inf else max(0.0, self._deadline - time.monotonic())
                waiting = {arrival} if cancelled is None else {arrival, cancelled}
                await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if not arrival.done():
                    return
                try:
                    position, completion = arrival.result()
                except StopAsyncIteration:
                    break
                except EngineError as raised:
                    error = raised
                    break
                except SamplewiseError:  # the user must change something
                    raise
                except Exception as raised:
                    error = EngineUnavailable(f"{self._engine.name} broke off: {type(raised).__name__}: {raised}")
                    break
                if position in missing:  # else it was paid for already, or never asked
                    missing.remove(position)
                    yield Arrival(position, completion)
        finally:
            for task in (arrival, cancelled):
                if task is not None and not task.done():
                    task.cancel()
                    await asyncio.wait({task})
                    if not task.cancelled():
                        task.exception()  # what it says while it is being cancelled is of no interest
            if (close := getattr(stream, "aclose", None)) is not None:
                with contextlib.suppress(Exception):
                    await close()
        if not self.cancelled():
            for position in sorted(missing):
                yield Arrival(position, failed(error))

    async def _sleep(self, seconds: float) -> bool:
        """False when there is no point in going on afterwards."""
        if time.monotonic() + seconds >= self._deadline:
            return False
        if self._cancel is None:
            await asyncio.sleep(seconds)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cancel.wait(), seconds)
        return not self.cancelled()


def _wait_s(completion: Completion, attempt: int) -> float:
    asked = completion.failure.retry_after_s if completion.failure else None
    return BACKOFF_S * 2**attempt if asked is None else asked
