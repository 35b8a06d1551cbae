"""Stop rules for rewards without a target: go on while the next draw is expected to add more than it costs.

With a known distribution F the best rule is Weitzman's (1979): the reservation value tau solves E[(S - tau)+] = price,
and the run ends at the first best score >= tau. With an unknown distribution the same expectation is taken over the
posterior given the scores so far (`pandora` with a prior; `beacon`). That looks one draw ahead and is model-based.

`beacon` is arXiv 2510.15945 by its myopic bound: normal rewards of unknown mean and variance, so the next one is
Student's t. `samplewise.stop.published.ucb_pandora` is another published rule.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.prior import ScorePrior, gain_table, lattice_of, read_prior
from samplewise.stop.truncated import ScoreTally, TruncatedNormal, excess, truncated_normal


class Scored(NamedTuple):
    """Draws, the best score (-inf: none), the tally of all, and the question's prior if there is one."""

    draws: int = 0
    best: float = -math.inf
    tally: ScoreTally = ScoreTally()
    prior: ScorePrior | None = None


def pandora(
    verifier: str,
    *,
    price: float,
    distribution: tuple[float, float] | None = None,
    prior: tuple[float, ...] | str | None = None,
    cap: int = 64,
) -> StopRule[Scored]:
    """Stop once the next draw's expected gain in the best score by `verifier` is at most `price`, in units of the
    score.

    Give either `distribution`, the (mu, sg) of the scores of every question, or `prior`: four numbers, or a file of
    them. Scores are in [0, 1]; others count as the nearer end.
    """
    if not price > 0:
        raise ValueError(f"price must be above 0, in units of the score, got {price}")
    if (distribution is None) == (prior is None):
        raise ValueError("give either distribution=(mu, sg) or prior=, four numbers or a file of priors")
    _check_cap(cap)
    source, fixed = read_prior(prior), None if distribution is None else truncated_normal(*distribution)
    reservation = math.nan if fixed is None else reservation_value(fixed, price)
    priors = [source.default, *source.questions.values()]
    if prior is not None and not source.dropped and not any(isinstance(p, ScorePrior) for p in priors):
        raise ValueError("pandora needs a prior of scores, (logit_mean, log_spread, sd_mean, sd_spread)")

    def start(question: Question) -> Scored:
        prior_of_question = source.of(question)
        return Scored(prior=prior_of_question if isinstance(prior_of_question, ScorePrior) else None)

    def decide(state: Scored, spent: Usage) -> Stop | None:
        if state.draws == 0:
            return None
        evidence = {"best": _known(state.best), "draws": state.draws, "price": price, "cap": cap}
        if fixed is not None and state.best >= reservation:
            return Stop("success", {**evidence, "reservation": reservation})
        if fixed is None and state.tally.num and (gain := expected_gain(state)) <= price:
            return Stop("futile", {**evidence, "gain": gain})
        return Stop("cap", evidence) if state.draws >= cap else None

    def expected_gain(state: Scored) -> float:
        best = min(max(state.best, 0.0), 1.0)
        if fixed is not None:
            return excess(fixed, best)
        if state.prior is None:
            return math.inf
        grid, table = gain_table(state.prior)
        return float(np.interp(best, grid, lattice_of(state.prior).posterior(state.tally) @ table))

    see = functools.partial(_see, verifier, True)
    return StopRule("pandora", start, see, decide, (verifier,), "model-based", "verifier", expected_gain=expected_gain)


def reservation_value(distribution: TruncatedNormal, price: float) -> float:
    """Return the tau with E[(S - tau)+] = price, the best score at which the next draw gains no more than it costs.

    It is below 0 if not even the first draw is worth its price.
    """
    if excess(distribution, 0.0) <= price:
        return excess(distribution, 0.0) - price
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(distribution, middle) > price else (low, middle)
    return 0.5 * (low + high)


def beacon(verifier: str, *, price: float, first: int = 4, cap: int = 64) -> StopRule[Scored]:
    """Stop once the next draw's expected gain in the best reward is at most `price`, by Student's t.

    `price` is in units of the reward. Without a prior the posterior needs `first` rewards, at least 3.
    """
    if not price > 0:
        raise ValueError(f"price must be above 0, in units of the reward, got {price}")
    if first < 3:
        raise ValueError(f"first must be at least 3 draws, as two have no mean of their next one's t, got {first}")
    _check_cap(cap)

    def expected_gain(state: Scored) -> float:
        num = state.tally.num
        if num < first:
            return math.inf
        scale = math.sqrt(state.tally.square / (num - 1) * (1 + 1 / num))
        return student_gain(state.best - state.tally.mean, scale, num - 1)

    def decide(state: Scored, spent: Usage) -> Stop | None:
        if state.draws == 0:
            return None
        evidence = {"best": _known(state.best), "draws": state.draws, "price": price, "cap": cap}
        if (gain := expected_gain(state)) <= price:
            return Stop("futile", {**evidence, "gain": gain})
        return Stop("cap", evidence) if state.draws >= cap else None

    def at_least(state: Scored) -> int:
        return max(1, min(first - state.tally.num, cap - state.draws))

    def start(question: Question) -> Scored:
        return Scored()

    see = functools.partial(_see, verifier, False)
    return StopRule("beacon", start, see, decide, (verifier,), "model-based", "verifier", at_least, expected_gain)


def student_gain(ahead: float, scale: float, df: int) -> float:
    """Return E[(X - ahead)+] for X = scale * t, t Student's with df > 1: the gain over a best that lies `ahead`."""
    from scipy.special import stdtr

    if scale == 0:
        return max(0.0, -ahead)
    z = ahead / scale
    log_density = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    density = math.exp(log_density - (df + 1) / 2 * math.log1p(z * z / df))
    return max(0.0, scale * (density * (df + z * z) / (df - 1) - z * float(stdtr(df, -z))))


def _see(verifier: str, bounded: bool, state: Scored, candidate: Candidate, answer: str | None) -> Scored:
    value = candidate.scores.get(verifier, math.nan)
    if not math.isfinite(value):
        return state._replace(draws=state.draws + 1)
    value = min(max(value, 0.0), 1.0) if bounded else value
    return Scored(state.draws + 1, max(state.best, value), state.tally.add(value), state.prior)


def _known(best: float) -> float | None:
    return None if best == -math.inf else best


def _check_cap(cap: int) -> None:
    if cap < 1:
        raise ValueError(f"cap must be at least 1 draw, got {cap}")
