"""Resampling: which particles go on, so that the sum of weight times any function keeps its mean.

systematic   offspring by one uniform number: each particle has its share of N rounded up or down
residual     the whole part of each share, and independent draws for what is left over
chopthin     particles of great weight are chopped, those of little weight thinned, and weights are carried: none
             is more than ETA times another, so that more lines survive (Gandy and Lau, 2016)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from samplewise.samplers.power.dice import Dice

Scheme = Literal["systematic", "residual", "chopthin"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
ETA = 3.0 + math.sqrt(8.0)  # the ratio of weights that chopthin allows
ROUNDING = 1e-12  # a stretch of the uniform number as narrow as this is one of rounding, in which counts can be off
HALVINGS = 200  # of the interval in which chopthin looks for its threshold


class Offspring(NamedTuple):
    """Who each of N came from, and its weight; the weights' mean is that of the parents' weights, or has it as mean."""

    parents: tuple[int, ...]  # (N,)
    weights: tuple[float, ...]  # (N,)


def resample(scheme: Scheme, weights: Sequence[float], num: int, dice: Dice) -> Offspring:
    """`num` offspring of particles of these weights (M,), 0 or more and not all 0."""
    total = math.fsum(weights)
    if scheme == "chopthin":
        return _chopthin(weights, num, dice)
    shares = [num * weight / total for weight in weights]
    if scheme == "systematic":
        counts = _systematic(shares, num, dice)
    else:
        counts = [math.floor(share) for share in shares]
        left = [share - whole for share, whole in zip(shares, counts, strict=True)]
        for _ in range(num - sum(counts)):
            counts[dice.choose(left)] += 1
    parents = tuple(parent for parent, count in enumerate(counts) for _ in range(count))
    return Offspring(parents, (total / len(weights),) * num)


def effective(weights: Sequence[float]) -> float:
    """The effective number of particles, (sum w)^2 / sum w^2; 0 for none."""
    squares = math.fsum(weight * weight for weight in weights)
    return math.fsum(weights) ** 2 / squares if squares > 0 else 0.0


def _systematic(shares: Sequence[float], num: int, dice: Dice) -> list[int]:
    """Each share (M,), which sum to `num`, rounded up or down: with u uniform, how many of u, u + 1 ... u + num - 1
    fall into its stretch. The outcome changes at finitely many u, so that a choice among the stretches between them
    is the same law."""
    upto, running = [], 0.0
    for share in shares:
        running += share
        upto.append(running)
    upto[-1] = float(num)
    edges = sorted({0.0, 1.0, *(place - math.floor(place) for place in upto)})
    widths = [high - low for low, high in itertools.pairwise(edges)]
    cell = dice.choose([width if width > ROUNDING else 0.0 for width in widths])
    at = 0.5 * (edges[cell] + edges[cell + 1])
    before = 0
    counts = []
    for place in upto:
        reached = min(num, max(before, math.ceil(place - at)))  # how many of at, at + 1 ... are below the place
        counts.append(reached - before)
        before = reached
    return counts


def _chopthin(weights: Sequence[float], num: int, dice: Dice) -> Offspring:
    threshold = _threshold(weights, num)
    counts = _systematic([_wanted(weight, threshold) for weight in weights], num, dice)
    scale = num / len(weights)  # the mean over the offspring is that over the parents
    parents: list[int] = []
    carried: list[float] = []
    for parent, (weight, count) in enumerate(zip(weights, counts, strict=True)):
        if count == 0:
            continue
        parents += [parent] * count
        carried += [scale * (threshold if weight < threshold else weight / count)] * count
    return Offspring(tuple(parents), tuple(carried))


def _wanted(weight: float, threshold: float) -> float:
    """How many offspring a particle has on average."""
    if weight < threshold:
        return weight / threshold
    return max(1.0, 2.0 * weight / (ETA * threshold))


def _threshold(weights: Sequence[float], num: int) -> float:
    """The threshold at which the offspring number `num` on average: they only get fewer as it rises."""
    low, high = 0.0, math.fsum(weights)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if middle <= low or middle >= high:
            break
        if math.fsum(_wanted(weight, middle) for weight in weights) > num:
            low = middle
        else:
            high = middle
    return high
