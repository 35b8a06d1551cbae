"""The gain of a mix of arms over direct sampling, split into diversity and fidelity, and what can be certified.

With f_rj the failure probability of arm j on problem r, n_j its share of N draws, and arm 0 direct:

    a = E_r prod_j f_rj^n_j     b = E_r mean_j f_rj^N     p = E_r f_r0^N
    a / p = (a / b) (b / p): diversity, at most 1 at equal shares, times fidelity, 1 + eps

exactly, for estimates as for truths. Below 1 is a gain: these are ratios of failures. Diversity below 1 alone is not
better than direct. b needs N draws of every arm. The baseline p is a direct run of its own, never the mix's identity
draws: those are in a as well, and sharing their noise would narrow the interval.

Certified: per problem mean_j f_j^N >= (1 + h(N M1)) prod_j f_j^(N/M), with M1 the mean over arms of |log f_j - mean
log f| and h(x) = x^2 / 4 up to |x| = 1, |x| / 2 - 1/4 beyond. h is convex, so the bound holds for a mean over problems
with M1 averaged with weights prod_j f_j^(N/M) (Jensen). Method (ours), for the effect claimed in arXiv 2502.11027.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.core.keys import Key
from samplewise.measure._arrays import Floats, Integers
from samplewise.measure._bootstrap import NO_RATIO, RatioEstimate, ratios
from samplewise.measure.dispersion import least_dispersion
from samplewise.measure.estimate import mean_interval
from samplewise.measure.powers import ArmCounts, failure_power, read_counts, reused_failure, stratified_failure

NUM_RESAMPLES = 2_000


class Gain(NamedTuple):
    """Ratios of failures over the problems that have all three; below 1 beats direct. `total` is the product."""

    mix: float  # a, failure of the mix
    reused: float  # b, failure of one arm chosen at random and kept; nan without N draws of every arm
    direct: float  # p, failure of direct
    diversity: RatioEstimate
    fidelity: RatioEstimate  # 1 + eps
    total: RatioEstimate
    num_problems: int


class Fidelity(NamedTuple):
    """How much worse than direct the arms are, each alone at N draws: eps = failure / failure of direct - 1."""

    eps: RatioEstimate  # of the mean over arms; `value`, `low` and `high` are of eps, not of the ratio
    by_arm: tuple[RatioEstimate, ...]  # (M,)
    worst: int  # the arm with the largest eps; -1 where all are nan


def two_factor_gain(
    counts: ArmCounts, direct: ArmCounts, allocation: ArrayLike, key: Key, *, num_resamples: int = NUM_RESAMPLES
) -> Gain:
    """Return the gain at N = sum of `allocation` (M,) draws, from the arms' `counts` (P, M) and a separate direct run
    (P, 1).

    Where an arm has fewer than N draws on a problem, the split and b are nan and `total` still stands; call it again at
    a smaller N for the split. Raise ValueError where an arm has fewer than its n_j draws, direct fewer than N, or fewer
    than two draws are shared.
    """
    arms, base = read_counts(counts), _read_direct(direct, counts)
    shares = np.asarray(allocation)
    num_draws = int(shares.sum())
    if shares.ndim != 1 or num_draws < 1:
        raise ValueError(f"allocation must hold the draws of each arm, (M,), at least one in all; got {allocation!r}")
    mix = stratified_failure(arms, shares)
    plain = failure_power(base.failures, base.draws, num_draws)[:, 0]
    scored = ~(np.isnan(mix) | np.isnan(plain))
    drawn_cells = arms.draws[scored] > 0
    enough = bool((arms.draws[scored][drawn_cells] >= num_draws).all())
    reused = reused_failure(arms, num_draws) if enough and scored.any() else np.full(len(mix), np.nan)
    split_scored = scored & ~np.isnan(reused)
    split = bool(split_scored.any()) and split_scored.sum() == scored.sum()
    mix, reused, plain = mix[scored], reused[scored], plain[scored]
    if not len(mix):
        return Gain(math.nan, math.nan, math.nan, NO_RATIO, NO_RATIO, NO_RATIO, 0)
    if not split:
        (total,) = ratios(mix[:, None], plain[:, None], key, num_resamples)
        return Gain(mix.mean(), math.nan, plain.mean(), NO_RATIO, NO_RATIO, total, len(mix))
    tops, bottoms = np.stack([mix, reused, mix], axis=1), np.stack([reused, plain, plain], axis=1)
    diversity, fidelity, total = ratios(tops, bottoms, key, num_resamples)
    return Gain(mix.mean(), reused.mean(), plain.mean(), diversity, fidelity, total, len(mix))


def fidelity(
    counts: ArmCounts, direct: ArmCounts, num_draws: int, key: Key, *, num_resamples: int = NUM_RESAMPLES
) -> Fidelity:
    """Return eps at N = `num_draws`, of the mean over arms and of each arm, against a separate direct run (P, 1).

    Raise ValueError where an arm or direct has fewer than N draws.
    """
    arms, base = read_counts(counts), _read_direct(direct, counts)
    failed = failure_power(arms.failures, arms.draws, num_draws)
    plain = failure_power(base.failures, base.draws, num_draws)
    tops = np.concatenate([failed.mean(axis=1, keepdims=True), failed], axis=1)  # (P, 1 + M)
    estimates = ratios(tops, np.broadcast_to(plain, tops.shape), key, num_resamples)
    eps = [r._replace(value=r.value - 1, low=r.low - 1, high=r.high - 1) for r in estimates]
    values = np.array([estimate.value for estimate in eps[1:]])
    worst = int(np.nanargmax(values)) if not np.isnan(values).all() else -1
    return Fidelity(eps[0], tuple(eps[1:]), worst)


def bound_growth(x: ArrayLike) -> Floats:
    """Return h(x) = x^2 / 4 for |x| <= 1, |x| / 2 - 1/4 beyond: convex, and below e^x - x - 1."""
    size = np.abs(np.asarray(x, dtype=np.float64))
    return np.asarray(np.where(size <= 1, size**2 / 4, size / 2 - 0.25), dtype=np.float64)


def certified_reused(stratified: ArrayLike, dispersion: ArrayLike, num_draws: int) -> float:
    """Return a lower bound on b, E_r mean_j f_rj^N, from E_r prod_j f_rj^(N/M) and how far the arms differ.

    `stratified` (P,), and either M1 (P,) problem by problem, where it is known, or one number for all:
    `certain_dispersion`, from data. nan problems are left out; nan without any.
    """
    failed, spread = np.broadcast_arrays(
        np.asarray(stratified, dtype=np.float64), np.asarray(dispersion, dtype=np.float64)
    )
    bound = (1 + bound_growth(num_draws * np.maximum(spread, 0.0))) * failed
    bound = bound[~np.isnan(bound)]
    return float(bound.mean()) if bound.size else math.nan


def certain_dispersion(counts: ArmCounts, stratified: ArrayLike, key: Key) -> float:
    """Return a lower 97.5 % limit of the mean of M1 with weights `stratified` (P,).

    0 where the arms may be alike, nan where nothing is known. It is below the truth even without noise, see
    `least_dispersion`.
    """
    weight = np.asarray(stratified, dtype=np.float64)
    values = least_dispersion(counts, key)
    scored = ~(np.isnan(values) | np.isnan(weight))
    if not scored.any() or weight[scored].mean() <= 0:
        return math.nan
    interval = mean_interval(values[scored] * weight[scored] / weight[scored].mean(), support=None)
    return math.nan if math.isnan(interval.low) else max(0.0, interval.low)


def effective_gain(dispersion: float, eps: float) -> float:
    """Return M1^2 / (1 + eps), the published figure of merit: to be printed, not optimized, as it ignores costs.

    nan at eps <= -1.
    """
    return dispersion**2 / (1 + eps) if eps > -1 else math.nan


def even_allocation(num_draws: int, num_arms: int) -> Integers:
    """Return (M,) N // M each, one more for the first N % M: the bound and the orderings are stated for N % M = 0."""
    return np.asarray(num_draws // num_arms + (np.arange(num_arms) < num_draws % num_arms), dtype=np.int64)


def _read_direct(direct: ArmCounts, counts: ArmCounts) -> ArmCounts:
    base = read_counts(direct)
    if base.failures.shape != (len(np.asarray(counts.failures)), 1):
        raise ValueError(
            f"direct must be a run of its own over the same problems, counts of shape "
            f"({len(np.asarray(counts.failures))}, 1); got {base.failures.shape}"
        )
    return base
