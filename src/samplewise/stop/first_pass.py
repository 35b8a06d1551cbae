"""Stop at the first draw that is good enough; give up when more draws are not worth their price; stop at a cap.

For OptScale's own goal, P(best score >= target) >= confidence, this has exactly the chance of drawing N = cap at once,
at E[draws] = (1 - F^N) / (1 - F), with F the chance of a draw to miss: 22 to 39 % of N where N is what the goal needs.
So an estimate of N serves the forecast and the giving up, never the success.

Giving up comes in three forms, by what is known. `price` is the cost of a draw over the worth of a solved question.

* certified (a price alone): after `misses_to_give_up(price, 1 - confidence)` misses a draw passes with a chance below
  its price, wrong with probability at most 1 - confidence for every law of independent draws, whenever one looks.
* by value, passes (a price, and a prior (a, b)): when a / (a + b + misses) < price. The chance falls with every miss,
  so looking one draw ahead is optimal in this model.
* by value, scores (a price, and a prior of four numbers): when the chance to reach the target, averaged over all laws
  of the scores with what this question's scores say of them, is below the price.

A draw without a score is a miss: it was paid for. Whether a pass is right is the verifier's affair: a barely passing
answer can be worse than the best of many where its scores are not calibrated.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np

from samplewise.stop.base import StopRule
from samplewise.stop.futility import misses_to_give_up
from samplewise.stop.prior import BetaPrior, Prior, ScorePrior, beliefs, draws_for, log_below, plan, read_prior
from samplewise.stop.truncated import Tally
from samplewise.types import Candidate, Json, Question, Stop, Usage

Futility = Literal["certified", "value"]
CAP = 64  # of what is planned, where none is given


class Seen(NamedTuple):
    """Draws, the best score (-inf: none), their tally where a prior of scores looks at it, and the question's prior."""

    draws: int = 0
    best: float = -math.inf
    tally: Tally = Tally()
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
) -> StopRule[Seen]:
    """Stop at the first candidate that `verifier` gives at least `score`; give up when one more is not worth its price.

    `price` is the cost of a draw over the worth of a solved question; without it the rule never gives up before `cap`,
    and without a cap the sampler's own number of draws is one.
    `prior` is (a, b) of the chance of a draw to pass, four numbers of its scores, or a file of them. `futility` is
    "value" where there is a prior and "certified" elsewhere. With `attain` the cap of a question is what its prior says
    `confidence` needs, at most `cap`.
    """
    return first_pass("passed", verifier, score, price, prior, futility, confidence, cap, attain)


def first_pass(
    name: str,
    verifier: str,
    target: float,
    price: float | None,
    prior: tuple[float, ...] | str | None,
    futility: Futility | None,
    confidence: float,
    cap: int | None,
    attain: bool,
) -> StopRule[Seen]:
    """The rule behind `passed` and `optscale`. ValueError where the settings do not fit together."""
    check_settings(target, confidence, cap)
    source = read_prior(prior)
    if price is not None and not 0 < price < 1:
        raise ValueError(f"price is the cost of a draw over the worth of a solved question, in (0, 1); got {price}")
    if futility not in (None, "certified", "value"):
        raise ValueError(f"futility must be 'certified' or 'value', got {futility!r}")
    if futility is not None and price is None:
        raise ValueError(f"futility={futility!r} needs price=, the cost of a draw over the worth of a solved question")
    if attain and cap is None:
        cap = CAP
    if (futility == "value" or attain) and prior is None:
        raise ValueError(f"{'attain' if attain else 'futility by value'} needs prior=(a, b), or a file of priors")
    limit = math.inf if price is None else misses_to_give_up(price, 1 - confidence)

    def start(question: Question) -> Seen:
        own = source.of(question)
        return Seen(prior=own, cap=_cap_of(own, target, confidence, cap) if attain and cap is not None else cap)

    def see(state: Seen, candidate: Candidate, answer: str | None) -> Seen:
        value = candidate.scores.get(verifier, math.nan)
        tally, clipped = state.tally, state.clipped
        if isinstance(state.prior, ScorePrior) and not math.isnan(value):
            inside = min(max(value, 0.0), 1.0)
            tally, clipped = tally.add(inside), clipped + (inside != value)
        return state._replace(
            draws=state.draws + 1, best=value if value > state.best else state.best, tally=tally, clipped=clipped
        )

    def decide(state: Seen, spent: Usage) -> Stop | None:
        draws, best = state.draws, state.best
        if draws == 0:
            return None
        said: dict[str, Json] = {
            "needed": target,
            "best": None if best == -math.inf else best,
            "draws": draws,
        }
        if state.cap is not None:
            said["cap"] = state.cap
        if source.dropped:
            said["prior_dropped"] = source.dropped
        if state.clipped:
            said["clipped"] = state.clipped
        if best >= target:
            return Stop("success", {**said, "guarantee": "exact"})
        said["misses"] = draws
        if price is not None and state.prior is not None and futility != "certified":
            chance = chance_of_next(state, target)
            if chance < price:
                return Stop(
                    "futile", {**said, "chance": chance, "price": price, "by": "value", "guarantee": "model-based"}
                )
        elif draws >= limit:
            certificate = {"below": price, "error": 1 - confidence, "by": "certified"}
            return Stop("futile", {**said, **certificate, "guarantee": "anytime-valid"})
        if state.cap is not None and draws >= state.cap:
            planned = attain and state.prior is not None
            return Stop("cap", {**said, "guarantee": "model-based" if planned else "exact", "about": "draws"})
        return None

    def worth(state: Seen) -> float:
        return 0.0 if state.best >= target else chance_of_next(state, target)

    return StopRule(name, start, see, decide, (verifier,), "exact", "verifier", worth=None if prior is None else worth)


def check_settings(target: float, confidence: float, cap: int | None) -> None:
    """ValueError where one of them means nothing."""
    if isinstance(target, bool) or not isinstance(target, int | float) or math.isnan(target):
        raise ValueError(f"the score that is good enough must be a number, got {target!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
    if cap is not None and cap < 1:
        raise ValueError(f"cap must be at least 1 draw, got {cap}")


def chance_of_next(state: Seen, target: float) -> float:
    """That the next draw reaches the target, as the question's prior and its draws have it; nobody's prior is
    uniform."""
    if isinstance(state.prior, ScorePrior):
        weights = beliefs(state.prior).posterior(state.tally)
        return max(0.0, -float(weights @ np.expm1(log_below(state.prior, target))))
    return (state.prior or BetaPrior(1.0, 1.0)).chance(state.draws)


def _cap_of(prior: Prior | None, target: float, confidence: float, cap: int) -> int:
    """Draws that give the question a success with chance `confidence`, averaged over its prior."""
    if isinstance(prior, ScorePrior):
        return plan(beliefs(prior).posterior(Tally()), log_below(prior, target), confidence, cap)
    return cap if prior is None else draws_for(prior, confidence, cap)
