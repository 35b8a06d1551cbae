"""The beta-binomial: successes among draws where each problem's success probability comes from Beta(a, b).

    log P(s of n) = log B(s + a, n - s + b) - log B(a, b) + a constant, the binomial coefficient, which is left out

Everything in the package that fits a Beta to counts starts here: the prior of a stop rule, the arms of an allocation,
pass@k beyond the draws, and the share of problems that are never solved.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.measure._arrays import Floats

LOG_BOUND = 10.0  # |log a| and |log b| stay below it
LARGEST = 1e4  # a + b: problems that are all alike have no largest likelihood


class BetaFit(NamedTuple):
    """The parameters of a Beta."""

    a: float
    b: float


class CountGroups(NamedTuple):
    """Problems with the same counts taken together: successes, draws and the number of problems, (U,) each."""

    successes: Floats
    draws: Floats
    times: Floats


def group_counts(successes: ArrayLike, draws: ArrayLike) -> CountGroups:
    """Group `successes` (P,) of `draws` (P,). Problems without draws are left out."""
    num_draws = np.asarray(draws)
    pairs, times = np.unique(np.stack([np.asarray(successes), num_draws])[:, num_draws > 0], axis=1, return_counts=True)
    s, n = pairs.astype(np.float64)
    return CountGroups(s, n, times.astype(np.float64))


def log_beta_binomial(successes: ArrayLike, draws: ArrayLike, a: ArrayLike, b: ArrayLike) -> Floats:
    """Return log P(successes of draws) in nats without the binomial coefficient. All four broadcast."""
    from scipy.special import betaln

    s, n, a, b = (np.asarray(value, dtype=np.float64) for value in (successes, draws, a, b))
    return np.asarray(betaln(s + a, n - s + b) - betaln(a, b), dtype=np.float64)


def log_slopes(successes: Floats, draws: Floats, a: float, b: float) -> Floats:
    """Return the derivatives of `log_beta_binomial` by log a and by log b, (2, U)."""
    from scipy.special import psi

    both = psi(a + b) - psi(draws + a + b)
    by_a = (psi(successes + a) - psi(a) + both) * a
    by_b = (psi(draws - successes + b) - psi(b) + both) * b
    return np.stack([by_a, by_b])


def fit_beta_binomial(successes: ArrayLike, draws: ArrayLike, penalty: float = 0.0) -> BetaFit:
    """Fit Beta(a, b) to `successes` (P,) of `draws` (P,) by maximum likelihood, with a + b at most `LARGEST`.

    `penalty` times log^2 a + log^2 b is taken off the log-likelihood. The best of two starts, by L-BFGS-B.
    """
    from scipy.optimize import minimize

    groups = group_counts(successes, draws)
    s, n, times = groups

    def loss(log_ab: Floats) -> tuple[float, Floats]:
        a, b = np.exp(log_ab)
        value = float(log_beta_binomial(s, n, a, b) @ times)
        return penalty * float(log_ab @ log_ab) - value, 2 * penalty * log_ab - log_slopes(s, n, a, b) @ times

    mean = float((s @ times + 0.5) / (n @ times + 1))
    starts = [np.log([size * mean, size * (1 - mean)]) for size in (0.7, 5.0)]
    options = {"ftol": 1e-14, "gtol": 1e-8}
    bounds = [(-LOG_BOUND, LOG_BOUND)] * 2
    fits = [minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for start in starts]
    a, b = np.exp(min(fits, key=lambda fit: fit.fun).x)
    scale = min(1.0, LARGEST / (a + b))
    return BetaFit(float(a * scale), float(b * scale))


def fit_precision(successes: ArrayLike, draws: ArrayLike, means: ArrayLike) -> float:
    """Return the a + b of largest likelihood where each problem's a / (a + b) is given by `means` (P,)."""
    from scipy.optimize import minimize

    s, n, mean = (np.asarray(value, dtype=np.float64) for value in (successes, draws, means))

    def loss(log_size: Floats) -> float:
        size = math.exp(min(log_size[0], math.log(LARGEST)))
        return -float(log_beta_binomial(s, n, mean * size, (1 - mean) * size).sum())

    result = minimize(loss, [0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8})
    return math.exp(min(result.x[0], math.log(LARGEST)))
