"""The margin identity, the correction of its bonus, transitions and what they can resolve."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.measure.margins import margin_pieces, vote_margins
from samplewise.measure.transitions import count_transitions, detectable_gain, mcnemar

nan = math.nan


def test_known_pieces():
    distributions = [[[0.4, 0.5, 0.1], [0.4, 0.1, 0.5]], [[0.4, 0.5, 0.1], [0.3, 0.6, 0.1]]]
    found = margin_pieces(distributions, [0, 0])
    assert found.mix == pytest.approx([0.1, -0.2])
    assert found.direct == pytest.approx([-0.1, -0.1])
    assert found.bonus == pytest.approx([0.2, 0.0], abs=1e-12)
    assert found.fidelity_term == pytest.approx([0.0, -0.1])


@given(
    st.lists(st.lists(st.floats(0.001, 1), min_size=4, max_size=4), min_size=1, max_size=5),
    st.integers(-1, 3),
    st.randoms(use_true_random=False),
)
def test_the_identity_is_exact(rows, right, shuffler):
    distributions = np.array([rows]) / np.sum([rows], axis=2, keepdims=True)
    weights = np.array([shuffler.random() + 0.01 for _ in rows])
    found = margin_pieces(distributions, [right], weights / weights.sum())
    assert found.mix - found.direct == pytest.approx(found.fidelity_term + found.bonus, abs=1e-12)
    assert found.bonus >= -1e-12


@pytest.mark.parametrize(("num_draws", "raw"), [(4, 0.072), (16, 0.023), (64, 0.0066)])
def test_identical_arms_earn_no_bonus(num_draws, raw):
    """Six arms and ten answers, of one skewed distribution: raw B is too high, shuffles take that off."""
    generator = Key(1).fold(num_draws).generator()
    distribution = np.array([0.4, 0.2, 0.15, 0.1, 0.05, 0.03, 0.03, 0.02, 0.01, 0.01])
    answers = generator.choice(10, size=(200, 6 * num_draws), p=distribution)
    found = vote_margins(answers, np.repeat(np.arange(6), num_draws), np.zeros(200, dtype=int), Key(2), num_shuffles=30)
    assert abs(found.bonus.value) < 0.1 * found.bonus_raw + 4 * found.bonus.stderr
    assert found.p_value > 0.01
    assert raw / 3 < found.bonus_raw < 3 * raw
    assert found.bonus.low < 0 < found.bonus.high


def test_wrong_answers_that_disagree_earn_one():
    arms = np.repeat([0, 1], 10)
    answers = np.tile(np.concatenate([np.repeat([0, 1, 2], [4, 5, 1]), np.repeat([0, 1, 2], [4, 1, 5])]), (30, 1))
    found = vote_margins(answers, arms, np.zeros(30, dtype=int), Key(0))
    assert found.bonus_raw == pytest.approx(0.2)
    assert found.mix.value == pytest.approx(0.1)
    assert found.fidelity_term.value == pytest.approx(0)
    assert found.p_value == pytest.approx(1 / 101)
    assert 0 < found.bonus.value < 0.2 < found.bonus.high


def test_a_right_answer_nobody_gave_and_one_nobody_knows():
    answers = np.array([[1, 1, 2, 2], [1, 1, 1, 1], [0, -1, -1, -1]])
    found = vote_margins(answers, [0, 0, 1, 1], np.array([-1, -2, 0]), Key(0))
    assert found.mix.num_problems == 1
    assert found.mix.value == -0.5
    assert found.bonus_raw == 0.5
    nothing = vote_margins(answers[2:], [0, 0, 1, 1], np.array([0]), Key(0))
    assert math.isnan(nothing.bonus.value)


def test_transitions():
    direct = [1.0, 0.0, 0.0, 1.0, nan, 0.0, 1.0]
    mix = [1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert count_transitions(direct, mix) == (2, 1, 2, 1, 1, 1.0)
    assert math.isnan(count_transitions([nan], [1.0]).p_value)


def test_known_tests():
    found = [mcnemar(*pair) for pair in ((12, 3), (11, 4), (9, 1), (6, 0), (5, 0), (0, 0))]
    assert found == pytest.approx([0.035156, 0.118469, 0.021484, 0.031250, 0.062500, 1.0], abs=1e-6)
    pairs = ((150, 0.1), (150, 0.2), (500, 0.1), (500, 0.2), (1000, 0.1))
    assert [detectable_gain(*pair) for pair in pairs] == pytest.approx([0.06, 0.08, 0.032, 0.044, 0.022])
    assert math.isnan(detectable_gain(50, 0.1))  # five discordant problems cannot show anything


def test_misuse_is_told():
    with pytest.raises(ValueError, match="direct must be 0, 1 or nan"):
        count_transitions([0.5], [1.0])
    with pytest.raises(ValueError, match="at least 0"):
        mcnemar(-1, 2)
    with pytest.raises(ValueError, match="share in"):
        detectable_gain(10, 1.5)
    with pytest.raises(ValueError, match="distributions must be"):
        margin_pieces([[0.5]], [0])
    with pytest.raises(ValueError, match="right must be codes below 2"):
        margin_pieces([[[0.5, 0.5]]], [2])
    with pytest.raises(ValueError, match="sum to 1"):
        margin_pieces([[[0.5, 0.5]]], [0], [0.5])
