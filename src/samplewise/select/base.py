"""The selector protocol: picks the answer from a scored pool. Pure; it does not see where draws and scores came from.

An unreadable candidate (None) is no class and never wins; a pool of nothing else selects None. Ties go to the larger
sum of scores if the selector has scores, else to a draw by the key: never to the first position or the alphabet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import Pool, Selection


class Choose(Protocol):
    """Choose an answer from a pool and its candidates' answers."""

    def __call__(self, key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection: ...


class Note(Protocol):
    """Return what a reader must know of a choice from a pool with these answers (N,), "" for nothing."""

    def __call__(self, pool: Pool, answers: Sequence[str | None]) -> str: ...


class Graded(NamedTuple):
    """The pools of many problems as arrays, for measuring how well a selector does on them."""

    answers: Ints  # (P, N) codes, equal for equal answers of one problem; -1: unreadable
    grades: Floats  # (P, N) in [0, 1]; nan: no such draw, or not graded
    scores: Mapping[str, Floats]  # verifier -> (P, N); nan: could not judge

    def of(self, rows: Ints) -> Graded:
        """Return the pools of some problems, by their rows (R,)."""
        if len(rows) == len(self.answers):
            return self
        return Graded(self.answers[rows], self.grades[rows], {name: each[rows] for name, each in self.scores.items()})


class Expected(Protocol):
    """Return the expected grade (K, P) of the answer chosen among k draws."""

    def __call__(self, graded: Graded, ks: Ints, key: Key) -> Floats: ...


class Fit(Protocol):
    """Learn a selector from the rounds of a run."""

    def __call__(self, rounds: Sequence[Round]) -> Selector: ...


class Round(NamedTuple):
    """One problem of those that a selector is fitted on. `grades` (N,) are None if it must learn without labels."""

    pool: Pool
    answers: tuple[str | None, ...]
    grades: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Selector:
    """A named choice. `verifiers` are those whose scores the selector looks at.

    `choose(key, pool, answers)` picks the answer; `answers` (N,) are the pool's candidates as the task's reader reads
    them.

    `expected(graded, ks, key)` gives the expected grade (K, P) of the answer chosen among k of a problem's draws, over
    all subsets of k. A selector without it is measured by choosing from drawn subsets, which is slower and not exact.

    The choice of one that is `by_order` depends on the order of the draws, which its formula averages over.

    `note(pool, answers)` says where the choice rests on nothing, "" elsewhere: it is shown beside the answer.

    `fit(rounds)` gives the selector that has learned from a whole run; `choose` is what it does before. One that
    `needs_labels` is fitted on other problems than those it chooses for.
    """

    name: str
    choose: Choose
    verifiers: tuple[str, ...] = ()
    expected: Expected | None = None
    fit: Fit | None = None
    needs_labels: bool = False
    by_order: bool = False
    note: Note | None = None

    def note_on(self, pool: Pool, answers: Sequence[str | None]) -> str:
        """Return where the choice from a pool rests on nothing, "" elsewhere."""
        return "" if self.note is None else self.note(pool, answers)


def no_vote(pool: Pool, answers: Sequence[str | None]) -> str:
    """Return that a vote among these answers (N,) is none, as no two of them, two at least, are equal; otherwise ""."""
    readable = [answer for answer in answers if answer is not None]
    if len(readable) < 2 or len(set(readable)) < len(readable):
        return ""
    num = len(readable)
    return f"{num} draws, {num} different answers: nothing to vote on; use best(...)"


def named_verifier(name: str, engine: str, size: int, usual_size: int) -> str:
    """Return the spec of a verifier that asks an engine, by default the solver, about so many answers at once."""
    asked = engine if engine.isidentifier() else repr(engine)
    arguments = [*([asked] if engine else []), *([f"size={size}"] if size != usual_size else [])]
    return f"{name}({', '.join(arguments)})" if arguments else name


def unscored(verifier: str, how: str) -> Note:
    """Return the note of a selector that chooses `how` where none of several different answers has a score."""

    def note(pool: Pool, answers: Sequence[str | None]) -> str:
        readable = [position for position, answer in enumerate(answers) if answer is not None]
        scores = [pool.candidates[position].scores.get(verifier, math.nan) for position in readable]
        if len({answers[position] for position in readable}) < 2 or not all(map(math.isnan, scores)):
            return ""
        return f"none of {len(readable)} draws has a score by {verifier}: chosen {how}"

    return note


def draw_tied(key: Key, tied: Iterable[str]) -> str:
    """Return one of the tied answers, each with the same probability, whatever order they come in."""
    ordered = sorted(tied)
    if len(ordered) == 1:  # most of the time, and a generator takes its time
        return ordered[0]
    return ordered[int(key.generator().integers(len(ordered)))]


def choose_class(
    key: Key,
    pool: Pool,
    answers: tuple[str | None, ...],
    mass: Mapping[str, float],
    tie: Mapping[str, float] | None = None,
) -> Selection:
    """Choose the answer with the most mass (any real, or infinite); `tie` decides among equals, then the key.

    The weights of the selection are each candidate's share of the positive mass of its answer; of infinite masses, each
    has the same share.
    """
    known = {answer: m for answer, m in mass.items() if not math.isnan(m)}
    if not known:
        return Selection(None, None, (0.0,) * len(answers))
    top = max(known.values())
    # of sums; relative, so that scaling all masses changes nothing
    noise = 1e-15 * max((abs(m) for m in known.values() if math.isfinite(m)), default=0.0)
    tied = [a for a, m in known.items() if math.isclose(m, top, rel_tol=1e-12, abs_tol=noise)]
    if tie is not None and len(tied) > 1:
        best = max(tie.get(a, -math.inf) for a in tied)
        tied = [a for a in tied if math.isclose(tie.get(a, -math.inf), best, rel_tol=1e-12, abs_tol=1e-15)]
    answer = draw_tied(key, tied)
    positive = {a: float(m == math.inf) if top == math.inf else max(m, 0.0) for a, m in known.items()}
    total, count = sum(positive.values()), Counter(answers)
    weights = tuple(0.0 if a is None or total == 0 else positive.get(a, 0.0) / total / count[a] for a in answers)
    return Selection(answer, answers.index(answer), weights, {"mass": known, "tied": len(tied)})
