"""Decide when to give up on a question, without a model of its difficulty.

Let p be the probability that a draw passes. A run ends at its first pass, so before that only a number of misses is
known. For the hypothesis p >= p0 the product of 1 + lam (p0 - X_i) is an e-value for every lam <= 1 / (1 - p0). The
largest bet is the best one: after n misses the e-value is (1 - p0)^-n. It reaches 1 / error at
n = ceil(ln(1/error) / -ln(1 - p0)), the same number of draws that OptScale plans for F = 1 - p0. Checking after every
draw is valid (Ville's inequality).
"""

from __future__ import annotations

import math

from samplewise.stop.truncated import ROUNDING


def misses_to_give_up(probability: float, error: float) -> int:
    """Return the misses after which "p is below `probability`" is certain at level 1 - `error`.

    14, 29, 59 and 299 for .2, .1, .05 and .01 at .05. Raise ValueError unless both are in (0, 1).
    """
    if not (0 < probability < 1 and 0 < error < 1):
        raise ValueError(f"probability and error must be between 0 and 1, got {probability} and {error}")
    return max(1, math.ceil(math.log(error) / math.log1p(-probability) - ROUNDING))
