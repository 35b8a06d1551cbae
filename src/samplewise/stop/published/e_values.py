"""Published rules with e-values over votes, for comparison with `vote_e`.

    certify  one answer that was named beforehand (after CITE, arXiv 2605.05873)
    ppr_1v1  all pairs of a known number of answers (arXiv 2109.05047)
    mmc      Martingale Majority Certificate (arXiv 2510.17472), as released: no guarantee

`mmc` adds up votes over changing leaders and never resets, so its two processes are martingales for no fixed
hypothesis. All three are about the mode, which need not be the truth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from samplewise.core.checks import check_fraction
from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.tables import boundary_at, log_e1, log_e2
from samplewise.stop.votes import Votes, count_vote, no_votes, settled


def certify(answer: str, error: float = 0.05) -> StopRule[Votes]:
    """Stop once `answer`, named beforehand, is the mode of the model's answers, wrong with probability at most `error`.

    Valid at any time. The pairs are fixed, and all must be rejected for the claim, so no union bound is paid: 7 equal
    votes at .05. It never stops for another answer. Written as the task's reader writes answers.
    """
    if not isinstance(answer, str) or not answer:
        raise ValueError(f"answer must be the text of an answer, as the task's reader gives it, got {answer!r}")
    boundary = boundary_at(log_e1, -math.log(check_fraction("error", error)))

    def pair(state: Votes) -> tuple[int, int]:
        return state.counts.get(answer, 0), state.second if state.leader == answer else state.first

    def decide(state: Votes, spent: Usage) -> Stop | None:
        count, rival = pair(state)
        if count < boundary(rival):
            return None
        return settled(state, math.exp(log_e1(count, rival)), 1 / error, answer=answer)

    def at_least(state: Votes) -> int:
        count, rival = pair(state)
        return max(1, boundary(rival) - count)

    return StopRule("certify", no_votes, count_vote, decide, (), "anytime-valid", "mode", at_least)


def ppr_1v1(labels: int, error: float = 0.05) -> StopRule[Votes]:
    """Stop once the leader beats every other of `labels` possible answers in a test of the pair (PPR-1v1).

    Wrong with probability at most `error`, at any time, if there are no more answers than that: the error is divided
    among labels - 1 rivals. Where more turn up it does not stop, as nothing is guaranteed any more.
    """
    if labels < 2:
        raise ValueError(f"labels must be at least 2 possible answers, got {labels}")
    log_level = math.log((labels - 1) / check_fraction("error", error))
    boundary = boundary_at(log_e2, log_level)

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
    boundary = boundary_at(log_e1, -math.log(check_fraction("error", error)))

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
