"""The dispatcher: turns asks into completions. The only caller of an engine or of a reward model's server.

Every completion is given to the store before anything else sees it, and an ask that the store can answer is never sent.
Failed asks are retried with back-off (`samplewise.core.retry`) while that may help and the budget admits it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

from samplewise.core.errors import EngineError, EngineUnavailable, SamplewiseError
from samplewise.core.events import Arrived, Dispatched, Drawn, Retried
from samplewise.core.retry import MAX_RETRIES, backoff_s
from samplewise.core.types import (
    Ask,
    Candidate,
    Completion,
    Failure,
    Generate,
    Question,
    RemoteVerifier,
    Usage,
    explores,
)
from samplewise.engines.base import Arrival, Engine, failed
from samplewise.loop.bell import Bell
from samplewise.loop.context import RunContext
from samplewise.loop.ledger import Ledger, Reservation, total
from samplewise.loop.sharing import SharedBudget
from samplewise.loop.threads import abandon, in_thread, unless_cancelled, when_set
from samplewise.store.database import Store
from samplewise.store.digests import digest_of

T = TypeVar("T")
P = ParamSpec("P")

NO_SEED = Generate(()).seed
DRAWN_EVERY_S = 0.5  # between two events about what requests in flight have drawn


class _Request(NamedTuple):
    """An ask on its way: its position in the step, its reservation, and where its draw is stored."""

    position: int
    ask: Ask
    reservation: Reservation
    identity: str
    digest: bytes | None  # None where the store cannot hold it yet


class _InFlight(NamedTuple):
    """A call of the engine, the positions whose completions are missing, and the most that each was seen to draw."""

    asks: Sequence[Ask]
    missing: set[int]
    drawn: dict[int, int]

    def num_drawn(self, engine: Engine) -> int:
        """Return how many tokens the missing ones have drawn.

        A count never falls: an engine may forget an ask as it hands its completion over, before that arrives here.
        """
        for position in self.missing:
            seen = engine.num_drawn(self.asks[position]) or 0
            self.drawn[position] = max(seen, self.drawn.get(position, 0))
        return sum(self.drawn[position] for position in self.missing)


class Dispatcher:
    """Sends the asks of one question within its budget, and books what they cost in `ledger`."""

    def __init__(
        self, context: RunContext, question_id: str, ledger: Ledger, shared: SharedBudget | None = None
    ) -> None:
        self.ledger = ledger
        self._context, self._question_id, self._shared = context, question_id, shared
        self._engine, self._store, self._cancel = context.engine, context.store, context.cancel
        if isinstance(context.store, Store):
            context.engine.remember(context.store)
        seconds = context.budget.seconds
        self._deadline = math.inf if seconds is None else time.monotonic() + seconds
        self._is_overdrawn = False
        self._replies: dict[Ask, Completion] = {}  # what judges asked
        self._attempts: dict[Ask, Usage] = {}  # what attempts cost that failed and were tried again
        self._has_stored = False  # this run, a draw
        self._in_flight: dict[int, _InFlight] = {}  # by call of the engine
        self._drawn_at = time.monotonic()  # when `Drawn` was last sent; the first comes after `DRAWN_EVERY_S`
        self._stored_waves: dict[str, list[list[Ask]]] = {}  # group -> what of it the store has answered, by wave

    # --- the budget ---------------------------------------------------------------------------------------------------

    @property
    def is_shared(self) -> bool:
        """Whether the budget is shared with other questions."""
        return self._shared is not None

    @property
    def is_limited(self) -> bool:
        """Whether anything but time is limited."""
        return self.is_shared or self.ledger.budget.is_limited

    def worst_cases(self, asks: Sequence[Ask]) -> list[Usage]:
        """Return the most that each ask can cost."""
        return [self._engine.worst_case(ask) for ask in asks]

    def num_fitting(self, costs: Sequence[Usage]) -> int:
        """Return how many of the first costs fit into what is left."""
        num = self.ledger.num_fitting(costs)
        return num if self._shared is None else self._shared.num_fitting(self._question_id, costs[:num])

    async def grant(self, costs: Sequence[Usage], expected_gain: float = math.inf, *, whole: bool = False) -> int:
        """Return how many of the first costs may be spent now; with `whole`, all or none.

        With a shared budget this waits for the question's turn, which depends on the gain expected of its next draw.
        """
        if self._shared is not None:
            self.ledger.grant(Usage())
            return await self._shared.grant(self._question_id, costs, expected_gain, whole)
        num = self.ledger.num_fitting(costs)
        return 0 if whole and num < len(costs) else num

    def attempts_of(self, ask: Ask) -> Usage:
        """Return what the attempts cost that failed before this ask was answered."""
        return self._attempts.get(ask, Usage())

    @property
    def judge_attempts(self) -> dict[str, Usage]:
        """What failed attempts of judges' asks cost, by the digest of the ask in hexadecimal."""
        attempts = {ask: usage for ask, usage in self._attempts.items() if ask in self._replies}
        return {digest_of(self._engine.member(ask).identity, ask).hex(): usage for ask, usage in attempts.items()}

    async def charge(self, costs: Sequence[Usage]) -> int:
        """Count what is computed in this process, such as a reward model's tokens. Return how many costs fit."""
        num = await self.grant(costs) if costs else 0
        self.ledger.charge(costs[:num])
        return num

    # --- the end of a run ---------------------------------------------------------------------------------------------

    @property
    def is_cancelled(self) -> bool:
        """Whether the user has cancelled the run."""
        return self._cancel is not None and self._cancel.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the run is cancelled, its time is up, or more was billed than a limit admits."""
        return self.is_cancelled or self._is_overdrawn or time.monotonic() >= self._deadline

    def _check_overdrawn(self) -> None:
        """Note whether what is used and reserved has passed a limit: a request has cost more than its worst case."""
        own = self.ledger.budget.admits(self.ledger.used())
        self._is_overdrawn = not (
            own and (self._shared is None or self._shared.num_fitting(self._question_id, [Usage()]))
        )

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Return what a function returns that may block, called in a thread; None if the user cancels before that."""
        return await unless_cancelled(in_thread(function, *args, **kwargs), self._cancel)

    async def sleep(self, seconds: float) -> bool:
        """Wait. Return False if the run is over afterwards, at once if it would be."""
        if time.monotonic() + seconds >= self._deadline:
            return False
        if self._cancel is None:
            await asyncio.sleep(seconds)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cancel.wait(), seconds)
        return not self.is_over

    # --- asks ---------------------------------------------------------------------------------------------------------

    async def ask_judge(self, asks: Sequence[Ask]) -> tuple[Completion, ...] | None:
        """Return the completions of asks that belong together, None if they do not fit or the run is over.

        An ask that was answered before is not sent again.
        """
        new = list(dict.fromkeys(ask for ask in asks if ask not in self._replies))
        if self.is_over or (new and await self.grant(self.worst_cases(new), whole=True) < len(new)):
            return None
        completions = await self.completions(new)
        self._replies.update(zip(new, completions, strict=False))  # none at all if the run was cancelled
        return tuple(self._replies[ask] for ask in asks) if all(ask in self._replies for ask in asks) else None

    async def completions(self, asks: Sequence[Ask], splittable: bool = False) -> list[Completion]:
        """Return the completions of all asks, in order.

        If the run is cancelled: of a splittable step those up to the first gap, of another step none.
        """
        ready: dict[int, Completion] = {}
        reservations = self.reserve(asks)
        try:
            async with contextlib.aclosing(self.arrivals(asks, reservations)) as arrivals:
                async for position, completion in arrivals:
                    ready[position] = completion
        finally:
            self.ledger.release(reservations)
        num = next((position for position in range(len(asks)) if position not in ready), len(asks))
        return [self.take(ready[i]) for i in range(num)] if num == len(asks) or splittable else []

    def reserve(self, asks: Sequence[Ask]) -> list[Reservation]:
        """Reserve the worst case of asks that are about to be sent."""
        return self.ledger.reserve(self.worst_cases(asks))

    def take(self, completion: Completion) -> Completion:
        """Count a completion as spent: whoever asked uses it now."""
        self.ledger.take(completion.usage)
        return completion

    def arrivals(self, asks: Sequence[Ask], reservations: Sequence[Reservation]) -> AsyncGenerator[Arrival]:
        """Return the completion of each ask as it comes: from the store, else from the engine, retried while that may
        help."""
        requests = self._requests(asks, reservations)
        stored = self._stored(requests)
        waves = self._waves_to_redraw(requests, stored)
        unanswered = [request for request in requests if request.position not in stored]
        self._context.on_event(Dispatched(self._question_id, len(unanswered), len(asks) - len(unanswered)))
        if not stored and not waves:
            return self._answers(unanswered)
        return self._stored_and_fresh(requests, stored, waves, unanswered)

    async def _stored_and_fresh(
        self,
        requests: Sequence[_Request],
        stored: dict[int, Completion],
        waves: Sequence[Sequence[Ask]],
        unanswered: Sequence[_Request],
    ) -> AsyncGenerator[Arrival]:
        """Yield what the store has, then what the engine gives; `waves` of groups are drawn again between the two."""
        for request in requests:
            if (completion := stored.get(request.position)) is not None:
                self.ledger.settle(request.reservation, completion.usage, is_fresh=False)
                self._context.on_event(Arrived(self._question_id, completion.usage, "store"))
                yield Arrival(request.position, completion)
        for wave in waves:
            async with contextlib.aclosing(self._engine_arrivals(wave, [])) as redrawn:
                async for _, completion in redrawn:
                    self.ledger.pay(completion.usage)
                    self._report_drawn()
        async with contextlib.aclosing(self._answers(unanswered)) as answers:
            async for arrival in answers:
                yield arrival

    def _requests(self, asks: Sequence[Ask], reservations: Sequence[Reservation]) -> list[_Request]:
        requests = []
        for position, (ask, reservation) in enumerate(zip(asks, reservations, strict=True)):
            identity = self._engine.member(ask).identity
            digest = digest_of(identity, ask) if self._may_be_stored(ask) else None
            requests.append(_Request(position, ask, reservation, identity, digest))
        return requests

    def _stored(self, requests: Sequence[_Request]) -> dict[int, Completion]:
        """Return the completions that the store holds, by position."""
        digests = {request.position: request.digest for request in requests if request.digest is not None}
        draws = self._store.draws(list(digests.values())) if self._store and digests else {}
        return {position: draws[digest] for position, digest in digests.items() if digest in draws}

    def _may_be_stored(self, ask: Ask) -> bool:
        """Return whether the store may hold a draw. In a fresh run it holds the run's own, and others without a seed,
        such as those of judges."""
        is_new = self._context.is_fresh and not self._has_stored and isinstance(ask, Generate) and ask.seed != NO_SEED
        return self._store is not None and not is_new

    def _waves_to_redraw(self, requests: Sequence[_Request], stored: dict[int, Completion]) -> list[list[Ask]]:
        """Return the earlier waves of groups that the store holds in part, and remove those groups from `stored`.

        Draws of a group depend on one another, so the store answers a wave of a group whole or not at all; what
        precedes a fresh wave must be drawn again before it.
        """
        groups: dict[str, list[_Request]] = {}
        for request in requests:
            if isinstance(request.ask, Generate) and explores(request.ask) and self._store:
                groups.setdefault(request.ask.group, []).append(request)
        redraw: list[list[Ask]] = []
        for group, wave in groups.items():
            if all(request.position in stored for request in wave):
                self._stored_waves.setdefault(group, []).append([request.ask for request in wave])
            else:
                redraw += self._stored_waves.pop(group, [])
                for request in wave:
                    stored.pop(request.position, None)
        return redraw

    def _answers(self, requests: Sequence[_Request]) -> AsyncGenerator[Arrival]:
        """Return the engine's completions as they come. Within a limit, one is awaited before many are sent if nobody
        knows yet whether the engine keeps to its worst case."""
        if self.is_limited and requests and not self._engine.is_worst_case_known:
            return self._answers_after_one(requests)
        return self._tries(requests)

    async def _answers_after_one(self, requests: Sequence[_Request]) -> AsyncGenerator[Arrival]:
        async with self._context.trial.first:
            if not self._engine.is_worst_case_known and not explores(requests[0].ask):
                async with contextlib.aclosing(self._tries(requests[:1])) as arrivals:
                    async for arrival in arrivals:
                        yield arrival
                requests = requests[1:]
        self._reserve_anew([(request.ask, request.reservation) for request in requests])
        async with contextlib.aclosing(self._tries(requests)) as arrivals:
            async for arrival in arrivals:
                yield arrival

    def _reserve_anew(self, pairs: Sequence[tuple[Ask, Reservation]]) -> None:
        """Reserve the worst case as it is known now."""
        self.ledger.reserve_again(
            [reservation for _, reservation in pairs], self.worst_cases([ask for ask, _ in pairs])
        )
        self._check_overdrawn()

    def _settle(self, request: _Request, usage: Usage) -> None:
        """Book the cost of a fresh completion. If it is more than was reserved, every question reserves anew."""
        exceeds = self.ledger.settle(request.reservation, usage, is_fresh=True)
        self._report_drawn()
        if exceeds and self.is_limited:
            self._check_overdrawn()
            self._context.trial.note_excess()

    async def _tries(self, requests: Sequence[_Request]) -> AsyncGenerator[Arrival]:
        """Yield the engine's completions, each stored first; failed requests are sent again while that may help."""
        for retry in range(MAX_RETRIES + 1):
            failures: dict[int, Completion] = {}  # by index in `requests`
            asks, reservations = [request.ask for request in requests], [request.reservation for request in requests]
            async with contextlib.aclosing(self._engine_arrivals(asks, reservations)) as arrivals:
                async for index, completion in arrivals:
                    request = requests[index]
                    self._settle(request, completion.usage)
                    if completion.finish == "error":
                        failures[index] = completion
                        continue
                    if self._store:
                        self._store.put_draw(request.digest, request.identity, request.ask, completion)
                        self._has_stored = True
                    self._context.on_event(Arrived(self._question_id, completion.usage, "engine"))
                    yield Arrival(request.position, completion)
            if not failures:
                return
            again = self._retryable(requests, failures) if retry < MAX_RETRIES else []
            for index in sorted(failures.keys() - set(again)):
                completion = failures[index]
                self._context.on_event(Arrived(self._question_id, completion.usage, "failure", completion.failure))
                yield Arrival(requests[index].position, completion)
            if not again or self.is_over:
                return
            for index in again:
                ask = requests[index].ask
                self._attempts[ask] = self.attempts_of(ask).plus(failures[index].usage)
            requests = [requests[index] for index in again]
            self.ledger.reserve_again([request.reservation for request in requests], self._costs(requests))
            is_sent = False
            try:
                is_sent = await self._back_off(retry, [failures[index].failure for index in again])
            finally:
                if not is_sent:  # what was not sent again cannot have cost anything
                    self.ledger.release([request.reservation for request in requests])
            if not is_sent:
                return

    def _costs(self, requests: Sequence[_Request]) -> list[Usage]:
        return self.worst_cases([request.ask for request in requests])

    def _retryable(self, requests: Sequence[_Request], failures: dict[int, Completion]) -> list[int]:
        """Return the failed requests, by index, that may succeed and fit the budget.

        A draw of a group that explores cannot be repeated without the others of its group.
        """
        retryable = sorted(
            index
            for index, completion in failures.items()
            if completion.failure is not None and completion.failure.retryable and not explores(requests[index].ask)
        )
        return retryable[: self.num_fitting(self._costs([requests[index] for index in retryable]))]

    async def _back_off(self, retry: int, failures: Sequence[Failure | None]) -> bool:
        """Wait before a retry, as long as the engine asks. Return False if the run is over."""
        asked = [None if failure is None else failure.retry_after_s for failure in failures]
        wait_s = max(backoff_s(retry) if seconds is None else seconds for seconds in asked)
        self._context.on_event(Retried(self._question_id, len(failures), wait_s, failures[0]))
        return await self.sleep(wait_s)

    async def _engine_arrivals(
        self, asks: Sequence[Ask], reservations: Sequence[Reservation]
    ) -> AsyncGenerator[Arrival]:
        """Yield the engine's arrivals, each position once, until all are here or the run is over.

        An ask that the engine leaves out, because it raised or forgot, has failed: a bad request must not lose a run.
        An ask that is cut off after it was sent is charged at its worst case, as nobody will know what it cost.
        Without `reservations` nothing has been reserved.
        """
        if not asks or self.is_over:
            return
        missing = set(range(len(asks)))
        self._in_flight[id(missing)] = _InFlight(asks, missing, {})
        tick_s = None if all(self._engine.num_drawn(ask) is None for ask in asks) else DRAWN_EVERY_S
        error: EngineError = EngineUnavailable(f"{self._engine.name} gave no answer")
        raised_at_end: asyncio.CancelledError | None = None
        bell = Bell()
        cancelled, excess = self._cancelled(bell), self._excess(bell)
        has_ended = False  # the engine has: what is missing has failed
        stream = self._engine.answer(asks)
        arrival: asyncio.Future[Arrival] | None = None
        try:
            while missing and ((raised_at_end is None and not self.is_over) or self._has_arrived(asks, missing)):
                arrival = asyncio.ensure_future(bell.after(anext(stream)))
                try:
                    while not arrival.done() and raised_at_end is None and not self.is_over:
                        await bell.wait(self._seconds_left(tick_s))
                        if tick_s is not None:
                            self._report_drawn()
                        if excess is not None and excess.done():
                            excess = self._excess(bell)
                            if reservations:
                                self._reserve_anew([(asks[p], reservations[p]) for p in sorted(missing)])
                except asyncio.CancelledError as raised:
                    await _let_run(arrival)
                    if not arrival.done():
                        raise
                    raised_at_end = raised  # what came at this very moment is paid for, and must not be lost
                await _let_run(arrival)
                if not arrival.done():
                    if raised_at_end is not None:
                        raise raised_at_end
                    return
                has_ended = True
                try:
                    position, completion = arrival.result()
                except StopAsyncIteration:
                    break
                except EngineError as raised:
                    error = raised
                    break
                except SamplewiseError:  # the user must change something
                    has_ended = False
                    raise
                except Exception as raised:
                    error = EngineUnavailable(f"{self._engine.name} broke off: {type(raised).__name__}: {raised}")
                    break
                has_ended = False
                if position in missing:  # else it was paid for already, or never asked
                    missing.remove(position)
                    yield Arrival(position, completion)
        finally:
            await abandon(arrival)
            if cancelled is not None:
                cancelled.cancel()
            self._context.trial.forget(excess)
            if isinstance(stream, AsyncGenerator):
                with contextlib.suppress(Exception):
                    await stream.aclose()
            del self._in_flight[id(missing)]
            if missing:
                self._report_drawn()
            if not has_ended:
                self._charge_cut([(p, asks[p]) for p in sorted(missing)], reservations)
        if raised_at_end is not None:
            raise raised_at_end
        if not self.is_over:
            for position in sorted(missing):
                yield Arrival(position, failed(error))

    def _has_arrived(self, asks: Sequence[Ask], missing: set[int]) -> bool:
        """Return whether any of the missing completions is here, as when several share a request: they are paid for."""
        return any(self._engine.has_arrived(asks[position]) for position in missing)

    def _cancelled(self, bell: Bell) -> asyncio.Future[Any] | None:
        """Return a future that is done once the user cancels, and rings."""
        return None if self._cancel is None else _ringing(when_set(self._cancel), bell)

    def _excess(self, bell: Bell) -> asyncio.Future[Any] | None:
        """Return a future that is done, and rings, once a request has cost more than its worst case, on which limits
        rest."""
        return _ringing(self._context.trial.watch(), bell) if self.is_limited else None

    def _seconds_left(self, at_most_s: float | None) -> float | None:
        """Return the seconds until the deadline, at most so many. None: there is no end to them."""
        if self._deadline == math.inf:
            return at_most_s
        left_s = max(0.0, self._deadline - time.monotonic())
        return left_s if at_most_s is None else min(left_s, at_most_s)

    def _charge_cut(self, cut: Sequence[tuple[int, Ask]], reservations: Sequence[Reservation]) -> None:
        """Charge what was cut off and may be billed."""
        for position, ask in cut:
            if self._engine.may_bill(ask):
                cost = self._engine.worst_case(ask)
                self._context.trial.note_cut(cost)
                if reservations:
                    self.ledger.lose(reservations[position])
                else:
                    self.ledger.pay(cost, is_wasted=True)
        if cut and self.is_limited:
            self._check_overdrawn()

    def _report_drawn(self) -> None:
        """Say how many tokens have been drawn, at once if nothing is in flight, else a few times a second.

        What was cut off is not among them: nobody knows what it drew.
        """
        calls = [call for call in self._in_flight.values() if call.missing]
        if calls and time.monotonic() < self._drawn_at + DRAWN_EVERY_S:
            return
        running = sum(call.num_drawn(self._engine) for call in calls)
        ended = self.ledger.paid.completion_tokens - self.ledger.lost.completion_tokens
        self._drawn_at = time.monotonic()
        self._context.on_event(Drawn(self._question_id, ended + running))

    # --- reward models behind a server --------------------------------------------------------------------------------

    async def score_remotely(
        self, verifier: RemoteVerifier, pairs: Sequence[tuple[Question, Candidate]]
    ) -> tuple[list[float], list[Usage]]:
        """Return the scores (N,) of a reward model's server, nan where the budget does not admit a pair, and the cost
        of each pair that it admits.

        Cost: a request per `batch_size` pairs, and the prompt tokens that scoring them reads. Retries count as
        requests. All are nan if the user cancels; the time limit ends draws, not the scoring of what was drawn.
        """
        unscored = [math.nan] * len(pairs)
        tokens = await unless_cancelled(verifier.count_tokens(pairs), self._cancel)
        if tokens is None:
            return unscored, []
        costs = [
            Usage(requests=int(index % verifier.batch_size == 0), prompt_tokens=num) for index, num in enumerate(tokens)
        ]
        num = await self.charge(costs)
        if not num:
            return unscored, []
        scores = await unless_cancelled(verifier.score_pairs(pairs[:num], self._on_score_retry), self._cancel)
        if scores is None:
            return unscored, costs[:num]
        self.ledger.pay(total(costs[:num]))
        return [*(score.value for score in scores), *unscored[num:]], costs[:num]

    def _on_score_retry(self, failure: Failure, wait_s: float | None) -> None:
        if wait_s is None:
            self._context.on_event(Arrived(self._question_id, Usage(), "failure", failure))
            return
        self.ledger.pay(Usage(requests=1), is_wasted=True)
        self._context.on_event(Retried(self._question_id, 1, wait_s, failure))


def _ringing(future: asyncio.Future[Any], bell: Bell) -> asyncio.Future[Any]:
    """Have a future ring when it is done."""
    future.add_done_callback(bell.ring)
    return future


async def _let_run(task: asyncio.Future[Any]) -> None:
    """Give a task the turns that it needs to hand over what has arrived already."""
    for _ in range(3):
        if not task.done():
            await asyncio.sleep(0)


class Leftover(NamedTuple):
    """What a decision came too early for: draws that arrived and were not used, and draws cancelled in flight."""

    overshoot: int = 0
    cancelled: int = 0


class Flight:
    """The asks of a splittable step in flight: sent part by part, handed over one at a time, in the order of asks."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._parts: set[asyncio.Task[None]] = set()
        self._arrived: asyncio.Queue[Arrival | Exception | None] = asyncio.Queue()  # None: a part has ended
        self._ready: dict[int, Completion] = {}
        self._reservations: list[Reservation] = []  # (num_sent,)
        self._num_open = self.num_taken = 0

    @property
    def num_sent(self) -> int:
        """How many asks of the step have been sent."""
        return len(self._reservations)

    def send(self, asks: Sequence[Ask]) -> None:
        """Send the next asks of the step."""
        reservations = self._dispatcher.reserve(asks)
        self._parts.add(asyncio.create_task(self._collect(self.num_sent, asks, reservations)))
        self._num_open += 1
        self._reservations += reservations

    async def _collect(self, start: int, asks: Sequence[Ask], reservations: Sequence[Reservation]) -> None:
        try:
            async with contextlib.aclosing(self._dispatcher.arrivals(asks, reservations)) as arrivals:
                async for position, completion in arrivals:
                    self._arrived.put_nowait(Arrival(start + position, completion))
        except Exception as error:  # raised by `next`, in the task of the run
            self._arrived.put_nowait(error)
        finally:
            self._arrived.put_nowait(None)

    async def next(self) -> Completion | None:
        """Return the next completion of the step, None if it does not come because the run is over."""
        while self.num_taken not in self._ready:
            if not self._num_open and self._arrived.empty():
                return None
            arrival = await self._arrived.get()
            if isinstance(arrival, Exception):
                raise arrival
            if arrival is None:
                self._num_open -= 1
            else:
                self._ready[arrival.position] = arrival.completion
        self.num_taken += 1
        return self._dispatcher.take(self._ready.pop(self.num_taken - 1))

    async def close(self) -> Leftover:
        """Cancel what is in flight and wait until it is gone."""
        for part in self._parts:
            part.cancel()
        await asyncio.gather(*self._parts, return_exceptions=True)
        while not self._arrived.empty():
            if isinstance(arrival := self._arrived.get_nowait(), Arrival):
                self._ready[arrival.position] = arrival.completion
        self._dispatcher.ledger.release(self._reservations)
        return Leftover(len(self._ready), self.num_sent - self.num_taken - len(self._ready))
