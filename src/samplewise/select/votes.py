"""Selectors that count: the first readable answer, plurality, and votes weighted by a verifier's score."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
from numpy.typing import NDArray

from samplewise.keys import Key
from samplewise.measure.coverage import pass_at
from samplewise.measure.majority import majority_at
from samplewise.numerics import Floats, log_normalise
from samplewise.select.base import Graded, Selector, choose_class
from samplewise.types import Pool, Selection


def first() -> Selector:
    """The first readable answer: what a single draw gives. The floor that every selector must beat."""

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        for position, answer in enumerate(answers):
            if answer is not None:
                return Selection(answer, position, tuple(float(i == position) for i in range(len(answers))))
        return Selection(None, None, (0.0,) * len(answers))

    def expected(graded: Graded, ks: NDArray[np.int64], key: Key) -> Floats:
        drawn = ~np.isnan(graded.grades)
        read = np.where(drawn, graded.answers >= 0, np.nan)  # (P, N) 1 where there is something to take
        total = np.where(graded.answers >= 0, np.nan_to_num(graded.grades), 0.0).sum(axis=1)
        worth: Floats = total / np.maximum(np.nansum(read, axis=1), 1.0)  # (P,) of a readable draw
        return pass_at(read, ks) * worth

    return Selector("first", choose, expected=expected)


def vote() -> Selector:
    """Plurality (self-consistency). A weighted pool votes with its weights."""

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        mass: dict[str, float] = defaultdict(float)
        for answer, weight in zip(answers, pool_weights(pool), strict=True):
            if answer is not None:
                mass[answer] += weight
        return choose_class(key, pool, answers, mass)

    def expected(graded: Graded, ks: NDArray[np.int64], key: Key) -> Floats:
        return majority_at(graded.answers, graded.grades, ks, key=key)

    return Selector("vote", choose, expected=expected)


def weighted(verifier: str) -> Selector:
    """Plurality in which a candidate votes with its score. Scores below 0 and unscored candidates do not vote; with no
    positive score at all it is plain plurality."""

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        mass: dict[str, float] = defaultdict(float)
        for answer, weight, candidate in zip(answers, pool_weights(pool), pool.candidates, strict=True):
            score = candidate.scores.get(verifier, math.nan)
            if answer is not None and score > 0:
                mass[answer] += weight * score
        if not mass:
            return vote().choose(key, pool, answers)
        count = Counter(a for a in answers if a is not None)
        return choose_class(key, pool, answers, mass, {a: float(n) for a, n in count.items()})

    def expected(graded: Graded, ks: NDArray[np.int64], key: Key) -> Floats:
        scores = np.nan_to_num(graded.scores[verifier], nan=0.0)
        unscored = ~(scores > 0).any(axis=1, keepdims=True)  # then it is plain plurality
        return majority_at(graded.answers, graded.grades, ks, weights=np.where(unscored, 1.0, scores.clip(0)), key=key)

    return Selector("weighted", choose, (verifier,), expected)


def pool_weights(pool: Pool) -> list[float]:
    """Weights (N,) that sum to N, so that an exchangeable draw weighs exactly 1."""
    logw = [c.log_weight for c in pool.candidates]
    if not logw or all(w == logw[0] for w in logw):
        return [1.0] * len(logw)
    return [math.exp(w) * len(logw) for w in log_normalise(logw).tolist()]
