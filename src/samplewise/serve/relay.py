"""Pass a request on whole to the endpoint behind an engine, and its reply back.

Recipes choose among texts. A request with tools, images or audio has other parts, which no recipe reads, so the recipe
steps aside: the endpoint gets the request as it stands, once, and its own reply comes back. Where recipes vote over
calls of tools, the endpoint gets it once for each draw, with the draw's own seed (`CallingEngine`).

What such a request costs follows the rules of the engine's own: one that was rejected, or never sent, costs nothing,
one that the endpoint may have worked on costs what the reply says, or else its most.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from samplewise.core.errors import AuthError, BadRequest, EngineError, EngineUnavailable, RateLimited, SamplewiseError
from samplewise.core.types import Ask, Capability, Completion, Finish, Generate, Json, Message, Usage
from samplewise.engines.base import Arrival, Engine, Hear, failed
from samplewise.serve.drawn import FrontEngine
from samplewise.serve.fields import IGNORED, join_fields
from samplewise.serve.replies import FinalChoice
from samplewise.serve.wire import Call, RequestError

DRAWN = ("temperature", "top_p", "top_k", "min_p", "stop", "seed", "n")  # of a draw that is one of several
SEEDS = 1 << 31  # as other draws are seeded: servers that keep 32 bits refuse or truncate more
OURS = ("samplewise", "stream", "stream_options", "model", "max_tokens", "max_completion_tokens")
MAX_REPLY = 32 << 20  # bytes


class EndpointReply(Protocol):
    """An HTTP reply."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def body(self) -> Json: ...

    @property
    def message(self) -> str: ...

    @property
    def seconds(self) -> float: ...


class EndpointClient(Protocol):
    """Sends JSON to one base URL. Raises EngineError."""

    async def post(self, path: str, body: Json | bytes, max_bytes: int = ...) -> EndpointReply: ...


@runtime_checkable
class HasEndpoint(Protocol):
    """An engine in front of an endpoint, or several replicas of one. `model` is the name of its model there, `profile`
    what is known of it so far, as the engine's factory takes it for `probe`."""

    @property
    def clients(self) -> Sequence[EndpointClient]: ...

    @property
    def model(self) -> str | None: ...

    @property
    def profile(self) -> Json: ...

    def bill_relayed(self, reply: EndpointReply, worst: Usage) -> Usage: ...


class Relayed(NamedTuple):
    """What became of a request that was passed on: its choices, or the error in their place, and what it cost."""

    usage: Usage
    choices: tuple[FinalChoice, ...] = ()
    error: RequestError | SamplewiseError | None = None


class _Outcome(NamedTuple):
    """The reply to a request, or the error in its place, and what the request cost."""

    usage: Usage
    reply: EndpointReply | None = None
    error: SamplewiseError | None = None


class Relay:
    """Passes requests on to the endpoint behind an engine, with the fields that the operator adds to every request."""

    def __init__(self, engine: Engine, extra: Mapping[str, Json]) -> None:
        assert isinstance(engine, HasEndpoint)
        self._engine, self._endpoint, self._extra = engine, engine, dict(extra)

    def worst_case(self, call: Call, max_tokens: int, n: int | None = None) -> Usage:
        """Return the most that a request for n choices can cost, by default those that the call asks for.

        What an image behind an address costs is not known before.
        """
        num = call.n if n is None else n
        prompt = (Message("user", json.dumps(call.raw)),)
        one = self._engine.worst_case(Generate(prompt, max_tokens=max_tokens))
        return Usage(1, one.prompt_tokens, one.completion_tokens * num, usd=one.usd * num)

    async def send(self, call: Call, max_tokens: int) -> Relayed:
        """Return the endpoint's choices and what they cost. An error is a value.

        Costs one request. It is not sent again.
        """
        raw = {name: value for name, value in call.raw.items() if name not in OURS}
        body = {**join_fields(self._extra, raw), **self._limit(max_tokens)}
        usage, reply, error = await self._post(body, self.worst_case(call, max_tokens))
        if reply is None:
            return Relayed(usage, error=error)
        if reply.status != 200 or not isinstance(reply.body, dict):
            return Relayed(usage, error=_refusal(reply))
        try:
            return Relayed(usage, tuple(parse_choices(reply.body)))
        except RequestError as raised:
            return Relayed(usage, error=raised)

    async def draw(self, call: Call, ask: Generate) -> Completion:
        """Return one draw of a request that may call tools: its text is the choice of the reply, as JSON.

        The draw's own sampling and seed take the place of the request's. A failure is a value, as of every engine.
        Costs one request. Raises SetupError.
        """
        findings = self._engine.findings() or {}
        raw = {name: value for name, value in call.raw.items() if name not in (*OURS, *DRAWN)}
        body = {**join_fields(self._extra, raw), **_drawn_fields(ask, findings), **self._limit(ask.max_tokens)}
        usage, reply, error = await self._post(body, self.worst_case(call, ask.max_tokens, 1))
        if isinstance(error, EngineError):
            return failed(error, usage)
        if reply is None:
            assert error is not None
            raise error
        choices = reply.body.get("choices") if reply.status == 200 and isinstance(reply.body, dict) else None
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            return failed(_failure(reply), usage, retry_after_s=_wait_s(reply))
        finish: Finish = "length" if choice.get("finish_reason") == "length" else "stop"
        return Completion(json.dumps({**choice, "index": 0}), finish, usage)

    def _limit(self, max_tokens: int) -> dict[str, Json]:
        findings = self._engine.findings() or {}
        return {"model": self._endpoint.model, findings.get("max_tokens_field") or "max_tokens": max_tokens}

    async def _post(self, body: Json, worst: Usage) -> _Outcome:
        """Send to the first replica that can be reached."""
        error: SamplewiseError = EngineUnavailable("there is no endpoint")
        for client in self._endpoint.clients:
            try:
                reply = await client.post("chat/completions", body, MAX_REPLY)
                return _Outcome(self._endpoint.bill_relayed(reply, worst), reply)
            except EngineError as raised:
                error = raised
                if getattr(raised, "sent", True):
                    return _Outcome(worst, error=error)
            except SamplewiseError as raised:  # the operator must change something
                error = raised
        return _Outcome(Usage(requests=1), error=error)


class CallingEngine(FrontEngine):
    """An engine that draws replies to one request that may call tools, whole: the endpoint sees all of its fields.

    What it draws depends on them, so they are a part of its identity.
    """

    def __init__(self, behind: Engine, relay: Relay, call: Call) -> None:
        super().__init__(behind)
        self._relay, self._call = relay, call
        fields = {name: value for name, value in call.raw.items() if name not in (*OURS, *DRAWN, *IGNORED)}
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
        self.identity = f"{behind.identity}#calls:{digest}"
        self._free = asyncio.Semaphore(max(1, behind.max_concurrency))
        self._sent: set[int] = set()  # ids of asks that were sent

    @property
    def can(self) -> frozenset[Capability]:
        return frozenset({Capability.GENERATE})

    def worst_case(self, ask: Ask) -> Usage:
        return self._relay.worst_case(self._call, ask.max_tokens if isinstance(ask, Generate) else 1, 1)

    def member(self, ask: Ask) -> Engine:
        return self

    def may_bill(self, ask: Ask) -> bool:
        return id(ask) in self._sent

    def num_drawn(self, ask: Ask) -> int | None:
        return None

    def listen(self, ask: Ask, hear: Hear) -> None:
        return

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        arrived: asyncio.Queue[Arrival] = asyncio.Queue()
        tasks = [asyncio.create_task(self._draw(position, ask, arrived)) for position, ask in enumerate(asks)]
        try:
            for _ in tasks:
                yield await arrived.get()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _draw(self, position: int, ask: Ask, arrived: asyncio.Queue[Arrival]) -> None:
        assert isinstance(ask, Generate)
        try:
            async with self._free:
                self._sent.add(id(ask))
                completion = await self._relay.draw(self._call, ask)
        except Exception as raised:  # whoever waits for the draw must hear of it
            completion = failed(EngineUnavailable(f"the draw failed: {type(raised).__name__}: {raised}"))
        arrived.put_nowait(Arrival(position, completion))


def _drawn_fields(ask: Generate, findings: Mapping[str, Json]) -> dict[str, Json]:
    """Return the fields that say how a draw is made, as far as the endpoint takes them."""
    temperature, top_k, top_p, min_p = ask.sampling[:4]
    refused = findings.get("refused") or ()
    fields: dict[str, Json] = {}
    if findings.get("temperature") is not False:
        fields["temperature"] = temperature
    for name, value, neutral in (("top_p", top_p, 1.0), ("top_k", top_k, 0), ("min_p", min_p, 0.0)):
        if value != neutral and name not in refused:
            fields[name] = value
    if findings.get("seed") is not False:
        fields["seed"] = ask.seed % SEEDS
    if ask.stop:
        fields["stop"] = list(ask.stop)
    return fields


def parse_choices(body: Mapping[str, Json]) -> list[FinalChoice]:
    """Return the choices of a chat reply, with every part of their messages. Raises RequestError if it is none."""
    listed = body.get("choices")
    choices = []
    for choice in listed if isinstance(listed, list) else []:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            break
        text = message.get("content")
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        known = ("role", "content", "reasoning_content", "reasoning")
        parts = {name: value for name, value in message.items() if name not in known and value is not None}
        finish = choice.get("finish_reason")
        choices.append(
            FinalChoice(
                text if isinstance(text, str) else "",
                finish if isinstance(finish, str) else "stop",
                reasoning if isinstance(reasoning, str) else "",
                parts=parts,
                raw_logprobs=choice.get("logprobs"),
            )
        )
    if not choices:
        raise RequestError("the endpoint's reply has no choices", status=502, code="engine_unavailable", retry=False)
    return choices


def _refusal(reply: EndpointReply) -> RequestError:
    """Return the error that an endpoint's error is for the client."""
    status = reply.status if reply.status in (400, 404, 413, 422, 429) else 502
    listed = reply.body.get("error") if isinstance(reply.body, dict) else None
    param: Any = listed.get("param") if isinstance(listed, dict) else None
    return RequestError(
        f"the endpoint answered {reply.status}: {reply.message or 'nothing'}",
        status=400 if status == 404 else status,
        param=param if isinstance(param, str) else None,
        code="rate_limit_exceeded" if status == 429 else "engine_refused" if status < 500 else "engine_unavailable",
        retry=None if status < 500 or reply.status == 503 else False,
        retry_after_s=_wait_s(reply),
    )


def _failure(reply: EndpointReply) -> EngineError:
    """Return the error that a reply without a choice is for one draw."""
    message = f"the endpoint answered {reply.status}: {reply.message or 'nothing'}"
    if reply.status == 200:
        return EngineUnavailable("the endpoint's reply has no choices")
    if reply.status == 429:
        return RateLimited(message, status=429)
    if reply.status in (401, 403):
        return AuthError(message, status=reply.status)
    if reply.status == 408 or reply.status >= 500:
        return EngineUnavailable(message, status=reply.status)
    return BadRequest(message, status=reply.status)


def _wait_s(reply: EndpointReply) -> float | None:
    """Return how many seconds the endpoint asks to wait."""
    wait = reply.headers.get("Retry-After", "")
    return float(wait) if reply.status == 429 and wait.isdigit() else None
