"""DeepConf (arXiv 2508.15260): votes of the most confident draws alone, until they agree.

A draw's confidence is its score under "deepconf.least", that of its least confident window. A draw without it is paid
for and changes nothing. O(number of different answers) a draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.core.checks import check_fraction
from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.votes import Votes, count_vote, settled

NO_WEIGHTS: Mapping[str, float] = {}
SUREST = 1e-6  # no single draw is believed to be wrong, or right, with less than this
RANGE = 1e-4  # of a chance of success that a number of draws is computed from
LEAST = "deepconf.least"  # of samplers/confidence.py, in the scores of draws made with top=True


class Trusted(NamedTuple):
    """The state of `deepconf`.

    It holds the tally, the first scored draws as (confidence, answer), the confidence that a vote needs (`bar`, nan
    while unknown), and the weights of the trusted votes by answer.
    """

    votes: Votes = Votes()
    warmed: tuple[tuple[float, str | None], ...] = ()
    bar: float = math.nan
    weights: Mapping[str, float] = NO_WEIGHTS


def deepconf(keep: float = 0.1, *, warm_up: int = 16, consensus: float = 0.95) -> StopRule[Trusted]:
    """Stop once the most confident draws agree (DeepConf), in votes weighted by confidence.

    After `warm_up` draws, those at least as confident as the top `keep` of them vote, until one answer has the share
    `consensus`.

    The confidence of a draw is that of its least confident window, which needs the likeliest tokens: `repeat(64,
    top=True)`; without them the rule never stops. As published, a draw below the bar is cut short while it is written;
    here it is written and paid in full. `keep` .1 is the published "low", .9 is "high".
    """
    check_fraction("keep", keep)
    if warm_up < 1:
        raise ValueError(f"warm_up must be at least 1 draw, got {warm_up}")
    if not 0 < consensus <= 1:
        raise ValueError(f"consensus must be more than 0 and at most 1, got {consensus}")

    def start(question: Question) -> Trusted:
        return Trusted()

    def trust(weights: Mapping[str, float], bar: float, confidence: float, answer: str | None) -> Mapping[str, float]:
        return (
            weights
            if answer is None or confidence < bar
            else {**weights, answer: weights.get(answer, 0.0) + confidence}
        )

    def see(state: Trusted, candidate: Candidate, answer: str | None) -> Trusted:
        votes, warmed, bar, weights = count_vote(state.votes, candidate, answer), *state[1:]
        confidence = candidate.scores.get(LEAST, math.nan)
        if math.isnan(confidence):
            return state._replace(votes=votes)
        if len(warmed) >= warm_up:
            return Trusted(votes, warmed, bar, trust(weights, bar, confidence, answer))
        warmed = (*warmed, (confidence, answer))
        if len(warmed) == warm_up:
            bar = sorted(value for value, _ in warmed)[-math.ceil(keep * warm_up - 1e-9)]
            for value, answer_of_draw in warmed:
                weights = trust(weights, bar, value, answer_of_draw)
        return Trusted(votes, warmed, bar, weights)

    def decide(state: Trusted, spent: Usage) -> Stop | None:
        total = math.fsum(state.weights.values())
        if total <= 0:
            return None
        share = max(state.weights.values()) / total
        return settled(state.votes, share, consensus, bar=state.bar) if share >= consensus - 1e-12 else None

    def at_least(state: Trusted) -> int:
        return max(1, warm_up - len(state.warmed))

    return StopRule("deepconf", start, see, decide, at_least=at_least)
