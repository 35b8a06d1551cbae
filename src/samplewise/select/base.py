"""The selector protocol: picks the answer from a scored pool. Pure, and blind to where draws and scores came from.

An unread candidate (None) is no class and never wins; a pool of nothing but those selects None. Ties go to the larger
score sum where the selector has scores, else to a draw by the key: never to the first position or the alphabet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from samplewise.keys import Key
from samplewise.numerics import Floats
from samplewise.types import Pool, Selection


class Choose(Protocol):
    def __call__(self, key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection: ...


class Graded(NamedTuple):
    """The pools of many problems as arrays, for measuring what a selector is worth on them."""

    answers: NDArray[np.int64]  # (P, N) codes, equal for equal answers of one problem; -1: unread
    grades: Floats  # (P, N) in [0, 1]; nan: no such draw, or not graded
    scores: Mapping[str, Floats]  # verifier -> (P, N); nan: could not judge


class Expected(Protocol):
    def __call__(self, graded: Graded, ks: NDArray[np.int64], key: Key) -> Floats: ...


class Fit(Protocol):
    def __call__(self, rounds: Sequence[Round]) -> Selector: ...


class Round(NamedTuple):
    """One problem of those that a selector is fitted on. `grades` (N,) are None where it is to learn without labels."""

    pool: Pool
    answers: tuple[str | None, ...]
    grades: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Selector:
    """`answers` (N,) are the pool's candidates as the task's reader reads them. `verifiers` are those whose scores the
    selector looks at.

    `expected(graded, ks, key)` gives the expected grade (K, P) of the answer chosen among k of a problem's draws, over
    all subsets of k. A selector without it is measured by choosing from drawn subsets, which is slower and not exact.

    `fit(rounds)` gives the selector that has learned from a whole run; `choose` is what it does before. One that
    `needs_labels` is fitted on other problems than those it chooses for.
    """

    name: str
    choose: Choose
    verifiers: tuple[str, ...] = ()
    expected: Expected | None = None
    fit: Fit | None = None
    needs_labels: bool = False


def draw_tied(key: Key, tied: Iterable[str]) -> str:
    """One of the tied answers, each with the same probability, whatever order they come in."""
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
    """The answer with the most mass (>= 0 or any real); `tie` decides among equals, then the key. Weights are each
    candidate's share of the positive mass of its answer."""
    finite = {answer: m for answer, m in mass.items() if not math.isnan(m)}
    if not finite:
        return Selection(None, None, (0.0,) * len(answers))
    top = max(finite.values())
    noise = 1e-15 * max(map(abs, finite.values()))  # of sums; relative, so that scaling all masses changes nothing
    tied = [a for a, m in finite.items() if math.isclose(m, top, rel_tol=1e-12, abs_tol=noise)]
    if tie is not None and len(tied) > 1:
        best = max(tie.get(a, -math.inf) for a in tied)
        tied = [a for a in tied if math.isclose(tie.get(a, -math.inf), best, rel_tol=1e-12, abs_tol=1e-15)]
    answer = draw_tied(key, tied)
    total = sum(max(m, 0.0) for m in finite.values())
    count = Counter(answers)
    weights = tuple(
        0.0 if a is None or total == 0 else max(finite.get(a, 0.0), 0.0) / total / count[a] for a in answers
    )
    return Selection(answer, answers.index(answer), weights, {"mass": dict(finite), "tied": len(tied)})
