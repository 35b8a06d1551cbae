"""Guidance: the properties of the mixture, exactly, and the heat that compensates for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from training.branches.decode import plain_law

from samplewise.explore.base import Head, entropies
from samplewise.explore.guide import guided_log_probs, temperature_factor_for

N, D, V = 5, 7, 40


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


WEIGHT, BIAS = normal(V, D), normal(V, seed=1)
DEEP, PREDICTED = normal(N, D, seed=2), normal(N, D, seed=3)


def law_of(
    head: Head,
    beta: float,
    *,
    heat: float = 1.0,
    min_p: float = 0.0,
    compensate: str = "none",
    predicted: Tensor = PREDICTED,
) -> Tensor:
    logits = head(DEEP)
    log_probs = plain_law(logits, heat, min_p)
    strength, heats = torch.full((N,), beta).double(), torch.full((N,), heat)
    return guided_log_probs(head, logits, log_probs, DEEP, predicted, heats, strength, compensate, min_p > 0)


HEADS = [Head(WEIGHT), Head(WEIGHT, BIAS), Head(WEIGHT, BIAS, scale=0.5), Head(WEIGHT, BIAS, cap=3.0)]


@pytest.mark.parametrize("head", HEADS, ids=["linear", "bias", "scale", "cap"])
@pytest.mark.parametrize("min_p", [0.0, 0.05])
@pytest.mark.parametrize("heat", [1.0, 0.7])
def test_the_law_is_the_formula_with_both_terms_divided_by_the_temperature(
    head: Head, min_p: float, heat: float
) -> None:
    """P2 and the rule of temperatures: the latent form, the candidates' form and the logits' form are one."""
    ref, dist = head(DEEP).double(), head(PREDICTED).double()
    direct = ((1 + 0.8) * ref - 0.8 * dist) / heat
    direct = direct.masked_fill(torch.isneginf(plain_law(head(DEEP), heat, min_p)), -math.inf)
    torch.testing.assert_close(law_of(head, 0.8, heat=heat, min_p=min_p), direct.log_softmax(-1), rtol=0, atol=1e-4)


def test_the_latent_form_would_be_wrong_under_a_cap() -> None:
    """Where it matters that the head tells: the test above would pass a wrong cap if the two were close here."""
    head = HEADS[3]
    latent = head(1.8 * DEEP - 0.8 * PREDICTED).double().log_softmax(-1)
    assert (law_of(head, 0.8) - latent).abs().max() > 0.1


@pytest.mark.parametrize("beta", [0.25, 1.0])
def test_a_constant_prediction_is_a_lower_temperature(beta: float) -> None:
    """P3: the zero control is temperature 1 / (1 + beta), 0.8 at 0.25."""
    cold = plain_law(Head(WEIGHT)(DEEP), 1 / (1 + beta), 0.0)
    torch.testing.assert_close(
        law_of(Head(WEIGHT), beta, predicted=torch.zeros_like(DEEP)), cold, rtol=0, atol=1e-6 * 40
    )


def test_a_perfect_prediction_is_the_plain_law() -> None:
    """P4: an explored context is never pushed below plain."""
    plain = plain_law(Head(WEIGHT)(DEEP), 1.0, 0.0)
    torch.testing.assert_close(law_of(Head(WEIGHT), 1.0, predicted=DEEP), plain, rtol=0, atol=1e-6)


def test_full_compensation_is_subtraction() -> None:
    """P5: ((1 + b) ref - b dist) / (1 + b) = ref - b / (1 + b) dist."""
    head = Head(WEIGHT)
    direct = (head(DEEP) - 0.25 / 1.25 * head(PREDICTED)).double().log_softmax(-1)
    torch.testing.assert_close(law_of(head, 0.25, compensate="full"), direct, rtol=0, atol=1e-5)


@pytest.mark.parametrize("min_p", [0.0, 0.1])
def test_entropy_compensation_keeps_each_rows_entropy(min_p: float) -> None:
    plain = plain_law(Head(WEIGHT)(DEEP), 0.9, min_p)
    new = law_of(Head(WEIGHT), 0.25, heat=0.9, min_p=min_p, compensate="entropy")
    torch.testing.assert_close(entropies(new), entropies(plain), rtol=0, atol=1e-3)
    assert (new - plain).nan_to_num().abs().max() > 0.05  # ranked anew all the same


@pytest.mark.parametrize("min_p", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("compensate", ["none", "entropy", "full"])
def test_what_is_cut_stays_cut_and_the_rest_is_renormalised(min_p: float, compensate: Any) -> None:
    new = law_of(Head(WEIGHT), 2.0, min_p=min_p, compensate=compensate)
    cut = torch.isneginf(plain_law(Head(WEIGHT)(DEEP), 1.0, min_p))
    assert (new.exp()[cut] == 0).all()
    assert torch.isfinite(new[~cut]).all()
    torch.testing.assert_close(new.exp().sum(-1), torch.ones(N).double(), rtol=0, atol=1e-12)
    if compensate == "none":  # the law on the candidates is the law over everything, restricted
        whole = law_of(Head(WEIGHT), 2.0).masked_fill(cut, -math.inf).log_softmax(-1)
        torch.testing.assert_close(new, whole, rtol=0, atol=1e-5)


@given(st.integers(0, 10_000), st.floats(0.6, 1.8))
@settings(deadline=None, max_examples=30)
def test_heat_is_found_where_there_is_one(seed: int, heat: float) -> None:
    logits = 3 * normal(4, 20, seed=seed)
    goal = entropies((logits.double() / heat).log_softmax(-1))
    found = temperature_factor_for(logits, goal, 0.5, 2.0)
    torch.testing.assert_close(entropies((logits.double() / found[:, None]).log_softmax(-1)), goal, rtol=0, atol=1e-3)


def test_heat_out_of_reach_is_the_nearer_end() -> None:
    logits = normal(1, 20)
    assert float(temperature_factor_for(logits, torch.tensor([0.0]).double(), 0.5, 2.0)) == pytest.approx(0.5, rel=1e-2)
    assert float(temperature_factor_for(logits, torch.tensor([9.0]).double(), 0.5, 2.0)) == pytest.approx(2.0, rel=1e-2)
    certain = torch.tensor([[0.0, -math.inf, -math.inf]])
    assert float(temperature_factor_for(certain, torch.tensor([0.0]).double(), 0.5, 2.0)) == 1.0


def test_the_optimality_claim_does_not_follow() -> None:
    """P12: rewards 1, 1, 0 along a path meet the published definition of a per-step optimum and are worth 1 + gamma."""
    gamma, rewards = 0.9, (1.0, 1.0, 0.0)
    worth = sum(gamma**t * reward for t, reward in enumerate(rewards))
    assert worth == pytest.approx(1 + gamma)
    assert worth != rewards[0]
