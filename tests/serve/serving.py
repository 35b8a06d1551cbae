"""The server's application within a test's own event loop, in front of an engine or of a scripted endpoint."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

from aiohttp.test_utils import TestClient, TestServer

from samplewise.cli.serve import begin_tasks_at_once
from samplewise.serve.app import SERVICE, Service, make_app
from samplewise.serve.commits import GroupCommit
from samplewise.serve.jobs import Jobs
from samplewise.serve.keys import KeyRing
from samplewise.serve.limits import Gate
from samplewise.serve.log import EventLog
from samplewise.serve.plans import ServeSettings
from samplewise.serve.upstreams import make_upstream
from samplewise.store.database import Store

PRESETS = {"vote4": "repeat(4) | vote", "early": "repeat(8) | until(lead(2)) | vote"}
HELLO = [{"role": "user", "content": "hi"}]


class Got(NamedTuple):
    """A reply: its status, headers, raw bytes, and JSON if it is that."""

    status: int
    headers: Any
    data: bytes
    body: Any


class Served:
    """A running application and a client of it."""

    def __init__(self, client: TestClient[Any, Any], service: Service, log: io.StringIO) -> None:
        self.client, self.service, self._log = client, service, log

    async def post(self, path: str = "/v1/chat/completions", headers: Any = None, **body: Any) -> Got:
        """Post a chat, or what `body` says."""
        whole = {"model": "toy", **({"messages": HELLO} if "chat" in path else {"prompt": "hi"}), **body}
        return await self.send(path, json.dumps(whole).encode(), headers)

    async def send(self, path: str, data: bytes, headers: Any = None, method: str = "POST") -> Got:
        """Send bytes."""
        async with self.client.request(
            method, path, data=io.BytesIO(data) if data else None, headers=headers or {}
        ) as response:
            raw = await response.read()
            body = json.loads(raw) if response.content_type == "application/json" else None
            return Got(response.status, response.headers, raw, body)

    async def get(self, path: str, headers: Any = None) -> Got:
        """Get a page."""
        return await self.send(path, b"", headers, "GET")

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The log's lines about requests."""
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    async def logged(self, num: int) -> dict[str, Any]:
        """Wait for the log's line about request `num`, counted from 1."""
        async with asyncio.timeout(5):
            while len(self.lines) < num:
                await asyncio.sleep(0.005)
        return self.lines[num - 1]


@contextlib.asynccontextmanager
async def serving(
    engine: str = "toy",
    *,
    name: str = "toy",
    store: Store | None = None,
    keys: KeyRing | None = None,
    gate: Gate | None = None,
    origins: tuple[str, ...] = (),
    hosts: tuple[str, ...] = (),
    now: Callable[[], float] | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Serve one engine. Runs are numbered, so everything that is drawn can be repeated."""
    begin_tasks_at_once()
    numbers = itertools.count(1)
    settings = {"presets": PRESETS, "max_tokens": 8, **settings}
    options: dict[str, Any] = {} if now is None else {"now": now}
    draws = None if store is None else GroupCommit(store)
    jobs = Jobs(
        [make_upstream(engine, name)], ServeSettings(**settings), draws, new_entropy=lambda: next(numbers), **options
    )
    log = io.StringIO()
    app = make_app(jobs, keys=keys, gate=gate, log=EventLog(log), origins=origins, hosts=hosts)
    async with TestClient(TestServer(app)) as client:  # which cancels handlers whose client has left
        yield Served(client, app[SERVICE], log)
        if draws is not None:
            draws.commit()


@contextlib.asynccontextmanager
async def served_at(url: str, patience_s: float = 0.0, **options: Any) -> AsyncIterator[Served]:
    """Serve an endpoint's model, a request for each draw."""
    spec = f'http("toy", base_url="{url}", probe="never", n="never", patience_s={patience_s}, price=(1, 1, 1))'
    async with serving(spec, **options) as served:
        yield served


def events(data: bytes) -> list[Any]:
    """Return the events of a stream, checked: comments, JSON, and the end once."""
    parts = data.decode().split("\n\n")
    assert parts.pop() == ""
    assert parts.pop() == "data: [DONE]"
    assert parts[0] == ": keep-alive"
    listed = []
    for part in parts:
        if not part.startswith(":"):
            assert part.startswith("data: ")
            listed.append(json.loads(part.removeprefix("data: ")))
    return listed


def streamed_text(chunks: list[Any], index: int = 0) -> str:
    """Return the text of one choice of a chat's stream."""
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)
