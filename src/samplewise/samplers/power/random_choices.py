"""Every random choice of the power samplers goes through one small protocol, handed in with the settings.

In a run the choices are a key's (`KeyChoices`). In the proofs they fork: every outcome is taken with its exact
probability, so the transition matrix of the shipped code is known to the last digit (tests/support/forking.py).
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from samplewise.core.keys import Key

if TYPE_CHECKING:
    import numpy as np


class RandomChoices(Protocol):
    """A stream of independent random choices."""

    def choose(self, masses: Sequence[float]) -> int:
        """Return an index with probability proportional to its mass. The masses (N,) are 0 or more and not all 0."""
        ...

    def happens(self, probability: float) -> bool:
        """Return True with this probability."""
        ...

    def log_uniform(self) -> float:
        """Return the log of a uniform number in (0, 1]. Only shift it by a number and compare it with one."""
        ...

    def gumbels(self, num: int) -> tuple[float, ...]:
        """Return Gumbel noise (num,). Added to log weights, its largest sum falls on each index by its weight."""
        ...

    def winner(self, log_weights: Sequence[float], noise: Sequence[float]) -> int:
        """Return the index of the largest log weight (N,) plus noise, which is of `gumbels(N)`."""
        ...


class MakeChoices(Protocol):
    """Return the random choices that a key stands for."""

    def __call__(self, key: Key) -> RandomChoices: ...


class KeyChoices:
    """The random choices of a key. The generator is made on first use: many steps need one number, some need none."""

    def __init__(self, key: Key) -> None:
        self._key = key

    @functools.cached_property
    def _rng(self) -> np.random.Generator:
        return self._key.generator()

    def choose(self, masses: Sequence[float]) -> int:
        cumulative = list(itertools.accumulate(masses))
        index = bisect.bisect_right(cumulative, float(self._rng.random()) * cumulative[-1])
        # The product may round up to the total: then take the last index that has mass.
        return index if index < len(cumulative) else bisect.bisect_left(cumulative, cumulative[-1])

    def happens(self, probability: float) -> bool:
        return float(self._rng.random()) < probability

    def log_uniform(self) -> float:
        return math.log(1.0 - float(self._rng.random()))

    def gumbels(self, num: int) -> tuple[float, ...]:
        return tuple(-math.log(-math.log1p(-float(u))) if u > 0 else -math.inf for u in self._rng.random(num))

    def winner(self, log_weights: Sequence[float], noise: Sequence[float]) -> int:
        return max(range(len(noise)), key=lambda i: log_weights[i] + noise[i])
