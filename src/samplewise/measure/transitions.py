"""Problems that a mix solves and direct does not, and the other way round: the first thing to show, and what it
resolves.

Single runs of 0 and 1 per problem at equal draws, or at equal tokens, with McNemar's exact test. With repeated draws,
use per-problem differences of unbiased failures instead (`paired_difference`): more power.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.measure.compare import sign_test


class Transitions(NamedTuple):
    """Problems by who solved them."""

    newly_solved: int  # by the mix alone
    newly_lost: int  # by direct alone
    both: int
    neither: int
    num_unscored: int
    p_value: float  # McNemar, exact and two-sided; nan where no problem is scored


def count_transitions(direct: ArrayLike, mix: ArrayLike) -> Transitions:
    """Count problems by which run covered them: `direct`, `mix` (P,) of 0, 1 or nan, else ValueError."""
    before, after = np.asarray(direct, dtype=np.float64), np.asarray(mix, dtype=np.float64)
    for name, values in (("direct", before), ("mix", after)):
        if values.ndim != 1 or not (np.isnan(values) | (values == 0) | (values == 1)).all():
            raise ValueError(f"{name} must be 0, 1 or nan for each problem, (P,); got shape {values.shape}: {values!r}")
    test = sign_test(after, before)
    both = int(((before == 1) & (after == 1)).sum())
    return Transitions(test.num_wins, test.num_losses, both, test.num_ties - both, test.num_unscored, test.p_value)


def mcnemar(newly_solved: int, newly_lost: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: 1.0 without either."""
    if newly_solved < 0 or newly_lost < 0:
        raise ValueError(f"counts must be at least 0, got {newly_solved} and {newly_lost}")
    signs = np.repeat([1.0, -1.0], [newly_solved, newly_lost])
    return sign_test(signs, np.zeros_like(signs)).p_value if len(signs) else 1.0


def detectable_gain(num_problems: int, discordant_share: float, *, level: float = 0.05) -> float:
    """Return the smallest net gain in coverage that a single run of `num_problems` can show at `level`, two-sided.

    Direct and mix are assumed to differ on `discordant_share` of them. nan where no outcome would do.
    """
    if num_problems < 1 or not 0 <= discordant_share <= 1:
        raise ValueError(f"need num_problems >= 1 and a share in [0, 1], got {num_problems} and {discordant_share}")
    discordant = round(num_problems * discordant_share)
    for solved in range((discordant + 1) // 2, discordant + 1):
        if mcnemar(solved, discordant - solved) < level:
            return (2 * solved - discordant) / num_problems
    return math.nan
