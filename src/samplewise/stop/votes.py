"""The tally of a vote, as a state that grows by one draw at a time."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from samplewise.types import Candidate, Question

EMPTY: Mapping[str, int] = MappingProxyType({})


class Votes(NamedTuple):
    """Counts by answer, in the order in which the answers first came. The leader is the first to reach its count, and
    keeps it until another has more. Unreadable draws are draws, not votes."""

    draws: int = 0
    votes: int = 0
    counts: Mapping[str, int] = EMPTY
    leader: str | None = None
    first: int = 0  # votes of the leader
    second: int = 0  # votes of the best other answer; 0 where there is none


def no_votes(question: Question) -> Votes:
    return Votes()


def count_vote(state: Votes, candidate: Candidate, answer: str | None) -> Votes:
    """The tally with one draw more."""
    draws, votes, counts, leader, first, second = state
    if answer is None:
        return Votes(draws + 1, votes, counts, leader, first, second)
    own = counts.get(answer, 0) + 1
    counts = {**counts, answer: own}
    if answer == leader:
        first = own
    elif own > first:  # it was the second, by one vote
        leader, first, second = answer, own, first
    elif own > second:
        second = own
    return Votes(draws + 1, votes + 1, counts, leader, first, second)
