"""pass@k: the probability that at least one of k draws is right (coverage, under an oracle).

From n >= k draws of which c are right, per problem 1 - C(n-c, k) / C(n, k): the mean over all subsets of k draws,
hence unbiased (Chen et al. 2021, arXiv 2107.03374). Computed as the product over i < k of (n-c-i) / (n-i): no
factorials, right to about 1e-13 for n up to 1e5. The plug-in 1 - (1 - c/n)^k is biased downwards and appears nowhere.

Costs no requests and no tokens: it reads stored outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.measure._arrays import Floats, Integers, read_outcomes, read_sizes

CHUNK = 1 << 22  # numbers held at once


def pass_at(outcomes: ArrayLike, ks: Sequence[int] | NDArray[np.integer]) -> Floats:
    """Return pass@k of every problem for each k of `ks`: (K, P).

    `outcomes` (P, N) are 0 or 1, nan = not drawn or not graded. A problem without any outcome is nan. Raise ValueError
    where a k is above the smallest number of outcomes of a problem that has some, and where an outcome is neither 0 nor
    1: for graded outcomes use `best_at(outcomes, outcomes, ks)`.
    """
    array = _read_binary(outcomes)
    num_draws = (~np.isnan(array)).sum(axis=1)  # (P,)
    sizes = read_sizes(ks, num_draws)
    return _pass(array, num_draws, sizes)


def pass_curve(outcomes: ArrayLike) -> Floats:
    """Return pass@k of every problem for every k: (N, P), row k - 1 for k.

    As `pass_at`, but rows with k above the smallest number of outcomes are nan: a curve whose later points were means
    over fewer problems would bend for a reason that is not k.
    """
    array = _read_binary(outcomes)
    num_draws = (~np.isnan(array)).sum(axis=1)
    available = int(num_draws[num_draws > 0].min(initial=array.shape[1]))
    curve = np.full(array.T.shape, np.nan)  # (N, P)
    curve[:available] = _pass(array, num_draws, np.arange(1, available + 1))
    return curve


def _read_binary(outcomes: ArrayLike) -> Floats:
    array = read_outcomes(outcomes)
    graded = array[(array != 0) & (array != 1) & ~np.isnan(array)]
    if graded.size:
        raise ValueError(
            f"pass@k takes outcomes of 0 or 1, got {graded[0]!r}; for graded scores use best_at(outcomes, outcomes, ks)"
        )
    return array


def _pass(outcomes: Floats, num_draws: Integers, ks: Integers) -> Floats:
    """Return pass@k (K, P); every k is at most the smallest positive number of draws."""
    num_right = np.nansum(outcomes, axis=1).astype(np.int64)  # (P,)
    pairs, pair_index = np.unique(np.stack([num_draws, num_right], axis=1), axis=0, return_inverse=True)
    longest = int(ks.max(initial=0))
    rows = max(1, CHUNK // max(1, longest))
    step = np.arange(longest)[:, None]
    value = np.full((len(ks), len(pairs)), np.nan)
    for start in range(0, len(pairs), rows):
        n, c = pairs[start : start + rows].T
        with np.errstate(divide="ignore", invalid="ignore"):
            fail = np.cumprod(np.maximum(n - c - step, 0) / (n - step), axis=0)  # (k, group)
        value[:, start : start + rows] = np.where(n > 0, 1 - fail[ks - 1], np.nan)
    return value[:, pair_index.reshape(-1)]
