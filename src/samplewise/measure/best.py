"""best-of-k: the outcome of the draw with the highest score among k, from n >= k scored draws.

Per problem, with the draws in ascending order of score, the i-th of n is the best of C(i-1, k-1) of the C(n, k)
subsets, so the value is sum_i C(i-1, k-1) / C(n, k) x outcome_i: exact, no resampling. Draws of equal score share
their outcome (a random order among them). k = n is best-of-N itself.

With scores = outcomes it is the expected maximum of k graded outcomes; for outcomes of 0 and 1 that is pass@k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.core.numerics import Ints
from samplewise.measure._arrays import Floats, read_beside, read_outcomes, read_sizes


def best_at(scores: ArrayLike, outcomes: ArrayLike, ks: Sequence[int] | NDArray[np.integer]) -> Floats:
    """Return the expected outcome of the highest-scored of k draws, for each problem and each k of `ks`: (K, P).

    `scores` (P, N) are any reals, infinities too; a draw with a nan score never wins over another, -inf included (among
    nan scores alone one is picked at random). `outcomes` (P, N) in [0, 1]; a draw whose outcome is nan is left out,
    whatever its score. A problem without any outcome is nan. Raise ValueError where shapes differ or a k is above the
    smallest number of outcomes.
    """
    outcome = read_outcomes(outcomes)
    score = read_beside("scores", scores, outcome)
    present = ~np.isnan(outcome)
    num_draws = present.sum(axis=1)  # (P,)
    sizes = read_sizes(ks, num_draws)

    judged = present & ~np.isnan(score)
    rank = np.where(judged, 0, np.where(present, 1, 2))  # best first: judged, not judged, left out
    score = np.where(judged, score, 0.0)
    order = np.lexsort((-score, rank), axis=1)  # (P, N)
    outcome = np.take_along_axis(np.where(present, outcome, 0.0), order, axis=1)
    shared = _share_ties(outcome, np.take_along_axis(score, order, axis=1), np.take_along_axis(rank, order, axis=1))
    value = np.full((len(sizes), len(outcome)), np.nan)
    for n in np.unique(num_draws[num_draws > 0]):
        rows = num_draws == n
        value[:, rows] = _weights(int(n), sizes) @ shared[rows, :n].T
    return value


def _share_ties(outcome: Floats, score: Floats, rank: Ints) -> Floats:
    """Return each outcome replaced by the mean of its tie: (P, N), rows sorted by (rank, score)."""
    if outcome.size == 0:
        return outcome
    first = np.ones(outcome.shape, dtype=bool)  # where a tie begins
    first[:, 1:] = (score[:, 1:] != score[:, :-1]) | (rank[:, 1:] != rank[:, :-1])
    tie = np.cumsum(first.ravel()) - 1
    mean = np.bincount(tie, weights=outcome.ravel()) / np.bincount(tie)
    shared: Floats = mean[tie].reshape(outcome.shape)
    return shared


def _weights(num_draws: int, ks: Ints) -> Floats:
    """Return P(the d-th best of n draws is the best of k): (K, n) with d = 0.., each row sums to 1."""
    rank = np.arange(num_draws - 1)
    n, k = num_draws, ks[:, None]
    ratio = np.maximum(n - k - rank, 0) / (n - 1 - rank)  # from one rank to the next
    weights: Floats = np.cumprod(np.concatenate([k / n, ratio], axis=1), axis=1)
    return weights
