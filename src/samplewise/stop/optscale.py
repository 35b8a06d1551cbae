"""OptScale (arXiv 2506.22376): as many draws as a target score needs, in three modes.

N draws hold a score of at least `target` with probability `confidence` where N = ceil(ln(1 - confidence) / ln
F(target)), F the question's distribution of scores: a normal truncated to [0, 1], fitted to few scores by likelihood or
with a prior (mu, sg).

* "better", the default: the first candidate at the target ends the run (`samplewise.stop.first_pass`); futility and a
  cap end it elsewhere. Same probability of success, 22 to 39 % of the draws.
* "paper": after every draw the distribution is fitted again and N computed again; the run ends once N are drawn.
* "code": as released. One look after `peek` draws, one N by a grid of 1,000 points (`samplewise.stop.grid`), and then
  max(peek, N) draws, whatever has been found by then.

A fitted distribution under-covers even where the family is right, since N ignores how uncertain the fit is: the last
two modes are heuristic, and are here for comparison. Scores that are all equal have the distribution that says so;
scores that are all 0 or 1 have the uniform prior's Beta of p. In both of these modes an empty response scores 0, and a
score outside [0, 1] is refused.

Cost of a decision: 5 microseconds (better), 160 (paper; 6 milliseconds with a prior); once a question 9 milliseconds
(code).
"""

from __future__ import annotations

import functools
import math
from typing import Literal, NamedTuple

from samplewise.core.errors import UsageError
from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.first_pass import CAP, Futility, PassSettings, PassState, check_settings, first_pass
from samplewise.stop.grid import Normal, fit_released, grid_count
from samplewise.stop.prior import BetaPrior, draws_for
from samplewise.stop.truncated import ScoreTally, TruncatedNormal, draws_needed, fit, log_cdf, truncated_normal

Mode = Literal["better", "paper", "code"]
FIRST = 3  # scores that the paper's mode waits for


class DrawPlan(NamedTuple):
    """The draws that a question needs, and the distribution behind it: None if the scores fit none of the family."""

    draws: int
    distribution: TruncatedNormal | None


class PlanState(NamedTuple):
    """Draws, the tally of their scores, those at the target, and the current plan."""

    draws: int = 0
    tally: ScoreTally = ScoreTally()
    passes: int = 0
    plan: DrawPlan | None = None


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
) -> StopRule[PassState] | StopRule[PlanState]:
    """Draw until the best score by `verifier` is at least `target`, with probability `confidence`, and no longer.

    There is no default target: what score is good enough depends on the verifier, best a calibrated probability of
    being right. `price`, `prior`, `futility` and `attain` are those of `passed`. In the modes "paper" and "code"
    `prior` is the (mu, sg) that the fit is drawn to, and `peek` the draws before the one look of "code".
    """
    if verifier is None or target is None:
        raise ValueError("give a verifier and the score that is enough, such as optscale(0.95, reward, target=0.9)")
    if mode == "better":
        settings = PassSettings(verifier, target, price, prior, futility, confidence, cap, attain)
        return first_pass("optscale", settings)
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


def plan_draws_for(
    tally: ScoreTally,
    passes: int,
    target: float,
    confidence: float,
    cap: int,
    prior: Normal | None = None,
    start: TruncatedNormal | None = None,
) -> DrawPlan:
    """Return the draws in all that a tally of scores asks for, `passes` of them at the target. `start` is an earlier
    fit.
    """
    if tally.num == 0:
        return DrawPlan(cap, None)
    fitted = fit(tally, start) if prior is None else _posterior(tally, prior)
    if fitted is not None:
        return DrawPlan(draws_needed(log_cdf(fitted, target), confidence, cap), fitted)
    if tally.low == tally.high:
        return DrawPlan(1 if tally.low >= target else cap, None)
    return DrawPlan(draws_for(BetaPrior(1.0 + passes, 1.0 + tally.num - passes), confidence, cap), None)


def _posterior(tally: ScoreTally, prior: Normal) -> TruncatedNormal:
    """Return the normal of largest posterior. It is not convex in (mu, sg), so the search has three starts."""
    plain = Normal(tally.mean, math.sqrt(tally.variance))
    fitted = fit(tally)
    starts = [prior, plain]
    if fitted is not None and fitted.e2 < 0:
        starts.append(Normal(-0.5 * fitted.e1 / fitted.e2, math.sqrt(-0.5 / fitted.e2)))
    return truncated_normal(*fit_released(tally, prior, starts))


def _planner(
    confidence: float, verifier: str, target: float, mode: Mode, cap: int, peek: int, prior: Normal | None
) -> StopRule[PlanState]:
    first = min(FIRST, cap) if mode == "paper" else peek

    def start(question: Question) -> PlanState:
        return PlanState()

    def see(state: PlanState, candidate: Candidate, answer: str | None) -> PlanState:
        draws, tally, passes, plan = state
        value = candidate.scores.get(verifier, math.nan) if candidate.text else 0.0
        if not math.isnan(value):
            if not 0.0 <= value <= 1.0:
                raise UsageError(
                    f"optscale(mode={mode!r}) takes scores in [0, 1], and {verifier} gave {value:g}: calibrate it "
                    "(samplewise calibrate), or use mode='better', which takes any score"
                )
            tally, passes = tally.add(value), passes + (value >= target)
        draws += 1
        if mode == "code" and draws == peek:
            plan = DrawPlan(_released(tally), None)
        elif mode == "paper" and first <= draws < cap:
            plan = plan_draws_for(tally, passes, target, confidence, cap, prior, plan.distribution if plan else None)
        return PlanState(draws, tally, passes, plan)

    @functools.lru_cache(maxsize=1024)  # a replay in many orders meets the same few scores again
    def _released(tally: ScoreTally) -> int:
        if tally.num == 0:
            return cap
        fitted = fit_released(tally, prior)
        return int(grid_count(*fitted, target, confidence, peek, cap)[0, 0, 0])

    def decide(state: PlanState, spent: Usage) -> Stop | None:
        draws, tally, passes, plan = state
        if draws < min(first, cap):
            return None
        evidence = {
            "needed": target,
            "best": tally.high if tally.num else None,
            "draws": draws,
            "cap": cap,
            "mode": mode,
        }
        if draws >= cap:
            return Stop("cap", evidence)
        if plan is not None and draws >= plan.draws:
            return Stop("success" if passes else "futile", {**evidence, "plan": plan.draws})
        return None

    def at_least(state: PlanState) -> int:
        if state.draws < first:
            return first - state.draws
        return max(1, (state.plan.draws if mode == "code" and state.plan else 0) - state.draws)

    return StopRule("optscale", start, see, decide, (verifier,), "heuristic", "verifier", at_least=at_least)
