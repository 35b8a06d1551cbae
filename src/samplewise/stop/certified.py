"""A stop rule whose error is bounded at any time: e-values, which may be looked at after every vote.

An e-value is a product whose mean never exceeds 1 while a hypothesis is true, so the probability that it ever reaches
1/error is at most `error` (Ville, 1939). Here the hypothesis is "another answer is at least as frequent". The leader is
certified as the mode of the model's answers once this is rejected for every other answer.

`vote_e` is ours: no answer is named beforehand, there is no list of answers and no union bound. It is about the mode,
which need not be the truth. O(number of different answers) a draw. `samplewise.stop.published.e_values` holds others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.core.checks import check_fraction
from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.tables import boundary_at, log_e1
from samplewise.stop.votes import EMPTY, Votes, count_vote, settled


class Race(NamedTuple):
    """The tally and, for every answer k, a pair (A, B).

    A votes went to the answer that led all others but k just before the vote. B votes went to k while there was such a
    leader. For every k but the leader that answer is the leader, so A is `led` plus the difference `extra` for answers
    that have led. B is k's count without the votes of the very first answer before a second one came: `alone`.
    """

    votes: Votes = Votes()
    led: int = 0  # votes that went to the leader of that time; A of an answer not seen yet, whose B is 0
    extra: Mapping[str, int] = EMPTY
    alone: int = 0


def see_race(state: Race, candidate: Candidate, answer: str | None) -> Race:
    """Add one answer to the race."""
    before = state.votes
    votes, led, extra, alone = count_vote(before, candidate, answer), state.led, state.extra, state.alone
    if answer is None or before.leader is None:
        return Race(votes, led, extra, alone + (answer is not None))
    if answer == before.leader:
        led, extra = led + 1, {**extra, answer: extra.get(answer, 0) - 1}
        alone += before.runner_up is None
    elif answer == before.runner_up:
        extra = {**extra, before.leader: extra.get(before.leader, 0) + 1}
    return Race(votes, led, extra, alone)


def pair_of(state: Race, answer: str) -> tuple[int, int]:
    """Return the pair (A, B) of an answer: (led, 0) for one that has not been seen."""
    votes_of_answer = state.votes.counts.get(answer, 0)
    is_first = votes_of_answer and answer == next(iter(state.votes.counts))
    return state.led + state.extra.get(answer, 0), votes_of_answer - (state.alone if is_first else 0)


def vote_e(error: float = 0.05) -> StopRule[Race]:
    """Stop once the leader is the mode of the model's answers, wrong with probability at most `error`, at any time.

    Needs no list of answers. It costs one vote more than a test of two answers fixed beforehand: 8 equal votes at .05,
    6 at .10. Every other answer k has a process of its own, and so does any answer not seen yet. If k is a mode, each
    factor 1 + lam (1[that leader] - 1[k]) has mean at most 1, because the leader is known before the vote; the mixture
    over lam is e1(A, B). To certify a wrong answer the true mode's own process must reach 1/error.

    Where m answers are modes, exactly tied, one of them is certified with probability at most m/(m - 1) * `error`,
    twice `error` for two: the answer is then a mode, but not the only one. One that is no mode is certified with
    probability at most `error` there, too.
    """
    boundary = boundary_at(log_e1, -math.log(check_fraction("error", error)))

    def start(question: Question) -> Race:
        return Race()

    def decide(state: Race, spent: Usage) -> Stop | None:
        led, votes = state.led, state.votes
        if led < boundary(0):
            return None
        for answer in votes.counts:
            if answer != votes.leader:
                ahead, behind = pair_of(state, answer)
                if ahead < boundary(behind):
                    return None
        rivals = [pair_of(state, answer) for answer in votes.counts if answer != votes.leader]
        least = min(log_e1(ahead, behind) for ahead, behind in [*rivals, (led, 0)])
        return settled(votes, math.exp(least), 1 / error)

    def at_least(state: Race) -> int:
        """Return the votes needed in the best case.

        A vote adds at most one to each A. The certified answer need not reject itself, so the pair furthest from its
        boundary may be its own.
        """
        pairs = [pair_of(state, answer) for answer in state.votes.counts]
        missing = sorted(boundary(behind) - ahead for ahead, behind in pairs)
        unseen = boundary(0) - state.led + (state.votes.leader is None)
        return max(1, unseen, *missing[-2:-1])

    return StopRule("vote_e", start, see_race, decide, (), "anytime-valid", "mode", at_least)
