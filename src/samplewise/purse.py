"""One question's purse: what may be spent, what was, and the asking itself.

Every completion is in the store before anything else sees it; an ask that the store can answer is never sent. A stored
draw counts as spent exactly as when it was paid for. What is on its way counts as the most that it can cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, Protocol

from samplewise.engines.base import Arrival, Engine, failed, identity_of
from samplewise.errors import EngineError, EngineUnavailable, SamplewiseError
from samplewise.events import Arrived, Dispatched, OnEvent, Retried
from samplewise.store import Store, digest_of
from samplewise.types import Ask, Completion, Generate, Stop, Usage, explores

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


class Shared(Protocol):
    """A budget that several questions share (see samplewise.pot)."""

    def join(self, purse: Purse) -> None: ...

    def admits(self, purse: Purse, used: Usage) -> bool:
        """Whether this purse may come to have used so much, beside what the others have."""
        ...

    async def grant(self, purse: Purse, costs: Sequence[Usage], worth: float, whole: bool) -> int: ...


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
        pot: Shared | None = None,
    ) -> None:
        self.question_id, self._engine, self._budget, self._store = question_id, engine, budget, store
        self.on_event, self._cancel, self._pot = on_event, cancel, pot
        self._deadline = math.inf if budget.seconds is None else time.monotonic() + budget.seconds
        self._extra = Usage()  # paid without being handed over: failed attempts, and arrivals after the decision
        self._under_way: dict[object, Usage] = {}  # the worst case of each ask that has been sent
        self.held = Usage()  # granted, and not sent yet
        self.spent = Usage()  # handed over
        self.paid = Usage()
        self.thought = Usage()  # the part of `spent` that came before the first draw
        self.num_draws = 0  # handed over one at a time, failed ones too
        self._heard: dict[Ask, Completion] = {}  # what judges asked
        self._waves: dict[str, list[list[Ask]]] = {}  # group -> what of it the store has answered, by wave
        if pot is not None:
            pot.join(self)

    @property
    def shared(self) -> bool:
        return self._pot is not None

    @property
    def limited(self) -> bool:
        """Whether anything but time is limited."""
        return self.shared or any(cap is not None for cap in self._budget[:5])

    def used(self) -> Usage:
        """What is gone, and what is on its way at the most that it can cost."""
        return functools.reduce(Usage.plus, self._under_way.values(), self.spent.plus(self._extra).plus(self.held))

    def cost_of(self, asks: Sequence[Ask]) -> list[Usage]:
        """The worst case of each."""
        return [self._engine.worst_case(ask) for ask in asks]

    def fitting(self, costs: Sequence[Usage]) -> int:
        """How many of the first costs fit into what is left."""
        total = self.used()
        for num, cost in enumerate(costs):
            total = total.plus(cost)
            if not (self._budget.admits(total) and (self._pot is None or self._pot.admits(self, total))):
                return num
        return len(costs)

    async def grant(self, costs: Sequence[Usage], worth: float = math.inf, *, whole: bool = False) -> int:
        """How many of the first costs may be spent now; where they are one `whole`, all or none. In a shared budget a
        question waits for its turn, which comes the sooner the more the next draw is worth."""
        if self._pot is not None:
            self.held = Usage()
            return await self._pot.grant(self, costs, worth, whole)
        num = self.fitting(costs)
        return 0 if whole and num < len(costs) else num

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
        if self.cancelled() or (new and await self.grant(self.cost_of(new), whole=True) < len(new)):
            return None
        completions = await self.completions(new)
        self._heard.update(zip(new, completions, strict=False))  # none at all where somebody has cancelled
        return tuple(self._heard[ask] for ask in asks) if all(ask in self._heard for ask in asks) else None

    async def charge(self, costs: Sequence[Usage]) -> int:
        """Count what is computed here, such as a reward model's tokens. Gives how many of the first costs fit."""
        num = await self.grant(costs) if costs else 0
        self.held = Usage()
        self.spent = functools.reduce(Usage.plus, costs[:num], self.spent)
        return num

    async def completions(self, asks: Sequence[Ask], splittable: bool = False) -> list[Completion]:
        """The completions of all asks, in their order. When cancelled: of a splittable step what came, up to the first
        gap; of another nothing."""
        ready: dict[int, Completion] = {}
        tickets = self.book(asks)
        try:
            async with contextlib.aclosing(self.arrivals(asks, tickets)) as arrivals:
                async for arrival in arrivals:
                    ready[arrival.position] = arrival.completion
        finally:
            self.cancel(tickets)
        upto = next((position for position in range(len(asks)) if position not in ready), len(asks))
        return [self.hand_over(ready[i]) for i in range(upto)] if upto == len(asks) or splittable else []

    def hand_over(self, completion: Completion) -> Completion:
        """The same completion, as one that a machine now has."""
        self.spent = self.spent.plus(completion.usage)
        self._extra = Usage._make(a - b for a, b in zip(self._extra, completion.usage, strict=True))
        return completion

    def book(self, asks: Sequence[Ask]) -> list[object]:
        """A ticket for each ask that is about to be sent: from now on it counts as the most that it can cost."""
        tickets = [object() for _ in asks]
        self._under_way.update(zip(tickets, self.cost_of(asks), strict=True))
        self.held = Usage()
        return tickets

    def cancel(self, tickets: Sequence[object]) -> Usage:
        """Those that have not landed never will. Gives the most that they may have cost."""
        gone = [self._under_way.pop(ticket) for ticket in tickets if ticket in self._under_way]
        return functools.reduce(Usage.plus, gone, Usage())

    def _landed(self, ticket: object, completion: Completion) -> None:
        self._under_way.pop(ticket, None)
        self._extra = self._extra.plus(completion.usage)

    async def arrivals(self, asks: Sequence[Ask], tickets: Sequence[object]) -> AsyncGenerator[Arrival]:
        """Each ask once: from the store, else from the engine, retried while that may help."""
        identities = [identity_of(self._engine, ask) for ask in asks]
        digests = [digest_of(*each) for each in zip(identities, asks, strict=True)] if self._store else []
        stored = self._store.draws(digests) if self._store else {}
        halves = self._halves(asks, digests, stored)
        todo = [position for position in range(len(asks)) if not digests or digests[position] not in stored]
        self.on_event(Dispatched(self.question_id, len(todo), len(asks) - len(todo)))
        for position, digest in enumerate(digests):
            if digest in stored:
                self._landed(tickets[position], stored[digest])
                self.on_event(Arrived(self.question_id, stored[digest].usage, "store"))
                yield Arrival(position, stored[digest])
        for wave in halves:
            async with contextlib.aclosing(self._engine_arrivals(wave)) as redrawn:
                async for _, completion in redrawn:
                    self.paid = self.paid.plus(completion.usage)
        for attempt in range(MAX_RETRIES + 1):
            broken: dict[int, Completion] = {}
            async with contextlib.aclosing(self._engine_arrivals([asks[i] for i in todo])) as arrivals:
                async for arrival in arrivals:
                    position, completion = todo[arrival.position], arrival.completion
                    self._landed(tickets[position], completion)
                    self.paid = self.paid.plus(completion.usage)
                    if completion.finish == "error":
                        broken[position] = completion
                        continue
                    if self._store:
                        self._store.put_draw(digests[position], identities[position], asks[position], completion)
                    self.on_event(Arrived(self.question_id, completion.usage, "engine"))
                    yield Arrival(position, completion)
            again = self._worth_retrying(broken, asks) if attempt < MAX_RETRIES else []
            for position in sorted(broken.keys() - set(again)):
                self.on_event(Arrived(self.question_id, broken[position].usage, "failure", broken[position].failure))
                yield Arrival(position, broken[position])
            if not again or self.cancelled():
                return
            self._under_way.update((tickets[i], self._engine.worst_case(asks[i])) for i in again)
            wait_s = max(_wait_s(broken[position], attempt) for position in again)
            self.on_event(Retried(self.question_id, len(again), wait_s, broken[again[0]].failure))
            if not await self._sleep(wait_s):
                return
            todo = again

    def _halves(
        self, asks: Sequence[Ask], digests: Sequence[bytes], stored: dict[bytes, Completion]
    ) -> list[list[Ask]]:
        """Samples of a group depend on one another, so the store answers a step of a group whole or not at all: takes
        from `stored` what is half there, and gives the group's earlier waves, which must be drawn again before it."""
        waves: dict[str, list[int]] = {}
        for position, ask in enumerate(asks):
            if isinstance(ask, Generate) and explores(ask) and digests:
                waves.setdefault(ask.group, []).append(position)
        again: list[list[Ask]] = []
        for group, wave in waves.items():
            if all(digests[position] in stored for position in wave):
                self._waves.setdefault(group, []).append([asks[position] for position in wave])
            else:
                again += self._waves.pop(group, [])
                for position in wave:
                    stored.pop(digests[position], None)
        return again

    def _worth_retrying(self, broken: dict[int, Completion], asks: Sequence[Ask]) -> list[int]:
        # A sample that explores cannot be drawn again without the others of its group.
        retryable = sorted(
            i for i, c in broken.items() if c.failure is not None and c.failure.retryable and not explores(asks[i])
        )
        return retryable[: self.fitting(self.cost_of([asks[i] for i in retryable]))]

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
        ended: asyncio.CancelledError | None = None
        try:
            while missing and ended is None and not self.cancelled():
                arrival = asyncio.ensure_future(anext(stream))
                left_s = None if self._deadline == math.inf else max(0.0, self._deadline - time.monotonic())
                waiting = {arrival} if cancelled is None else {arrival, cancelled}
                try:
                    await asyncio.wait(waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                except asyncio.CancelledError as cancellation:
                    if not arrival.done():
                        raise
                    ended = cancellation  # what came at this very moment is paid for, and must not be lost
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
        if ended is not None:
            raise ended
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


class Left(NamedTuple):
    """What a decision came too early for: draws that had come and were not looked at, draws that were cancelled on
    their way, and the most that those may have cost, which nobody knows."""

    overshoot: int = 0
    cancelled: int = 0
    at_most: Usage = Usage()


class Flight:
    """A splittable step on its way: sent part by part, handed over one at a time in the order of its asks."""

    def __init__(self, purse: Purse) -> None:
        self._purse = purse
        self._parts: set[asyncio.Task[None]] = set()
        self._landed: asyncio.Queue[Arrival | Exception | None] = asyncio.Queue()  # None: a part has ended
        self._ready: dict[int, Completion] = {}
        self._tickets: list[object] = []  # (sent,)
        self._num_open = self.handed = 0

    @property
    def sent(self) -> int:
        return len(self._tickets)

    def send(self, asks: Sequence[Ask]) -> None:
        """Send the next asks of the step."""
        tickets = self._purse.book(asks)
        self._parts.add(asyncio.create_task(self._carry(self.sent, asks, tickets)))
        self._num_open += 1
        self._tickets += tickets

    async def _carry(self, start: int, asks: Sequence[Ask], tickets: Sequence[object]) -> None:
        try:
            async with contextlib.aclosing(self._purse.arrivals(asks, tickets)) as arrivals:
                async for position, completion in arrivals:
                    self._landed.put_nowait(Arrival(start + position, completion))
        except Exception as error:  # it belongs to the loop, not to this task
            self._landed.put_nowait(error)
        finally:
            self._landed.put_nowait(None)

    async def next(self) -> Completion | None:
        """The next completion; None where it does not come, as somebody has cancelled or the time is up."""
        while self.handed not in self._ready:
            if not self._num_open and self._landed.empty():
                return None
            landed = await self._landed.get()
            if isinstance(landed, Exception):
                raise landed
            if landed is None:
                self._num_open -= 1
            else:
                self._ready[landed.position] = landed.completion
        self.handed += 1
        return self._purse.hand_over(self._ready.pop(self.handed - 1))

    async def close(self) -> Left:
        """Cancel what is on its way, and wait until it is gone."""
        for part in self._parts:
            part.cancel()
        await asyncio.gather(*self._parts, return_exceptions=True)
        while not self._landed.empty():
            if isinstance(landed := self._landed.get_nowait(), Arrival):
                self._ready[landed.position] = landed.completion
        at_most = self._purse.cancel(self._tickets)
        return Left(len(self._ready), self.sent - self.handed - len(self._ready), at_most)


def _wait_s(completion: Completion, attempt: int) -> float:
    asked = completion.failure.retry_after_s if completion.failure else None
    return BACKOFF_S * 2**attempt if asked is None else asked
