"""Intervals in single cases; how often they hold the truth is in test_coverage_of_intervals.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, t

from samplewise.measure import Estimate, mean_interval, mean_intervals

nan = math.nan
VALUES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 1.0, nan]), min_size=1, max_size=30)


def test_values_of_0_and_1_have_wilsons_interval():
    """Twelve of forty, by Wilson's formula with n_eff = P - 1 (the variance has ddof 1) and Student's quantile."""
    estimate = mean_interval([1.0] * 12 + [0.0] * 28)
    size, quantile, mean = 39, t.ppf(0.975, 39), 0.3
    centre = (mean + quantile**2 / (2 * size)) / (1 + quantile**2 / size)
    half = quantile * math.sqrt(mean * 0.7 / size + quantile**2 / (4 * size**2)) / (1 + quantile**2 / size)
    assert estimate == pytest.approx((0.3, centre - half, centre + half, math.sqrt(0.21 / 39), 40, 0))


def test_all_0_and_all_1_have_clopper_and_pearsons_ends():
    for num in (1, 5, 50):
        none, every = mean_interval([0.0] * num), mean_interval([1.0] * num)
        assert (none.low, none.high) == pytest.approx((0.0, beta.ppf(0.975, 1, num)))
        assert (every.low, every.high) == pytest.approx((beta.ppf(0.025, num, 1), 1.0))
    assert mean_interval([0.0] * 50).high == pytest.approx(0.0711, abs=1e-4)


def test_equal_values_within_the_support_are_not_certain_either():
    estimate = mean_interval([0.3] * 50)  # whose mean is not .3 to the last place
    assert (estimate.low, estimate.high) == pytest.approx((0.3 * (1 - 0.0711), 0.3 + 0.7 * 0.0711), abs=1e-4)
    same = mean_interval([0.0] * 50, support=(-1.0, 1.0))
    assert (same.low, same.high) == pytest.approx((-0.0711, 0.0711), abs=1e-4)


def test_one_problem_says_next_to_nothing():
    estimate = mean_interval([1.0])
    assert (estimate.value, estimate.num_problems) == (1.0, 1)
    assert (estimate.low, estimate.high) == pytest.approx((0.025, 1.0))
    assert math.isnan(estimate.stderr)


def test_no_problem_says_nothing():
    for values, unscored in (([], 0), ([nan, nan], 2)):
        estimate = mean_interval(values)
        assert all(map(math.isnan, estimate[:4]))
        assert estimate[4:] == (0, unscored)


def test_unscored_problems_are_counted_and_left_out():
    assert mean_interval([1.0, nan, 0.0, 0.5, nan]) == mean_interval([1.0, 0.0, 0.5])._replace(num_unscored=2)


def test_a_saturated_sample_does_not_rule_out_one_hard_problem():
    estimate = mean_interval(1 - np.linspace(1e-6, 1e-4, 50))
    assert estimate.low <= 50 / 51 * estimate.value < 0.981


def test_unknown_support():
    """Symmetric values: Hall's interval is Student's. Equal values: how far others lie is unknown."""
    values = np.array([100.0, 200.0, 300.0, 400.0])
    estimate = mean_interval(values, support=None)
    half = t.ppf(0.975, 3) * values.std(ddof=1) / 2
    half_population = half * math.sqrt(3 / 4)  # Hall's expansion is in the population deviation
    assert (estimate.low, estimate.high) == pytest.approx((250 - half_population, 250 + half_population))
    equal = mean_interval([64.0] * 20, support=None)
    assert equal.value == 64.0
    assert math.isnan(equal.low)
    assert math.isnan(equal.high)


def test_the_ends_solve_halls_equation():
    """T + g T^2 / 3 + g^2 T^3 / 27 + g / (6 P) of T = (m - end) / d is +-t / sqrt(P) at the two ends."""
    values = np.array([1.0, 2.0, 2.0, 3.0, 5.0, 9.0, 20.0])
    estimate = mean_interval(values, support=None)
    spread = values.std()
    skewness = ((values - values.mean()) ** 3).mean() / spread**3
    for end, sign in ((estimate.low, 1), (estimate.high, -1)):
        deviation = (values.mean() - end) / spread
        moved = deviation + skewness * deviation**2 / 3 + skewness**2 * deviation**3 / 27 + skewness / (6 * 7)
        assert moved == pytest.approx(sign * t.ppf(0.975, 6) / 7**0.5)


@given(VALUES, st.randoms(use_true_random=False))
def test_laws(values, shuffler):
    estimate = mean_interval(values)
    if estimate.num_problems == 0:
        return
    assert 0 <= estimate.low <= estimate.value + 1e-12
    assert estimate.value - 1e-12 <= estimate.high <= 1
    assert estimate.high - estimate.low > 1 / (estimate.num_problems + 2) - 1e-9  # never narrower than one problem
    mirrored = mean_interval([1 - v for v in values])  # failures are as good as successes
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((estimate.low, estimate.high), abs=1e-7)
    stretched = mean_interval([2 * v - 1 for v in values], support=(-1.0, 1.0))
    assert ((stretched.low + 1) / 2, (stretched.high + 1) / 2) == pytest.approx(estimate[1:3], abs=1e-7)
    shuffled = mean_interval(shuffler.sample(values, len(values)))
    assert shuffled == pytest.approx(estimate, abs=1e-7, nan_ok=True)


@given(st.lists(VALUES.map(lambda v: (v * 5)[:5]), min_size=1, max_size=4))
def test_rows_are_computed_as_if_alone(rows):
    together = mean_intervals(rows)
    for row, estimate in zip(rows, together, strict=True):
        assert isinstance(estimate, Estimate)
        assert estimate == pytest.approx(mean_interval(row), abs=1e-12, nan_ok=True)


def test_misuse_is_told():
    with pytest.raises(ValueError, match=r"values must be in \[0.0, 1.0\] or nan, got .*1.5"):
        mean_interval([0.5, 1.5])
    with pytest.raises(ValueError, match=r"must have shape \(P,\)"):
        mean_interval([[0.5]])
    with pytest.raises(ValueError, match=r"must have shape \(K, P\)"):
        mean_intervals([0.5])
    with pytest.raises(ValueError, match="low < high"):
        mean_interval([0.5], support=(1.0, 0.0))
    assert mean_interval([1 + 1e-12, 0.0]).high <= 1  # rounding is no misuse
