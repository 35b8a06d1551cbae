"""How a question's draws are shared among its variants. Without any of these they take turns, the identity arm first:
each has its even share, and the same number of draws is never worse than if the variants were drawn at random.
"""

from __future__ import annotations

import numpy as np

from samplewise.keys import Key
from samplewise.samplers.base import Variant
from samplewise.vary.base import Share

LONGEST = 4096  # draws that a pattern is made for; then it begins again


def iid() -> Share:
    """Each draw takes a variant at random, the first one the identity arm: what the literature often does."""

    def share(key: Key, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        picked = key.generator().integers(len(variants), size=LONGEST - 1).tolist()
        return (variants[0], *(variants[place] for place in picked))

    return share


def quota(*draws: int) -> Share:
    """So many draws for each variant, in the order of the mix.

    `quota(4, 14, 14)` gives the identity arm 4 of 32. They are dealt out evenly: after any number of draws no variant
    is ahead of its share by a whole draw. The identity arm has at least one. Variants beyond the numbers have none. A
    question with fewer variants than numbers, such as one on which a thinker repeats itself, gives the draws of those
    that are missing to the others, in the same proportion.
    """
    if not draws or min(draws) < 0 or draws[0] < 1:
        raise ValueError(f"quota takes numbers of draws, at least 1 for the identity arm; got {draws}")
    pattern = spread(draws)

    def share(key: Key, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        return tuple(variants[place] for place in pattern if place < len(variants))

    return share


def spread(draws: tuple[int, ...]) -> tuple[int, ...]:
    """Places 0, 1, ... as often as `draws` says, as evenly as can be, place 0 first."""
    due = np.array([(i + 0.5) / num for num in draws for i in range(num)])
    place = np.array([j for j, num in enumerate(draws) for _ in range(num)])
    order = np.lexsort((place, due)).tolist()
    first = next(i for i, each in enumerate(order) if place[each] == 0)
    return tuple(int(place[i]) for i in (order[first], *order[:first], *order[first + 1 :]))
