"""A scripted server: it writes the given bytes, valid HTTP or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple


class Seen(NamedTuple):
    """A request as the server received it."""

    path: str
    headers: dict[str, str]
    body: Any


class Script:
    """A server whose `answer` gets every request and returns the bytes to write; None closes the connection.

    `seen` holds all requests, `lost` counts clients that left before they were answered.
    """

    def __init__(self, answer: Callable[[Seen], bytes | Awaitable[bytes | None] | None]) -> None:
        self.answer = answer
        self.seen: list[Seen] = []
        self.lost = 0
        self._writers: set[asyncio.StreamWriter] = set()

    def close_all(self) -> None:
        """Close every connection, after what was written to it."""
        for writer in self._writers:
            writer.close()

    @property
    def bodies(self) -> list[Any]:
        return [seen.body for seen in self.seen]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self._writers.add(writer)
            try:
                await self._serve(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                tasks.discard(task)
                self._writers.discard(writer)
                writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            keys = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in head[1:] if line}
            raw = await reader.readexactly(int(headers.get("content-length", 0)))
            self.seen.append(Seen(head[0].split()[1], keys, json.loads(raw) if raw else None))
            answer = self.answer(self.seen[-1])
            if isinstance(answer, Awaitable):
                pending = asyncio.ensure_future(answer)
                gone = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({pending, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not pending.done():
                    self.lost += 1
                    pending.cancel()
                    return
                gone.cancel()
                await asyncio.wait({gone})
                answer = pending.result()
            if answer is None:
                return
            writer.write(answer)
            await writer.drain()


def reply(body: Any, status: int = 200, headers: str = "", kind: str = "application/json") -> bytes:
    """Return an HTTP reply."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(raw)}\r\n{headers}\r\n".encode() + raw


def completion(*texts: str, tokens: int = 5, prompt: int = 7, **more: Any) -> dict[str, Any]:
    """Return a chat completion of these texts, each of `tokens` tokens."""
    listed = [
        {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": prompt, "completion_tokens": tokens * len(texts)}
    return {"choices": listed, "usage": usage, **more}
