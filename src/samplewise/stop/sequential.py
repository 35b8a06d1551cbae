"""Wald's sequential test of two answers, as published for votes (ConSol, arXiv 2503.17587) and in a valid form.

The likelihood ratio of "a gets the share q1 > 1/2 of the votes of the pair" against "1/2" is
(2 q1)^a * (2 (1 - q1))^b. As published, q1 is .5001 and beta so near to 1 - alpha that both of Wald's bounds are void:
the rule is "the leader leads by 3 votes", and is wrong in 18 to 70 % of close questions. With a real gap, a pair that
the counted votes have not picked, and 1/error as the level, the ratio is an e-value, and the rule is valid at any time.
O(number of different answers) a draw, for the tally.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from samplewise.core.checks import check_fraction
from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.votes import Votes, count_vote, no_votes, settled, vote_evidence

PUBLISHED_Q1 = 0.5001
PUBLISHED_SLACK = 2.4e-5  # beta = 1 - alpha - slack


class Duel(NamedTuple):
    """The tally, and the votes of the pair since both of its answers were named."""

    votes: Votes = Votes()
    pair: tuple[str, str] | None = None
    one: int = 0
    other: int = 0


class LikelihoodRatio(NamedTuple):
    """The log likelihood ratio (nats) is a * up + b * down; settled from `high` on, undecided up to `low`."""

    up: float
    down: float
    high: float
    low: float

    def of(self, a: int, b: int) -> float:
        """Return the log likelihood ratio of a votes against b."""
        return a * self.up + b * self.down

    def at_least(self, a: int, b: int) -> int:
        """Return the fewest votes until either level can be reached.

        Either all go to the one in front, or all to the one behind until they are level, and then in turn.
        """
        settle = math.ceil((self.high - self.of(a, b)) / self.up - 1e-9)
        level = math.ceil(2 * self.low / (self.up + self.down) - 1e-9)  # so many votes, of which half to each
        return max(1, min(settle, level - a - b))


def sprt(
    q1: float | None = None, *, error: float = 0.05, pair: tuple[str, str] | None = None
) -> StopRule[Votes] | StopRule[Duel]:
    """Stop by Wald's sequential test of two answers: as published, or with `q1` on a fixed pair.

    Without `q1`: leader against runner-up at the published setting, which is "lead by 3 votes" and guarantees nothing.
    With `q1` (.6 to .7): the answers of `pair`, or the first two different ones, of which only later votes count. It
    decides which of the two is more frequent, wrong with probability at most `error` at any time, and stops if that one
    leads all votes; it gives up where both ratios are at most `error`.
    """
    check_fraction("error", error)
    if q1 is None:
        if pair is not None:
            raise ValueError("pair needs q1, the share that one of the two is tested to have: sprt(0.6, pair=...)")
        return _published(error)
    if not 0.5 < q1 < 1:
        raise ValueError(f"q1 must be more than 1/2 and less than 1, got {q1}")
    if pair is not None and (
        len(pair) != 2 or pair[0] == pair[1] or not all(isinstance(answer, str) for answer in pair)
    ):
        raise ValueError(f"pair must be two different answers, got {pair!r}")
    return _honest(LikelihoodRatio(math.log(2 * q1), math.log(2 - 2 * q1), -math.log(error), math.log(error)), pair)


def _published(alpha: float) -> StopRule[Votes]:
    beta = 1 - alpha - PUBLISHED_SLACK
    high, low = math.log((1 - beta) / alpha), math.log(beta / (1 - alpha))
    ratio = LikelihoodRatio(math.log(2 * PUBLISHED_Q1), math.log(2 - 2 * PUBLISHED_Q1), high, low)

    def decide(state: Votes, spent: Usage) -> Stop | None:
        value = ratio.of(state.first, state.second)
        if value >= high:
            return settled(state, value, high)
        return Stop("futile", {"statistic": value, "threshold": low, **vote_evidence(state)}) if value <= low else None

    def at_least(state: Votes) -> int:
        return ratio.at_least(state.first, state.second)

    return StopRule("sprt", no_votes, count_vote, decide, at_least=at_least)


def _honest(ratio: LikelihoodRatio, named: tuple[str, str] | None) -> StopRule[Duel]:
    def start(question: Question) -> Duel:
        return Duel(pair=named)

    def see(state: Duel, candidate: Candidate, answer: str | None) -> Duel:
        votes = count_vote(state.votes, candidate, answer)
        if answer is None:
            return state._replace(votes=votes)
        if state.pair is None:  # the votes that name the pair do not count
            named_answers = tuple(votes.counts)
            return Duel(votes, (named_answers[0], named_answers[1]) if len(named_answers) == 2 else None)
        one, other = state.one + (answer == state.pair[0]), state.other + (answer == state.pair[1])
        return Duel(votes, state.pair, one, other)

    def decide(state: Duel, spent: Usage) -> Stop | None:
        if state.pair is None:
            return None
        a, b = max(state.one, state.other), min(state.one, state.other)
        value = ratio.of(a, b)
        winner = state.pair[0] if state.one >= state.other else state.pair[1]
        if value >= ratio.high and state.votes.leader == winner:
            return settled(state.votes, value, ratio.high, pair=[a, b])
        if value <= ratio.low:
            return Stop(
                "futile", {"statistic": value, "threshold": ratio.low, **vote_evidence(state.votes), "pair": [a, b]}
            )
        return None

    def at_least(state: Duel) -> int:
        naming = 0 if state.pair is not None else 2 - len(state.votes.counts)
        return naming + ratio.at_least(max(state.one, state.other), min(state.one, state.other))

    return StopRule("sprt", start, see, decide, (), "anytime-valid", "mode", at_least)
