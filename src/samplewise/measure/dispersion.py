"""How far arms differ in what they fail on, corrected for the noise of the draws.

M1 of a problem is the mean over arms of |q_j - mean q|, q_j = log f_j (nats). From F failures of n draws q is
estimated by digamma(F + 1/2) - digamma(n + 1) with variance trigamma(F + 1/2) - trigamma(n + 1): finite at F = 0.
M1 of such estimates is too high, since noise spreads them even where all arms are alike. Two corrections:

- variance: s2 = var_j(q; ddof 1) - mean variance, M1 = sqrt(2/pi) sqrt(max(0, s2)) sqrt((M-1)/M), exact where the
  true q_j are normal;
- permutation: outcomes are shuffled over the arms of a problem, and M1 = sqrt(max(0, raw^2 - null^2)).

Clipping at 0 problem by problem leaves an upward bias that averaging keeps. Over many problems both are therefore
pooled *before* the root: s2, and raw^2 minus the mean square of the shuffled, are averaged with the problems' weights.
Where problems differ, that is the root of the mean square, at least the mean. The p-value counts shuffles at least as
spread as the data.

Costs nothing: stored outcomes are read. Seconds: P x M x shuffles / 1e7.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.core.keys import Key
from samplewise.measure._arrays import Floats, Integers
from samplewise.measure.estimate import mean_interval
from samplewise.measure.powers import ArmCounts, read_counts

NUM_SHUFFLES = 200


class LogRate(NamedTuple):
    """log f of each problem and arm, (P, M) nats; nan where nothing was drawn."""

    value: Floats
    variance: Floats


class Dispersion(NamedTuple):
    """M1 in nats: over all problems, and problem by problem. nan below two arms."""

    raw: float  # biased upwards
    by_variance: float
    by_permutation: float
    p_value: float  # of raw against shuffled arms, one-sided
    low: float  # 95 % limits of by_variance; the lower one is 0 where the data cannot exclude 0
    high: float
    per_problem: PerProblem
    num_problems: int


class PerProblem(NamedTuple):
    raw: Floats  # (P,)
    by_variance: Floats
    by_permutation: Floats
    p_value: Floats


def log_rate(counts: ArmCounts) -> LogRate:
    """Return the estimate of log f and its variance, posterior moments under Beta(1/2, 1/2)."""
    from scipy.special import polygamma, psi

    failures, draws = read_counts(counts)
    largest = np.arange(int(draws.max(initial=0)) + 1)
    half = psi(largest + 0.5), polygamma(1, largest + 0.5)
    whole = psi(largest + 1.0), polygamma(1, largest + 1.0)
    drawn = draws > 0
    return LogRate(
        np.where(drawn, half[0][failures] - whole[0][draws], np.nan),
        np.where(drawn, half[1][failures] - whole[1][draws], np.nan),
    )


def mean_deviation(q: ArrayLike) -> Floats:
    """Return M1: the mean over the last axis of |q - mean q|."""
    values = np.asarray(q, dtype=np.float64)
    return np.asarray(np.abs(values - values.mean(axis=-1, keepdims=True)).mean(axis=-1), dtype=np.float64)


def log_dispersion(
    counts: ArmCounts,
    key: Key,
    *,
    weights: ArrayLike | None = None,
    num_shuffles: int = NUM_SHUFFLES,
) -> Dispersion:
    """Return M1 of the arms' `counts` (P, M), corrected in both ways, over problems with draws on every arm.

    `weights` (P,) >= 0 of the problems, default equal. The limits are those of the mean of s2 over problems (Hall's, as
    it is skewed), on the scale of M1; below two problems they are nan. Raise ValueError for weights of another shape,
    or below 1 shuffle.
    """
    failures, draws = read_counts(counts)
    num_problems, num_arms = failures.shape
    if num_shuffles < 1:
        raise ValueError(f"num_shuffles must be at least 1, got {num_shuffles}")
    weight = np.ones(num_problems) if weights is None else np.asarray(weights, dtype=np.float64)
    if weight.shape != (num_problems,):
        raise ValueError(f"weights must have shape ({num_problems},), one per problem; got {weight.shape}")
    rows = np.flatnonzero((draws > 0).all(axis=1) & (weight > 0))
    unknown = np.full(num_problems, np.nan)
    per_problem = PerProblem(unknown, unknown.copy(), unknown.copy(), unknown.copy())
    if num_arms < 2 or not len(rows):
        return Dispersion(*(math.nan,) * 6, per_problem, 0)
    drawn_counts = ArmCounts(failures[rows], draws[rows])
    weight = weight[rows] / weight[rows].sum()
    q = log_rate(drawn_counts)
    raw = mean_deviation(q.value)  # (R,)
    excess = q.value.var(axis=1, ddof=1) - q.variance.mean(axis=1)
    shuffled = mean_deviation(log_rate_of_shuffles(drawn_counts, key.fold("shuffle"), num_shuffles))  # (S, R)
    null, null_square = shuffled.mean(axis=0), (shuffled**2).mean(axis=0)  # (R,)
    per_problem.raw[rows] = raw
    per_problem.by_variance[rows] = _to_m1(excess, num_arms)
    per_problem.by_permutation[rows] = np.sqrt(np.maximum(0.0, raw**2 - null**2))
    per_problem.p_value[rows] = (1 + (shuffled >= raw - 1e-12).sum(axis=0)) / (1 + num_shuffles)
    total = shuffled @ weight  # (S,)
    pooled = mean_interval(excess * weight * len(rows), support=None)
    low, high = (float(end) for end in _to_m1(np.array([pooled.low, pooled.high]), num_arms))
    return Dispersion(
        raw=float(raw @ weight),
        by_variance=float(_to_m1(np.array(excess @ weight), num_arms)),
        by_permutation=math.sqrt(max(0.0, float((raw**2 - null_square) @ weight))),
        p_value=float((1 + (total >= raw @ weight - 1e-12).sum()) / (1 + num_shuffles)),
        low=low,
        high=high,
        per_problem=per_problem,
        num_problems=len(rows),
    )


def least_dispersion(counts: ArmCounts, key: Key, *, num_splits: int = 10) -> Floats:
    """Return values (P,) whose mean is at most the mean of M1, for a certified gain: noise can only lower them.

    A problem's draws are split in two. One half says which arms are above the mean and the other how far, so noise has
    mean 0, and a wrong sign makes the sum smaller. Mean over `num_splits` splits, both ways round. A value may be
    negative; nan where an arm has fewer than two draws.

    log f is estimated by digamma(F + 1) - digamma(n + 1) here, whose bias vanishes to first order; that of `log_rate`
    is 1 / (2 n f) too low, which spreads arms apart.
    """
    from scipy.special import psi

    failures, draws = read_counts(counts)
    usable = (draws > 1).all(axis=1)
    drawn_counts = ArmCounts(failures[usable], draws[usable])
    half = drawn_counts.draws // 2
    generator = key.generator()
    total = np.zeros(len(drawn_counts.draws))
    for _ in range(num_splits):
        part = generator.hypergeometric(drawn_counts.failures, drawn_counts.draws - drawn_counts.failures, half)
        one = psi(part + 1) - psi(half + 1)
        other = psi(drawn_counts.failures - part + 1) - psi(drawn_counts.draws - half + 1)
        one, other = (q - q.mean(axis=1, keepdims=True) for q in (one, other))
        total += (np.sign(one) * other + np.sign(other) * one).mean(axis=1) / 2
    value = np.full(len(failures), np.nan)
    value[usable] = total / num_splits
    return value


def log_rate_of_shuffles(counts: ArmCounts, key: Key, num_shuffles: int) -> Floats:
    """Return log f (S, P, M) of outcomes shuffled over the arms of each problem, draws per arm kept."""
    shuffled = shuffled_failures(counts, key, num_shuffles)
    flat = shuffled.reshape(-1, shuffled.shape[2])
    return log_rate(ArmCounts(flat, np.tile(counts.draws, (num_shuffles, 1)))).value.reshape(shuffled.shape)


def shuffled_failures(counts: ArmCounts, key: Key, num_shuffles: int) -> Integers:
    """Return failures (S, P, M) after shuffling: arm by arm, hypergeometric among what is left."""
    failures, draws = read_counts(counts)
    generator = key.generator()
    failures_left = np.broadcast_to(failures.sum(axis=1), (num_shuffles, len(failures))).copy()  # not dealt yet
    draws_left = draws.sum(axis=1)  # (P,)
    dealt = np.empty((num_shuffles, *failures.shape), dtype=np.int64)
    for arm in range(failures.shape[1]):
        dealt[:, :, arm] = generator.hypergeometric(failures_left, draws_left - failures_left, draws[:, arm])
        failures_left -= dealt[:, :, arm]
        draws_left = draws_left - draws[:, arm]
    return dealt


def _to_m1(excess: Floats, num_arms: int) -> Floats:
    return np.asarray(np.sqrt(np.maximum(excess, 0.0) * (2 / math.pi) * (num_arms - 1) / num_arms), dtype=np.float64)
