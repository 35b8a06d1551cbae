"""UCB-Pandora (arXiv 2510.01394), for comparison with `pandora` and `beacon`.

Rewards v = exp(r) with an exponential upper half are made comparable as v / (v + M), where M is an estimate of the best
of `most` draws that becomes more certain with n. The released code ignores that only half of the draws lie above the
median; here that is counted.
"""

from __future__ import annotations

import bisect
import math
from typing import NamedTuple

from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.reward import _check_cap


class Sorted(NamedTuple):
    """Draws, and their rewards in order."""

    draws: int = 0
    rewards: tuple[float, ...] = ()


def ucb_pandora(
    verifier: str, *, price: float, error: float = 0.05, first: int = 20, most: int = 960, cap: int = 960
) -> StopRule[Sorted]:
    """Stop once the next draw's expected gain in v / (v + M) is at most `price`, 6e-5 to 8e-3 in the paper.

    v = exp(reward). M estimates the best of `most` draws: median + ln(most / 5) * scale * (1 - f), scale the mean of
    the upper half above the median, f = sqrt(ln n ln(1/error) / n). O(n) a decision.
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
        index = bisect.bisect(state.rewards, reward)
        return Sorted(state.draws + 1, (*state.rewards[:index], reward, *state.rewards[index:]))

    def expected_gain(state: Sorted) -> float:
        return math.inf if len(state.rewards) < first else pandora_gain(state.rewards, error, most)

    def decide(state: Sorted, spent: Usage) -> Stop | None:
        if state.draws == 0:
            return None
        best = state.rewards[-1] if state.rewards else None
        evidence = {"best": best, "draws": state.draws, "price": price, "cap": cap}
        if (gain := expected_gain(state)) <= price:
            return Stop("futile", {**evidence, "gain": gain})
        return Stop("cap", evidence) if state.draws >= cap else None

    def at_least(state: Sorted) -> int:
        return max(1, min(first - len(state.rewards), cap - state.draws))

    return StopRule("ucb_pandora", start, see, decide, (verifier,), "model-based", "verifier", at_least, expected_gain)


def pandora_gain(rewards: tuple[float, ...], error: float, most: int) -> float:
    """Return E[(u - best u)+] of the next draw, u = v / (v + M), for sorted rewards (n,).

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
    """Return exp(x) E1(x), by its continued fraction where exp(x) is large."""
    from scipy.special import exp1

    if x < 50:
        return math.exp(x) * float(exp1(x))
    below = x
    for n in range(20, 0, -1):
        below = x + n / (1 + n / below)
    return 1 / below
