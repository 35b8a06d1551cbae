"""The route of `samplewise vllm`: whole asks over HTTP, completions as a stream, each as soon as it is drawn.

    POST /v1/samplewise/describe   {wire, settings}                             -> ServerFacts
    POST /v1/samplewise/answer     {wire, settings, identity, session, prompts, asks}  -> events

The records are those of wire.py. A client that closes its connection ends its draws. This is plain ASGI and knows an
engine by its interface alone; plugin.py puts it into vLLM's server, behind that server's API key.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, MutableMapping
from typing import Any, Protocol

from samplewise import __version__
from samplewise.core.errors import EngineError, SamplewiseError
from samplewise.core.types import Ask, Completion, Generate, Json, explores
from samplewise.engines.base import GROUP_SCOPE, Arrival, Engine

from . import wire

KEEP_ALIVE_S = 10.0  # between two signs of life while nothing arrives
MAX_BODY = 256 << 20  # bytes of a request
BEYOND = 1 << 40  # tokens, more than any context has
EVENTS = "text/event-stream; charset=utf-8"


class Receive(Protocol):
    """Gives the next message of a connection, as ASGI has it."""

    async def __call__(self) -> MutableMapping[str, Any]: ...


class Send(Protocol):
    """Takes a message for a connection, as ASGI has it."""

    async def __call__(self, message: MutableMapping[str, Any], /) -> None: ...


class EngineOf(Protocol):
    """Gives the open engine for a client's settings. Raises SamplewiseError where they cannot be had."""

    async def __call__(self, settings: wire.DrawSettings, /) -> Engine: ...


class _Refusal(Exception):
    """A request that is not answered, with its status and one line for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class SamplewiseRoute:
    """An ASGI application for the paths of wire.py."""

    def __init__(self, engine_of: EngineOf) -> None:
        self._engine_of = engine_of

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            body = _json(await _body(receive))
            if scope["path"].endswith(wire.DESCRIBE_PATH):
                engine = await self._engine(_decoded(wire.decode_describe, body))
                await _reply(send, 200, wire.encode_facts(server_facts(engine)))
                return
            asked: wire.AnswerRequest = _decoded(wire.decode_request, body)
            engine = await self._engine(asked.settings)
            if asked.identity != engine.identity:
                raise _Refusal(409, f"this server runs {engine.identity}, not {asked.identity}")
        except _Refusal as refusal:
            error = {"message": str(refusal), "type": "invalid_request_error"}
            await _reply(send, refusal.status, {"wire": wire.WIRE, "error": error})
            return
        await _while_connected(_events(engine, asked, send), receive)

    async def _engine(self, settings: wire.DrawSettings) -> Engine:
        try:
            return await self._engine_of(settings)
        except SamplewiseError as error:
            may_pass = isinstance(error, EngineError) and error.retryable
            raise _Refusal(503 if may_pass else 400, str(error)) from error


def server_facts(engine: Engine) -> wire.ServerFacts:
    """Return what a client must know of an open engine."""
    ask = Generate(wire.SHORTEST, max_tokens=BEYOND)
    worst = engine.worst_case(ask)
    is_bounded = worst.completion_tokens < BEYOND
    return wire.ServerFacts(
        name=engine.name,
        identity=engine.identity,
        can=engine.can,
        max_concurrency=engine.max_concurrency,
        prompt_tokens=worst.prompt_tokens,
        max_context=worst.prompt_tokens + worst.completion_tokens if is_bounded else None,
        default_max_tokens=engine.default_max_tokens,
        digest=engine.digest,
        notes=engine.notes,
        runtime={**engine.runtime(), "samplewise of the server": __version__},
    )


def _decoded(decode: Any, body: Json) -> Any:
    try:
        return decode(body)
    except ValueError as error:
        raise _Refusal(400, str(error)) from None


def _json(body: bytes) -> Json:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _Refusal(400, "the body is no JSON") from None


async def _body(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Refusal(400, "the client has left")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise _Refusal(400, f"a request has at most {MAX_BODY >> 20} MB: send fewer asks at once")
        if not message.get("more_body"):
            return b"".join(parts)


async def _start(send: Send, status: int, content_type: str) -> None:
    headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _reply(send: Send, status: int, body: Json) -> None:
    await _start(send, status, "application/json")
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


async def _while_connected(work: Any, receive: Receive) -> None:
    """Do the work, and give it up once the client has left."""

    async def leave() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(leave())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (working, leaving):
            task.cancel()
        ended = await asyncio.gather(working, leaving, return_exceptions=True)
    if isinstance(ended[0], Exception):
        raise ended[0]


async def _events(engine: Engine, asked: wire.AnswerRequest, send: Send) -> None:
    """Send completions as they come, signs of life between them, and the end mark."""
    await _start(send, 200, EVENTS)
    async with contextlib.aclosing(_lines(engine, asked)) as lines:
        async for line in lines:
            await send({"type": "http.response.body", "body": line.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _lines(engine: Engine, asked: wire.AnswerRequest) -> AsyncGenerator[str]:
    answers: Any = engine.answer([_scoped(ask, asked.session) for ask in asked.asks])
    async with contextlib.aclosing(answers) as stream:
        waiting: asyncio.Future[Arrival] = asyncio.ensure_future(anext(stream))
        try:
            while True:
                await asyncio.wait({waiting}, timeout=KEEP_ALIVE_S)
                if not waiting.done():
                    yield ": still drawing\n\n"
                    continue
                try:
                    position, completion = waiting.result()
                except StopAsyncIteration:
                    break
                except Exception as error:  # the client is told, and no one else's request may end
                    yield f"data: {json.dumps({'error': f'{type(error).__name__}: {error}'})}\n\n"
                    return
                yield f"data: {wire.encode_arrival(position, _unscoped(completion, asked.session))}\n\n"
                waiting = asyncio.ensure_future(anext(stream))
            yield f"data: {wire.DONE}\n\n"
        finally:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)


def _scoped(ask: Ask, session: str) -> Ask:
    """Return the ask with the name of its group behind the client's: two clients may have groups of one name."""
    if isinstance(ask, Generate) and explores(ask):
        return ask._replace(group=f"{session}{GROUP_SCOPE}{ask.group}")
    return ask


def _unscoped(completion: Completion, session: str) -> Completion:
    """Return the completion without the client's name in what it says of a group."""
    if (failure := completion.failure) is None:
        return completion
    scope = f"{session}{GROUP_SCOPE}"
    return completion._replace(
        failure=failure._replace(message=failure.message.replace(repr(scope)[1:-1], "").replace(scope, ""))
    )
