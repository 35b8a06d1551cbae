"""What a run is carried out with, passed down once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from samplewise.core.events import OnEvent, ignore
from samplewise.core.types import Ask, Completion, Usage
from samplewise.engines.base import Engine
from samplewise.loop.ledger import Budget


class Draws(Protocol):
    """What keeps draws: a store, or whatever passes them on to one."""

    def put_draw(self, digest: bytes | None, identity: str, ask: Ask, completion: Completion) -> None:
        """Keep a completion. Without a digest, it is `digest_of(identity, ask)`."""
        ...

    def draws(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        """Return the completions that are kept, by digest."""
        ...


class Trial:
    """What the questions of a run tell each other about an engine's worst case, on which their limits rest.

    An engine may cost more than its worst case: an endpoint that ignores `max_tokens`. Within a limit, one request is
    awaited before many are sent (`first`), and a cost beyond the worst case makes every question reserve anew, so what
    passes a limit is bounded by the requests that were in flight when that was first seen.
    """

    def __init__(self) -> None:
        self.first = asyncio.Lock()
        self.cut = Usage()  # the most that requests may have cost that were cut off after they were sent
        self._watchers: set[asyncio.Future[Any]] = set()

    def note_cut(self, usage: Usage) -> None:
        """Note that a request was cut off."""
        self.cut = self.cut.plus(usage)

    def watch(self) -> asyncio.Future[Any]:
        """Return a future that is done once a request has cost more than its worst case."""
        watcher = asyncio.get_running_loop().create_future()
        self._watchers.add(watcher)
        return watcher

    def forget(self, watcher: asyncio.Future[Any] | None) -> None:
        """Note that nobody waits for this future any more."""
        if watcher is not None:
            self._watchers.discard(watcher)

    def note_excess(self) -> None:
        """Note that a request has cost more than its worst case."""
        watchers, self._watchers = self._watchers, set()
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)


@dataclass(frozen=True, slots=True)
class RunContext:
    """The engine that answers, the store that remembers, and the limits of a run.

    `budget` is what one question may use. Setting `cancel` ends the run: what is in flight is cancelled and charged at
    its worst case, and what has arrived is kept. `trial` is shared by the questions of a run. `is_fresh`: the run's key
    is new, so the store cannot hold a draw whose seed was made of it, and is not asked for one.
    """

    engine: Engine
    store: Draws | None = None
    budget: Budget = Budget()
    on_event: OnEvent = ignore
    cancel: asyncio.Event | None = None
    trial: Trial = field(default_factory=Trial)
    is_fresh: bool = False
