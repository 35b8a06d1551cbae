"""Ratios of means over problems, with bootstrap intervals. Problems are resampled whole, so pairs stay pairs.

The interval is the studentised bootstrap of the log ratio (Efron and Tibshirani 1993, chapter 12): every resample is
divided by its own delta-method standard error, which corrects for skewness where the plain percentile interval does
not. Coverage in simulation: bench/effect.py.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from samplewise.keys import Key
from samplewise.measure._arrays import Floats

TAIL = 0.025
CHUNK = 1 << 21  # numbers of one block of weights: a few MB


class Ratio(NamedTuple):
    """A ratio of two means over problems with its 95 % interval. nan where it cannot be told."""

    value: float
    low: float
    high: float
    stderr_log: float  # delta method, of the log of the ratio


NO_RATIO = Ratio(math.nan, math.nan, math.nan, math.nan)


def resampled(columns: Floats, key: Key, num_resamples: int) -> Floats:
    """Means (R, C) of `columns` (P, C) over problems, resampled with replacement."""
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


def ratios(tops: Floats, bottoms: Floats, key: Key, num_resamples: int) -> tuple[Ratio, ...]:
    """mean(tops) / mean(bottoms) for each column of `tops`, `bottoms` (P, C), all with the same resamples.

    A problem that is nan in either is left out of that column. nan where the bottom's mean is 0; a top's mean of 0 is
    the ratio 0 with unknown ends. ValueError below 200 resamples: the ends would be noise.
    """
    if num_resamples < 200:
        raise ValueError(f"num_resamples must be at least 200, got {num_resamples}")
    known = ~(np.isnan(tops) | np.isnan(bottoms))
    x, y = np.where(known, tops, 0.0), np.where(known, bottoms, 0.0)
    num = tops.shape[1]
    table = np.concatenate([x, y, x * x, y * y, x * y, known.astype(np.float64)], axis=1)
    drawn = resampled(table, key, num_resamples) if len(table) else np.zeros((num_resamples, table.shape[1]))
    mean = table.mean(axis=0)[None] if len(table) else np.zeros((1, table.shape[1]))
    at, spread = _log_ratio(mean, num, len(table))
    again, noise = _log_ratio(drawn, num, len(table))
    found: list[Ratio] = []
    for c in range(num):
        if not known[:, c].any() or mean[0, num + c] <= 0:
            found.append(NO_RATIO)
            continue
        if not mean[0, c] > 0 or not spread[0, c] > 0:  # nothing to resample: all 0, or both sides equal everywhere
            value = float(mean[0, c] / mean[0, num + c])
            same = bool(mean[0, c] > 0 and known[:, c].sum() > 1)
            found.append(
                Ratio(value, value if same else math.nan, value if same else math.nan, 0.0 if same else math.nan)
            )
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            student = (again[:, c] - at[0, c]) / noise[:, c]
        student = student[np.isfinite(student)]
        if len(student) < num_resamples // 2:
            found.append(NO_RATIO._replace(value=float(np.exp(at[0, c]))))
            continue
        upper, lower = np.quantile(student, [1 - TAIL, TAIL])
        with np.errstate(over="ignore"):  # a handful of problems may leave the ratio open above
            ends = np.exp(at[0, c] - spread[0, c] * np.array([upper, lower]))
        found.append(Ratio(float(np.exp(at[0, c])), float(ends[0]), float(ends[1]), float(spread[0, c])))
    return tuple(found)


class _Logs(NamedTuple):
    value: Floats  # (R, C) log of the ratio of means
    stderr: Floats  # (R, C) delta method


def _log_ratio(means: Floats, num: int, num_problems: int) -> _Logs:
    x, y, xx, yy, xy, share = (means[:, i * num : (i + 1) * num] for i in range(6))
    with np.errstate(divide="ignore", invalid="ignore"):
        # the variance of x / mean(x) - y / mean(y) over problems, whose mean is 0
        square = xx / x**2 - 2 * xy / (x * y) + yy / y**2
        return _Logs(np.log(x / y), np.sqrt(np.maximum(square, 0.0) * share / np.maximum(num_problems * share - 1, 1)))
