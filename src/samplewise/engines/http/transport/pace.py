"""Adaptive concurrency: how many requests run at once against one replica.

The limit follows TCP congestion control (slow start, then additive increase and multiplicative decrease). It starts at
16 and doubles with every full round of successes until the first overload signal; from then on it grows by one a round.
An overload signal (429, 503, a timeout, a refused connection) halves it. Only a request that was sent after the last
cut can cause another cut: otherwise one full queue would cut the limit once per request in it. No request is sent while
`Retry-After` lasts. Where the server names no time, 0 or a past one, or its word does not help, the pause grows
exponentially.

`Pace` is the arithmetic and takes every time as an argument. `RequestGate` makes tasks wait, oldest request first, so a
request that is sent again keeps its position in the queue.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Protocol

from samplewise.core.retry import backoff_s

START = 16
MAX_BACKOFF_S = 30.0
NUM_TRUSTED = 3  # overloads in a row after which the server's `Retry-After` alone decides the pause
SECONDS = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


class Clock(Protocol):
    """Monotonic seconds."""

    def __call__(self) -> float: ...


class Pace:
    """The concurrency limit of one replica. All times are seconds of one clock."""

    def __init__(self, max_limit: int, start: int = START) -> None:
        self.limit = float(min(start, max_limit))
        self.resumes_at = -math.inf  # no request is sent before
        self._max_limit = max_limit
        self._threshold = math.inf  # below it the limit doubles each round
        self._last_cut = -math.inf
        self._num_overloads = 0  # in a row

    def has_room(self, in_flight: int, now: float) -> bool:
        """Return whether another request may be sent now."""
        return in_flight < int(self.limit) and now >= self.resumes_at

    def record_success(self, in_flight: int) -> None:
        """Record a reply. `in_flight` counts the requests before it came; an unused limit does not grow."""
        self._num_overloads = 0
        if in_flight >= int(self.limit) and self.limit < self._max_limit:
            grown = self.limit + (1.0 if self.limit < self._threshold else 1.0 / self.limit)
            self.limit = min(grown, float(self._max_limit))

    def record_overload(self, sent: float, now: float, retry_after_s: float | None = None) -> None:
        """Record an overload signal in answer to a request that was sent at `sent`."""
        if sent >= self._last_cut:
            self._num_overloads += 1
            self.limit = self._threshold = max(1.0, self.limit / 2)
            self._last_cut = now
            self.resumes_at = max(self.resumes_at, now + self._pause_s(retry_after_s))
        elif retry_after_s is not None:
            self.resumes_at = max(self.resumes_at, now + retry_after_s)

    def _pause_s(self, retry_after_s: float | None) -> float:
        """Return the pause after an overload: what the server asks for, but no less than what its word has not cured.

        A time of 0, or in the past, names none.
        """
        if not retry_after_s:
            return backoff_s(self._num_overloads - 1, longest_s=MAX_BACKOFF_S)
        num_ignored = self._num_overloads - NUM_TRUSTED
        return max(retry_after_s, backoff_s(num_ignored - 1, longest_s=MAX_BACKOFF_S) if num_ignored > 0 else 0.0)


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the `retry-after` header, a number or a date, as seconds from now. None if absent or unreadable."""
    text = headers.get("retry-after", "").strip()
    if SECONDS.fullmatch(text):
        seconds = float(text)
        return seconds if seconds < math.inf else None
    try:
        date = parsedate_to_datetime(text)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max((date - (now or datetime.now(UTC))).total_seconds(), 0.0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


class _Waiting(NamedTuple):
    ticket: int
    future: asyncio.Future[None]


class RequestGate:
    """Let tasks through as the pace allows. The lowest ticket goes first."""

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self.pace, self._clock = pace, clock
        self.in_flight = 0
        self._waiting: list[_Waiting] = []  # a heap; cancelled entries stay until their turn comes
        self._num_waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_loop: asyncio.AbstractEventLoop | None = None

    @property
    def load(self) -> int:
        """Return the number of requests in flight and waiting."""
        return self.in_flight + self._num_waiting

    def try_enter(self) -> bool:
        """Enter and return True if the request may be sent at once. Every entry needs a `leave`."""
        if self._num_waiting or not self.pace.has_room(self.in_flight, self._clock()):
            return False
        self.in_flight += 1
        return True

    async def enter(self, ticket: int) -> None:
        """Wait for this ticket's turn and enter."""
        waiting = _Waiting(ticket, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiting)
        self._num_waiting += 1
        self._admit()
        try:
            await waiting.future
        except asyncio.CancelledError:
            if waiting.future.cancelled():
                self._num_waiting -= 1
            else:  # admitted and cancelled in the same turn of the loop
                self.leave()
            raise

    def leave(self) -> None:
        """Leave after a request, and admit the next."""
        self.in_flight -= 1
        if self._num_waiting:
            self._admit()

    def _admit(self) -> None:
        now = self._clock()
        while self._waiting and self.pace.has_room(self.in_flight, now):
            future = heapq.heappop(self._waiting).future
            if not future.cancelled():
                future.set_result(None)
                self.in_flight += 1
                self._num_waiting -= 1
        if self._num_waiting and now < self.pace.resumes_at:
            loop = asyncio.get_running_loop()
            if self._timer is None or self._timer_loop is not loop:  # a closed loop's timer wakes nobody
                self._timer_loop = loop
                self._timer = loop.call_later(self.pace.resumes_at - now + 0.001, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._admit()
