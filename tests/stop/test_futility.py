from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.stop.futility import misses_to_give_up


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
