"""Groups whose draws wait for one another (`ExploreSettings.meets_at`), on an engine whose requests cannot.

A draw that comes to its cue ends as a request. Once no draw of its group is under way any more, those that wait go on
in requests of their own, which begin with all that was drawn so far and keep their row in the worker. The worker draws
for them only in steps that hold all of them (bridge.py). Where vLLM begins them in different steps, or puts one off, it
ends them without a token, and they are sent again: by then vLLM has what it computed in its prefix cache.

`Meeting` is the waiting, `Room` sees to it that vLLM has seats for all of them at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

from samplewise.core.errors import SamplewiseError
from samplewise.core.types import Ask, Generate, Json
from samplewise.engines.local.exploring import meeting_point
from samplewise.engines.local.prepared import explore_settings

MAX_TRIES = 6  # of a group that does not get a step to itself
HOLD_S = 0.02  # that vLLM begins no step, so that a group can come together; twice as long at each further try


class Room:
    """How many requests vLLM has. A group that is to begin in one step waits until it fits beside them, and whatever
    comes meanwhile waits behind it."""

    def __init__(self, seats: int) -> None:
        self._seats, self._taken = seats, 0
        self._opened, self._left, self._order = asyncio.Event(), asyncio.Event(), asyncio.Lock()
        self._opened.set()

    async def enter(self) -> None:
        while not self._opened.is_set():
            await self._opened.wait()
        self._taken += 1

    def leave(self) -> None:
        self._taken -= 1
        self._left.set()

    @contextlib.asynccontextmanager
    async def reserved(self, num: int) -> AsyncIterator[None]:
        """Take `num` seats, each of which is given back by `leave`, and let nobody else in until the block ends."""
        async with self._order:
            self._opened.clear()
            try:
                while self._taken and self._taken + num > self._seats:
                    self._left.clear()
                    await self._left.wait()
                self._taken += num
                yield
            finally:
                self._opened.set()


class Meeting:
    """A group on its way. Every draw ends by `leave`, whether it met the others or not."""

    def __init__(self, ask: Generate, name: str, room: Room, hold: Callable[[float], Awaitable[None]]) -> None:
        """`name` is one that no other meeting has. `hold` lets vLLM begin no step for some seconds."""
        self.name = name
        settings = explore_settings(ask.sampling.explore)
        self.policy, self.cue, self.tokens_after = str(settings), settings.meets_at.rstrip(), settings.tokens_after
        self.size = self._under_way = ask.group_size
        self._room, self._hold = room, hold
        self._waiting: list[asyncio.Future[int]] = []
        self._releasing: set[asyncio.Task[None]] = set()
        self._tries = self._num_tokens = self._num_ended = 0
        numbers: Json = {"seen": 0.0, "guided": 0.0, "members": 0.0}
        self._answered: Mapping[str, Json] = {"numbers": numbers, "problem": ""}  # as the worker reports it

    async def wait(self, *, again: bool = False) -> int:
        """Wait until no draw is under way. Return how many go on from here, each with a seat in the room.

        `again`: the draw was sent and got no token. Returns 0 where that has happened too often."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._meet(int(again))
        try:
            return await future
        except asyncio.CancelledError:
            if future in self._waiting:
                self._waiting.remove(future)
            elif future.done() and not future.cancelled() and future.result():
                self._room.leave()
            raise

    def leave(self) -> None:
        """Go on without a draw that has ended, or that can no longer answer with the others."""
        self._under_way -= 1
        self._meet(0)

    def _meet(self, tries: int) -> None:
        if not self._waiting or len(self._waiting) < self._under_way:
            return
        waiting, self._waiting = self._waiting, []
        self._tries = self._tries + 1 if tries else 0
        if self._tries >= MAX_TRIES:
            for future in waiting:
                future.set_result(0)
            return
        task = asyncio.create_task(self._release(waiting))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _release(self, waiting: Sequence[asyncio.Future[int]]) -> None:
        async with self._room.reserved(len(waiting)):
            try:
                with contextlib.suppress(Exception):  # the engine is gone, as each draw will find
                    await self._hold(HOLD_S * 2**self._tries)
            finally:
                left = [future for future in waiting if not future.done()]
                for _ in range(len(waiting) - len(left)):  # cancelled meanwhile
                    self._room.leave()
                for future in left:
                    future.set_result(len(left))
            await asyncio.sleep(0)  # until all of them have been sent

    def report(self, num_tokens: int, explored: Mapping[str, Json] | None) -> Mapping[str, Json] | None:
        """Count a draw that has ended after `num_tokens`, with what the worker reports of it. Return the group's report
        with the last one."""
        self._num_ended, self._num_tokens = self._num_ended + 1, self._num_tokens + num_tokens
        if explored is not None:
            self._answered = explored
        if self._num_ended < self.size:
            return None
        numbers = self._answered["numbers"]
        assert isinstance(numbers, Mapping)
        return {
            "policy": self.policy,
            "samples": self.size,
            "numbers": {**numbers, "seen": float(self._num_tokens)},
            "problem": self._answered["problem"],
            "together": True,
        }


def meeting_groups(asks: Iterable[Ask]) -> dict[str, list[Generate]]:
    """Return those of `asks` whose draws wait for one another, by group. Those of a group stand side by side."""
    runs = itertools.groupby(asks, _meeting_group)
    return {name: [ask for ask in run if isinstance(ask, Generate)] for name, run in runs if name}


def _meeting_group(ask: Ask) -> str:
    try:
        return ask.group if isinstance(ask, Generate) and meeting_point(ask) else ""
    except SamplewiseError:  # a policy that does not exist: the ask fails by itself
        return ""
