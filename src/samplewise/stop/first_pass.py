"""Stop at the first draw that is good enough, give up when more draws are not worth their price, or stop at a cap.

For OptScale's own goal, P(best score >= target) >= confidence, this attains the same probability as drawing N = cap at
once, at E[draws] = (1 - F^N) / (1 - F), with F the probability that a draw misses: 22 to 39 % of N where N is what the
goal needs. So an estimate of N serves the forecast and the giving up, never the success.

There are three ways to give up. `price` is the cost of a draw over the value of a solved question.

* certified (a price alone): after `misses_to_give_up(price, 1 - confidence)` misses the pass probability of a draw is
  below its price, wrong with probability at most 1 - confidence for every distribution of independent draws, whenever
  one looks.
* by value, passes (a price and a prior (a, b)): when a / (a + b + misses) < price. The probability falls with every
  miss, so looking one draw ahead is optimal in this model.
* by value, scores (a price and a prior of four numbers): when the probability of reaching the target, averaged over the
  posterior given this question's scores, is below the price.

A draw without a score is a miss: it was paid for. Whether a pass is right depends on the verifier: where its scores are
not calibrated, an answer that barely passes can be worse than the best of many.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from samplewise.core.types import Candidate, Json, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.futility import misses_to_give_up
from samplewise.stop.prior import (
    BetaPrior,
    Prior,
    ScorePrior,
    draws_for,
    draws_for_mixture,
    lattice_of,
    log_below,
    read_prior,
)
from samplewise.stop.truncated import ScoreTally

Futility = Literal["certified", "value"]
CAP = 64  # of what is planned, where none is given


class PassState(NamedTuple):
    """The state of `passed`: draws, best score (-inf: none), the tally if a prior of scores needs it, the question's
    prior.
    """

    draws: int = 0
    best: float = -math.inf
    tally: ScoreTally = ScoreTally()
    clipped: int = 0  # scores outside of [0, 1], which a prior of scores takes as the nearest end
    prior: Prior | None = None
    cap: int | None = None


def passed(
    verifier: str,
    *,
    score: float = 1.0,
    price: float | None = None,
    prior: tuple[float, ...] | str | None = None,
    futility: Futility | None = None,
    confidence: float = 0.95,
    cap: int | None = None,
    attain: bool = False,
) -> StopRule[PassState]:
    """Stop at the first candidate that `verifier` gives at least `score`; give up when one more is not worth its price.

    `price` is the cost of a draw over the value of a solved question; without it the rule never gives up before `cap`,
    and without a cap the sampler's own number of draws is one. `prior` is (a, b) of a draw's pass probability, four
    numbers of its scores, or a file of them. `futility` is "value" with a prior and "certified" without. With `attain`
    the cap of a question is what its prior says `confidence` needs, at most `cap`.
    """
    return first_pass("passed", PassSettings(verifier, score, price, prior, futility, confidence, cap, attain))


class PassSettings(NamedTuple):
    """The settings that `passed` and `optscale` share; `target` is the score that is good enough."""

    verifier: str
    target: float
    price: float | None
    prior: tuple[float, ...] | str | None
    futility: Futility | None
    confidence: float
    cap: int | None
    attain: bool


def first_pass(name: str, settings: PassSettings) -> StopRule[PassState]:
    """Return the rule behind `passed` and `optscale`. Raise ValueError if the settings do not fit together."""
    verifier, target, price, prior, futility, confidence, cap, attain = settings
    check_settings(target, confidence, cap)
    source = read_prior(prior)
    if price is not None and not 0 < price < 1:
        raise ValueError(f"price is the cost of a draw over the value of a solved question, in (0, 1); got {price}")
    if futility not in (None, "certified", "value"):
        raise ValueError(f"futility must be 'certified' or 'value', got {futility!r}")
    if futility is not None and price is None:
        raise ValueError(f"futility={futility!r} needs price=, the cost of a draw over the value of a solved question")
    if (futility == "value" or attain) and prior is None:
        raise ValueError(f"{'attain' if attain else 'futility by value'} needs prior=(a, b), or a file of priors")
    limit = math.inf if price is None else misses_to_give_up(price, 1 - confidence)

    def start(question: Question) -> PassState:
        own_prior = source.of(question)
        if not attain:
            return PassState(prior=own_prior, cap=cap)
        return PassState(prior=own_prior, cap=_cap_of(own_prior, target, confidence, CAP if cap is None else cap))

    def see(state: PassState, candidate: Candidate, answer: str | None) -> PassState:
        value = candidate.scores.get(verifier, math.nan)
        tally, clipped = state.tally, state.clipped
        if isinstance(state.prior, ScorePrior) and not math.isnan(value):
            inside = min(max(value, 0.0), 1.0)
            tally, clipped = tally.add(inside), clipped + (inside != value)
        return state._replace(
            draws=state.draws + 1, best=value if value > state.best else state.best, tally=tally, clipped=clipped
        )

    def decide(state: PassState, spent: Usage) -> Stop | None:
        draws, best = state.draws, state.best
        if draws == 0:
            return None
        evidence: dict[str, Json] = {"needed": target, "best": None if best == -math.inf else best, "draws": draws}
        if state.cap is not None:
            evidence["cap"] = state.cap
        if source.dropped:
            evidence["prior_dropped"] = source.dropped
        if state.clipped:
            evidence["clipped"] = state.clipped
        if best >= target:
            return Stop("success", {**evidence, "guarantee": "exact"})
        evidence["misses"] = draws
        if price is not None and state.prior is not None and futility != "certified":
            probability = next_pass_probability(state, target)
            if probability < price:
                forecast = {"chance": probability, "price": price, "by": "value"}
                return Stop("futile", {**evidence, **forecast, "guarantee": "model-based"})
        elif draws >= limit:
            certificate = {"below": price, "error": 1 - confidence, "by": "certified"}
            return Stop("futile", {**evidence, **certificate, "guarantee": "anytime-valid"})
        if state.cap is not None and draws >= state.cap:
            planned = attain and state.prior is not None
            return Stop("cap", {**evidence, "guarantee": "model-based" if planned else "exact", "about": "draws"})
        return None

    def expected_gain(state: PassState) -> float:
        return 0.0 if state.best >= target else next_pass_probability(state, target)

    gain = None if prior is None else expected_gain
    return StopRule(name, start, see, decide, (verifier,), "exact", "verifier", expected_gain=gain)


def check_settings(target: float, confidence: float, cap: int | None) -> None:
    """Raise ValueError if a setting is meaningless."""
    if isinstance(target, bool) or not isinstance(target, int | float) or math.isnan(target):
        raise ValueError(f"the score that is good enough must be a number, got {target!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if cap is not None and cap < 1:
        raise ValueError(f"cap must be at least 1 draw, got {cap}")


def next_pass_probability(state: PassState, target: float) -> float:
    """Return the probability that the next draw reaches the target, given the question's prior and its draws.

    Without a prior it is uniform.
    """
    if isinstance(state.prior, ScorePrior):
        weights = lattice_of(state.prior).posterior(state.tally)
        return max(0.0, -float(weights @ np.expm1(log_below(state.prior, target))))
    return (state.prior or BetaPrior(1.0, 1.0)).pass_probability(state.draws)


def _cap_of(prior: Prior | None, target: float, confidence: float, cap: int) -> int:
    """Return the draws that give the question a success with probability `confidence`, averaged over its prior."""
    if isinstance(prior, ScorePrior):
        return draws_for_mixture(lattice_of(prior).posterior(ScoreTally()), log_below(prior, target), confidence, cap)
    return cap if prior is None else draws_for(prior, confidence, cap)
