"""The draw counts of OptScale's released code, reproduced for comparison: its grid and its fit, faults included.

arXiv 2506.22376, code at github.com/Albertwyk/OptScale. For N = 1..cap the density N f F^(N-1) of the best of N scores
is summed over 1,000 equispaced points of [0, 1]. Its quantile at 1 - confidence is the first point where the running
sum reaches that share. N is the first whose quantile reaches the target, and max(peek, N) are drawn. Against the exact
count `samplewise.stop.truncated.draws_needed` the grid costs one draw more for narrow distributions. Here all targets
and confidences of a distribution are read off one running sum: the quantile reaches the target where the sum just below
it has not reached the share.

The fit is L-BFGS-B over (mu, sg), sg >= 1e-6, from the mean and standard deviation of the peeked scores, or from the
prior's. Scores piled up at 1 have no best normal: the search walks outwards until the mass underflows, which is why
released fits end at mu = 38 sg.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.core.numerics import Floats, Ints
from samplewise.stop.truncated import ScoreTally

NUM_POINTS = 1000
LEAST_SG = 1e-6
UNDERFLOW = 1e10  # the cost of a distribution whose mass in [0, 1] is below the smallest double
PRIOR_SD = 0.1  # of both parameters
CHUNK = 64  # laws at once: 64 x cap x 1,000 numbers


class Normal(NamedTuple):
    """A normal's mean and standard deviation, before it is truncated to [0, 1]."""

    mu: float
    sg: float


def grid_count(mu: ArrayLike, sigma: ArrayLike, target: ArrayLike, confidence: ArrayLike, peek: int, cap: int) -> Ints:
    """Return the draws (P, T, A) that the released rule takes for P distributions, T targets and A confidences, peek
    included.

    About 1 ms a distribution at a cap of 64, whatever T and A are.
    """
    mus, sgs = np.broadcast_arrays(np.atleast_1d(mu).astype(float), np.atleast_1d(sigma).astype(float))
    targets, shares = np.atleast_1d(target).astype(float), 1.0 - np.atleast_1d(confidence).astype(float)
    if not 1 <= peek <= cap:
        raise ValueError(f"peek must be in 1..cap, got {peek} and {cap}")
    points = np.linspace(0.0, 1.0, NUM_POINTS)
    first = np.searchsorted(points, targets)  # the first point at or above each target; 1,000: none
    counts = np.arange(1, cap + 1)
    needed = np.empty((len(mus), len(targets), len(shares)), dtype=np.int64)
    for start in range(0, len(mus), CHUNK):
        batch = slice(start, start + CHUNK)
        log_f, log_density = _log_distributions(points, mus[batch, None], sgs[batch, None])  # (C, 1000)
        with np.errstate(invalid="ignore"):
            powers = np.where(counts[:, None] > 1, (counts[:, None] - 1) * log_f[:, None, :], 0.0)
        sums = np.cumsum(np.exp(log_density[:, None, :] + powers), axis=2)  # (C, cap, 1000)
        below = np.where(first > 0, sums[:, :, np.maximum(first, 1) - 1], 0.0)  # (C, cap, T)
        with np.errstate(invalid="ignore", divide="ignore"):
            below = below / sums[:, :, -1:]
        reached = (below[..., None] < shares) & (first < NUM_POINTS)[:, None]  # (C, cap, T, A)
        needed[batch] = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, cap)
    return np.clip(needed, peek, cap)


def _log_distributions(points: Floats, mu: Floats, sg: Floats) -> tuple[Floats, Floats]:
    """Return ln F and ln f at the points, (C, 1000) each, nan where no mass is left.

    Plain differences of normal tails, as released: they underflow where mu lies 38 sg outside of [0, 1], and then too
    few draws are bought.
    """
    from scipy.special import ndtr

    low, high, z = -mu / sg, (1 - mu) / sg, (points - mu) / sg
    whole = ndtr(high) - ndtr(low)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_f = np.log((ndtr(z) - ndtr(low)) / whole)
        return log_f, -0.5 * z**2 - 0.5 * math.log(2 * math.pi) - np.log(sg) - np.log(whole)


def fit_released(tally: ScoreTally, prior: Normal | None = None, starts: Sequence[Normal] = ()) -> Normal:
    """Return the released fit to the peeked scores: maximum likelihood, or maximum posterior with a prior (mu, sg).

    As released, by L-BFGS-B from one start: the scores' mean and standard deviation, or the prior. With `starts`, the
    best from all of them by a simplex search.
    """
    from scipy.optimize import minimize
    from scipy.special import ndtr

    if not tally.num:
        raise ValueError("a fit needs at least one score")
    num, variance = tally.num, tally.variance

    def cost(parameters: Floats) -> float:
        mu, sg = map(float, parameters)
        whole = float(ndtr((1 - mu) / sg) - ndtr(-mu / sg))
        if whole <= 0:
            return UNDERFLOW
        off = (variance + (tally.mean - mu) ** 2) / (2 * sg * sg)
        value = num * (off + math.log(sg) + math.log(whole))
        if prior is not None:
            value += ((mu - prior.mu) ** 2 + (sg - prior.sg) ** 2) / (2 * PRIOR_SD**2)
        return value

    best = None
    method = "Nelder-Mead" if starts else "L-BFGS-B"  # the latter calls threaded BLAS on its two numbers
    for mu, sg in starts or (prior or Normal(tally.mean, math.sqrt(variance)),):
        result = minimize(cost, [mu, max(sg, LEAST_SG)], method=method, bounds=[(None, None), (LEAST_SG, None)])
        if best is None or result.fun < best.fun:
            best = result
    assert best is not None
    return Normal(*map(float, best.x))
