"""What the next vote is worth, for questions that share a budget.

The chance that the leader is not the more frequent one of the two in front is a martingale: no vote is expected to
lower it. What a vote can lower is the chance of a wrong answer, as the answer may change. One vote rarely changes it,
so we look further: among the next h votes on the pair, drawn from its posterior law (uniform prior), some patterns turn
the pair round, and each is worth by how much the new leader is then the likelier one. The worth of a draw is the best
gain per vote over h, times the chance that a draw is a vote on the pair at all.

The published way of sharing (blend-ASC, arXiv 2511.12309) ranks questions by a blend that is not given in full; this is
ours, for the same purpose. No guarantee.
"""

from __future__ import annotations

import functools
import math

from samplewise.stop.base import StopRule
from samplewise.stop.tables import log_tail
from samplewise.stop.votes import Votes, count_vote, no_votes
from samplewise.types import Stop, Usage


def blend_asc(floor: int = 3) -> StopRule[Votes]:
    """Share a budget: `floor` draws for every question, then each draw where P(wrong answer) is expected to fall most.

    It never stops by itself: the budget does, or a rule beside it, as in `either(blend_asc, asc(0.99))`. The worth of a
    draw is the fall of the posterior chance that the answer is not the mode, per draw.
    """
    if floor < 0:
        raise ValueError(f"floor must be at least 0 draws, got {floor}")

    def decide(state: Votes, spent: Usage) -> Stop | None:
        return None

    def worth(state: Votes) -> float:
        return math.inf if state.draws < floor else expected_fall(state)

    return StopRule("blend_asc", no_votes, count_vote, decide, worth=worth)


def expected_fall(state: Votes) -> float:
    """Expected fall of the chance that the leader is not the mode, per draw: 0 to 1/4. The chance that a draw can be
    read has a uniform prior, so a question that gives nothing to read is left in the end."""
    readable = (state.votes + 1) / (state.draws + 2)
    on_the_pair = (state.first + state.second + 2) / (state.votes + 2)
    return readable * on_the_pair * best_fall(state.first, state.second)


@functools.lru_cache(maxsize=1 << 14)
def best_fall(a: int, b: int) -> float:
    """The largest `fall(a, b, h) / h`, for a >= b. Below a - b + 1 votes nothing can turn, and well above it the gain
    grows slower than h."""
    gap = a - b
    return max(fall(a, b, votes) / votes for votes in range(gap + 1, 3 * gap + 9))


def fall(a: int, b: int, votes: int) -> float:
    """How much lower the chance of a wrong answer is expected to be after `votes` more on the pair. O(votes)."""
    gained = []
    for against in range((a - b + votes) // 2 + 1, votes + 1):  # those that turn the pair round
        log_chance = (
            math.lgamma(votes + 1) - math.lgamma(against + 1) - math.lgamma(votes - against + 1)
            + math.lgamma(a + b + 2) - math.lgamma(a + 1) - math.lgamma(b + 1)
            + math.lgamma(a + votes - against + 1) + math.lgamma(b + against + 1) - math.lgamma(a + b + votes + 2)
        )  # fmt: skip
        wrong = math.exp(log_tail(b + against, a + votes - against))
        gained.append(math.exp(log_chance) * (1 - 2 * wrong))
    return math.fsum(gained)
