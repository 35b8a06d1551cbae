"""The endpoint itself: HTTP/1.1 with keep-alive on asyncio's own transports, bound to the loopback.

Written by hand because a client's speed is measured against it, so that it must cost less than the client does: about
100 microseconds a request. Requests on one connection are answered in turn; a body must say its length.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from email.utils import formatdate
from types import TracebackType

from samplewise.conformance.endpoint import wire
from samplewise.conformance.endpoint.model import Draw, Model
from samplewise.conformance.endpoint.settings import FAULTS, Settings, Tally
from samplewise.keys import Key
from samplewise.types import Json

MAX_BODY = 16 << 20  # bytes
PATHS = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/models": "models"}
PATHS["/tokenize"] = "tokenize"
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 413: "Content Too Large"}
REASONS |= {429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}
REASONS |= {504: "Gateway Timeout"}
PAGE = b"<!doctype html><html><body><h1>Something is wrong</h1></body></html>"


class Endpoint:
    """A server with a tally. `async with Endpoint(settings) as url` serves at `url`, which ends with /v1."""

    def __init__(self, settings: Settings | None = None, port: int = 0) -> None:
        self.settings = settings = settings or Settings()
        self.tally = Tally()
        self.model = Model(settings.vocab, seed=settings.seed, scale=settings.scale)
        self.url = ""
        self._port = port
        self._key = Key(settings.seed).fold("endpoint")
        self._fates = self._key.fold("faults").generator()
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> str:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, loop), "127.0.0.1", self._port, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self.url

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        while True:  # each leaves in the loop's next turn, in which the last ones accepted may still come
            for connection in list(self._open):
                connection.cut()
            await asyncio.sleep(0)
            if not self._open:
                break

    def fate(self) -> str:
        """The fault of the next request for completions, "" for none."""
        number = self.tally.requests - 1
        if number < len(self.settings.plan):
            return self.settings.plan[number]
        if not self.settings.faults:
            return ""
        left = float(self._fates.random())
        for fault, odds in self.settings.faults.items():
            left -= odds
            if left < 0:
                return fault
        return ""

    def drawn(self, request: wire.Request, fault: str) -> tuple[Json, list[Draw]]:
        """The whole reply to a request, with the draws that it is made of. Here is where the bill is written."""
        settings, tally = self.settings, self.tally
        num = request.num + (fault == "more") - (fault == "fewer")
        choices, draws, total = [], [], 0
        reasoning = min(wire.REASONING, request.max_tokens) if settings.reasoning else 0
        for index in range(num):
            draw = self.model.draw(
                request.messages,
                request.prefix,
                request.sampling,
                request.max_tokens - reasoning,
                request.stop,
                self._key_of(request, index),
            )
            text = f"<{tally.draws}>\n{draw.text}" if settings.marks else draw.text
            tally.draws += 1
            total += len(draw.tokens) + reasoning
            draws.append(draw)
            choices.append(wire.choice(request, index, draw, text, reasoning, self.model))
        tally.prompt_tokens += request.num_prompt_tokens
        tally.completion_tokens += total
        usage = wire.usage_of(request, total, reasoning * num)
        whole = wire.reply(request, choices, usage, settings, tally.requests)
        if request.prompt_logprobs and request.chat:
            whole["prompt_logprobs"] = wire.prompt_logprobs(request, self.model)
        if fault:
            _spoil(whole, fault)
            draws = draws[::-1] if fault == "shuffled" else draws
        return whole, draws

    def _key_of(self, request: wire.Request, index: int) -> Key:
        """Choice `index` of a seeded request is drawn from seed + index, as vLLM does it."""
        if self.settings.frozen:
            return Key(0)
        if request.seed is None:
            return self._key.fold("draw", self.tally.draws)
        return Key((request.seed + index) % (1 << 64))

    def models(self) -> Json:
        return {"object": "list", "data": [{"id": self.settings.model, "object": "model", "owned_by": "samplewise"}]}

    def tokenized(self, body: Json) -> Json:
        if not isinstance(body, dict):
            raise wire.Refused(400, "the body is not a JSON object")
        if "messages" in body:
            tokens = self.model.prompt(wire.read_messages(body["messages"]))
        else:
            tokens = self.model.tokenize(str(body.get("prompt", "")))
        return {"tokens": list(tokens), "count": len(tokens), "max_model_len": self.settings.context}


def _spoil(whole: dict[str, Json], fault: str) -> None:
    """Faults that are in the JSON."""
    numbers = {"usage negative": -1, "usage zero": 0, "usage absurd": 10**12}
    if fault == "usage absent":
        del whole["usage"]
    elif fault in numbers:
        whole["usage"] = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), numbers[fault])
    elif fault == "shuffled":
        whole["choices"].reverse()
    for choice in whole["choices"]:
        if fault == "same index":
            choice["index"] = 0
        elif fault == "finish null":
            choice["finish_reason"] = None
        elif fault == "finish eos":
            choice["finish_reason"] = "eos"
        if fault == "finish filter":
            choice["finish_reason"] = "content_filter"
        if fault in ("null", "finish filter"):
            if "message" in choice:
                choice["message"]["content"] = None
            else:
                choice["text"] = None if fault == "null" else ""


class _Connection(asyncio.Protocol):
    """One client's connection, which answers one request at a time."""

    def __init__(self, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
        self._endpoint, self._loop = endpoint, loop
        self._settings, self._tally = endpoint.settings, endpoint.tally
        self._buffer = b""
        self._busy = False  # a request is being answered
        self._working = False  # and it counts as in flight
        self._drew = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._endpoint._open.add(self)
        self._tally.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._endpoint._open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._working:
            self._tally.disconnects += 1
            self._tally.aborted += not self._drew
            self._rest()

    def cut(self) -> None:
        """Closes the connection, with nothing said."""
        self._rest()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._next()

    def _next(self) -> None:
        """Take the next request out of the buffer, if it is all there."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        lowered = head.lower()
        place = lowered.find(b"\r\ncontent-length:")
        line = lowered[place + 17 :].partition(b"\r\n")[0].strip() if place >= 0 else b"0"
        length = int(line) if line.isdigit() else MAX_BODY + 1
        if length > MAX_BODY or b"\r\ntransfer-encoding:" in lowered:
            self._refuse(wire.Refused(413, "a body must say its length, at most 16 MiB"))
            return
        if len(self._buffer) < end + 4 + length:
            return
        body = self._buffer[end + 4 : end + 4 + length]
        self._buffer = self._buffer[end + 4 + length :]
        self._busy, self._drew = True, False
        try:
            self._route(head, body)
        except wire.Refused as refused:
            self._refuse(refused)

    def _route(self, head: bytes, body: bytes) -> None:
        path = head.partition(b" ")[2].partition(b" ")[0].decode("latin-1").partition("?")[0]
        key = self._settings.api_key
        if (
            key is not None
            and path.startswith("/v1")
            and f"Authorization: Bearer {key}".lower()
            not in (line.lower() for line in head.decode("latin-1").split("\r\n"))
        ):
            raise wire.Refused(401, "Incorrect API key provided.")
        route = PATHS.get(path)
        if route in ("chat", "completions") and route not in self._settings.lacks:
            self._work(body, route == "chat")
        elif path == "/health":
            self._send(200, {})
        elif path == "/tally":
            self._send(200, self._tally.as_json())
        elif route == "models" and route not in self._settings.lacks:
            self._send(200, self._endpoint.models())
        elif route == "tokenize" and route not in self._settings.lacks:
            self._send(200, self._endpoint.tokenized(_json(body)))
        else:
            raise wire.Refused(404, "Not Found")

    def _work(self, body: bytes, chat: bool) -> None:
        """Answer a request for completions, or begin to."""
        tally, settings = self._tally, self._settings
        tally.requests += 1
        request = wire.read(_json(body), chat, settings, self._endpoint.model)
        fault = self._endpoint.fate()
        if not fault and settings.capacity is not None and tally.in_flight >= settings.capacity:
            fault = "429"
        if fault:
            tally.faults[fault] += 1
            if not FAULTS[fault].drawn:
                return self._fail(fault)
        self._working = True
        tally.in_flight += 1
        tally.most_in_flight = max(tally.most_in_flight, tally.in_flight)
        delay_s = settings.latency_ms / 1000 + settings.slow_s * (fault == "slow")
        self._after(delay_s, lambda: self._answer(request, fault))

    def _answer(self, request: wire.Request, fault: str) -> None:
        whole, draws = self._endpoint.drawn(request, fault)
        self._drew = True
        pieces: list[bytes]
        if fault == "cut before":
            return self.cut()
        if fault == "504":
            return self._fail(fault)
        if request.stream:
            events = [json.dumps(chunk) for chunk in wire.chunks(request, whole, draws)]
            pieces = [f"data: {event}\n\n".encode() for event in [*events, "[DONE]"]]
            kind, length = b"text/event-stream\r\nconnection: close", None
        else:
            pieces = [json.dumps(whole).encode()]
            kind, length = b"application/json", len(pieces[0])
        if fault == "half":
            pieces = pieces[: len(pieces) // 2] if request.stream else [pieces[0][: len(pieces[0]) // 2]]
            length = None if length is None else len(pieces[0])
        elif fault in ("cut middle", "stall"):
            sent = b"".join(pieces)
            self._transport.write(_head(200, kind, length) + sent[: len(sent) // 2])
            # written bytes are flushed before a close, which an abort would throw away
            return self._after(self._settings.stall_s if fault == "stall" else 0.001, self._close)
        token_s = self._settings.token_ms / 1000
        if token_s == 0.0:
            return self._last(_head(200, kind, length) + b"".join(pieces), close=request.stream)
        if not request.stream:
            longest = max((len(draw.tokens) for draw in draws), default=0)
            return self._after(token_s * longest, lambda: self._last(_head(200, kind, length) + pieces[0]))
        self._transport.write(_head(200, kind, length))
        self._stream(pieces, token_s)

    def _last(self, data: bytes, close: bool = False) -> None:
        """The rest of a reply; then on to the next request. The books are in order before the client can look."""
        self._rest()
        self._transport.write(data)
        if close:
            self._transport.close()
        else:
            self._busy = False
            if self._buffer:
                self._next()

    def _stream(self, pieces: list[bytes], token_s: float) -> None:
        if len(pieces) == 1:
            return self._last(pieces[0], close=True)
        self._transport.write(pieces[0])
        self._after(token_s, lambda: self._stream(pieces[1:], token_s))

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        if seconds > 0:
            self._timer = self._loop.call_later(seconds, call)
        else:
            call()

    def _fail(self, fault: str) -> None:
        """Faults that come instead of a reply."""
        status = FAULTS[fault].status
        headers = ""
        if fault in ("429", "503"):
            headers = f"retry-after: {self._settings.retry_after_s:g}\r\n"
        elif fault == "429 date":  # whole seconds; rounded up, since an earlier date would say less than was meant
            headers = f"retry-after: {formatdate(time.time() + self._settings.retry_after_s + 1, usegmt=True)}\r\n"
        if fault in ("html", "502", "504"):
            return self._last(_head(status, b"text/html", len(PAGE)) + PAGE)
        error = {"message": FAULTS[fault].about, "type": "server_error", "param": None, "code": None}
        self._send(status, {"error": error}, headers)

    def _refuse(self, refused: wire.Refused) -> None:
        error = {"message": refused.message, "type": "invalid_request_error", "param": refused.param, "code": None}
        self._send(refused.status, {"error": error})

    def _send(self, status: int, body: Json, headers: str = "") -> None:
        data = json.dumps(body).encode()
        self._last(_head(status, b"application/json", len(data), headers) + data)

    def _close(self) -> None:
        self._rest()
        self._transport.close()

    def _rest(self) -> None:
        self._tally.in_flight -= self._working
        self._working = False


def _head(status: int, kind: bytes, length: int | None, headers: str = "") -> bytes:
    said = b"" if length is None else b"content-length: %d\r\n" % length
    reason = REASONS[status].encode()
    return b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\n%s%s\r\n" % (status, reason, kind, said, headers.encode())


def _json(body: bytes) -> Json:
    try:
        return json.loads(body.decode())  # which is quicker than to have the encoding guessed
    except ValueError:
        raise wire.Refused(400, "the body is not JSON") from None
