"""The law a token is drawn from, against ten lines of brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from samplewise.core.keys import Key
from samplewise.core.numerics import log_softmax, ratio_cannot_rise
from samplewise.core.types import Sampling
from samplewise.engines.distribution import certainty, draw_log_probs, draw_token, log_filtered_norm, powers


def brute(logp: list[float], sampling: Sampling) -> list[float]:
    """Probabilities, by the words of `Sampling`'s docstring and nothing clever."""
    size = len(logp)
    if sampling.temperature == 0:
        return [float(i == logp.index(max(logp))) for i in range(size)]
    raw = [math.exp((x - max(logp)) / sampling.temperature) for x in logp]
    law = [x / sum(raw) for x in raw]
    ranked = sorted(range(size), key=lambda i: (-law[i], i))
    kept = set(ranked)
    if sampling.top_k:
        kept &= set(ranked[: sampling.top_k])
    if sampling.top_p < 1:
        nucleus: list[int] = []
        for i in ranked:
            if sum(law[j] for j in nucleus) >= sampling.top_p:
                break
            nucleus.append(i)
        kept &= set(nucleus)
    if sampling.min_p > 0:
        kept &= {i for i in range(size) if law[i] >= sampling.min_p * max(law)}
    total = sum(law[i] for i in kept)
    return [law[i] / total if i in kept else 0.0 for i in range(size)]


settings_of = st.builds(
    Sampling,
    st.sampled_from([0.0, 0.25, 0.7, 1.0, 1.9]),
    st.integers(0, 6),
    st.sampled_from([0.05, 0.33, 0.61, 0.87, 1.0]),
    st.sampled_from([0.0, 0.07, 0.31]),
)


@given(st.integers(0, 10**6), st.integers(1, 8), settings_of.filter(lambda sampling: sampling.temperature > 0))
def test_log_z_renormalises_what_is_kept_and_bounds_what_a_token_adds(seed: int, size: int, sampling: Sampling) -> None:
    """log p / temperature - log Z is the law. Where the sum only no token adds more than log Z, nor log Z more
    than 0; where it may rise, some token of some law adds more than 0."""
    logp = log_softmax(2 * Key(seed).generator().normal(size=size))
    law = draw_log_probs(logp, sampling)
    kept = np.isfinite(law)
    log_z = log_filtered_norm(logp, law, sampling.temperature)
    assert np.allclose(logp[kept] / sampling.temperature - log_z, law[kept], atol=1e-12)
    for alpha in (0.5, 1.0, 1 / sampling.temperature, 4.0):
        gains = alpha * logp[kept] - law[kept]
        if ratio_cannot_rise(alpha, sampling.temperature):
            assert gains.max() <= log_z + 1e-12 <= 2e-12
    assert powers(logp, (1.0, 2.5)) == pytest.approx((0.0, math.log(sum(np.exp(logp) ** 2.5))), abs=1e-12)


def test_where_the_sum_only_falls() -> None:
    for temperature in (0.02, 1 / 49, 1 / 3, 0.25, 1.0):
        assert ratio_cannot_rise(1 / temperature, temperature)
        assert ratio_cannot_rise(100.0, temperature)
        assert not ratio_cannot_rise(0.99 / temperature, temperature)
    assert not ratio_cannot_rise(4.0, 0.0)
    assert not ratio_cannot_rise(4.0, 2.0)
    sure = log_softmax(np.array([9.0, 0.0, 0.0]))
    assert (1.0 * sure - draw_log_probs(sure, Sampling(0.25))).max() > 1, (
        "alpha below 1 / temperature: a rare token adds much"
    )


def test_certainty_is_the_divergence_from_the_uniform_law() -> None:
    logp = np.log([0.5, 0.25, 0.25])
    assert certainty(logp) == pytest.approx(sum(math.log((1 / 3) / p) / 3 for p in (0.5, 0.25, 0.25)))
    assert certainty(np.log([0.25] * 4)) == pytest.approx(0.0, abs=1e-15)
    assert certainty(np.array([0.0, -np.inf])) == math.inf


@given(st.integers(0, 10**6), st.integers(1, 8), settings_of)
def test_every_cut_against_brute_force(seed: int, size: int, sampling: Sampling) -> None:
    """Random logits, so that no mass falls on a threshold."""
    logp = log_softmax(2 * Key(seed).generator().normal(size=size))
    law = draw_log_probs(logp, sampling)
    assert np.allclose(np.exp(law), brute(logp.tolist(), sampling), atol=1e-12)
    assert math.isclose(np.exp(law).sum(), 1.0)


def test_exact_values() -> None:
    logp = np.log([0.5, 0.3, 0.2])
    exact = {
        Sampling(): [0.5, 0.3, 0.2],
        Sampling(0.5): [25 / 38, 9 / 38, 4 / 38],
        Sampling(0.0): [1, 0, 0],
        Sampling(top_k=2): [0.625, 0.375, 0],
        Sampling(top_p=0.6): [0.625, 0.375, 0],  # the token that crosses top_p is kept
        Sampling(top_p=0.4): [1, 0, 0],  # the first always is
        Sampling(min_p=0.5): [0.625, 0.375, 0],
        Sampling(top_k=5, top_p=0.95, min_p=0.1): [0.5, 0.3, 0.2],
    }
    for sampling, law in exact.items():
        assert np.allclose(np.exp(draw_log_probs(logp, sampling)), law), sampling


def test_ties_go_to_the_lowest_id() -> None:
    level = np.log([0.25] * 4)
    assert np.exp(draw_log_probs(level, Sampling(0.0))).tolist() == [1, 0, 0, 0]
    assert np.exp(draw_log_probs(level, Sampling(top_k=2))).tolist() == [0.5, 0.5, 0, 0]


def test_what_the_model_cannot_say_is_never_drawn() -> None:
    logp = np.array([0.0, -np.inf, -np.inf])
    for sampling in (Sampling(), Sampling(0.5), Sampling(2.0, 2), Sampling(0.0)):
        assert np.exp(draw_log_probs(logp, sampling)).tolist() == [1, 0, 0]


def test_a_temperature_next_to_nothing_is_greedy() -> None:
    """Log-probabilities over 1e-320 are all -inf: the law came out as nan, with two warnings."""
    assert np.exp(draw_log_probs(np.log([0.2, 0.5, 0.3]), Sampling(1e-320))).tolist() == [0, 1, 0]


def test_a_token_is_the_inverse_of_the_distribution_function() -> None:
    law = np.log([0.5, 0.3, 0.2])
    for uniform, token in [(0.0, 0), (0.499, 0), (0.501, 1), (0.799, 1), (0.801, 2), (1 - 2**-53, 2)]:
        assert draw_token(law, uniform) == token


@given(
    st.lists(st.sampled_from([-np.inf, 0.0, -1.0, -700.0]), min_size=1, max_size=6), st.floats(0, 1, exclude_max=True)
)
def test_a_token_of_no_mass_is_never_drawn(law: list[float], uniform: float) -> None:
    if max(law) == 0.0:
        assert law[draw_token(law, uniform)] > -np.inf


def test_tokens_follow_the_law() -> None:
    """Chi-square, false alarm 1e-5 at fresh seeds."""
    law = [0.6, 0.25, 0.1, 0.05]
    uniforms = Key(4).generator().random(4_000)
    counts = np.bincount([draw_token(np.log(law), u) for u in uniforms], minlength=4)
    assert chisquare(counts, np.array(law) * 4_000).pvalue > 1e-5


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_one_token_is_that_token(uniform: float) -> None:
    assert draw_token([0.0], uniform) == 0
