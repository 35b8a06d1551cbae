"""The real model of these tests, loaded once: SmolLM2-135M-Instruct in float32, on the CPU. See fetch.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.real.fetch import is_whole, model_folder

torch = pytest.importorskip("torch", reason="the local engine's extra is not installed")

from samplewise.core.types import Ask, Completion  # noqa: E402
from samplewise.engines.local import local  # noqa: E402


@pytest.fixture(scope="session")
def folder() -> Path:
    found = model_folder()
    if not is_whole(found):
        pytest.skip("there is no real model here: make test-real fetches one where it can")
    return found


@pytest.fixture(scope="session")
def engine(folder: Path) -> Iterator[Any]:
    """The engine of the model, for all tests; each leaves it as it was."""
    made = local(str(folder), device="cpu")
    yield made
    asyncio.run(made.close())


Answer = Callable[[Sequence[Ask]], list[Completion]]


@pytest.fixture(scope="session")
def answer(engine: Any) -> Answer:
    """Return the completions of asks, in their order."""

    def answers(asks: Sequence[Ask]) -> list[Completion]:
        async def collect() -> list[Completion]:
            got = {arrival.position: arrival.completion async for arrival in engine.answer(asks)}
            return [got[i] for i in range(len(asks))]

        return asyncio.run(collect())

    return answers


@pytest.fixture(scope="session")
def plain(engine: Any) -> Callable[[Sequence[int]], Any]:
    """Return log-probabilities (T, V) after each of some token ids, from a plain forward pass of `transformers`."""
    model = engine.checkpoint.model

    def log_probs(ids: Sequence[int]) -> Any:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
        return torch.log_softmax(logits.double(), -1)

    return log_probs


@pytest.fixture(scope="session")
def tolerance() -> float:
    """Return how far (nats) log-probabilities of the engine may be from a plain pass: the rounding of float32."""
    return 2e-4
