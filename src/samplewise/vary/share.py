"""Allocate a question's draws to its variants. By default draws take the variants in turn, the identity arm first.

Then each variant has an equal share, and no number of draws is worse than if variants were drawn at random.
"""

from __future__ import annotations

import numpy as np

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.samplers.base import Variant
from samplewise.vary.base import AllocateDraws

LONGEST = 4096  # draws that a pattern is made for; then it begins again


def iid() -> AllocateDraws:
    """Draw a variant at random for each draw, but for the first, which is the identity arm: common in the
    literature."""

    def share(key: Key, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        picked = key.generator().integers(len(variants), size=LONGEST - 1).tolist()
        return (variants[0], *(variants[index] for index in picked))

    return share


def quota(*draws: int) -> AllocateDraws:
    """Give each variant a number of draws, in the order of the mix.

    `quota(4, 14, 14)` gives the identity arm 4 of 32, and needs at least one for it. Draws are interleaved evenly: at
    no point is a variant ahead of its share by a whole draw. Variants beyond the numbers get none. If a question has
    fewer variants than numbers, for example because a helper repeats itself, the missing variants' draws go to the
    others in the same proportion.
    """
    if not draws or min(draws) < 0 or draws[0] < 1:
        raise ValueError(f"quota takes numbers of draws, at least 1 for the identity arm; got {draws}")
    for num in draws:
        check_count("draws", num, 0)
    pattern = spread(draws)

    def share(key: Key, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        return tuple(variants[index] for index in pattern if index < len(variants))

    return share


def spread(draws: tuple[int, ...]) -> tuple[int, ...]:
    """Return the indices 0, 1, ... as often as `draws` says, interleaved as evenly as possible, index 0 first."""
    due = np.array([(i + 0.5) / num for num in draws for i in range(num)])
    index = np.array([j for j, num in enumerate(draws) for _ in range(num)])
    order = np.lexsort((index, due)).tolist()
    first = next(i for i, position in enumerate(order) if index[position] == 0)
    return tuple(int(index[i]) for i in (order[first], *order[:first], *order[first + 1 :]))
