"""The law in torch against the law in numpy (engines/law.py)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from samplewise.engines.law import draw_law, draw_token  # noqa: E402
from samplewise.engines.local import sample  # noqa: E402
from samplewise.keys import Key  # noqa: E402
from samplewise.numerics import log_softmax  # noqa: E402
from samplewise.types import Sampling  # noqa: E402

SAMPLINGS = [
    Sampling(temperature, top_k, top_p, min_p)
    for temperature, top_k, top_p, min_p in itertools.product(
        (0.0, 0.25, 1.0, 1.7), (0, 1, 3, 1000), (1.0, 0.9, 0.3, 1e-6), (0.0, 0.05, 0.6)
    )
]


def filters(samplings: list[Sampling], **flags: bool) -> Any:
    lines = torch.tensor([sampling[:4] for sampling in samplings], dtype=torch.float64)
    return sample.Filters(lines[:, 0], lines[:, 1].long(), lines[:, 2], lines[:, 3], **flags)


def logits(rows: int, vocab: int = 23, ties: bool = False) -> Any:
    values = 3 * Key(5).fold(rows, int(ties)).generator().normal(size=(rows, vocab))
    return torch.from_numpy(np.round(values) if ties else values).float()


@pytest.mark.parametrize("ties", [False, True])
def test_each_row_has_the_law_of_its_own_sampling(ties: bool) -> None:
    """All samplings in one batch: a row's law must not leak into its neighbour's, and ties go to the lowest id."""
    scores = logits(len(SAMPLINGS), ties=ties)
    laws = sample.log_law(sample.log_probs(scores), filters(SAMPLINGS)).numpy()
    for line, law, sampling in zip(scores.double().numpy(), laws, SAMPLINGS, strict=True):
        wanted = draw_law(log_softmax(line), sampling)
        assert np.array_equal(np.isfinite(law), np.isfinite(wanted)), sampling
        np.testing.assert_allclose(np.exp(law), np.exp(wanted), atol=1e-12, err_msg=str(sampling))


@pytest.mark.parametrize("sampling", SAMPLINGS[::7])
def test_flags_only_skip_work(sampling: Sampling) -> None:
    flags = {
        "tempered": sampling.temperature != 1,
        "greedy": sampling.temperature == 0,
        "ranked": sampling.top_k > 0 or sampling.top_p < 1,
        "cut": sampling.min_p > 0,
    }
    logp = sample.log_probs(logits(4))
    few, all_ = (sample.log_law(logp, filters([sampling] * 4, **some)) for some in (flags, {}))
    torch.testing.assert_close(few, all_, atol=1e-12, rtol=0)


def test_a_uniform_picks_the_token_that_the_reference_picks() -> None:
    rows = 400
    samplings = [SAMPLINGS[i % len(SAMPLINGS)] for i in range(rows)]
    scores = logits(rows)
    uniforms = Key(1).generator().random(rows)
    uniforms[:3] = 0.0, np.nextafter(1.0, 0.0), 0.5
    drawn = sample.draw(scores, filters(samplings), torch.from_numpy(uniforms), None, None)
    for i, (sampling, uniform) in enumerate(zip(samplings, uniforms, strict=True)):
        logp = log_softmax(scores[i].double().numpy())
        law = draw_law(logp, sampling)
        token = draw_token(law, uniform)
        assert int(drawn.tokens[i]) == token
        assert float(drawn.logp[i]) == pytest.approx(logp[token], abs=1e-12)
        assert float(drawn.logq[i]) == pytest.approx(law[token], abs=1e-12)  # after the filter, not before it


def test_a_ban_leaves_logq_as_it_was() -> None:
    """The samplers' ratios need the unconditioned logq: a law renormalised without the banned token is wrong."""
    scores = logits(1)
    logp = log_softmax(scores[0].double().numpy())
    best = int(logp.argmax())
    num = 2000
    uniforms = torch.from_numpy(Key(2).generator().random(num))
    pick, banned = torch.zeros(num, dtype=torch.int64), torch.full((num,), best)
    drawn = sample.draw(scores, filters([Sampling()] * num), uniforms, pick, banned)
    tokens = drawn.tokens.numpy()
    assert best not in tokens
    assert not drawn.stuck.any()
    np.testing.assert_allclose(drawn.logq.numpy(), logp[tokens], atol=1e-12)
    allowed = logp.copy()
    allowed[best] = -np.inf
    assert tokens.tolist() == [draw_token(allowed, u) for u in uniforms.numpy()]


def test_a_row_whose_only_token_is_banned_is_stuck() -> None:
    scores = logits(2)
    best = scores.argmax(-1)
    drawn = sample.draw(scores, filters([Sampling(0.0), Sampling()]), torch.tensor([0.3, 0.3]).double(), None, best)
    assert drawn.stuck.tolist() == [True, False]


def test_rows_are_worked_off_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, uniforms = logits(9), torch.from_numpy(Key(3).generator().random(40))
    pick = torch.arange(40) % 9
    banned = torch.where(pick == 2, 4, -1)
    wanted = filters([SAMPLINGS[i * 3] for i in range(40)])
    whole = sample.draw(scores, wanted, uniforms, pick, banned)
    monkeypatch.setattr(sample, "SCRATCH_BYTES", 8 * 4 * 23 * 7)  # seven rows at a time
    parts = sample.draw(scores, wanted, uniforms, pick, banned)
    for a, b in zip(whole, parts, strict=True):
        assert torch.equal(a, b)


def test_the_tail_of_a_large_vocabulary_is_drawn_as_often_as_logq_says() -> None:
    """A float32 running sum over 100,000 tokens is off by more than the mass of the last ones.

    Here the last token has mass 1e-5 and is hit by uniforms in [1 - 1e-5, 1) exactly."""
    vocab = 100_000
    scores = torch.zeros(1, vocab)
    edge = 1 - 1 / vocab
    uniforms = torch.tensor([edge + 1e-9, edge - 1e-9], dtype=torch.float64)
    drawn = sample.draw(scores, filters([Sampling()] * 2), uniforms, torch.zeros(2, dtype=torch.int64), None)
    assert drawn.tokens.tolist() == [vocab - 1, vocab - 2]
