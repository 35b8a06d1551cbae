"""Stop rules whose error is bounded at any time: e-values, which may be looked at after every vote.

An e-value is a product whose mean never rises above 1 where a hypothesis is true, so that it ever reaches 1/error with
probability at most `error` (Ville, 1939). Here the hypothesis is "another answer is at least as frequent", and the
leader is certified as the mode of the model's answers once this is rejected for every other answer.

    vote_e   ours: no answer named beforehand, no list of answers, no union bound
    certify  one answer that was named beforehand (after CITE, arXiv 2605.05873)
    ppr_1v1  all pairs of a known number of answers (arXiv 2109.05047)
    mmc      Martingale Majority Certificate (arXiv 2510.17472), as released: no guarantee

`mmc` adds up votes over changing leaders and never resets, so that its two processes are martingales for no fixed
hypothesis. All are about the mode, which need not be the truth. O(number of different answers) a draw.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.stop.base import StopRule
from samplewise.stop.tables import log_e1, log_e2, needed
from samplewise.stop.votes import EMPTY, Votes, count_vote, fraction, no_votes, settled
from samplewise.types import Candidate, Question, Stop, Usage


class Race(NamedTuple):
    """The tally, and for every answer k a pair (A, B): A votes went to the answer that led all others but k just before
    the vote, B votes went to k while such a leader was there.

    For all but the leader that one is the leader, so A is `led`, plus what differs: `extra`, for those who have led.
    B is k's count, without the votes of the very first answer before a second one came: `alone`.
    """

    votes: Votes = Votes()
    led: int = 0  # votes that went to the leader of that time; A of an answer not seen yet, whose B is 0
    extra: Mapping[str, int] = EMPTY
    alone: int = 0


def see_race(state: Race, candidate: Candidate, answer: str | None) -> Race:
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
    """The pair (A, B) of an answer; (led, 0) for one that was not seen yet."""
    own = state.votes.counts.get(answer, 0)
    first = own and answer == next(iter(state.votes.counts))
    return state.led + state.extra.get(answer, 0), own - (state.alone if first else 0)


def vote_e(error: float = 0.05) -> StopRule[Race]:
    """Stop once the leader is the mode of the model's answers, wrong with probability at most `error`, at any time.

    Needs no list of answers. Costs one vote more than a test of two answers fixed beforehand: 8 equal votes at .05, 6
    at .10. Every other answer k, and one more for those not seen yet, has a process of its own; if k is a mode, each
    factor 1 + lam (1[that leader] - 1[k]) has mean at most 1, as the leader is known before the vote, and the mixture
    over lam is e1(A, B). Certifying a wrong answer needs the true mode's own process to reach 1/error.
    """
    boundary = needed(log_e1, -math.log(fraction("error", error)))

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
        """A vote adds one at most to each A. Whoever is certified need not reject itself, so that the pair furthest
        from its boundary may be its own."""
        pairs = [pair_of(state, answer) for answer in state.votes.counts]
        missing = sorted(boundary(behind) - ahead for ahead, behind in pairs)
        unseen = boundary(0) - state.led + (state.votes.leader is None)
        return max(1, unseen, *missing[-2:-1])

    return StopRule("vote_e", start, see_race, decide, (), "anytime-valid", "mode", at_least)


def certify(answer: str, error: float = 0.05) -> StopRule[Votes]:
    """Stop once `answer`, named beforehand, is the mode of the model's answers, wrong with probability at most `error`,
    at any time.

    The pairs are fixed, and all must be rejected for the claim, so that no union bound is paid: 7 equal votes at .05.
    It never stops for another answer. Written as the task's reader writes answers.
    """
    if not isinstance(answer, str) or not answer:
        raise ValueError(f"answer must be the text of an answer, as the task's reader gives it, got {answer!r}")
    boundary = needed(log_e1, -math.log(fraction("error", error)))

    def pair(state: Votes) -> tuple[int, int]:
        return state.counts.get(answer, 0), state.second if state.leader == answer else state.first

    def decide(state: Votes, spent: Usage) -> Stop | None:
        own, rival = pair(state)
        if own < boundary(rival):
            return None
        return settled(state, math.exp(log_e1(own, rival)), 1 / error, answer=answer)

    def at_least(state: Votes) -> int:
        own, rival = pair(state)
        return max(1, boundary(rival) - own)

    return StopRule("certify", no_votes, count_vote, decide, (), "anytime-valid", "mode", at_least)


def ppr_1v1(labels: int, error: float = 0.05) -> StopRule[Votes]:
    """Stop once the leader beats every other of `labels` possible answers in a test of the pair (PPR-1v1).

    Wrong with probability at most `error`, at any time, if there are no more answers than that: the error is shared out
    over labels - 1 rivals. Where more turn up it does not stop, as nothing is guaranteed any more.
    """
    if labels < 2:
        raise ValueError(f"labels must be at least 2 possible answers, got {labels}")
    log_level = math.log((labels - 1) / fraction("error", error))
    boundary = needed(log_e2, log_level)

    def decide(state: Votes, spent: Usage) -> Stop | None:
        if state.first < boundary(state.second) or len(state.counts) > labels:
            return None
        return settled(state, math.exp(log_e2(state.first, state.second)), math.exp(log_level))

    def at_least(state: Votes) -> int:
        return max(1, boundary(state.second) - state.first)

    return StopRule("ppr_1v1", no_votes, count_vote, decide, (), "anytime-valid", "mode", at_least)


class Runs(NamedTuple):
    """The tally, and the votes that went to the leader, the runner-up and the rest as they stood before each vote."""

    votes: Votes = Votes()
    leader: int = 0
    runner_up: int = 0
    rest: int = 0


def mmc(error: float = 0.1) -> StopRule[Runs]:
    """Stop once the e-values of leader against runner-up, and of leader against all the rest, reach 1/error (MMC).

    Votes are counted for whoever leads at the time, as in the released code: no guarantee. .1 to .4 are usual.
    """
    boundary = needed(log_e1, -math.log(fraction("error", error)))

    def start(question: Question) -> Runs:
        return Runs()

    def see(state: Runs, candidate: Candidate, answer: str | None) -> Runs:
        before, leader, runner_up, rest = state
        votes = count_vote(before, candidate, answer)
        if answer is None or before.leader is None:
            return Runs(votes, leader, runner_up, rest)
        if answer == before.leader:
            return Runs(votes, leader + 1, runner_up, rest)
        if answer == before.runner_up:
            return Runs(votes, leader, runner_up + 1, rest)
        return Runs(votes, leader, runner_up, rest + 1)

    def decide(state: Runs, spent: Usage) -> Stop | None:
        behind = max(state.runner_up, state.rest)
        if state.leader < boundary(behind):
            return None
        return settled(state.votes, math.exp(log_e1(state.leader, behind)), 1 / error)

    def at_least(state: Runs) -> int:
        missing = boundary(max(state.runner_up, state.rest)) - state.leader
        return max(1, missing + (state.votes.leader is None))

    return StopRule("mmc", start, see, decide, at_least=at_least)
