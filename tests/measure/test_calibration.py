"""Maps from score to probability: known ones recovered, a closed form, questions as the unit, risk controlled."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from samplewise.core.keys import Key
from samplewise.measure.calibration import (
    Calibration,
    choose_method,
    cross_fit,
    deal_folds,
    fit_calibration,
    pool_violators,
)
from samplewise.measure.reliability import control_risk, measure_reliability, needed_without_error

values = st.lists(st.floats(-5, 5), min_size=1, max_size=12)


def expit(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def world(num_questions, draws, probability_of, key):
    """Scores uniform on (0, 1), right with the probability that the map gives."""
    generator = key.generator()
    scores = generator.random((num_questions, draws)).ravel()
    right = (generator.random(len(scores)) < probability_of(scores)).astype(float)
    return scores, right, np.repeat(np.arange(num_questions), draws)


def beta_distribution(s):
    return expit(2.0 * np.log(s) - 0.5 * np.log1p(-s) + 1.0)


@given(values, st.data())
def test_pooled_steps_are_the_largest_of_least_means(numbers, data):
    """The closed form: of all stretches that begin at or before a place, the least mean of those that end there or
    later; and the largest of these."""
    weights = data.draw(st.lists(st.floats(0.1, 9), min_size=len(numbers), max_size=len(numbers)))
    ours = pool_violators(numbers, weights)
    num = len(numbers)
    mean = [[np.average(numbers[a : b + 1], weights=weights[a : b + 1]) for b in range(a, num)] for a in range(num)]
    twin = [max(min(mean[a][i - a :]) for a in range(i + 1)) for i in range(num)]
    assert ours == pytest.approx(twin, abs=1e-9)
    assert (np.diff(ours) >= -1e-12).all()


@pytest.mark.parametrize("method", ["isotonic", "beta"])
def test_a_known_map_is_found_again(method):
    fitted = fit_calibration(*world(4000, 5, beta_distribution, Key(1)), method)
    at = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    assert fitted(at) == pytest.approx(beta_distribution(at), abs=0.05 if method == "isotonic" else 0.015)
    if method == "beta":  # standard errors of about .06
        assert (*fitted.slopes, fitted.intercept) == pytest.approx((2.0, 0.5, 1.0), abs=0.25)


def test_platt_finds_the_logistic_line_on_any_scale():
    scores, right, questions = world(3000, 4, lambda s: expit(6 * s - 4), Key(2))
    fitted = fit_calibration(scores, right, questions, "platt")
    assert (fitted.slopes[0], fitted.intercept) == pytest.approx((6, -4), abs=0.4)
    moved = fit_calibration(1000 * scores - 7000, right, questions, "platt")
    assert moved(1000 * scores[:9] - 7000) == pytest.approx(fitted(scores[:9]), abs=1e-5)
    assert fitted.score_at(0.5) == pytest.approx(4 / 6, abs=0.03)


@given(st.integers(0, 10_000), st.sampled_from(["isotonic", "beta", "platt"]))
def test_every_map_is_monotone_inside_and_survives_json(seed, method):
    generator = Key(seed).generator()
    num = int(generator.integers(4, 60))
    scores, questions = generator.random(num).round(2), generator.integers(0, 8, num)
    fitted = fit_calibration(scores, generator.integers(0, 2, num), questions, method)
    grid = np.linspace(0, 1, 101)
    chances = fitted(grid)
    assert (np.diff(chances) >= -1e-12).all()
    assert ((chances >= 0) & (chances <= 1)).all()
    again = Calibration.from_json(fitted.to_json())
    assert again == fitted
    assert (again(grid) == chances).all()
    assert fitted(0.5) == pytest.approx(chances[50])
    assert math.isnan(fitted(math.nan))
    reached = fitted.score_at(0.6)
    if math.isfinite(reached):
        assert float(fitted(reached)) >= 0.6 - 1e-9
        assert reached <= 0 or float(fitted(reached - 1e-6)) <= 0.6 + 1e-4 * (1 + abs(reached))


def test_a_question_weighs_one_however_many_draws_it_has():
    scores, right, questions = world(60, 3, beta_distribution, Key(3))
    twice = np.flatnonzero(questions == 0)
    more = [np.concatenate([x, *[x[twice]] * 50]) for x in (scores, right, questions)]
    for method in ("isotonic", "beta", "platt"):
        at = np.linspace(0.05, 0.95, 19)
        assert fit_calibration(*more, method)(at) == pytest.approx(
            fit_calibration(scores, right, questions, method)(at), abs=1e-4
        )


def test_nothing_is_certain():
    scores, questions = np.linspace(0, 1, 30), np.arange(30)
    for method in ("isotonic", "beta", "platt"):
        assert 0.9 < fit_calibration(scores, np.ones(30), questions, method)(0.5) < 1
        split = fit_calibration(scores, scores > 0.5, questions, method)  # without an overlap
        assert 0 < split(0.0) < 0.1
        assert 0.9 < split(1.0) < 1


def test_a_score_that_misleads_is_worth_a_constant():
    scores, right, questions = world(500, 2, lambda s: 0.9 - 0.8 * s, Key(4))
    for method in ("beta", "platt"):
        fitted = fit_calibration(scores, right, questions, method)
        assert float(fitted(0.99)) - float(fitted(0.01)) < 0.01
        assert fitted(0.5) == pytest.approx(right.mean(), abs=0.01)
        assert math.isnan(fitted.score_at(0.9))


def test_the_method_follows_the_number_of_draws_and_the_range():
    assert [choose_method(np.linspace(0, 1, n)) for n in (100, 101, 499, 500)] == ["platt", "beta", "beta", "isotonic"]
    assert choose_method(np.linspace(-9, 0, 300)) == "platt"
    assert choose_method([0.5, math.nan]) == "platt"


def test_stopped_answers_are_told_by_the_draws_behind_them():
    """Scores say the same, but one found among more draws is worth less: the map must see it, the plain one cannot."""
    generator = Key(5).generator()
    num = 3000
    scores, draws, shares = generator.uniform(0.4, 0.9, num), generator.integers(1, 33, num), generator.random(num)
    right = generator.random(num) < expit(4 * scores - 1.0 * np.log(draws) + 1.5 * shares)
    names = np.arange(num)
    fitted = fit_calibration(scores, right, names, "platt", draws=draws, shares=shares)
    assert (*fitted.slopes, fitted.intercept) == pytest.approx((4, -1, 1.5, 0), abs=0.75)
    assert fitted(0.8, 1, 0.5) > fitted(0.8, 30, 0.5) + 0.3
    assert Calibration.from_json(fitted.to_json())(0.8, 1, 0.5) == fitted(0.8, 1, 0.5)
    with pytest.raises(ValueError, match="stopped answers"):
        fitted(0.8)
    with pytest.raises(ValueError, match="no single score"):
        fitted.score_at(0.9)


def test_folds_keep_questions_whole_and_are_dealt_by_the_key():
    questions = np.repeat(np.arange(23), 4)
    folds = deal_folds(questions, Key(6), 5)
    assert all(len(set(folds[questions == q])) == 1 for q in range(23))
    assert sorted(np.bincount(folds[::4])) == [4, 4, 5, 5, 5]
    assert (deal_folds(questions, Key(6), 5) == folds).all()
    assert (deal_folds(questions, Key(7), 5) != folds).any()
    with pytest.raises(ValueError, match="num_folds"):
        deal_folds(np.zeros(3), Key(0), 2)


def test_held_out_probabilities_do_not_see_their_own_question():
    """A leak would tell the coin flips of a question by itself: 40 questions, one draw each, pure noise, isotonic."""
    generator = Key(8).generator()
    scores, right = generator.random(400), generator.integers(0, 2, 400).astype(float)
    held = cross_fit(scores, right, np.arange(400), Key(9), "isotonic")
    own = fit_calibration(scores, right, np.arange(400), "isotonic")(scores)
    loss = [measure_reliability(p, right, np.arange(400)).log_loss.value for p in (held.probabilities, own)]
    assert loss[1] < math.log(2) < loss[0]
    assert held.digest == cross_fit(scores, right, np.arange(400), Key(9), "platt").digest
    assert held.digest != cross_fit(scores, right, np.arange(400), Key(10), "platt").digest


def test_reliability_by_hand():
    found = measure_reliability([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 1], [0, 1, 2, 3], num_bins=2)
    assert found.brier.value == pytest.approx((0.04 + 0.64 + 0.04 + 0.04) / 4)
    assert found.log_loss.value == pytest.approx(-(3 * math.log(0.8) + math.log(0.2)) / 4)
    assert [(b.share, b.probability, b.right.value) for b in found.bins] == [(0.5, 0.2, 0.5), (0.5, 0.8, 1.0)]
    assert found.error == pytest.approx(0.5 * 0.3 + 0.5 * 0.2)
    assert len(measure_reliability([0.5] * 6, [0, 1] * 3, range(6)).bins) == 1
    assert math.isnan(measure_reliability([math.nan], [1], [0]).error)


def test_a_right_map_is_reliable():
    scores, right, questions = world(400, 3, beta_distribution, Key(11))
    found = measure_reliability(beta_distribution(scores), right, questions)
    inside = sum(b.right.low <= b.probability <= b.right.high for b in found.bins)
    assert inside >= 8  # of 10 at 95 % each: fewer has odds of about .01
    assert found.error < 0.04
    assert found.brier.value < measure_reliability(scores, right, questions).brier.value


@pytest.mark.parametrize(("risk", "error", "needed"), [(0.05, 0.10, 45), (0.05, 0.05, 59), (0.01, 0.05, 299)])
def test_so_many_questions_are_needed(risk, error, needed):
    assert needed_without_error(risk, error) == needed
    few = control_risk([0.9], [needed - 1], [0], risk=risk, error=error)
    assert math.isnan(few.threshold)
    assert few.reason == f"too few: {needed} answered questions are needed, there are {needed - 1}"
    assert control_risk([0.9], [needed], [0], risk=risk, error=error).threshold == 0.9
    assert math.isnan(control_risk([0.9], [needed], [1], risk=risk, error=error).threshold)


def test_the_sequence_ends_at_the_first_threshold_that_fails():
    found = control_risk([0.9, 0.8, 0.7, 0.6], [10, 60, 100, 200], [0, 0, 9, 1], risk=0.05)
    assert (found.threshold, found.stopped, found.errors) == (0.8, 60, 0)  # .9 passed over, .6 never reached
    assert found.p_value == pytest.approx(0.95**60)
    none = control_risk([0.9, 0.8], [80, 90], [9, 9], risk=0.05)
    assert math.isnan(none.threshold)
    assert none.reason.startswith("9 of 80 answered questions are wrong")
    assert none.p_value == pytest.approx(binom.cdf(9, 80, 0.05))


def test_the_risk_is_under_control():
    """1,500 calibrations of 150 questions in a world where the risk rises from 0 to .4 as the score falls: a threshold
    whose true risk is above .1 is taken in at most 5 %, within three standard errors (.017)."""
    generator = Key(12).generator()
    at = np.linspace(0.95, 0.05, 19)
    above = 0
    for _ in range(1500):
        scores = generator.random(150)
        wrong = generator.random(150) < 0.4 * (1 - scores)
        stopped = (scores >= at[:, None]).sum(axis=1)
        errors = ((scores >= at[:, None]) & wrong).sum(axis=1)
        found = control_risk(at, stopped, errors, risk=0.1)
        above += not math.isnan(found.threshold) and 0.4 * (1 - found.threshold) / 2 > 0.1
    assert above / 1500 <= 0.05 + 0.017
    assert above  # the level is used: a rule that always abstains would pass the line above


def test_misuse_is_told():
    with pytest.raises(ValueError, match="must have shape"):
        fit_calibration([0.5], [1, 0], [0])
    with pytest.raises(ValueError, match="no draw with both"):
        fit_calibration([math.nan], [1], [0])
    with pytest.raises(ValueError, match=r"scores in \[0, 1\]"):
        fit_calibration([2.0, 3.0], [0, 1], [0, 1], "beta")
    with pytest.raises(ValueError, match="method must be one of"):
        fit_calibration([0.5], [1], [0], "spline")
    with pytest.raises(ValueError, match="right must be"):
        fit_calibration([0.5], [2], [0])
    with pytest.raises(ValueError, match="laxer threshold"):
        control_risk([0.9, 0.8], [9, 8], [0, 0], risk=0.1)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        needed_without_error(0.0, 0.05)
    with pytest.raises(ValueError, match="probabilities must be"):
        measure_reliability([1.5], [1], [0])
    for text in ("[]", "{", json.dumps({"method": "spline"}), json.dumps({"method": "platt", "other": 1})):
        with pytest.raises(ValueError, match="not a calibration"):
            Calibration.from_json(text)
