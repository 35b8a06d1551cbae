from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samplewise.measure import best_at, pass_at, pass_curve

from .twins import drawn, pass_twin

nan = math.nan
BINARY = hnp.arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=st.sampled_from([0.0, 1.0]))
RAGGED = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 7)), elements=st.sampled_from([0.0, 1.0, nan])
)


def rows(num_draws, *num_right):
    return np.array([[1.0] * c + [0.0] * (num_draws - c) for c in num_right])


def test_known_values():
    # 10 of 100 kept at random, c right: the chance levels of a shortlist
    probability = pass_at(rows(100, 1, 3, 10), [10])[0]
    assert probability == pytest.approx([0.1, 0.273469, 0.669524], abs=1e-6)
    assert pass_at(rows(4, 2), [1, 2, 3, 4])[:, 0] == pytest.approx([1 / 2, 5 / 6, 1, 1], abs=1e-15)


@given(RAGGED)
def test_every_k_is_the_mean_over_all_subsets(outcomes):
    curve = pass_curve(outcomes)
    available = min((len(drawn(row)) for row in outcomes if drawn(row)), default=outcomes.shape[1])
    for p, row in enumerate(outcomes):
        for k in range(1, outcomes.shape[1] + 1):
            if k > available or not drawn(row):
                assert np.isnan(curve[k - 1, p])
            else:
                assert curve[k - 1, p] == pytest.approx(pass_twin(row, k), abs=1e-12)
                assert pass_at(outcomes, [k])[0, p] == curve[k - 1, p]


def test_the_twin_tells_the_plug_in_estimate():
    """The mutant 1 - (1 - c/n)^k: too low by as much as .085 here, so the subsets would catch it."""
    outcomes = rows(7, 1, 2, 3)
    plug_in = 1 - (1 - outcomes.mean(axis=1)) ** 3
    twin = np.array([pass_twin(row, 3) for row in outcomes])
    assert (twin - plug_in > 0.05).all()
    assert pass_at(outcomes, [3])[0] == pytest.approx(twin, abs=1e-12)


@given(BINARY, st.randoms(use_true_random=False))
def test_laws(outcomes, shuffler):
    curve = pass_curve(outcomes)
    assert ((curve >= 0) & (curve <= 1)).all()
    assert (np.diff(curve, axis=0) >= -1e-15).all()  # more draws never hurt
    assert curve[0] == pytest.approx(outcomes.mean(axis=1))
    assert curve[-1] == pytest.approx(outcomes.max(axis=1))
    order = shuffler.sample(range(outcomes.shape[1]), outcomes.shape[1])
    assert (pass_curve(outcomes[:, order]) == curve).all()
    ks = range(1, outcomes.shape[1] + 1)
    assert best_at(outcomes, outcomes, ks) == pytest.approx(curve, abs=1e-12)  # an oracle's best-of-k


def test_a_hundred_thousand_draws():
    """Against exact integers, where factorials in floating point would be infinite."""
    n = 100_000
    for c in (1, 7, 50_000):
        for k in (1, 100, n // 3):
            exact = 1 - math.comb(n - c, k) / math.comb(n, k) if k <= 100 else None
            if exact is None:  # by the symmetric product over c, which is short for the small c
                exact = 1 - math.prod((n - k - i) / (n - i) for i in range(c))
            assert pass_at(rows(n, c), [k])[0, 0] == pytest.approx(exact, abs=1e-12)


def test_many_rows_are_taken_in_parts():
    outcomes = np.tri(300, 20_000, -1)  # 0 .. 299 right of 20,000: more numbers than are held at once
    value = pass_at(outcomes, [20_000 - 10])[0]
    assert value[0] == 0
    assert value[[1, 2, 299]] == pytest.approx([1 - 10 / 20_000, 1 - 90 / (20_000 * 19_999), 1.0])


def test_a_problem_without_outcomes_is_unknown_and_restricts_nothing():
    outcomes = np.array([[1.0, 0.0, 0.0], [nan, nan, nan]])
    assert pass_at(outcomes, [3])[0] == pytest.approx([1.0, nan], nan_ok=True)
    assert np.isnan(pass_at(np.full((2, 3), nan), [3])).all()
    assert pass_at(np.zeros((0, 3)), [2]).shape == (1, 0)


def test_a_short_problem_ends_the_curve_for_all():
    curve = pass_curve(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, nan]]))
    assert np.isnan(curve).tolist() == [[False, False], [False, False], [True, True]]


@pytest.mark.parametrize(
    ("outcomes", "ks", "message"),
    [
        ([[1, 0, 1], [1, 0, nan]], [3], "1 of 2 problems have fewer, the smallest 2"),
        ([[1, 0, 1]], [4], "Ask for k <= 3"),
        ([[1, 0, 1]], [0], "at least 1, got 0"),
        ([[1, 0, 1]], [], "non-empty sequence of integers"),
        ([[1, 0, 1]], [1.5], "non-empty sequence of integers"),
        ([[1, 0.5, 1]], [2], "best_at"),
        ([[1, 2, 1]], [2], r"in \[0, 1\] or nan, got .*2"),
        ([1, 0, 1], [2], "problems by draws"),
    ],
)
def test_misuse_is_told(outcomes, ks, message):
    with pytest.raises(ValueError, match=message):
        pass_at(outcomes, ks)
