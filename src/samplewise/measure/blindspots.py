"""The share of problems that no number of draws would solve: three estimates, none of them the truth.

It is not identifiable from zero counts: a problem never solved in n draws may be solved by the next. So three numbers
are printed together, and an interval between the extremes:

- the zero fraction, which is too high; by the rule of three a problem with n failures may still have p up to 3 / n;
- Chao2 (Chao 1987, bias-corrected): zeros - (n-1)/n Q1 (Q1 - 1) / (2 (Q2 + 1)), Q1 and Q2 the problems solved exactly
  once and twice: also too high, as it only takes off what must at least be there;
- a zero-inflated beta-binomial by maximum likelihood, chances of the solvable from Beta(a, b), penalty .02 on log a^2
  and log b^2: near the truth, with a wide spread. Its lower limit is the profile likelihood's.

`low` to `high` runs from that limit to the zero fraction's upper limit (Clopper and Pearson), for problems like these;
for exactly these problems the zero fraction itself is a sure upper end. Below 50 draws it is "not identified".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.measure._arrays import Floats, Integers

LEAST_DRAWS = 50
PENALTY = 0.02
DROP = 1.920729  # of a log-likelihood at 95 %: half the chi-square quantile
LOG_BOUND = 7.0  # |log a|, |log b| and |logit| are kept below it: the penalty holds them, this guards a search


class BlindSpots(NamedTuple):
    """Shares of the problems; nan without problems."""

    zero_fraction: float
    chao: float
    beta_binomial: float
    low: float
    high: float
    identified: bool  # at least 50 draws of every problem
    rule_of_three: float  # the largest chance that a problem with no success may still have, 3 / n; nan without any
    num_problems: int


class ZeroInflated(NamedTuple):
    """`blind` of the problems are never solved, the others have chances from Beta(a, b)."""

    blind: float
    a: float
    b: float
    log_likelihood: float  # penalty included


def blind_spots(successes: ArrayLike, draws: ArrayLike) -> BlindSpots:
    """From `successes` (P,) of `draws` (P,) or one number for all; problems without draws are left out.

    ValueError for other shapes, or successes outside 0 .. draws. About .1 s.
    """
    from scipy.special import betaincinv

    solved, made = _read(successes, draws)
    if not len(solved):
        return BlindSpots(*(math.nan,) * 5, False, math.nan, 0)
    zeros, num, least = int((solved == 0).sum()), len(solved), int(made.min())
    fit = fit_zero_inflated(solved, made)
    high = 1.0 if zeros == num else float(betaincinv(zeros + 1, num - zeros, 0.975))
    return BlindSpots(
        zero_fraction=zeros / num,
        chao=chao2(solved, made),
        beta_binomial=fit.blind,
        low=_lower_limit(solved, made, fit),
        high=high,
        identified=least >= LEAST_DRAWS,
        rule_of_three=3 / int(made[solved == 0].min()) if zeros else math.nan,
        num_problems=num,
    )


def chao2(successes: ArrayLike, draws: ArrayLike) -> float:
    """Chao2's share of never-solved problems, not below 0; nan without problems. Ragged draws count with their mean."""
    solved, made = _read(successes, draws)
    if not len(solved):
        return math.nan
    once, twice = int((solved == 1).sum()), int((solved == 2).sum())
    mean = float(made.mean())
    hidden = (mean - 1) / mean * once * (once - 1) / (2 * (twice + 1))
    return max(0.0, int((solved == 0).sum()) - hidden) / len(solved)


def fit_zero_inflated(successes: ArrayLike, draws: ArrayLike) -> ZeroInflated:
    """The zero-inflated beta-binomial by penalised maximum likelihood, the best of three starts."""
    solved, made = _read(successes, draws)
    if not len(solved):
        return ZeroInflated(math.nan, math.nan, math.nan, math.nan)
    likelihood = _Likelihood(solved, made)
    zero = min(max(float((solved == 0).mean()), 0.02), 0.98)
    starts = [(_logit(0.9 * zero), 0.0, 0.5), (_logit(0.5 * zero), -0.7, 0.5), (_logit(0.05 * zero), -1.2, 0.7)]
    best = min((likelihood.minimise(np.array(start)) for start in starts), key=lambda found: found.loss)
    logit, log_a, log_b = best.place
    return ZeroInflated(1 / (1 + math.exp(-logit)), math.exp(log_a), math.exp(log_b), -best.loss)


class _Found(NamedTuple):
    place: Floats
    loss: float


class _Likelihood:
    """Minus the penalised log-likelihood at (logit blind, log a, log b), and its gradient; equal counts once."""

    def __init__(self, solved: Integers, made: Integers) -> None:
        pairs, self.times = np.unique(np.stack([solved, made]), axis=1, return_counts=True)
        self.s, self.n = pairs.astype(np.float64)

    def loss(self, place: Floats) -> tuple[float, Floats]:
        from scipy.special import betaln, expit, psi

        blind = float(expit(place[0]))
        a, b = np.exp(place[1:])
        s, n, zero = self.s, self.n, self.s == 0
        log_p = betaln(s + a, n - s + b) - betaln(a, b)  # without the binomial coefficient, which is constant
        both = psi(a + b) - psi(n + a + b)
        slope_a, slope_b = psi(s + a) - psi(a) + both, psi(n - s + b) - psi(b) + both
        p = np.exp(np.where(zero, log_p, 0.0))
        mass = blind + (1 - blind) * p
        share = np.where(zero, (1 - blind) * p / mass, 1.0)  # of the beta-binomial in a count
        value = np.where(zero, np.log(mass), math.log1p(-blind) + log_p)
        slope_blind = np.where(zero, (1 - p) / mass, -1 / (1 - blind)) * blind * (1 - blind)
        gradient = np.stack([slope_blind, share * slope_a * a, share * slope_b * b]) @ self.times.astype(np.float64)
        gradient[1:] -= 2 * PENALTY * place[1:]
        return -float(value @ self.times) + PENALTY * float(place[1:] @ place[1:]), -gradient

    def minimise(self, start: Floats, logit: float | None = None) -> _Found:
        """From `start`; with the logit held where one is given."""
        from scipy.optimize import minimize

        ends = [(-LOG_BOUND, LOG_BOUND)] * 3
        if logit is not None:
            start, ends[0] = np.array([logit, *start[1:]]), (logit, logit)
        done = minimize(self.loss, start, jac=True, method="L-BFGS-B", bounds=ends)
        return _Found(done.x, float(done.fun))


def _lower_limit(solved: Integers, made: Integers, fit: ZeroInflated) -> float:
    """Where the profile log-likelihood has dropped by 1.92 below the fit; 0 where it never does."""
    from scipy.optimize import brentq

    likelihood = _Likelihood(solved, made)
    place = np.array([0.0, math.log(fit.a), math.log(fit.b)])

    def drop(logit: float) -> float:
        nonlocal place  # the next search begins where the last one ended
        found = likelihood.minimise(place, logit)
        place = found.place
        return found.loss + fit.log_likelihood - DROP

    top = _logit(fit.blind)
    if top <= -LOG_BOUND + 1e-3 or drop(-LOG_BOUND) <= 0 or drop(top) >= 0:
        return 0.0
    return float(1 / (1 + math.exp(-brentq(drop, -LOG_BOUND, top, xtol=1e-2))))


def _logit(share: float) -> float:
    return max(-LOG_BOUND, min(LOG_BOUND, math.log(share / (1 - share)))) if 0 < share < 1 else -LOG_BOUND


class _Read(NamedTuple):
    solved: Integers
    made: Integers


def _read(successes: ArrayLike, draws: ArrayLike) -> _Read:
    solved = np.asarray(successes)
    made = np.broadcast_to(np.asarray(draws), solved.shape) if np.ndim(draws) == 0 else np.asarray(draws)
    if solved.ndim != 1 or made.shape != solved.shape or {solved.dtype.kind, made.dtype.kind} - set("iu"):
        raise ValueError(
            f"successes and draws must be integers (P,); got {solved.dtype} {solved.shape}, {made.dtype} {made.shape}"
        )
    if (solved < 0).any() or (solved > made).any():
        raise ValueError("successes must be at least 0 and at most the draws")
    return _Read(solved[made > 0].astype(np.int64), made[made > 0].astype(np.int64))
