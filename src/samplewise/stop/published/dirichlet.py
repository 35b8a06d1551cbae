"""Published stop rules with a uniform (Dirichlet) prior: how likely is the leader to be the mode?

A Dirichlet(v_1 + 1, ..., v_K + 1) draw is a set of independent Gamma(v_k + 1) draws, divided by their sum, so

    P(leader is the mode) = integral of g(x; v_1 + 1) * prod_k G(x; v_k + 1) dx

with g the density and G the distribution function: one integral, whatever the number of answers. In t = log x the
integrand is analytic and decays on both sides, so a trapezoid rule on fixed nodes is exact to about 12 digits.

Cost: P is at most asc(v_1, v_2), the probability for two answers, and a table says when that is too little; most votes
cost no more. The integral takes some 10 to 100 microseconds, and is cached by the sorted counts.
"""

from __future__ import annotations

import functools
import math
from collections import Counter

import numpy as np

from samplewise.core.checks import check_fraction
from samplewise.core.numerics import Floats
from samplewise.core.types import Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.tables import asc_value, boundary_at, log_asc
from samplewise.stop.votes import Votes, count_vote, no_votes, settled

NUM_NODES = 128
EDGE = 1e-17  # probability left out on either side


def asc_dirichlet(confidence: float = 0.95) -> StopRule[Votes]:
    """Stop once the leader is the most frequent of the answers seen with this probability, under a uniform prior.

    With one or two answers it is `asc`; a single answer is set against another without a vote. Right when the prior is,
    and if it is not looked at after every vote.
    """
    boundary = boundary_at(log_asc, math.log(check_fraction("confidence", confidence)))

    def decide(state: Votes, spent: Usage) -> Stop | None:
        if state.first < boundary(state.second):
            return None
        probability = leader_probability(ranked_counts(state))
        return settled(state, probability, confidence) if probability >= confidence - 1e-12 else None

    def at_least(state: Votes) -> int:
        return max(1, boundary(state.second) - state.first)

    return StopRule("asc_dirichlet", no_votes, count_vote, decide, (), "model-based", "mode", at_least)


def bayes_factor(factor: float = 10.0, *, unknown: float = 0.3) -> StopRule[Votes]:
    """Stop once M P / (1 - P) is at least `factor`: P the probability that the leader is the mode, M the number of
    answers.

    From Best-of-infinity, arXiv 2509.21091. All unseen answers together are one more, which counts as `unknown` votes.
    2 to 300 were published.
    """
    if not factor > 0:
        raise ValueError(f"factor must be more than 0, got {factor}")
    if not unknown >= 0:
        raise ValueError(f"unknown must be at least 0 votes, got {unknown}")

    def level(labels: int) -> float:
        return factor / (labels + factor)  # of P

    def decide(state: Votes, spent: Usage) -> Stop | None:
        labels = len(state.counts) + 1
        if state.votes == 0 or asc_value(state.first, state.second) < level(labels) - 1e-12:
            return None
        probability = leader_probability(ranked_counts(state), unknown)
        if probability < level(labels):
            return None
        value = labels * probability / (1 - probability) if probability < 1 else math.inf
        return settled(state, min(value, 1e300), factor, probability=probability)

    def at_least(state: Votes) -> int:
        """Return the fewest draws that help: more votes for the leader, or more answers, which lower the level."""
        more = 1
        while asc_value(state.first + more, state.second) < level(len(state.counts) + 1 + more) - 1e-12:
            more += 1
        return more

    return StopRule("bayes_factor", no_votes, count_vote, decide, (), "model-based", "mode", at_least)


def ranked_counts(state: Votes) -> tuple[int, ...]:
    """Return the counts from large to small."""
    return tuple(sorted(state.counts.values(), reverse=True))


@functools.lru_cache(maxsize=1 << 16)
def leader_probability(counts: tuple[int, ...], unknown: float | None = None) -> float:
    """Return P(the first is the largest) for probabilities from Dirichlet(counts + 1), plus one of `unknown` votes if
    given.

    `counts` (K,) from large to small, the first at least 1; a single one is set against an answer without a vote.
    """
    first, *rivals = counts
    if unknown is None and not rivals:
        rivals = [0]
    log_below = np.zeros(NUM_NODES)
    for votes, times in Counter(rivals).items():
        log_below += times * _log_below(first, votes)
    if unknown is not None:
        log_below = log_below + _log_below(first, unknown)
    return min(1.0, float(_nodes(first)[1] @ np.exp(log_below)))


@functools.lru_cache(maxsize=1024)
def _nodes(votes: int) -> tuple[Floats, Floats]:
    """Return nodes x and weights, (NUM_NODES,) each, of an integral against Gamma(votes + 1)."""
    from scipy.special import gammainccinv, gammaincinv, gammaln

    shape = votes + 1.0
    log_x = np.linspace(np.log(gammaincinv(shape, EDGE)), np.log(gammainccinv(shape, EDGE)), NUM_NODES)
    weights = np.exp(shape * log_x - np.exp(log_x) - gammaln(shape)) * (log_x[1] - log_x[0])
    return np.exp(log_x), weights


@functools.lru_cache(maxsize=1 << 13)
def _log_below(first: int, votes: float) -> Floats:
    """Return log P(Gamma(votes + 1) < x) at the nodes of `first`, (NUM_NODES,)."""
    from scipy.special import gammainc

    below = gammainc(votes + 1.0, _nodes(first)[0])
    return np.asarray(np.log(np.maximum(below, np.finfo(np.float64).tiny)), dtype=np.float64)
