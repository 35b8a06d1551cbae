"""How draws are allocated: known allocations, brute force, laws of every allocator, the screen."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom
from tests.support.policy import standard_world

from samplewise.core.keys import Key
from samplewise.measure.powers import ArmCounts
from samplewise.vary.allocate import (
    PENALTY,
    Betas,
    allocate_greedily,
    expected_failure,
    fit_betas,
    hazard_order,
    next_arm,
    screen_rung,
)

THREE = Betas(np.array([2, 1, 0.5]), np.array([8, 2, 0.5]))
CELLS = Betas(np.array([0.5, 0.5, 0.3]), np.array([1.5, 2, 2])).after([[3, 0, 0], [0, 2, 0], [0, 0, 1]], [[4] * 3] * 3)
chances = st.floats(0.2, 5)
arms_of_three = st.tuples(st.tuples(chances, chances, chances), st.tuples(chances, chances, chances))


def compositions(total, parts):
    return [counts for counts in product(range(total + 1), repeat=parts) if sum(counts) == total]


def test_known_survivals():
    assert expected_failure(Betas(np.array([2.0]), np.array([8.0])), [3]) == pytest.approx(0.545455, abs=1e-6)
    assert expected_failure(Betas(np.array([0.5]), np.array([0.5])), [4]) == pytest.approx(0.273438, abs=1e-6)


def test_known_hazard_order():
    plan = hazard_order(THREE, 10, identity_first=False)
    assert plan.order == (2, 1, 1, 2, 0, 1, 0, 0, 1, 2)
    assert plan.failure == pytest.approx(0.056818, abs=1e-6)
    assert plan.failure == pytest.approx(min(expected_failure(THREE, c) for c in compositions(10, 3)), abs=1e-12)


def test_known_greedy_plan():
    plan = allocate_greedily(CELLS, 6)
    assert plan.order == (0, 1, 0, 1, 2, 1)
    assert plan.failure == pytest.approx(0.314473, abs=1e-6)
    assert plan.failure == pytest.approx(min(expected_failure(CELLS, c) for c in compositions(6, 3)), abs=1e-12)
    assert expected_failure(CELLS, [2, 2, 2]) == pytest.approx(0.320397, abs=1e-6)
    assert expected_failure(CELLS, [6, 0, 0]) == pytest.approx(0.466200, abs=1e-6)


@given(arms_of_three, st.integers(1, 6))
def test_greedy_is_the_best_plan_for_one_problem(arms, num_draws):
    """Among all plans in which the identity arm has a draw."""
    posterior = Betas(*np.array(arms)[:, None])
    plan = allocate_greedily(posterior, num_draws)
    best = min(expected_failure(posterior, c) for c in compositions(num_draws, 3) if c[0] > 0)
    assert plan.failure == pytest.approx(best, rel=1e-9)
    assert plan.failure == pytest.approx(expected_failure(posterior, plan.counts), rel=1e-9)
    assert plan.counts == tuple(np.bincount(plan.order, minlength=3))


@given(arms_of_three, st.integers(1, 6))
def test_the_hazard_index_is_the_best_order_online(arms, num_draws):
    """Independent Beta arms: no plan of N draws fails less, so no order does at any N."""
    betas = Betas(*np.array(arms))
    plan = hazard_order(betas, num_draws, identity_first=False)
    best = min(expected_failure(betas, c) for c in compositions(num_draws, 3))
    assert plan.failure == pytest.approx(best, rel=1e-9)


def test_the_index_is_right_with_costs():
    """Expected cost until a success or five draws is the least of all orders, by trying them all."""
    costs = (1.0, 3.0, 2.0)

    def expected_cost(order):
        reached, total, failures = 1.0, 0.0, [0, 0, 0]
        for arm in order:
            total += reached * costs[arm]
            reached *= (THREE.b[arm] + failures[arm]) / (THREE.a[arm] + THREE.b[arm] + failures[arm])
            failures[arm] += 1
        return total

    plan = hazard_order(THREE, 5, costs, identity_first=False)
    same_draws = [order for order in product(range(3), repeat=5) if sorted(order) == sorted(plan.order)]
    assert expected_cost(plan.order) == pytest.approx(min(map(expected_cost, same_draws)))


def test_costs_and_budgets():
    plan = allocate_greedily(CELLS, 6, [1.0, 2.0, 10.0])
    assert 2 not in plan.order
    assert plan.counts[0] + 2 * plan.counts[1] == 6
    cheap = allocate_greedily(CELLS, 6, [1.0, 1.0, 0.1])
    assert cheap.counts[2] > allocate_greedily(CELLS, 6).counts[2]
    assert sum(n * c for n, c in zip(cheap.counts, (1, 1, 0.1), strict=True)) <= 6 * (1 + 1e-9)
    scaled = allocate_greedily(CELLS, 12, [2.0, 2.0, 2.0])
    assert scaled.order == allocate_greedily(CELLS, 6).order


def test_online():
    assert next_arm(THREE, [0, 0, 0]) == 0
    assert next_arm(THREE, [0, 0, 0], identity_first=False) == 2
    assert next_arm(THREE, [1, 0, 0]) == 2
    assert next_arm(THREE, [1, 0, 0], pending=[0, 0, 1]) == 1  # .25 at one pending failure, .333
    assert next_arm(THREE, [1, 0, 1], costs=[1, 10, 10]) == 0
    picks = [next_arm(THREE, [1, 0, 0], key=Key(i)) for i in range(200)]
    assert set(picks) == {0, 1, 2}
    assert picks.count(2) > picks.count(1) > picks.count(0)
    assert picks == [next_arm(THREE, [1, 0, 0], key=Key(i)) for i in range(200)]


@given(arms_of_three, st.integers(1, 8))
def test_the_identity_is_always_drawn_first(arms, num_draws):
    betas = Betas(*np.array(arms))
    assert hazard_order(betas, num_draws).order[0] == 0
    assert allocate_greedily(Betas(betas.a[None], betas.b[None]), num_draws).order[0] == 0


def test_the_fit_is_the_beta_binomials_top():
    generator = Key(1).generator()
    made = generator.integers(5, 30, (300, 1))
    won = generator.binomial(made, generator.beta(0.8, 2.5, (300, 1)))
    fit = fit_betas(won, made)
    assert fit.a[0] == pytest.approx(0.8, rel=0.35)
    assert fit.b[0] == pytest.approx(2.5, rel=0.35)

    def loss(log_a, log_b):
        mass = betabinom.logpmf(won[:, 0], made[:, 0], math.exp(log_a), math.exp(log_b)).sum()
        return PENALTY * (log_a**2 + log_b**2) - mass

    top = loss(math.log(fit.a[0]), math.log(fit.b[0]))
    steps = 0.05 * generator.normal(size=(30, 2))
    assert all(loss(math.log(fit.a[0]) + x, math.log(fit.b[0]) + y) >= top - 1e-6 for x, y in steps)


def test_degenerate_counts_have_a_fit():
    fit = fit_betas([[0, 5, 0], [0, 5, 0]], [[5, 5, 0], [5, 5, 0]])
    assert np.isfinite(fit).all()
    mean = fit.a / (fit.a + fit.b)
    assert mean[0] < 0.2
    assert mean[1] > 0.8
    assert (fit.a[2], fit.b[2]) == pytest.approx((1, 1), abs=1e-3)


def simulated(seed, num_problems=100, num_draws=32):
    world = standard_world()
    success = world.success(world.items(Key(seed).fold("screen test"), num_problems))
    draws = np.full(success.shape, num_draws)
    return ArmCounts(draws - Key(seed).generator().binomial(num_draws, success), draws)


def test_the_screen_drops_what_does_not_help_and_never_the_identity():
    for seed in range(5):
        rung = screen_rung(simulated(seed), range(8), 32, Key(seed))
        assert rung.kept[0] == 0
        assert 7 in rung.dropped
        assert "points more at 32 draws without it" in rung.dropped[7]
        assert set(rung.kept) | set(rung.dropped) == set(range(8))


def test_the_screen_waits_for_enough_draws():
    """Four draws of each of seven arms cannot say what 32 draws would be worth."""
    rung = screen_rung(simulated(0, num_draws=4), range(8), 32, Key(0))
    assert rung.kept == tuple(range(8))


def test_what_is_not_certain_is_kept():
    """Six questions: the irrelevant arm costs some, and nobody can know yet."""
    for seed in range(4):
        assert screen_rung(simulated(seed, num_problems=6), range(8), 32, Key(seed)).kept == tuple(range(8))


def test_an_arm_that_fails_far_more_goes_at_once():
    """Direct solves four of five, the other arm nothing: known from few draws, before any gain can be told."""
    failures = np.tile([2, 8, 2], (60, 1))
    failures[::5, 0] = failures[1::5, 2] = 8
    rung = screen_rung(ArmCounts(failures, np.full(failures.shape, 8)), (0, 1, 2), 100, Key(0))
    assert rung.kept == (0, 2)
    assert rung.dropped[1] == "fails 5.00 times as often as direct at 8 draws"


def test_at_most_half_go_in_a_rung():
    failures = np.tile([1, 8, 8, 8, 8], (60, 1))
    failures[::2, 0] = 3
    rung = screen_rung(ArmCounts(failures, np.full(failures.shape, 8)), range(5), 3, Key(0))
    assert len(rung.dropped) == 2
    assert screen_rung(ArmCounts(failures, np.full(failures.shape, 8)), (0,), 3, Key(0)).kept == (0,)


@pytest.mark.slow
def test_greedy_beats_taking_turns_in_the_standard_world():
    """The published table: at N = 32, .605 by turns, about .63 by plans from 80 questions of 20 draws each."""
    world = standard_world()
    gains = []
    for seed in range(12):
        won = Key(seed).generator().binomial(20, world.success(world.items(Key(seed).fold("items"), 80)))
        made = np.full(won.shape, 20)
        plan = allocate_greedily(fit_betas(won, made).after(won, made), 32)
        gains.append(world.failure([4] * 8) - world.failure(plan.counts))
    assert np.mean(gains) - 4 * np.std(gains) / 12**0.5 > 0
    assert np.mean(gains) == pytest.approx(0.023, abs=0.01)


def test_misuse_is_told():
    with pytest.raises(ValueError, match="must pay one draw of the identity arm, 2; got 1"):
        allocate_greedily(CELLS, 1, [2, 1, 1])
    with pytest.raises(ValueError, match="costs must be 3 numbers above 0"):
        hazard_order(THREE, 2, [1, 0, 1])
    with pytest.raises(ValueError, match="at least one draw and one arm"):
        hazard_order(THREE, 0)
    with pytest.raises(ValueError, match="0 first"):
        screen_rung(simulated(0), (1, 0), 32, Key(0))
    with pytest.raises(ValueError, match="successes must be at least 0"):
        THREE.after([[3, 0, 0]], [[2, 2, 2]])
    with pytest.raises(ValueError, match="0 <= successes <= draws"):
        fit_betas([3], [2])
    with pytest.raises(ValueError, match="failures and pending"):
        next_arm(THREE, [0, 0])
