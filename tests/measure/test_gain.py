"""The two factors, fidelity, the bound and what is certified: known values, identities, unknowns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.measure._bootstrap import ratios
from samplewise.measure.dispersion import mean_deviation
from samplewise.measure.gain import (
    bound_growth,
    certain_dispersion,
    certified_reused,
    effective_gain,
    even_allocation,
    fidelity,
    two_factor_gain,
)
from samplewise.measure.powers import ArmCounts, failure_power, stratified_failure

nan = math.nan
KEY = Key(3)


def of(failures, num_draws):
    table = np.array(failures)
    return ArmCounts(table, np.full(table.shape, num_draws))


def exact(rates, big=10**9):
    """Counts so large that the estimate of f^k is f^k to eight digits."""
    return of(np.round(np.array(rates) * big).astype(np.int64), big)


def test_known_split():
    """Problems (.9 .5) and (.6 .95), N = 4, two draws per arm: diversity and fidelity, and their product."""
    arms = exact([[0.9, 0.5], [0.6, 0.95]])
    gain = two_factor_gain(arms, exact([[0.9], [0.6]]), [2, 2], KEY, num_resamples=200)
    assert (gain.mix, gain.reused, gain.direct) == pytest.approx((0.263700, 0.415677, 0.392850), abs=1e-6)
    found = (gain.diversity.value, gain.fidelity.value, gain.total.value)
    assert found == pytest.approx((0.634387, 1.058105, 0.671249), abs=1e-6)


def test_diversity_alone_is_not_better_than_direct():
    gain = two_factor_gain(exact([[0.9, 1.0], [0.6, 0.95]]), exact([[0.9], [0.6]]), [2, 2], KEY, num_resamples=200)
    found = (gain.diversity.value, gain.fidelity.value, gain.total.value)
    assert found == pytest.approx((0.872931, 1.654707, 1.444444), abs=1e-6)


def test_known_bound():
    rates = np.array([0.95, 0.8, 0.99, 0.6])
    assert mean_deviation(np.log(rates)) == pytest.approx(0.168156, abs=1e-6)
    assert bound_growth(12 * mean_deviation(np.log(rates))) == pytest.approx(0.758938, abs=1e-6)
    assert (rates**12).mean() / np.prod(rates**3) == pytest.approx(4.069562, abs=1e-6)
    assert bound_growth([0.5, 1, 2, -3]).tolist() == [0.0625, 0.25, 0.75, 1.25]


def test_known_certificate():
    rates = np.array([[0.9, 0.5], [0.6, 0.95]])
    stratified = np.prod(rates**2, axis=1)
    assert certified_reused(stratified, mean_deviation(np.log(rates)), 4) == pytest.approx(0.332205, abs=1e-6)
    assert certified_reused([nan, 0.5], 0.0, 4) == 0.5
    assert math.isnan(certified_reused([nan], 0.1, 4))


@given(st.lists(st.lists(st.floats(0.01, 1), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(1, 6))
def test_the_bound_holds(table, per_arm):
    """Problem by problem, and with one weighted mean of M1 for all (Jensen)."""
    f, num_draws = np.array(table), 3 * per_arm
    stratified, reused = np.prod(f**per_arm, axis=1), (f**num_draws).mean(axis=1)
    spread = mean_deviation(np.log(f))
    assert (stratified * (1 + bound_growth(num_draws * spread)) <= reused * (1 + 1e-9)).all()
    weighted = float(stratified @ spread / stratified.sum())
    assert certified_reused(stratified, weighted, num_draws) <= reused.mean() * (1 + 1e-9)


@given(st.lists(st.lists(st.integers(0, 12), min_size=4, max_size=4), min_size=2, max_size=6))
def test_the_factors_multiply_to_the_total(table):
    counts = np.array(table)
    arms, direct = of(counts[:, :3], 12), of(counts[:, 3:], 12)
    gain = two_factor_gain(arms, direct, [2, 2, 2], KEY, num_resamples=200)
    if gain.direct > 0 and gain.reused > 0:
        assert gain.diversity.value * gain.fidelity.value == pytest.approx(gain.total.value, abs=1e-12)
    if gain.direct == 0:
        assert math.isnan(gain.total.value)
        assert math.isnan(gain.fidelity.value)


def test_without_n_draws_per_arm_the_split_is_not_known():
    generator = KEY.generator()
    arms, direct = of(generator.binomial(5, 0.8, (30, 2)), 5), of(generator.binomial(8, 0.8, (30, 1)), 8)
    gain = two_factor_gain(arms, direct, [4, 4], KEY, num_resamples=200)
    assert math.isnan(gain.diversity.value)
    assert math.isnan(gain.fidelity.low)
    assert math.isnan(gain.reused)
    assert gain.total.low < gain.total.value < gain.total.high
    split = two_factor_gain(arms, direct, [2, 2], KEY, num_resamples=200)
    assert not math.isnan(split.diversity.value)


def test_problems_without_draws_are_left_out():
    arms = ArmCounts(np.array([[5, 4], [5, 0], [3, 4], [5, 5]]), np.array([[5, 5], [5, 0], [5, 5], [5, 5]]))
    direct = ArmCounts(np.array([[5], [4], [4], [0]]), np.array([[5], [5], [5], [0]]))
    gain = two_factor_gain(arms, direct, [1, 1], KEY, num_resamples=200)
    assert gain.num_problems == 2
    assert gain.mix == pytest.approx((0.8 + 0.6 * 0.8) / 2)
    assert gain.direct == pytest.approx((1 + 0.6) / 2)
    nothing = two_factor_gain(ArmCounts(arms.failures, arms.draws * 0 + [[5, 5]]), of([[0]] * 4, 5), [1, 1], KEY)
    assert math.isnan(nothing.total.value)  # direct never fails: no ratio


def test_no_problem_at_all():
    empty = ArmCounts(np.zeros((1, 2), dtype=int), np.zeros((1, 2), dtype=int))
    gain = two_factor_gain(empty, ArmCounts(empty.failures[:, :1], empty.draws[:, :1]), [1, 1], KEY)
    assert gain.num_problems == 0
    assert math.isnan(gain.total.value)


def test_the_same_key_gives_the_same_interval_and_relabelling_problems_the_same_value():
    generator = KEY.generator()
    arms, direct = of(generator.binomial(8, 0.7, (40, 3)), 8), of(generator.binomial(8, 0.7, (40, 1)), 8)
    one, again = (two_factor_gain(arms, direct, [2, 2, 2], KEY, num_resamples=500) for _ in range(2))
    assert one == again
    back = two_factor_gain(of(arms.failures[::-1], 8), of(direct.failures[::-1], 8), [2, 2, 2], KEY, num_resamples=500)
    assert back.total.value == pytest.approx(one.total.value, abs=1e-12)
    assert back.total.low == pytest.approx(one.total.low, abs=0.05)


def test_the_standard_error_is_the_delta_methods():
    """Of log mean(x) - log mean(y), whose linear part in a problem is x / mean(x) - y / mean(y)."""
    generator = KEY.generator()
    x = generator.beta(2, 3, 50)
    y = 0.5 * x + 0.5 * generator.beta(4, 2, 50)
    (found,) = ratios(x[:, None], y[:, None], KEY, 1_000)
    parts = x / x.mean() - y / y.mean()
    assert found.stderr_log == pytest.approx(parts.std(ddof=1) / 50**0.5)
    assert found.value == pytest.approx(x.mean() / y.mean())
    assert math.log(found.high / found.low) == pytest.approx(2 * 2.01 * found.stderr_log, rel=0.15)
    unknown = np.concatenate([x, [0.5, nan]]), np.concatenate([y, [nan, 0.5]])
    (again,) = ratios(unknown[0][:, None], unknown[1][:, None], KEY, 1_000)
    assert again.value == pytest.approx(found.value)
    assert again.stderr_log == pytest.approx(found.stderr_log)


@pytest.mark.slow
def test_the_interval_of_a_ratio_covers():
    """Skewed values, 60 problems, true ratio 1.5: 600 repeats, whose standard error is .009."""
    generator, covered = Key(8).generator(), 0
    for repeat in range(600):
        ease = generator.beta(0.5, 1.5, (60, 1))
        x, y = ease * generator.uniform(0, 3, (60, 1)), ease * generator.uniform(0, 2, (60, 1))
        (found,) = ratios(x, y, Key(repeat), 1_000)
        covered += found.low <= 1.5 <= found.high
    assert 0.925 < covered / 600 < 0.975


def test_the_worst_arm_is_named():
    arms = exact([[0.9, 0.5, 0.99], [0.6, 0.95, 0.99], [0.8, 0.7, 0.99]])
    found = fidelity(arms, exact([[0.9], [0.6], [0.8]]), 4, KEY, num_resamples=200)
    assert found.worst == 2
    assert found.by_arm[0].value == pytest.approx(0, abs=1e-12)
    assert found.by_arm[2].value == pytest.approx(0.99**4 / np.mean([0.9**4, 0.6**4, 0.8**4]) - 1, abs=1e-6)
    assert found.eps.value == pytest.approx(np.mean([arm.value for arm in found.by_arm]), abs=1e-9)


def test_a_certificate_from_data_is_below_the_truth():
    """Two groups of arms far apart, 400 problems: the limit is above 0 and below M1, and the certified b below b. Arms
    that are alike certify next to nothing; a false alarm at a fresh key has odds of 1 in 40."""
    generator = Key(5).generator()
    rates = np.tile([0.95, 0.95, 0.5, 0.5], (400, 1))
    counts = of(generator.binomial(24, rates), 24)
    weight = stratified_failure(counts, [2] * 4)
    limit = certain_dispersion(counts, weight, KEY)
    truth = float(mean_deviation(np.log(rates[0])))
    assert 0.7 * truth < limit < truth
    assert weight.mean() < certified_reused(weight, limit, 8) < (rates**8).mean()
    alike = of(generator.binomial(24, 0.7, (400, 4)), 24)
    assert certain_dispersion(alike, stratified_failure(alike, [2] * 4), KEY) < 0.01
    assert math.isnan(certain_dispersion(of([[1, 1]], 1), [0.5], KEY))


def test_small_figures():
    assert effective_gain(0.2, 0.6) == pytest.approx(0.025)
    assert math.isnan(effective_gain(0.2, -1.0))
    assert even_allocation(10, 4).tolist() == [3, 3, 2, 2]
    assert failure_power(3, 4, 2) == pytest.approx(0.5)


def test_misuse_is_told():
    arms = of([[1, 2]], 3)
    with pytest.raises(ValueError, match=r"direct must be a run of its own .* \(1, 1\)"):
        two_factor_gain(arms, arms, [1, 1], KEY)
    with pytest.raises(ValueError, match="k = 4 is more than the draws"):
        two_factor_gain(arms, of([[1]], 3), [2, 2], KEY)
    with pytest.raises(ValueError, match="allocation must hold"):
        two_factor_gain(arms, of([[1]], 3), [0, 0], KEY)
    with pytest.raises(ValueError, match="at least 200"):
        two_factor_gain(arms, of([[1]], 3), [1, 1], KEY, num_resamples=10)
