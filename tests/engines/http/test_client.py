"""The client against servers whose answers are valid HTTP, and invalid."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.support.script import Script, completion, reply

from samplewise.core.errors import EngineError, EngineTimeout, EngineUnavailable, SetupError
from samplewise.engines.http.transport.client import Client, Reply, is_loopback, was_sent, without_credentials
from samplewise.testing.endpoint import serving

KEY = "sk-very-secret"


def posted(script: Script, body: Any = None, path: str = "chat/completions", **options: Any) -> Reply:
    async def go() -> Reply:
        async with script.serving() as url:
            client = Client(url, **options)
            try:
                return await client.post(path, body if body is not None else {"a": "ü"})
            finally:
                await client.close()

    return asyncio.run(go())


def failing(script: Script, **options: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        posted(script, **options)
    return caught.value


def test_a_request_and_its_reply() -> None:
    script = Script(lambda seen: reply({"b": "ß"}, 418, "X-Thing: 7\r\n"))
    started = time.perf_counter()
    got = posted(script, api_key=KEY, headers=(("X-Team", "us"),))
    assert (got.status, got.body, json.loads(got.text)) == (418, {"b": "ß"}, {"b": "ß"})
    assert got.headers["x-thing"] == "7"
    assert 0 < got.seconds < time.perf_counter() - started
    (seen,) = script.seen
    assert (seen.path, seen.body) == ("/v1/chat/completions", {"a": "ü"})
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert seen.headers["x-team"] == "us"


def test_bytes_go_out_unchanged_and_two_slashes_mean_the_root() -> None:
    script = Script(lambda seen: reply({}))
    posted(script, b'{"a":1}', "//tokenize")
    assert (script.seen[0].path, script.seen[0].body) == ("/tokenize", {"a": 1})


def test_a_closed_event_loop_may_be_followed_by_another() -> None:
    """As in a notebook, where every `solve` has a loop of its own: the same client works in each of them."""
    with serving() as endpoint:
        client = Client(endpoint.url)

        async def get() -> int:
            return (await client.get("models")).status

        assert [asyncio.run(get()) for _ in range(3)] == [200] * 3

        async def from_two() -> None:
            await get()
            with pytest.raises(SetupError, match="in use in another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(get()))
            await client.close()
            assert await asyncio.to_thread(lambda: asyncio.run(get())) == 200

        asyncio.run(from_two())


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html>"),
        reply(completion("x"))[:-9],
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{",
        reply(b"[" * 100_000),
    ],
    ids=["html", "half", "half a chunk", "deep"],
)
def test_a_reply_that_is_not_json_or_breaks_off_has_no_body(answer: bytes) -> None:
    calls = iter([answer])

    def once(seen: Any) -> bytes:
        return next(calls)

    async def go() -> Reply:
        script = Script(once)
        async with script.serving() as url:
            client = Client(url)
            waiting = asyncio.create_task(client.post("x", {}))
            while not script.seen:
                await asyncio.sleep(0.001)
            if not answer.endswith((b">", b"[")):
                await asyncio.sleep(0.01)
                return await asyncio.wait_for(_cut(client, waiting, script), 120)
            try:
                return await waiting
            finally:
                await client.close()

    async def _cut(client: Client, waiting: asyncio.Task[Reply], script: Script) -> Reply:
        script.close_all()
        try:
            return await waiting
        finally:
            await client.close()

    got = asyncio.run(go())
    assert (got.status, got.body) == (200, None)


def test_an_unreachable_server_is_free_and_a_cut_connection_may_not_be() -> None:
    async def nobody() -> EngineError:
        async with Script(lambda seen: b"").serving() as url:
            pass
        client = Client(url, api_key=KEY)
        try:
            with pytest.raises(EngineUnavailable, match="cannot be reached") as caught:
                await client.post("x", {})
            return caught.value
        finally:
            await client.close()

    assert not was_sent(asyncio.run(nobody()))
    cut = failing(Script(lambda seen: None), api_key=KEY)
    assert isinstance(cut, EngineUnavailable)
    assert was_sent(cut)
    assert KEY not in f"{cut!r} {cut}"


def test_a_server_without_tls_is_reported_at_once() -> None:
    async def go() -> None:
        async def refused(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(refused, "127.0.0.1", 0)
        client = Client(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        try:
            await client.get("models")
        finally:
            await client.close()
            server.close()

    with pytest.raises(SetupError, match=r"cannot be reached: .*\(use http:// instead of https://\)"):
        asyncio.run(asyncio.wait_for(go(), 120))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_an_untrusted_certificate_is_reported_at_once(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def go() -> None:
        server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)
        client = Client(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
        try:
            await client.get("models")
        finally:
            await client.close()
            server.close()

    with pytest.raises(SetupError, match=r"cannot be reached: .*\(its certificate is not trusted; set SSL_CERT_FILE"):
        asyncio.run(asyncio.wait_for(go(), 120))


async def never() -> bytes | None:
    await asyncio.Event().wait()
    return None


def test_a_time_out_after_sending_may_have_been_billed() -> None:
    error = failing(Script(lambda seen: never()), timeout_s=0.05)
    assert isinstance(error, EngineTimeout)
    assert was_sent(error)
    assert "0.05 s" in str(error)


def test_a_stalled_stream_is_a_time_out_and_a_whole_one_a_reply() -> None:
    event = b'data: {"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": null}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\r\n"
    answers = iter([head + event, head + event + b"data: [DONE]\n\n"])

    async def go() -> Reply:
        script = Script(lambda seen: next(answers))
        async with script.serving() as url:
            client = Client(url, timeout_s=0.01)
            try:
                with pytest.raises(EngineTimeout, match=r"for 0\.05 s"):
                    await client.stream("x", {}, 0.05)
                waiting = asyncio.create_task(client.stream("x", {}, 10.0))
                while len(script.seen) < 2:
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.01)
                script.close_all()
                return await waiting
            finally:
                await client.close()

    assert asyncio.run(go()).body["choices"][0]["message"]["content"] == "hi"


def test_a_key_that_the_server_repeats_is_not_passed_on() -> None:
    got = posted(Script(lambda seen: reply({"error": {"message": f"Incorrect key: {KEY}"}}, 401)), api_key=KEY)
    assert KEY not in got.text
    assert KEY not in json.dumps(got.body)


def test_a_redirect_is_a_reply() -> None:
    script = Script(lambda seen: reply({}, 301, "location: /v2\r\n"))
    assert posted(script).status == 301
    assert len(script.seen) == 1


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://x", "http://", "http://x:port/v1", "http://[::1/v1"])
def test_an_invalid_url_is_refused_when_the_client_is_made(url: str) -> None:
    with pytest.raises(SetupError, match="base_url must look like"):
        Client(url)


def test_credentials_in_a_url_are_not_shown() -> None:
    assert without_credentials("http://me:secret@host:8000/v1") == "http://host:8000/v1"
    assert "secret" not in repr(Client("https://me:secret@host/v1"))
    with pytest.raises(SetupError) as caught:
        Client("ftp://me:secret@host/v1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [("http://127.0.0.1:1/v1", True), ("http://[::1]/v1", True), ("http://localhost", True), ("https://a.b", False)],
)
def test_the_loopback_is_known(url: str, loopback: bool) -> None:
    assert is_loopback(url) is loopback
