"""The judge protocol: a verifier that must ask an engine before it can score.

A judge does no I/O. It returns the asks about a pool, round by round, and computes scores from all replies. The loop
sends the asks, within the run's budget and store, and counts every token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from samplewise.core.keys import Key
from samplewise.core.types import Ask, Candidate, Capability, Completion, Question

Answers = tuple[str | None, ...]  # (N,) the candidates as the task's reader reads them
Replies = tuple[tuple[Completion, ...], ...]  # the completions, round by round


class AskJudge(Protocol):
    def __call__(
        self, key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[Ask, ...]: ...


class Rate(Protocol):
    def __call__(
        self, key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]: ...


@dataclass(frozen=True, slots=True)
class Judge:
    """A verifier that asks an engine.

    `next_asks` returns the next round of asks about the candidates (N,), or none when it has enough replies. `rate`
    returns their scores (N,), nan if unknown, and must work with fewer rounds if the budget ends. Both are pure.
    `engines` are the names of the engines that it asks besides the solver.
    """

    name: str
    next_asks: AskJudge
    rate: Rate
    needs: frozenset[Capability] = frozenset()
    engines: frozenset[str] = frozenset()
