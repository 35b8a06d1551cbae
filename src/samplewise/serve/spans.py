"""OpenTelemetry spans: one for each request, and a child for each draw, judgement or helper reply.

Needs the extra `otel`. Names follow the GenAI conventions, which are still in development, so all of them stand here.
Where spans go is set by the usual variables, such as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_SERVICE_NAME.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from samplewise.core.errors import MissingExtra
from samplewise.core.events import Arrived, Event
from samplewise.core.types import Usage
from samplewise.loop.result import Result

OPERATION, PROVIDER = "gen_ai.operation.name", "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
INPUT_TOKENS, OUTPUT_TOKENS = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
ERROR, STATUS = "error.type", "http.response.status_code"
CLIENT, RUN, PRESET, DRAWS, STOP, SAVED, SOURCE = (
    f"samplewise.{name}" for name in ("client", "run", "preset", "draws", "stop", "saved_tokens", "source")
)
SERVER_KIND, CLIENT_KIND = 1, 2  # of opentelemetry.trace.SpanKind


class Spans:
    """Makes the spans of requests. `now_ns` is the time in nanoseconds since 1970."""

    def __init__(
        self,
        tracer: Any,
        parent_of: Callable[[Mapping[str, str]], Any] = lambda headers: None,
        context_of: Callable[[Any], Any] = lambda span: span,
        *,
        kind_of: Callable[[int], Any] = lambda kind: kind,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Take an OpenTelemetry tracer, what reads a caller's context out of headers, and what makes one of a span."""
        self._tracer, self._parent_of, self._context_of = tracer, parent_of, context_of
        self._kind_of, self._now_ns = kind_of, now_ns

    def begin(self, headers: Mapping[str, str], model: str, route: str) -> RequestSpan:
        """Begin the span of a request, as a child of the caller's, if its headers name one."""
        attributes = {OPERATION: "chat" if route == "chat" else "text_completion", PROVIDER: "samplewise"}
        span = self._tracer.start_span(
            f"{attributes[OPERATION]} {model[:120]}",
            context=self._parent_of(headers),
            kind=self._kind_of(SERVER_KIND),
            attributes={**attributes, REQUEST_MODEL: model[:500]},
        )
        return RequestSpan(self, span)

    def add_child(self, span: Any, event: Arrived) -> None:
        """Add the span of one sub-request, which has ended now."""
        ended = self._now_ns()
        usage = event.usage
        child = self._tracer.start_span(
            "draw",
            context=self._context_of(span),
            kind=self._kind_of(CLIENT_KIND),
            start_time=ended - max(0, round(usage.seconds * 1e9)),
            attributes={
                INPUT_TOKENS: usage.prompt_tokens,
                OUTPUT_TOKENS: usage.completion_tokens,
                SOURCE: event.source,
                **({ERROR: event.failure.kind} if event.failure is not None else {}),
            },
        )
        child.end(end_time=ended)


class RequestSpan:
    """The span of one request."""

    def __init__(self, spans: Spans, span: Any) -> None:
        self._spans, self._span = spans, span

    def note(self, event: Event) -> None:
        """Add a child for a sub-request that has ended."""
        if isinstance(event, Arrived):
            self._spans.add_child(self._span, event)

    def end(
        self, status: int, *, client: str, run: str, preset: str, paid: Usage, result: Result | None, saved: int
    ) -> None:
        """End the span with what became of the request."""
        attributes: dict[str, Any] = {
            STATUS: status,
            CLIENT: client,
            RUN: run,
            PRESET: preset,
            INPUT_TOKENS: paid.prompt_tokens,
            OUTPUT_TOKENS: paid.completion_tokens,
            SAVED: saved,
        }
        if result is not None:
            attributes |= {DRAWS: len(result.pool.candidates), STOP: result.stop.reason}
        if status >= 400:
            attributes[ERROR] = str(status)
        self._span.set_attributes(attributes)
        self._span.end()


def make_spans(exporter: Any = None) -> Spans:
    """Return spans that are sent in the background, by OTLP over HTTP unless another exporter is given.

    What is not sent yet is sent when the process ends. Raises MissingExtra.
    """
    try:
        from opentelemetry import propagate, trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
    except ImportError:
        raise MissingExtra("--otel", "otel") from None
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    kinds = {SERVER_KIND: trace.SpanKind.SERVER, CLIENT_KIND: trace.SpanKind.CLIENT}
    tracer = provider.get_tracer("samplewise")
    return Spans(tracer, propagate.extract, trace.set_span_in_context, kind_of=kinds.__getitem__)
