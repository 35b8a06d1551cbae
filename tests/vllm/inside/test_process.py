"""The engine core in a process of its own, which is the form that users get, against the local engine."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import psutil
import pytest
from tests.vllm.inside.asks import ASKS, CONSENSUS, GROUPS, PLAIN, POLICIES, POWER, SPEC

from samplewise.core.registry import build

from .conftest import Run, answers
from .test_inside import assert_same

pytestmark = [
    *(pytest.mark.vllm, pytest.mark.slow),
    # vLLM leaves a context of ZeroMQ to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_the_process_form_draws_the_same_and_ends(run: Run, local: Any, expected: list[Any]) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    async def go() -> None:
        engine = build("engine", SPEC.format(more="").replace("in_process=True, ", ""))
        await engine.open()
        await engine.open()  # a second time it does nothing
        try:
            assert engine.runtime()["engine core"] == "in a process of its own"
            assert_same(await answers(engine, [*PLAIN, *POWER]), expected[: len(PLAIN) + len(POWER)])
            stream = engine.answer([PLAIN[0]._replace(max_tokens=1), *(ask._replace(seed=5) for ask in PLAIN * 3)])
            await anext(stream)
            await stream.aclose()
            await asyncio.gather(*engine._background)
            answered = await answers(engine, CONSENSUS[0])
            assert_same(answered, await answers(local, CONSENSUS[0]))
            groups = await answers(engine, GROUPS)
            reports = {c.explored["policy"]: c.explored for c in groups if c.explored}
            assert sorted(reports) == sorted(POLICIES)
            for ask, one, other in zip(GROUPS, groups, expected[len(PLAIN) + len(POWER) :], strict=True):
                assert one.failure is None
                if reports[ask.sampling.explore]["together"]:  # else it may be another draw of the same distribution
                    assert one.tokens == other.tokens
        finally:
            await engine.close()

    run(go())
    gc.collect()
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in left if psutil.pid_exists(pid)], timeout=30)
    # Python's own tracker of shared memory stays for as long as this process does.
    assert not [child for child in alive if "resource_tracker" not in " ".join(child.cmdline())]
    assert len(ASKS) == 59
