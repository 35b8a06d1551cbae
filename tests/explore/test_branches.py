"""The branching-paths world, and the contract on a real Llama: the taps hang where they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training.branches import world as branches
from training.branches.decode import decode, head_of, plain_law
from training.branches.train import build, train

from samplewise.core.errors import SetupError
from samplewise.explore.settings import css, esamp, lss


@pytest.fixture(scope="module")
def model() -> Any:
    made = build(0)
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(4.0 if weight.ndim > 1 else 1.0)
    return made.train(False)


@given(st.integers(0, 1000))
def test_paths_are_different_and_weighted_as_published(seed: int) -> None:
    place = branches.world(seed)
    assert all(len({tuple(path) for path in paths.tolist()}) == branches.PATHS for paths in place.paths)
    assert np.round(place.weights, 3).tolist() == [0.459, 0.186, 0.11, 0.076, 0.057, 0.045, 0.037, 0.031]
    tokens = branches.rows(place, np.random.default_rng(seed), 50)
    for row in tokens:
        assert branches.paths_of(place, int(row[0]), row[None, 1:])[0] >= 0
    assert branches.paths_of(place, 0, np.zeros((1, branches.LENGTH), dtype=np.int64)).tolist() == [-1]


def test_independent_coverage_is_the_published_constant() -> None:
    weights = branches.world(0).weights
    assert branches.independent_coverage(weights, 16) == pytest.approx(5.493, abs=5e-4)
    assert branches.independent_coverage(weights, 8) == pytest.approx(4.033, abs=5e-4)


@pytest.mark.parametrize("settings", [esamp(1.0, width=16), lss(), css()], ids=str)
def test_states_are_what_the_model_itself_computes(model: Any, settings: Any) -> None:
    """P15: head(deep) gives the logits of every row, and shallow is the first block's output, by a pass of its own."""
    steps: list[Any] = []
    found = decode(model, [0, 1], 3, 4, settings, seed=2, watch=steps.append)
    assert {report.problem for report in found.reports} == {""}
    ids = torch.cat([torch.tensor([0, 1])[:, None, None].expand(2, 3, 1), found.tokens], dim=-1).view(6, -1)
    with torch.no_grad():
        whole = model(input_ids=ids[:, :-1], output_hidden_states=True, use_cache=False)
    head = head_of(model)
    for at, step in enumerate(steps):
        torch.testing.assert_close(head(step.deep), step.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(step.logits, whole.logits[:, at], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(step.shallow, whole.hidden_states[1][:, at], rtol=1e-3, atol=1e-3)
        with pytest.raises(SetupError):
            head.check(step.shallow, step.logits)
    logp = whole.logits.double().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(found.logp.view(6, -1), logp, rtol=0, atol=1e-4)


def test_logq_is_that_of_the_law_drawn_from(model: Any) -> None:
    """Plain draws at temperature .7 with min-p, re-read from the model."""
    found = decode(model, [0, 3], 4, 5, None, seed=4, temperature=0.7, min_p=0.1)
    ids = torch.cat([torch.tensor([0, 3])[:, None, None].expand(2, 4, 1), found.tokens], dim=-1).view(8, -1)
    with torch.no_grad():
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    log_probs = plain_law(logits.flatten(0, 1), 0.7, 0.1).view(8, 5, -1)
    logq = log_probs.gather(2, ids[:, 1:, None])[..., 0]
    torch.testing.assert_close(found.logq.view(8, -1), logq, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_training_learns_the_world() -> None:
    """Sixty batches: well on the way from ln 102 = 4.62, and twice the same."""
    torch.set_num_threads(1)
    (_, first), (_, again) = train(3, 60, quiet=True), train(3, 60, quiet=True)
    assert first < 4.4
    assert first == again
