"""The bundled model on vLLM, over HTTP, against the same model in process: the same numbers, the same distribution."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Ask, Capability, Completion, Generate, Likelihood, Message, Sampling
from samplewise.engines.distribution import draw_log_probs
from samplewise.engines.http import http
from samplewise.engines.http.probe.prober import probe_endpoint
from samplewise.engines.http.transport.client import Client
from samplewise.recipe import recipe
from samplewise.runs.run import run_task
from samplewise.store.database import Store

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

PUZZLES = ["make 24 from 4 6 7 8", "make 24 from 3 5 7 9", "make 24 from 2 2 6 12"]
PROMPTS = [(Message("user", puzzle),) for puzzle in PUZZLES]


async def answers(engine: Any, asks: Sequence[Ask]) -> list[Completion]:
    """Return completions in the order of their asks."""
    found = {arrival.position: arrival.completion async for arrival in engine.answer(asks)}
    for completion in found.values():
        assert completion.failure is None, completion.failure
    return [found[position] for position in range(len(asks))]


def over_http(url: str, go: Any, **settings: Any) -> Any:
    """Return what `go(engine)` gives for an engine that speaks to the server."""

    async def main() -> Any:
        engine = http("tiny", base_url=url, **settings)
        try:
            await engine.open()
            return await go(engine)
        finally:
            await engine.close()

    return asyncio.run(main())


def in_process(asks: Sequence[Ask]) -> list[Completion]:
    async def main() -> list[Completion]:
        engine = build("engine", "tiny")
        try:
            return await answers(engine, asks)
        finally:
            await engine.close()

    return asyncio.run(main())


def metric(url: str, name: str) -> float:
    """Return one of the server's metrics, summed over its engines."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return sum(float(value) for value in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", text, re.MULTILINE))


def test_the_probe_finds_what_the_server_supports(url: str) -> None:
    async def main(api: Any) -> Any:
        client = Client(url)
        try:
            return await probe_endpoint(client, "tiny", api)
        finally:
            await client.close()

    before = metric(url, "generation_tokens_total")
    for api in ("chat", "completions"):
        found = asyncio.run(main(api))
        yes = ("n", "seed", "logprobs", "token_ids_out", "token_ids_in", "continues", "temperature", "usage")
        assert {name: getattr(found, name) for name in (*yes, "likelihood", "tokenize")} == dict.fromkeys(
            (*yes, "likelihood", "tokenize"), True
        )
        assert found.frozen_seed is False
        assert found.top_logprobs == 20
        assert found.refused == found.notes == ()
    assert metric(url, "generation_tokens_total") - before <= 2 * 200


def test_log_probs_agree_with_the_local_engine(url: str) -> None:
    """Same tokens, same log-probs, to 1e-3 nats in float32: those of draws, and those of given texts."""
    asks = [
        Generate(prompt, max_tokens=60, seed=seed, want=("tokens", "logp")) for prompt in PROMPTS for seed in range(8)
    ]
    for settings in ({}, {"n": "never"}):
        drawn = over_http(url, lambda engine: answers(engine, asks), **settings)
        assert len({completion.text for completion in drawn}) > 12
        scores = [Likelihood(ask.messages, c.tokens) for ask, c in zip(asks, drawn, strict=True)]
        for mine, other in zip(drawn, in_process(scores), strict=True):
            np.testing.assert_allclose(mine.logp, other.logp, atol=1e-3)
    again = over_http(url, lambda engine: answers(engine, scores))
    for mine, other in zip(again, drawn, strict=True):
        np.testing.assert_allclose(mine.logp, other.logp, atol=1e-3)


def test_the_first_token_follows_the_model_s_distribution(url: str) -> None:
    """Chi-square of 2,048 draws against the local engine's distribution, at temperatures 1 and 2.

    A correct server fails with probability 1e-6, and the seeds are fixed.
    """
    every = [Likelihood(PROMPTS[0], (token,)) for token in range(351)]
    logp = np.array([completion.logp_sum for completion in in_process(every)])
    for temperature, least in ((1.0, 3), (2.0, 8)):
        distribution = np.exp(logp / temperature) / np.exp(logp / temperature).sum()
        asks = [
            Generate(
                PROMPTS[0], max_tokens=1, seed=Key(1).fold(i).seed(), sampling=Sampling(temperature), want=("tokens",)
            )
            for i in range(2048)
        ]
        drawn = over_http(url, lambda engine, asks=asks: answers(engine, asks))
        counts = np.bincount([completion.tokens[0] for completion in drawn], minlength=351)
        assert counts.sum() == 2048
        expected = distribution * 2048
        order = np.argsort(expected)
        together = max(np.searchsorted(np.cumsum(expected[order]), 5.0) + 1, np.sum(expected < 5.0))
        rare = order[:together]  # one bin: in every bin 5 or more are due
        seen = np.append(np.delete(counts, rare), counts[rare].sum())
        due = np.append(np.delete(expected, rare), expected[rare].sum())
        assert len(due) >= least
        assert due.min() >= 5
        assert ((seen - due) ** 2 / due).sum() < chi2.isf(1e-6, len(due) - 1)


@pytest.mark.parametrize("prefix", [(), (40, 41)])
def test_logq_under_top_k_is_that_of_the_local_engine(url: str, prefix: tuple[int, ...]) -> None:
    """Through chat, and through completions with token ids: every token drawn, to 2e-3 nats over the temperature."""
    every = [Likelihood(PROMPTS[0], (*prefix, token)) for token in range(351)]
    logp = [completion.logp[-1] for completion in in_process(every)]
    for sampling in (Sampling(0.5, 10), Sampling(2.0, 19)):
        distribution = draw_log_probs(logp, sampling)
        ask = Generate(PROMPTS[0], prefix, sampling, 1, want=("tokens", "logp", "logq"))
        drawn = over_http(url, lambda engine, ask=ask: answers(engine, [ask._replace(seed=s) for s in range(64)]))
        assert len({completion.tokens for completion in drawn}) > 1
        for completion in drawn:
            assert completion.logq[0] == pytest.approx(
                distribution[completion.tokens[0]], abs=2e-3 / sampling.temperature
            )


def test_a_draw_with_its_own_seed_is_the_same_again(url: str) -> None:
    asks = [Generate(PROMPTS[0], max_tokens=40, seed=seed, want=("tokens",)) for seed in range(16)]

    async def twice(engine: Any) -> Any:
        assert Capability.SEED in engine.can
        return await answers(engine, asks), await answers(engine, asks[::-1])

    first, second = over_http(url, twice, n="never")
    assert [c.tokens for c in first] == [c.tokens for c in second[::-1]]
    assert len({c.tokens for c in first}) > 8


def test_a_prefix_of_token_ids_is_continued(url: str) -> None:
    """Greedy after half of a greedy response is its other half, and the local engine says the same."""
    greedy = Generate(PROMPTS[0], sampling=Sampling(0.0), max_tokens=40, want=("tokens", "logp"))

    async def halves(engine: Any) -> Any:
        assert Capability.PREFIX in engine.can
        (whole,) = await answers(engine, [greedy])
        half = len(whole.tokens) // 2
        (rest,) = await answers(engine, [greedy._replace(prefix=whole.tokens[:half])])
        return whole, half, rest

    whole, half, rest = over_http(url, halves)
    assert half > 3
    assert rest.tokens == whole.tokens[half:]
    np.testing.assert_allclose(rest.logp, whole.logp[half:], atol=1e-3)
    (local,) = in_process([greedy._replace(prefix=whole.tokens[:half])])
    assert local.tokens == rest.tokens


def test_a_small_game_of_24_from_end_to_end(url: str, tmp_path: Path) -> None:
    """Twenty puzzles, eight draws, a vote: about half are solved, none at all with probability about 1e-5.

    The second time the store answers.
    """
    task = build("task", "game24(limit=20)")

    async def go(engine: Any) -> Any:
        with Store(tmp_path / "s.db") as store:
            before = metric(url, "generation_tokens_total")
            first = await run_task(task, recipe("repeat(8, max_tokens=60) | vote"), engine, store, seed=1)
            served = metric(url, "generation_tokens_total") - before
            second = await run_task(task, recipe("repeat(8, max_tokens=60) | vote"), engine, store, seed=1)
        return first, second, served

    first, second, served = over_http(url, go)
    assert first.num_done == 20
    assert np.mean(first.accuracy) >= 0.05
    assert first.spent.requests == 160
    assert first.spent.completion_tokens == served, "what is billed is what the server drew"
    assert second.paid.tokens == 0
    assert np.array_equal(first.accuracy, second.accuracy)


def test_what_is_cancelled_is_aborted_on_the_server(url: str) -> None:
    """32 draws of 240 tokens take seconds; they are given up once the one of a single token is here."""
    short = Generate(PROMPTS[1], max_tokens=1, seed=1)
    long = [Generate(PROMPTS[0], max_tokens=240, seed=seed) for seed in range(32)]

    async def go(engine: Any) -> tuple[float, float]:
        await answers(engine, [short])  # whatever is made ready with the first request
        before = metric(url, "generation_tokens_total")
        stream = engine.answer([short, *long])
        arrival = await anext(stream)
        assert arrival.position == 0
        deadline = time.monotonic() + 5
        while (running := await asyncio.to_thread(metric, url, "num_requests_running")) == 0:
            assert time.monotonic() < deadline, "the long draws never ran"
        await stream.aclose()
        while await asyncio.to_thread(metric, url, "num_requests_running") > 0:
            assert time.monotonic() < deadline + 5, "draws go on after they were cancelled"
            await asyncio.sleep(0.05)
        return running, metric(url, "generation_tokens_total") - before

    running, drawn = over_http(url, go, extra={"ignore_eos": True})
    assert running > 0
    assert drawn < 32 * 240 / 2
