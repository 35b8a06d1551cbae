"""The tally of a vote, as a state that grows by one draw at a time."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from samplewise.types import Candidate, Json, Question, Stop

EMPTY: Mapping[str, int] = MappingProxyType({})


class Votes(NamedTuple):
    """Counts by answer, in the order in which the answers first came. The leader is the first to reach its count, and
    keeps it until another has more; so is the runner-up among all others. Unreadable draws are draws, not votes."""

    draws: int = 0
    votes: int = 0
    counts: Mapping[str, int] = EMPTY
    leader: str | None = None
    first: int = 0  # votes of the leader
    second: int = 0  # votes of the best other answer; 0 where there is none
    runner_up: str | None = None


def no_votes(question: Question) -> Votes:
    return Votes()


def count_vote(state: Votes, candidate: Candidate, answer: str | None) -> Votes:
    """The tally with one draw more."""
    draws, votes, counts, leader, first, second, runner_up = state
    if answer is None:
        return Votes(draws + 1, votes, counts, leader, first, second, runner_up)
    own = counts.get(answer, 0) + 1
    counts = {**counts, answer: own}
    if answer == leader:
        first = own
    elif own > first:  # it had as many as the leader, who now comes second: nobody reached that count earlier
        leader, runner_up, first, second = answer, leader, own, first
    elif own > second:
        runner_up, second = answer, own
    return Votes(draws + 1, votes + 1, counts, leader, first, second, runner_up)


def tally(state: Votes) -> dict[str, Json]:
    """What the evidence of every vote rule says: counts from large to small, votes and draws. No answer is named, so
    that equal votes on other answers are equal evidence."""
    return {"counts": sorted(state.counts.values(), reverse=True), "votes": state.votes, "draws": state.draws}


def settled(state: Votes, statistic: float, threshold: float, **more: Json) -> Stop:
    """More votes would not change the answer: the evidence is the tally, the statistic and what it had to reach."""
    return Stop("settled", {"statistic": statistic, "threshold": threshold, **tally(state), **more})


def fraction(name: str, value: float) -> float:
    """A setting that must lie between 0 and 1, both excluded, or ValueError."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, both excluded, got {value}")
    return value
