"""log q computed from the likeliest tokens' log-probs, against the distribution itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, log_softmax
from samplewise.core.types import Generate, Message, Sampling
from samplewise.engines.distribution import draw_log_probs
from samplewise.engines.http.dialect import logq
from samplewise.engines.http.dialect.profile import Profile

HI = (Message("user", "hi"),)


def listed(logp: Floats, num: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-logp, kind="stable")[:num].tolist()
    return tuple((f"t{i}", float(logp[i])) for i in order)


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 12), st.sampled_from([0.25, 0.5, 1.0, 1.7]))
def test_against_the_distribution(seed: int, vocab: int, top_k: int, temperature: float) -> None:
    """Every token that can be drawn, of distributions without ties; small vocabularies are listed in full."""
    logp = log_softmax(2 * Key(seed).generator().normal(size=vocab))
    sampling = Sampling(temperature, top_k)
    expected = draw_log_probs(logp, sampling)
    tokens = np.flatnonzero(np.isfinite(expected))
    positions = (listed(logp, top_k + 1),) * len(tokens)
    assert logq.compute_logq(sampling, tuple(logp[tokens].tolist()), positions) == pytest.approx(
        expected[tokens].tolist(), abs=1e-9
    )


def test_a_tie_at_the_last_rank() -> None:
    """Both tokens of rank 2 may have been kept, or one: refused for a flat distribution, accepted for a steep one.

    A tie above the last rank, or below it, changes nothing.
    """
    logp = np.log([0.5, 0.2, 0.2, 0.1])
    position = (listed(logp, 3),)
    with pytest.raises(ValueError, match=r"tie at rank 2.*another top_k"):
        logq.compute_logq(Sampling(1.0, 2), (float(logp[0]),), position)
    steep = logq.compute_logq(Sampling(1 / 32, 2), (float(logp[0]),), position)[0]
    both, one = (-math.log1p(n * 0.4**32) for n in (2, 1))
    assert one - logq.SLACK < both <= steep <= one + logq.SLACK
    for top_k in (1, 3):
        found = logq.compute_logq(Sampling(1.0, top_k), (float(logp[0]),), (listed(logp, top_k + 1),))
        assert found[0] == pytest.approx(draw_log_probs(logp, Sampling(1.0, top_k))[0])
    with pytest.raises(ValueError, match="tie"):  # hotter than the model, the unlikely weigh more, and their number
        logq.compute_logq(Sampling(2.0, 2), (float(logp[0]),), position)


@pytest.mark.parametrize(
    ("logp", "top", "message"),
    [
        (None, ((("a", -0.1),),), "does not list"),
        ((-0.1,), None, "does not list"),
        ((-0.1, -0.2), ((("a", -0.1),),), "does not list"),
        ((-0.7,), ((("a", -0.7),),), "lists 1 likely tokens at a position where 3 were asked for"),
        ((-0.7,), ((),), "lists 0 likely tokens"),
        ((-3.0,), ((("a", -0.7), ("b", -1.0), ("c", -3.0)),), "not among the 2 likeliest"),
    ],
)
def test_what_cannot_be_computed_is_an_error(
    logp: tuple[float, ...] | None, top: tuple[tuple[tuple[str, float], ...], ...] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        logq.compute_logq(Sampling(0.5, 2), logp, top)


def test_what_is_asked_for() -> None:
    profile = Profile(logprobs=True, top_logprobs=20)
    plain = Generate(HI, want=("logq",))
    cut = plain._replace(sampling=Sampling(0.25, top_k=19))
    assert [logq.num_top_needed(ask) for ask in (plain, cut, cut._replace(want=("logp",)))] == [0, 20, 0]
    assert logq.why_no_logq(plain, Profile()) == logq.why_no_logq(cut, profile) == ""
    assert "top_k from 1 to 19" in logq.why_no_logq(plain._replace(sampling=Sampling(0.25)), profile)
    assert "not known to list" in logq.why_no_logq(cut, Profile())
