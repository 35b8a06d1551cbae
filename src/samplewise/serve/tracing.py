"""OpenTelemetry spans: one for each request, and within it one for each draw, helper and judge.

Spans are sent where `start_tracing` is called (`samplewise serve --otel`), or where the process was started with
OpenTelemetry in it, as by `opentelemetry-instrument samplewise serve ...`: its tracer is then used. Otherwise there are
no spans, and nothing is imported or slowed down. Names are those of OpenTelemetry's conventions for generative AI,
which are still in development, so they stand in one place. No prompt and no response is recorded.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from samplewise.core.errors import MissingExtra
from samplewise.core.types import Ask, Completion, Generate, Json
from samplewise.engines.base import Arrival, Engine
from samplewise.serve.drawn import FrontEngine

OPERATION, PROVIDER, MODEL = "gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model"
TEMPERATURE, LIMIT = "gen_ai.request.temperature", "gen_ai.request.max_tokens"
CHOICES = "gen_ai.request.choice.count"
TOKENS_IN, TOKENS_OUT = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
ERROR = "error.type"
OURS = "samplewise."


class Tracing:
    """Makes spans by a tracer of OpenTelemetry's API. `api` is its module `opentelemetry.trace`."""

    def __init__(self, tracer: Any, api: Any, extract: Any) -> None:
        self._tracer, self._api, self._extract = tracer, api, extract

    def begin(self, route: str, headers: Mapping[str, str]) -> RequestSpan:
        """Begin the span of a request, within the one that its headers name."""
        parent = self._extract({name.lower(): value for name, value in headers.items()})
        attributes = {OPERATION: "chat" if route == "chat" else "text_completion", PROVIDER: "samplewise"}
        span = self._tracer.start_span(
            f"{attributes[OPERATION]} samplewise", context=parent, kind=self._api.SpanKind.SERVER, attributes=attributes
        )
        return RequestSpan(self._tracer, self._api, span)


class RequestSpan:
    """The span of one request."""

    def __init__(self, tracer: Any, api: Any, span: Any) -> None:
        self._tracer, self._api, self._span = tracer, api, span

    def watch(self, engine: Engine) -> Engine:
        """Return the engine with a span for each ask, within this one."""
        return TracedEngine(engine, self)

    def begin_ask(self, ask: Ask) -> Any:
        """Begin the span of an ask."""
        attributes: dict[str, Json] = {OPERATION: "text_completion"}
        role = "score"
        if isinstance(ask, Generate):
            role = f"ask {ask.engine}" if ask.engine else "draw"
            attributes |= {TEMPERATURE: ask.sampling.temperature, LIMIT: ask.max_tokens, f"{OURS}index": ask.draw}
        return self._begin(role, attributes)

    def begin_relay(self, num: int, max_tokens: int) -> Any:
        """Begin the span of a request that goes to the endpoint as it stands, for so many choices."""
        attributes: dict[str, Json] = {OPERATION: "chat", LIMIT: max_tokens, CHOICES: num}
        return self._begin("relay", attributes)

    def _begin(self, name: str, attributes: Mapping[str, Json]) -> Any:
        return self._tracer.start_span(
            name,
            context=self._api.set_span_in_context(self._span),
            kind=self._api.SpanKind.CLIENT,
            attributes=attributes,
        )

    def end_ask(self, span: Any, completion: Completion | None) -> None:
        """End the span of an ask; without a completion it was cut off."""
        if completion is None:
            span.set_attribute(ERROR, "cancelled")
        else:
            span.set_attribute(TOKENS_IN, completion.usage.prompt_tokens)
            span.set_attribute(TOKENS_OUT, completion.usage.completion_tokens)
            span.set_attribute(f"{OURS}finish", completion.finish)
            if completion.failure is not None:
                self._fail(span, completion.failure.kind)
        span.end()

    def end(self, fields: Mapping[str, Json], error: str = "") -> None:
        """End the span of the request. `fields` are those of its line in the log."""
        names = {"model": MODEL, "tokens_in": TOKENS_IN, "tokens_out": TOKENS_OUT}
        for name, value in fields.items():
            if value is None or (isinstance(value, float) and not math.isfinite(value)):
                continue
            self._span.set_attribute(names.get(name, f"{OURS}{name}"), value)
        if error:
            self._fail(self._span, error)
        self._span.end()

    def _fail(self, span: Any, error: str) -> None:
        span.set_attribute(ERROR, error)
        span.set_status(self._api.Status(self._api.StatusCode.ERROR))


class TracedEngine(FrontEngine):
    """An engine each of whose asks has a span."""

    def __init__(self, behind: Engine, request: RequestSpan) -> None:
        super().__init__(behind)
        self._request = request

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        spans = {position: self._request.begin_ask(ask) for position, ask in enumerate(asks)}
        arrivals = self._behind.answer(asks)
        try:
            async for arrival in arrivals:
                if (span := spans.pop(arrival.position, None)) is not None:
                    self._request.end_ask(span, arrival.completion)
                yield arrival
        finally:
            if isinstance(arrivals, AsyncGenerator):
                await arrivals.aclose()
            for span in spans.values():
                self._request.end_ask(span, None)


def start_tracing(option: str = "--otel") -> Callable[[], None]:
    """Send spans by OTLP over HTTP from now on, as the variables OTEL_... say; return what sends the last of them.

    Where the process has a tracer already, that one stays. Raises MissingExtra.
    """
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise MissingExtra(option, "otel") from None
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return lambda: None
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "samplewise"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def find_tracing() -> Tracing | None:
    """Return what makes spans if OpenTelemetry runs in this process, else None."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    api = importlib.import_module("opentelemetry.trace")
    extract = importlib.import_module("opentelemetry.propagate").extract
    return Tracing(api.get_tracer("samplewise"), api, extract)
