"""Failures of shared draws: known values, every subset by enumeration, orderings, ragged counts."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from samplewise.core.keys import Key
from samplewise.measure.powers import (
    ArmCounts,
    counts_by_arm,
    failure_power,
    independent_failure,
    reused_failure,
    stratified_failure,
)

nan = math.nan
TEN = ArmCounts(np.array([[9, 8, 10, 5]]), np.full((1, 4), 10))
RATES = np.array([0.95, 0.8, 0.99, 0.6])
counts_of_two = st.tuples(st.integers(0, 6), st.integers(0, 6))


def test_known_powers():
    assert failure_power([7, 9, 2, 10], 10, 3) == pytest.approx([0.291667, 0.7, 0, 1], abs=1e-6)
    assert failure_power(TEN.failures, TEN.draws, 3)[0] == pytest.approx([0.7, 0.466667, 1, 0.083333], abs=1e-6)
    assert failure_power(4, 4, 0) == 1


def test_unbiased_where_the_plug_in_is_not():
    """f = .6, n = 10, k = 3: the mean over binomial counts is f^k; that of (F/n)^k is .25872."""
    counts = np.arange(11)
    odds = binom.pmf(counts, 10, 0.6)
    assert odds @ failure_power(counts, 10, 3) == pytest.approx(0.216, abs=1e-12)
    assert odds @ (counts / 10) ** 3 == pytest.approx(0.258720, abs=1e-6)


@pytest.mark.parametrize("n", range(1, 9))
def test_a_power_is_the_share_of_subsets_that_all_fail(n):
    for failures in range(n + 1):
        outcomes = [1] * failures + [0] * (n - failures)
        for k in range(n + 1):
            subsets = [all(subset) for subset in combinations(outcomes, k)]
            assert failure_power(failures, n, k) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


def test_known_failures_of_shared_draws():
    assert np.prod(RATES**3) == pytest.approx(0.092003, abs=1e-6)
    assert RATES.mean() ** 12 == pytest.approx(0.114878, abs=1e-6)
    assert (RATES**12).mean() == pytest.approx(0.374410, abs=1e-6)
    assert stratified_failure(TEN, [3] * 4) == pytest.approx([0.027222], abs=1e-6)
    assert independent_failure(TEN, 3) == pytest.approx([0.503594], abs=1e-6)
    assert reused_failure(TEN, 3) == pytest.approx([(0.7 + 0.466667 + 1 + 0.083333) / 4], abs=1e-6)


def test_stratified_is_unbiased_at_ten_draws_of_three():
    """Truth .092003 at 3 of 10 draws per arm; the plug-in's exact expectation is .120417. 4 standard errors."""
    failures = Key(1).generator().binomial(10, RATES, (100_000, 4))
    values = stratified_failure(ArmCounts(failures, np.full(failures.shape, 10)), [3] * 4)
    assert abs(values.mean() - 0.0920026) < 4 * values.std() / len(values) ** 0.5
    counts = np.arange(11)
    plug_in = [binom.pmf(counts, 10, f) @ (counts / 10) ** 3 for f in RATES]
    assert math.prod(plug_in) == pytest.approx(0.120417, abs=1e-6)


@given(st.lists(counts_of_two.map(sorted), min_size=1, max_size=3), st.integers(1, 4))
def test_independent_arms_are_every_way_to_toss_them(pairs, num_draws):
    """Against the sum over all M^N arms of the N draws."""
    failures, draws = (np.array([[pair[i] for pair in pairs]]) for i in (0, 1))
    draws = draws + num_draws
    ways = []
    for tossed in product(range(len(pairs)), repeat=num_draws):
        allocation = np.bincount(tossed, minlength=len(pairs))
        ways.append(stratified_failure(ArmCounts(failures, draws), allocation)[0])
    assert independent_failure(ArmCounts(failures, draws), num_draws)[0] == pytest.approx(np.mean(ways), abs=1e-12)


def test_independent_at_a_hundred_draws_stays_finite():
    counts = ArmCounts(np.array([[100, 99, 0], [100, 100, 100]]), np.full((2, 3), 100))
    value = independent_failure(counts, 100)
    assert value[1] == pytest.approx(1)
    assert 0 < value[0] < 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(1, 5))
def test_orderings_of_the_truths(rates, per_arm):
    f, num_draws = np.array(rates), per_arm * len(rates)
    assert np.prod(f**per_arm) <= f.mean() ** num_draws + 1e-12
    assert f.mean() ** num_draws <= (f**num_draws).mean() + 1e-12


@given(st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=4), st.permutations(range(3)))
def test_relabelling_changes_nothing(table, order):
    counts = ArmCounts(np.array(table), np.full((len(table), 3), 5))
    turned = ArmCounts(counts.failures[:, order], counts.draws[:, order])
    allocation = np.array([2, 0, 3])
    assert stratified_failure(turned, allocation[order]) == pytest.approx(stratified_failure(counts, allocation))
    assert independent_failure(turned, 4) == pytest.approx(independent_failure(counts, 4))
    assert reused_failure(turned, 4) == pytest.approx(reused_failure(counts, 4))


def test_counting_by_arm():
    outcomes = [[1.0, 0.0, nan, 0.0], [0.0, 0.0, 1.0, 1.0]]
    counts = counts_by_arm(outcomes, [0, 1, 1, 1], 3)
    assert counts.failures.tolist() == [[0, 2, 0], [1, 1, 0]]
    assert counts.draws.tolist() == [[1, 2, 0], [1, 3, 0]]
    assert counts_by_arm(outcomes, [[0, 1, 1, 1], [1, 1, 0, 0]]).failures.tolist() == [[0, 2], [0, 2]]
    assert counts.rates[1] == pytest.approx([1, 1 / 3, nan], nan_ok=True)


def test_nothing_drawn_is_not_known():
    ragged = ArmCounts(np.array([[2, 0], [2, 1]]), np.array([[3, 0], [3, 4]]))
    assert stratified_failure(ragged, [1, 1]) == pytest.approx([nan, 2 / 3 * 1 / 4], nan_ok=True)
    assert stratified_failure(ragged, [2, 0]) == pytest.approx(
        [1 / 3, 1 / 3]
    )  # an arm that takes no part is not missed
    assert math.isnan(reused_failure(ragged, 2)[0])


def test_misuse_is_told():
    with pytest.raises(ValueError, match=r"k = 4 is more than the draws of an arm: .* ask for k <= 3"):
        failure_power([2], [3], 4)
    with pytest.raises(ValueError, match="k must be integers >= 0"):
        failure_power([2], [3], 1.5)
    with pytest.raises(ValueError, match="failures must be at least 0 and at most the draws"):
        stratified_failure(ArmCounts(np.array([[4]]), np.array([[3]])), [1])
    with pytest.raises(ValueError, match=r"allocation must have shape \(4,\)"):
        stratified_failure(TEN, [1, 1])
    with pytest.raises(ValueError, match="counts must be integers"):
        reused_failure(ArmCounts(np.array([[0.5]]), np.array([[3]])), 1)
    with pytest.raises(ValueError, match="arms must be 0 to 1, got 2"):
        counts_by_arm([[1.0]], [2], 2)
    with pytest.raises(ValueError, match="outcomes of 0, 1 or nan"):
        counts_by_arm([[0.5]], [0])
    with pytest.raises(ValueError, match="arms must be integers"):
        counts_by_arm([[1.0, 0.0]], [0])
