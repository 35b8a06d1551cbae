"""A single draw is shown while it is drawn, and what is shown is what was drawn."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.serving import HELLO, Served, events, served_at, streamed_text

from samplewise.core.secrets import KnownSecrets
from samplewise.serve.live import LiveDraw
from samplewise.serve.replies import FinalChoice
from samplewise.serve.wire import RequestError

DONE = "[DONE]"
PAUSE_S = 0.2  # in which a piece is sent on before the next one comes
USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


class Upstream:
    """An endpoint that streams: `script` yields what each request is answered with, and may wait in between."""

    def __init__(self, script: Callable[[int], AsyncIterator[Any]]) -> None:
        self.script, self.bodies = script, list[Any]()
        self.lost = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        async with TestServer(app, handler_cancellation=True) as server:  # type: ignore[call-arg]
            yield str(server.make_url("/v1"))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        if "stream" not in self.bodies[-1]:
            return web.json_response(await self._whole())
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            async for data in self.script(len(self.bodies)):
                if data is None:  # it breaks off
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                text = data if isinstance(data, str) else json.dumps(data)
                await response.write(f"data: {text}\n\n".encode())
        except (asyncio.CancelledError, ConnectionError):
            self.lost += 1
            raise
        return response

    async def _whole(self) -> dict[str, Any]:
        """Return the text of a stream as a reply that is none."""
        body: dict[str, Any] = {}
        text, finish = "", None
        async for data in self.script(len(self.bodies)):
            if isinstance(data, dict):
                body |= data
                for choice in data["choices"]:
                    text += choice["delta"].get("content", "")
                    finish = choice["finish_reason"]
        message = {"role": "assistant", "content": text}
        return {**body, "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def served_streams(
    script: Callable[[int], AsyncIterator[Any]], go: Callable[[Served, Upstream], Awaitable[None]], **options: Any
) -> None:
    async def main() -> None:
        upstream = Upstream(script)
        async with upstream.serving() as url, served_at(url, **options) as served:
            await go(served, upstream)

    run(main())


async def whole(_: int) -> AsyncIterator[Any]:
    for data in (delta(role="assistant", content=""), delta(content="Hel"), delta(content="lo 😀 "), delta("stop")):
        yield data
        await asyncio.sleep(PAUSE_S)
    yield USAGE
    yield DONE


@pytest.mark.parametrize("model", ["toy", "one@toy", "repeat(1) | first@toy"])
def test_pieces_come_before_the_draw_has_ended(model: str) -> None:
    """The endpoint goes on only once the client has the first piece: if it were held back, this would time out."""
    go_on = asyncio.Event()

    async def script(_: int) -> AsyncIterator[Any]:
        yield delta(content="Hel")
        await go_on.wait()
        yield delta(content="lo")
        yield delta("length")
        yield USAGE
        yield DONE

    async def go(served: Served, upstream: Upstream) -> None:
        body = {"model": model, "messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
        data = b""
        async with served.client.post("/v1/chat/completions", json=body) as response:
            async for piece in response.content.iter_any():
                data += piece
                if b'"content":"Hel"' in data:
                    go_on.set()
        chunks = events(data)
        assert [chunk["choices"][0]["delta"] for chunk in chunks[:-1]] == [
            {"role": "assistant", "content": "Hel"},
            {"content": "lo"},
            {},
        ]
        assert chunks[-2]["choices"][0]["finish_reason"] == "length"
        assert chunks[-2]["samplewise"]["draws"] == 1
        assert chunks[-1]["usage"]["total_tokens"] == 12
        assert all(chunk["usage"] is None for chunk in chunks[:-1])
        assert len({chunk["id"] for chunk in chunks}) == 1
        assert upstream.bodies[0]["stream"] is True
        assert upstream.bodies[0]["stream_options"] == {"include_usage": True}
        assert "seed" in upstream.bodies[0]

    served_streams(script, go, presets={"one": "repeat(1) | first"})


@pytest.mark.parametrize(
    "fields",
    [
        {"stream": False},
        {"model": "vote4@toy"},
        {"n": 2},
        {"logprobs": True},
        {"model": "repeat(1) | best(puzzle)@toy"},
        {"model": "repeat(1) | until(lead(2)) | vote@toy"},
        {"model": "vary(ladder) | repeat(1) | first@toy"},
    ],
)
def test_where_something_is_decided_nothing_is_shown_before(fields: dict[str, Any]) -> None:
    async def go(served: Served, upstream: Upstream) -> None:
        await served.post(**{"stream": True, **fields})
        assert all("stream" not in body for body in upstream.bodies)

    served_streams(whole, go)


def test_reasoning_is_shown_as_reasoning() -> None:
    async def script(_: int) -> AsyncIterator[Any]:
        for data in (delta(reasoning_content="h"), delta(reasoning_content="m"), delta(content="4"), delta("stop")):
            yield data
            await asyncio.sleep(PAUSE_S)
        yield USAGE
        yield DONE

    async def go(served: Served, upstream: Upstream) -> None:
        for _ in range(2):  # at the second time the model is known to reason
            got = await served.post(stream=True)
            deltas = [chunk["choices"][0]["delta"] for chunk in events(got.data)]
            assert deltas[:3] == [
                {"role": "assistant", "content": "", "reasoning_content": "h"},
                {"reasoning_content": "m"},
                {"content": "4"},
            ]

    served_streams(script, go)


@pytest.mark.parametrize(
    ("pieces", "text", "reasoning"),
    [
        (["<th", "ink>hm", "\nhm</think>", "\n\n4"], "4", "hm\nhm"),
        (["<b>4</b>", " is it\n", "[1] so\n", "ok"], "<b>4</b> is it\n[1] so\nok", ""),
        (["\n\n", "  x", "\ny"], "\n\n  x\ny", ""),
        (["a\n<think>", "b\n", "</think>\nc"], None, None),
    ],
)
def test_reasoning_within_the_text_is_never_shown_as_text(
    pieces: list[str], text: str | None, reasoning: str | None
) -> None:
    async def script(_: int) -> AsyncIterator[Any]:
        for piece in pieces:
            yield delta(content=piece)
        yield delta("stop")
        yield DONE

    async def go(served: Served, upstream: Upstream) -> None:
        chunks = events((await served.post(stream=True)).data)
        shown = streamed_text([chunk for chunk in chunks if "choices" in chunk])
        if text is None:  # what was shown may be the answer's beginning, or the stream ends in an error
            assert "<think>" not in shown or "error" in chunks[-1]
        else:
            assert shown.strip() == text.strip()
            deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
            assert "".join(each.get("reasoning_content", "") for each in deltas) == reasoning

    served_streams(script, go)


@pytest.mark.parametrize(
    ("pieces", "fields", "text", "reasoning"),
    [
        (["so 6*4\n", "</think>\n", "24"], {}, "24", "so 6*4"),
        (["so 6*4", "</think>", "24"], {}, "24", "so 6*4"),
        (["2", "4 STOP 5"], {"stop": "STOP"}, "24 ", ""),
    ],
)
def test_what_was_shown_wrongly_once_is_not_shown_again(
    pieces: list[str], fields: dict[str, Any], text: str, reasoning: str
) -> None:
    """A model that closes reasoning that it never opened ended every stream in an error, though all was paid."""

    async def script(num: int) -> AsyncIterator[Any]:
        for piece in pieces:
            yield delta(content=piece)
            await asyncio.sleep(0.02)
        yield delta("stop")
        yield USAGE
        yield DONE

    async def go(served: Served, upstream: Upstream) -> None:
        assert "error" in events((await served.post(stream=True, **fields)).data)[-1]
        for _ in range(2):
            chunks = events((await served.post(stream=True, **fields)).data)
            deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
            assert streamed_text(chunks) == text
            assert "".join(each.get("reasoning_content", "") for each in deltas) == reasoning
            assert chunks[-1]["choices"][0]["finish_reason"] == "stop"

    served_streams(script, go)


def test_a_draw_that_breaks_off_after_it_was_shown_is_not_drawn_again() -> None:
    async def script(num: int) -> AsyncIterator[Any]:
        yield delta(content=f"draw {num}")
        yield None

    async def go(served: Served, upstream: Upstream) -> None:
        chunks = events((await served.post(stream=True)).data)
        assert streamed_text(chunks[:-1]) == "draw 1"
        assert chunks[-1]["error"]["code"] == "engine_unavailable"
        assert len(upstream.bodies) == 1

    served_streams(script, go)


def test_one_that_breaks_off_before_it_was_shown_is() -> None:
    async def script(num: int) -> AsyncIterator[Any]:
        if num == 1:
            yield delta(role="assistant", content="")
            yield None
        else:
            async for data in whole(num):
                yield data

    async def go(served: Served, upstream: Upstream) -> None:
        chunks = events((await served.post(stream=True)).data)
        assert streamed_text(chunks) == "Hello 😀 "
        assert len(upstream.bodies) == 2

    served_streams(script, go)


def test_an_endpoint_that_streams_nothing_is_as_before() -> None:
    async def main() -> None:
        from tests.support.script import Script, completion, reply

        async with Script(lambda seen: reply(completion("a b"))).serving() as url, served_at(url) as served:
            got = await served.post(stream=True)
            assert streamed_text(events(got.data)) == "a b"
            older = await served.post("/v1/completions", stream=True)
            assert events(older.data)[0]["choices"][0]["text"] == "a b"

    run(main())


def test_the_older_route_streams_text() -> None:
    async def go(served: Served, upstream: Upstream) -> None:
        chunks = events((await served.post("/v1/completions", stream=True)).data)
        assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo 😀 ", ""]
        assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
        assert all(chunk["object"] == "text_completion" for chunk in chunks)

    served_streams(whole, go)


def test_who_leaves_ends_the_draw() -> None:
    async def script(_: int) -> AsyncIterator[Any]:
        yield delta(content="a")
        await asyncio.sleep(20)
        yield delta(content="b")

    async def go(served: Served, upstream: Upstream) -> None:
        body = {"model": "toy", "messages": HELLO, "stream": True}
        async with served.client.post("/v1/chat/completions", json=body) as response:
            async for data in response.content.iter_any():
                if b'"content":"a"' in data:
                    break
        await served.logged(1)
        async with asyncio.timeout(5):
            while not upstream.lost:
                await asyncio.sleep(0.01)

    served_streams(script, go)


def test_silence_between_pieces_is_broken_by_comments() -> None:
    async def script(_: int) -> AsyncIterator[Any]:
        yield delta(content="a")
        await asyncio.sleep(0.4)
        yield delta("stop", content="b")
        yield DONE

    async def go(served: Served, upstream: Upstream) -> None:
        got = await served.post(stream=True)
        first, last = got.data.index(b'"content":"a"'), got.data.index(b'"content":"b"')
        assert 2 <= got.data[first:last].count(b": keep-alive") <= 4

    served_streams(script, go, heartbeat_s=0.1)


def test_the_endpoints_key_is_not_shown() -> None:
    """Also where its pieces are cut within it. The rest comes at the end, as in a whole reply: without the key."""
    key = "sk-0123456789abcdef"

    async def script(_: int) -> AsyncIterator[Any]:
        for piece in ("it is ", key[:5], key[5:12], f"{key[12:]} and", " so on"):
            yield delta(content=piece)
        yield delta("stop")
        yield DONE

    async def main() -> None:
        upstream = Upstream(script)
        async with upstream.serving() as url:
            from tests.serve.serving import serving

            async with serving(f'http("toy", base_url="{url}", probe="never", api_key="{key}")') as served:
                got = await served.post(stream=True)
                assert streamed_text(events(got.data)) == "it is *** and so on"
                assert key[:8].encode() not in got.data

    run(main())


# --- what can be shown ------------------------------------------------------------------------------------------------

ALPHABET = st.sampled_from(["a", "b", "<", "\n", " ", "[", "]", ">", "think", "/", "\ud83d", "\ude00", "é"])


@given(st.lists(st.lists(ALPHABET, max_size=4).map("".join), max_size=12))
def test_what_is_shown_and_the_rest_is_the_text(pieces: list[str]) -> None:
    """However it is cut, and with halves of characters, each of which waits for the other."""
    live, shown = LiveDraw(), ""
    for piece in pieces:
        live.hear(piece, is_reasoning=False)
        for each in live.take():
            assert not each.text or not "\ud800" <= each.text[-1] <= "\udbff"
            shown += each.text
    text = "".join(pieces)
    assert text.startswith(shown)
    assert shown + live.rest(FinalChoice(text)).text == text


def test_what_was_shown_and_is_not_the_answer_is_an_error() -> None:
    live = LiveDraw()
    live.hear("abc", is_reasoning=False)
    live.hear("hm", is_reasoning=True)
    live.take()
    assert live.rest(FinalChoice("abcd", reasoning="hmm")) == FinalChoice("d", reasoning="m")
    for choice in (
        FinalChoice("abd", reasoning="hm"),
        FinalChoice("ab", reasoning="hm"),
        FinalChoice("abc", reasoning="x"),
    ):
        with pytest.raises(RequestError) as caught:
            live.rest(choice)
        assert (caught.value.code, caught.value.retry) == ("stream_interrupted", False)


def test_a_model_that_reasons_shows_text_only_after_its_reasoning() -> None:
    live = LiveDraw(waits_for_reasoning=True)
    live.hear("perhaps reasoning", is_reasoning=False)
    assert live.take() == []
    live = LiveDraw(waits_for_reasoning=True)
    live.hear("hm", is_reasoning=True)
    live.hear("4", is_reasoning=False)
    assert [piece.text for piece in live.take()] == ["hm", "4"]


@given(st.text("ab", max_size=12), st.text("ab", min_size=8, max_size=9))
def test_no_beginning_of_a_credential_is_shown(text: str, secret: str) -> None:
    num, is_in = KnownSecrets([secret]).num_shown(text)
    assert is_in == (secret in text)
    if is_in:
        assert num == text.index(secret)
    else:
        held = len(text) - num
        assert secret.startswith(text[num:])
        assert not any(text.endswith(secret[:longer]) for longer in range(held + 1, len(secret)))
