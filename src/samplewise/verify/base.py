"""The judge protocol: a verifier that must ask an engine before it can score.

A judge does no I/O. It says what it would ask about a pool, round after round, and makes scores of all that it heard;
the loop asks, within the run's budget and store, and every token is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from samplewise.keys import Key
from samplewise.types import Ask, Candidate, Capability, Completion, Question

Answers = tuple[str | None, ...]  # (N,) the candidates as the task's reader reads them
Talk = tuple[tuple[Completion, ...], ...]  # what was heard in each round


class Inquire(Protocol):
    def __call__(
        self, key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, heard: Talk
    ) -> tuple[Ask, ...]: ...


class Rate(Protocol):
    def __call__(
        self, key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, heard: Talk
    ) -> tuple[float, ...]: ...


@dataclass(frozen=True, slots=True)
class Judge:
    """`inquire` gives the next round's asks about the candidates (N,), none when it has heard enough; `rate` their
    scores (N,), nan where it cannot say. `rate` must make do with fewer rounds where the budget ends.

    Both are pure. `engines` are the names of those that it asks, beside the solver.
    """

    name: str
    inquire: Inquire
    rate: Rate
    needs: frozenset[Capability] = frozenset()
    engines: frozenset[str] = frozenset()
