"""Stop rules for rewards without a target: go on while the next draw is expected to add more than it costs.

With a known law F the best rule is Weitzman's (1979): the reservation value tau solves E[(S - tau)+] = price, and the
run ends at the first best score >= tau. With an unknown law the same expectation is taken over what the scores so far
leave possible (`pandora` with a prior; `beacon`), which is a look at one draw ahead and model-based.

`ucb_pandora` is arXiv 2510.01394: rewards v = exp(r) with an exponential upper half, made comparable as v / (v + M), M
a guess at the best of `most` draws that grows more certain with n. The released code leaves out that only half of the
draws lie above the median; here they do. `beacon` is arXiv 2510.15945 by its myopic bound: normal rewards of unknown
mean and variance, so the next one is Student's t.
"""

from __future__ import annotations

import bisect
import functools
import math
from typing import NamedTuple

import numpy as np

from samplewise.stop.base import StopRule
from samplewise.stop.prior import ScorePrior, beliefs, gains, read_prior
from samplewise.stop.truncated import Law, Tally, excess, normal
from samplewise.types import Candidate, Question, Stop, Usage


class Scored(NamedTuple):
    """Draws, the best score (-inf: none), the tally of all, and the question's prior where there is one."""

    draws: int = 0
    best: float = -math.inf
    tally: Tally = Tally()
    prior: ScorePrior | None = None


def pandora(
    verifier: str,
    *,
    price: float,
    law: tuple[float, float] | None = None,
    prior: tuple[float, ...] | str | None = None,
    cap: int = 64,
) -> StopRule[Scored]:
    """Stop once the next draw's expected gain in the best score by `verifier` is at most `price`, in units of the
    score.

    Give either `law`, the (mu, sg) of the scores of every question, or `prior` of four numbers, or a file of them.
    Scores are in [0, 1]; others count as the nearer end.
    """
    if not price > 0:
        raise ValueError(f"price must be above 0, in units of the score, got {price}")
    if (law is None) == (prior is None):
        raise ValueError("give either law=(mu, sg) or prior=, four numbers or a file of priors")
    _check_cap(cap)
    source, known = read_prior(prior), None if law is None else normal(*law)
    reservation = math.nan if known is None else reservation_value(known, price)
    own = [source.default, *source.questions.values()]
    if prior is not None and not source.dropped and not any(isinstance(p, ScorePrior) for p in own):
        raise ValueError("pandora needs a prior of scores, (logit_mean, log_spread, sd_mean, sd_spread)")

    def start(question: Question) -> Scored:
        found = source.of(question)
        return Scored(prior=found if isinstance(found, ScorePrior) else None)

    def decide(state: Scored, spent: Usage) -> Stop | None:
        if state.draws == 0:
            return None
        said = {"best": _known(state.best), "draws": state.draws, "price": price, "cap": cap}
        if known is not None and state.best >= reservation:
            return Stop("success", {**said, "reservation": reservation})
        if known is None and state.tally.num and (gain := worth(state)) <= price:
            return Stop("futile", {**said, "gain": gain})
        return Stop("cap", said) if state.draws >= cap else None

    def worth(state: Scored) -> float:
        best = min(max(state.best, 0.0), 1.0)
        if known is not None:
            return excess(known, best)
        if state.prior is None:
            return math.inf
        places, table = gains(state.prior)
        return float(np.interp(best, places, beliefs(state.prior).posterior(state.tally) @ table))

    see = functools.partial(_see, verifier, True)
    return StopRule("pandora", start, see, decide, (verifier,), "model-based", "verifier", worth=worth)


def reservation_value(law: Law, price: float) -> float:
    """The tau with E[(S - tau)+] = price: the best score that makes the next draw worth nothing. Below 0 where not even
    the first draw is worth its price."""
    if excess(law, 0.0) <= price:
        return excess(law, 0.0) - price
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(law, middle) > price else (low, middle)
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

    def worth(state: Scored) -> float:
        num = state.tally.num
        if num < first:
            return math.inf
        scale = math.sqrt(state.tally.square / (num - 1) * (1 + 1 / num))
        return student_gain(state.best - state.tally.mean, scale, num - 1)

    def decide(state: Scored, spent: Usage) -> Stop | None:
        if state.draws == 0:
            return None
        said = {"best": _known(state.best), "draws": state.draws, "price": price, "cap": cap}
        if (gain := worth(state)) <= price:
            return Stop("futile", {**said, "gain": gain})
        return Stop("cap", said) if state.draws >= cap else None

    def at_least(state: Scored) -> int:
        return max(1, min(first - state.tally.num, cap - state.draws))

    def start(question: Question) -> Scored:
        return Scored()

    see = functools.partial(_see, verifier, False)
    return StopRule("beacon", start, see, decide, (verifier,), "model-based", "verifier", at_least, worth)


def student_gain(ahead: float, scale: float, df: int) -> float:
    """E[(X - ahead)+] for X = scale * t, t Student's with df > 1: what a draw adds to a best that lies `ahead`."""
    from scipy.special import stdtr

    if scale == 0:
        return max(0.0, -ahead)
    z = ahead / scale
    log_density = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    density = math.exp(log_density - (df + 1) / 2 * math.log1p(z * z / df))
    return max(0.0, scale * (density * (df + z * z) / (df - 1) - z * float(stdtr(df, -z))))


class Sorted(NamedTuple):
    """Draws, and their rewards in order."""

    draws: int = 0
    rewards: tuple[float, ...] = ()


def ucb_pandora(
    verifier: str, *, price: float, error: float = 0.05, first: int = 20, most: int = 960, cap: int = 960
) -> StopRule[Sorted]:
    """Stop once the next draw's expected gain in v / (v + M) is at most `price`, 6e-5 to 8e-3 in the paper.

    v = exp(reward); M is a guess at the best of `most` draws: median + ln(most / 5) * scale * (1 - f), scale the mean
    of the upper half above the median, f = sqrt(ln n ln(1/error) / n). O(n) a decision.
    """
    if not price > 0 or not 0 < error < 1 or first < 2 or most < 6:
        raise ValueError("expected price above 0, error in (0, 1), first at least 2 and most at least 6")
    _check_cap(cap)

    def start(question: Question) -> Sorted:
        return Sorted()

    def see(state: Sorted, candidate: Candidate, answer: str | None) -> Sorted:
        reward = candidate.scores.get(verifier, math.nan)
        if not math.isfinite(reward):
            return state._replace(draws=state.draws + 1)
        place = bisect.bisect(state.rewards, reward)
        return Sorted(state.draws + 1, (*state.rewards[:place], reward, *state.rewards[place:]))

    def worth(state: Sorted) -> float:
        return math.inf if len(state.rewards) < first else pandora_gain(state.rewards, error, most)

    def decide(state: Sorted, spent: Usage) -> Stop | None:
        if state.draws == 0:
            return None
        best = state.rewards[-1] if state.rewards else None
        said = {"best": best, "draws": state.draws, "price": price, "cap": cap}
        if (gain := worth(state)) <= price:
            return Stop("futile", {**said, "gain": gain})
        return Stop("cap", said) if state.draws >= cap else None

    def at_least(state: Sorted) -> int:
        return max(1, min(first - len(state.rewards), cap - state.draws))

    return StopRule("ucb_pandora", start, see, decide, (verifier,), "model-based", "verifier", at_least, worth)


def pandora_gain(rewards: tuple[float, ...], error: float, most: int) -> float:
    """E[(u - best u)+] of the next draw, u = v / (v + M), for sorted rewards (n,).

    With v = med + sc X above the median, X exponential, and half of the draws there, it is half of
    exp(-x)(1 - best u) - (M / sc) exp(k) E1(k + x), k = (med + M) / sc, x = (best v - med) / sc.
    """
    num, top = len(rewards), rewards[-1]
    values = [math.exp(reward - top) for reward in rewards]  # the ratio does not depend on the scale
    half = num // 2
    median = values[half] if num % 2 else 0.5 * (values[half - 1] + values[half])
    above = [value for value in values if value > median]
    if not above:
        return 0.0  # all are equal
    scale = sum(above) / len(above) - median
    width = math.sqrt(math.log(num) * math.log(1 / error) / num)
    guess = median + math.log(most / 5) * scale * max(0.0, 1 - width)
    x, k = (1.0 - median) / scale, (median + guess) / scale
    best = 1.0 / (1.0 + guess)
    return 0.5 * math.exp(-x) * max(0.0, 1 - best - guess / scale * scaled_e1(k + x))


def scaled_e1(x: float) -> float:
    """exp(x) E1(x), by its continued fraction where exp(x) is large."""
    from scipy.special import exp1

    if x < 50:
        return math.exp(x) * float(exp1(x))
    below = x
    for n in range(20, 0, -1):
        below = x + n / (1 + n / below)
    return 1 / below


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
