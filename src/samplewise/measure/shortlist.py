"""A judge as a sieve: is there a right draw among the k that it scores highest? Top 10 of 100 in arXiv 2502.11027.

It is no accuracy, as somebody still has to choose among the k; and k draws at random succeed already with pass@k of the
same pool, the chance level. So the judge's own part is the skill

    (S - pass@k) / (pass@N - pass@k),    S the share of problems whose k best hold a right one:

0 for scores that are noise, 1 where no problem is lost; a gain in S alone may be a gain in pass@k. Draws are counted,
not answers: ten different answers would cover every option of a multiple choice. Draws that tie for the last places
share them as a draw by lot would: exact, no resampling.
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
    """Means over problems. `skill` is nan where chance leaves nothing to be gained."""

    size: int
    success: Estimate
    chance: Estimate  # of as many draws at random
    coverage: Estimate  # of all draws
    skill: float


def shortlist_at(scores: ArrayLike, outcomes: ArrayLike, size: int = SIZE) -> Floats:
    """The chance (P,) that the `size` highest-scored draws of each problem hold a right one.

    `scores` (P, N) are any reals; a nan score could not be judged and comes behind all others. `outcomes` (P, N) are 0
    or 1; a draw whose outcome is nan is left out. A problem without any is nan. ValueError for other outcomes, other
    shapes, or a size above the smallest number of outcomes.
    """
    right = read_outcomes(outcomes)
    score = read_beside("scores", scores, right)
    if ((right != 0) & (right != 1) & ~np.isnan(right)).any():
        raise ValueError("a shortlist is judged by outcomes of 0, 1 or nan; grade with a threshold first")
    read_sizes([size], (~np.isnan(right)).sum(axis=1))
    value = np.full(len(right), math.nan)
    for row, (outcome, judged) in enumerate(zip(right, score, strict=True)):
        known = ~np.isnan(outcome)
        if known.any():
            place = np.where(np.isnan(judged[known]), -np.inf, judged[known])
            unjudged = np.isnan(judged[known])
            value[row] = _success(outcome[known] == 1, place, unjudged, size)
    return value


def judge_shortlist(scores: ArrayLike, outcomes: ArrayLike, size: int = SIZE) -> Shortlist:
    """The shortlist of `size` beside its chance level and its ceiling. Arguments and errors as for `shortlist_at`."""
    success = shortlist_at(scores, outcomes, size)
    right = read_outcomes(outcomes)
    chance = pass_at(right, [size])[0]
    coverage = np.where(np.isnan(right).all(axis=1), math.nan, (right == 1).any(axis=1).astype(np.float64))
    known = ~np.isnan(success)
    above, room = float((success - chance)[known].sum()), float((coverage - chance)[known].sum())
    skill = above / room if room > 1e-12 else math.nan
    return Shortlist(size, mean_interval(success), mean_interval(chance), mean_interval(coverage), skill)


def _success(right: np.ndarray, score: Floats, unjudged: np.ndarray, size: int) -> float:
    """One problem: right (n,), scores (n,), which of them are none (behind -inf itself), places."""
    order = np.lexsort((-score, unjudged))
    last = order[size - 1]
    tied = (score == score[last]) & (unjudged == unjudged[last])
    surely = np.zeros(len(score), dtype=bool)
    surely[order[:size]] = True
    surely &= ~tied
    if (right & surely).any():
        return 1.0
    wrong = int((tied & ~right).sum())
    return 1.0 - float(failure_power(wrong, int(tied.sum()), size - int(surely.sum())))
