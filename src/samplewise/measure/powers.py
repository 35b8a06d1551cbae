"""Powers of an arm's failure probability, and the failure of N draws shared among arms, without bias.

Rows are problems, columns arms, column 0 the identity arm. From F failures among n graded draws C(F, k) / C(n, k) is
the share of subsets of k draws that all fail: unbiased for f^k, while the plug-in (F/n)^k is too high (Jensen). It
needs n >= k. With n_j of the N draws on each of M arms:

- stratified, n_j fixed: the product over arms of f_j^n_j;
- independent, the arm of each draw chosen at random: (mean_j f_j)^N;
- reused, one arm chosen at random and kept: mean_j f_j^N.

Per problem the first is never above the second, nor the second above the third, at n_j = N / M. Draws with no outcome
are not counted; a problem where an arm that is needed has none is nan. Costs nothing: it reads stored outcomes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.measure._arrays import Floats, Integers, read_outcomes


class ArmCounts(NamedTuple):
    """Failures among the graded draws of each problem and arm; ragged counts are fine."""

    failures: Integers  # (P, M)
    draws: Integers  # (P, M) 0: nothing was drawn

    @property
    def rates(self) -> Floats:
        """Return failure rates (P, M), nan where nothing was drawn."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.failures / self.draws, dtype=np.float64)


def counts_by_arm(outcomes: ArrayLike, arms: ArrayLike, num_arms: int | None = None) -> ArmCounts:
    """Count failures per arm, from `outcomes` (P, N) of 0, 1 or nan and each draw's arm, `arms` (N,) or (P, N) from 0.

    Raise ValueError for other outcomes or shapes, or an arm outside 0 .. `num_arms` - 1.
    """
    array = read_outcomes(outcomes)
    graded = ~np.isnan(array)
    if ((array != 0) & (array != 1) & graded).any():
        raise ValueError("failures are counted from outcomes of 0, 1 or nan; grade with a threshold first")
    labels = read_arms(arms, array.shape)
    num = int(labels.max(initial=-1)) + 1 if num_arms is None else num_arms
    if labels.max(initial=-1) >= num:
        raise ValueError(f"arms must be 0 to {num - 1}, got {labels.max()}")
    cells = np.arange(len(array))[:, None] * num + labels
    size = len(array) * num
    draws = np.bincount(cells[graded], minlength=size).reshape(len(array), num)
    right = np.bincount(cells[graded & (array == 1)], minlength=size).reshape(len(array), num)
    return ArmCounts(draws - right, draws)


def read_arms(arms: ArrayLike, shape: tuple[int, ...]) -> Integers:
    """Return `arms` as integers from 0 of the shape (P, N), from the same or from (N,). Raise ValueError otherwise."""
    labels = np.asarray(arms)
    if labels.shape not in (shape, shape[1:]) or labels.dtype.kind not in "iu" or labels.min(initial=0) < 0:
        raise ValueError(
            f"arms must be integers >= 0 of shape {shape[1:]} or {shape}; got {labels.dtype} {labels.shape}"
        )
    return np.broadcast_to(labels, shape).astype(np.int64)


def read_counts(counts: ArmCounts) -> ArmCounts:
    """Return the counts as integers (P, M). Raise ValueError where failures are negative or more than draws."""
    failures, draws = np.asarray(counts.failures), np.asarray(counts.draws)
    if failures.ndim != 2 or draws.shape != failures.shape or {failures.dtype.kind, draws.dtype.kind} - set("iu"):
        raise ValueError(
            f"counts must be integers (P, M), problems by arms; got {failures.dtype} {failures.shape} failures and "
            f"{draws.dtype} {draws.shape} draws"
        )
    if (failures < 0).any() or (failures > draws).any():
        raise ValueError("failures must be at least 0 and at most the draws")
    return ArmCounts(failures.astype(np.int64), draws.astype(np.int64))


def failure_power(failures: ArrayLike, draws: ArrayLike, k: ArrayLike) -> Floats:
    """Return C(F, k) / C(n, k), unbiased for f^k; all three broadcast. 1 at k = 0; nan where nothing was drawn.

    Raise ValueError for k above the draws of a cell that has some: f^k is not estimable from fewer than k draws.
    """
    f, n, size = np.broadcast_arrays(*(np.asarray(a) for a in (failures, draws, k)))
    if size.size and (size.dtype.kind not in "iu" or size.min() < 0):
        raise ValueError(f"k must be integers >= 0, got {k!r}")
    if ((size > n) & (n > 0)).any():
        least = int(n[n > 0].min())
        raise ValueError(
            f"k = {size.max()} is more than the draws of an arm: f^k is not estimable from fewer than k draws. "
            f"Draw more, or ask for k <= {least}"
        )
    value = np.where(n > 0, 1.0, np.nan)
    for i in range(int(size.max(initial=0))):
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.where(i < size, value * np.maximum(f - i, 0) / (n - i), value)
    return value


def stratified_failure(counts: ArmCounts, allocation: ArrayLike) -> Floats:
    """Return the probability (P,) that all of n_j draws on each arm j fail; `allocation` (M,) or (P, M) holds the n_j.

    An arm with n_j = 0 takes no part, drawn or not. Raise ValueError as for `failure_power`.
    """
    failures, draws = read_counts(counts)
    share = np.asarray(allocation)
    if share.shape not in (failures.shape, failures.shape[1:]):
        raise ValueError(f"allocation must have shape {failures.shape[1:]} or {failures.shape}, got {share.shape}")
    return np.asarray(np.where(share == 0, 1.0, failure_power(failures, draws, share)).prod(axis=1), dtype=np.float64)


def reused_failure(counts: ArmCounts, num_draws: int) -> Floats:
    """Return the probability (P,) that all `num_draws` draws fail if one arm is chosen at random and kept.

    Raise ValueError as for `failure_power`.
    """
    failures, draws = read_counts(counts)
    return np.asarray(failure_power(failures, draws, num_draws).mean(axis=1), dtype=np.float64)


def independent_failure(counts: ArmCounts, num_draws: int) -> Floats:
    """Return the probability (P,) that all of `num_draws` = N draws fail if the arm of each is chosen at random.

    Arms join one at a time: of i draws on the first j arms, k fall on arm j with probability Binomial(i, 1/j),
    independently of all else, so g_j(i) = sum_k C(i, k) (1/j)^k (1 - 1/j)^(i - k) power_j(k) g_(j-1)(i - k). Every term
    is positive. Needs N draws of every arm (ValueError otherwise). O(P M N^2).
    """
    failures, draws = read_counts(counts)
    sizes = np.arange(num_draws + 1)
    powers = failure_power(failures[:, :, None], draws[:, :, None], sizes)  # (P, M, N+1)
    total = powers[:, 0]  # (P, N+1) failure of i draws on the first arm alone
    for arm in range(1, failures.shape[1]):
        binomial = _binomial(num_draws, 1 / (arm + 1))  # [i, k]
        joined = np.empty_like(total)
        for i in sizes:
            joined[:, i] = (powers[:, arm, : i + 1] * total[:, i::-1]) @ binomial[i, : i + 1]
        total = joined
    return total[:, num_draws]


def _binomial(num: int, probability: float) -> Floats:
    """Return [i, k] = P(Binomial(i, probability) = k) for i, k <= num, by Pascal's rule: nothing overflows."""
    table = np.zeros((num + 1, num + 1))
    table[0, 0] = 1.0
    for i in range(num):
        table[i + 1] = (1 - probability) * table[i]
        table[i + 1, 1:] += probability * table[i, :-1]
    return table
