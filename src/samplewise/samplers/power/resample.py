"""Resampling: which particles go on, such that the mean of weight times any function is kept.

systematic   offspring by one uniform number: each particle's share of N, rounded up or down
residual     the whole part of each share, and independent draws for what is left over
chopthin     large weights are chopped, small ones thinned, and weights are carried along: none is more than ETA times
             another, so more lineages survive (Gandy and Lau, 2016)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from samplewise.samplers.power.random_choices import RandomChoices

Scheme = Literal["systematic", "residual", "chopthin"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
ETA = 3.0 + math.sqrt(8.0)  # the ratio of weights that chopthin allows
ROUNDING = 1e-12  # an interval of the uniform number this narrow comes from rounding; counts can be off in it
HALVINGS = 200  # of the interval in which chopthin searches for its threshold


class Offspring(NamedTuple):
    """The parent of each of N offspring, and its weight. The mean weight is, in expectation, that of the parents."""

    parents: tuple[int, ...]  # (N,)
    weights: tuple[float, ...]  # (N,)


def resample(scheme: Scheme, weights: Sequence[float], num: int, choices: RandomChoices) -> Offspring:
    """Draw `num` offspring of particles with these weights (M,), which are 0 or more and not all 0."""
    total = math.fsum(weights)
    if scheme == "chopthin":
        return _chopthin(weights, num, choices)
    shares = [num * weight / total for weight in weights]
    if scheme == "systematic":
        counts = _systematic(shares, num, choices)
    else:
        counts = [math.floor(share) for share in shares]
        left = [share - whole for share, whole in zip(shares, counts, strict=True)]
        for _ in range(num - sum(counts)):
            counts[choices.choose(left)] += 1
    parents = tuple(parent for parent, count in enumerate(counts) for _ in range(count))
    return Offspring(parents, (total / len(weights),) * num)


def effective_sample_size(weights: Sequence[float]) -> float:
    """Return (sum w)^2 / sum w^2 of weights (M,); 0 for none."""
    squares = math.fsum(weight * weight for weight in weights)
    return math.fsum(weights) ** 2 / squares if squares > 0 else 0.0


def _systematic(shares: Sequence[float], num: int, choices: RandomChoices) -> list[int]:
    """Round each share (M,) up or down; the shares sum to `num`.

    With u uniform, a count is how many of u, u + 1 ... u + num - 1 fall into the share's interval. The outcome changes
    at finitely many u, so choosing among the intervals between them has the same distribution.
    """
    ends, running = [], 0.0
    for share in shares:
        running += share
        ends.append(running)
    ends[-1] = float(num)
    edges = sorted({0.0, 1.0, *(end - math.floor(end) for end in ends)})
    widths = [high - low for low, high in itertools.pairwise(edges)]
    cell = choices.choose([width if width > ROUNDING else 0.0 for width in widths])
    u = 0.5 * (edges[cell] + edges[cell + 1])
    before = 0
    counts = []
    for end in ends:
        reached = min(num, max(before, math.ceil(end - u)))  # how many of u, u + 1 ... are below the end
        counts.append(reached - before)
        before = reached
    return counts


def _chopthin(weights: Sequence[float], num: int, choices: RandomChoices) -> Offspring:
    threshold = _threshold(weights, num)
    counts = _systematic([_expected_offspring(weight, threshold) for weight in weights], num, choices)
    scale = num / len(weights)  # the mean over the offspring is that over the parents
    parents: list[int] = []
    carried: list[float] = []
    for parent, (weight, count) in enumerate(zip(weights, counts, strict=True)):
        if count == 0:
            continue
        parents += [parent] * count
        carried += [scale * (threshold if weight < threshold else weight / count)] * count
    return Offspring(tuple(parents), tuple(carried))


def _expected_offspring(weight: float, threshold: float) -> float:
    """Return how many offspring a particle has on average."""
    if weight < threshold:
        return weight / threshold
    return max(1.0, 2.0 * weight / (ETA * threshold))


def _threshold(weights: Sequence[float], num: int) -> float:
    """Return the threshold that gives `num` offspring on average. A higher threshold gives fewer."""
    low, high = 0.0, math.fsum(weights)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if middle <= low or middle >= high:
            break
        if math.fsum(_expected_offspring(weight, middle) for weight in weights) > num:
            low = middle
        else:
            high = middle
    return high
