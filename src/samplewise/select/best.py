"""Best-of-n: the answer of the candidate that a verifier scores highest."""

from __future__ import annotations

import math

import numpy as np

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import Pool, Selection
from samplewise.measure.best import best_at
from samplewise.select.base import Graded, Selector, unscored


def best(verifier: str) -> Selector:
    """Choose the best of n by `verifier`.

    Tied candidates are drawn from by the key. An unscored (nan) candidate never beats a scored one; if nothing is
    scored, one readable candidate is drawn. An imperfect score is over-optimised as the number of candidates grows.
    """

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        readable = [i for i, answer in enumerate(answers) if answer is not None]
        if not readable:
            return Selection(None, None, (0.0,) * len(answers))
        scores = {i: pool.candidates[i].scores.get(verifier, math.nan) for i in readable}
        scored = [i for i in readable if not math.isnan(scores[i])]
        top = max((scores[i] for i in scored), default=math.nan)
        tied = [i for i in scored if scores[i] == top] or readable
        position = tied[int(key.generator().integers(len(tied)))] if len(tied) > 1 else tied[0]
        share = dict.fromkeys(tied, 1.0 / len(tied))
        weights = tuple(share.get(i, 0.0) for i in range(len(answers)))
        return Selection(answers[position], position, weights, {"score": top, "tied": len(tied)})

    def expected(graded: Graded, ks: Ints, key: Key) -> Floats:
        scores = graded.scores[verifier]
        scored = np.maximum(scores, -np.finfo(np.float64).max)  # -inf is a score, and before none
        readable = np.where(np.isnan(scores), -np.inf, scored)  # unscored, but before what cannot be read
        return best_at(np.where(graded.answers < 0, np.nan, readable), graded.grades, ks)

    return Selector("best", choose, (verifier,), expected, note=unscored(verifier, "by chance"))
