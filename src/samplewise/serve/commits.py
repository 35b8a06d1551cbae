"""Commits the draws of many requests together, a moment after they came.

A commit takes a quarter of a millisecond in a process that was idle, and all answers wait for it. So draws wait in
memory, for `COMMIT_S` at most. A server that is killed loses what came within that time, as if it had still been on its
way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from samplewise.core.errors import StoreError
from samplewise.core.types import Ask, Completion
from samplewise.store.database import Store

COMMIT_S = 0.01

LOGGER = logging.getLogger("samplewise.serve")


class GroupCommit:
    """What keeps draws in front of a store, within one event loop. At the end, `commit` before the store is closed."""

    def __init__(self, behind: Store) -> None:
        self._behind = behind
        self._waiting: list[tuple[bytes | None, str, Ask, Completion]] = []  # in the order in which they came
        self._timer: asyncio.TimerHandle | None = None
        self._has_failed = False

    def draws(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        """Return the completions that are known, by digest. Commits what waits. Raises StoreError."""
        self.commit()
        return self._behind.draws(digests)

    def put_draw(self, digest: bytes | None, identity: str, ask: Ask, completion: Completion) -> None:
        """Keep a completion. Raises StoreError, and does not keep it, where what came before still cannot be kept."""
        if self._has_failed:
            self.commit()
        self._waiting.append((digest, identity, ask, completion))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(COMMIT_S, self._commit_in_time)

    def commit(self) -> None:
        """Commit what waits. Raises StoreError; it then still waits. A draw that no store could hold is dropped, and
        what is wrong with it raised."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._waiting:
            return
        self._has_failed = True
        with self._behind.transaction():
            for position, draw in enumerate(self._waiting):
                try:
                    self._behind.put_draw(*draw)
                except StoreError:
                    raise
                except Exception:
                    del self._waiting[position]
                    raise
        self._has_failed = False
        self._waiting.clear()

    def _commit_in_time(self) -> None:
        try:
            self.commit()
        except StoreError as error:  # whoever draws next is told too
            LOGGER.warning("%s", error)
