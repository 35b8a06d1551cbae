"""When to give up on a question, and what a few passes say of the next draws: bounds without a model.

p is the chance that a draw passes. As a run ends at its first pass, all that is known before is a number of misses; for
the hypothesis p >= p0 the product of 1 + lam (p0 - X_i) is an e-value for every lam <= 1 / (1 - p0), the largest bet is
the best one, and after n misses it is (1 - p0)^-n. It reaches 1 / error at n = ceil(ln(1/error) / -ln(1 - p0)): the
very number of draws that OptScale plans for F = 1 - p0. Looking after every draw costs nothing (Ville).

Clopper and Pearson (1934) bound p from k passes in n draws, n fixed beforehand; the Dvoretzky-Kiefer-Wolfowitz band
(with Massart's constant) bounds a whole law of scores, and so the worth of further draws. Both are exact for
independent draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samplewise.stop.truncated import ROUNDING


def misses_to_give_up(chance: float, error: float) -> int:
    """Misses after which "a draw passes with chance below `chance`" is certain at level 1 - `error`: 14, 29, 59 and 299
    for .2, .1, .05 and .01 at .05. ValueError unless both are in (0, 1)."""
    if not (0 < chance < 1 and 0 < error < 1):
        raise ValueError(f"chance and error must be between 0 and 1, got {chance} and {error}")
    return max(1, math.ceil(math.log(error) / math.log1p(-chance) - ROUNDING))


def least_chance(passes: int, draws: int, error: float = 0.05) -> float:
    """Clopper and Pearson's lower bound on p, wrong with probability at most `error`; 0.0 without a pass."""
    if not 0 <= passes <= draws or not 0 < error < 1:
        raise ValueError(f"passes must be in 0..draws and error in (0, 1), got {passes}, {draws} and {error}")
    if passes == 0:
        return 0.0
    from scipy.special import betaincinv

    return float(betaincinv(passes, draws - passes + 1, error))


def most_chance(passes: int, draws: int, error: float = 0.05) -> float:
    """Clopper and Pearson's upper bound on p: 1 - error^(1/n) without a pass."""
    return 1.0 - least_chance(draws - passes, draws, error) if draws else 1.0


def safe_draws(passes: int, draws: int, confidence: float = 0.95, error: float = 0.05) -> float:
    """Draws among which at least one passes with chance `confidence`, by the lower bound on p; inf without a pass."""
    chance = least_chance(passes, draws, error)
    if chance == 0:
        return math.inf
    return max(1.0, math.ceil(math.log1p(-confidence) / math.log1p(-chance) - ROUNDING)) if chance < 1 else 1.0


class Band(NamedTuple):
    """Bounds that hold together with chance 1 - error."""

    low: float
    high: float


def best_of_band(scores: Sequence[float], draws: int, error: float = 0.05) -> Band:
    """Where E[best of `draws` new scores] in [0, 1] lies, by the DKW band around the scores seen, n fixed beforehand.

    E[best] = 1 - the integral of F^N over [0, 1], and F lies within sqrt(ln(2/error) / (2n)) of its empirical twin.
    """
    seen = np.sort(np.asarray(scores, dtype=np.float64))
    if not len(seen) or not (0 <= seen[0] <= seen[-1] <= 1) or draws < 1:
        raise ValueError("a band needs at least one score, all in [0, 1], and at least one draw")
    width = math.sqrt(math.log(2 / error) / (2 * len(seen)))
    edges = np.concatenate([[0.0], seen, [1.0]])
    steps = np.arange(len(seen) + 1) / len(seen)  # the empirical law between two scores
    low, high = (1.0 - float(np.diff(edges) @ np.clip(steps + shift, 0.0, 1.0) ** draws) for shift in (width, -width))
    return Band(low, high)
