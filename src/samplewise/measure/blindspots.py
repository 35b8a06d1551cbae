"""The share of problems that no number of draws would solve: three estimates, none of them the truth, and two limits.

It is not identifiable: a problem never solved in n draws may be solved by the next, so nothing but 0 is a sure lower
limit. Three numbers are printed together:

- the zero fraction, which is too high;
- Chao2 (Chao 1987, bias-corrected): zeros - (n-1)/n Q1 (Q1 - 1) / (2 (Q2 + 1)), Q1 and Q2 the problems solved exactly
  once and twice: also too high, as it only subtracts what must at least be there;
- a zero-inflated beta-binomial by maximum likelihood, success probabilities of the solvable from Beta(a, b), penalty
  .02 on log a^2 and log b^2: near the truth where that family is right, with a wide spread, and without an interval,
  as it takes probabilities that are small for none.

What does hold, for problems like these and whatever their success probabilities: at most `high` of them are never
solved, and at least `hard_low` of them have a success probability of at most `hard`, three in the number of draws.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.measure._arrays import Floats, Integers
from samplewise.measure.beta_binomial import group_counts, log_beta_binomial, log_slopes

PENALTY = 0.02
LOG_BOUND = 7.0  # |log a|, |log b| and |logit| are kept below it: the penalty holds them, this guards a search


class BlindSpots(NamedTuple):
    """Shares of the problems; nan without problems. Each limit holds with a probability of 97.5 %."""

    zero_fraction: float
    chao: float
    beta_binomial: float
    high: float  # upper limit of the share that is never solved (Clopper and Pearson); the lower one is 0
    hard: float  # 3 / n, a success probability: a problem that has it is missed in all n draws once in twenty times
    hard_low: float  # lower limit of the share whose success probability is at most `hard`
    num_problems: int


class ZeroInflated(NamedTuple):
    """`blind` of the problems are never solved; the others' success probabilities are from Beta(a, b)."""

    blind: float
    a: float
    b: float
    log_likelihood: float  # penalty included


def blind_spots(successes: ArrayLike, draws: ArrayLike) -> BlindSpots:
    """Estimate the share from `successes` (P,) of `draws` (P,), or one number for all. Problems without draws are left
    out.

    Raise ValueError for other shapes, or successes outside 0 .. draws. About .1 s.
    """
    from scipy.special import betaincinv

    solved, num_draws = _read(successes, draws)
    if not len(solved):
        return BlindSpots(*(math.nan,) * 6, 0)
    zeros, num, least = int((solved == 0).sum()), len(solved), int(num_draws.min())
    hard = min(1.0, 3 / least)
    missed = (1 - hard) ** least  # the probability that a problem that is not hard is never solved is at most this
    low = 0.0 if zeros == 0 else float(betaincinv(zeros, num - zeros + 1, 0.025))
    return BlindSpots(
        zero_fraction=zeros / num,
        chao=chao2(solved, num_draws),
        beta_binomial=fit_zero_inflated(solved, num_draws).blind,
        high=1.0 if zeros == num else float(betaincinv(zeros + 1, num - zeros, 0.975)),
        hard=hard,
        hard_low=max(0.0, (low - missed) / (1 - missed)),
        num_problems=num,
    )


def chao2(successes: ArrayLike, draws: ArrayLike) -> float:
    """Return Chao2's share of never-solved problems, at least 0; nan without problems. Ragged draws count with their
    mean.
    """
    solved, num_draws = _read(successes, draws)
    if not len(solved):
        return math.nan
    once, twice = int((solved == 1).sum()), int((solved == 2).sum())
    mean = float(num_draws.mean())
    hidden = (mean - 1) / mean * once * (once - 1) / (2 * (twice + 1))
    return max(0.0, int((solved == 0).sum()) - hidden) / len(solved)


def fit_zero_inflated(successes: ArrayLike, draws: ArrayLike) -> ZeroInflated:
    """Fit the zero-inflated beta-binomial by penalised maximum likelihood, the best of three starts."""
    solved, num_draws = _read(successes, draws)
    if not len(solved):
        return ZeroInflated(math.nan, math.nan, math.nan, math.nan)
    likelihood = _Likelihood(solved, num_draws)
    zero = min(max(float((solved == 0).mean()), 0.02), 0.98)
    starts = [(_logit(0.9 * zero), 0.0, 0.5), (_logit(0.5 * zero), -0.7, 0.5), (_logit(0.05 * zero), -1.2, 0.7)]
    best = min((likelihood.minimise(np.array(start)) for start in starts), key=lambda minimum: minimum.loss)
    logit, log_a, log_b = best.point
    return ZeroInflated(1 / (1 + math.exp(-logit)), math.exp(log_a), math.exp(log_b), -best.loss)


class _Minimum(NamedTuple):
    point: Floats
    loss: float


class _Likelihood:
    """The negative penalised log-likelihood at (logit blind, log a, log b), and its gradient."""

    def __init__(self, solved: Integers, num_draws: Integers) -> None:
        self.s, self.n, self.times = group_counts(solved, num_draws)

    def loss(self, point: Floats) -> tuple[float, Floats]:
        """Return the loss and its gradient (3,)."""
        from scipy.special import expit

        blind = float(expit(point[0]))
        a, b = np.exp(point[1:])
        s, n, zero = self.s, self.n, self.s == 0
        log_p = log_beta_binomial(s, n, a, b)
        slopes = log_slopes(s, n, a, b)
        p = np.exp(np.where(zero, log_p, 0.0))
        mass = blind + (1 - blind) * p
        share = np.where(zero, (1 - blind) * p / mass, 1.0)  # of the beta-binomial in a count
        value = np.where(zero, np.log(mass), math.log1p(-blind) + log_p)
        slope_blind = np.where(zero, (1 - p) / mass, -1 / (1 - blind)) * blind * (1 - blind)
        gradient = np.concatenate([slope_blind[None], share * slopes]) @ self.times
        gradient[1:] -= 2 * PENALTY * point[1:]
        return -float(value @ self.times) + PENALTY * float(point[1:] @ point[1:]), -gradient

    def minimise(self, start: Floats) -> _Minimum:
        """Minimise from `start`."""
        from scipy.optimize import minimize

        result = minimize(self.loss, start, jac=True, method="L-BFGS-B", bounds=[(-LOG_BOUND, LOG_BOUND)] * 3)
        return _Minimum(result.x, float(result.fun))


def _logit(share: float) -> float:
    return max(-LOG_BOUND, min(LOG_BOUND, math.log(share / (1 - share)))) if 0 < share < 1 else -LOG_BOUND


class _Read(NamedTuple):
    solved: Integers
    num_draws: Integers


def _read(successes: ArrayLike, draws: ArrayLike) -> _Read:
    solved = np.asarray(successes)
    num_draws = np.broadcast_to(np.asarray(draws), solved.shape) if np.ndim(draws) == 0 else np.asarray(draws)
    if solved.ndim != 1 or num_draws.shape != solved.shape or {solved.dtype.kind, num_draws.dtype.kind} - set("iu"):
        raise ValueError(
            f"successes and draws must be integers (P,); got {solved.dtype} {solved.shape}, "
            f"{num_draws.dtype} {num_draws.shape}"
        )
    if (solved < 0).any() or (solved > num_draws).any():
        raise ValueError("successes must be at least 0 and at most the draws")
    return _Read(solved[num_draws > 0].astype(np.int64), num_draws[num_draws > 0].astype(np.int64))
