"""The law a token is drawn from, given the model's log-probabilities and the sampling: the reference, in numpy.

Order: temperature, then top-k, top-p and min-p each cut the tempered law (all three look at the law before any cut, so
their order does not matter), then what is kept is renormalised. The local engine does the same in torch, and is tested
against this.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from samplewise.errors import BadRequest
from samplewise.numerics import Floats, log_softmax
from samplewise.types import Generate, Sampling


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


def log_norm(logp: Floats, law: Floats, temperature: float) -> float:
    """log Z (nats): the log of the sum of p ** (1 / temperature) over the tokens that `law` (V,) keeps. It is what
    renormalises: log p / temperature - log Z is the law. `temperature` above 0."""
    kept = np.isfinite(law)
    return float(np.logaddexp.reduce(logp[kept] / temperature))


def falls(alpha: float, temperature: float) -> bool:
    """Whether no token adds more than log Z <= 0 to the running sum of alpha * logp - logq (types.Floor)."""
    return temperature > 0 and 1 <= 1 / temperature <= alpha * (1 + 1e-12)  # 1 / (1 / alpha) may be above alpha


def check_exponents(ask: Generate) -> None:
    """Raises BadRequest where log Z is wanted and cannot be given."""
    wrong = [e for e in ask.exponents if not 0 < e < math.inf]
    if wrong:
        raise BadRequest(f"exponents must be above 0 and finite, got {wrong[0]}")
    if "logz" in ask.want and not ask.exponents:
        raise BadRequest('want "logz" needs exponents to take it at, as in exponents=(4.0,)')


def powers(logp: Floats, exponents: Iterable[float]) -> tuple[float, ...]:
    """The log of the sum of p ** e over the whole vocabulary (nats), for each exponent e above 0."""
    return tuple(float(np.logaddexp.reduce(e * logp)) for e in exponents)


def certainty(logp: Floats) -> float:
    """KL(uniform || p) in nats: 0 for the uniform law, inf where the model rules a token out."""
    return float(-logp.mean() - np.log(len(logp)))


def draw_token(law: ArrayLike, uniform: float) -> int:
    """The token that `uniform` in [0, 1) picks from a log law (V,), by the inverse of its distribution function."""
    mass = np.exp(np.asarray(law, dtype=np.float64))
    upto = np.cumsum(mass)
    token = int(np.searchsorted(upto, uniform * upto[-1], side="right"))
    return token if token < len(mass) and mass[token] > 0 else int(np.flatnonzero(mass)[-1])
