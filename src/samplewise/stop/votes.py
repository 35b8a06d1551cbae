"""The tally of a vote, as a state that grows by one draw at a time."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from samplewise.core.types import Candidate, Json, Question, Stop

EMPTY: Mapping[str, int] = MappingProxyType({})


class Votes(NamedTuple):
    """Counts by answer, in the order in which the answers first came.

    The leader is the first answer to reach its count and stays so until another has more; so is the runner-up among all
    others. Unreadable draws are draws, not votes.
    """

    draws: int = 0
    votes: int = 0
    counts: Mapping[str, int] = EMPTY
    leader: str | None = None
    first: int = 0  # votes of the leader
    second: int = 0  # votes of the best other answer; 0 where there is none
    runner_up: str | None = None


def no_votes(question: Question) -> Votes:
    """Return the empty tally."""
    return Votes()


def count_vote(state: Votes, candidate: Candidate, answer: str | None) -> Votes:
    """Return the tally with one more draw."""
    draws, votes, counts, leader, first, second, runner_up = state
    if answer is None:
        return Votes(draws + 1, votes, counts, leader, first, second, runner_up)
    count = counts.get(answer, 0) + 1
    counts = {**counts, answer: count}
    if answer == leader:
        first = count
    elif count > first:  # it had as many as the leader, who now comes second: nobody reached that count earlier
        leader, runner_up, first, second = answer, leader, count, first
    elif count > second:
        runner_up, second = answer, count
    return Votes(draws + 1, votes + 1, counts, leader, first, second, runner_up)


def vote_evidence(state: Votes) -> dict[str, Json]:
    """Return what the evidence of every vote rule says: counts from large to small, votes and draws.

    No answer is named, so equal votes on other answers give equal evidence.
    """
    return {"counts": sorted(state.counts.values(), reverse=True), "votes": state.votes, "draws": state.draws}


def settled(state: Votes, statistic: float, threshold: float, **more: Json) -> Stop:
    """Return a "settled" stop whose evidence is the tally, the statistic and the threshold it reached."""
    return Stop("settled", {"statistic": statistic, "threshold": threshold, **vote_evidence(state), **more})
