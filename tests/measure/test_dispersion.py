"""M1, its corrections, and what draws of one arm are worth: known values, the published table, no effect where none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, kstest

from samplewise.core.keys import Key
from samplewise.measure.clustering import analyse_clustering, between_arm_variance, effective_draws
from samplewise.measure.dispersion import (
    least_dispersion,
    log_dispersion,
    log_rate,
    mean_deviation,
    shuffled_failures,
)
from samplewise.measure.powers import ArmCounts

nan = math.nan
TEN = ArmCounts(np.array([[9, 8, 10, 5]]), np.full((1, 4), 10))
UNLIKE = [0.95, 0.9, 0.8, 0.6, 0.4, 0.2]


def of(failures, num_draws):
    table = np.array(failures)
    return ArmCounts(table, np.full(table.shape, num_draws))


def test_known_log_rates():
    found = log_rate(TEN)
    assert found.value[0] == pytest.approx([-0.154015, -0.271662, -0.048752, -0.740659], abs=1e-6)
    none, half = log_rate(of([[0]], 10)), log_rate(of([[5]], 8))
    assert (none.value[0, 0], none.variance[0, 0]) == pytest.approx((-4.315263, 4.839636), abs=1e-6)
    assert (half.value[0, 0], half.variance[0, 0]) == pytest.approx((-0.529548, 0.081830), abs=1e-6)
    assert math.isnan(log_rate(of([[0]], 0)).value[0, 0])


def test_known_dispersion():
    found = log_dispersion(TEN, Key(0))
    assert (found.raw, found.by_variance) == pytest.approx((0.218444, 0.161334), abs=1e-6)
    assert found.per_problem.raw[0] == found.raw
    assert math.isnan(found.low)  # one problem says nothing of others


def test_known_clustering():
    assert between_arm_variance(TEN)[0] == pytest.approx(0.032778, abs=1e-6)
    found = analyse_clustering(TEN)
    assert (found.between[0], found.within[0], found.icc[0]) == pytest.approx((0.466667, 0.138889, 0.190939), abs=1e-6)
    assert found.pooled_icc.value == pytest.approx(0.190939, abs=1e-6)
    assert effective_draws(16, [0.2, 0.5, 0.0, 1.0, -0.1]) == pytest.approx([4, 1.882353, 16, 1, 16], abs=1e-6)


def test_between_arm_variance_is_unbiased_from_two_draws():
    """Exactly, by enumerating every pair of counts."""
    rates, n = np.array([0.9, 0.3]), 2
    total = 0.0
    for one in range(n + 1):
        for other in range(n + 1):
            odds = binom.pmf([one, other], n, rates).prod()
            total += odds * between_arm_variance(of([[one, other]], n))[0]
    assert total == pytest.approx(rates.var(ddof=1), abs=1e-12)
    assert np.var(UNLIKE, ddof=1) == pytest.approx(0.0884, abs=1e-4)


def test_between_arm_variance_of_the_table():
    """Six arms, six draws, truth .0884. 4 standard errors."""
    values = between_arm_variance(of(Key(2).generator().binomial(6, UNLIKE, (20_000, 6)), 6))
    assert abs(values.mean() - np.var(UNLIKE, ddof=1)) < 4 * values.std() / len(values) ** 0.5


def test_ragged_clustering_is_the_analysis_of_variance():
    failures, draws = np.array([[1, 4, 2]]), np.array([[2, 6, 3]])
    outcomes = [[1, 0], [1, 1, 1, 1, 0, 0], [1, 1, 0]]
    everything = np.concatenate(outcomes)
    between = sum(len(o) * (np.mean(o) - everything.mean()) ** 2 for o in outcomes) / 2
    within = sum(((np.array(o) - np.mean(o)) ** 2).sum() for o in outcomes) / (11 - 3)
    size = (11 - (4 + 36 + 9) / 11) / 2
    found = analyse_clustering(ArmCounts(failures, draws))
    assert (found.between[0], found.within[0], found.draws_per_arm[0]) == pytest.approx((between, within, size))
    assert found.icc[0] == pytest.approx((between - within) / (between + (size - 1) * within))


def test_a_fresh_idea_for_every_draw_says_nothing():
    one = of([[1, 0, 1]], 1)
    assert math.isnan(between_arm_variance(one)[0])
    found = analyse_clustering(one)
    assert math.isnan(found.icc[0])
    assert math.isnan(found.pooled_icc.value)
    assert math.isnan(analyse_clustering(of([[1], [2]], 3)).icc[0])  # nor does one arm
    assert math.isnan(between_arm_variance(of([[1]], 3))[0])


def test_shuffling_keeps_what_it_must():
    counts = ArmCounts(np.array([[3, 0, 2], [0, 0, 0]]), np.array([[4, 2, 5], [1, 0, 3]]))
    dealt = shuffled_failures(counts, Key(1), 500)
    assert (dealt.sum(axis=2) == [5, 0]).all()
    assert (dealt >= 0).all()
    assert (dealt <= counts.draws).all()
    assert dealt[:, 0].mean(axis=0) == pytest.approx(5 / 11 * counts.draws[0], abs=4 * 0.9 / 500**0.5)


@given(st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=4), st.permutations(range(3)))
def test_relabelling_arms_changes_nothing_but_the_shuffles(table, order):
    counts, turned = of(table, 6), of(np.array(table)[:, order], 6)
    one, other = (log_dispersion(c, Key(0), num_shuffles=5) for c in (counts, turned))
    assert one.raw == pytest.approx(other.raw, abs=1e-12)
    assert one.by_variance == pytest.approx(other.by_variance, abs=1e-9)
    assert between_arm_variance(counts) == pytest.approx(between_arm_variance(turned), abs=1e-12)
    assert mean_deviation([1.0, 1.0, 4.0]) == pytest.approx(4 / 3)


def test_a_copy_of_direct_is_no_dispersion():
    """Problems of all kinds, two arms alike: pooled M1 near 0 and p uniform, though raw M1 is not small."""
    p_values, corrected = [], []
    for repeat in range(60):
        generator = Key(repeat).fold("copies").generator()
        probability = generator.beta(0.8, 2, 40)[:, None]
        counts = of(generator.binomial(10, np.broadcast_to(1 - probability, (40, 2))), 10)
        found = log_dispersion(counts, Key(repeat), num_shuffles=99)
        p_values.append(found.p_value)
        corrected.append([found.raw, found.by_variance, found.by_permutation, found.low])
    raw, by_variance, by_permutation, low = np.mean(corrected, axis=0)
    assert kstest(p_values, "uniform").pvalue > 1e-3
    assert by_variance < 0.4 * raw
    assert by_permutation < 0.5 * raw
    assert low < 0.01


def test_arms_that_differ_are_told():
    counts = of(Key(4).generator().binomial(16, UNLIKE, (50, 6)), 16)
    found = log_dispersion(counts, Key(0), num_shuffles=99)
    assert found.p_value == 0.01
    assert found.low > 0.3
    assert found.low < found.by_variance < found.high


def test_signs_from_one_half_cannot_be_lifted_by_noise():
    alike = least_dispersion(of(Key(6).generator().binomial(12, 0.7, (4_000, 4)), 12), Key(0))
    assert abs(alike.mean()) < 4 * alike.std() / len(alike) ** 0.5
    apart = least_dispersion(of(Key(7).generator().binomial(40, UNLIKE, (2_000, 6)), 40), Key(0))
    truth = float(mean_deviation(np.log(UNLIKE)))
    assert 0.9 * truth < apart.mean() < truth + 4 * apart.std() / len(apart) ** 0.5
    assert math.isnan(least_dispersion(of([[1, 0]], 1), Key(0))[0])


def test_weights_and_unknown_problems():
    counts = ArmCounts(np.array([[9, 2], [5, 5], [3, 0]]), np.array([[10, 10], [10, 10], [4, 0]]))
    heavy = log_dispersion(counts, Key(0), weights=[1.0, 0.0, 5.0])
    alone = log_dispersion(of([[9, 2]], 10), Key(0))
    assert (heavy.raw, heavy.by_variance, heavy.num_problems) == (alone.raw, alone.by_variance, 1)
    assert math.isnan(heavy.per_problem.raw[2])
    assert log_dispersion(counts, Key(0)).num_problems == 2
    assert math.isnan(log_dispersion(of([[1], [2]], 3), Key(0)).raw)  # one arm
    with pytest.raises(ValueError, match=r"weights must have shape \(3,\)"):
        log_dispersion(counts, Key(0), weights=[1.0])
    with pytest.raises(ValueError, match="num_shuffles"):
        log_dispersion(counts, Key(0), num_shuffles=0)


TABLE = [  # rates, draws, then raw, by variance, by permutation as printed in 40 x 40 repeats elsewhere
    ([0.7] * 6, 8, (0.184, 0.043, 0.069)),
    ([0.7] * 6, 32, (0.086, 0.023, 0.033)),
    ([0.7] * 6, 128, (0.042, 0.011, 0.014)),
    (UNLIKE, 8, (0.594, 0.454, 0.549)),
    (UNLIKE, 32, (0.492, 0.445, 0.481)),
    (UNLIKE, 128, (0.469, 0.439, 0.466)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("rates", "num_draws", "printed"), TABLE)
def test_the_published_table(rates, num_draws, printed):
    """Means of single problems, within 4 standard errors of 500 repeats (and of as many behind the print)."""
    counts = of(Key(9).fold(num_draws, str(rates)).generator().binomial(num_draws, rates, (500, 6)), num_draws)
    found = log_dispersion(counts, Key(0)).per_problem
    for values, expected in zip((found.raw, found.by_variance, found.by_permutation), printed, strict=True):
        assert abs(values.mean() - expected) < 4 * values.std() * (2 / 500) ** 0.5 + 0.0005
