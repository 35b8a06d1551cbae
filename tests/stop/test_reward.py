"""Rules without a target, against known answers, quadrature and simulation."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import t as student
from tests.support.worlds import VERIFIER, follow, score_worlds

from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Question, Usage
from samplewise.stop import beacon, pandora
from samplewise.stop.published.ucb_pandora import pandora_gain, scaled_e1, ucb_pandora
from samplewise.stop.reward import reservation_value, student_gain
from samplewise.stop.truncated import TruncatedNormal, excess, truncated_normal

PRIOR = (2.0, -2.0, 1.0, 0.4)


def test_weitzman_on_the_uniform_law() -> None:
    """E[(S - tau)+] = (1 - tau)^2 / 2, so tau = 1 - sqrt(2 price)."""
    for price in (0.005, 0.02, 0.125):
        assert reservation_value(TruncatedNormal(0.0, 0.0), price) == pytest.approx(1 - math.sqrt(2 * price), abs=1e-9)
    assert reservation_value(TruncatedNormal(0.0, 0.0), 0.7) == pytest.approx(-0.2)


def test_the_reservation_value_is_the_best_threshold() -> None:
    """Regret against Weitzman: E[max - price N] of every other threshold is lower, by simulation on common draws."""
    price, law = 0.02, truncated_normal(0.6, 0.2)
    tau = reservation_value(law, price)
    scores = np.clip(Key(41).generator().normal(0.6, 0.2, (60_000, 60)), 0, 1)
    inside = scores[((scores > 0) & (scores < 1)).all(axis=1)][:4000]

    def worth(threshold: float) -> float:
        reached = inside >= threshold
        draws = np.where(reached.any(axis=1), reached.argmax(axis=1) + 1, 60)
        return float((inside[np.arange(len(inside)), draws - 1] - price * draws).mean())

    if len(inside) > 500:
        for other in (tau - 0.1, tau + 0.1):
            assert worth(tau) > worth(other)


def test_pandora_with_a_known_law() -> None:
    rule = pandora(VERIFIER, price=0.02, distribution=(0.6, 0.2))
    tau = reservation_value(truncated_normal(0.6, 0.2), 0.02)
    found = follow(rule, np.array([[0.1, tau - 1e-6, tau + 1e-6, 1.0], [0.0] * 4]))
    assert found.draws.tolist() == [3, 4]
    assert found.reasons == ("success", "")
    state = rule.start(Question("q", ()))
    assert rule.expected_gain is not None
    assert rule.expected_gain(state) == pytest.approx(excess(truncated_normal(0.6, 0.2), 0.0))
    assert rule.guarantee == "model-based"


def test_pandora_learns_the_law() -> None:
    """With a prior of scores it stops early where they are alike and late where they spread; price orders it."""
    world, prior = score_worlds()["TN(.9,.1)"].play(Key(42), 15, 64).scores, (2.0, -2.5, 1.0, 1.0)
    cheap, dear = (follow(pandora(VERIFIER, price=price, prior=prior), world).draws for price in (0.002, 0.02))
    assert (cheap >= dear).all()
    assert cheap.mean() > dear.mean() + 1
    noise = Key(43).generator().normal(size=(15, 64))
    wide, alike = (follow(pandora(VERIFIER, price=0.005, prior=prior), 0.5 + sd * noise).draws for sd in (0.12, 0.03))
    assert alike.mean() < wide.mean()


@settings(max_examples=8)
@given(st.floats(-4, 4), st.floats(0.1, 5), st.integers(2, 30))
def test_students_gain_is_its_integral(ahead: float, scale: float, df: int) -> None:
    z = ahead / scale
    brute = scale * quad(lambda x: (x - z) * student.pdf(x, df), z, np.inf)[0]
    assert student_gain(ahead, scale, df) == pytest.approx(brute, rel=1e-5, abs=1e-7)


def test_beacon_waits_and_weighs() -> None:
    rewards = Key(43).generator().normal(3, 2, (60, 80))
    found = follow(beacon(VERIFIER, price=0.1, cap=80), rewards)
    assert found.draws.min() >= 4
    later = follow(beacon(VERIFIER, price=0.02, cap=80), rewards)
    assert (later.draws >= found.draws).all()
    assert (later.draws > found.draws).any()
    scaled = follow(beacon(VERIFIER, price=0.2, cap=80), 2 * rewards - 7)
    assert scaled.draws.tolist() == found.draws.tolist(), "it knows neither origin nor unit"
    assert follow(beacon(VERIFIER, price=0.1), np.full((1, 64), 0.5)).draws.tolist() == [4]
    assert beacon(VERIFIER, price=0.1, cap=3).at_least(beacon(VERIFIER, price=0.1).start(Question("q", ()))) == 3


def test_the_gain_of_ucb_pandora_is_its_integral() -> None:
    """Half of the draws lie above the median, exponentially; leaving that half out is the released code's mistake."""
    rewards = tuple(sorted(Key(44).generator().normal(0, 1, 30).tolist()))
    values = np.exp(np.array(rewards) - rewards[-1])
    median = float(np.median(values))
    scale = float(values[values > median].mean()) - median
    guess = median + math.log(960 / 5) * scale * (1 - math.sqrt(math.log(30) * math.log(20) / 30))
    best = 1 / (1 + guess)

    def gain(x: float) -> float:
        value = median + scale * x
        return max(0.0, value / (value + guess) - best) * math.exp(-x)

    brute = 0.5 * quad(gain, (1 - median) / scale, np.inf, limit=200)[0]
    assert pandora_gain(rewards, 0.05, 960) == pytest.approx(brute, rel=1e-6)
    shifted = tuple(reward + 700.0 for reward in rewards)  # exp(reward) itself would overflow
    assert pandora_gain(shifted, 0.05, 960) == pytest.approx(brute, rel=1e-6)
    assert pandora_gain((1.0,) * 30, 0.05, 960) == 0.0


@pytest.mark.parametrize("x", [0.01, 1.0, 20.0, 49.9, 50.1, 400.0])
def test_the_scaled_exponential_integral(x: float) -> None:
    brute = quad(lambda u: math.exp(-u) / (x + u), 0, np.inf)[0]
    assert scaled_e1(x) == pytest.approx(brute, rel=1e-6)


def test_ucb_pandora_waits_and_weighs() -> None:
    rewards = Key(45).generator().normal(0, 1, (30, 300))
    dear, cheap = (follow(ucb_pandora(VERIFIER, price=price), rewards).draws for price in (8e-3, 5e-4))
    assert dear.min() >= 20
    assert (cheap >= dear).all()
    assert cheap.mean() > dear.mean()


@pytest.mark.parametrize(
    "rule",
    [
        pandora("v", price=0.01, distribution=(0.5, 0.2), cap=9),
        pandora("v", price=0.01, prior=PRIOR, cap=9),
        beacon("v", price=0.01, cap=9),
        ucb_pandora("v", price=0.01, cap=9),
    ],
    ids=lambda rule: rule.name,
)
def test_draws_without_a_score_cost_and_say_nothing(rule: Any) -> None:
    state = rule.start(Question("q", ()))
    assert rule.verdict(state, Usage()) is None
    for _ in range(9):
        assert rule.verdict(state, Usage()) is None
        state = rule.see(state, Candidate("x"), None)
    stop = rule.verdict(state, Usage())
    assert (stop.reason, stop.evidence["best"], stop.evidence["draws"]) == ("cap", None, 9)
    json.dumps(stop.evidence, allow_nan=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: pandora("v", price=0.0, distribution=(0.5, 0.1)),
        lambda: pandora("v", price=0.1),
        lambda: pandora("v", price=0.1, prior=(1, 2)),
        lambda: pandora("v", price=0.1, distribution=(0.5, 0.1), cap=0),
        lambda: beacon("v", price=0.1, first=2),
        lambda: beacon("v", price=-1),
        lambda: ucb_pandora("v", price=0.1, error=0.0),
    ],
)
def test_misuse_is_said(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|give either|needs a prior|expected"):
        make()
