from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.numerics import log_normalise, log_softmax

logs = st.floats(-700, 700)


@given(st.lists(logs, min_size=1, max_size=8), logs)
def test_normalised_weights_sum_to_one_and_forget_a_constant(logw: list[float], shift: float) -> None:
    weights = log_normalise(logw)
    assert math.isclose(np.exp(weights).sum(), 1.0, rel_tol=1e-12)
    assert np.allclose(log_normalise(np.array(logw) + shift), weights, atol=1e-9)


def test_exact_values() -> None:
    assert np.allclose(log_normalise([0.0, math.log(3.0)]), np.log([0.25, 0.75]))
    assert log_normalise([5.0, -math.inf]).tolist() == [0.0, -math.inf]
    assert np.allclose(log_normalise([1e5, 1e5]), math.log(0.5))  # no overflow
    assert np.allclose(log_softmax([[0.0, 0.0], [0.0, math.log(9.0)]]), np.log([[0.5, 0.5], [0.1, 0.9]]))


@pytest.mark.parametrize("logw", [[], [-math.inf], [-math.inf, -math.inf], [math.nan, 0.0], [math.inf, 0.0]])
def test_weights_without_a_law_are_misuse(logw: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one log weight must be finite"):
        log_normalise(logw)


@given(st.lists(st.lists(logs, min_size=3, max_size=3), min_size=1, max_size=4))
def test_softmax_is_row_by_row(rows: list[list[float]]) -> None:
    whole = log_softmax(rows)
    for i, row in enumerate(rows):
        assert np.allclose(whole[i], log_normalise(row), atol=1e-9)
