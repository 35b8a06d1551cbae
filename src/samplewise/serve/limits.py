"""Who may run now: rates, concurrency, the queue, and what each key may spend in a day.

A request enters the gate before anything is drawn for it. It is refused at once if its key's rate or day is used up, if
the queue is full, or if the server is shutting down; else it waits for a free slot. `Busy` says why, and when to come
back. What runs has a `Ticket`, which says how much it may spend at most and is told what it spent.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from samplewise.core.errors import BadInput, SamplewiseError, UsageError
from samplewise.serve.keys import Policy
from samplewise.serve.log import utc_now

MINUTE_S = 60.0
LEAST_WAIT_S, MOST_WAIT_S = 1.0, 60.0  # of what a queue that is full advises
SMOOTHING = 0.2  # weight of the newest request in the mean time that a slot is held
VERSION = 1


class Busy(SamplewiseError):
    """The server does not take this request now.

    `status` is 429 for what this client has used up, 503 while the server shuts down. `retry_after_s` is when it may be
    taken. Without `should_retry` a client's own retries, seconds later, are of no use.
    """

    def __init__(
        self, retry_after_s: float, status: int, message: str, *, code: str = "rate_limit", should_retry: bool = True
    ) -> None:
        super().__init__(message)
        self.retry_after_s, self.status, self.code, self.should_retry = retry_after_s, status, code, should_retry


class TokenBucket:
    """A rate limit: `per_minute` requests a minute, of which a whole minute's may come at once.

    In any t seconds at most per_minute * (1 + t / 60) are taken.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._level, self._seen = float(per_minute), now

    def wait_s(self, now: float) -> float:
        """Return the seconds until one request may be taken, 0 if it may now."""
        elapsed = max(0.0, now - self._seen)
        self._level = min(float(self.per_minute), self._level + elapsed * self.per_minute / MINUTE_S)
        self._seen = max(now, self._seen)
        return 0.0 if self._level >= 1 else (1 - self._level) * MINUTE_S / self.per_minute

    def take(self) -> None:
        """Take one request, which `wait_s` has allowed."""
        self._level -= 1


class DailySpend(NamedTuple):
    """What one key has spent in a day."""

    tokens: int = 0
    usd: float = 0.0

    def plus(self, tokens: int, usd: float) -> DailySpend:
        """Return the sum."""
        return DailySpend(self.tokens + tokens, self.usd + usd)


class DayBooks:
    """What each key has spent since midnight UTC, and what its running requests have reserved.

    With a path, what was spent is kept in that file, so that a restart gives nobody a second day's budget.
    """

    def __init__(self, path: Path | None = None, *, now: Callable[[], datetime] = utc_now) -> None:
        """Read the file if there is one. Raises BadInput if it is something else."""
        self._path, self._now = path, now
        self._day = now().date()
        self._spent: dict[str, DailySpend] = {}
        self._reserved: dict[str, DailySpend] = {}
        if path is not None and path.exists():
            day, spent = _read_books(path)
            if day >= self._day:  # a clock that was put back begins no new day
                self._day, self._spent = day, spent

    def spent(self, name: str) -> DailySpend:
        """Return what a key has spent today."""
        self._turn()
        return self._spent.get(name, DailySpend())

    def seconds_left(self) -> float:
        """Return the seconds until the next day."""
        now = self._now()
        midnight = datetime.combine(max(self._day, now.date()) + timedelta(days=1), datetime.min.time(), UTC)
        return (midnight - now).total_seconds()

    def check(self, policy: Policy) -> None:
        """Raise Busy if what a request of this key may cost does not fit into what is left of the day."""
        if not policy.has_daily_limits:
            return
        spent, reserved = self.spent(policy.name), self._reserved.get(policy.name, DailySpend())
        limits = (
            (policy.tokens_per_day, policy.tokens_per_request, spent.tokens, reserved.tokens, "tokens"),
            (policy.usd_per_day, policy.usd_per_request, spent.usd, reserved.usd, "USD"),
        )
        for day, request, used, held, unit in limits:
            if day is None:
                continue
            least = request if request is not None else 0
            if used + least > day * (1 + 1e-9) or used >= day:
                raise Busy(
                    self.seconds_left(),
                    429,
                    f"the limit of {day:,} {unit} a day is reached for key {policy.name!r}: {used:,.6g} are spent, "
                    f"and one request may use {least:,}; it ends at midnight UTC",
                    code="insufficient_quota",
                    should_retry=False,
                )
            if used + held + least > day * (1 + 1e-9):
                raise Busy(
                    LEAST_WAIT_S,
                    429,
                    f"what is left of {day:,} {unit} a day is reserved by running requests of key {policy.name!r}",
                )

    def reserve(self, policy: Policy) -> DailySpend:
        """Reserve what one request of this key may cost, and return it. Raises Busy if it does not fit."""
        if not policy.has_daily_limits:
            return DailySpend()
        self.check(policy)
        amount = DailySpend(policy.tokens_per_request or 0, policy.usd_per_request or 0.0)
        self._reserved[policy.name] = self._reserved.get(policy.name, DailySpend()).plus(*amount)
        return amount

    def settle(self, policy: Policy, reserved: DailySpend, tokens: int, usd: float) -> None:
        """Replace a reservation by what the request cost. It counts for the day on which it ends."""
        if not policy.has_daily_limits:
            return
        held = self._reserved[policy.name].plus(-reserved.tokens, -reserved.usd)
        self._reserved[policy.name] = held if held.tokens > 0 or held.usd > 1e-12 else DailySpend()
        self._spent[policy.name] = self.spent(policy.name).plus(tokens, usd)
        self._save()

    def _turn(self) -> None:
        """Begin a new day, if it has come."""
        today = self._now().date()
        if today > self._day:
            self._day, self._spent = today, {}

    def _save(self) -> None:
        if self._path is None:
            return
        document = {"version": VERSION, "day": self._day.isoformat(), "spent": self._spent}
        unfinished = self._path.with_name(f"{self._path.name}.part")
        try:
            unfinished.write_text(json.dumps(document), "utf-8")
            unfinished.replace(self._path)
        except OSError as error:
            raise UsageError(f"cannot write what keys have spent to {self._path}: {error.strerror}") from None


class Ticket:
    """What one running request may spend, and what it has spent.

    `tokens` and `usd` are the most that it may use, None without a limit. A ticket on which `spend` was never called is
    charged its whole reservation, so that an error on the way to the books never lifts a day's limit.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.tokens, self.usd = policy.tokens_per_request, policy.usd_per_request
        self._spent: DailySpend | None = None

    def spend(self, tokens: int, usd: float = 0.0) -> None:
        """Add what was paid; call it with 0 if nothing was. An unknown price, nan, is charged at the most."""
        most = 0.0 if self.usd is None else self.usd
        spent = self._spent or DailySpend()
        self._spent = spent.plus(tokens, usd if math.isfinite(usd) else max(0.0, most - spent.usd))

    def charged(self, reserved: DailySpend) -> DailySpend:
        """Return what the books are to hold for this request."""
        return reserved if self._spent is None else self._spent


class _Waiter(NamedTuple):
    policy: Policy
    admitted: asyncio.Future[None]


class Gate:
    """The door of the server: at most `concurrency` requests run, and at most `queue` wait, each for `queue_s`.

    Whose key has the fewest requests running goes first, then who came first: a key that sends hundreds of requests
    does not keep the others waiting.
    """

    def __init__(
        self,
        *,
        concurrency: int = 256,
        queue: int = 1024,
        queue_s: float = 30.0,
        books: DayBooks | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.concurrency, self.queue, self.queue_s = concurrency, queue, queue_s
        self.books = books if books is not None else DayBooks()
        self.is_draining = False
        self._clock = clock
        self._running: Counter[str] = Counter()
        self._buckets: dict[str, TokenBucket] = {}
        self._waiters: list[_Waiter] = []
        self._held_s = LEAST_WAIT_S  # mean time that a slot is held
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        """Return how many requests run."""
        return self._running.total()

    @property
    def num_queued(self) -> int:
        """Return how many requests wait."""
        return len(self._waiters)

    def enter(self, policy: Policy, within_s: float = math.inf) -> Entry:
        """Wait for a free slot, and hold it while the block runs. Raises Busy, after `within_s` at the latest."""
        return Entry(self, policy, within_s)

    async def take_slot(self, policy: Policy, within_s: float) -> float:
        """Wait for a free slot, and take it. Return the time. Raises Busy."""
        self._admit(policy, self._clock())
        if not self._waiters and self._has_slot(policy):
            self._occupy(policy)
        else:
            await self._wait(policy, min(self.queue_s, max(0.0, within_s)))
        return self._clock()

    def free_slot(self, policy: Policy, taken: float) -> None:
        """Free a slot that was taken at this time."""
        self._held_s += SMOOTHING * (self._clock() - taken - self._held_s)
        self._leave(policy)

    def drain(self) -> None:
        """Refuse newcomers and those who wait, with 503, from now on. What runs goes on."""
        self.is_draining = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.admitted.done():
                waiter.admitted.set_exception(_shutting_down())

    async def drained(self, seconds: float) -> bool:
        """Wait until nothing runs, for at most so many seconds. Return whether that was reached."""
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def _admit(self, policy: Policy, now: float) -> None:
        """Raise Busy, or count the request."""
        if self.is_draining:
            raise _shutting_down()
        self.books.check(policy)
        bucket = None
        if policy.requests_per_minute is not None:
            bucket = self._buckets.setdefault(policy.name, TokenBucket(policy.requests_per_minute, now))
            wait_s = bucket.wait_s(now)
            if wait_s > 0:
                message = f"key {policy.name!r} may make {policy.requests_per_minute:,} requests a minute"
                raise Busy(wait_s, 429, message)
        if len(self._waiters) >= self.queue and not self._has_slot(policy):
            raise self._is_full(policy)
        if bucket is not None:
            bucket.take()

    def _has_slot(self, policy: Policy) -> bool:
        is_below = policy.concurrency is None or self._running[policy.name] < policy.concurrency
        return is_below and self.in_flight < self.concurrency

    def _occupy(self, policy: Policy) -> None:
        self._running[policy.name] += 1
        self._idle.clear()

    def _leave(self, policy: Policy) -> None:
        self._running[policy.name] -= 1
        if not self._running[policy.name]:
            del self._running[policy.name]
        self._wake()
        if not self._running:
            self._idle.set()

    def _wake(self) -> None:
        """Give free slots to those who wait."""
        while True:
            able = [waiter for waiter in self._waiters if self._has_slot(waiter.policy)]
            if not able:
                return
            waiter = min(able, key=lambda waiter: self._running[waiter.policy.name])  # the first of the least
            self._waiters.remove(waiter)
            if not waiter.admitted.done():
                self._occupy(waiter.policy)
                waiter.admitted.set_result(None)

    async def _wait(self, policy: Policy, seconds: float) -> None:
        waiter = _Waiter(policy, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._wake()  # others may wait for their own key's slots alone
        try:
            done, _ = await asyncio.wait([waiter.admitted], timeout=seconds)
        except asyncio.CancelledError:
            self._withdraw(waiter)
            raise
        if not done:
            self._withdraw(waiter)
            raise self._is_full(policy)
        waiter.admitted.result()  # raises Busy while the server shuts down

    def _withdraw(self, waiter: _Waiter) -> None:
        """Take back a request that waits no more; the slot that it may just have been given goes to the next."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if not waiter.admitted.done():
            waiter.admitted.cancel()
        elif not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
            self._leave(waiter.policy)

    def _is_full(self, policy: Policy) -> Busy:
        advised_s = self._held_s * (1 + len(self._waiters)) / self.concurrency
        advised_s = min(max(advised_s, LEAST_WAIT_S), MOST_WAIT_S)
        own = policy.concurrency is not None and self._running[policy.name] >= policy.concurrency
        what = f"key {policy.name!r} has {policy.concurrency} requests running" if own else "the server is busy"
        return Busy(advised_s, 429, f"{what}, and no slot came free; {len(self._waiters)} requests wait")


class Entry:
    """A request's time within a gate, for `async with`: see `Gate.enter`. Its ticket is settled when the block ends."""

    def __init__(self, gate: Gate, policy: Policy, within_s: float) -> None:
        self._gate, self._policy, self._within_s = gate, policy, within_s

    async def __aenter__(self) -> Ticket:
        gate, policy = self._gate, self._policy
        self._taken = await gate.take_slot(policy, self._within_s)
        try:
            self._reserved, self._ticket = gate.books.reserve(policy), Ticket(policy)
        except BaseException:
            gate.free_slot(policy, self._taken)
            raise
        return self._ticket

    async def __aexit__(self, *raised: object) -> None:
        try:
            self._gate.books.settle(self._policy, self._reserved, *self._ticket.charged(self._reserved))
        finally:
            self._gate.free_slot(self._policy, self._taken)


def _shutting_down() -> Busy:
    return Busy(LEAST_WAIT_S, 503, "the server is shutting down", code="shutting_down")


def _read_books(path: Path) -> tuple[date, dict[str, DailySpend]]:
    try:
        document = json.loads(path.read_text("utf-8"))
        if document["version"] != VERSION:
            raise ValueError
        spent = {str(name): DailySpend(int(tokens), float(usd)) for name, (tokens, usd) in document["spent"].items()}
        return date.fromisoformat(document["day"]), spent
    except OSError as error:
        raise BadInput(f"cannot read what keys have spent from {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadInput(f"{path} is no record of what keys have spent; move it away to begin the day anew") from None
