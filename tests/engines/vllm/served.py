"""The route of `samplewise vllm` behind a real socket, over an engine that keeps books, with faults on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from samplewise.core.types import Ask, Completion, Generate, Usage
from samplewise.engines.base import Arrival
from samplewise.engines.toy import Toy
from samplewise.engines.vllm import vllm, wire
from samplewise.engines.vllm.remote import RemoteVllm
from samplewise.engines.vllm.route import SamplewiseRoute


class MarkedToy(Toy):
    """A toy whose draws carry a mark that no other has. `held` draws wait until `gate` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.num_drawn = self.num_tokens = self.num_cancelled = 0  # type: ignore[assignment]
        self.asked: list[Ask] = []
        self.held: set[int] = set()  # indices of the draws
        self.gate = asyncio.Event()

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        self.asked += asks
        waiting = []
        try:
            for position, ask in enumerate(asks):
                if isinstance(ask, Generate) and ask.draw in self.held:
                    waiting.append(position)
                else:
                    yield Arrival(position, self.one(ask))
            for position in waiting:
                await self.gate.wait()
                yield Arrival(position, self.one(asks[position]))
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    def one(self, ask: Ask) -> Completion:
        completion = super().one(ask)
        mark = f"<{self.num_drawn}>"  # type: ignore[str-format]
        self.num_drawn += 1  # type: ignore[operator]
        self.num_tokens += completion.usage.tokens
        return completion._replace(text=mark + completion.text)


class Served:
    """`async with Served(engine) as served`: the route at `served.url`. `plan` are the faults of its next requests."""

    def __init__(self, engine: Any, plan: Sequence[str] = (), key: str = "") -> None:
        self.engine, self.plan, self.key = engine, list(plan), key
        self.settings: list[wire.DrawSettings] = []
        self.num_requests = 0
        self.route = SamplewiseRoute(self._engine_of)

    async def _engine_of(self, settings: wire.DrawSettings) -> Any:
        self.settings.append(settings)
        return self.engine

    async def __aenter__(self) -> Served:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_post("/v1/samplewise/{name}", self._handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    def client(self, **settings: Any) -> RemoteVllm:
        engine = vllm(self.url, **settings)
        assert isinstance(engine, RemoteVllm)
        return engine

    @asynccontextmanager
    async def opened(self, **settings: Any) -> AsyncIterator[RemoteVllm]:
        """Yield an open client, closed in the end."""
        engine = self.client(**settings)
        await engine.open()
        yield engine
        await engine.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": "Unauthorized"}, status=401)
        fault, body = "", await request.read()
        if request.path.endswith(wire.ANSWER_PATH):
            self.num_requests += 1
            fault = self.plan.pop(0) if self.plan else ""
        if fault in ("500", "503", "400"):
            return web.json_response({"error": {"message": "made up"}}, status=int(fault), headers={"Retry-After": "0"})
        if fault == "reset":
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        return await self._through(request, body, fault)

    async def _through(self, request: web.Request, body: bytes, fault: str) -> web.StreamResponse:
        """Let the route answer. Faults befall its events: "cut 2" is the connection's end after two of them."""
        inbox: list[dict[str, Any]] = [{"type": "http.request", "body": body}]
        response = web.StreamResponse()
        kind, _, number = fault.partition(" ")
        num_events = 0

        async def receive() -> dict[str, Any]:
            if inbox:
                return inbox.pop()
            while request.transport is not None and not request.transport.is_closing():
                await asyncio.sleep(0.005)
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal num_events
            if message["type"] == "http.response.start":
                response.set_status(message["status"])
                for name, value in message["headers"]:
                    response.headers[name.decode()] = value.decode()
                await response.prepare(request)
                return
            data = message.get("body", b"")
            if kind and num_events == int(number or 0) and data:
                if kind == "cut":
                    assert request.transport is not None
                    request.transport.abort()
                    return
                data = {
                    "garbage": b"data: {half\n\n",
                    "stranger": b'data: {"position": 0, "completion": {"text": "", "finish": "odd"}}\n\n',
                    "error": b"data: " + json.dumps({"error": "the engine is dead"}).encode() + b"\n\n",
                    "end": b"data: [DONE]\n\n",
                    "twice": data + data,
                }[kind]
            num_events += data.startswith(b"data: {")
            await response.write(data)

        await self.route({"path": request.path}, receive, send)
        return response


async def answers(engine: Any, asks: Sequence[Ask]) -> list[Completion]:
    """Return completions in the order of their asks."""
    found = {arrival.position: arrival.completion async for arrival in engine.answer(asks)}
    return [found[position] for position in range(len(asks))]


NOTHING = Usage()
