"""Keep a connection alive while a run decides: server-sent events with comments, and newlines before a JSON body.

A client that hears nothing for its read time-out gives up, and asks again. Comments are ignored by every client that
reads event streams, and white space before a JSON body by every client that reads JSON.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from samplewise.core.types import Json

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
EVENT_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # a proxy that collects events would undo the heartbeats
}


def event(data: Json) -> bytes:
    """Return one event."""
    return b"data: " + json.dumps(data, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream:
    """A reply of server-sent events that has begun: its headers and a comment are sent."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    @classmethod
    async def begin(cls, request: web.Request, headers: dict[str, str]) -> EventStream:
        """Send the headers and a comment."""
        response = web.StreamResponse(headers={**EVENT_HEADERS, **headers})
        await response.prepare(request)
        await response.write(COMMENT)
        return cls(response)

    async def send(self, data: Json) -> None:
        """Send one event."""
        await self._response.write(event(data))

    async def send_all(self, chunks: Iterable[Json]) -> None:
        """Send several events, in as few writes as there is data for."""
        await self._response.write(b"".join(event(chunk) for chunk in chunks))

    async def comment(self) -> None:
        """Send a comment."""
        await self._response.write(COMMENT)

    async def wait(self, done: asyncio.Future[Any], every_s: float) -> None:
        """Send a comment every `every_s` seconds until the future is done."""
        while not await is_done(done, every_s):
            await self.comment()

    async def end(self) -> web.StreamResponse:
        """Send the end of the stream."""
        await self._response.write(DONE)
        await self._response.write_eof()
        return self._response


async def is_done(future: asyncio.Future[Any], seconds: float | None) -> bool:
    """Wait for a future, without end if `seconds` is None, and return whether it is done. Raises nothing of its own."""
    if not future.done():
        await asyncio.wait({future}, timeout=seconds)
    return future.done()


class SlowJson:
    """A JSON reply that takes long: its headers are sent with status 200, and newlines until the body is there."""

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response

    @classmethod
    async def begin(cls, request: web.Request, headers: dict[str, str]) -> SlowJson:
        """Send the headers and a newline."""
        response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8", **headers})
        await response.prepare(request)
        await response.write(b"\n")
        return cls(response)

    async def wait(self, done: asyncio.Future[Any], every_s: float) -> None:
        """Send a newline every `every_s` seconds until the future is done."""
        while not await is_done(done, every_s):
            await self._response.write(b"\n")

    async def end(self, body: Json) -> web.StreamResponse:
        """Send the body."""
        await self._response.write(json.dumps(body, allow_nan=False).encode())
        await self._response.write_eof()
        return self._response
