from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_rel

from samplewise.core.keys import Key
from samplewise.measure import (
    Curve,
    adjust_holm,
    at_tokens,
    frontier,
    mean_interval,
    paired_difference,
    paired_p_value,
    sign_test,
)

nan = math.nan


def outcomes(wins, losses, ties=0):
    first = [1.0] * wins + [0.0] * losses + [1.0] * ties
    second = [0.0] * wins + [1.0] * losses + [1.0] * ties
    return first, second


def curve(name, ks, tokens, values):
    return Curve(name, np.array(ks), np.array(tokens, dtype=float), np.array(values, dtype=float))


@pytest.mark.parametrize(
    ("wins", "losses", "p_value"),
    [(12, 3, 0.035156), (11, 4, 0.118469), (9, 1, 0.021484), (6, 0, 0.031250), (5, 0, 0.062500)],
)
def test_mcnemar_exact(wins, losses, p_value):
    test = sign_test(*outcomes(wins, losses, ties=4))
    assert test.p_value == pytest.approx(p_value, abs=1e-6)
    assert test[:4] == (wins, losses, 4, 0)
    assert sign_test(*outcomes(losses, wins)).p_value == test.p_value


@given(st.integers(0, 400), st.integers(0, 400))
def test_the_sign_test_is_the_binomial_test(wins, losses):
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(*outcomes(wins, losses, ties=1)).p_value == pytest.approx(expected)


def test_the_sign_test_at_its_ends():
    assert sign_test([1.0, 0.5], [1.0, 0.5]) == (0, 0, 2, 0, 1.0)
    unscored = sign_test([1.0, nan], [nan, 0.0])
    assert unscored[:4] == (0, 0, 0, 2)
    assert math.isnan(unscored.p_value)
    assert sign_test(*outcomes(5_100, 4_900)).p_value == pytest.approx(0.0466, abs=2e-4)


def test_a_paired_difference_is_the_mean_of_differences():
    first, second = [1.0, 0.5, nan, 1.0, 0.0], [0.0, 0.5, 1.0, nan, 0.25]
    expected = mean_interval([1.0, 0.0, nan, nan, -0.25], support=(-1.0, 1.0))
    assert paired_difference(first, second) == expected
    assert expected[4:] == (3, 2)
    swapped = paired_difference(second, first)
    assert (-swapped.high, -swapped.low) == pytest.approx((expected.low, expected.high))


def test_pairing_sees_what_an_unpaired_interval_cannot():
    """Problems differ widely, the second method is .1 better on each of them, give or take .05."""
    first = np.tile(np.linspace(0, 0.8, 20), 2)
    second = first + np.repeat([0.05, 0.15], 20)
    paired = paired_difference(second, first)
    assert paired.value == pytest.approx(0.1)
    assert paired.low > 0.05
    assert mean_interval(second).low < mean_interval(first).high


def test_two_methods_that_never_differ_are_not_proven_equal():
    same = paired_difference([1.0] * 20, [1.0] * 20)
    assert same.value == 0
    assert (same.low, same.high) == pytest.approx((0.025 ** (1 / 20) - 1, 1 - 0.025 ** (1 / 20)))


def test_holm():
    assert adjust_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_holm([0.04, nan, 0.03]) == pytest.approx([0.06, nan, 0.06], nan_ok=True)
    assert adjust_holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    assert adjust_holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_as_its_steps_do(p_values):
    """The step-down procedure itself, at .05: go up the sorted p while p <= .05 / (comparisons left)."""
    rejected = set()
    for step, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[i] > 0.05 / (len(p_values) - step):
            break
        rejected.add(i)
    adjusted = adjust_holm(p_values)
    clear = [i for i in range(len(p_values)) if abs(adjusted[i] - 0.05) > 1e-12]
    assert all((adjusted[i] <= 0.05) == (i in rejected) for i in clear)


VOTE = curve("vote", [1, 4, 16], [100, 400, 1600], [[0, 0.2], [0.4, 0.6], [1, 1]])


@pytest.mark.parametrize(("tokens", "k"), [(100, 1), (399.9, 1), (400, 4), (1599, 4), (1600, 16), (1e9, 16)])
def test_the_largest_k_that_the_tokens_buy(tokens, k):
    point = at_tokens(VOTE, tokens)
    row = [1, 4, 16].index(k)
    assert point[:3] == ("vote", k, VOTE.tokens[row])
    assert (point.per_problem == VOTE.per_problem[row]).all()


def test_interpolation_is_a_coin_between_neighbours():
    point = at_tokens(VOTE, 700, interpolate=True)
    assert point[:3] == ("vote", 7, 700)
    assert point.per_problem == pytest.approx([0.55, 0.7])
    assert at_tokens(VOTE, 400, interpolate=True).k == 4
    assert at_tokens(VOTE, 9999, interpolate=True)[:3] == ("vote", 16, 1600)  # nothing is extrapolated


def test_too_few_tokens_buy_an_unknown():
    point = at_tokens(VOTE, 99, interpolate=True)
    assert point[:3] == ("vote", 0, 0.0)
    assert np.isnan(point.per_problem).all()
    assert paired_difference(point.per_problem, VOTE.per_problem[0]).num_unscored == 2


def test_the_frontier():
    judge = curve("judge", [1, 2, 4], [100, 300, 500], [[0.1, 0.0], [0.7, 0.8], [0.6, 0.8]])
    points = frontier([VOTE, judge])
    assert [(p.name, p.k) for p in points] == [("vote", 1), ("judge", 2), ("vote", 16)]
    assert [p.value for p in points] == pytest.approx([0.1, 0.75, 1.0])
    assert frontier([judge, VOTE]) == points
    assert frontier([]) == ()


def test_the_frontier_is_over_the_problems_that_all_have_scored():
    lazy = curve("lazy", [1], [50], [[nan, 0.3]])  # has left the hard problem out
    points = frontier([VOTE, lazy])
    assert [(p.name, p.k, p.value) for p in points] == [("lazy", 1, 0.3), ("vote", 4, 0.6), ("vote", 16, 1.0)]
    undrawn = curve("undrawn", [1, 2], [50, 60], [[0.0, 0.3], [nan, nan]])  # k = 2 was never drawn
    assert [(p.name, p.k) for p in frontier([undrawn])] == [("undrawn", 1)]
    with pytest.raises(ValueError, match="no problem is scored"):
        frontier([curve("a", [1], [50], [[nan, 1]]), curve("b", [1], [50], [[1, nan]])])


def test_misuse_is_told():
    with pytest.raises(ValueError, match="the same problems"):
        paired_difference([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="the same problems"):
        sign_test([[1.0]], [[1.0]])
    with pytest.raises(ValueError, match=r"in \[-1.0, 1.0\]"):
        paired_difference([3.0], [0.0])
    with pytest.raises(ValueError, match="in \\[0, 1\\] or nan"):
        adjust_holm([1.5])
    with pytest.raises(ValueError, match="increasing integers"):
        at_tokens(VOTE._replace(ks=np.array([4, 1, 16])), 1)
    with pytest.raises(ValueError, match="not decrease"):
        at_tokens(VOTE._replace(tokens=np.array([4.0, 1.0, 16.0])), 1)
    with pytest.raises(ValueError, match=r"per_problem \(K, P\)"):
        at_tokens(VOTE._replace(tokens=np.array([4.0])), 1)
    with pytest.raises(ValueError, match="tokens must be a number"):
        at_tokens(VOTE, nan)
    with pytest.raises(ValueError, match="same problems"):
        frontier([VOTE, curve("other", [1], [1], [[1, 1, 1]])])


def test_p_value_of_a_mean_difference_is_students() -> None:
    rng = Key(5).generator()
    first, second = rng.random(40), rng.random(40)
    assert paired_p_value(first, second) == pytest.approx(ttest_rel(first, second).pvalue, rel=1e-12)
    holed = np.where(np.arange(40) < 3, np.nan, first)
    assert paired_p_value(holed, second) == pytest.approx(ttest_rel(first[3:], second[3:]).pvalue, rel=1e-12)
    assert paired_p_value(first, first) == 1.0
    assert paired_p_value(first, first + 0.25) == 2.0**-39
    assert math.isnan(paired_p_value(first[:1], second[:1]))


@pytest.mark.parametrize("num", range(2, 9))
def test_a_few_equal_differences_are_not_certain(num: int) -> None:
    """Two problems that one method alone solves had p = 0, beside an interval that holds 0."""
    ones, zeros = np.ones(num), np.zeros(num)
    p_value = paired_p_value(ones, zeros)
    assert p_value == sign_test(ones, zeros).p_value
    assert (p_value < 0.05) == (paired_difference(ones, zeros).low > 0)


def test_p_value_does_not_let_the_sixth_decimal_outvote_a_whole_problem() -> None:
    """60 problems that differ by 1e-6 one way and 40 that differ by .5 the other: the sign test follows the 60."""
    second = np.full(100, 0.5)
    first = second + np.where(np.arange(100) < 60, -1e-6, 0.5)
    assert paired_p_value(first, second) < 1e-9
    assert sign_test(first, second).p_value > 0.05
