"""A published stop rule that knows how answers spread on past questions (after arXiv 2602.05395, its three-number
rule).

A shape is the distribution of the answers without their names, p_1 > ... > p_K. The rule looks at three numbers of the
votes: n1 of the leader, n2 of the runner-up, r of all the rest together. Their probability with label i in front and j
second is

    L(i, j) = p_i^n1 p_j^n2 S_ij,    S_ij = sum over counts t_k <= n2 of the others, with sum r,
                                            of r! prod p_k^t_k / t_k!  /  C(c + u, c)

where u of the others have n2 votes too, and share the second place: c = 1, or 2 where n1 = n2. Then

    P(leader is the mode) = sum_j L(1, j) / sum_{i != j} L(i, j)

and with several shapes, equally likely beforehand, numerators and denominators are summed. With one answer only, j
drops out. S_ij comes from a dynamic programme over the labels, for all pairs at once, with Poisson weights of rate
r p_k in place of p_k^t / t!: the same up to a common factor, and within range.

Cost: a look at (n1, n2, r) takes milliseconds once and is cached; it is skipped while n1 = n2.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np

from samplewise.core.checks import check_fraction
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import Stop, Usage
from samplewise.stop.base import StopRule
from samplewise.stop.votes import Votes, count_vote, no_votes, settled

Shape = tuple[float, ...]
MAX_LABELS = 12  # of a learned shape; what is rarer is left out


def bayes_l3(shapes: Sequence[Sequence[float]], error: float = 0.05) -> StopRule[Votes]:
    """Stop once the leader is the mode with probability 1 - `error`, if answers spread as on past questions.

    `shapes`: one or more distributions of the answers, each from the likeliest down, such as ((0.7, 0.2, 0.1), (0.4,
    0.3, 0.3)). `learned_shapes` finds them from the votes of past questions, which must not be those it is used on.
    """
    checked = tuple(_shape(shape) for shape in shapes)
    if not checked:
        raise ValueError("shapes must hold at least one distribution of the answers")
    level = 1 - check_fraction("error", error)

    def decide(state: Votes, spent: Usage) -> Stop | None:
        if state.first == state.second:  # the leader may as well be the other one
            return None
        probability = mode_probability(checked, state.first, state.second, state.votes - state.first - state.second)
        return settled(state, probability, level) if probability >= level else None

    return StopRule("bayes_l3", no_votes, count_vote, decide, (), "model-based", "mode")


def learned_shapes(counts: Sequence[Sequence[int]], num_shapes: int = 4) -> tuple[Shape, ...]:
    """Learn shapes from past questions. `counts` holds, for each, the votes of every answer it got, in any order.

    Questions are sorted by their leader's share and split into `num_shapes` groups of one size; a shape is the mean of
    its group's shares, rank by rank. Answers beyond `MAX_LABELS` are left out.
    """
    distributions = []
    for votes in counts:
        best = sorted((count for count in votes if count > 0), reverse=True)[:MAX_LABELS]
        if best:
            distributions.append(np.array(best + [0] * (MAX_LABELS - len(best))) / sum(best))
    if not 1 <= num_shapes <= len(distributions):
        raise ValueError(
            f"{num_shapes} shapes need as many past questions with votes at least, got {len(distributions)}"
        )
    distributions.sort(key=lambda distribution: tuple(distribution.tolist()))
    groups = np.array_split(np.array(distributions), num_shapes)
    return tuple(_shape([p for p in group.mean(axis=0).tolist() if p > 0]) for group in groups)


def _shape(shape: Sequence[float]) -> Shape:
    distribution = tuple(float(p) for p in shape)
    falling = all(a >= b > 0 for a, b in itertools.pairwise(distribution))
    if not distribution or not all(0 < p <= 1 for p in distribution) or not falling or sum(distribution) > 1 + 1e-3:
        raise ValueError(f"a shape is the chances of the answers from the largest down, at most 1 in all; got {shape}")
    return tuple(p / sum(distribution) for p in distribution)


@functools.lru_cache(maxsize=1 << 16)
def mode_probability(shapes: tuple[Shape, ...], first: int, second: int, rest: int) -> float:
    """Return P(leader is the mode | the three numbers); nan where no shape can have given them."""
    parts = [_likelihoods(shape, first, second, rest) for shape in shapes]
    top = max(log_scale for _, log_scale in parts)
    if top == -math.inf:
        return math.nan
    right = sum(float(table[0].sum()) * math.exp(log_scale - top) for table, log_scale in parts)
    total = sum(float(table.sum()) * math.exp(log_scale - top) for table, log_scale in parts)
    return right / total


def _likelihoods(shape: Shape, first: int, second: int, rest: int) -> tuple[Floats, float]:
    """Return L(i, j) (K, K) divided by its largest entry, and the log of that entry; with j dropped, L(i) (K,)."""
    log_p = np.log(np.array(shape))
    if second == 0:
        table = first * log_p
    else:
        num = len(shape)
        if num < 2:
            return np.zeros((1, 1)), -math.inf
        tails = np.full((num, num), -np.inf)
        pairs = np.array([(i, j) for i in range(num) for j in range(i)])  # (E, 2): S is the same for (i, j) and (j, i)
        log_tails = _log_tails(np.array(shape), pairs, second, rest, 2 if first == second else 1)
        tails[pairs[:, 0], pairs[:, 1]] = tails[pairs[:, 1], pairs[:, 0]] = log_tails
        table = first * log_p[:, None] + second * log_p[None, :] + tails
    top = float(table.max())
    return (np.zeros_like(table), top) if top == -math.inf else (np.exp(table - top), top)


def _log_tails(p: Floats, pairs: Ints, most: int, rest: int, num_tied: int) -> Floats:
    """Return log S (E,) of each pair: `rest` votes on the labels outside it, at most `most` each.

    `num_tied` labels of the pair hold the most votes themselves.
    """
    ties, num = rest // most + 1, len(pairs)
    rates = rest * p
    votes = np.arange(rest + 1)
    log_factorials = np.array([math.lgamma(count + 1) for count in range(rest + 1)])
    more = votes[:, None] - votes[None, :]  # (rest + 1, rest + 1) how many votes a label adds
    few, full = (more >= 0) & (more < most), more == most
    reached = np.zeros((rest + 1, num, ties))  # weight of so many votes so far, with so many ties
    reached[0, :, 0] = 1.0
    for label, rate in enumerate(rates):
        weight = np.exp(votes * math.log(rate) - rate - log_factorials) if rest else np.ones(1)
        kernel = weight[np.maximum(more, 0)]
        added = (np.where(few, kernel, 0.0) @ reached.reshape(rest + 1, -1)).reshape(reached.shape)
        tied = (np.where(full, kernel, 0.0) @ reached.reshape(rest + 1, -1)).reshape(reached.shape)
        added[:, :, 1:] += tied[:, :, :-1]
        reached = np.where((pairs == label).any(axis=1)[None, :, None], reached, added)
    shared = np.array([math.comb(num_tied + number, num_tied) for number in range(ties)])
    total = (reached[rest] / shared).sum(axis=1)
    inside = rates[pairs].sum(axis=1)
    # undo the Poisson weights: exp(-rate) of every label outside the pair, rest^rest of the votes; then r!
    scale = rates.sum() - inside - (rest * math.log(rest) if rest else 0.0) + math.lgamma(rest + 1)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(total) + scale, dtype=np.float64)
