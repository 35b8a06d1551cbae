"""Random numbers that follow from their purpose: (seed, stream, draw, position) -> a uniform.

Nothing is drawn from a sequence, so neither the order of rows in a batch nor a restart changes a number. Each counter
adds one splitmix64 finalizer (Steele, Lea and Flood 2014) to a chain, on the host, where the counters are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.core.numerics import Floats

Bits = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
# The streams: numbers for different purposes never coincide.
ORDER, DRAW, SHARED, CODE, NOISE, REST = range(6)


def _mixed(x: Bits) -> Bits:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def random_bits(seeds: ArrayLike, *counters: ArrayLike) -> Bits:
    """Return 64 random bits for each combination; the arguments are whole numbers from 0 and broadcast."""
    bits = _mixed(np.atleast_1d(np.asarray(seeds, dtype=np.uint64)) + _STEP)
    for counter in counters:
        bits = _mixed((bits ^ np.asarray(counter, dtype=np.uint64)) + _STEP)
    return bits


def uniforms(seeds: ArrayLike, *counters: ArrayLike) -> Floats:
    """Return uniforms in [0, 1) with 53 bits."""
    return (random_bits(seeds, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normals(seeds: ArrayLike, *counters: ArrayLike) -> Floats:
    """Return standard normals (Box-Muller). The last counter is used twice, for a radius and an angle."""
    *outer, last = counters
    twice = 2 * np.asarray(last, dtype=np.uint64)
    radius = np.sqrt(-2.0 * np.log1p(-uniforms(seeds, *outer, twice)))  # 1 - u is in (0, 1]
    angle: Floats = np.cos(2.0 * np.pi * uniforms(seeds, *outer, twice + np.uint64(1)))
    return radius * angle
