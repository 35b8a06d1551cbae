"""Selectors that count: the first readable answer, plurality, and votes weighted by a verifier's score."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints, log_normalise
from samplewise.core.types import Pool, Selection
from samplewise.measure.coverage import pass_at
from samplewise.measure.majority import majority_at
from samplewise.select.base import Graded, Selector, choose_class, no_vote, unscored


def first() -> Selector:
    """Choose the first readable answer: what a single draw gives, and the least that every selector must beat.

    The first candidate of a weighted pool is one drawn by weight. Where its answer is unreadable, another is drawn by
    weight among those that can be read, so that the choice is by weight among them.
    """

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        readable = [position for position, answer in enumerate(answers) if answer is not None]
        if not readable:
            return Selection(None, None, (0.0,) * len(answers))
        chosen = readable[0]
        if chosen > 0 and any(candidate.log_weight != 0.0 for candidate in pool.candidates):
            chosen = draw_by_weight(key, pool, readable)
        return Selection(answers[chosen], chosen, tuple(float(i == chosen) for i in range(len(answers))))

    def expected(graded: Graded, ks: Ints, key: Key) -> Floats:
        drawn = ~np.isnan(graded.grades)
        readable = np.where(drawn, graded.answers >= 0, np.nan)  # (P, N) nan where nothing was drawn
        total = np.where(graded.answers >= 0, np.nan_to_num(graded.grades), 0.0).sum(axis=1)
        mean_grade: Floats = total / np.maximum(np.nansum(readable, axis=1), 1.0)  # (P,) of a readable draw
        return pass_at(readable, ks) * mean_grade

    return Selector("first", choose, expected=expected, by_order=True)


def vote() -> Selector:
    """Choose the plurality (self-consistency). A weighted pool votes with its weights."""

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        mass: dict[str, float] = defaultdict(float)
        for answer, weight in zip(answers, pool_weights(pool), strict=True):
            if answer is not None:
                mass[answer] += weight
        return choose_class(key, pool, answers, mass)

    def expected(graded: Graded, ks: Ints, key: Key) -> Floats:
        return majority_at(graded.answers, graded.grades, ks, key=key)

    return Selector("vote", choose, expected=expected, note=no_vote)


def weighted(verifier: str) -> Selector:
    """Choose the plurality of a vote in which a candidate votes with its score.

    Scores below 0 and unscored candidates do not vote; with no positive score at all it is plain plurality. Where a
    score is infinite, only such candidates vote, each with its weight. Ties go to the answer that is drawn more often.
    """

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        mass: dict[str, float] = defaultdict(float)
        scores = [candidate.scores.get(verifier, math.nan) for candidate in pool.candidates]
        sure = any(score == math.inf and answer is not None for score, answer in zip(scores, answers, strict=True))
        for answer, weight, score in zip(answers, pool_weights(pool), scores, strict=True):
            if answer is not None and score > 0 and (score == math.inf or not sure):
                mass[answer] += weight if sure else weight * score
        if not mass:
            return vote().choose(key, pool, answers)
        count = Counter(a for a in answers if a is not None)
        return choose_class(key, pool, answers, mass, {a: float(n) for a, n in count.items()})

    def expected(graded: Graded, ks: Ints, key: Key) -> Floats:
        scores = np.nan_to_num(graded.scores[verifier], nan=0.0, posinf=np.inf, neginf=0.0).clip(0.0)
        sure, finite, count = np.isinf(scores), np.where(np.isinf(scores), 0.0, scores), np.ones(scores.shape)
        levels = (sure, finite, count) if sure.any() else (finite, count)
        return majority_at(graded.answers, graded.grades, ks, weights=levels[0], ties=levels[1:], key=key)

    return Selector("weighted", choose, (verifier,), expected, note=unscored(verifier, "by a vote"))


def draw_by_weight(key: Key, pool: Pool, positions: Sequence[int]) -> int:
    """Return one of the pool's positions (at least one), drawn by weight; each alike if none of them has any."""
    logs = np.array([pool.candidates[position].log_weight for position in positions])
    top = float(logs.max())
    cumulative = np.cumsum(np.exp(logs - top) if top > -math.inf else np.ones(len(logs)))
    index = int(np.searchsorted(cumulative, key.generator().random() * cumulative[-1], side="right"))
    return positions[min(index, int(np.searchsorted(cumulative, cumulative[-1])))]


def pool_weights(pool: Pool) -> list[float]:
    """Return weights (N,) that sum to N, so that an exchangeable draw weighs exactly 1."""
    logw = [c.log_weight for c in pool.candidates]
    if not logw or all(w == logw[0] for w in logw):
        return [1.0] * len(logw)
    return [math.exp(w) * len(logw) for w in log_normalise(logw).tolist()]
