"""Every random choice of the power samplers, through one small door.

In a run the dice are a key's. In the proofs they are forked: every outcome is taken, with its exact probability, so
that the transition matrix of the very code that is shipped is known to the last digit (conformance/forking.py).
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from samplewise.keys import Key

if TYPE_CHECKING:
    import numpy as np


class Dice(Protocol):
    """Independent random choices, each made anew."""

    def choose(self, masses: Sequence[float]) -> int:
        """A position, with odds in proportion to the masses (N,), which are 0 or more and not all 0."""
        ...

    def happens(self, probability: float) -> bool: ...

    def log_uniform(self) -> float:
        """The logarithm of a uniform number in (0, 1]. It may only be moved by a number and compared with one."""
        ...

    def gumbels(self, num: int) -> tuple[float, ...]:
        """Noise (num,) whose largest sum with log weights is at each position in proportion to its weight."""
        ...

    def winner(self, log_weights: Sequence[float], noise: Sequence[float]) -> int:
        """The position of the largest log weight (N,) plus noise of `gumbels(N)`."""
        ...


class Roll(Protocol):
    """The dice that a key stands for."""

    def __call__(self, key: Key) -> Dice: ...


class KeyDice:
    """A key's dice. The generator is made when it is first needed: many steps need it for one choice, some for none."""

    def __init__(self, key: Key) -> None:
        self._key = key

    @functools.cached_property
    def _rng(self) -> np.random.Generator:
        return self._key.generator()

    def choose(self, masses: Sequence[float]) -> int:
        upto = list(itertools.accumulate(masses))
        position = bisect.bisect_right(upto, float(self._rng.random()) * upto[-1])
        # The product may be rounded up to the whole: then it is the last one that has mass.
        return position if position < len(upto) else bisect.bisect_left(upto, upto[-1])

    def happens(self, probability: float) -> bool:
        return float(self._rng.random()) < probability

    def log_uniform(self) -> float:
        return math.log(1.0 - float(self._rng.random()))

    def gumbels(self, num: int) -> tuple[float, ...]:
        return tuple(-math.log(-math.log1p(-float(u))) if u > 0 else -math.inf for u in self._rng.random(num))

    def winner(self, log_weights: Sequence[float], noise: Sequence[float]) -> int:
        return max(range(len(noise)), key=lambda i: log_weights[i] + noise[i])
