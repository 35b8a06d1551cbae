"""Keys, limits, counters, log lines and the page, over the routes of a server on the toy model."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp.test_utils import TestClient, TestServer

from samplewise.serve.app import make_app
from samplewise.serve.jobs import Jobs
from samplewise.serve.keys import KeyRing, Policy, key_digest
from samplewise.serve.limits import DayBooks, Gate
from samplewise.serve.log import EventLog
from samplewise.serve.plans import ServeSettings
from samplewise.serve.upstreams import make_upstream

KEYS = KeyRing(
    {
        key_digest("alice's"): Policy("alice", "free"),
        key_digest("bob's"): Policy("bob", tokens_per_request=200, tokens_per_day=1000, requests_per_minute=3),
        key_digest("narrow"): Policy("narrow", concurrency=1),
    }
)
QUESTION = {"messages": [{"role": "user", "content": "PROMPT-WORDS say something"}], "max_tokens": 4}


# --- over the routes --------------------------------------------------------------------------------------------------


class Asked:
    """A client of a server, and what the server logs."""

    def __init__(self, client: TestClient[Any, Any], gate: Gate, stream: io.StringIO) -> None:
        self.client, self.gate, self._stream = client, gate, stream

    async def chat(self, key: str | None = "alice's", model: str = "toy", **fields: Any) -> tuple[int, Any, Any]:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        body = {"model": model, **QUESTION, **fields}
        async with self.client.post("/v1/chat/completions", json=body, headers=headers) as response:
            return response.status, await response.json(), response.headers

    async def get(self, path: str, key: str | None = "alice's", **headers: str) -> tuple[int, str, Any]:
        headers |= {} if key is None else {"Authorization": f"Bearer {key}"}
        async with self.client.get(path, headers=headers) as response:
            return response.status, await response.text(), response.headers

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


def with_server(
    go: Callable[[Asked], Awaitable[None]],
    *,
    keys: KeyRing | None = KEYS,
    latency_ms: float = 0.0,
    books: DayBooks | None = None,
) -> None:
    """Run a server on the toy model, with a preset."""

    async def main() -> None:
        stream = io.StringIO()
        jobs = Jobs([make_upstream("toy")], ServeSettings(presets={"fast": "repeat(8) | until(lead(2)) | vote"}))
        gate = Gate(books=books)
        app = make_app(jobs, keys=keys, gate=gate, log=EventLog(stream))
        async with TestClient(TestServer(app, handler_cancellation=True)) as client:
            await go(Asked(client, gate, stream))

    asyncio.run(asyncio.wait_for(main(), 20))


def test_who_has_no_key_gets_nothing() -> None:
    async def go(asked: Asked) -> None:
        for key in (None, "wrong", "alice", ""):
            status, body, headers = await asked.chat(key)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
            for path in ("/v1/models", "/metrics"):
                assert (await asked.get(path, key))[0] == 401
            status, text, headers = await asked.get("/", key)
            assert status == 401
            assert headers["WWW-Authenticate"].startswith("Basic ")
            assert "toy" not in text
        for path in ("/health", "/ready"):
            assert (await asked.get(path, None))[0] in (200, 503)
        assert {line["client"] for line in asked.lines} == {""}
        assert all("key" not in line for line in asked.lines)

    with_server(go)


def test_a_password_opens_the_page_but_not_to_pages_of_others() -> None:
    """A browser sends it by itself, whatever page makes it."""
    basic = "Basic " + base64.b64encode(b"me:alice's").decode()
    body = {"model": "toy", **QUESTION}

    async def go(asked: Asked) -> None:
        assert (await asked.get("/", None, Authorization=basic))[0] == 200
        headers = {"Authorization": basic, "Origin": "https://evil.example"}
        async with asked.client.post("/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status == 403
        assert (await asked.get("/", None, **headers))[0] == 403

    with_server(go)


def test_what_was_asked_is_counted_logged_and_shown_to_its_key_alone() -> None:
    async def go(asked: Asked) -> None:
        status, body, _ = await asked.chat("alice's", "fast@toy")
        assert status == 200
        status, _, _ = await asked.chat("alice's", "fast@toy", temperature=99)
        assert status == 400
        _, metrics, headers = await asked.get("/metrics")
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        tokens = body["usage"]
        assert 'samplewise_requests_total{recipe="fast",model="toy",code="200"} 1\n' in metrics
        assert 'code="400"} 1\n' in metrics
        assert f'samplewise_tokens_total{{kind="completion"}} {tokens["completion_tokens"]}\n' in metrics
        assert "samplewise_draws_count 1\n" in metrics
        assert f"samplewise_draws_sum {body['samplewise']['draws']}\n" in metrics
        assert "samplewise_first_byte_seconds_count 1\n" in metrics
        assert "samplewise_in_flight 0\n" in metrics
        line, refused = asked.lines
        evidence = body["samplewise"]
        assert (line["client"], line["code"], line["run"]) == ("alice", 200, evidence["run"])
        assert (line["model"], line["recipe"], line["draws"]) == ("toy", "fast", evidence["draws"])
        assert line["tokens"] == evidence["spent"]["tokens"]
        assert (refused["code"], refused["client"]) == (400, "alice")
        assert refused["why"] == "invalid_request_error"
        assert "PROMPT-WORDS" not in json.dumps(asked.lines)
        _, page, headers = await asked.get("/")
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert headers["Cache-Control"] == "no-store"
        assert "1 request was answered" in page
        assert "repeat(8) | until(lead(2)) | vote" in page
        _, others, _ = await asked.get("/", "bob's")
        assert "No request was answered yet." in others
        assert "PROMPT-WORDS" not in page

    with_server(go)


def test_limits_reach_the_client_as_errors_that_it_understands() -> None:
    async def go(asked: Asked) -> None:
        for _ in range(3):
            status, body, _ = await asked.chat("bob's")
            assert status == 200
        status, body, headers = await asked.chat("bob's")
        assert (status, body["error"]["type"]) == (429, "rate_limit_error")
        assert 1 <= int(headers["Retry-After"]) <= 20
        assert headers["x-should-retry"] == "true"
        status, body, _ = await asked.chat("bob's", "repeat(4) | vote@toy")
        assert (status, body["error"]["code"]) == (403, "recipe_not_allowed")
        spent = asked.gate.books.spent("bob").tokens
        assert spent == sum(line.get("tokens", 0) for line in asked.lines if line["client"] == "bob")
        assert spent > 0

    with_server(go)


def test_a_request_ends_within_its_tokens_and_the_day_ends_at_its_limit(tmp_path: Path) -> None:
    keys = KeyRing({key_digest("k"): Policy("k", tokens_per_request=60, tokens_per_day=100)})

    async def go(asked: Asked) -> None:
        total = 0
        for _ in range(20):
            status, body, headers = await asked.chat("k", "fast@toy", max_tokens=16)
            if status != 200:
                break
            assert body["usage"]["total_tokens"] <= 60
            total += body["usage"]["total_tokens"]
        assert (status, body["error"]["code"]) == (429, "insufficient_quota")
        assert headers["x-should-retry"] == "false"
        assert 40 < total <= 100
        assert asked.gate.books.spent("k").tokens == total
        assert json.loads((tmp_path / "spent").read_text())["spent"]["k"][0] == total

    with_server(go, keys=keys, books=DayBooks(tmp_path / "spent"))


def test_draining_answers_503() -> None:
    async def go(asked: Asked) -> None:
        asked.gate.drain()
        status, body, headers = await asked.chat()
        assert (status, body["error"]["code"]) == (503, "shutting_down")
        assert headers["Retry-After"] == "1"

    with_server(go)


def test_without_keys_everybody_on_this_computer_may_ask() -> None:
    async def go(asked: Asked) -> None:
        assert (await asked.chat(None, "repeat(3) | vote@toy"))[0] == 200
        assert (await asked.get("/", None))[0] == 200
        for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
            for path in ("/", "/v1/models", "/metrics"):
                assert (await asked.get(path, None, **headers))[0] == 403

    with_server(go, keys=None)


def test_the_page_shows_no_text_as_markup() -> None:
    async def go(asked: Asked) -> None:
        name = "<script>x</script>"
        status, _, _ = await asked.chat("alice's", name)
        assert status == 404
        _, page, _ = await asked.get("/")
        assert not re.search("<script", page)

    with_server(go)
