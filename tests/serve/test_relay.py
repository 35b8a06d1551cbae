"""Requests with more than text: the recipe steps aside, and the endpoint's own reply comes back whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.serve.serving import HELLO, events, served_at, serving
from tests.support.script import Script, reply

from samplewise.serve.keys import KeyRing, Policy, key_digest
from samplewise.serve.relay import parse_choices
from samplewise.serve.wire import RequestError

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CALLS = [{"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}]
LOGPROBS = {"content": [{"token": "x", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}
CALLED = {
    "id": "theirs",
    "model": "their name",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": CALLS, "reasoning": "hm"},
            "logprobs": LOGPROBS,
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 30,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 20},
        "completion_tokens_details": {"reasoning_tokens": 4},
    },
}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_calls_of_tools_come_back() -> None:
    async def go() -> None:
        script = Script(lambda seen: reply(CALLED))
        async with script.serving() as url, served_at(url) as served:
            got = await served.post(
                model="vote4@toy", tools=TOOLS, tool_choice="auto", temperature=0.5, n=1, user="u", samplewise={}
            )
            assert got.status == 200
            choice = got.body["choices"][0]
            assert choice["finish_reason"] == "tool_calls"
            assert choice["message"] == {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "reasoning_content": "hm",
                "tool_calls": CALLS,
            }
            assert choice["logprobs"] == LOGPROBS
            assert got.body["model"] == "vote4@toy"
            assert got.body["id"] != "theirs"
            assert got.body["usage"] == {
                "prompt_tokens": 30,
                "completion_tokens": 9,
                "total_tokens": 39,
                "prompt_tokens_details": {"cached_tokens": 20},
                "completion_tokens_details": {"reasoning_tokens": 4},
            }
            assert got.headers["X-Samplewise-Aside"] == "tools"
            assert got.body["samplewise"]["aside"] == "tools"
            assert got.body["samplewise"]["relayed"] is True
            assert got.body["samplewise"]["spent"]["usd"] == pytest.approx(39e-6)
        assert script.bodies == [
            {
                "model": "toy",
                "messages": HELLO,
                "max_tokens": 8,
                "tools": TOOLS,
                "tool_choice": "auto",
                "temperature": 0.5,
                "n": 1,
                "user": "u",
            }
        ]

    run(go())


def test_a_stream_numbers_the_calls() -> None:
    async def go() -> None:
        async with Script(lambda seen: reply(CALLED)).serving() as url, served_at(url) as served:
            got = await served.post(tools=TOOLS, stream=True, stream_options={"include_usage": True})
            chunks = events(got.data)
            deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
            assert {"tool_calls": [{"index": 0, **CALLS[0]}]} in deltas
            assert {"reasoning_content": "hm"} in deltas
            assert chunks[-2]["choices"][0]["finish_reason"] == "tool_calls"
            assert chunks[-1]["usage"]["total_tokens"] == 39
            assert "X-Samplewise-Aside" not in got.headers  # a plain model has no recipe that steps aside

    run(go())


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,x"}}]}],
        [*HELLO, {"role": "assistant", "content": None, "tool_calls": CALLS}, {"role": "tool", "content": "2"}],
    ],
)
def test_other_parts_of_messages_go_through_unchanged(messages: Any) -> None:
    async def go() -> None:
        script = Script(lambda seen: reply(CALLED))
        async with script.serving() as url, served_at(url) as served:
            assert (await served.post(messages=messages)).status == 200
        assert script.bodies[0]["messages"] == messages

    run(go())


def test_where_there_is_no_endpoint_it_is_refused() -> None:
    async def go() -> None:
        async with serving() as served:
            got = await served.post(tools=TOOLS)
            assert (got.status, got.body["error"]["param"]) == (400, "tools")
            image = [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]
            got = await served.post(messages=image)
            assert (got.status, got.body["error"]["param"]) == (400, "messages[0].content[0]")
        async with Script(lambda seen: reply(CALLED)).serving() as url, served_at(url, aside="refuse") as served:
            got = await served.post(model="vote4@toy", tools=TOOLS)
            assert (got.status, got.body["error"]["param"]) == (400, "tools")
            assert (await served.post(tools=TOOLS)).status == 200

    run(go())


@pytest.mark.parametrize(
    ("answer", "status", "code", "param", "retry"),
    [
        (reply({"error": {"message": "no", "param": "tools"}}, 400), 400, "engine_refused", "tools", None),
        (reply({"error": "no"}, 404), 400, "engine_refused", None, None),
        (reply({"error": "no"}, 401), 502, "engine_unavailable", None, "false"),
        (reply({"error": "no"}, 500), 502, "engine_unavailable", None, "false"),
        (reply({"error": "no"}, 429, "retry-after: 3\r\n"), 429, "rate_limit_exceeded", None, None),
        (reply({"choices": []}), 502, "engine_unavailable", None, "false"),
        (reply([1]), 502, "engine_unavailable", None, "false"),
        (reply(b"<html>"), 502, "engine_unavailable", None, "false"),
        (None, 503, "engine_unavailable", None, "false"),
    ],
)
def test_failures_of_the_endpoint(
    answer: bytes | None, status: int, code: str, param: str | None, retry: str | None
) -> None:
    async def go() -> None:
        async with Script(lambda seen: answer).serving() as url, served_at(url) as served:
            got = await served.post(tools=TOOLS)
            assert (got.status, got.body["error"]["code"], got.body["error"]["param"]) == (status, code, param)
            assert got.headers.get("x-should-retry") == retry
            assert got.headers.get("Retry-After") == ("3" if status == 429 else None)

    run(go())


WORST = 8 + 233  # the limit of a draw, and the most that the request can be as a prompt


@pytest.mark.parametrize("is_vote", [False, True])
@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (reply({"error": "no"}, 400), 0),
        (reply({"error": "busy"}, 429), 0),
        (reply({"error": "busy"}, 503), 0),
        (reply({"error": {"code": "rate_limit_exceeded"}}), 0),
        (reply({"error": "broken"}, 500), WORST),
        (reply({"error": "late"}, 504), WORST),
        (reply(b"<html>"), WORST),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{", WORST),
        (None, WORST),  # it closes the connection
        (reply({"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 9}}), 39),
        (reply({**CALLED, "usage": {}}), WORST),
        (reply({**CALLED, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}), WORST),
        (reply({**CALLED, "usage": {"prompt_tokens": -1, "completion_tokens": -1}}), WORST),
        (reply({**CALLED, "usage": {"prompt_tokens": 10**12, "completion_tokens": 10**12}}), WORST),
        (reply({**CALLED, "usage": {"prompt_tokens": 30}}), 30 + 8),
        (reply({**CALLED, "usage": {"completion_tokens": 9}}), 233 + 9),
        (reply({**CALLED, "usage": {"prompt_tokens": 30, "completion_tokens": 0}}), 30),
        (reply({**CALLED, "usage": {"prompt_tokens": 30, "completion_tokens": 9, "total_tokens": 50}}), 50),
    ],
)
def test_what_the_endpoint_may_have_worked_on_is_in_the_books(answer: bytes | None, tokens: int, is_vote: bool) -> None:
    """An error, or a reply without counts, was booked as free: a key could spend without limit behind a poor proxy."""
    keys = KeyRing({key_digest("k"): Policy("k", recipes="free", tokens_per_request=10**6, tokens_per_day=10**9)})

    async def go() -> None:
        script = Script(lambda seen: answer)
        async with script.serving() as url, served_at(url, keys=keys, tools="vote", seconds=0.4) as served:
            recipe = {"X-Samplewise-Recipe": "repeat(1) | vote"} if is_vote else {}
            await served.post(tools=TOOLS, headers={"Authorization": "Bearer k", **recipe})
            booked = served.service.gate.books.spent("k").tokens
            assert served.lines[-1]["tokens"] == booked
            assert booked == tokens * len(script.bodies)  # a failed draw of a vote is tried again

    run(go())


@pytest.mark.parametrize("model", ["toy", "vote4@toy"])
def test_what_was_never_sent_costs_nothing_and_may_be_tried_again(model: str) -> None:
    async def go() -> None:
        async with Script(lambda seen: reply(CALLED)).serving() as url:
            pass  # nobody listens there any more
        async with served_at(url, tools="vote", seconds=1.0) as served:
            got = await served.post(tools=TOOLS, model=model)
            assert got.body["error"]["code"] == "engine_unavailable"
            assert "x-should-retry" not in got.headers
            assert served.lines[-1]["tokens"] == 0

    run(go())


def test_a_limit_holds_for_what_goes_through() -> None:
    keys = KeyRing({key_digest("k"): Policy("k", tokens_per_request=1000, tokens_per_day=1100)})

    async def go() -> None:
        script = Script(lambda seen: reply(CALLED))
        async with script.serving() as url, served_at(url, keys=keys) as served:
            headers = {"Authorization": "Bearer k"}
            got = await served.post(tools=TOOLS, max_tokens=900, headers=headers)
            assert (got.status, got.body["error"]["code"]) == (400, "budget_too_small")
            assert not script.seen
            got = await served.post(tools=TOOLS, n=9, max_tokens=100, headers=headers)
            assert got.status == 400
            assert (await served.post(tools=TOOLS, headers=headers)).status == 200
            assert served.service.gate.books.spent("k").tokens == 39

    run(go())


def test_who_leaves_cancels_it_and_is_charged_at_most() -> None:
    async def wait(seen: Any) -> bytes:
        await asyncio.sleep(10)
        return reply(CALLED)

    async def go() -> None:
        script = Script(wait)
        async with script.serving() as url, served_at(url) as served:
            sent = asyncio.create_task(served.post(tools=TOOLS))
            while not script.seen:
                await asyncio.sleep(0.005)
            sent.cancel()
            async with asyncio.timeout(2.0):
                while not script.lost:
                    await asyncio.sleep(0.01)
            line = await served.logged(1)
            assert line["code"] == 499
            assert line["tokens"] > 8
            got = await served.post(tools=TOOLS, samplewise={"budget": {"seconds": 0.1}})
            assert (got.status, got.body["error"]["code"]) == (504, "timeout")
            assert got.headers["x-should-retry"] == "false"
            assert (await served.logged(2))["tokens"] > 8
            sent_before = len(script.seen)
            got = await served.post(tools=TOOLS, samplewise={"budget": {"seconds": 1e-9}})
            assert (got.status, got.body["error"]["code"]) == (504, "timeout")
            assert len(script.seen) == sent_before
            assert (await served.logged(3))["tokens"] == 0  # it was never sent
            assert served.service.board.activity("local").num_unanswered == 3

    run(go())


def test_what_the_operator_adds_is_added() -> None:
    async def go() -> None:
        script = Script(lambda seen: reply(CALLED))
        async with script.serving() as url:
            spec = f'http("m", base_url="{url}", probe="never", extra={{"top_a": 1}}, reasoning_effort="low")'
            async with serving(spec) as served:
                assert (await served.post(tools=TOOLS)).status == 200
                activity = served.service.board.activity("local")
                assert (activity.num_requests, activity.num_unanswered) == (1, 0)
                assert (activity.answers[0].stop, activity.answers[0].tokens) == ("relayed", activity.spent)
                assert activity.spent == 39
        assert script.bodies[0]["top_a"] == 1
        assert script.bodies[0]["reasoning_effort"] == "low"
        assert script.bodies[0]["model"] == "m"

    run(go())


@pytest.mark.parametrize("body", [{}, {"choices": 3}, {"choices": [3]}, {"choices": [{"message": 3}]}])
def test_what_is_no_reply(body: Any) -> None:
    with pytest.raises(RequestError):
        parse_choices(body)


def test_odd_parts_of_a_reply_are_kept_or_mended() -> None:
    (choice,) = parse_choices({"choices": [{"message": {"content": ["x"], "odd": 1, "refusal": None}}]})
    assert (choice.text, choice.finish, choice.parts) == ("", "stop", {"odd": 1})
    json.dumps(choice.parts)
