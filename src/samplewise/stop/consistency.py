"""Stop rules on how the votes agree. Neither guarantees anything, and each says so.

    asc  Adaptive-Consistency (arXiv 2305.11860): leader against runner-up, a uniform prior
    esc  early-stopping self-consistency (arXiv 2401.10480): a window of votes that all agree

`asc` would be model-based for a pair fixed beforehand. It is looked at after every vote, on the pair that the votes
themselves have picked, and is wrong more often than it says: 13 % among close questions where 5 % is nominal. An
unreadable draw is paid for and changes nothing. O(number of different answers) a draw.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from samplewise.core.checks import check_fraction
from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.budget import expected_fall
from samplewise.stop.tables import asc_value, boundary_at, log_asc
from samplewise.stop.votes import Votes, count_vote, no_votes, settled

NEVER = 1 << 31  # draws


def asc(confidence: float = 0.95) -> StopRule[Votes]:
    """Stop once the leader is more frequent than the runner-up with this confidence (Adaptive-Consistency).

    After 4 votes at the earliest, 6 at .99. Its expected gain, for a shared budget, is that of `blend_asc`.
    """
    boundary = boundary_at(log_asc, math.log(check_fraction("confidence", confidence)))

    def decide(state: Votes, spent: Usage) -> Stop | None:
        if state.first < boundary(state.second):
            return None
        return settled(state, asc_value(state.first, state.second), confidence)

    def at_least(state: Votes) -> int:
        return max(1, boundary(state.second) - state.first)

    return StopRule("asc", no_votes, count_vote, decide, at_least=at_least, expected_gain=expected_fall)


class Windows(NamedTuple):
    """The tally, the votes in the current window, and the answer they share: None once they differ."""

    votes: Votes = Votes()
    filled: int = 0
    shared: str | None = None


def esc(window: int = 5) -> StopRule[Windows]:
    """Stop once `window` votes in a row are unanimous; windows follow one another and do not overlap.

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
