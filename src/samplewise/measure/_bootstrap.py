"""Ratios of means over problems, with bootstrap intervals. Problems are resampled whole, so pairs stay pairs.

The interval is the studentised bootstrap of the log ratio (Efron and Tibshirani 1993, chapter 12): every resample is
divided by its own delta-method standard error, which corrects for skewness where the plain percentile interval does
not. Coverage in simulation: bench/effect.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from samplewise.core.keys import Key
from samplewise.measure._arrays import Floats

TAIL = 0.025
CHUNK = 1 << 21  # numbers of one block of weights: a few MB


class RatioEstimate(NamedTuple):
    """A ratio of two means over problems with its 95 % interval; nan if unknown."""

    value: float
    low: float
    high: float
    stderr_log: float  # delta method, of the log of the ratio


NO_RATIO = RatioEstimate(math.nan, math.nan, math.nan, math.nan)


def resampled(columns: Floats, key: Key, num_resamples: int) -> Floats:
    """Return means (R, C) of `columns` (P, C) over problems, resampled with replacement."""
    num = len(columns)
    generator = key.generator()
    means = np.empty((num_resamples, columns.shape[1]))
    rows = max(1, CHUNK // max(1, num))
    for start in range(0, num_resamples, rows):
        size = min(rows, num_resamples - start)
        picks = generator.integers(num, size=(size, num)) + np.arange(size)[:, None] * num
        weights = np.bincount(picks.ravel(), minlength=size * num).reshape(size, num)
        means[start : start + size] = weights @ columns / num
    return means


def ratios(tops: Floats, bottoms: Floats, key: Key, num_resamples: int) -> tuple[RatioEstimate, ...]:
    """Return mean(tops) / mean(bottoms) for each column of `tops` and `bottoms` (P, C), all with the same resamples.

    A problem that is nan in either is left out of that column. nan where the bottom's mean is 0; a top's mean of 0 is
    the ratio 0 with unknown ends. Raise ValueError below 200 resamples: the ends would be noise.
    """
    if num_resamples < 200:
        raise ValueError(f"num_resamples must be at least 200, got {num_resamples}")
    scored = ~(np.isnan(tops) | np.isnan(bottoms))
    x, y = np.where(scored, tops, 0.0), np.where(scored, bottoms, 0.0)
    num = tops.shape[1]
    table = np.concatenate([x, y, x * x, y * y, x * y, scored.astype(np.float64)], axis=1)
    drawn = resampled(table, key, num_resamples) if len(table) else np.zeros((num_resamples, table.shape[1]))
    mean = table.mean(axis=0)[None] if len(table) else np.zeros((1, table.shape[1]))
    log_value, log_stderr = _log_ratio(mean, num, len(table))
    resampled_log, resampled_stderr = _log_ratio(drawn, num, len(table))
    estimates: list[RatioEstimate] = []
    for c in range(num):
        if not scored[:, c].any() or mean[0, num + c] <= 0:
            estimates.append(NO_RATIO)
            continue
        if not mean[0, c] > 0 or not log_stderr[0, c] > 0:  # nothing to resample: all 0, or both sides equal everywhere
            value = float(mean[0, c] / mean[0, num + c])
            same = bool(mean[0, c] > 0 and scored[:, c].sum() > 1)
            estimates.append(
                RatioEstimate(
                    value, value if same else math.nan, value if same else math.nan, 0.0 if same else math.nan
                )
            )
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            student = (resampled_log[:, c] - log_value[0, c]) / resampled_stderr[:, c]
        student = student[np.isfinite(student)]
        if len(student) < num_resamples // 2:
            estimates.append(NO_RATIO._replace(value=float(np.exp(log_value[0, c]))))
            continue
        upper, lower = np.quantile(student, [1 - TAIL, TAIL])
        with np.errstate(over="ignore"):  # with few problems the upper end may be infinite
            ends = np.exp(log_value[0, c] - log_stderr[0, c] * np.array([upper, lower]))
        value, stderr = float(np.exp(log_value[0, c])), float(log_stderr[0, c])
        estimates.append(RatioEstimate(value, float(ends[0]), float(ends[1]), stderr))
    return tuple(estimates)


class _Logs(NamedTuple):
    value: Floats  # (R, C) log of the ratio of means
    stderr: Floats  # (R, C) delta method


def _log_ratio(means: Floats, num: int, num_problems: int) -> _Logs:
    x, y, xx, yy, xy, share = (means[:, i * num : (i + 1) * num] for i in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        # the variance of x / mean(x) - y / mean(y) over problems, whose mean is 0
        square = xx / x**2 - 2 * xy / (x * y) + yy / y**2
        return _Logs(np.log(x / y), np.sqrt(np.maximum(square, 0.0) * share / np.maximum(num_problems * share - 1, 1)))
