"""A judge as a filter: is there a right draw among the k that it scores highest? Top 10 of 100 in arXiv 2502.11027.

It is no accuracy, as somebody still has to choose among the k; and k draws at random succeed already with pass@k of the
same pool, the chance level. So the judge's own part is the skill

    (S - pass@k) / (pass@N - pass@k),    S the share of problems whose k best hold a right one:

0 for scores that are noise, 1 where no problem is lost; a gain in S alone may be a gain in pass@k. Draws are counted,
not answers: ten different answers would cover every option of a multiple choice. Draws that tie for the last ranks
share them as a random draw would: exact, no resampling.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.measure._arrays import Floats, read_beside, read_outcomes, read_sizes
from samplewise.measure.coverage import pass_at
from samplewise.measure.estimate import Estimate, mean_interval
from samplewise.measure.powers import failure_power

SIZE = 10


class Shortlist(NamedTuple):
    """Means over problems. `skill` is nan where the baseline equals the coverage."""

    size: int
    success: Estimate
    baseline: Estimate  # success of as many draws at random
    coverage: Estimate  # of all draws
    skill: float


def shortlist_at(scores: ArrayLike, outcomes: ArrayLike, size: int = SIZE) -> Floats:
    """Return the probability (P,) that the `size` highest-scored draws of each problem hold a right one.

    `scores` (P, N) are any reals; a nan score comes behind all others. `outcomes` (P, N) are 0 or 1; a draw whose
    outcome is nan is left out. A problem without any is nan. Raise ValueError for other outcomes, other shapes, or a
    size above the smallest number of outcomes.
    """
    right = read_outcomes(outcomes)
    score = read_beside("scores", scores, right)
    if ((right != 0) & (right != 1) & ~np.isnan(right)).any():
        raise ValueError("a shortlist is judged by outcomes of 0, 1 or nan; grade with a threshold first")
    read_sizes([size], (~np.isnan(right)).sum(axis=1))
    value = np.full(len(right), math.nan)
    for row, (outcome, scored) in enumerate(zip(right, score, strict=True)):
        graded = ~np.isnan(outcome)
        if graded.any():
            unscored = np.isnan(scored[graded])
            filled = np.where(unscored, -np.inf, scored[graded])
            value[row] = _success(outcome[graded] == 1, filled, unscored, size)
    return value


def judge_shortlist(scores: ArrayLike, outcomes: ArrayLike, size: int = SIZE) -> Shortlist:
    """Return the shortlist of `size` beside its chance level and its ceiling. Arguments and errors as for
    `shortlist_at`.
    """
    success = shortlist_at(scores, outcomes, size)
    right = read_outcomes(outcomes)
    baseline = pass_at(right, [size])[0]
    coverage = np.where(np.isnan(right).all(axis=1), math.nan, (right == 1).any(axis=1).astype(np.float64))
    graded = ~np.isnan(success)
    above, room = float((success - baseline)[graded].sum()), float((coverage - baseline)[graded].sum())
    skill = above / room if room > 1e-12 else math.nan
    return Shortlist(size, mean_interval(success), mean_interval(baseline), mean_interval(coverage), skill)


def _success(right: np.ndarray, score: Floats, unscored: np.ndarray, size: int) -> float:
    """Return the probability for one problem: right (n,), scores (n,), which of them are nan (behind -inf itself),
    size.
    """
    order = np.lexsort((-score, unscored))
    last = order[size - 1]
    tied = (score == score[last]) & (unscored == unscored[last])
    certain = np.zeros(len(score), dtype=bool)
    certain[order[:size]] = True
    certain &= ~tied
    if (right & certain).any():
        return 1.0
    wrong = int((tied & ~right).sum())
    return 1.0 - float(failure_power(wrong, int(tied.sum()), size - int(certain.sum())))
