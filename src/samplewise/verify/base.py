"""The judge protocol: a verifier that must ask an engine before it can score.

A judge does no I/O. It returns the asks about a pool, round by round, and computes scores from all replies. The loop
sends the asks, within the run's budget and store, and counts every token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


class Unfit(Protocol):
    def __call__(self, question: Question) -> str: ...


class Rate(Protocol):
    def __call__(
        self, key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]: ...


class Detail(Protocol):
    def __call__(
        self, key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> Mapping[str, tuple[float, ...]]: ...


@dataclass(frozen=True, slots=True)
class Judge:
    """A verifier that asks an engine.

    `next_asks` returns the next round of asks about the candidates (N,), or none when it has enough replies. `rate`
    returns their scores (N,), nan if unknown, and must work with fewer rounds if the budget ends. Both are pure, but
    for programs that are run in the sandbox. `needs` is what the engine that it asks must be able to do; `engines` are
    the names of those that it asks besides the solver.

    A judge that never `asks` needs no engine. `unfit(question)` says why it cannot score answers to a question, "" if
    it can; a run none of whose questions is fit is refused before anything is drawn, and so is one where `setup()`
    raises SetupError, as something is missing on this machine. `detail` returns further numbers of the candidates by
    name, each (N,): they are kept beside the scores, as "NAME.further".
    """

    name: str
    next_asks: AskJudge
    rate: Rate
    needs: frozenset[Capability] = frozenset()
    engines: frozenset[str] = frozenset()
    asks: bool = True
    unfit: Unfit | None = None
    detail: Detail | None = None
    setup: Callable[[], object] | None = None

    def check_setup(self) -> None:
        """Raise SetupError where something that it needs is missing on this machine."""
        if self.setup is not None:
            self.setup()

    def scores(
        self, key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> dict[str, tuple[float, ...]]:
        """Return the scores (N,) under "", and further numbers under ".further"."""
        details = self.detail(key, question, candidates, answers, replies) if self.detail is not None else {}
        rated = self.rate(key, question, candidates, answers, replies)
        return {"": rated, **{f".{further}": values for further, values in details.items()}}
