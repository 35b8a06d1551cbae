"""Small numerics that several rooms share. numpy only; logs are natural."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def log_normalise(log_weights: ArrayLike) -> Floats:
    """Log weights (N,) shifted so that their exponentials sum to 1. All -inf, or nan, raises ValueError."""
    logw = np.asarray(log_weights, dtype=np.float64)
    top = logw.max(initial=-np.inf)
    if not np.isfinite(top):
        raise ValueError(f"at least one log weight must be finite and none nan, got {logw}")
    return np.asarray(logw - top - np.log(np.exp(logw - top).sum()), dtype=np.float64)


def log_softmax(logits: ArrayLike) -> Floats:
    """Row-wise log softmax of (..., V)."""
    z = np.asarray(logits, dtype=np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return np.asarray(z - np.log(np.exp(z).sum(axis=-1, keepdims=True)), dtype=np.float64)
