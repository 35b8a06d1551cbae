"""Latent stratified sampling, against its formula written out row by row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from training.branches.world import independent_coverage

from samplewise.explore import counters
from samplewise.explore.base import Head, Layout, PolicyStep
from samplewise.explore.lss import LssPolicy
from samplewise.explore.settings import Lss, lss

CPU, V, D = torch.device("cpu"), 12, 6
WEIGHT = torch.randn(V, D, generator=torch.Generator().manual_seed(3))
WEIGHT[1] = WEIGHT[0] + 0.1  # synonyms
HEAD = Head(WEIGHT)


def rows(log_probs: Any, deep: Any, at: int) -> PolicyStep:
    layout = Layout(np.zeros(len(log_probs), dtype=np.int64), np.arange(len(log_probs)), CPU)
    return PolicyStep(
        layout, np.full(len(log_probs), at), torch.ones(len(log_probs)), log_probs.float(), log_probs, deep, None, False
    )


class Twin:
    """The formula, one row at a time, in plain numbers."""

    def __init__(self, settings: Lss) -> None:
        self.settings = settings
        self.memory: list[tuple[Any, int]] = []
        centred = WEIGHT.double() - WEIGHT.double().mean(0)
        unit = centred / centred.norm(dim=-1, keepdim=True)
        self.alike = ((unit @ unit.T - 0.5) / 0.5).clamp(min=0.0).numpy()

    def log_probs(self, p: Any, key: Any) -> Any:
        own = self.settings
        w = [math.exp(-(1 - float(key @ other)) / own.sigma) for other, _ in self.memory]
        weight = sum(w)
        moved = np.zeros(V)
        for z in range(V):
            n = sum(a * self.alike[z, token] for a, (_, token) in zip(w, self.memory, strict=True))
            m = weight * float(self.alike[z] @ p)
            factor = ((m + own.count) / (n + own.count)) ** own.strength
            moved[z] = p[z] * min(max(factor, math.exp(-own.limit)), math.exp(own.limit))
        return (1 - own.safe) * moved / moved.sum() + own.safe * p


@pytest.mark.parametrize(
    "settings",
    [
        lss(sigma=0.7, background=0.0),
        lss(2.0, sigma=0.4, background=0.0, safe=0.1),
        lss(8.0, sigma=1.0, background=0.0, limit=1.0),
    ],
    ids=str,
)
def test_each_draw_is_by_the_formula_given_all_before_it(settings: Lss) -> None:
    """Three rows a step over eight steps, in their random order: log-probabilities within 1e-5 of the twin's.

    Without the order within a step, with keys that are not normalised or with a sign flipped, this fails.
    """
    policy, twin = LssPolicy(settings, HEAD), Twin(settings)
    policy.open(77)
    generator = torch.Generator().manual_seed(0)
    num_moved, gained = 0, 0.0
    for at in range(8):
        deep = torch.randn(3, D, generator=generator)
        deep[1] = deep[0]
        log_probs = torch.randn(3, V, generator=generator).double().log_softmax(-1)
        log_probs[1] = log_probs[0]
        advice = policy.advise(rows(log_probs, deep, at))
        tokens = torch.randint(0, V, (3,), generator=generator)  # for the rows that draw plainly
        keys = torch.nn.functional.normalize(deep.double(), dim=-1)
        if advice is not None:
            tokens[advice.rows] = advice.tokens
            logq = dict(zip(advice.rows.tolist(), advice.logq.tolist(), strict=True))
        else:
            logq = {}
        past = list(twin.memory)
        for row in np.argsort(counters.random_bits(77, counters.ORDER, np.arange(3), at)).tolist():
            if row in logq:
                expected = twin.log_probs(log_probs[row].exp().numpy(), keys[row])
                assert logq[row] == pytest.approx(math.log(expected[tokens[row]]), abs=1e-5)
                gained += logq[row] - float(log_probs[row, tokens[row]])
                num_moved += abs(logq[row] - float(log_probs[row, tokens[row]])) > 0.01
                twin.memory.append((keys[row], int(tokens[row])))
        twin.memory = past + [(keys[row], int(tokens[row])) for row in range(3)]
        policy.took(tokens)
    assert num_moved > 8
    assert policy.close(0) == {
        "seen": 24.0,
        "guided": 24.0,
        "remembered": 24.0,
        "sigma": settings.sigma,
        "divergence_nats": pytest.approx(gained / 24, abs=1e-6),
    }


@pytest.mark.parametrize("offset", [0.0, 3.0, 10.0])
def test_contexts_that_all_seem_alike_are_told_apart(offset: float) -> None:
    """States of two rows a step over 40 steps, `offset` along one direction: the median earlier draw weighs at most a
    hundredth, a context that comes again as much as ever; and sigma stays where states are apart anyway."""
    wide = torch.randn(V, 64, generator=torch.Generator().manual_seed(3))
    policy = LssPolicy(lss(width=0), Head(wide))
    policy.open(5)
    generator = torch.Generator().manual_seed(1)
    log_probs = torch.randn(2, V, generator=generator).double().log_softmax(-1)
    deep = torch.zeros(2, 64)
    for at in range(40):
        deep = torch.randn(2, 64, generator=generator) + offset
        policy.advise(rows(log_probs, deep, at))
        policy.took(torch.tensor([0, 1]))
    layout, live = Layout(np.zeros(2, dtype=np.int64), np.arange(2), CPU), torch.tensor([0])
    weights, _ = policy._past(layout, live, policy.keys.unit(live, policy.keys.raw(layout, deep)))
    assert float(weights[0, 0, :-2].median()) < 0.015
    assert float(weights[0, 0, -2]) == pytest.approx(1.0, abs=0.01)  # itself, remembered
    sigma = policy.close(0)["sigma"]
    assert sigma == 0.05 if offset == 0.0 else sigma < 0.03


def test_the_second_sibling_avoids_what_the_first_took() -> None:
    """P13: one branch is taken; a sibling turns to the other, not to a synonym, and junk stays junk."""
    policy = LssPolicy(lss(), HEAD)
    policy.open(1)
    p = torch.full((1, V), 1e-6).double()
    p[0, 0] = p[0, 1] = 0.3  # two words for one branch
    p[0, 7] = 0.4
    log_probs, deep = p.log().log_softmax(-1), torch.ones(1, D)
    assert policy.advise(rows(log_probs, deep, 0)) is None  # nothing is known yet: plain
    policy.took(torch.tensor([0]))
    draws = []
    for _ in range(400):
        advice = policy.advise(rows(log_probs, deep, len(draws) + 1))
        assert advice is not None
        draws.append((int(advice.tokens), float(advice.logq)))
        policy._last = None  # looks again, with the same memory
    found = {token: math.exp(logq) for token, logq in draws}
    assert found[7] > 0.8
    assert max(found.get(0, 0.0), found.get(1, 0.0)) < 0.1
    assert set(found) <= {0, 1, 7}


def test_strength_zero_and_lag_without_a_memory_are_plain() -> None:
    for settings in (lss(0.0), lss(lag=True)):
        policy = LssPolicy(settings, HEAD)
        policy.open(0)
        log_probs = torch.zeros(4, V).double().log_softmax(-1)
        assert policy.advise(rows(log_probs, torch.ones(4, D), 0)) is None


def test_the_memory_drops_the_oldest() -> None:
    policy = LssPolicy(lss(memory=3, width=0), HEAD)
    policy.open(0)
    log_probs = torch.zeros(2, V).double().log_softmax(-1)
    for at in range(4):
        policy.advise(rows(log_probs, torch.full((2, D), float(at)), at))
        policy.took(torch.tensor([2 * at, 2 * at + 1]))
    assert sorted(policy.taken[0].tolist()) == [5, 6, 7]
    assert sorted(policy.memory[0, :, 0].tolist()) == [2.0, 3.0, 3.0]
    assert policy.close(0)["remembered"] == 3.0
    assert len(policy.memory) == 0


def test_tokens_that_are_cut_are_never_drawn_and_the_rest_is_reached() -> None:
    """Two candidates only, a third of the mass in the rest, a token that is cut: 4,000 draws."""
    policy = LssPolicy(lss(1.0, candidates=2), HEAD)
    p = torch.tensor([0.4, 0.27, 0.0, *([0.33 / 9] * 9)]).double()
    log_probs = p.log().expand(400, V)
    for seed in range(100):
        policy.open(seed)
    layout = Layout(np.arange(400) // 4, np.arange(400) % 4, CPU)
    counts = np.zeros(V, dtype=int)
    for at in range(10):
        every = PolicyStep(
            layout,
            np.full(400, at),
            torch.ones(400),
            log_probs.float(),
            log_probs,
            torch.ones(400, D) * (at + 1),
            None,
            True,
        )
        advice = policy.advise(every)
        assert advice is not None
        assert advice.logq is not None
        assert ((advice.logq > -20) & (advice.logq < 0)).all()
        counts += np.bincount(advice.tokens.numpy(), minlength=V)
        policy.took(advice.tokens[torch.argsort(advice.rows)])
    assert counts.sum() == 4000
    assert counts[2] == 0
    assert stats.chisquare(counts[3:]).pvalue > 1e-3  # the rest is drawn by the plain law


@pytest.mark.slow
def test_it_covers_more_and_lag_does_not(exact: Any) -> None:
    """36 groups of 16 against the closed form, 5.49: bounds are above four standard errors away from either side."""
    prompts = list(range(12)) * 3
    independent = independent_coverage(exact.world.weights, 16)
    sure, lag = (exact.scores(prompts, exact.decode(prompts, 16, s).tokens) for s in (lss(), lss(lag=True)))
    assert sure.coverage.mean() > independent + 0.9
    assert sure.valid > 0.97
    assert abs(lag.coverage.mean() - independent) < 0.6
