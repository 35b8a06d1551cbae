"""Three estimates of what is never solved: known values, the fit against its own likelihood, the published table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import beta, betabinom

from samplewise.core.keys import Key
from samplewise.measure import blindspots
from samplewise.measure.blindspots import (
    PENALTY,
    ZeroInflated,
    _Likelihood,
    blind_spots,
    chao2,
    fit_zero_inflated,
)

KNOWN = np.repeat([0, 1, 2, 50], [50, 10, 6, 34])  # of 100 draws


def worlds(share, a, b, num_draws, repeats, key):
    generator = key.generator()
    probability = np.where(generator.random((repeats, 200)) < share, 0.0, generator.beta(a, b, (repeats, 200)))
    return generator.binomial(num_draws, probability)


def test_known_chao2():
    assert 100 * chao2(KNOWN, 100) == pytest.approx(43.635714, abs=1e-6)
    assert chao2([0, 1, 1, 1, 1], 5) == 0.0  # never below 0


def test_the_likelihood_is_the_beta_binomial_and_its_gradient_is_right():
    solved, made = np.array([0, 0, 3, 5, 1]), np.array([5, 8, 5, 5, 8])
    likelihood = _Likelihood(solved, made)
    place = np.array([-0.4, 0.3, 0.9])
    blind, a, b = 1 / (1 + math.exp(0.4)), math.exp(0.3), math.exp(0.9)
    probabilities = (1 - blind) * betabinom.pmf(solved, made, a, b) + blind * (solved == 0)
    constant = sum(math.log(math.comb(n, s)) for s, n in zip(solved, made, strict=True))
    expected = -np.log(probabilities).sum() + constant + PENALTY * (0.3**2 + 0.9**2)
    assert likelihood.loss(place)[0] == pytest.approx(expected)
    assert check_grad(lambda x: likelihood.loss(x)[0], lambda x: likelihood.loss(x)[1], place) < 1e-5


def test_the_fit_finds_the_top():
    solved = worlds(0.3, 0.8, 1.5, 60, 1, Key(1))[0]
    fit = fit_zero_inflated(solved, 60)
    place = np.array([math.log(fit.blind / (1 - fit.blind)), math.log(fit.a), math.log(fit.b)])
    likelihood = _Likelihood(solved, np.full(len(solved), 60))
    around = Key(2).generator().normal(0, 0.1, (200, 3))
    assert all(likelihood.loss(place + step)[0] >= -fit.log_likelihood - 1e-6 for step in around)
    assert fit.blind == pytest.approx(0.3, abs=0.12)  # 200 problems: three standard errors of the share alone


def test_known_limits():
    measured = blind_spots(KNOWN, 100)
    assert (measured.zero_fraction, measured.hard, measured.num_problems) == (0.5, 0.03, 100)
    assert measured.high == pytest.approx(beta.ppf(0.975, 51, 50))
    missed = 0.97**100
    assert measured.hard_low == pytest.approx((beta.ppf(0.025, 50, 51) - missed) / (1 - missed))


WORLDS = {
    "small but positive": lambda g: np.full(200, 0.004),
    "at the edge": lambda g: np.full(200, 0.0601),  # 3 in 50 is not hard: just above it none is
    "blind and easy": lambda g: np.where(g.random(200) < 0.3, 0.0, 0.5),
    "a beta near zero": lambda g: g.beta(0.3, 2.0, 200),
}


@pytest.mark.parametrize("world", WORLDS)
def test_the_limits_hold_whatever_the_success_probabilities(world, monkeypatch):
    """In 400 repeats a limit of 97.5 % fails more than 24 times with probability 1e-4, where it is sharp."""
    monkeypatch.setattr(blindspots, "fit_zero_inflated", lambda *_: ZeroInflated(0.0, 1.0, 1.0, 0.0))  # slow, unused
    generator = Key(7).fold(world).generator()
    failures = np.zeros(2)
    for _ in range(400):
        probability = WORLDS[world](generator)
        measured = blind_spots(generator.binomial(50, probability), 50)
        failures += [
            (probability == 0).mean() > measured.high,
            (probability <= measured.hard).mean() < measured.hard_low,
        ]
    assert (failures <= 24).all()


def test_ragged_and_extreme_pools():
    assert blind_spots([0, 0, 2], [0, 10, 10]).num_problems == 2
    nobody = blind_spots([0, 0, 0, 0], 60)
    assert (nobody.zero_fraction, nobody.high, nobody.chao) == (1.0, 1.0, 1.0)
    everybody = blind_spots([60, 59, 58], 60)
    assert (everybody.zero_fraction, everybody.hard_low) == (0.0, 0.0)
    nothing = blind_spots([0, 0], [0, 0])
    assert math.isnan(nothing.zero_fraction)
    assert nothing.num_problems == 0
    assert math.isnan(chao2(np.zeros(0, dtype=int), 5))


def test_misuse_is_told():
    with pytest.raises(ValueError, match="at most the draws"):
        blind_spots([6], 5)
    with pytest.raises(ValueError, match="must be integers"):
        chao2([0.5], 5)


TABLE = {  # share, Beta(a, b): zero fraction, Chao2, fit, at 10, 50 and 100 draws; 40 repeats with standard deviations
    (0.2, 0.6, 1.5): ((0.423, 0.352, 0.178, 0.120), (0.284, 0.247, 0.189, 0.051), (0.264, 0.244, 0.210, 0.042)),
    (0.2, 0.3, 2.0): ((0.641, 0.530, 0.194, 0.189), (0.479, 0.426, 0.171, 0.122), (0.434, 0.386, 0.203, 0.091)),
    (0.0, 0.3, 2.0): ((0.559, 0.447, 0.147, 0.165), (0.355, 0.266, 0.065, 0.090), (0.285, 0.207, 0.028, 0.050)),
}


@pytest.mark.slow
@pytest.mark.parametrize("world", TABLE)
def test_the_published_table(world):
    """Within 4 standard errors of 40 repeats, ours and those behind the print."""
    for num_draws, (zeros, chao, fit, fit_sd) in zip((10, 50, 100), TABLE[world], strict=True):
        solved = worlds(*world, num_draws, 40, Key(4).fold(str(world), num_draws))
        rows = [[(s == 0).mean(), chao2(s, num_draws), fit_zero_inflated(s, num_draws).blind] for s in solved]
        mean, sd = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1)
        error = np.maximum(sd, [0, 0, fit_sd]) * (2 / 40) ** 0.5
        assert (np.abs(mean - [zeros, chao, fit]) < 4 * error + 0.0005).all(), (num_draws, mean)
