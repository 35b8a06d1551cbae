"""vLLM inside this process. Runs in .venv-vllm (make test-vllm), and is skipped elsewhere."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import pytest

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; the model needs a few MB
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "HF_HUB_OFFLINE": "1",
}
os.environ.update({name: value for name, value in ENVIRONMENT.items() if name not in os.environ})

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm runs these tests where it is")

from tests.vllm.inside.asks import ASKS, SPEC  # noqa: E402

from samplewise.core.registry import build  # noqa: E402
from samplewise.core.types import Ask, Completion  # noqa: E402


async def answers(engine: Any, asks: Sequence[Ask]) -> list[Completion]:
    """Return completions in the order of their asks."""
    found = {arrival.position: arrival.completion async for arrival in engine.answer(asks)}
    return [found[position] for position in range(len(asks))]


Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """Run a coroutine in the loop that all engines of the session live in."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture(scope="session")
def local(run: Run) -> Iterator[Any]:
    engine = build("engine", "tiny")
    yield engine
    run(engine.close())


@pytest.fixture(scope="session")
def expected(run: Run, local: Any) -> list[Completion]:
    """What the local engine draws for ASKS."""
    drawn: list[Completion] = run(answers(local, ASKS))
    assert not any(completion.failure for completion in drawn)
    return drawn


@pytest.fixture(scope="session")
def engine(run: Run) -> Iterator[Any]:
    opened = build("engine", SPEC.format(more=""))
    run(opened.open())
    yield opened
    run(opened.close())


@pytest.fixture(scope="session")
def narrow(run: Run) -> Iterator[Any]:
    """Return an engine with so little room that prompts are computed in pieces and rows are preempted."""
    more = ", block_size=32, max_num_batched_tokens=16, max_num_seqs=12, num_gpu_blocks_override=10"
    opened = build("engine", SPEC.format(more=more))
    run(opened.open())
    yield opened
    run(opened.close())
