"""A real language model inside vLLM against the local engine, in float32. Skipped where the model is absent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.real.fetch import is_whole, model_folder
from tests.vllm.inside.asks import WANT

from samplewise.core.registry import build
from samplewise.core.types import Generate, Likelihood, Message, Sampling

from .conftest import Run, answers

pytestmark = [
    *(pytest.mark.vllm, pytest.mark.slow),
    pytest.mark.skipif(not is_whole(model_folder()), reason="there is no real model here: make test-real fetches one"),
]

TOLERANCE = 1e-4  # nats
TEXTS = ("What is 17 + 26?", "Name three rivers of Europe.")
PROMPTS = [(Message("user", text),) for text in TEXTS]
SAMPLINGS = (Sampling(), Sampling(0.25), Sampling(1.0, top_p=0.9), Sampling(1.3, top_k=20), Sampling(0.0))
CUE = "consensus(start=',', answer_tokens=8)"


def group(explore: str, seed: int, size: int = 4) -> list[Generate]:
    ask = Generate(PROMPTS[1], max_tokens=20, want=WANT, sampling=Sampling(explore=explore), group=explore)
    return [ask._replace(seed=seed + i, group_size=size, draw=i) for i in range(size)]


ASKS = [
    *(
        Generate(prompt, max_tokens=20, seed=10 * i + k, want=WANT, sampling=sampling)
        for i, prompt in enumerate(PROMPTS)
        for k, sampling in enumerate(SAMPLINGS)
    ),
    *group("css", 30),
    *group("esamp(learner='ridge')", 50),
    *group(CUE, 40),
]


@pytest.fixture(scope="module")
def engines(run: Run) -> Iterator[tuple[Any, Any]]:
    folder = str(model_folder())
    inside = build("engine", f"vllm({folder!r}, in_process=True, max_model_len=256, enforce_eager=True)")
    local = build("engine", f"local({folder!r}, device='cpu')")
    run(inside.open())
    yield inside, local
    run(inside.close())
    run(local.close())


def test_a_real_model_draws_the_same_in_vllm(run: Run, engines: tuple[Any, Any]) -> None:
    """Logits are rounded otherwise, so that a draw at the very edge between two tokens may flip: one may, here none."""
    inside, local = engines
    assert inside.can == local.can
    mine, theirs = run(answers(inside, ASKS)), run(answers(local, ASKS))
    assert not any(completion.failure for completion in (*mine, *theirs))
    same = [one.tokens == other.tokens for one, other in zip(mine, theirs, strict=True)]
    assert same.count(False) <= 1
    for is_same, one, other in zip(same, mine, theirs, strict=True):
        if is_same:
            assert (one.text, one.finish, one.usage) == (other.text, other.finish, other.usage)
            np.testing.assert_allclose(one.logp, other.logp, atol=TOLERANCE)
            np.testing.assert_allclose(one.logq, other.logq, atol=TOLERANCE)
    scores = run(answers(local, [Likelihood(ask.messages, c.tokens) for ask, c in zip(ASKS, mine, strict=True)]))
    for one, other in zip(mine, scores, strict=True):
        np.testing.assert_allclose(one.logp, other.logp, atol=TOLERANCE)
    reports = {c.explored["policy"]: c.explored for c in mine if c.explored}
    assert {policy: report["problem"] for policy, report in reports.items()} == dict.fromkeys(reports, "")
    assert reports[CUE]["numbers"]["members"] > 1
