"""The keys of a run, folded in one place: who draws, varies, judges and selects takes its randomness from here.

The strings are part of every stored run: the seed of a draw follows from them, so a changed one would draw anew what a
store already holds.
"""

from __future__ import annotations

from typing import NamedTuple

from samplewise.core.keys import Key


class QuestionKeys(NamedTuple):
    """The keys of one question of a run."""

    base: Key

    @property
    def vary(self) -> Key:
        return self.base.fold("vary")

    @property
    def draw(self) -> Key:
        return self.base.fold("draw")

    @property
    def select(self) -> Key:
        return self.base.fold("select")

    def judge(self, name: str) -> Key:
        """Return the key of the judge `name`."""
        return self.base.fold("judge", name)


def run_key(seed: int) -> Key:
    """Return the key of a run with the user's seed."""
    return Key(seed).fold("run")


def question_keys(key: Key, question_id: str) -> QuestionKeys:
    """Return the keys of one question of the run with `key`."""
    return QuestionKeys(key.fold("question", question_id))
