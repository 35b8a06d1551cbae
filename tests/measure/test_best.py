from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.measure import best_at

from .twins import best_in_random_order_twin, best_twin, drawn

nan, inf = math.nan, math.inf


@st.composite
def pools(draw, scores=(0.0, 0.3, 1.0, -inf, inf, nan), outcomes=(0.0, 0.4, 1.0, nan)):
    num_problems, num_draws = draw(st.integers(1, 3)), draw(st.integers(1, 7))

    def table(elements):
        row = st.lists(st.sampled_from(elements), min_size=num_draws, max_size=num_draws)
        return np.array(draw(st.lists(row, min_size=num_problems, max_size=num_problems)))

    return table(scores), table(outcomes)


def test_known_weights():
    """best-of-2 from 4: the probability of each rank to be picked, read off with one right draw at a time."""
    scores = np.tile([0.1, 0.2, 0.3, 0.4], (4, 1))
    assert best_at(scores, np.eye(4), [2])[0] == pytest.approx([0, 1 / 6, 1 / 3, 1 / 2], abs=1e-15)


@given(pools())
def test_every_k_is_the_mean_over_all_subsets(drawn_pools):
    scores, outcomes = drawn_pools
    available = min((len(drawn(row)) for row in outcomes if drawn(row)), default=1)
    value = best_at(scores, outcomes, range(1, available + 1))
    for p in range(len(scores)):
        for k in range(1, available + 1):
            expected = best_twin(scores[p], outcomes[p], k) if drawn(outcomes[p]) else nan
            assert value[k - 1, p] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_sharing_a_tie_is_a_random_order():
    scores, outcomes = [0.5, 0.9, 0.9, 0.9, 0.1], [1.0, 1.0, 0.0, 0.0, 1.0]
    assert best_at([scores], [outcomes], [5])[0, 0] == pytest.approx(best_in_random_order_twin(scores, outcomes))


@given(pools(outcomes=(0.0, 0.4, 1.0)), st.randoms(use_true_random=False))
def test_laws(drawn_pools, shuffler):
    scores, outcomes = drawn_pools
    ks = range(1, scores.shape[1] + 1)
    value = best_at(scores, outcomes, ks)
    assert ((value >= 0) & (value <= 1 + 1e-12)).all()
    assert value[0] == pytest.approx(outcomes.mean(axis=1))
    order = shuffler.sample(range(scores.shape[1]), scores.shape[1])
    assert best_at(scores[:, order], outcomes[:, order], ks) == pytest.approx(value, abs=1e-12)
    assert best_at(np.exp2(scores) * 3 - 1, outcomes, ks) == pytest.approx(  # only the order of scores matters
        best_at(np.exp2(scores), outcomes, ks), abs=1e-12
    )
    constant = best_at(np.ones_like(scores), outcomes, ks)  # a score that knows nothing picks at random
    assert constant == pytest.approx(np.tile(outcomes.mean(axis=1), (len(constant), 1)))
    graded = best_at(outcomes, outcomes, ks)  # the expected maximum: more draws never hurt, no score does better
    assert (np.diff(graded, axis=0) >= -1e-12).all()
    assert (graded >= value - 1e-12).all()


def test_a_score_of_nan_never_wins_over_another():
    assert best_at([[nan, -inf]], [[1.0, 0.0]], [1, 2])[:, 0].tolist() == [0.5, 0.0]
    assert best_at([[nan, nan]], [[1.0, 0.0]], [2])[0, 0] == 0.5


def test_ragged_pools_and_unscored_problems():
    value = best_at(
        [[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 1.0]],
        [[0.0, 1.0, 0.0], [nan, 1.0, 0.0], [nan, nan, nan]],
        [1, 2],
    )
    assert value == pytest.approx(np.array([[1 / 3, 1 / 2, nan], [1 / 3, 1.0, nan]]), nan_ok=True)
    assert best_at(np.zeros((0, 3)), np.zeros((0, 3)), [2]).shape == (1, 0)


def test_ten_thousand_draws():
    n, k = 10_000, 3_000
    outcomes = np.zeros((1, n))
    outcomes[0, -3:] = 1.0  # the three highest scores are right: picked unless k misses all three
    miss = math.prod((n - k - i) / (n - i) for i in range(3))
    assert best_at([np.arange(n)], outcomes, [k])[0, 0] == pytest.approx(1 - miss, abs=1e-12)


def test_misuse_is_told():
    with pytest.raises(ValueError, match="scores must have the shape"):
        best_at([[1.0]], [[1.0, 0.0]], [1])
    with pytest.raises(ValueError, match="Ask for k <= 1"):
        best_at([[1.0, 2.0]], [[1.0, nan]], [2])
