"""Shards: a run that several processes draw, each in a store of its own, and how much of a run a store holds.

A question is a function of the task, the recipe, the engine's identity and the seed alone, so any process may draw it.
Which one does follows from the question's id: shard blake2b(id) mod m. The run's id is that of the whole task, so the
merged stores of all shards hold one run (see `samplewise.store.merge`). A limit is split evenly over the questions of
the whole task, so a shard spends what its questions would have spent anyway.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple, Self

from samplewise.core.errors import UsageError
from samplewise.store.database import Store
from samplewise.store.records import Run

SHARD = "shard"  # the kind of the event that says that a shard is done; its data: [position, num]


class Shard(NamedTuple):
    """Shard `position` of `num`, counted from 0."""

    position: int
    num: int

    @classmethod
    def of(cls, text: str) -> Self:
        """Return the shard that `i/m` names. Raises UsageError."""
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
        if match is None:
            raise UsageError(f"a shard is i/m, such as 0/4 for the first of four, got {text!r}")
        return cls(int(match[1]), int(match[2])).checked()

    def checked(self) -> Self:
        """Return this shard. Raises UsageError where there is no such shard."""
        if not 0 <= self.position < self.num:
            raise UsageError(f"shards count from 0: of {self.num} there are 0 to {self.num - 1}, got {self}")
        return self

    def holds(self, question_id: str) -> bool:
        """Return whether this shard draws the question of this id."""
        return shard_index(question_id, self.num) == self.position

    def __str__(self) -> str:
        return f"{self.position}/{self.num}"


def shard_index(question_id: str, num: int) -> int:
    """Return which of `num` shards a question goes to: its id's 8-byte blake2b digest, big end first, mod `num`."""
    digest = hashlib.blake2b(question_id.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % num


def partial_note(store: Store, run: Run) -> str:
    """Return how much of its task a run holds that did not come to its end, and what to do; "" for a whole run.

    Every figure of such a run is one of the questions that are done.
    """
    if run.ended is not None:
        return ""
    num = run.num_questions
    share = f"{len(store.questions(run.id)):,} of {'an unknown number of' if num is None else f'{num:,}'} questions"
    shards = sorted({tuple(data) for _, kind, data in store.events(run.id) if kind == SHARD})
    if not shards:
        return f"run {run.id} is partial: {share}; the command that began it goes on from there"
    names = ", ".join(str(Shard(*shard)) for shard in shards)
    return (
        f"run {run.id} is partial: {share}, shard{'s' if len(shards) > 1 else ''} {names}; draw the others and put "
        "them together: samplewise merge A.db B.db -o all.db"
    )
