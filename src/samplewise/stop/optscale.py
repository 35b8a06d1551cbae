"""OptScale (arXiv 2506.22376): as many draws as a target score needs, in three modes.

N draws hold a score of at least `target` with chance `confidence` where N = ceil(ln(1 - confidence) / ln F(target)), F
the question's law of scores: a normal cut to [0, 1], fitted to few scores, by likelihood or with a prior (mu, sg).

* "better", the default: the first candidate at the target ends the run (`samplewise.stop.first_pass`); futility and a
  cap end it elsewhere. Same chance of success, 22 to 39 % of the draws.
* "paper": after every draw the law is fitted again and N made again; the run ends once N are drawn.
* "code": as released. One look after `peek` draws, one N by a grid of 1,000 points (`samplewise.stop.grid`), and then
  max(peek, N) draws, whatever has been found by then.

A fitted law under-covers even where the family is right, as N does not know how uncertain the fit is: the last two
modes are heuristic, and are here to be compared with. Scores that are all equal have the law that says so; all 0 and 1,
the uniform prior's Beta law of p. In both fidelity modes an empty response scores 0.

Cost of a decision: 5 microseconds (better), 160 (paper; 6 milliseconds with a prior); once a question 9 milliseconds
(code).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from samplewise.stop.base import StopRule
from samplewise.stop.first_pass import CAP, Futility, Seen, check_settings, first_pass
from samplewise.stop.grid import Normal, fit_released, grid_count
from samplewise.stop.prior import BetaPrior, draws_for
from samplewise.stop.truncated import Law, Tally, draws_needed, fit, log_cdf, normal
from samplewise.types import Candidate, Question, Stop, Usage

__all__ = ["Plan", "grid_count", "make_plan", "optscale"]

Mode = Literal["better", "paper", "code"]
FIRST = 3  # scores that the paper's mode waits for


class Plan(NamedTuple):
    """How many draws a question needs, and the law behind it: None where the scores have none of the family."""

    draws: int
    law: Law | None


class Planned(NamedTuple):
    """Draws, their scores' tally, those at the target, and the plan as it stands."""

    draws: int = 0
    tally: Tally = Tally()
    passes: int = 0
    clipped: int = 0
    plan: Plan | None = None


def optscale(
    confidence: float = 0.95,
    verifier: str | None = None,
    *,
    target: float | None = None,
    mode: Mode = "better",
    cap: int | None = None,
    peek: int = 4,
    prior: tuple[float, ...] | str | None = None,
    price: float | None = None,
    futility: Futility | None = None,
    attain: bool = False,
) -> StopRule[Seen] | StopRule[Planned]:
    """Draw until the best score by `verifier` is at least `target`, with chance `confidence`, and not for longer.

    There is no default target: what score is good enough is the verifier's affair, best a calibrated chance to be
    right. `price`, `prior`, `futility` and `attain` are those of `passed`; in the modes "paper" and "code" `prior` is
    the (mu, sg) that the fit is drawn to, and `peek` the draws before the one look of "code".
    """
    if verifier is None or target is None:
        raise ValueError("give a verifier and the score that is enough, such as optscale(0.95, reward, target=0.9)")
    if mode == "better":
        return first_pass("optscale", verifier, target, price, prior, futility, confidence, cap, attain)
    if mode not in ("paper", "code"):
        raise ValueError(f"mode must be 'better', 'paper' or 'code', got {mode!r}")
    if price is not None or futility is not None or attain:
        raise ValueError(f"mode {mode!r} knows neither price, futility nor attain; mode='better' does")
    cap = CAP if cap is None else cap
    check_settings(target, confidence, cap)
    if mode == "code" and not 1 <= peek <= cap:
        raise ValueError(f"peek must be in 1..cap, got {peek}")
    return _planner(confidence, verifier, float(target), mode, cap, peek, _normal(prior))


def _normal(prior: tuple[float, ...] | str | None) -> Normal | None:
    if prior is None:
        return None
    if isinstance(prior, str) or len(prior) != 2 or not prior[1] > 0:
        raise ValueError(f"the prior of the modes 'paper' and 'code' is (mu, sg), got {prior!r}")
    return Normal(*map(float, prior))


def make_plan(
    tally: Tally,
    passes: int,
    target: float,
    confidence: float,
    cap: int,
    prior: Normal | None = None,
    start: Law | None = None,
) -> Plan:
    """The draws that a tally of scores, `passed` of them at the target, asks for in all. `start` is an earlier fit."""
    if tally.num == 0:
        return Plan(cap, None)
    law = fit(tally, start) if prior is None else _posterior(tally, prior)
    if law is not None:
        return Plan(draws_needed(log_cdf(law, target), confidence, cap), law)
    if tally.low == tally.high:
        return Plan(1 if tally.low >= target else cap, None)
    return Plan(draws_for(BetaPrior(1.0 + passes, 1.0 + tally.num - passes), confidence, cap), None)


def _posterior(tally: Tally, prior: Normal) -> Law:
    """The normal of largest posterior: not convex in (mu, sg), so from three starts."""
    own = Normal(tally.mean, math.sqrt(tally.variance))
    likely = fit(tally)
    starts = [prior, own]
    if likely is not None and likely.e2 < 0:
        starts.append(Normal(-0.5 * likely.e1 / likely.e2, math.sqrt(-0.5 / likely.e2)))
    return normal(*fit_released(tally, prior, starts))


def _planner(
    confidence: float, verifier: str, target: float, mode: Mode, cap: int, peek: int, prior: Normal | None
) -> StopRule[Planned]:
    first = min(FIRST, cap) if mode == "paper" else peek

    def start(question: Question) -> Planned:
        return Planned()

    def see(state: Planned, candidate: Candidate, answer: str | None) -> Planned:
        draws, tally, passes, clipped, plan = state
        value = candidate.scores.get(verifier, math.nan) if candidate.text else 0.0
        if not math.isnan(value):
            inside = min(max(value, 0.0), 1.0)
            tally, clipped, passes = tally.add(inside), clipped + (inside != value), passes + (value >= target)
        draws += 1
        if mode == "code" and draws == peek:
            plan = Plan(_released(tally), None)
        elif mode == "paper" and first <= draws < cap:
            plan = make_plan(tally, passes, target, confidence, cap, prior, plan.law if plan else None)
        return Planned(draws, tally, passes, clipped, plan)

    def _released(tally: Tally) -> int:
        if tally.num == 0:
            return cap
        law = fit_released(tally, prior)
        return int(grid_count(*law, target, confidence, peek, cap)[0, 0, 0])

    def decide(state: Planned, spent: Usage) -> Stop | None:
        draws, tally, passes, clipped, plan = state
        if draws < min(first, cap):
            return None
        said = {"needed": target, "best": tally.high if tally.num else None, "draws": draws, "cap": cap, "mode": mode}
        if clipped:
            said["clipped"] = clipped
        if draws >= cap:
            return Stop("cap", said)
        if plan is not None and draws >= plan.draws:
            return Stop("success" if passes else "futile", {**said, "plan": plan.draws})
        return None

    def at_least(state: Planned) -> int:
        if state.draws < first:
            return first - state.draws
        return max(1, (state.plan.draws if mode == "code" and state.plan else 0) - state.draws)

    return StopRule("optscale", start, see, decide, (verifier,), "heuristic", "verifier", at_least=at_least)
