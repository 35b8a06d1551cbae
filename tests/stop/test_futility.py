from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from samplewise.keys import Key
from samplewise.stop.futility import best_of_band, least_chance, misses_to_give_up, most_chance, safe_draws


def test_misses_of_the_table() -> None:
    assert [misses_to_give_up(p, 0.05) for p in (0.2, 0.1, 0.05, 0.01)] == [14, 29, 59, 299]
    assert misses_to_give_up(0.5, 0.5) == 1
    for wrong in ((0.0, 0.05), (1.0, 0.05), (0.1, 0.0)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            misses_to_give_up(*wrong)


@given(st.floats(0.01, 0.9), st.floats(0.01, 0.5))
def test_the_e_value_has_mean_one_at_the_border(chance: float, error: float) -> None:
    """Enumerated: over the runs up to the first pass, E[(1 - p0)^-n; no pass yet] = 1 at p = p0, and it reaches 1/error
    at the very draw that the count says."""
    num = misses_to_give_up(chance, error)
    assert (1 - chance) ** num <= error * (1 + 1e-9)
    assert num == 1 or (1 - chance) ** (num - 1) > error * (1 - 1e-9)
    for n in range(1, 8):
        assert (1 - chance) ** n * (1 - chance) ** -n == pytest.approx(1.0)


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.01, 0.3))
def test_clopper_and_pearson_by_their_definition(passes: int, draws: int, error: float) -> None:
    passes = min(passes, draws)
    low, high = least_chance(passes, draws, error), most_chance(passes, draws, error)
    assert 0 <= low <= passes / draws <= high <= 1
    if passes:
        assert binom.sf(passes - 1, draws, low) == pytest.approx(error, rel=1e-6)
    else:
        assert high == pytest.approx(1 - error ** (1 / draws))
    needed = safe_draws(passes, draws, 0.95, error)
    assert needed == math.inf if low == 0 else (1 - low) ** needed <= 0.05 + 1e-9


def test_a_band_covers_the_best_of_new_draws() -> None:
    """Uniform scores: E[best of 5] = 5/6. At most 5 % of bands miss it; DKW is cautious, so hardly any does."""
    rng, missed = Key(31).generator(), 0
    for _ in range(200):
        band = best_of_band(rng.random(20).tolist(), 5)
        assert 0 <= band.low <= band.high <= 1
        missed += not band.low <= 5 / 6 <= band.high
    assert missed <= 10
    tight = best_of_band(np.linspace(0, 1, 100_001).tolist(), 5)
    assert tight.high - tight.low < 0.02
    with pytest.raises(ValueError, match="at least one score"):
        best_of_band([], 5)
