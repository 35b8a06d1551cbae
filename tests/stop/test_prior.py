"""Priors: what they say of the next draw, and what past questions make of them."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from tests.support.worlds import VERIFIER, follow

from samplewise.core.keys import Key
from samplewise.recorded.load import load_recording
from samplewise.stop import passed
from samplewise.stop.empirical import fit_beta, fit_scores, score_location
from samplewise.stop.prior import (
    BetaPrior,
    ScorePrior,
    draws_for,
    draws_for_mixture,
    gain_table,
    lattice_of,
    log_below,
    prior_from,
)
from samplewise.stop.truncated import ScoreTally, moments
from samplewise.tasks.base import data_folder

positive = st.floats(0.1, 20)


@given(positive, positive, st.integers(0, 30), st.integers(0, 30))
def test_misses_as_a_product(a: float, b: float, misses: int, draws: int) -> None:
    prior = BetaPrior(a, b)
    product = math.prod(1 - prior.pass_probability(misses + step) for step in range(draws))
    assert prior.none_in(draws, misses) == pytest.approx(product, rel=1e-9)


def test_draws_for_a_uniform_prior() -> None:
    assert draws_for(BetaPrior(1, 1), 0.95, 1000, misses=5) == 114  # b (1/(1 - confidence) - 1), b = 6
    assert draws_for(BetaPrior(1, 1), 0.95, 64, misses=5) == 64


@given(positive, positive, st.floats(0.5, 0.99), st.integers(1, 200))
def test_the_least_number_of_draws(a: float, b: float, confidence: float, cap: int) -> None:
    prior = BetaPrior(a, b)
    num = draws_for(prior, confidence, cap)
    assert num == 1 or prior.none_in(num - 1) > 1 - confidence - 1e-12
    assert num == cap or prior.none_in(num) <= 1 - confidence + 1e-12


@pytest.mark.parametrize(("a", "b", "price"), [(0.2155, 5.1283, 0.02), (1, 1, 0.051), (3, 4, 0.21), (0.5, 0.5, 0.11)])
def test_one_draw_ahead_is_optimal(a: float, b: float, price: float) -> None:
    """Against dynamic programming over misses: the rule gives up exactly where going on has no value."""
    prior, horizon = BetaPrior(a, b), 2000

    @functools.cache
    def value(misses: int) -> float:
        if misses >= horizon:
            return 0.0
        p = prior.pass_probability(misses)
        return max(0.0, p * 1.0 - price + (1 - p) * value(misses + 1))

    for misses in range(horizon, -1, -1):
        value(misses)
    optimal = next(misses for misses in range(horizon) if value(misses) <= 1e-15)
    rule = passed(VERIFIER, price=price, prior=(a, b), cap=horizon)
    assert rule.expected_gain is not None
    stopped = int(follow(rule, np.zeros((1, 500))).draws[0])
    assert stopped == max(1, optimal)


def test_a_prior_of_scores_is_updated_by_bayes() -> None:
    """The posterior is the prior times the likelihood of the scores, one by one, on every law of the lattice."""
    prior = ScorePrior(1.0, -1.5, 0.8, 0.4)
    held, tally = lattice_of(prior), ScoreTally()
    scores = [0.6, 0.9, 0.75]
    weight = np.exp(held.log_weight)
    for score in scores:
        tally = tally.add(score)
        weight = weight * np.exp(held.e1 * score + held.e2 * score**2 - held.log_mass)
    assert held.posterior(tally) == pytest.approx(weight / weight.sum(), rel=1e-9)
    assert held.posterior(ScoreTally()).sum() == pytest.approx(1)
    means = [moments(*law).mean for law in zip(held.e1.tolist(), held.e2.tolist(), strict=True)]
    assert held.posterior(ScoreTally()) @ np.array(means) == pytest.approx(
        float(expit(1.0 + 0.8 * np.linspace(-3, 3, 41)) @ np.exp(-0.5 * np.linspace(-3, 3, 41) ** 2))
        / float(np.exp(-0.5 * np.linspace(-3, 3, 41) ** 2).sum()),
        rel=1e-6,
    )


def test_a_plan_averages_over_laws() -> None:
    weights, log_f = np.array([0.5, 0.5]), np.log([0.5, 0.9])
    num = draws_for_mixture(weights, log_f, 0.9, 100)
    assert 0.5 * 0.5**num + 0.5 * 0.9**num <= 0.1 < 0.5 * 0.5 ** (num - 1) + 0.5 * 0.9 ** (num - 1)
    prior = ScorePrior(1.0, -1.5, 0.8, 0.4)
    assert (log_below(prior, 0.95) <= 0).all()
    places, table = gain_table(prior)
    assert (np.diff(table, axis=1) <= 1e-12).all(), "a better best leaves less to gain"
    assert table[:, -1] == pytest.approx(0)
    assert places[0] == 0


def test_numbers_of_a_prior() -> None:
    assert prior_from((1, 2)) == BetaPrior(1.0, 2.0)
    assert prior_from((1, -2, 0.5, 0.5)) == ScorePrior(1.0, -2.0, 0.5, 0.5)
    for wrong in ((0, 1), (1,), (1, 2, 3), (1, 2, 0, 1), (math.nan, 1), ("a", "b"), (True, 1)):
        with pytest.raises(ValueError, match="a prior is"):
            prior_from(wrong)  # type: ignore[arg-type]


# --- empirical Bayes --------------------------------------------------------------------------------------------------


def test_the_law_of_chances_is_found_again() -> None:
    """From 400 questions of 30 draws: within a tenth of a, a fixed key."""
    rng = Key(21).generator()
    chance = rng.beta(2, 6, 400)
    found = fit_beta(rng.binomial(30, chance), np.full(400, 30))
    assert found.a == pytest.approx(2, rel=0.15)
    assert found.b == pytest.approx(6, rel=0.15)
    told = fit_beta(rng.binomial(30, chance), np.full(400, 30), chance)
    assert sum(told) > 100, "who knows every chance leaves no spread"
    for none in ([0, 0], [5, 5]):
        with pytest.raises(ValueError, match="a pass and a miss"):
            fit_beta(none, [5, 5])


def test_the_law_of_scores_is_found_again() -> None:
    rng = Key(22).generator()
    places = []
    for logit_mean, log_spread in zip(rng.normal(1, 0.8, 300), rng.normal(-3, 0.3, 300), strict=True):
        mean, sd = 1 / (1 + math.exp(-logit_mean)), math.exp(log_spread)
        size = mean * (1 - mean) / sd**2 - 1
        if size <= 0.5:
            continue
        tally = ScoreTally()
        for score in rng.beta(mean * size, (1 - mean) * size, 12).tolist():
            tally = tally.add(score)
        places.append(score_location(tally))
    found = fit_scores(places)
    assert found.logit_mean == pytest.approx(1, abs=0.15)
    assert found.sd_mean == pytest.approx(0.8, abs=0.12)
    assert found.log_spread == pytest.approx(-3, abs=0.1)
    assert found.sd_spread == pytest.approx(0.3, abs=0.1)
    with pytest.raises(ValueError, match="two scores"):
        score_location(ScoreTally().add(0.5))
    with pytest.raises(ValueError, match="two questions"):
        fit_scores(places[:1])


@pytest.mark.skipif(data_folder() is None, reason="the recorded draws are not here")
def test_recorded_draws_of_a_real_model() -> None:
    """GPT-4 on 100 Game of 24 puzzles, 100 draws each, chain of thought, by an exact checker."""
    grades = np.array([[draw.grade for draw in row] for row in load_recording("game24_gpt4_100x").draws])
    right = grades.sum(axis=1)
    misses = np.array(
        [np.concatenate([[1.0], np.cumprod((100 - c - np.arange(100)) / (100 - np.arange(100)))]) for c in right]
    )
    misses = misses.clip(0)  # (100, 101): no pass among the first k, over all orders
    for cap, solved, draws in (
        (1, 0.040, 1.00),
        (5, 0.143, 4.66),
        (10, 0.215, 8.79),
        (20, 0.295, 16.24),
        (50, 0.407, 35.51),
        (100, 0.490, 62.89),
    ):
        assert 1 - misses[:, cap].mean() == pytest.approx(solved, abs=6e-4)
        assert misses[:, :cap].sum(axis=1).mean() == pytest.approx(draws, abs=6e-3)
    prior = fit_beta(right, np.full(100, 100))
    assert prior == pytest.approx((0.2155, 5.1283), abs=2e-4)
    assert [1 - prior.none_in(n) for n in (10, 50, 100)] == pytest.approx([0.217, 0.410, 0.487], abs=6e-4)
    for value, gives_up in ((50, 6), (100, 17), (200, 38), (500, 103)):
        rule = passed(VERIFIER, price=1 / value, prior=tuple(prior), cap=1000)
        assert int(follow(rule, np.zeros((1, 200))).draws[0]) == gives_up
