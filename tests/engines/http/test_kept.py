"""log q out of the likeliest tokens' log-probs, against the law itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.engines.http import kept
from samplewise.engines.http.profile import Profile
from samplewise.engines.law import draw_law
from samplewise.keys import Key
from samplewise.numerics import Floats, log_softmax
from samplewise.types import Generate, Message, Sampling

HI = (Message("user", "hi"),)


def listed(logp: Floats, num: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-logp, kind="stable")[:num].tolist()
    return tuple((f"t{i}", float(logp[i])) for i in order)


@given(st.integers(0, 10**6), st.integers(2, 30), st.integers(1, 12), st.sampled_from([0.25, 0.5, 1.0, 1.7]))
def test_against_the_law(seed: int, vocab: int, top_k: int, temperature: float) -> None:
    """Every token that can be drawn, of laws without ties; small vocabularies are listed in full."""
    logp = log_softmax(2 * Key(seed).generator().normal(size=vocab))
    sampling = Sampling(temperature, top_k)
    law = draw_law(logp, sampling)
    tokens = np.flatnonzero(np.isfinite(law))
    places = (listed(logp, top_k + 1),) * len(tokens)
    assert kept.logq(sampling, tuple(logp[tokens].tolist()), places) == pytest.approx(law[tokens].tolist(), abs=1e-9)


def test_a_tie_at_the_last_rank() -> None:
    """Both tokens of rank 2 may have been kept, or one: with a flat law that is refused, with a steep one it is let
    pass. A tie above the last rank, or below it, changes nothing."""
    logp = np.log([0.5, 0.2, 0.2, 0.1])
    place = (listed(logp, 3),)
    with pytest.raises(ValueError, match=r"tie at rank 2.*another top_k"):
        kept.logq(Sampling(1.0, 2), (float(logp[0]),), place)
    steep = kept.logq(Sampling(1 / 32, 2), (float(logp[0]),), place)[0]
    both, one = (-math.log1p(n * 0.4**32) for n in (2, 1))
    assert one - kept.SLACK < both <= steep <= one + kept.SLACK
    for top_k in (1, 3):
        found = kept.logq(Sampling(1.0, top_k), (float(logp[0]),), (listed(logp, top_k + 1),))
        assert found[0] == pytest.approx(draw_law(logp, Sampling(1.0, top_k))[0])
    with pytest.raises(ValueError, match="tie"):  # hotter than the model, the unlikely weigh more, and their number
        kept.logq(Sampling(2.0, 2), (float(logp[0]),), place)


@pytest.mark.parametrize(
    ("logp", "top", "message"),
    [
        (None, ((("a", -0.1),),), "does not list"),
        ((-0.1,), None, "does not list"),
        ((-0.1, -0.2), ((("a", -0.1),),), "does not list"),
        ((-0.7,), ((("a", -0.7),),), "lists 1 likely tokens at a place where 3 were asked for"),
        ((-0.7,), ((),), "lists 0 likely tokens"),
        ((-3.0,), ((("a", -0.7), ("b", -1.0), ("c", -3.0)),), "none of the 2 likeliest"),
    ],
)
def test_what_cannot_be_worked_out_is_said(
    logp: tuple[float, ...] | None, top: tuple[tuple[tuple[str, float], ...], ...] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kept.logq(Sampling(0.5, 2), logp, top)


def test_what_is_asked_for() -> None:
    known = Profile(logprobs=True, top_logprobs=20)
    plain = Generate(HI, want=("logq",))
    cut = plain._replace(sampling=Sampling(0.25, top_k=19))
    assert [kept.num_top(ask) for ask in (plain, cut, cut._replace(want=("logp",)))] == [0, 20, 0]
    assert kept.unsupported(plain, Profile()) == kept.unsupported(cut, known) == ""
    assert "top_k from 1 to 19" in kept.unsupported(plain._replace(sampling=Sampling(0.25)), known)
    assert "not known to list" in kept.unsupported(cut, Profile())
