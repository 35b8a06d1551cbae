"""The server as clients meet it: replies, streams, errors, who may ask."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.serve.serving import HELLO, Got, Served, events, served_at, serving, streamed_text
from tests.serve.test_wire import BODIES
from tests.support.script import Script, completion, reply

from samplewise.serve.keys import KeyRing, Policy, key_digest
from samplewise.serve.limits import Gate


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def error(got: Got) -> tuple[int, str | None, str | None]:
    """Return what matters of an error, its shape checked."""
    assert set(got.body) == {"error"}
    assert set(got.body["error"]) == {"message", "type", "param", "code"}
    assert got.body["error"]["message"]
    return got.status, got.body["error"]["param"], got.body["error"]["code"]


# --- replies ----------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered() -> None:
    async def go() -> None:
        async with serving() as served:
            got = await served.post(model="vote4@toy", seed=3)
            assert got.status == 200
            body = got.body
            choice = body["choices"][0]
            assert body["object"] == "chat.completion"
            assert body["model"] == "vote4@toy"
            assert choice["message"]["role"] == "assistant"
            assert choice["message"]["content"] == body["samplewise"]["answer"]
            assert choice["finish_reason"] == "stop"
            assert body["samplewise"]["recipe"] == "repeat(4, max_tokens=8) | vote"
            assert body["samplewise"]["draws"] == 4
            assert body["usage"]["total_tokens"] == body["samplewise"]["spent"]["tokens"]
            assert body["usage"]["prompt_tokens"] == 4  # "hi", four times
            assert got.headers["X-Samplewise-Recipe"] == body["samplewise"]["recipe"]
            assert got.headers["X-Samplewise-Run"] == body["samplewise"]["run"] == body["id"].partition("-")[2]
            again = await served.post(model="vote4@toy", seed=3)
            assert again.body["choices"] == body["choices"]
            others = [await served.post(model="vote4@toy", seed=seed) for seed in range(8)]
            assert len({other.body["choices"][0]["message"]["content"] for other in others}) > 1

    run(go())


def test_a_prompt_is_continued() -> None:
    async def go() -> None:
        async with serving() as served:
            got = await served.post("/v1/completions", n=2)
            assert got.body["object"] == "text_completion"
            assert [choice["index"] for choice in got.body["choices"]] == [0, 1]
            assert got.body["usage"]["prompt_tokens"] == 2
            assert got.body["samplewise"]["recipe"] == "repeat(2, max_tokens=16) | first"

    run(go())


def test_n_choices_of_one_pool() -> None:
    """The n best different answers, then more; a run that a rule has stopped early draws what is missing."""

    async def go() -> None:
        async with serving() as served:
            wants = {"return": ["votes", "candidates"]}
            got = await served.post(model="vote4@toy", n=3, samplewise=wants)
            texts = [choice["message"]["content"] for choice in got.body["choices"]]
            votes = got.body["samplewise"]["votes"]
            assert len(texts) == 3
            assert texts[0] == max(votes, key=votes.__getitem__) or votes[texts[0]] == max(votes.values())
            assert len(set(texts[: len(votes)])) == min(3, len(votes))
            assert got.body["samplewise"]["draws"] == 4
            for seed in range(6):
                early = (await served.post(model="early@toy", seed=seed)).body
                more = (await served.post(model="early@toy", seed=seed, n=7)).body
                assert len(more["choices"]) == 7
                assert more["choices"][0] == early["choices"][0]
                assert more["samplewise"]["draws"] == early["samplewise"]["draws"] <= 8
                assert more["samplewise"]["stop"] == early["samplewise"]["stop"]
                whole = (await served.post(model="repeat(7) | first@toy", seed=seed)).body
                assert more["usage"] == whole["usage"] if more["samplewise"]["draws"] < 7 else True

    run(go())


def test_log_probs_of_the_chosen_draw() -> None:
    async def go() -> None:
        async with serving() as served:
            got = await served.post(model="vote4@toy", logprobs=True, samplewise={"return": ["candidates"]})
            listed = got.body["choices"][0]["logprobs"]["content"]
            assert all(entry["token"].startswith("token_id:") and entry["logprob"] < 0 for entry in listed)
            text = got.body["choices"][0]["message"]["content"]
            assert len(listed) in (len(text), len(text) + 1)  # the token that ends it is drawn as well
            assert got.body["choices"][0]["logprobs"] is not None
            plain = await served.post(model="vote4@toy")
            assert plain.body["choices"][0]["logprobs"] is None
            older = await served.post("/v1/completions", logprobs=0)
            assert older.body["choices"][0]["logprobs"]["token_logprobs"]

    run(go())


def test_fields_go_to_the_endpoint_with_every_draw() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    texts = iter(['{"a": 1, "b": 2}', '{"b": 2, "a": 1}', '{"a": 3}', "no json"])
    script = Script(lambda seen: reply(completion(next(texts))))

    async def go() -> None:
        async with script.serving() as url, served_at(url) as served:
            got = await served.post(
                model="vote4@toy", response_format=schema, frequency_penalty=0.5, presence_penalty=0, stop="x", user="u"
            )
            assert got.body["samplewise"]["answer"] == '{"a":1,"b":2}'
            assert got.body["samplewise"]["agreement"] == 0.5
            assert got.body["choices"][0]["message"]["content"] == '{"a": 1, "b": 2}'
        assert len(script.bodies) == 4
        for body in script.bodies:
            assert body["response_format"] == schema
            assert body["frequency_penalty"] == 0.5
            assert body["stop"] == ["x"]
            assert body["max_tokens"] == 8
            assert {"presence_penalty", "user", "samplewise"}.isdisjoint(body)
        assert len({body["seed"] for body in script.bodies}) == 4

    run(go())


def test_a_plain_draw_is_read_where_the_request_says_how() -> None:
    script = Script(lambda seen: reply(completion("it is 42, I think")))

    async def go() -> None:
        async with script.serving() as url, served_at(url) as served:
            got = await served.post(samplewise={"read": "number"})
            assert got.body["samplewise"]["answer"] == "42"
            assert got.body["choices"][0]["message"]["content"] == "it is 42, I think"
            assert (await served.post()).body["samplewise"]["answer"] is None

    run(go())


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_has_the_answer_of_the_whole_reply() -> None:
    async def go() -> None:
        async with serving(max_tokens=60) as served:
            for n in (1, 3):
                whole = (await served.post(model="vote4@toy", seed=5, n=n)).body
                got = await served.post(
                    model="vote4@toy", seed=5, n=n, stream=True, stream_options={"include_usage": True}
                )
                assert got.headers["Content-Type"].startswith("text/event-stream")
                assert got.headers["X-Samplewise-Recipe"] == "repeat(4, max_tokens=60) | vote"
                chunks = events(got.data)
                for choice in whole["choices"]:
                    assert streamed_text(chunks, choice["index"]) == choice["message"]["content"]
                assert chunks[-1]["usage"] == whole["usage"]
                assert chunks[-1]["choices"] == []
                assert chunks[-2]["samplewise"]["stop"] == whole["samplewise"]["stop"]
                assert chunks[-2]["choices"][0]["finish_reason"] == "stop"

    run(go())


def slow(seconds: float, text: str = "yes") -> Script:
    """An endpoint that takes this long for every draw."""

    async def answer(seen: Any) -> bytes:
        await asyncio.sleep(seconds)
        return reply(completion(text))

    return Script(answer)


def test_a_stream_begins_at_once_and_never_falls_silent() -> None:
    async def go() -> None:
        async with slow(1.0).serving() as url, served_at(url, heartbeat_s=0.1) as served:
            loop = asyncio.get_running_loop()
            started = loop.time()
            body = {"model": "toy", "messages": HELLO, "stream": True}
            async with served.client.post("/v1/chat/completions", json=body) as response:
                first = await response.content.readuntil(b"\n\n")
                assert first == b": keep-alive\n\n"
                assert loop.time() - started < 0.9  # the draw takes longer
                data = first + await response.read()
            assert 3 <= data.count(b": keep-alive\n\n") <= 14
            assert data.index(b"data: ") > data.rindex(b": keep-alive")
            assert streamed_text(events(data)) == "yes"

    run(go())


def test_progress_is_told_as_reasoning_if_it_is_asked_for() -> None:
    async def go() -> None:
        async with slow(0.1).serving() as url, served_at(url, heartbeat_s=0.05) as served:
            wants = {"progress": True}
            got = await served.post(model="repeat(3, wave=1) | vote@toy", stream=True, samplewise=wants)
            chunks = events(got.data)
            told = [
                c["delta"]["reasoning_content"]
                for k in chunks
                for c in k["choices"]
                if "reasoning_content" in c["delta"]
            ]
            assert told[0] == "repeat(3, wave=1, max_tokens=8) | vote\n"
            assert (
                told[1:] in (["0 draws\n", f"{a} draws\n", f"{b} draws\n"] for a in (1, 2, 3) for b in (2, 3)) or told
            )
            assert streamed_text(chunks) == "yes"
            roles = [c["delta"]["role"] for k in chunks for c in k["choices"] if "role" in c["delta"]]
            assert roles == ["assistant"]

    run(go())


def test_a_long_whole_reply_is_kept_alive_by_newlines() -> None:
    async def go() -> None:
        async with slow(0.3).serving() as url:
            async with served_at(url, quiet_s=0.1, heartbeat_s=0.05) as served:
                got = await served.post()
                assert got.data.startswith(b"\n\n")
                assert got.body["choices"][0]["message"]["content"] == "yes"
                assert got.headers["X-Samplewise-Run"] == got.body["samplewise"]["run"]
            async with served_at(url, quiet_s=None) as served:
                assert (await served.post()).data.startswith(b"{")

    run(go())


def test_errors_come_inside_what_has_begun() -> None:
    async def answer(seen: Any) -> bytes:
        await asyncio.sleep(0.2)
        return reply({"error": {"message": "too bad"}}, 400)

    async def go() -> None:
        async with Script(answer).serving() as url, served_at(url, quiet_s=0.1, heartbeat_s=0.05) as served:
            got = await served.post(stream=True)
            assert got.status == 200
            (only,) = events(got.data)
            assert "too bad" in only["error"]["message"]
            assert only["error"]["code"] == "engine_refused"
            got = await served.post()
            assert (got.status, got.body["error"]["code"]) == (200, "engine_refused")
            assert (await served.logged(2))["why"] == "engine_refused"

    run(go())


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{", (400, None, None)),
        (b"[]", (400, None, None)),
        (b"", (400, None, None)),
        (b'{"model": "toy"}', (400, "messages", None)),
        (b'{"model": "toy", "colour": 1}', (400, "colour", "unknown_parameter")),
        (b'{"model": "toy", "echo": true}', (400, "echo", "unsupported_parameter")),
        (b'{"model": "nobody", "messages": [{"role": "user", "content": "x"}]}', (404, "model", "model_not_found")),
    ],
)
def test_what_is_wrong_with_a_request(body: bytes, expected: tuple[int, str | None, str | None]) -> None:
    async def go() -> None:
        async with serving() as served:
            assert error(await served.send("/v1/chat/completions", body)) == expected
            stream = body[:-1] + b', "stream": true}' if b"model" in body else body
            assert error(await served.send("/v1/chat/completions", stream))[0] == expected[0]

    run(go())


def test_routes() -> None:
    async def go() -> None:
        async with serving() as served:
            assert (await served.get("/health")).body == {"status": "ok"}
            assert (await served.get("/ready")).body == {"status": "ready"}
            names = [model["id"] for model in (await served.get("/v1/models")).body["data"]]
            assert names == ["toy", "vote4@toy", "early@toy"]
            for name in ("toy", "vote4@toy", "repeat(2)%20%7C%20vote%40toy"):
                assert (await served.get(f"/v1/models/{name}")).status == 200
            assert error(await served.get("/v1/models/nobody")) == (404, "model", "model_not_found")
            for path in ("/nothing", "/v1", "/v1/responses"):
                assert error(await served.get(path))[0] == 404
            got = await served.get("/v1/chat/completions")
            assert error(got)[0] == 405
            assert got.headers["Allow"] == "POST"
            got = await served.post("/v1/models")
            assert error(got)[0] == 405
            assert got.headers["Allow"] == "GET, HEAD"
            assert b"samplewise_requests_total" in (await served.get("/metrics")).data
            assert b"<!doctype html>" in (await served.get("/")).data.lower()

    run(go())


def test_bodies_are_bounded_and_plain() -> None:
    async def go() -> None:
        async with serving() as served:
            got = await served.send("/v1/chat/completions", b" " * ((8 << 20) + 1))
            assert error(got)[0] == 413
            got = await served.send("/v1/chat/completions", b"x", {"Content-Encoding": "gzip"})
            assert error(got)[0] == 415

    run(go())


FAILURES = [
    (reply({"error": {"message": "no"}}, 400), 400, "engine_refused", None),
    (reply({"error": {"message": "maximum context length is 10 tokens"}}, 400), 400, "context_length_exceeded", None),
    (reply({"error": {"message": "no"}}, 401), 502, "engine_misconfigured", "false"),
    (reply({"error": {"message": "wait"}}, 429, "retry-after: 7\r\n"), 429, "rate_limit_exceeded", None),
]


@pytest.mark.parametrize(("answer", "status", "code", "retry"), FAILURES)
def test_failures_of_the_endpoint(answer: bytes, status: int, code: str, retry: str | None) -> None:
    async def go() -> None:
        async with Script(lambda seen: answer).serving() as url, served_at(url) as served:
            got = await served.post(model="vote4@toy")
            assert (got.status, got.body["error"]["code"]) == (status, code)
            assert got.headers.get("x-should-retry") == retry
            assert got.headers.get("Retry-After") == ("7" if status == 429 else None)

    run(go())


def test_a_client_is_told_not_to_pay_twice() -> None:
    """After a failure for which tokens may have been billed, its own retries are switched off."""

    async def go() -> None:
        broken = Script(lambda seen: reply({"error": {"message": "broken"}}, 500))
        async with broken.serving() as url, served_at(url) as served:
            got = await served.post(samplewise={"budget": {"seconds": 1}})
            assert error(got) == (502, None, "engine_unavailable")
            assert "broken" in got.body["error"]["message"]
            assert got.headers["x-should-retry"] == "false"

    run(go())


def test_an_error_that_nobody_foresaw_is_no_traceback() -> None:
    async def go() -> None:
        async with serving() as served:

            async def broken(*args: Any) -> Any:
                raise KeyError("secret thing")

            served.service.jobs.answer = broken  # type: ignore[method-assign]
            for stream in (False, True):
                got = await served.post(stream=stream)
                text = got.data.decode()
                assert "secret" not in text
                assert "Traceback" not in text
                assert "internal_error" in text
            assert (await served.post()).status == 500
            served.service.jobs.start = broken  # type: ignore[method-assign]
            got = await served.post()
            assert error(got) == (500, None, "internal_error")
            assert got.headers["x-should-retry"] == "false"

    run(go())


# --- who may ask ------------------------------------------------------------------------------------------------------

FREE = Policy("free", recipes="free")
TEAM = Policy("team", tokens_per_request=60, tokens_per_day=100)
KEYS = KeyRing({key_digest("free-key"): FREE, key_digest("team-key"): TEAM})


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_a_key_nothing_is_answered() -> None:
    async def go() -> None:
        async with serving(keys=KEYS) as served:
            for headers in ({}, bearer("wrong"), {"Authorization": "Bearer"}, {"Authorization": "free-key"}):
                assert error(await served.post(headers=headers)) == (401, None, "invalid_api_key")
                for path in ("/v1/models", "/v1/models/toy", "/metrics", "/nothing"):
                    assert error(await served.get(path, headers))[0] == 401
                assert (await served.get("/", headers)).status == 401
            assert (await served.get("/health")).status == 200
            assert (await served.post(headers=bearer("free-key"))).status == 200

    run(go())


def test_policies() -> None:
    async def go() -> None:
        async with serving(keys=KEYS) as served:
            custom = "repeat(2) | vote@toy"
            assert (await served.post(model=custom, headers=bearer("free-key"))).status == 200
            assert error(await served.post(model=custom, headers=bearer("team-key")))[0] == 403
            assert (await served.get(f"/v1/models/{custom}", bearer("team-key"))).status == 404
            got = await served.post(model="vote4@toy", headers=bearer("team-key"))
            assert got.status == 200
            books = served.service.gate.books
            assert books.spent("team").tokens == got.body["usage"]["total_tokens"]
            got = await served.post(model="vote4@toy", max_tokens=90, headers=bearer("team-key"))
            assert error(got) == (400, "max_tokens", "budget_too_small")
            assert books.spent("team").tokens < 60
            got = await served.post(model="repeat(50)@toy", headers=bearer("free-key"))
            assert got.body["samplewise"]["draws"] == 50
            part = await served.post(model="vote4@toy", max_tokens=20, headers=bearer("team-key"))
            assert part.body["samplewise"]["stop"]["reason"] == "budget" or part.body["samplewise"]["draws"] == 4

    run(go())


def test_a_key_sees_no_other_keys_draws() -> None:
    """The same seed and question draw other texts for another key, so a shared store tells nobody anything."""

    async def go() -> None:
        async with serving(keys=KeyRing({key_digest("a"): Policy("a"), key_digest("b"): Policy("b")})) as served:
            texts = []
            for key in ("a", "b"):
                got = await served.post("/v1/completions", headers=bearer(key), seed=1, n=20, max_tokens=20)
                texts.append([choice["text"] for choice in got.body["choices"]])
            assert texts[0] != texts[1]

    run(go())


def test_a_full_server_says_when_to_come_back() -> None:
    async def go() -> None:
        gate = Gate(concurrency=1, queue=0)
        async with slow(0.5).serving() as url, served_at(url, gate=gate) as served:
            first = asyncio.create_task(served.post())
            while not served.service.gate.in_flight:
                await asyncio.sleep(0.005)
            for stream in (False, True):
                got = await served.post(stream=stream)
                assert got.status == 429
                assert int(got.headers["Retry-After"]) >= 1
                assert got.headers["x-should-retry"] == "true"
            assert (await first).status == 200
            assert (await served.post()).status == 200

    run(go())


def test_a_server_that_stops_lets_running_requests_end() -> None:
    async def go() -> None:
        async with slow(0.5).serving() as url, served_at(url) as served:
            first = asyncio.create_task(served.post())
            while not served.service.gate.in_flight:
                await asyncio.sleep(0.005)
            draining = asyncio.create_task(served.service.drain(5))
            await asyncio.sleep(0)
            got = await served.post()
            assert error(got) == (503, None, "shutting_down")
            assert got.headers["Retry-After"] == "1"
            assert (await served.get("/ready")).status == 503
            assert (await served.get("/health")).status == 200
            assert (await first).status == 200
            assert await draining

    run(go())


def test_a_server_that_stops_answers_with_the_best_so_far_when_its_time_is_up() -> None:
    """Nothing that was drawn is lost; who has no draw yet is told so, and not to pay again."""
    stubborn = [{"role": "user", "content": "stubborn"}]
    tools = [{"type": "function", "function": {"name": "f"}}]

    async def answer(seen: Any) -> bytes:
        await asyncio.sleep(30 if "stubborn" in str(seen.body) else 0.1)
        return reply(completion("yes"))

    async def go() -> None:
        script = Script(answer)
        async with script.serving() as url, served_at(url) as served:
            long = "repeat(99, wave=1) | vote@toy"
            asked = [served.post(model=long), served.post(model=long, stream=True)]
            asked += [served.post(messages=stubborn), served.post(messages=stubborn, stream=True)]
            asked += [served.post(messages=stubborn, tools=tools)]
            running = [asyncio.ensure_future(each) for each in asked]
            while len(script.seen) < 9:
                await asyncio.sleep(0.005)
            assert not await served.service.drain(0.1)
            assert served.service.gate.in_flight == 0
            whole, stream, *others = await asyncio.gather(*running)
            assert whole.status == 200
            assert whole.body["choices"][0]["message"]["content"] == "yes"
            assert whole.body["choices"][0]["finish_reason"] == "length"
            assert whole.body["samplewise"]["stop"]["reason"] == "cancelled"
            assert 1 <= whole.body["samplewise"]["draws"] < 99
            chunks = events(stream.data)
            assert streamed_text(chunks) == "yes"
            assert chunks[-1]["choices"][0]["finish_reason"] == "length"
            for got in (others[0], others[2]):
                assert error(got) == (503, None, "shutting_down")
                assert got.headers["x-should-retry"] == "false"  # what was cut off may be billed
            assert events(others[1].data)[-1]["error"]["code"] == "shutting_down"
            assert not served.service._running
            assert {line["code"] for line in served.lines} == {200, 503}

    run(go())


def test_pages_of_other_sites_are_kept_out() -> None:
    async def go() -> None:
        async with serving(origins=("https://good.example",)) as served:
            evil = {"Origin": "https://evil.example", "Content-Type": "application/json"}
            good = {**evil, "Origin": "https://good.example"}
            assert error(await served.post(headers=evil))[0] == 403
            got = await served.post(headers=good)
            assert got.status == 200
            assert got.headers["Access-Control-Allow-Origin"] == "https://good.example"
            assert error(await served.post(headers={**good, "Content-Type": "text/plain"}))[0] == 415
            got = await served.send("/v1/chat/completions", b"", good, "OPTIONS")
            assert got.status == 204
            assert "Authorization" in got.headers["Access-Control-Allow-Headers"]
            assert (await served.send("/v1/chat/completions", b"", evil, "OPTIONS")).status == 403
            assert error(await served.post(headers={"Host": "rebound.example"}))[0] == 403

    run(go())


# --- whatever comes ---------------------------------------------------------------------------------------------------


def test_no_body_gives_a_server_error() -> None:
    """Whatever is sent, the answer is a reply or an error with a reason, and never a status of 500."""
    runner = asyncio.Runner()
    stack = contextlib.AsyncExitStack()
    served: Served = runner.run(stack.enter_async_context(serving(max_tokens=4)))
    names = ["toy", "vote4@toy", "vote(3)@toy", "early@toy", "power(2.0, 2)@toy", "repeat(2) | best(logp)@toy", "x@toy"]

    @settings(max_examples=40)
    @given(BODIES, st.sampled_from(names), st.booleans())
    def check(body: dict[str, Any], model: str, is_chat: bool) -> None:
        whole = {"max_tokens": 4, **body, "model": model}
        whole.setdefault("messages" if is_chat else "prompt", HELLO if is_chat else "hi")
        path = "/v1/chat/completions" if is_chat else "/v1/completions"
        got = runner.run(served.send(path, json.dumps(whole).encode()))
        if got.headers["Content-Type"].startswith("text/event-stream"):
            for chunk in events(got.data):
                assert "error" not in chunk or chunk["error"]["code"] != "internal_error"
        elif got.status == 200:
            assert got.body["choices"]
        else:
            assert got.status in (400, 403, 404)
            error(got)

    try:
        check()
    finally:
        runner.run(stack.aclose())
        runner.close()
