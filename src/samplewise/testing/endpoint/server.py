"""The endpoint's server: HTTP/1.1 with keep-alive on asyncio's own transports, bound to the loopback.

Written by hand because clients' speed is measured against it, so it must cost less than a client does: about 100
microseconds a request. Requests on one connection are answered in turn; a body must have a content-length.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from email.utils import formatdate
from types import TracebackType

from samplewise.core.keys import Key
from samplewise.core.types import Json, Sampling
from samplewise.testing.endpoint import attacks, protocol
from samplewise.testing.endpoint.batches import BatchCall, BatchDesk, batch_call
from samplewise.testing.endpoint.model import ServedDraw, ServedModel
from samplewise.testing.endpoint.settings import FAULTS, EndpointSettings, EndpointTally

MAX_BODY = 16 << 20  # bytes
PATHS = {"/v1/chat/completions": "chat", "/v1/completions": "completions", "/v1/models": "models"}
PATHS |= {"/tokenize": "tokenize", "/detokenize": "detokenize"}
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 413: "Content Too Large"}
REASONS |= {429: "Too Many Requests", 500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable"}
REASONS |= {504: "Gateway Timeout"}
LONG_TEXT, LONG_TOKENS = " word" * 5000, 5000
MANY = 100_000  # choices
PAGE = b"<!doctype html><html><body><h1>Something is wrong</h1></body></html>"


class Endpoint:
    """A server with a tally. `async with Endpoint(settings) as url` serves at `url`, which ends with /v1."""

    def __init__(self, settings: EndpointSettings | None = None, port: int = 0) -> None:
        self.settings = settings = settings or EndpointSettings()
        self.tally = EndpointTally()
        self.model = ServedModel(settings.vocab, seed=settings.seed, scale=settings.scale)
        self.url = ""
        self.desk = BatchDesk(settings, self._answer_line)
        self._port = port
        self._key = Key(settings.seed).fold("endpoint")
        self._fault_rng = self._key.fold("faults").generator()
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
        while True:  # a connection ends in the loop's next turn, in which the last accepted ones may still come
            for connection in list(self._open):
                connection.cut()
            await asyncio.sleep(0)
            if not self._open:
                break

    def next_fault(self) -> str:
        """Return the fault of the request for completions that was counted last, "" for none."""
        index = self.tally.requests - 1
        if index < len(self.settings.plan):
            return self.settings.plan[index]
        if not self.settings.faults:
            return ""
        left = float(self._fault_rng.random())
        for fault, probability in self.settings.faults.items():
            left -= probability
            if left < 0:
                return fault
        return ""

    def draw_reply(self, request: protocol.ServedRequest, fault: str) -> tuple[Json, list[ServedDraw]]:
        """Return the whole reply to a request and its draws, and add them to the tally."""
        settings, tally = self.settings, self.tally
        num = request.num + (fault == "more") - (fault == "fewer")
        sampling = request.sampling if settings.processed_logprobs else Sampling()
        noise = settings.greedy_noise if request.sampling.temperature == 0 else 0.0
        choices, draws, total, num_reasoning = [], [], 0, 0
        for index in range(num):
            is_cut = bool(settings.cut_reasoning) and tally.draws < settings.num_cut
            reasoning = min(settings.reasoning_tokens, request.max_tokens) if settings.reasoning else 0
            reasoning = request.max_tokens if is_cut else reasoning
            draw = self.model.draw(
                request.messages,
                request.prefix,
                request.sampling,
                request.max_tokens - reasoning,
                request.stop,
                self._key_of(request, index),
                noise,
                request.logit_bias,
            )
            thought = " ".join(f"w{tally.draws}.{word}" for word in range(reasoning))
            text: str | None = settings.answer or draw.text
            text = f"<{tally.draws}>\n{text}" if settings.marks else text
            if settings.overrun:
                text = f"{text} {'word ' * settings.overrun}"
            if fault.startswith("long"):
                text, total = f"{text}{LONG_TEXT}", total + LONG_TOKENS
            if is_cut:
                text = {"empty": "", "null": None, "text": f"<think>{thought}"}[settings.cut_reasoning]
                draw, thought = draw._replace(finish="length"), "" if settings.cut_reasoning == "text" else thought
            tally.draws += 1
            total += len(draw.tokens) + reasoning + settings.overrun
            num_reasoning += reasoning
            draws.append(draw)
            choices.append(protocol.choice_body(request, index, draw, text, thought, self.model, sampling))
        if fault == "many choices":
            total *= MANY
            choices = [{**choices[0], "index": index} for index in range(MANY)]
        tally.prompt_tokens += request.num_prompt_tokens
        tally.completion_tokens += total
        usage = protocol.usage_body(request, total, num_reasoning, settings.reasoning_outside)
        whole = protocol.reply_body(request, choices, usage, settings, tally.requests)
        if request.prompt_logprobs and request.chat:
            whole["prompt_logprobs"] = protocol.prompt_logprobs(request, self.model)
        if settings.odd_logprobs and request.sampling.temperature not in (0.0, 1.0):
            _shift_logprobs(whole, settings.odd_logprobs)
        if fault:
            _apply_fault(whole, fault, settings.api_key or "")
            draws = draws[::-1] if fault == "shuffled" else draws
        return whole, draws

    def _key_of(self, request: protocol.ServedRequest, index: int) -> Key:
        """Return the key of a choice: of a seeded request seed + index, as in vLLM."""
        settings = self.settings
        if settings.frozen:
            return Key(0)
        if settings.frozen_list:
            return Key(index)
        index = 0 if settings.frozen_n else index
        if request.seed is None:
            return self._key.fold("draw", self.tally.draws if not settings.frozen_n else self.tally.requests)
        if settings.greedy_noise and request.sampling.temperature == 0:
            return self._key.fold("greedy", self.tally.draws)
        return Key((request.seed + index) % (1 << 64))

    def _answer_line(self, url: str, body: Json) -> tuple[int, Json]:
        """Return the reply to a line of a batch. Raises RequestRefused."""
        self.tally.requests += 1
        request = protocol.parse_request(body, PATHS.get(url) == "chat", self.settings, self.model)
        return 200, self.draw_reply(request, "")[0]

    def models(self) -> Json:
        """Return the list of models."""
        return {"object": "list", "data": [{"id": self.settings.model, "object": "model", "owned_by": "samplewise"}]}

    def tokenized(self, body: Json) -> Json:
        """Return the reply to a tokenize request. Raises RequestRefused."""
        if not isinstance(body, dict):
            raise protocol.RequestRefused(400, "the body is not a JSON object")
        if "messages" in body:
            tokens = self.model.prompt(protocol.parse_messages(body["messages"]))
        else:
            tokens = self.model.tokenize(str(body.get("prompt", "")))
        return {"tokens": list(tokens), "count": len(tokens), "max_model_len": self.settings.context}

    def detokenized(self, body: Json) -> Json:
        """Return the reply to a detokenize request. Raises RequestRefused."""
        tokens = body.get("tokens") if isinstance(body, dict) else None
        if not isinstance(tokens, list) or not all(isinstance(t, int) and 0 <= t <= self.model.eos for t in tokens):
            raise protocol.RequestRefused(400, f"tokens must be a list of ids from 0 to {self.model.eos}", "tokens")
        return {"prompt": "".join(map(self.model.spell, tokens))}


def _shift_logprobs(whole: dict[str, Json], shift: float) -> None:
    """Add a number to every log-prob, in place."""
    for choice in whole["choices"]:
        logprobs = choice["logprobs"] or {}
        for entry in logprobs.get("content", ()):
            for part in (entry, *entry["top_logprobs"]):
                part["logprob"] += shift
        if "token_logprobs" in logprobs:
            logprobs["token_logprobs"] = [value + shift for value in logprobs["token_logprobs"]]
            logprobs["top_logprobs"] = [{k: v + shift for k, v in top.items()} for top in logprobs["top_logprobs"]]


def _apply_fault(whole: dict[str, Json], fault: str, key: str) -> None:
    """Apply a fault to the JSON, in place."""
    logprobs: dict[str, Json] = {"logprob huge": -1e308, "logprob integer": 10**400, "logprob words": "many"}
    numbers = {"usage negative": -1, "usage zero": 0, "usage absurd": 10**12}
    if fault in ("usage absent", "long uncounted"):
        del whole["usage"]
    elif fault in numbers:
        whole["usage"] = dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), numbers[fault])
    elif fault == "shuffled":
        whole["choices"].reverse()
    for choice in whole["choices"]:
        if fault == "same index":
            choice["index"] = 0
        elif fault == "key choice":
            choice["error"], choice["finish_reason"] = {"message": f"the key {key} is tired"}, "error"
        elif fault == "key text" and "message" in choice:
            choice["message"]["content"] = f"your key is {key}"
        elif fault in logprobs and choice.get("logprobs"):
            for entry in choice["logprobs"].get("content", ()):
                entry["logprob"] = logprobs[fault]
            if "token_logprobs" in choice["logprobs"]:
                choice["logprobs"]["token_logprobs"] = [logprobs[fault]] * len(choice["logprobs"]["tokens"])
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
        self._counted = False  # as in flight
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
        if self._counted:
            self._tally.disconnects += 1
            self._tally.aborted += not self._drew
            self._release()

    def cut(self) -> None:
        """Close the connection without a reply."""
        self._release()
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._next()

    def _next(self) -> None:
        """Take the next request out of the buffer, if it is complete."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        lowered = head.lower()
        start = lowered.find(b"\r\ncontent-length:")
        line = lowered[start + 17 :].partition(b"\r\n")[0].strip() if start >= 0 else b"0"
        length = int(line) if line.isdigit() else MAX_BODY + 1
        if length > MAX_BODY or b"\r\ntransfer-encoding:" in lowered:
            self._refuse(protocol.RequestRefused(413, "a body needs a content-length of at most 16 MiB"))
            return
        if len(self._buffer) < end + 4 + length:
            return
        body = self._buffer[end + 4 : end + 4 + length]
        self._buffer = self._buffer[end + 4 + length :]
        self._busy, self._drew = True, False
        try:
            self._route(head, body)
        except protocol.RequestRefused as refused:
            self._refuse(refused)

    def _route(self, head: bytes, body: bytes) -> None:
        method, target = head.decode("latin-1").split(" ")[:2]
        path, _, query = target.partition("?")
        key = self._settings.api_key
        if (
            key is not None
            and path.startswith("/v1")
            and f"Authorization: Bearer {key}".lower()
            not in (line.lower() for line in head.decode("latin-1").split("\r\n"))
        ):
            raise protocol.RequestRefused(401, "Incorrect API key provided.")
        route = PATHS.get(path)
        if route in ("chat", "completions") and route not in self._settings.lacks:
            self._complete(body, route == "chat")
        elif (call := batch_call(method, path, query)) is not None and "batches" not in self._settings.lacks:
            self._batch(call, head, body)
        elif path == "/health":
            self._send(200, {})
        elif path == "/tally":
            self._send(200, self._tally.as_json())
        elif route == "models" and route not in self._settings.lacks:
            self._send(200, self._endpoint.models())
        elif route == "tokenize" and route not in self._settings.lacks:
            self._send(200, self._endpoint.tokenized(_json(body)))
        elif route == "detokenize" and route not in self._settings.lacks:
            self._send(200, self._endpoint.detokenized(_json(body)))
        else:
            raise protocol.RequestRefused(404, "Not Found")

    def _batch(self, call: BatchCall, head: bytes, body: bytes) -> None:
        """Answer a call of the batch API, with the fault that is planned for it."""
        num = self._tally.batch_calls[call.route]
        self._tally.batch_calls[call.route] += 1
        planned = self._settings.batch_faults.get(call.route, ())[num : num + 1]  # type: ignore[call-overload]
        fault = planned[0] if planned else ""
        if fault == "hang before":
            return
        if fault.isdigit():
            return self._send(int(fault), {"error": {"message": f"a batch call's {fault}", "type": "server_error"}})
        reply = self._endpoint.desk.serve(call, head, body, self._loop.time())
        if fault == "lost":
            return self.cut()
        if fault == "hang":
            return
        if isinstance(reply, bytes):
            return self._finish(_head(200, b"application/jsonl", len(reply)) + reply)
        self._send(200, reply)

    def _complete(self, body: bytes, chat: bool) -> None:
        """Answer a request for completions, at once or after its latency."""
        tally, settings = self._tally, self._settings
        tally.requests += 1
        request = protocol.parse_request(_json(body), chat, settings, self._endpoint.model)
        fault = self._endpoint.next_fault()
        if not fault and settings.capacity is not None and tally.in_flight >= settings.capacity:
            fault = "429"
        if fault:
            tally.faults[fault] += 1
            if fault not in FAULTS and (attack := attacks.whole_reply(fault, settings)) is not None:
                return self._finish(attack, close=True)
            if fault in attacks.ENDLESS:
                return self._send_endlessly(fault)
            if fault in FAULTS and not FAULTS[fault].drawn:
                return self._fail(fault)
        self._counted = True
        tally.in_flight += 1
        tally.most_in_flight = max(tally.most_in_flight, tally.in_flight)
        delay_s = settings.latency_ms / 1000 + settings.slow_s * (fault == "slow")
        self._after(delay_s, lambda: self._answer(request, fault))

    def _answer(self, request: protocol.ServedRequest, fault: str) -> None:
        whole, draws = self._endpoint.draw_reply(request, fault)
        self._drew = True
        pieces: list[bytes]
        if fault == "cut before":
            return self.cut()
        if fault == "504":
            return self._fail(fault)
        if request.stream:
            events = [json.dumps(chunk) for chunk in protocol.stream_chunks(request, whole, draws)]
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
            return self._finish(_head(200, kind, length) + b"".join(pieces), close=request.stream)
        if not request.stream:
            longest = max((len(draw.tokens) for draw in draws), default=0)
            return self._after(token_s * longest, lambda: self._finish(_head(200, kind, length) + pieces[0]))
        self._transport.write(_head(200, kind, length))
        self._stream(pieces, token_s)

    def _finish(self, data: bytes, close: bool = False) -> None:
        """Send the rest of a reply, then take the next request. The tally is final before the client can read it."""
        self._release()
        self._transport.write(data)
        if close:
            self._transport.close()
        else:
            self._busy = False
            if self._buffer:
                self._next()

    def _stream(self, pieces: list[bytes], token_s: float) -> None:
        if len(pieces) == 1:
            return self._finish(pieces[0], close=True)
        self._transport.write(pieces[0])
        self._after(token_s, lambda: self._stream(pieces[1:], token_s))

    def _send_endlessly(self, fault: str) -> None:
        """Send the same piece again and again until the client leaves, for `MAX_ENDLESS_S` at most."""
        head, piece, pause_s = attacks.ENDLESS[fault]
        self._transport.write(head)
        ends_at = self._loop.time() + attacks.MAX_ENDLESS_S

        def more() -> None:
            if self._loop.time() > ends_at or self._transport.is_closing():
                return self._close()
            if self._transport.get_write_buffer_size() < 1 << 20:
                self._transport.write(piece)
            self._after(pause_s, more)

        more()

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        if seconds > 0:
            self._timer = self._loop.call_later(seconds, call)
        else:
            call()

    def _fail(self, fault: str) -> None:
        """Send a fault instead of a reply."""
        status = FAULTS[fault].status
        headers = ""
        if fault in ("429", "503"):
            headers = f"retry-after: {self._settings.retry_after_s:g}\r\n"
        elif fault in ("429 now", "429 past"):
            headers = f"retry-after: {'0' if fault == '429 now' else formatdate(time.time() - 60, usegmt=True)}\r\n"
        elif fault == "429 date":  # whole seconds, rounded up: an earlier date would shorten the pause
            headers = f"retry-after: {formatdate(time.time() + self._settings.retry_after_s + 1, usegmt=True)}\r\n"
        if fault in ("html", "502", "504"):
            return self._finish(_head(status, b"text/html", len(PAGE)) + PAGE)
        error = {"message": FAULTS[fault].about, "type": "server_error", "param": None, "code": None}
        self._send(status, {"error": error}, headers)

    def _refuse(self, refused: protocol.RequestRefused) -> None:
        error = {"message": refused.message, "type": "invalid_request_error", "param": refused.param, "code": None}
        self._send(refused.status, {"error": error})

    def _send(self, status: int, body: Json, headers: str = "") -> None:
        data = json.dumps(body).encode()
        self._finish(_head(status, b"application/json", len(data), headers) + data)

    def _close(self) -> None:
        self._release()
        self._transport.close()

    def _release(self) -> None:
        self._tally.in_flight -= self._counted
        self._counted = False


def _head(status: int, kind: bytes, length: int | None, headers: str = "") -> bytes:
    content_length = b"" if length is None else b"content-length: %d\r\n" % length
    reason = REASONS[status].encode()
    return b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\n%s%s\r\n" % (status, reason, kind, content_length, headers.encode())


def _json(body: bytes) -> Json:
    try:
        return json.loads(body.decode())  # faster than guessing the encoding
    except ValueError:
        raise protocol.RequestRefused(400, "the body is not JSON") from None
