"""What endpoints send of reasoning: in fields, in parts, in streams, in the text; closed, cut off, or opened unseen."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from tests.support.script import Script, reply

from samplewise.core.types import Completion, Generate, Message
from samplewise.engines.http import http
from samplewise.engines.http.dialect.replies import parse_reply
from samplewise.engines.http.engine import HttpEngine
from samplewise.engines.http.transport.stream import StreamAssembler
from samplewise.testing.endpoint import Endpoint, EndpointSettings

ASK = Generate((Message("user", "17 * 23?"),), max_tokens=64)

MESSAGES = (
    {"content": "391", "reasoning": "so 391"},
    {"content": "391", "reasoning_content": "so 391"},
    {"content": "391", "reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "so 391"}]},
    {"content": "391", "reasoning_details": [{"type": "reasoning.summary", "summary": "so 391"}, {"type": "x"}]},
    {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "so 391"}]},
            {"type": "text", "text": "391"},
        ]
    },
    {"content": [{"type": "thinking", "thinking": "so 391"}, {"type": "text", "text": "391"}]},
    {"content": [{"type": "reasoning", "text": "so 391"}, {"type": "output_text", "text": "391"}]},
    {"content": "<think>so 391</think>\n\n391"},
    {"content": "so 391\n</think>\n\n391"},
    {"content": "[THINK]so 391[/THINK]391"},
    {"content": "<|channel|>analysis<|message|>so 391<|end|><|start|>assistant<|channel|>final<|message|>391"},
)


def _answer(bodies: list[dict[str, Any]], num: int = 1, **options: Any) -> list[Completion]:
    """Return the completions of `num` asks, each body being one reply."""
    left = iter(bodies)
    script = Script(lambda seen: reply(next(left)))

    async def go() -> list[Completion]:
        async with script.serving() as url:
            engine = http("m", base_url=url, probe="never", n="never", max_concurrency=1, **options)
            asks = [ASK._replace(seed=i, draw=i) for i in range(num)]
            try:
                arrivals = [arrival async for arrival in engine.answer(asks)]
            finally:
                await engine.close()
            return [arrival.completion for arrival in sorted(arrivals, key=lambda arrival: arrival.position)]

    return asyncio.run(go())


def _body(message: dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 9, "completion_tokens": 20},
    }


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: json.dumps(message)[:60])
def test_reasoning_is_told_apart(message: dict[str, Any]) -> None:
    (told,) = _answer([_body(message)])
    assert (told.text, told.reasoning, told.finish) == ("391", "so 391", "stop")
    assert told.usage.completion_tokens == 20


@pytest.mark.parametrize("message", MESSAGES[:6], ids=lambda message: json.dumps(message)[:60])
def test_reasoning_in_a_stream(message: dict[str, Any]) -> None:
    stream = StreamAssembler()
    for name, value in message.items():
        for piece in [value[:1], value[1:]] if isinstance(value, str | list) else [value]:
            stream.add_line(b"data: " + json.dumps({"choices": [{"index": 0, "delta": {name: piece}}]}).encode())
    stream.add_line(b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}')
    stream.add_line(b"data: [DONE]")
    choice = parse_reply(stream.body()).choices[0]
    assert (choice.text, choice.reasoning) == ("391", "so 391")


@pytest.mark.parametrize(
    "message",
    [
        {"content": ""},
        {"content": None},
        {"content": None, "reasoning": "so the answer is 5, wait"},
        {"content": "", "reasoning_content": "so the answer is 5, wait"},
        {"content": "<think>so the answer is 5, wait"},
    ],
)
def test_cut_reasoning_leaves_no_text(message: dict[str, Any]) -> None:
    (told,) = _answer([_body(message, "length")])
    assert (told.text, told.finish) == ("", "length")


def test_a_tag_that_the_template_opened_is_learned_from_a_reply() -> None:
    """A response cut off within reasoning that begins without a tag shows no sign of it; its neighbors do."""
    closed, cut, plain = "is it 5? No.\n</think>\n391", "is the answer 5", "391"
    bodies = [
        _body({"content": closed}),
        _body({"content": cut}, "length"),
        _body({"content": plain}),
    ]
    told = _answer(bodies, 3)
    assert [(c.text, c.reasoning) for c in told] == [("391", "is it 5? No."), ("", cut), ("391", "")]


def test_without_such_a_neighbor_a_cut_text_is_a_text() -> None:
    (told,) = _answer([_body({"content": "is the answer 5"}, "length")])
    assert (told.text, told.reasoning) == ("is the answer 5", "")


def test_switches_pass_through() -> None:
    script = Script(lambda seen: reply(_body({"content": "391"})))

    async def go() -> None:
        async with script.serving() as url:
            engine = http("m", base_url=url, probe="never", reasoning_effort="low", enable_thinking=False)
            [_ async for _ in engine.answer([ASK])]
            await engine.close()

    asyncio.run(go())
    body = script.bodies[0]
    assert body["reasoning_effort"] == "low"
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_an_endpoint_that_reasons_is_found_out() -> None:
    """The probe sees the reasoning, a draw keeps it, and what a small limit cuts off has no text."""

    async def go() -> tuple[HttpEngine, list[Completion]]:
        async with Endpoint(EndpointSettings(reasoning=True)) as url:
            engine = http("toy", base_url=url, probe="fresh")
            await engine.open()
            asks = [ASK._replace(max_tokens=10), ASK._replace(max_tokens=40)]
            arrivals = sorted([arrival async for arrival in engine.answer(asks)], key=lambda arrival: arrival.position)
            await engine.close()
            return engine, [arrival.completion for arrival in arrivals]

    engine, (cut, whole) = asyncio.run(go())
    assert engine.profile.reasons is True
    assert engine.default_max_tokens == 16_384
    assert any("its model reasons" in note for note in engine.notes)
    assert (cut.text, cut.finish, len(cut.reasoning.split())) == ("", "length", 10)
    assert whole.text
    assert len(whole.reasoning.split()) == 10


def test_an_endpoint_that_does_not_reason_keeps_the_samplers_limit() -> None:
    async def go() -> HttpEngine:
        async with Endpoint(EndpointSettings()) as url:
            engine = http("toy", base_url=url, probe="fresh")
            await engine.open()
            await engine.close()
            return engine

    engine = asyncio.run(go())
    assert (engine.profile.reasons, engine.default_max_tokens) == (None, None)
