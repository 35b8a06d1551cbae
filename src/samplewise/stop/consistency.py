"""Stop rules that look at how the votes agree. None of them guarantees anything, and each says so.

    asc      Adaptive-Consistency (arXiv 2305.11860)      leader against runner-up, a uniform prior
    share    the leader's share of the votes              (the same paper)
    entropy  the normalised entropy of the votes          (the same paper)
    esc      early-stopping self-consistency (2401.10480) a window of votes that all agree

`asc` would be model-based for a pair that was fixed beforehand. It is looked at after every vote, on the pair that the
votes themselves have picked, and is wrong more often than it says: among close questions 13 % where 5 % is nominal.
Votes alone count: an unreadable draw is paid for, and moves nothing. O(number of different answers) a draw.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from samplewise.stop.base import StopRule
from samplewise.stop.budget import expected_fall
from samplewise.stop.tables import asc_value, log_asc, needed
from samplewise.stop.votes import Votes, count_vote, fraction, no_votes, settled
from samplewise.types import Candidate, Question, Stop, Usage

NEVER = 1 << 31  # draws


def asc(confidence: float = 0.95) -> StopRule[Votes]:
    """Stop once the leader is more frequent than the runner-up with this confidence (Adaptive-Consistency).

    After 4 votes at the earliest, 6 at .99. Its worth, for a budget that questions share, is that of `blend_asc`.
    """
    boundary = needed(log_asc, math.log(fraction("confidence", confidence)))

    def decide(state: Votes, spent: Usage) -> Stop | None:
        if state.first < boundary(state.second):
            return None
        return settled(state, asc_value(state.first, state.second), confidence)

    def at_least(state: Votes) -> int:
        return max(1, boundary(state.second) - state.first)

    return StopRule("asc", no_votes, count_vote, decide, at_least=at_least, worth=expected_fall)


def share(level: float = 0.8) -> StopRule[Votes]:
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

    return StopRule("share", no_votes, count_vote, decide, at_least=at_least)


def entropy(level: float = 0.75) -> StopRule[Votes]:
    """Stop once the entropy of the votes, divided by the log of the number of answers, is at most this, from two votes
    on. One answer alone has entropy 0."""
    if not 0 <= level < 1:
        raise ValueError(f"level must be at least 0 and less than 1, got {level}")

    def decide(state: Votes, spent: Usage) -> Stop | None:
        if state.votes < 2:
            return None
        spread = normalised_entropy(state)
        return settled(state, spread, level) if spread <= level else None

    # an answer that comes up for the first time may lower it as much as a vote for the leader: no more can be said
    return StopRule("entropy", no_votes, count_vote, decide, at_least=lambda state: max(1, 2 - state.votes))


def normalised_entropy(state: Votes) -> float:
    """Entropy of the votes over the log of the number of different answers, 0 to 1; nan without a vote. The sum is
    exact to the last bit, so that the order of the votes cannot matter."""
    if len(state.counts) < 2:
        return 0.0 if state.counts else math.nan
    own = math.fsum(own * math.log(own) for own in state.counts.values() if own > 1)
    return (math.log(state.votes) - own / state.votes) / math.log(len(state.counts))


class Windows(NamedTuple):
    """The tally, the votes in the window that is being filled, and the answer they share: None once they differ."""

    votes: Votes = Votes()
    filled: int = 0
    shared: str | None = None


def esc(window: int = 5) -> StopRule[Windows]:
    """Stop once a window of so many votes is unanimous; windows follow one another and do not overlap.

    The answer is the majority of all votes, not that of the window. 5 or 8 votes are usual.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 vote, got {window}")

    def see(state: Windows, candidate: Candidate, answer: str | None) -> Windows:
        votes = count_vote(state.votes, candidate, answer)
        if answer is None:
            return state._replace(votes=votes)
        if state.filled in (0, window):
            return Windows(votes, 1, answer)
        return Windows(votes, state.filled + 1, answer if answer == state.shared else None)

    def decide(state: Windows, spent: Usage) -> Stop | None:
        if state.filled < window or state.shared is None:
            return None
        return settled(state.votes, window, window)

    def at_least(state: Windows) -> int:
        left = (window - state.filled) % window or window
        return left if state.filled in (0, window) or state.shared is not None else left + window

    def start(question: Question) -> Windows:
        return Windows()

    return StopRule("esc", start, see, decide, at_least=at_least)
