"""Array types and small numerics that several packages share. numpy only; logs are natural."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def log_normalise(log_weights: ArrayLike) -> Floats:
    """Shift log weights (N,) so that their exponentials sum to 1. Raises ValueError if all are -inf or any nan."""
    logw = np.asarray(log_weights, dtype=np.float64)
    top = logw.max(initial=-np.inf)
    if not np.isfinite(top):
        raise ValueError(f"at least one log weight must be finite and none nan, got {logw}")
    return np.asarray(logw - top - np.log(np.exp(logw - top).sum()), dtype=np.float64)


def log_softmax(logits: ArrayLike) -> Floats:
    """Return the log softmax (..., V) over the last axis."""
    z = np.asarray(logits, dtype=np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)), dtype=np.float64)


def ratio_cannot_rise(alpha: float, temperature: float) -> bool:
    """Return whether p^alpha / q is at most 1 at every token drawn at this temperature, whatever the filters.

    That is so for 1 <= 1 / temperature <= alpha. Then a running sum of alpha * logp - logq only falls, and a draft may
    be given up early. One part in 10^9 is tolerated, since 1 / (1 / alpha) need not be alpha.
    """
    if temperature <= 0.0 or alpha == math.inf:
        return False
    return 1.0 - 1e-9 <= 1.0 / temperature <= alpha * (1.0 + 1e-9)
