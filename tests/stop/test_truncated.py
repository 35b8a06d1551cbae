"""The law of scores against sixty-digit anchors, scipy's own truncated normal, and brute force."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import truncnorm

from samplewise.core.keys import Key
from samplewise.stop.truncated import (
    ScoreTally,
    TruncatedNormal,
    draws_needed,
    excess,
    fit,
    log_cdf,
    matched,
    moments,
    quantile,
    truncated_normal,
)

ANCHORS = [  # mu, sg, s, ln F(s), computed with sixty digits
    (0.9, 0.1, 0.95, -0.196192636265),
    (0.8, 0.1, 0.95, -0.0461305462833),
    (0.6, 0.12, 0.85, -0.0183566310631),
    (50, 1, 0.95, -2.45226904097),
    (-3, 1, 0.5, -0.165400220145),
    (0.5, 100, 0.9, -0.105359848993),
    (0.9892, 0.0062, 0.975, -4.46812691478),
    (2.1809, 0.6279, 0.9, -0.376290521507),
]

scores = st.lists(st.floats(0, 1), min_size=2, max_size=30)


def tally_of(values: list[float]) -> ScoreTally:
    tally = ScoreTally()
    for value in values:
        tally = tally.add(value)
    return tally


@pytest.mark.parametrize(("mu", "sg", "score", "log_f"), ANCHORS)
def test_anchors(mu: float, sg: float, score: float, log_f: float) -> None:
    assert log_cdf(truncated_normal(mu, sg), score) == pytest.approx(log_f, rel=1e-11)


def test_natural_parameters_of_a_known_law() -> None:
    assert truncated_normal(0.9, 0.1) == pytest.approx(TruncatedNormal(90, -50))
    with pytest.raises(ValueError, match="above 0"):
        truncated_normal(0.9, 0.0)


@pytest.mark.parametrize("mu", [-2.0, 0.0, 0.3, 0.95, 1.0, 3.0])
@pytest.mark.parametrize("sg", [0.05, 0.3, 2.0])
def test_the_law_is_that_of_scipy(mu: float, sg: float) -> None:
    if abs(mu - 0.5) / sg > 20:
        return  # scipy's own moments lose their digits there
    theirs, ours = truncnorm(-mu / sg, (1 - mu) / sg, mu, sg), truncated_normal(mu, sg)
    found = moments(*ours)
    assert (found.mean, found.two) == pytest.approx((theirs.mean(), theirs.var()), rel=1e-6)
    for score in (0.01, 0.2, 0.5, 0.9, 0.999):
        assert log_cdf(ours, score) == pytest.approx(theirs.logcdf(score), rel=1e-8, abs=1e-12)
    for share in (0.001, 0.3, 0.99):
        assert quantile(ours, share) == pytest.approx(theirs.ppf(share), rel=1e-8)


@pytest.mark.parametrize(
    ("e1", "e2"), [(-60.0, 60.0), (-30.0, 20.0), (5.0, 0.0), (-400.0, 0.0), (3.0, 2.0), (0.0, 0.0)]
)
def test_a_law_that_no_normal_is(e1: float, e2: float) -> None:
    """U-shaped, exponential and uniform ones, against adaptive quadrature."""

    def density(s: float) -> float:
        return math.exp(e1 * s + e2 * s * s)

    whole = quad(density, 0, 1, epsabs=0, epsrel=1e-12, limit=200)[0]
    found = moments(e1, e2)
    assert found.log_mass == pytest.approx(math.log(whole), abs=1e-10)
    for power, ours in ((2, found.two), (3, found.three), (4, found.four)):
        brute = quad(lambda s: (s - found.mean) ** power * density(s) / whole, 0, 1, limit=200)[0]  # noqa: B023
        assert ours == pytest.approx(brute, rel=1e-7, abs=1e-8)
    brute = quad(lambda s: (s - 0.4) * density(s), 0.4, 1, limit=200)[0] / whole
    assert excess(TruncatedNormal(e1, e2), 0.4) == pytest.approx(brute, rel=1e-8)


@given(scores)
def test_a_fit_has_the_moments_of_its_scores(values: list[float]) -> None:
    tally = tally_of(values)
    law = fit(tally)
    if law is None:
        share = tally.mean * (1 - tally.mean)
        assert tally.variance < 1e-9 or tally.variance > share * (1 - 1e-6) or share < 1e-6
    else:
        found = moments(*law)
        assert found.mean == pytest.approx(tally.mean, abs=1e-5)
        assert found.two == pytest.approx(tally.variance, rel=1e-4)


def test_a_fit_is_the_most_likely_law() -> None:
    values = Key(1).generator().beta(3, 1.2, 12)
    law = fit(tally_of(values.tolist()))
    assert law is not None

    def likelihood(e1: float, e2: float) -> float:
        return float((e1 * values + e2 * values**2).sum()) - 12 * moments(e1, e2).log_mass

    best = likelihood(*law)
    for one, two in ((0.1, 0), (-0.1, 0), (0, 0.1), (0, -0.1), (0.1, -0.1)):
        assert likelihood(law.e1 + one, law.e2 + two) < best


def test_scores_that_no_law_fits() -> None:
    assert fit(tally_of([0.7, 0.7, 0.7])) is None
    assert fit(tally_of([0.0, 1.0, 1.0])) is None
    assert fit(ScoreTally()) is None
    u_shaped = fit(tally_of([0.01, 0.02, 0.98, 0.99]))
    assert u_shaped is not None
    assert u_shaped.e2 > 0
    with pytest.raises(ValueError, match="no distribution"):
        matched(0.5, 0.25)


def test_a_warm_start_ends_where_a_cold_one_does() -> None:
    tally, law = ScoreTally(), None
    for value in Key(2).generator().beta(12, 1.2, 40).tolist():
        tally = tally.add(value)
        law, cold = fit(tally, law), fit(tally)
        assert (law is None) == (cold is None)
        if law is not None and cold is not None:
            assert log_cdf(law, 0.95) == pytest.approx(log_cdf(cold, 0.95), rel=1e-5)


@given(st.floats(-2, 3), st.floats(0.01, 2), st.floats(0.01, 0.99))
def test_a_quantile_inverts_the_law(mu: float, sg: float, share: float) -> None:
    law = truncated_normal(mu, sg)
    assert log_cdf(law, quantile(law, share)) == pytest.approx(math.log(share), abs=1e-6)


@given(st.floats(-5, -1e-3), st.floats(0.5, 0.99), st.integers(1, 100))
def test_the_least_number_of_draws(log_f: float, confidence: float, cap: int) -> None:
    draws = draws_needed(log_f, confidence, cap)
    assert 1 <= draws <= cap
    assert draws == cap or math.exp(draws * log_f) <= 1 - confidence + 1e-9
    assert draws == 1 or math.exp((draws - 1) * log_f) > 1 - confidence - 1e-9
    assert draws_needed(log_f, min(0.999, confidence + 0.005), cap) >= draws
    assert draws_needed(log_f / 2, confidence, cap) >= draws


def test_draws_at_the_ends() -> None:
    assert draws_needed(-math.inf, 0.95, 64) == 1
    assert draws_needed(0.0, 0.95, 64) == 64
    assert draws_needed(math.log(0.9), 0.95, 64) == 29  # and not 64 - 29 or the 1 that 1 - confidence would give
    assert draws_needed(math.log(0.5), 0.875, 64) == 3  # exactly: rounding must not add one


def test_expected_best_of_many() -> None:
    """E[Y_N] = 1 - integral of F^N, against simulation: 4 standard errors at a fixed seed."""
    law = truncated_normal(0.6, 0.2)
    drawn = truncnorm(-3, 2, 0.6, 0.2).rvs((4000, 5), random_state=Key(3).generator())
    theory = 1 - quad(lambda s: math.exp(5 * log_cdf(law, s)), 0, 1)[0]
    best = drawn.max(axis=1)
    assert abs(best.mean() - theory) < 4 * best.std() / math.sqrt(len(best))


def test_a_fit_takes_little_time() -> None:
    """Its share of a decision of at most 200 microseconds, by processor time; eight times that on a slow machine."""
    values = Key(4).generator().beta(12, 1.2, 256).tolist()
    tally, law = ScoreTally(), None
    started = time.process_time()
    for value in values:
        tally = tally.add(value)
        law = fit(tally, law)
        if law is not None:
            log_cdf(law, 0.95)
    assert (time.process_time() - started) / len(values) < 1.6e-3
