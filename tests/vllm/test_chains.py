"""Power sampling over plain HTTP: chains on a vLLM server, with what a step takes there."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest
from tests.vllm.test_vllm import PROMPTS, answers, in_process, metric, over_http

from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Capability, Generate, Likelihood, RejectionBound, Sampling
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.recipe import recipe
from samplewise.report.trace import describe_trace
from samplewise.samplers.power import summarize_chains

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def test_drafts_have_the_model_s_numbers_and_end_where_they_must(url: str) -> None:
    """Forbidden first tokens and bounds: the local engine's log-probs, to 1e-3 nats, and every finish by the rule."""
    greedy = in_process(
        [Generate(prompt, sampling=Sampling(0.0), max_tokens=1, want=("tokens",)) for prompt in PROMPTS]
    )
    likely = [completion.tokens[0] for completion in greedy]
    asks = [
        Generate(
            prompt,
            sampling=Sampling(0.5, 12),
            max_tokens=48,
            seed=seed,
            want=("tokens", "logp", "logq", "whole"),
            forbid_first=token if seed % 2 else None,
            reject_below=RejectionBound(2.0, -2.0 - seed),
        )
        for prompt, token in zip(PROMPTS, likely, strict=True)
        for seed in range(6)
    ]

    async def go(engine: Any) -> Any:
        assert Capability.REJECT_BELOW in engine.can
        before = metric(url, "generation_tokens_total")
        drafts = await answers(engine, asks)
        return drafts, await asyncio.to_thread(metric, url, "generation_tokens_total") - before

    drafts, served = over_http(url, go, n="never")
    assert sum(draft.usage.completion_tokens for draft in drafts) == served, "what is billed is what the server drew"
    assert {draft.finish for draft in drafts} >= {"rejected", "stop"}
    scores = in_process([Likelihood(ask.messages, draft.tokens) for ask, draft in zip(asks, drafts, strict=True)])
    for ask, draft, score in zip(asks, drafts, scores, strict=True):
        np.testing.assert_allclose(draft.logp, score.logp, atol=1e-3)
        assert not draft.tokens or draft.tokens[0] != ask.forbid_first
        sums = np.cumsum([2 * p - q for p, q in zip(draft.logp, draft.logq, strict=True)])
        assert ask.reject_below is not None
        assert all(sums[:-1] >= ask.reject_below.value)
        if draft.finish == "stop":
            assert sums[-1] >= ask.reject_below.value
            assert draft.text


def test_chains_over_plain_http(url: str) -> None:
    """Eight steps of four chains: everything is billed, and most steps take one request at most."""
    (problem,) = build("task", "game24(limit=1)").problems

    async def go(engine: Any) -> Any:
        before = metric(url, "generation_tokens_total"), metric(url, "request_success_total")
        line = recipe("power(4, 8, 4, max_tokens=48, top_k=12) | vote")
        result = await run_question(problem.question, line, RunContext(engine), Key(5), read=lambda _, text: text)
        after = metric(url, "generation_tokens_total"), metric(url, "request_success_total")
        return result, after[0] - before[0], after[1] - before[1]

    result, tokens, requests = over_http(url, go, n="never")
    report = summarize_chains(result.trace)
    print(*describe_trace(result.trace), sep="\n")
    assert report.steps == 32
    assert report.failed == result.pool.num_failed == 0
    assert (result.paid.completion_tokens, result.paid.requests) == (tokens, requests)
    assert report.acceptance is not None
    assert report.requests_per_step is not None
    assert report.requests_per_step < 2.5
    assert report.unused <= report.tokens
    ended = [candidate for candidate in result.pool.candidates if candidate.finish == "stop"]
    assert ended
    assert all("</s>" not in candidate.text and candidate.text for candidate in ended)
    assert all(math.isfinite(candidate.logp_sum) for candidate in result.pool.candidates)
