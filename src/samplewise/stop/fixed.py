"""Stop rules without a model: after a number of draws, or once a vote leads by enough."""

from __future__ import annotations

from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.votes import Votes, count_vote, no_votes


def lead(margin: int) -> StopRule[Votes]:
    """Stop once the most frequent answer leads the next by `margin` votes. Unreadable candidates do not vote."""
    if margin < 1:
        raise ValueError(f"margin must be at least 1 vote, got {margin}")

    def decide(state: Votes, spent: Usage) -> Stop | None:
        ahead = state.first - state.second
        if ahead < margin:
            return None
        return Stop("settled", {"lead": ahead, "needed": margin, "votes": state.votes, "draws": state.draws})

    return StopRule(
        "lead", no_votes, count_vote, decide, at_least=lambda state: max(1, margin - state.first + state.second)
    )


def cap(draws: int) -> StopRule[int]:
    """Stop after `draws` draws, whatever they are."""
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")

    def see(state: int, candidate: Candidate, answer: str | None) -> int:
        return state + 1

    def decide(state: int, spent: Usage) -> Stop | None:
        return Stop("cap", {"draws": state}) if state >= draws else None

    def start(question: Question) -> int:
        return 0

    return StopRule("cap", start, see, decide, (), "exact", "draws", at_least=lambda state: max(1, draws - state))
