"""How strongly the draws of an arm (or of one idea) agree: variance between arms, and how many independent draws n
equal.

Between-arm variance of f, unbiased from two draws per arm: mean_j F_j (F_j - 1) / (n_j (n_j - 1)) - mean_{j != k}
p_j p_k, p = F / n. Intra-class correlation, one-way analysis of variance: (MSB - MSW) / (MSB + (n - 1) MSW), with
MSB = n var_j(S_j / n; ddof 1) and MSW = sum_j S_j (1 - S_j / n) / (M (n - 1)); ragged draws take n = (sum n_j -
sum n_j^2 / sum n_j) / (M - 1). n draws that share an idea equal n / (1 + (n - 1) ICC) independent ones.

A fresh idea for every draw means one draw per arm, and nothing here can be estimated from that: nan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.measure._arrays import Floats
from samplewise.measure.estimate import Estimate, mean_interval
from samplewise.measure.powers import ArmCounts, read_counts


class Clustering(NamedTuple):
    """Per problem (P,); nan where an arm has fewer than two draws, or there is one arm."""

    between: Floats  # MSB, mean square between arms
    within: Floats  # MSW, mean square within arms
    draws_per_arm: Floats  # n
    icc: Floats  # nan where all outcomes of a problem are equal
    pooled_icc: Estimate  # from the means of MSB and MSW over problems, for the mean number of draws


def between_arm_variance(counts: ArmCounts) -> Floats:
    """Return the unbiased variance over arms of f (P,). A single value may be negative; its mean is right.

    nan below two draws on an arm, or below two arms.
    """
    failures, draws = read_counts(counts)
    num = failures.shape[1]
    if num < 2:
        return np.full(len(failures), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = failures / draws
        square = (failures * (failures - 1) / (draws * (draws - 1))).mean(axis=1)
    product = (rate.sum(axis=1) ** 2 - (rate**2).sum(axis=1)) / (num * (num - 1))
    return np.asarray(np.where((draws > 1).all(axis=1), square - product, np.nan), dtype=np.float64)


def analyse_clustering(counts: ArmCounts) -> Clustering:
    """Analyze the variance of the outcomes of each problem over its arms."""
    failures, draws = read_counts(counts)
    num = failures.shape[1]
    usable = (draws > 1).all(axis=1) & (num > 1)
    size, total = np.where(usable[:, None], draws, 2), np.where(usable, draws.sum(axis=1), 2 * num)
    rate = np.where(usable[:, None], failures, 0) / size
    mean = (rate * size).sum(axis=1) / total
    arms = max(num - 1, 1)
    per_arm = (total - (size**2).sum(axis=1) / total) / arms
    between = (size * (rate - mean[:, None]) ** 2).sum(axis=1) / arms
    within = (size * rate * (1 - rate)).sum(axis=1) / (total - num)
    with np.errstate(divide="ignore", invalid="ignore"):
        icc = (between - within) / (between + (per_arm - 1) * within)

    def where_usable(values: Floats) -> Floats:
        return np.asarray(np.where(usable, values, np.nan), dtype=np.float64)

    pooled = _pooled(between, within, per_arm, usable)
    return Clustering(where_usable(between), where_usable(within), where_usable(per_arm), where_usable(icc), pooled)


def _pooled(between: Floats, within: Floats, per_arm: Floats, usable: NDArray[np.bool_]) -> Estimate:
    """Return the ratio of means, with an interval from its linear part in each problem."""
    values = np.full(len(between), np.nan)
    if usable.any():
        top = (between - within)[usable]
        bottom = top + per_arm[usable].mean() * within[usable]
        if bottom.mean() > 0:
            icc = top.mean() / bottom.mean()
            values[usable] = icc + (top - icc * bottom) / bottom.mean()
    return mean_interval(values, support=None)


def effective_draws(num_draws: ArrayLike, icc: ArrayLike) -> Floats:
    """Return n / (1 + (n - 1) ICC), the independent draws that n draws of one idea equal.

    A negative ICC, an estimate below its range, counts as 0.
    """
    n = np.asarray(num_draws, dtype=np.float64)
    return np.asarray(n / (1 + (n - 1) * np.clip(np.asarray(icc, dtype=np.float64), 0.0, 1.0)), dtype=np.float64)
