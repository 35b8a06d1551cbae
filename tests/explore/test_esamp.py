"""Exploratory Sampling: each row by its own error, each group by its own learner, and what its controls are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from samplewise.explore.base import Head, Layout, PolicyStep
from samplewise.explore.controls import frozen_distiller, noise, zero
from samplewise.explore.esamp import EsampPolicy
from samplewise.explore.forks import ForkThreshold
from samplewise.explore.settings import Esamp, esamp

CPU, V, D = torch.device("cpu"), 11, 6


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


HEAD = Head(normal(V, D, seed=9))


def rows(at: int, sizes: tuple[int, ...] = (4, 3), heat: float = 1.0) -> PolicyStep:
    num = sum(sizes)
    group = np.repeat(np.arange(len(sizes)), sizes)
    layout = Layout(group, np.concatenate([np.arange(size) for size in sizes]), CPU)
    deep, shallow = 2 * normal(num, D, seed=at), normal(num, D, seed=1000 + at)
    logits = deep @ HEAD.weight.T
    log_probs = (logits.double() / heat).log_softmax(-1)
    return PolicyStep(layout, np.full(num, at), torch.full((num,), heat), logits, log_probs, deep, shallow, False)


def opened(settings: Esamp, num: int = 2) -> EsampPolicy:
    policy = EsampPolicy(settings, HEAD)
    for seed in range(num):
        policy.open(seed)
    return policy


@pytest.mark.parametrize(
    "settings", [esamp(0.5, width=8), esamp(0.5, learner="ridge"), zero(0.5), frozen_distiller(0.5)], ids=str
)
def test_each_row_is_moved_by_its_own_error_under_the_weights_from_before(settings: Esamp) -> None:
    """Kills: one prediction for all siblings, the step's update applied first, the sign of beta, T on one term."""
    policy = opened(settings)
    for at in range(4):
        step = rows(at, heat=0.8)
        x = step.shallow / step.shallow.square().mean(-1, keepdim=True).add(1e-6).sqrt()
        if settings.control == "zero":
            x = step.deep
        predicted = step.layout.flat(policy.learner.predict(step.layout.live, step.layout.pad(x)))
        advice = policy.advise(step)
        assert advice is not None
        assert advice.rows.tolist() == list(range(7))
        direct = ((1.5 * step.logits - 0.5 * predicted @ HEAD.weight.T).double() / 0.8).log_softmax(-1)
        torch.testing.assert_close(advice.log_probs, direct, rtol=0, atol=1e-4)
        policy.took(torch.zeros(7, dtype=torch.int64))
    told = policy.close(0)
    assert told["seen"] == told["guided"] == 16
    assert told["trained"] == (16 if settings.control == "none" else 0)
    assert told["moved_nats"] > 0.01
    assert policy.close(0)["seen"] == 12


def test_beta_zero_is_no_advice_at_all() -> None:
    """P1: what is not advised is drawn as ever, bit for bit."""
    policy = opened(esamp(0.0, width=8))
    assert policy.advise(rows(0)) is None
    policy.took(torch.zeros(7, dtype=torch.int64))
    assert policy.close(0)["guided"] == 0


def test_rows_with_the_same_states_get_the_same_law() -> None:
    """P6: nothing keeps siblings apart where they part."""
    policy, step = opened(esamp(1.0, width=8)), rows(0)
    for tensor in (step.deep, step.shallow, step.logits, step.log_probs):
        assert tensor is not None
        tensor[:4] = tensor[:1].clone()
    advice = policy.advise(step)
    assert advice is not None
    assert advice.log_probs is not None
    assert (advice.log_probs[:4] - advice.log_probs[:1]).abs().max() < 1e-5


def test_noise_has_the_length_of_the_error_and_another_direction() -> None:
    one, other = opened(esamp(1.0, width=8)), opened(noise(1.0))
    other.settings = Esamp(1.0, control="noise", width=8)
    step = rows(0)
    error = step.deep - normal(7, D, seed=5)
    turned = other._turned(step, error)
    torch.testing.assert_close(turned.norm(dim=-1), error.norm(dim=-1), rtol=1e-5, atol=1e-5)
    cosine = torch.nn.functional.cosine_similarity(turned, error)
    assert cosine.abs().max() < 0.95
    assert torch.equal(turned, other._turned(step, error))
    assert one.seeds.tolist() == other.seeds.tolist()


def test_the_gate_opens_as_the_group_learns() -> None:
    policy = opened(esamp(1.0, learner="ridge", penalty=1e-3, compensate="gate"), 1)
    step = rows(0, (6,))
    widths = []
    for _ in range(6):
        advice = policy.advise(step)
        widths.append(0.0 if advice is None else 1.0)
        policy.took(torch.zeros(6, dtype=torch.int64))
    assert widths[0] == 0.0  # nothing is known of the predictions yet
    assert widths[-1] == 1.0


def test_what_is_no_number_stops_guidance_in_its_group_alone() -> None:
    policy, step = opened(esamp(1.0, width=8)), rows(0)
    bad = step.deep.clone()
    bad[1, 2] = float("nan")
    advice = policy.advise(step._replace(deep=bad))
    assert advice is not None
    assert advice.rows.tolist() == [4, 5, 6]
    policy.took(torch.zeros(7, dtype=torch.int64))
    again = policy.advise(rows(1))
    assert again is not None
    assert again.rows.tolist() == [4, 5, 6]
    assert torch.isfinite(again.log_probs).all()
    policy.took(torch.zeros(7, dtype=torch.int64))
    assert policy.close(0)["broken"] == 1.0
    assert policy.close(0)["broken"] == 0.0


def test_a_warm_start_learns_from_the_prompt_alone() -> None:
    cold, warm = opened(esamp(width=8), 1), opened(esamp(width=8, warm_start=True), 1)
    x, y = normal(30, D, seed=7), normal(30, D, seed=8)
    for policy in (cold, warm):
        policy.warm(0, y, x)
    step = rows(0, (4,))
    x = policy._inputs(step.shallow)[None]
    assert not torch.equal(cold.learner.predict(np.array([0]), x), warm.learner.predict(np.array([0]), x))
    fresh = opened(esamp(width=8), 1)
    assert torch.equal(cold.learner.predict(np.array([0]), x), fresh.learner.predict(np.array([0]), x))


def test_forks_are_the_upper_share_of_each_group() -> None:
    """Over 40 steps of 16 rows, a quarter acts, in a group of high entropies as in one of low ones."""
    made, rng = ForkThreshold(0.25, CPU), np.random.default_rng(0)
    made.open()
    made.open()
    layout = Layout(np.repeat([0, 1], 16), np.tile(np.arange(16), 2), CPU)
    acted, total = torch.zeros(2), 0
    for _ in range(40):
        entropy = torch.from_numpy(np.concatenate([rng.gamma(2.0, 0.3, 16), 3 + rng.gamma(2.0, 0.3, 16)]))
        acted += made.among(layout, entropy).sum(1)
        total += 16
    assert ((acted / total > 0.2) & (acted / total < 0.4)).all()
    assert not made.among(layout, torch.zeros(32)).any()  # certain rows are no forks


def test_forking_guides_a_share_and_trains_on_all() -> None:
    policy = opened(esamp(1.0, forking=0.25, width=8))
    for at in range(20):
        policy.advise(rows(at))
        policy.took(torch.zeros(7, dtype=torch.int64))
    told: Any = policy.close(0)
    assert told["trained"] == told["seen"] == 80
    assert 8 <= told["guided"] <= 32


def test_what_a_group_says_of_itself_does_not_hang_on_company() -> None:
    """The laws looked at are its own, at its own steps: alone, or beside a group that came three steps earlier."""
    alone, beside = opened(esamp(0.5, width=8), 1), opened(esamp(0.5, width=8), 1)
    beside.open(5)
    for at in range(3):
        first = rows(50 + at, (3,))
        other = Layout(np.ones(3, dtype=np.int64), np.arange(3), CPU)
        beside.advise(first._replace(layout=other))
        beside.took(torch.zeros(3, dtype=torch.int64))
    for at in range(20):
        both = rows(at, (4, 3))
        own = Layout(np.zeros(4, dtype=np.int64), np.arange(4), CPU)
        parts = (both.temperature, both.logits, both.log_probs, both.deep, both.shallow)
        single = PolicyStep(own, both.position[:4], *(part[:4] for part in parts), False)  # type: ignore[index, arg-type]
        for policy, step in ((alone, single), (beside, both)):
            policy.advise(step)
            policy.took(torch.zeros(len(step.position), dtype=torch.int64))
    told = [policy.close(0) for policy in (alone, beside)]
    assert told[0] == pytest.approx(told[1], rel=1e-5, nan_ok=True)
    assert told[0]["entropy_after"] < told[0]["entropy_before"]
    assert told[0]["effective_temperature"] < 1
