"""Arithmetic sampling: codes, decoding, and the spread of draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from samplewise.explore.arithmetic import ArithmeticPolicy, decode_codes, stratified_codes
from samplewise.explore.base import Head, Layout, PolicyStep
from samplewise.explore.settings import Arithmetic

CPU = torch.device("cpu")


def rows(logits: torch.Tensor, size: int, at: int = 0) -> PolicyStep:
    num, log_probs = len(logits), logits.double().log_softmax(-1)
    layout = Layout(np.arange(num) // size, np.arange(num) % size, CPU)
    return PolicyStep(layout, np.full(num, at), torch.ones(num), logits, log_probs, torch.zeros(num, 2), None, False)


def test_codes_are_one_in_each_stratum() -> None:
    for num in (2, 16, 64):
        assert sorted((stratified_codes(5, np.arange(num)) * num).astype(int).tolist()) == list(range(num))
    finer = (stratified_codes(5, np.arange(4096)) * 4096 * 10 % 10).astype(int)  # the digit after the strata
    assert stats.chisquare(np.bincount(finer, minlength=10)).pvalue > 1e-3
    firsts = np.array([stratified_codes(seed, np.array([3]))[0] for seed in range(150)])
    assert stats.kstest(firsts, "uniform").pvalue > 1e-3
    assert stratified_codes(5, np.array([7]))[0] == stratified_codes(5, np.arange(8))[7]


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_reading_a_code_inverts_the_distribution_function(seed: int, code: float) -> None:
    log_probs = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed)).double().log_softmax(-1)
    tokens, inside = decode_codes(log_probs, torch.tensor([code], dtype=torch.float64))
    below = float(log_probs[0, : int(tokens)].exp().sum())
    assert below + float(inside) * float(log_probs[0, int(tokens)].exp()) == pytest.approx(code, abs=1e-9)
    assert 0 <= float(inside) < 1


def test_sixteen_samples_of_two_tokens_are_spread_over_the_pairs_and_each_has_its_law() -> None:
    """Two steps with laws that depend on the first token: of 16 samples, a pair has within 2 of what it is due,
    since an interval has two ends; and over the groups sample 0 has the plain law (chi-square, 1e-3)."""
    first = torch.tensor([0.5, 0.25, 0.25]).log()
    second = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [0.6, 0.2, 0.2]]).log()
    policy, groups = ArithmeticPolicy(Arithmetic(), Head(torch.zeros(8, 2))), 200
    for seed in range(groups):
        policy.open(seed)
    drawn = []
    logits = first.expand(groups * 16, 3)
    for at in range(2):
        advice = policy.advise(rows(logits, 16, at))
        assert advice is not None
        assert advice.tokens is not None
        assert advice.logq is not None
        torch.testing.assert_close(advice.logq, logits.double().log_softmax(-1).gather(1, advice.tokens[:, None])[:, 0])
        drawn.append(advice.tokens)
        logits = second[advice.tokens]
    pairs = (3 * drawn[0] + drawn[1]).view(groups, 16).numpy()
    due = (first.exp()[:, None] * second.exp()).flatten().double().numpy()
    for pair in range(9):
        counts = (pairs == pair).sum(1)
        assert np.abs(counts - 16 * due[pair]).max() < 2
    assert stats.chisquare(np.bincount(pairs[:, 0], minlength=9), due / due.sum() * groups).pvalue > 1e-3


def test_a_code_that_is_used_up_goes_on_with_fresh_bits() -> None:
    """Forty steps of ln 8 nats each: a code that is not renewed ends in rounded digits, and all samples alike."""
    policy = ArithmeticPolicy(Arithmetic(), Head(torch.zeros(8, 2)))
    policy.open(0)
    logits, last = torch.zeros(512, 8), []
    for at in range(40):
        advice = policy.advise(rows(logits, 512, at))
        assert advice is not None
        assert advice.tokens is not None
        last.append(np.bincount(advice.tokens.numpy(), minlength=8))
    assert all(stats.chisquare(counts).pvalue > 1e-5 for counts in last)
    assert policy.close(0) == {"samples": 512.0}
    assert not policy.codes
