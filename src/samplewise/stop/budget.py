"""The expected gain of the next vote, for questions that share a budget.

The probability that the leader is not the more frequent of the two leading answers is a martingale: no vote is expected
to lower it. A vote can lower the probability of a wrong answer, because the answer may change. One vote rarely changes
it, so the rule looks further: among the next h votes on the pair, drawn from its posterior (uniform prior), some
patterns make the runner-up the leader, and each gains by how much more likely the new leader then is. The expected gain
of a draw is the best gain per vote over h, times the probability that a draw is a vote on the pair at all.

The published way of sharing (blend-ASC, arXiv 2511.12309) ranks questions by a blend that is not given in full; this
rule is ours, for the same purpose. No guarantee.
"""

from __future__ import annotations

import functools
import math

from samplewise.core.types import Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.tables import log_tail
from samplewise.stop.votes import Votes, count_vote, no_votes


def blend_asc(floor: int = 3) -> StopRule[Votes]:
    """Share a budget: `floor` draws for every question, then each draw where P(wrong answer) is expected to fall most.

    It never stops by itself: the budget does, or another rule, as in `either(blend_asc, asc(0.99))`. The expected gain
    of a draw is the fall in the posterior probability that the answer is not the mode.
    """
    if floor < 0:
        raise ValueError(f"floor must be at least 0 draws, got {floor}")

    def decide(state: Votes, spent: Usage) -> Stop | None:
        return None

    def expected_gain(state: Votes) -> float:
        return math.inf if state.draws < floor else expected_fall(state)

    return StopRule("blend_asc", no_votes, count_vote, decide, expected_gain=expected_gain)


def expected_fall(state: Votes) -> float:
    """Return the expected fall per draw in the probability that the leader is not the mode, 0 to 1/4.

    The probability that a draw is readable has a uniform prior, so a question with nothing to read is abandoned in the
    end.
    """
    readable = (state.votes + 1) / (state.draws + 2)
    on_the_pair = (state.first + state.second + 2) / (state.votes + 2)
    return readable * on_the_pair * best_fall(state.first, state.second)


@functools.lru_cache(maxsize=1 << 14)
def best_fall(a: int, b: int) -> float:
    """Return the largest `fall(a, b, h) / h` over h, for a >= b.

    Below a - b + 1 votes the leader cannot change, and well above it the gain grows more slowly than h.
    """
    gap = a - b
    return max(fall(a, b, votes) / votes for votes in range(gap + 1, 3 * gap + 9))


def fall(a: int, b: int, votes: int) -> float:
    """Return the expected fall in the probability of a wrong answer after `votes` more on the pair. O(votes)."""
    gains = []
    for against in range((a - b + votes) // 2 + 1, votes + 1):  # those that turn the pair round
        log_prob = (
            math.lgamma(votes + 1) - math.lgamma(against + 1) - math.lgamma(votes - against + 1)
            + math.lgamma(a + b + 2) - math.lgamma(a + 1) - math.lgamma(b + 1)
            + math.lgamma(a + votes - against + 1) + math.lgamma(b + against + 1) - math.lgamma(a + b + votes + 2)
        )  # fmt: skip
        wrong = math.exp(log_tail(b + against, a + votes - against))
        gains.append(math.exp(log_prob) * (1 - 2 * wrong))
    return math.fsum(gains)
