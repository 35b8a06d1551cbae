"""Random numbers that follow from what they are for: (seed, stream, sample, position) -> a uniform.

Nothing is drawn from a sequence, so neither the order of rows in a batch nor a restart changes a number. A chain of
splitmix64 finalisers (Steele, Lea and Flood 2014), one per counter, on the host, where the counters are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.numerics import Floats

Words = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# What a number is for: two streams never meet.
ORDER, DRAW, SHARED, CODE, NOISE, REST = range(6)


def _mixed(x: Words) -> Words:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def words(seeds: ArrayLike, *counters: ArrayLike) -> Words:
    """64 random bits for each combination; the arguments are whole numbers from 0 and broadcast."""
    found = _mixed(np.atleast_1d(np.asarray(seeds, dtype=np.uint64)) + _STEP)
    for counter in counters:
        found = _mixed((found ^ np.asarray(counter, dtype=np.uint64)) + _STEP)
    return found


def uniforms(seeds: ArrayLike, *counters: ArrayLike) -> Floats:
    """Uniforms in [0, 1) with 53 bits."""
    return (words(seeds, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(seeds: ArrayLike, *counters: ArrayLike) -> Floats:
    """Standard normals, by Box and Muller. The last counter is taken twice, as a radius and as an angle."""
    *outer, last = counters
    twice = 2 * np.asarray(last, dtype=np.uint64)
    radius = np.sqrt(-2.0 * np.log1p(-uniforms(seeds, *outer, twice)))  # 1 - u is in (0, 1]
    angle: Floats = np.cos(2.0 * np.pi * uniforms(seeds, *outer, twice + np.uint64(1)))
    return radius * angle
