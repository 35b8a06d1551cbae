"""A mean over problems with its 95 % interval.

The problem is the unit: draws of one problem are never independent units, so whatever was estimated per problem
(pass@k, accuracy of a vote, a paired difference) enters as one number per problem, and the spread between problems,
draw noise included, makes the interval. It speaks of problems like these, not only of these problems.

For values with a known support, scaled to [0, 1], with P problems, mean m, variance s^2 (ddof 1; d^2 with ddof 0),
skewness g and t = Student's .975 quantile at P - 1 degrees of freedom:

- Wilson's interval at the effective sample size m (1 - m) P / s^2 (Korn and Graubard 1998), with t in place of 1.96;
- Hall's interval (1992), t corrected for skewness: m - d f(t / sqrt(P)) to m - d f(-t / sqrt(P)) with
  f(q) = (3/g) ((1 + g (q - g/(6P)))^(1/3) - 1), f(q) = q where g = 0;
- each end is the outer one of Wilson's and w Wilson + (1 - w) Hall, w = d^2 / (m (1 - m)) (ours): values of 0 and 1
  alone (w = 1) get Wilson's, which is right for them; graded values near an end of the support need Hall's, as
  Wilson's can cover as little as .76; sparse differences need Wilson's, as Hall's can cover as little as .78;
- one more problem at either end of the support does not move the mean out of the interval (ours): fifty problems with
  pass@16 = .9999 each would otherwise claim that no hard problem exists;
- P values all equal (P = 1 too) say only that others are rare: with u = 1 - .025^(1/P) the interval is
  m (1 - u) to m + (1 - m) u, which is Clopper and Pearson's for all 0 and all 1.

Coverage in simulation at P = 50, 100 and 200 (tests/measure/test_coverage_of_intervals.py): .950 to .967 for pass@k,
.933 to .959 for paired differences, .933 to .999 in saturated worlds (mean above .97). It is lower where the values
are 0 and 1 and about one problem in a thousand differs (.89). Values of unknown support get Hall's interval alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.measure._arrays import Floats

TAIL = 0.025  # the mass that a 95 % interval leaves on each side
ROUNDING = 1e-9  # how far past the support a value may lie and count as rounding


class Estimate(NamedTuple):
    """A mean over problems. `low` to `high` is its 95 % interval; all are nan where nothing is known."""

    value: float
    low: float
    high: float
    stderr: float  # of the mean over problems; nan below two problems
    num_problems: int  # those that have a value
    num_unscored: int  # those whose value is nan


def mean_interval(values: ArrayLike, *, support: tuple[float, float] | None = (0.0, 1.0)) -> Estimate:
    """Return the mean of `values` (P,), one per problem, nan = unscored.

    `support` is where a value can lie: (0, 1) for accuracies, (-1, 1) for their differences, None for real values of
    unknown range. Without a support, equal values say nothing of how far others lie: the ends are nan. Raise ValueError
    where a value lies outside the support.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values must have shape (P,), one per problem; got shape {array.shape}")
    return mean_intervals(array[None, :], support=support)[0]


def mean_intervals(values: ArrayLike, *, support: tuple[float, float] | None = (0.0, 1.0)) -> tuple[Estimate, ...]:
    """Return `mean_interval` of each row of `values` (K, P), computed together: one row per k of a curve."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"values must have shape (K, P), got shape {array.shape}")
    lowest, highest = support if support is not None else (0.0, 1.0)
    if not lowest < highest:
        raise ValueError(f"support must be (low, high) with low < high, got {support}")
    scored = ~np.isnan(array)  # (K, P)
    scaled = (array - lowest) / (highest - lowest)
    if support is not None:
        outside = scored & ((scaled < -ROUNDING) | (scaled > 1 + ROUNDING))
        if outside.any():
            raise ValueError(f"values must be in [{lowest}, {highest}] or nan, got {array[outside][0]!r}")
        scaled = np.clip(scaled, 0.0, 1.0)
    moments = _moments(scaled, scored)
    low, high = _hall(moments) if support is None else _bounded(moments)
    scale = highest - lowest
    return tuple(
        Estimate(
            value=float(lowest + scale * moments.mean[k]),
            low=float(lowest + scale * low[k]),
            high=float(lowest + scale * high[k]),
            stderr=float(scale * math.sqrt(moments.variance[k] / moments.num[k])) if moments.num[k] > 1 else math.nan,
            num_problems=int(moments.num[k]),
            num_unscored=int(array.shape[1] - moments.num[k]),
        )
        for k in range(len(array))
    )


class _Moments(NamedTuple):
    num: Floats  # (K,) scored problems
    mean: Floats  # (K,) nan where there is none
    variance: Floats  # (K,) ddof 1; nan below two
    skewness: Floats  # (K,) m3 / m2^1.5; 0 where all are equal
    equal: NDArray[np.bool_]  # (K,) all scored values are the same
    student: Floats  # (K,) t quantile


class _Ends(NamedTuple):
    low: Floats
    high: Floats


def _moments(values: Floats, scored: NDArray[np.bool_]) -> _Moments:
    from scipy.special import stdtrit

    num = scored.sum(axis=1).astype(np.float64)
    filled = np.where(scored, values, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = filled.sum(axis=1) / num
        deviation = np.where(scored, values - mean[:, None], 0.0)
        square = (deviation**2).sum(axis=1)
        equal = square <= num * (1e-12 * np.maximum(1.0, np.abs(mean))) ** 2  # rounding of the mean is no spread
        variance = np.where(num > 1, np.where(equal, 0.0, square) / (num - 1), np.nan)
        skewness = (deviation**3).sum(axis=1) / num / (square / num) ** 1.5
        student = stdtrit(num - 1, 1 - TAIL)
    return _Moments(num, mean, variance, np.where(equal, 0.0, skewness), equal, student)


def _bounded(moments: _Moments) -> _Ends:
    """Return the ends (K,) for values in [0, 1]."""
    num, mean, equal = moments.num, moments.mean, moments.equal
    wilson, hall = _wilson(moments), _hall(moments)
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = np.clip(moments.variance * (num - 1) / num / (mean * (1 - mean)), 0.0, 1.0)
        low = np.minimum(wilson.low, weight * wilson.low + (1 - weight) * hall.low)
        high = np.maximum(wilson.high, weight * wilson.high + (1 - weight) * hall.high)
        low = np.maximum(0.0, np.minimum(low, mean * num / (num + 1)))  # one more problem, at an end
        high = np.minimum(1.0, np.maximum(high, (mean * num + 1) / (num + 1)))
        unseen = 1 - TAIL ** (1 / num)
    return _Ends(np.where(equal, mean * (1 - unseen), low), np.where(equal, mean + (1 - mean) * unseen, high))


def _wilson(moments: _Moments) -> _Ends:
    mean, t = moments.mean, moments.student
    with np.errstate(divide="ignore", invalid="ignore"):
        size = mean * (1 - mean) * moments.num / moments.variance  # the effective sample size
        centre = (mean + t**2 / (2 * size)) / (1 + t**2 / size)
        half = t * np.sqrt(mean * (1 - mean) / size + t**2 / (4 * size**2)) / (1 + t**2 / size)
    return _Ends(centre - half, centre + half)


def _hall(moments: _Moments) -> _Ends:
    num, skewness = moments.num, moments.skewness
    straight = np.abs(skewness) < 1e-6
    slope = np.where(straight, 1.0, skewness)
    with np.errstate(divide="ignore", invalid="ignore"):
        quantile = moments.student / np.sqrt(num)

        def corrected(q: Floats) -> Floats:
            bent = 3 / slope * (np.cbrt(1 + slope * (q - slope / (6 * num))) - 1)
            return np.where(straight, q, bent)

        # the population's deviation, ddof 0, is the one Hall's expansion is in
        spread = np.sqrt(moments.variance * (num - 1) / num)
        low, high = moments.mean - spread * corrected(quantile), moments.mean - spread * corrected(-quantile)
    unknown = moments.equal
    return _Ends(np.where(unknown, np.nan, low), np.where(unknown, np.nan, high))
