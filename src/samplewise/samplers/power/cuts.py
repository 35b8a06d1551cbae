"""Where a record is cut: the law of the place from which a step redraws. Places are counted from 0 here.

A law over the fixed places 0 ... T-1 does not look at the record, and needs no correction: a cut behind the record's
end is a step that changes nothing and costs nothing. A law that looks at the record, over its own L places, with
weights w_m that follow from the tokens before m alone, is exact with one term more in the log ratio:

    log sum_j w_j(x) - log sum_j w_j(x')        j over each record's own places

which for equal weights is log(L / L').

    uniform   places up to the longest start alike, and every twentieth cut anywhere up to T
    recent    the same with more mass the later the place is, in proportion to it
    own       the record's own places alike, with the correction
    entropy   the record's own places by the Renyi entropy (order alpha) of the token there, with the correction
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from samplewise.samplers.power.dice import Dice

Kind = Literal["uniform", "recent", "own", "entropy"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ANYWHERE = 0.05  # of the cuts of a fixed law
LEAST_ENTROPY = 0.05  # nats, added to every place: the chain must be able to move from any of them


class Cuts(NamedTuple):
    """A law of cuts, frozen before the chain begins: `near` is the longest start, in tokens."""

    kind: Kind
    near: int

    @property
    def fixed(self) -> bool:
        return self.kind in ("uniform", "recent")


def draw_cut(cuts: Cuts, dice: Dice, horizon: int, weights: Sequence[float]) -> int:
    """A place in 0 ... T-1. `weights` (L,) of the record's own places; a fixed law does not look at them."""
    if cuts.fixed:
        return dice.choose(fixed_masses(cuts, horizon))
    return dice.choose(weights)


@functools.lru_cache(maxsize=256)
def fixed_masses(cuts: Cuts, horizon: int) -> tuple[float, ...]:
    """The law (T,) of a cut that does not look at the record."""
    near = min(max(cuts.near, 1), horizon)
    weights = [1.0 if cuts.kind == "uniform" else float(place + 1) for place in range(near)]
    total = math.fsum(weights)
    masses = [ANYWHERE / horizon + (1.0 - ANYWHERE) * weight / total for weight in weights]
    return (*masses, *[ANYWHERE / horizon] * (horizon - near))


def own_weights(cuts: Cuts, gain: Sequence[float], alpha: float) -> list[float]:
    """Weights (L,) of a record's own places, each from what is before it alone; empty for a fixed law.

    At temperature 1 / alpha a token's gain is log Z(alpha) = (1 - alpha) H, H the Renyi entropy of order alpha of the
    law it was drawn from: so the entropies are at hand, and do not depend on the token.
    """
    if cuts.fixed:
        return []
    if cuts.kind == "own":
        return [1.0] * len(gain)
    return [LEAST_ENTROPY + max(0.0, each / (1.0 - alpha)) for each in gain]
