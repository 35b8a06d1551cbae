"""The controls that reshape the distribution of plain draws."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from samplewise.explore.base import Head, Layout, PolicyStep, entropies
from samplewise.explore.controls import Reshape, cold, hot, reshape, top_entropy, top_sigma
from samplewise.explore.controls.reshaping import ReshapePolicy, likeliest

CPU = torch.device("cpu")


def rows(logits: torch.Tensor, size: int, at: int = 0) -> PolicyStep:
    num, log_probs = len(logits), logits.double().log_softmax(-1)
    layout = Layout(np.arange(num) // size, np.arange(num) % size, CPU)
    return PolicyStep(layout, np.full(num, at), torch.ones(num), logits, log_probs, torch.zeros(num, 2), None, False)


LOGITS = 2 * torch.randn(3, 9, generator=torch.Generator().manual_seed(0))
HEAD = Head(torch.zeros(9, 2))


def log_probs_of(settings: Reshape) -> torch.Tensor:
    policy = ReshapePolicy(settings, HEAD)
    policy.open(0)
    advice = policy.advise(rows(LOGITS, 3))
    assert advice is not None
    assert advice.log_probs is not None
    return advice.log_probs


def test_heat_is_temperature() -> None:
    for settings in (hot(1.5), cold(0.5)):
        direct = (LOGITS.double() / settings.heat).log_softmax(-1)
        torch.testing.assert_close(log_probs_of(settings), direct, rtol=0, atol=1e-12)


def test_top_sigma_keeps_what_is_near_the_highest_logit() -> None:
    log_probs = log_probs_of(top_sigma(1.0)).exp().numpy()
    for row, logits in zip(log_probs, LOGITS.double().numpy(), strict=True):
        assert ((row > 0) == (logits >= logits.max() - logits.std())).all()


@given(st.integers(0, 10_000), st.floats(0.05, 0.999))
def test_top_entropy_is_the_longest_run_of_likely_tokens_within_the_bound(seed: int, share: float) -> None:
    log_probs = (2 * torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))).double().log_softmax(-1)
    kept = likeliest(log_probs, share)[0].numpy()
    p = log_probs[0].exp().numpy()
    order, bound = np.argsort(-p), share * float(entropies(log_probs)[0])
    num = 1
    while num < 8 and stats.entropy(p[order[: num + 1]]) <= bound + 1e-12:
        num += 1
    assert set(np.flatnonzero(kept)) == set(order[:num])
    assert (log_probs_of(top_entropy(share)).exp().sum(-1) - 1).abs().max() < 1e-12


def test_no_change_is_no_advice() -> None:
    policy = ReshapePolicy(reshape(), HEAD)
    policy.open(0)
    assert policy.advise(rows(LOGITS, 3)) is None
    assert policy.close(0) == {"seen": 3.0}
