"""Pass a request on whole to the endpoint behind an engine, and its reply back.

Recipes choose among texts. A request with tools, images or audio has other parts, which no recipe reads, so the recipe
steps aside: the endpoint gets the request as it stands, once, and its own reply comes back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from samplewise.core.errors import EngineError, EngineUnavailable
from samplewise.core.types import Generate, Json, Message, Usage
from samplewise.engines.base import Engine
from samplewise.serve.replies import FinalChoice
from samplewise.serve.wire import Call, RequestError

OURS = ("samplewise", "stream", "stream_options", "model", "max_tokens", "max_completion_tokens")
MAX_REPLY = 32 << 20  # bytes
SAMPLE = 1000  # tokens, or bytes of a prompt, from which a price is reckoned


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
    """An engine in front of an endpoint, or several replicas of one. `model` is the name of its model there."""

    @property
    def clients(self) -> Sequence[EndpointClient]: ...

    @property
    def model(self) -> str | None: ...


class Relay:
    """Passes requests on to the endpoint behind an engine, with the fields that the operator adds to every request."""

    def __init__(self, engine: Engine, extra: Mapping[str, Json]) -> None:
        assert isinstance(engine, HasEndpoint)
        self._engine, self._endpoint, self._extra = engine, engine, dict(extra)

    def worst_case(self, call: Call, max_tokens: int) -> Usage:
        """Return the most that a request can cost. What an image behind an address costs is not known before."""
        prompt = (Message("user", json.dumps(call.raw)),)
        one = self._engine.worst_case(Generate(prompt, max_tokens=max_tokens))
        return Usage(1, one.prompt_tokens, one.completion_tokens * call.n, usd=one.usd * call.n)

    async def send(self, call: Call, max_tokens: int) -> tuple[list[FinalChoice], Usage]:
        """Return the endpoint's choices and what they cost. Raises RequestError for its errors, and EngineError.

        Costs one request. It is not sent again.
        """
        findings = self._engine.findings() or {}
        field = findings.get("max_tokens_field") or "max_tokens"
        raw = {name: value for name, value in call.raw.items() if name not in OURS}
        body = {**self._extra, **raw, "model": self._endpoint.model, field: max_tokens}
        reply = await self._post(body)
        if reply.status != 200 or not isinstance(reply.body, dict):
            raise _refusal(reply)
        return parse_choices(reply.body), self._usage(reply, call, max_tokens)

    async def _post(self, body: Json) -> EndpointReply:
        """Send to the first replica that can be reached."""
        error: EngineError = EngineUnavailable("there is no endpoint")
        for client in self._endpoint.clients:
            try:
                return await client.post("chat/completions", body, MAX_REPLY)
            except EngineUnavailable as raised:
                error = raised
                if getattr(raised, "sent", True):
                    break
        raise error

    def _usage(self, reply: EndpointReply, call: Call, max_tokens: int) -> Usage:
        """Return what the reply says that it cost, or the most that it can have."""
        listed = reply.body.get("usage")
        if not isinstance(listed, dict):
            return self.worst_case(call, max_tokens)
        prompt, new = _count(listed, "prompt_tokens"), _count(listed, "completion_tokens")
        cached = _count(listed.get("prompt_tokens_details"), "cached_tokens")
        reasoning = _count(listed.get("completion_tokens_details"), "reasoning_tokens")
        of_prompt, of_new = self._prices()
        return Usage(1, prompt, new, cached, reasoning, prompt * of_prompt + new * of_new, reply.seconds)

    def _prices(self) -> tuple[float, float]:
        """Return the price of a prompt token and of a new one in USD, from what the engine reckons; nan if unknown."""
        nothing = self._engine.worst_case(Generate((), max_tokens=0))
        prompt = self._engine.worst_case(Generate((Message("user", "x" * SAMPLE),), max_tokens=0))
        new = self._engine.worst_case(Generate((), max_tokens=SAMPLE))
        num = max(1, prompt.prompt_tokens - nothing.prompt_tokens)
        return (prompt.usd - nothing.usd) / num, (new.usd - nothing.usd) / SAMPLE


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
    wait = reply.headers.get("Retry-After", "")
    return RequestError(
        f"the endpoint answered {reply.status}: {reply.message or 'nothing'}",
        status=400 if status == 404 else status,
        param=param if isinstance(param, str) else None,
        code="rate_limit_exceeded" if status == 429 else "engine_refused" if status < 500 else "engine_unavailable",
        retry=None if status < 500 else False,
        retry_after_s=float(wait) if status == 429 and wait.isdigit() else None,
    )


def _count(counts: Json, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if type(value) is int and value >= 0 else 0
