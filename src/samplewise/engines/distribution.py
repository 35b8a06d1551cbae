"""The distribution that a token is drawn from, given the model's log-probabilities and the sampling. In numpy.

Order: temperature first, then the filters top-k, top-p and min-p, then renormalization. All three filters look at the
tempered distribution before any filter, so their order does not matter. The local engine does the same in torch, and is
tested against this reference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from samplewise.core.errors import BadRequest
from samplewise.core.numerics import Floats, log_softmax
from samplewise.core.types import Generate, Sampling


def draw_log_probs(logp: ArrayLike, sampling: Sampling) -> Floats:
    """Return log q (V,), nats, that a token is drawn from; -inf where it is filtered. `logp` (V,) at temperature 1."""
    logp = np.asarray(logp, dtype=np.float64)
    if sampling.temperature == 0.0:
        greedy = np.full_like(logp, -np.inf)
        greedy[int(np.argmax(logp))] = 0.0
        return greedy
    with np.errstate(over="ignore"):  # a temperature close to 0 makes the rest -inf
        tempered = log_softmax((logp - logp.max()) / sampling.temperature)
    keep = np.isfinite(tempered)
    order = np.argsort(-tempered, kind="stable")  # descending, ties to the lowest id
    rank = np.empty(len(tempered), dtype=np.int64)
    rank[order] = np.arange(len(tempered))
    if sampling.top_k:
        keep &= rank < sampling.top_k
    if sampling.top_p < 1.0:
        mass = np.exp(tempered[order])
        before = np.cumsum(mass) - mass  # mass of the likelier tokens: the token that crosses top_p is kept
        keep &= (before < sampling.top_p)[rank]
    if sampling.min_p > 0.0:
        keep &= tempered >= tempered.max() + np.log(sampling.min_p)
    return log_softmax(np.where(keep, tempered, -np.inf))


def log_filtered_norm(logp: Floats, logq: Floats, temperature: float) -> float:
    """Return log Z (nats): the log of the sum of p ** (1 / temperature) over the tokens that pass the filters.

    `logq` (V,) is finite for those tokens, and equals logp / temperature - log Z. `temperature` is above 0.
    """
    kept = np.isfinite(logq)
    return float(np.logaddexp.reduce(logp[kept] / temperature))


def check_exponents(ask: Generate) -> None:
    """Raise BadRequest if log Z is wanted and cannot be given."""
    wrong = [e for e in ask.exponents if not 0 < e < math.inf]
    if wrong:
        raise BadRequest(f"exponents must be above 0 and finite, got {wrong[0]}")
    if "logz" in ask.want and not ask.exponents:
        raise BadRequest('want "logz" needs exponents to take it at, as in exponents=(4.0,)')


def powers(logp: Floats, exponents: Iterable[float]) -> tuple[float, ...]:
    """Return the log of the sum of p ** e over the whole vocabulary (nats), for each exponent e above 0."""
    return tuple(float(np.logaddexp.reduce(e * logp)) for e in exponents)


def certainty(logp: Floats) -> float:
    """Return KL(uniform || p) in nats: 0 for the uniform distribution, inf if the model rules a token out."""
    return float(-logp.mean() - np.log(len(logp)))


def draw_token(logq: ArrayLike, uniform: float) -> int:
    """Return the token that `uniform` in [0, 1) picks from log-probabilities (V,), by the inverse of the CDF."""
    mass = np.exp(np.asarray(logq, dtype=np.float64))
    upto = np.cumsum(mass)
    token = int(np.searchsorted(upto, uniform * upto[-1], side="right"))
    return token if token < len(mass) and mass[token] > 0 else int(np.flatnonzero(mass)[-1])
