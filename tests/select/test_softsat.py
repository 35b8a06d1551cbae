"""Votes by a rank that saturates: the formula by hand, by brute force, and at its ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Pool, Selection
from samplewise.select.ranked import saturating_weights, softsat
from samplewise.select.votes import vote

logps = st.lists(st.sampled_from([-1.0, -2.5, -7.0, -7.5, -40.0, math.nan]), min_size=1, max_size=9)


def choose(answers: str, logp: list[float], log_weights: list[float] | None = None, **settings: float) -> Selection:
    """One letter an answer."""
    weights = log_weights or [0.0] * len(answers)
    rows = zip(answers, logp, weights, strict=True)
    pool = Pool(tuple(Candidate(a, scores={"likelihood": p}, log_weight=w) for a, p, w in rows))
    return softsat(**settings).choose(Key(0), pool, tuple(answers))


def test_the_formula_by_hand() -> None:
    """Of four draws, u = 1, .75, .5, .25: S = 1, 1, 8/9, 5/9 at m = .75, and the weights are exp(S)."""
    logp = [-1.0, -2.0, -3.0, -4.0]
    weights = saturating_weights(np.array(logp), 0.75, 1.0)
    assert weights.tolist() == pytest.approx([math.e, math.e, math.exp(8 / 9), math.exp(5 / 9)])
    found = choose("ABBA", logp)
    assert found.answer == "B"
    assert found.info["mass"] == pytest.approx({"A": math.e + math.exp(5 / 9), "B": math.e + math.exp(8 / 9)})
    assert choose("ABBA", logp, m=1.0).info["mass"]["B"] == pytest.approx(math.exp(15 / 16) + math.exp(3 / 4))


@given(logps, st.sampled_from([0.1, 0.5, 0.75, 1.0]), st.sampled_from([0.0, 0.5, 1.0, 4.0]))
def test_weights_are_the_formula(logp: list[float], m: float, beta: float) -> None:
    """By counting, for every draw, those that are no likelier; one without a log-probability is below all others."""
    value = [-math.inf if math.isnan(p) else p for p in logp]
    for own, weight in zip(value, saturating_weights(np.array(logp), m, beta).tolist(), strict=True):
        u = sum(other <= own for other in value) / len(value)
        assert weight == pytest.approx(math.exp(beta * (1 - (1 - min(u / m, 1)) ** 2)))


@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=9), st.data())
def test_beta_zero_is_the_vote(answers: list[str], data: st.DataObject) -> None:
    logp = data.draw(st.lists(st.floats(-50, 0), min_size=len(answers), max_size=len(answers)))
    pool = Pool(tuple(map(Candidate, answers)))
    plain = vote().choose(Key(0), pool, tuple(answers))
    found = choose("".join(answers), logp, beta=0.0)
    assert found.info["mass"] == plain.info["mass"]
    assert found.weights == pytest.approx(plain.weights)


def test_no_draw_weighs_more_than_e_times_another() -> None:
    """So four unlikely draws outvote the likeliest one, where best-of-n takes it."""
    assert choose("ABBBB", [-1.0, -90.0, -91.0, -92.0, -93.0]).answer == "B"
    assert choose("ABB", [-1.0, -90.0, -90.0], m=1.0, beta=8.0).answer == "A", "a large beta trusts the rank alone"
    assert choose("ABBB", [-1.0, -90.0, -90.0, -90.0], beta=8.0).answer == "B", "above m all weigh alike"


def test_a_weighted_pool_votes_with_its_weights() -> None:
    assert choose("AB", [-1.0, -1.0], [math.log(3.0), 0.0]).answer == "A"
    assert choose("AB", [-1.0, -1.0], [0.0, math.log(3.0)]).answer == "B"


@pytest.mark.parametrize("settings", [{"m": 0.0}, {"m": 1.5}, {"beta": -1.0}, {"beta": math.inf}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        softsat(**settings)
