"""How many draws to send next, by dynamic programming over the counts of a vote.

A vote is worth 1 if its answer is the one that `cap` draws would give. Draws cost `price_draw` each, and a wave of
draws that is sent together costs `price_round`, as its successor has to wait for it. The model: each draw gives one of
three answers or something else, with probabilities from a Dirichlet(a, a, a, b) prior. "Something else" is every answer
behind the three leading ones, and a draw without an answer: it never wins the vote. So a state is the counts (c1, c2,
c3) of the three leading answers and the number of draws n, and the next draw gives answer i with probability

    (c_i + a) / (n + 3 a + b),       something else with probability (n - c1 - c2 - c3 + b) / (n + 3 a + b)

which is exact for this model: nothing else of the past matters. With W(s) the probability that the leader in s is the
answer after `cap` draws (ties at random, as the vote decides them), the value of a state is

    V(s) = max( W(s), max over k in WAVES with n + k <= cap of  E[V(s after k draws)] - price_round - k price_draw )

by backward induction over n, from W = 1 at the cap. The states of n draws are the sorted triples with a sum of at most
n, so they are listed by their sum, and all n share one list. The idea of planning votes in waves is that of arXiv
2606.03102, which learns the controller; this one is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from samplewise.core.numerics import Floats, Ints

WAVES = (1, 2, 4, 8)  # draws that may be sent together
NUM_LEADING = 3  # answers that are counted one by one
MAX_CAP = 128  # draws: beyond it a table takes seconds
TIE = 1e-12  # what a larger wave must gain over a smaller one, and over stopping
VOTE_PRIOR = (0.25, 0.25)  # (a, b): together they weigh as much as one draw

VotePrior = tuple[float, float]


class VoteStates(NamedTuple):
    """The sorted triples (T, 3) with a sum of at most `cap`, by their sum, and what one more vote makes of them.

    The first `num[n]` are the states of n draws. `successor` (T, 3): the state after a vote for answer i. `moved` (T,
    3, 3): where answer j stands then. Both only for triples with a sum below `cap`.
    """

    counts: Ints
    num: tuple[int, ...]  # (cap + 1,)
    successor: Ints
    moved: Ints
    positions: Mapping[tuple[int, ...], int]


class Forecast(NamedTuple):
    """Means over the prior: the probability of the answer of `cap` draws, draws and rounds until the stop."""

    same: float
    draws: float
    rounds: float


class PlanTable(NamedTuple):
    """The optimal plan, by the number of draws n = 0 ... cap and the state.

    `wave[n][s]` is the number of draws to send, 0 to stop. `same[n][s]` is W, `value[n][s]` is V, and `go_on[n][s]` the
    value of the best wave, -inf at the cap. `forecast`: what the prior expects of the plan before the first draw.
    """

    cap: int
    positions: Mapping[tuple[int, ...], int]
    wave: tuple[bytes, ...]
    same: tuple[Floats, ...]
    value: tuple[Floats, ...]
    go_on: tuple[Floats, ...]
    forecast: Forecast

    def position(self, counts: Iterable[int]) -> int:
        """Return the state of these counts of answers, in any order."""
        first = sorted(counts, reverse=True)[:NUM_LEADING]
        return self.positions[(*first, *(0,) * (NUM_LEADING - len(first)))]


@functools.lru_cache(maxsize=8)
def states_of(cap: int) -> VoteStates:
    """Return the states of up to `cap` draws: 1,239 of them for 32."""
    triples = [
        (first, second, total - first - second)
        for total in range(cap + 1)
        for first in range(total, -1, -1)
        for second in range(min(first, total - first), -1, -1)
        if total - first - second <= second
    ]
    counts = np.array(triples, dtype=np.int64)
    positions: dict[tuple[int, ...], int] = {triple: number for number, triple in enumerate(triples)}
    sums = counts.sum(axis=1)
    num = tuple(np.searchsorted(sums, np.arange(cap + 1), side="right").tolist())
    inner = counts[: num[cap - 1]]
    lattice = np.full((cap + 1,) * NUM_LEADING, -1, dtype=np.int64)
    lattice[tuple(counts.T)] = np.arange(len(counts))
    successor = np.zeros((len(inner), NUM_LEADING), dtype=np.int64)
    moved = np.tile(np.arange(NUM_LEADING), (len(inner), NUM_LEADING, 1))
    rows = np.arange(len(inner))
    for answer in range(NUM_LEADING):
        # it moves in front of those that had as many votes, and the first of those takes its place
        front = (inner == inner[:, [answer]]).argmax(axis=1)
        grown = inner.copy()
        grown[rows, front] += 1
        successor[:, answer] = lattice[tuple(grown.T)]
        moved[rows, answer, front] = answer
        moved[rows, answer, answer] = front
    return VoteStates(counts, num, successor, moved, positions)


@functools.lru_cache(maxsize=64)
def plan_table(price_round: float, price_draw: float, cap: int, prior: VotePrior = VOTE_PRIOR) -> PlanTable:
    """Return the optimal plan for these prices, per round and per draw, in units of a right vote. About 10 ms at 32."""
    states = states_of(cap)
    none = 1.0  # probability that no draw has an answer in the end
    wins = (states.counts == states.counts[:, :1]) & (states.counts > 0)
    same_of: Floats = wins / np.maximum(wins.sum(axis=1, keepdims=True), 1)  # (T, 3), of each leading answer
    stop = np.ones(len(states.counts))  # the answer is then that of all draws, even by lot
    # rows: value, probability of the same answer, draws, rounds; of the states up to max(WAVES) draws ahead
    now = np.stack([stop, stop, np.zeros_like(stop), np.zeros_like(stop)])
    ahead: list[Floats] = []
    layers = [(bytes(len(stop)), stop, stop, np.full(len(stop), -np.inf))]
    for draws in range(cap - 1, -1, -1):
        num = states.num[draws]
        probabilities = _predictive(states.counts[:num], draws, prior)
        successor, moved = states.successor[:num], states.moved[:num]
        ahead = [_mean(probabilities, successor, rows) for rows in (now, *ahead[: WAVES[-1] - 1])]
        same_of = probabilities[:, 3, None] * same_of[:num] + sum(
            probabilities[:, answer, None] * same_of[successor[:, answer, None], moved[:, answer]]
            for answer in range(NUM_LEADING)
        )
        none *= float(probabilities[0, 3])
        stop = same_of[:, 0].copy()
        stop[0] = none
        wave, go_on = np.zeros(num, dtype=np.int64), np.full(num, -np.inf)
        now = np.stack([stop, stop, np.zeros(num), np.zeros(num)])
        chosen = np.full(num, -np.inf) if draws == 0 else stop  # without a draw there is nothing to answer
        for size in (size for size in WAVES if draws + size <= cap):
            value = ahead[size - 1][0] - price_round - size * price_draw
            is_better = value > chosen + TIE
            wave[is_better] = size
            sent = ahead[size - 1] + np.array([[0.0], [0.0], [size], [1.0]])
            now = np.where(is_better, sent, now)
            chosen = np.where(is_better, value, chosen)
            go_on = np.maximum(go_on, value)
        now[0] = go_on if draws == 0 else np.maximum(stop, go_on)
        layers.append((wave.astype(np.uint8).tobytes(), stop, now[0], go_on))
    waves, sames, values, go_ons = zip(*reversed(layers), strict=True)
    forecast = Forecast(*(float(row[0]) for row in now[1:]))
    return PlanTable(cap, states.positions, waves, sames, values, go_ons, forecast)


def _predictive(counts: Ints, draws: int, prior: VotePrior) -> Floats:
    """Return the probabilities (S, 4) of each leading answer and of something else at the next draw."""
    a, b = prior
    others = draws - counts.sum(axis=1, keepdims=True)
    weights = np.concatenate([counts + a, others + b], axis=1)
    probabilities: Floats = weights / (draws + NUM_LEADING * a + b)
    return probabilities


def _mean(probabilities: Floats, successor: Ints, rows: Floats) -> Floats:
    """Return the mean (R, S) over the next draw of what is known of the states after it (R, S')."""
    mean: Floats = probabilities[:, 3] * rows[:, : len(probabilities)]
    for answer in range(NUM_LEADING):
        mean = mean + probabilities[:, answer] * rows[:, successor[:, answer]]
    return mean


def learned_vote_prior(counts: Sequence[Sequence[int]], draws: Sequence[int] | None = None) -> VotePrior:
    """Learn (a, b) from a pilot by maximum likelihood, which must not hold the questions that it is used on.

    `counts` holds, for each of P questions, the votes of every answer it got, in any order; `draws` (P,) its number of
    draws where some had no answer. The likelihood is that of the Dirichlet-multinomial of `plan_table`. Both numbers
    are from .01 to 100. Raise ValueError without a vote.
    """
    leading = [sorted(votes, reverse=True)[:NUM_LEADING] for votes in counts]
    totals = [sum(votes) for votes in counts] if draws is None else list(draws)
    others = [total - sum(votes) for total, votes in zip(totals, leading, strict=True)]
    if not any(totals) or min(others) < 0:
        raise ValueError("a prior needs past questions with votes, and draws that are at least their votes")
    # the likelihood is a product of (a + k), (b + k) and 1 / (3 a + b + k): how often each k occurs
    of_a = _at_least(np.array([count for votes in leading for count in votes]))
    of_b, of_all = _at_least(np.array(others)), _at_least(np.array(totals))
    low, high = np.log([0.01, 0.01]), np.log([100.0, 100.0])
    best = np.zeros(2)
    for _ in range(6):  # a lattice, then finer ones around its best point
        logs = [np.linspace(*ends, 25) for ends in zip(low, high, strict=True)]
        a, b = np.exp(logs[0])[:, None, None], np.exp(logs[1])[None, :, None]
        fit = (
            (np.log(a + np.arange(len(of_a))) * of_a).sum(axis=2)
            + (np.log(b + np.arange(len(of_b))) * of_b).sum(axis=2)
            - (np.log(NUM_LEADING * a + b + np.arange(len(of_all))) * of_all).sum(axis=2)
        )
        row, column = np.unravel_index(int(fit.argmax()), fit.shape)
        best = np.array([logs[0][row], logs[1][column]])
        step = 2 * np.array([one[1] - one[0] for one in logs])
        low, high = np.maximum(best - step, np.log(0.01)), np.minimum(best + step, np.log(100.0))
    return float(np.exp(best[0])), float(np.exp(best[1]))


def _at_least(numbers: Ints) -> Ints:
    """Return how many of some numbers (N,) are above 0, 1, 2 ... (K,)."""
    above: Ints = (numbers[:, None] > np.arange(max(1, int(numbers.max(initial=0))))).sum(axis=0)
    return above
