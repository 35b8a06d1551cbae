"""How many requests run at once against one replica: as many as it answers without complaint.

It begins with 16, doubles with every full round that goes well until the first complaint, and from then on grows by one
a round; a complaint (429, 503, a time-out, a refused connection) halves it. Only requests that were sent after the last
cut can cause another, or one full queue would be punished once per request in it. `Retry-After` is kept to, and so is
a growing pause where the server names none.

`Pace` is the arithmetic, told the time; `Gate` makes tasks wait, the oldest request first, so that one that is sent
again keeps its turn.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Protocol

START = 16
BACKOFF_S = 0.25  # the first pause where the server names none; doubles with each complaint that follows
MAX_BACKOFF_S = 30.0


class Clock(Protocol):
    """Seconds that only grow."""

    def __call__(self) -> float: ...


class Pace:
    """The limit of one replica. Every time is handed in, in seconds of one clock."""

    def __init__(self, most: int, start: int = START) -> None:
        self.limit = float(min(start, most))
        self.resumes = -math.inf  # nothing is sent before
        self._most = most
        self._threshold = math.inf  # below it the limit doubles each round
        self._cut = -math.inf  # when it was last cut
        self._complaints = 0  # in a row

    def room(self, in_flight: int, now: float) -> bool:
        return in_flight < int(self.limit) and now >= self.resumes

    def went_well(self, in_flight: int) -> None:
        """A reply, with this many in flight before it. A limit that nothing presses against does not grow."""
        self._complaints = 0
        if in_flight >= int(self.limit) and self.limit < self._most:
            grown = self.limit + (1.0 if self.limit < self._threshold else 1.0 / self.limit)
            self.limit = min(grown, float(self._most))

    def complained(self, sent: float, now: float, retry_after_s: float | None = None) -> None:
        """A request that was sent at `sent` came back with a complaint."""
        if sent >= self._cut:
            self._complaints += 1
            self.limit = self._threshold = max(1.0, self.limit / 2)
            self._cut = now
            pause_s = backoff_s(self._complaints) if retry_after_s is None else retry_after_s
            self.resumes = max(self.resumes, now + pause_s)
        elif retry_after_s is not None:
            self.resumes = max(self.resumes, now + retry_after_s)


def backoff_s(complaints: int) -> float:
    """The pause after this many complaints in a row, from 1."""
    return float(min(BACKOFF_S * 2.0 ** min(complaints - 1, 30), MAX_BACKOFF_S))


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """What the reply's `retry-after` says, a number or a date, in seconds from now. None where nothing can be read."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except (ValueError, TypeError, IndexError):
            return None
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
        return max(seconds, 0.0)
    return seconds if 0 <= seconds < math.inf else None


class _Waiting(NamedTuple):
    ticket: int
    future: asyncio.Future[None]


class Gate:
    """Lets tasks through as the pace allows. A ticket is the place in the queue: the lowest goes first."""

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self.pace, self._clock = pace, clock
        self.in_flight = 0
        self._waiting: list[_Waiting] = []  # a heap; those that were cancelled stay until their turn comes
        self._num_waiting = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def load(self) -> int:
        """Requests here, in flight and waiting."""
        return self.in_flight + self._num_waiting

    def enters(self) -> bool:
        """Whether the request may be sent at once, and then it has entered. Whoever has entered must leave."""
        if self._num_waiting or not self.pace.room(self.in_flight, self._clock()):
            return False
        self.in_flight += 1
        return True

    async def enter(self, ticket: int) -> None:
        """Waits for its turn."""
        waiting = _Waiting(ticket, asyncio.get_running_loop().create_future())
        heapq.heappush(self._waiting, waiting)
        self._num_waiting += 1
        self._let_in()
        try:
            await waiting.future
        except asyncio.CancelledError:
            if waiting.future.cancelled():
                self._num_waiting -= 1
            else:  # let in and cancelled in one turn of the loop
                self.leave()
            raise

    def leave(self) -> None:
        self.in_flight -= 1
        if self._num_waiting:
            self._let_in()

    def _let_in(self) -> None:
        now = self._clock()
        while self._waiting and self.pace.room(self.in_flight, now):
            future = heapq.heappop(self._waiting).future
            if not future.cancelled():
                future.set_result(None)
                self.in_flight += 1
                self._num_waiting -= 1
        if self._num_waiting and now < self.pace.resumes and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.pace.resumes - now + 0.001, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._let_in()
