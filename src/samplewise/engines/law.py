"""The law a token is drawn from, given the model's log-probabilities and the sampling: the reference, in numpy.

Order: temperature, then top-k, top-p and min-p each cut the tempered law (all three look at the law before any cut, so
their order does not matter), then what is kept is renormalised. The local engine does the same in torch, and is tested
against this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from samplewise.numerics import Floats, log_softmax
from samplewise.types import Sampling


def draw_law(logp: ArrayLike, sampling: Sampling) -> Floats:
    """Log-probabilities (V,) nats that a token is drawn from; -inf where it is cut. `logp` (V,) at temperature 1."""
    logp = np.asarray(logp, dtype=np.float64)
    if sampling.temperature == 0.0:
        law = np.full_like(logp, -np.inf)
        law[int(np.argmax(logp))] = 0.0
        return law
    with np.errstate(over="ignore"):  # a temperature next to 0 makes the rest -inf
        law = log_softmax((logp - logp.max()) / sampling.temperature)
    keep = np.isfinite(law)
    order = np.argsort(-law, kind="stable")  # descending, ties to the lowest id
    rank = np.empty(len(law), dtype=np.int64)
    rank[order] = np.arange(len(law))
    if sampling.top_k:
        keep &= rank < sampling.top_k
    if sampling.top_p < 1.0:
        mass = np.exp(law[order])
        before = np.cumsum(mass) - mass  # mass of the likelier tokens: the token that crosses top_p is kept
        keep &= (before < sampling.top_p)[rank]
    if sampling.min_p > 0.0:
        keep &= law >= law.max() + np.log(sampling.min_p)
    return log_softmax(np.where(keep, law, -np.inf))


def draw_token(law: ArrayLike, uniform: float) -> int:
    """The token that `uniform` in [0, 1) picks from a log law (V,), by the inverse of its distribution function."""
    mass = np.exp(np.asarray(law, dtype=np.float64))
    upto = np.cumsum(mass)
    token = int(np.searchsorted(upto, uniform * upto[-1], side="right"))
    return token if token < len(mass) and mass[token] > 0 else int(np.flatnonzero(mass)[-1])
