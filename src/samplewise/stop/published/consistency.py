"""Published rules on how the votes agree, for comparison with `asc`. Neither guarantees anything.

    vote_share  the leader's share of the votes         (Adaptive-Consistency, arXiv 2305.11860)
    entropy     the normalised entropy of the votes     (the same paper)
    agreement   votes in a row that agree               (the baseline of BranchPilot)

Votes alone count: an unreadable draw is paid for and changes nothing. O(number of different answers) a draw.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from samplewise.core.checks import check_count
from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.consistency import NEVER
from samplewise.stop.votes import Votes, count_vote, no_votes, settled


def vote_share(level: float = 0.8) -> StopRule[Votes]:
    """Stop once the leader has this share of the votes, from two votes on."""
    if not 0 < level <= 1:
        raise ValueError(f"level must be more than 0 and at most 1, got {level}")

    def decide(state: Votes, spent: Usage) -> Stop | None:
        if state.votes < 2 or state.first < level * state.votes:
            return None
        return settled(state, state.first / state.votes, level)

    def at_least(state: Votes) -> int:
        missing = level * state.votes - state.first
        if missing > 0 and level == 1:
            return NEVER
        more = math.ceil(missing / (1 - level) - 1e-9) if missing > 0 else 1
        return max(1, 2 - state.votes, more)

    return StopRule("vote_share", no_votes, count_vote, decide, at_least=at_least)


def entropy(level: float = 0.75) -> StopRule[Votes]:
    """Stop once the entropy of the votes, divided by the log of the number of answers, is at most this.

    From two votes on. One answer alone has entropy 0.
    """
    if not 0 <= level < 1:
        raise ValueError(f"level must be at least 0 and less than 1, got {level}")

    def decide(state: Votes, spent: Usage) -> Stop | None:
        if state.votes < 2:
            return None
        spread = normalised_entropy(state)
        return settled(state, spread, level) if spread <= level else None

    # an answer that comes up for the first time may lower it as much as a vote for the leader: no more can be said
    return StopRule("entropy", no_votes, count_vote, decide, at_least=lambda state: max(1, 2 - state.votes))


class Streak(NamedTuple):
    """The tally, the answer of the last vote, and how many votes in a row were for it."""

    votes: Votes = Votes()
    answer: str | None = None
    length: int = 0


def agreement(n: int = 2) -> StopRule[Streak]:
    """Stop once `n` votes in a row agree.

    Unlike the windows of `esc`, the votes that agree may begin anywhere. The answer is the selector's: with `vote`, the
    majority of all votes, not that of the last ones.
    """
    check_count("n", n)

    def see(state: Streak, candidate: Candidate, answer: str | None) -> Streak:
        votes = count_vote(state.votes, candidate, answer)
        if answer is None:
            return state._replace(votes=votes)
        return Streak(votes, answer, state.length + 1 if answer == state.answer else 1)

    def decide(state: Streak, spent: Usage) -> Stop | None:
        return settled(state.votes, state.length, n) if state.length >= n else None

    def start(question: Question) -> Streak:
        return Streak()

    return StopRule("agreement", start, see, decide, at_least=lambda state: max(1, n - state.length))


def normalised_entropy(state: Votes) -> float:
    """Return the entropy of the votes over the log of the number of different answers, 0 to 1; nan without a vote.

    The sum is exact to the last bit, so the order of the votes cannot matter.
    """
    if len(state.counts) < 2:
        return 0.0 if state.counts else math.nan
    count = math.fsum(count * math.log(count) for count in state.counts.values() if count > 1)
    return (math.log(state.votes) - count / state.votes) / math.log(len(state.counts))
