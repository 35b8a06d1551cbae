"""The engine `vllm(url)` on a server of `samplewise vllm`, against the local engine: whole asks, groups, chains."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest
from tests.vllm.inside.asks import CONSENSUS, GROUPS, PLAIN, POLICIES, POWER, PROMPTS, WANT, group
from tests.vllm.test_vllm import answers, in_process, metric

from samplewise.cli import main
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Completion, Generate, Likelihood, Sampling
from samplewise.engines.vllm import wire
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.recipe import recipe

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

T = TypeVar("T")
TOLERANCE = 1e-4  # nats


def over_route(url: str, go: Callable[[Any], Awaitable[T]]) -> T:
    async def work() -> T:
        engine = build("engine", f"vllm({url!r})")
        try:
            await engine.open()
            return await go(engine)
        finally:
            await engine.close()

    return asyncio.run(work())


def assert_same(mine: Sequence[Completion], theirs: Sequence[Completion]) -> None:
    for one, other in zip(mine, theirs, strict=True):
        assert (one.tokens, one.finish, one.text) == (other.tokens, other.finish, other.text)
        assert one.usage._replace(seconds=0.0) == other.usage._replace(seconds=0.0)
        for array in ("logp", "logq", "certainty", "logz"):
            if getattr(other, array) is not None:
                np.testing.assert_allclose(getattr(one, array), getattr(other, array), atol=TOLERANCE, err_msg=array)


def test_whole_asks_have_the_tokens_of_the_local_engine(url: str) -> None:
    """Draws of every distribution, drafts with a bound or a forbidden token, statistics, stops and likelihoods."""
    expected = in_process([*PLAIN, *POWER])
    tokens, text = expected[0].tokens or (), expected[0].text
    want = (*WANT, "logz", "certainty", "whole")
    others = [
        Generate(PROMPTS[0], tokens[:4], Sampling(0.7, 8, 0.9, 0.01), 20, seed=4, want=want, exponents=(2.0, 0.5)),
        Generate(PROMPTS[0], max_tokens=50, seed=100, want=WANT, stop=(text[12:16],)),
        Generate(PROMPTS[0], max_tokens=10**6, seed=2, want=WANT, sampling=Sampling(0.001)),
        Likelihood(PROMPTS[0], tokens),
    ]
    asks = [*PLAIN, *POWER, *others]
    mine = over_route(url, lambda engine: answers(engine, asks))
    assert_same(mine, [*expected, *in_process(others)])
    assert {"stop", "rejected"} <= {completion.finish for completion in mine}


def test_groups_explore_over_the_wire(url: str) -> None:
    """The local engine's tokens where the group ran together; whatever the schedule, logp is the model's own."""
    mine, theirs = over_route(url, lambda engine: answers(engine, GROUPS)), in_process(GROUPS)
    reports = {c.explored["policy"]: c.explored for c in mine if c.explored}
    assert sorted(reports) == sorted(POLICIES)
    assert not any(report["problem"] for report in reports.values())
    for ask, one, other in zip(GROUPS, mine, theirs, strict=True):
        if reports[ask.sampling.explore]["together"]:
            assert one.tokens == other.tokens
    scores = in_process([Likelihood(ask.messages, c.tokens or ()) for ask, c in zip(GROUPS, mine, strict=True)])
    for one, other in zip(mine, scores, strict=True):
        np.testing.assert_allclose(one.logp, other.logp, atol=TOLERANCE)


def test_groups_answer_together_over_the_wire(url: str) -> None:
    """Draws that wait for one another, in vLLM behind its server: always the local engine's tokens."""
    asks = [ask for group in CONSENSUS for ask in group]
    mine, theirs = over_route(url, lambda engine: answers(engine, asks)), in_process(asks)
    assert_same(mine, theirs)
    members = [
        {c.explored["policy"]: c.explored["numbers"]["members"] for c in drawn if c.explored}
        for drawn in (mine, theirs)
    ]
    assert members[0] == members[1]


def test_two_clients_may_have_groups_of_one_name(url: str) -> None:
    async def go(one: Any) -> None:
        async def other() -> list[Completion]:
            engine = build("engine", f"vllm({url!r})")
            await engine.open()
            try:
                return await answers(engine, group("css", "same", 900, size=4))
            finally:
                await engine.close()

        mine, theirs = await asyncio.gather(answers(one, group("css", "same", 900, size=4)), other())
        for drawn in (mine, theirs):
            assert sum(completion.explored is not None for completion in drawn) == 1

    over_route(url, go)


def test_closing_the_connection_frees_the_server(url: str) -> None:
    """What is cancelled ends in vLLM, and its rows in the worker: a group of the same name begins anew."""
    long = [ask._replace(max_tokens=240, stop=(), sampling=Sampling(3.0)) for ask in PLAIN * 4]
    asks = [
        PLAIN[0]._replace(max_tokens=1),
        *group("css", "cut", 900),
        *(a._replace(seed=i) for i, a in enumerate(long)),
    ]

    async def go(engine: Any) -> None:
        stream = engine.answer(asks)
        await anext(stream)
        assert await asyncio.to_thread(metric, url, "num_requests_running") > 0
        await stream.aclose()
        deadline = time.monotonic() + 20
        while await asyncio.to_thread(metric, url, "num_requests_running"):
            assert time.monotonic() < deadline, "vLLM goes on drawing for nobody"
            await asyncio.sleep(0.1)
        before = await asyncio.to_thread(metric, url, "generation_tokens_total")
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(metric, url, "generation_tokens_total") == before
        assert engine.may_bill(asks[-1])
        again = await answers(engine, group("css", "cut", 900))
        assert sum(completion.explored is not None for completion in again) == 1

    over_route(url, go)


def test_power_runs_over_the_route_as_it_does_locally(url: str) -> None:
    """The same chains, draft by draft: a bound, a forbidden token and a prefix in each."""
    (problem,) = build("task", "game24(limit=1)").problems
    line = recipe("power(4, 4, 4, max_tokens=48) | vote")

    async def go(engine: Any) -> Any:
        result = await run_question(problem.question, line, RunContext(engine), Key(5), read=lambda _, text: text)
        assert result.pool.num_failed == 0
        return result

    async def locally() -> Any:
        engine = build("engine", "tiny")
        try:
            return await go(engine)
        finally:
            await engine.close()

    before = metric(url, "generation_tokens_total")
    mine, theirs = over_route(url, go), asyncio.run(locally())
    assert [c.text for c in mine.pool.candidates] == [c.text for c in theirs.pool.candidates]
    assert mine.paid.tokens == theirs.paid.tokens
    assert metric(url, "generation_tokens_total") - before >= mine.paid.completion_tokens


def test_doctor_says_what_the_server_runs(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["samplewise", "doctor", "--engine", f"vllm({url!r})", "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (0, None)
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    local = build("engine", "tiny")
    assert printed["can"] == sorted(local.can)
    assert printed["identity"] == local.identity.replace("local:", "vllm:", 1)
    assert printed["runtime"]["exploring"] == "yes"
    assert printed["runtime"]["server"] == f"{url}, wire format {wire.WIRE}"
    assert "0.32.0" in printed["runtime"]["tested"]


def test_a_server_of_recipes_stands_in_front(url: str) -> None:
    """`samplewise serve` over the route, and vLLM's own chat beside it."""
    command = [sys.executable, "-m", "samplewise", "serve", "--engine", f"vllm({url!r})", "--port", "0", "--no-log"]
    command += ["--preset", "fast=repeat(4, max_tokens=48) | vote"]
    front = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert front.stdout is not None
        line = next(line for line in front.stdout if line.startswith("serving"))
        for base, model in ((line.split()[-1], "fast@vllm"), (url, "tiny")):
            body = {"model": model, "messages": [{"role": "user", "content": "make 24 from 4 6 7 8"}], "max_tokens": 48}
            request = urllib.request.Request(
                f"{base}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                answer = json.load(reply)
            assert answer["choices"][0]["message"]["content"]
    finally:
        front.terminate()
        front.communicate(timeout=30)


@pytest.mark.parametrize("template", [{"chat_template": "{{ messages }}"}])
def test_a_client_s_chat_template_is_refused(url: str, template: dict[str, str]) -> None:
    async def go() -> None:
        engine = build("engine", f"vllm({url!r}, template={template!r})")
        try:
            with pytest.raises(Exception, match=r"takes no chat templates from clients.*--trust-request-chat-template"):
                await engine.open()
        finally:
            await engine.close()

    asyncio.run(go())
