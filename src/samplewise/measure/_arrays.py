"""Checks the arrays that every metric takes: outcomes (P, N) and the sizes k of the subsets.

One rule for all of them: a draw whose outcome is nan was not made or not graded, and is left out of its problem's
draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.core.numerics import Ints

Floats = NDArray[np.float64]
Integers = Ints


def read_outcomes(outcomes: ArrayLike) -> Floats:
    """Return `outcomes` as floats (P, N), each in [0, 1] or nan. Raise ValueError otherwise."""
    array = np.asarray(outcomes, dtype=np.float64)
    if array.ndim != 2:
        raise ValueError(f"outcomes must have shape (P, N), problems by draws; got shape {array.shape}")
    wrong = array[(array < 0) | (array > 1)]
    if wrong.size:
        raise ValueError(f"outcomes must be in [0, 1] or nan, got {wrong[0]!r}")
    return array


def read_beside(name: str, array: ArrayLike, outcomes: Floats) -> Floats:
    """Return floats of the shape of `outcomes`. Raise ValueError otherwise."""
    beside = np.asarray(array, dtype=np.float64)
    if beside.shape != outcomes.shape:
        raise ValueError(f"{name} must have the shape of outcomes, {outcomes.shape}; got {beside.shape}")
    return beside


def read_sizes(ks: Sequence[int] | NDArray[np.integer], num_draws: Integers) -> Integers:
    """Return the subset sizes `ks` (K,), each from 1 to the smallest number of draws of a problem that has any.

    `num_draws` (P,) counts each problem's graded draws; a problem with none is unscored and restricts nothing. Raise
    ValueError for another k: a subset without replacement cannot be larger than what was drawn.
    """
    array = np.asarray(ks)
    if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
        raise ValueError(f"ks must be a non-empty sequence of integers, got {ks!r}")
    if array.min() < 1:
        raise ValueError(f"ks must be at least 1, got {array.min()}")
    drawn = num_draws[num_draws > 0]
    if drawn.size and array.max() > drawn.min():
        short = int((drawn < array.max()).sum())
        raise ValueError(
            f"k = {array.max()} is more than the draws available: {short} of {len(num_draws)} problems have fewer, "
            f"the smallest {drawn.min()}. Ask for k <= {drawn.min()}, or leave those problems out"
        )
    return array.astype(np.int64)
