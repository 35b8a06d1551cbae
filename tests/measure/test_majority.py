from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.measure import MAX_EXACT_DRAWS, majority_at

from .twins import drawn, majority_twin

nan = math.nan
KEY = Key(3)


@st.composite
def pools(draw, outcomes=(0.0, 1.0, 0.5, nan), lowest=-1):
    """answers and outcomes (P, N) with N <= 7."""
    num_problems, num_draws = draw(st.integers(1, 3)), draw(st.integers(1, 7))

    def table(elements):
        row = st.lists(elements, min_size=num_draws, max_size=num_draws)
        return np.array(draw(st.lists(row, min_size=num_problems, max_size=num_problems)))

    return table(st.integers(lowest, 4)), table(st.sampled_from(outcomes))


def pool(*counts, unread=0):
    """One problem; the first class is right."""
    answers = np.repeat(np.arange(len(counts)), counts)
    answers = np.concatenate([answers, np.full(unread, -1)])[None, :]
    return answers, (answers == 0).astype(float)


@pytest.mark.parametrize(("counts", "k", "value"), [((3, 2), 3, 0.7), ((2, 2, 1), 3, 0.433333)])
def test_known_values(counts, k, value):
    assert majority_at(*pool(*counts), [k])[0, 0] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        ((0.6, 0.4), {3: 0.648, 5: 0.682560, 9: 0.733432}),
        ((0.4, 0.3, 0.3), {3: 0.424, 5: 0.447040, 9: 0.488650}),
        ((0.4, 0.5, 0.1), {3: 0.392, 5: 0.389440, 9: 0.370235}),
    ],
)
def test_the_mean_over_pools_is_the_vote_of_fresh_draws(distribution, values):
    """Unbiased: over pools of 12 draws from a distribution, maj@k averages to the known plurality of k fresh draws.

    Exactly, by weighing every possible pool with its multinomial probability."""
    total = dict.fromkeys(values, 0.0)
    for counts in np.ndindex(*[13] * len(distribution)):
        if sum(counts) == 12:
            terms = (p**c / math.factorial(c) for p, c in zip(distribution, counts, strict=True))
            probability = math.factorial(12) * math.prod(terms)
            answers, _ = pool(*counts)
            for k, value in zip(values, majority_at(answers, answers == 0, list(values))[:, 0], strict=True):
                total[k] += probability * value
    assert total == pytest.approx(values, abs=1e-6)


@given(pools())
def test_every_k_is_the_mean_over_all_subsets(drawn_pools):
    answers, outcomes = drawn_pools
    available = min((len(drawn(row)) for row in outcomes if drawn(row)), default=1)
    value = majority_at(answers, outcomes, range(1, available + 1))
    for p in range(len(answers)):
        for k in range(1, available + 1):
            expected = majority_twin(answers[p], outcomes[p], k) if drawn(outcomes[p]) else nan
            assert value[k - 1, p] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_a_hundred_draws_against_integers():
    """Two classes and odd k leave no ties: a hypergeometric tail in exact integers. Then equal classes, by symmetry."""
    n, right = 100, 45
    answers, outcomes = pool(right, n - right)
    for k in (1, 33, 99):
        tail = sum(math.comb(right, m) * math.comb(n - right, k - m) for m in range(k // 2 + 1, k + 1))
        assert majority_at(answers, outcomes, [k])[0, 0] == pytest.approx(tail / math.comb(n, k), rel=1e-12)
    three = majority_at(*pool(40, 40, 40), range(1, 121))
    assert three == pytest.approx(1 / 3, abs=1e-12)
    alone = majority_at(*pool(*[1] * 128), range(1, 129))  # 128 classes of one draw: all k of them tie
    assert alone == pytest.approx(1 / 128, abs=1e-12)


@given(pools(outcomes=(0.0, 1.0)), st.randoms(use_true_random=False))
def test_laws(drawn_pools, shuffler):
    answers, outcomes = drawn_pools
    ks = range(1, answers.shape[1] + 1)
    value = majority_at(answers, outcomes, ks)
    assert ((value >= 0) & (value <= 1 + 1e-12)).all()
    order = shuffler.sample(range(answers.shape[1]), answers.shape[1])
    assert majority_at(answers[:, order], outcomes[:, order], ks) == pytest.approx(value, abs=1e-12)
    names = np.array([*shuffler.sample(range(1_000), 5), -1])  # other codes, the unread ones kept
    assert majority_at(names[answers], outcomes, ks) == pytest.approx(value, abs=1e-12)
    worth = np.where(answers >= 0, outcomes, 0.0)  # a vote among one draw is that draw, an unread one wins nothing
    assert value[0] == pytest.approx(worth.mean(axis=1), abs=1e-12)
    ragged = np.concatenate([outcomes, np.full((len(outcomes), 2), nan)], axis=1)
    longer = np.concatenate([answers, np.zeros((len(answers), 2), dtype=int)], axis=1)
    assert majority_at(longer, ragged, ks) == pytest.approx(value, abs=1e-12)  # what was not drawn changes nothing


def test_unread_draws_take_a_place_and_never_win():
    assert majority_at(*pool(1, unread=3), [1, 2, 4])[:, 0] == pytest.approx([0.25, 0.5, 1.0])
    assert majority_at(*pool(0, 2, unread=1), [1, 3])[:, 0].tolist() == [0.0, 0.0]
    assert majority_at(*pool(unread=3), [1, 3])[:, 0].tolist() == [0.0, 0.0]


def test_a_class_graded_both_ways_is_worth_its_mean():
    assert majority_at(np.array([[7, 7, 7, 9]]), [[1, 1, 0, 0]], [4])[0, 0] == pytest.approx(2 / 3)


def test_a_problem_without_outcomes_is_unknown():
    value = majority_at(np.zeros((2, 3), dtype=int), [[1, 1, 1], [nan, nan, nan]], [3])
    assert value[0] == pytest.approx([1.0, nan], nan_ok=True)
    assert majority_at(np.zeros((0, 3), dtype=int), np.zeros((0, 3)), [2]).shape == (1, 0)


def test_drawn_subsets_agree_with_all_subsets():
    """Equal weights take the way of drawn subsets. 64 copies of each problem, 32 orders each: the mean's standard error
    is at most .5 / sqrt(64 x 32) = .011; six such pools at five k leave 4 of them with odds of 2e-3."""
    generator = Key(5).generator()
    answers = generator.integers(-1, 4, (6, 9))
    outcomes = (answers == 0).astype(float)
    outcomes[:3, 8] = nan  # ragged: two lengths, the order of what is left must stay random
    ks = [1, 5, 2, 8, 3]
    value = majority_at(np.repeat(answers, 64, 0), np.repeat(outcomes, 64, 0), ks, weights=np.ones((384, 9)), key=KEY)
    drawn_mean = value.reshape(5, 6, 64).mean(axis=2)
    assert np.abs(drawn_mean - majority_at(answers, outcomes, ks)).max() < 4 * 0.011


@given(pools(outcomes=(0.0, 1.0)), st.data())
def test_a_weighted_vote_of_all_draws_is_the_twins(drawn_pools, data):
    """k = N is one subset, whatever the order: no randomness is left."""
    answers, outcomes = drawn_pools
    weights = data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.5]), min_size=answers.size, max_size=answers.size))
    weights = np.array(weights).reshape(answers.shape)
    n = answers.shape[1]
    value = majority_at(answers, outcomes, [n], weights=weights, key=KEY, num_resamples=1)
    expected = [
        majority_twin(np.where(weights[p] > 0, answers[p], -1), outcomes[p], n, weights[p])
        if (weights[p] > 0).any()
        else 0.0
        for p in range(len(answers))
    ]
    # a class keeps the worth of all its draws, also of those without a vote
    worth_differs = [
        any(len({o for a, o in zip(answers[p], outcomes[p], strict=True) if a == c}) > 1 for c in answers[p])
        for p in range(len(answers))
    ]
    for p in range(len(answers)):
        if not worth_differs[p]:
            assert value[0, p] == pytest.approx(expected[p], abs=1e-12)


def test_weighted_subsets_agree_with_the_twin():
    """One pool, 400 copies x 32 orders: standard error at most .0045; four of them at three k: odds of 2e-4."""
    answers = np.array([0, 0, 1, 1, 1, 2, -1])
    outcomes, weights = (answers == 0).astype(float), np.array([2.0, 0.4, 0.9, 0.9, 0.6, 1.5, 3.0])
    ks = [2, 3, 5]
    value = majority_at(
        np.tile(answers, (400, 1)), np.tile(outcomes, (400, 1)), ks, weights=np.tile(weights, (400, 1)), key=KEY
    ).mean(axis=1)
    assert value == pytest.approx([majority_twin(answers, outcomes, k, weights) for k in ks], abs=4 * 0.0045)


def test_weights_of_tenths_still_tie():
    """.1 + .2 and .3 differ in the last place; a vote must not be decided by the order of a sum."""
    answers, weights = np.array([[0, 0, 1]]), np.array([[0.1, 0.2, 0.3]])
    assert majority_at(answers, answers == 0, [3], weights=weights, key=KEY)[0, 0] == 0.5


def test_a_weight_of_nan_is_no_vote():
    answers, weights = np.array([[0, 1, 1]]), np.array([[0.2, nan, 0.1]])
    assert majority_at(answers, answers == 0, [3], weights=weights, key=KEY)[0, 0] == 1.0
    assert majority_at(answers, answers == 0, [3], weights=np.full((1, 3), nan), key=KEY)[0, 0] == 0.0


def test_above_the_exact_bound_subsets_are_drawn_by_the_key():
    """200 copies of (65, 64) and of (60, 69) at k = 3: exact value known by hand; standard error at most
    .5 / sqrt(200 x 32) = .00625, four of them: odds of 2e-4 for the four numbers."""
    assert MAX_EXACT_DRAWS == 128
    n = MAX_EXACT_DRAWS + 1
    answers = np.concatenate([np.repeat(pool(c, n - c)[0], 200, 0) for c in (65, 60)])
    outcomes = answers == 0
    value = majority_at(answers, outcomes, [3, n], key=KEY)
    assert (value == majority_at(answers, outcomes, [3, n], key=Key(3))).all()
    assert (value[0] != majority_at(answers, outcomes, [3, n], key=Key(4))[0]).any()
    for c, part in ((65, value[:, :200]), (60, value[:, 200:])):
        exact = sum(math.comb(c, m) * math.comb(n - c, 3 - m) for m in (2, 3)) / math.comb(n, 3)
        assert part[0].mean() == pytest.approx(exact, abs=4 * 0.00625)
        assert (part[1] == (c > n - c)).all()


@pytest.mark.parametrize(
    ("answers", "options", "message"),
    [
        ([[0, 1, 1]], {}, "shape of outcomes"),
        ([[0.0, 1.0]], {}, "answers must be integers"),
        ([[0, -2]], {}, "got -2"),
        ([[0, 1]], {"ks": [3]}, "Ask for k <= 2"),
        ([[0, 1]], {"weights": [[1, 1]]}, "key is needed"),
        ([[0, 1]], {"weights": [[1, -1]], "key": KEY}, "finite and >= 0"),
        ([[0, 1]], {"weights": [[1, math.inf]], "key": KEY}, "finite and >= 0"),
        ([[0, 1]], {"weights": [[1]], "key": KEY}, "weights must have the shape"),
        ([[0, 1]], {"weights": [[1, 1]], "key": KEY, "num_resamples": 0}, "at least 1, got 0"),
    ],
)
def test_misuse_is_told(answers, options, message):
    with pytest.raises(ValueError, match=message):
        majority_at(np.array(answers), [[1, 0]], options.pop("ks", [1]), **options)


def test_too_many_draws_without_a_key_are_told():
    with pytest.raises(ValueError, match="above 128 draws"):
        majority_at(*pool(100, 29), [3])
