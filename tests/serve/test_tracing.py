"""Spans: one for each request, and within it one for each ask, where OpenTelemetry runs in the process."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
from tests.serve.serving import Served, served_at, serving
from tests.support.script import Script, completion, reply

from samplewise.serve import tracing
from samplewise.serve.tracing import Tracing


class Kind:
    SERVER, CLIENT = "server", "client"


class Code:
    ERROR = "error"


class FakeSpan:
    """A span that remembers."""

    def __init__(self, name: str, parent: Any, kind: str, attributes: dict[str, Any]) -> None:
        self.name, self.parent, self.kind, self.attributes = name, parent, kind, dict(attributes)
        self.num_ends, self.status = 0, ""

    def set_attribute(self, name: str, value: Any) -> None:
        assert isinstance(value, str | bool | int | float)
        self.attributes[name] = value

    def set_status(self, status: str) -> None:
        self.status = status

    def end(self) -> None:
        self.num_ends += 1


class FakeApi(NamedTuple):
    """As much of OpenTelemetry as is used."""

    spans: list[FakeSpan]
    SpanKind = Kind
    StatusCode = Code

    def start_span(self, name: str, *, context: Any, kind: str, attributes: dict[str, Any]) -> FakeSpan:
        self.spans.append(FakeSpan(name, context, kind, attributes))
        return self.spans[-1]

    def set_span_in_context(self, span: FakeSpan) -> Any:
        return ("within", span)

    def Status(self, code: str) -> str:  # its name there
        return code


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def traced(served: Served) -> list[FakeSpan]:
    api = FakeApi([])
    served.service._tracing = Tracing(api, api, lambda headers: headers.get("traceparent"))
    return api.spans


def test_a_request_and_its_draws_have_spans() -> None:
    async def go() -> None:
        async with serving() as served:
            spans = traced(served)
            got = await served.post(model="vote4@toy", headers={"Traceparent": "t1"})
            await served.logged(1)
            request, *draws = spans
            assert (request.name, request.parent, request.kind) == ("chat samplewise", "t1", "server")
            assert request.attributes["gen_ai.operation.name"] == "chat"
            assert request.attributes["gen_ai.request.model"] == "toy"
            assert request.attributes["gen_ai.usage.input_tokens"] == got.body["usage"]["prompt_tokens"]
            assert request.attributes["gen_ai.usage.output_tokens"] == got.body["usage"]["completion_tokens"]
            assert request.attributes["samplewise.run"] == got.body["samplewise"]["run"]
            assert request.attributes["samplewise.recipe"] == "vote4"
            assert request.attributes["samplewise.draws"] == 4
            assert not request.status
            assert [draw.name for draw in draws] == ["draw"] * 4
            assert all(draw.parent == ("within", request) and draw.kind == "client" for draw in draws)
            assert [draw.attributes["samplewise.index"] for draw in draws] == [0, 1, 2, 3]
            spent = sum(draw.attributes["gen_ai.usage.output_tokens"] for draw in draws)
            assert spent == got.body["usage"]["completion_tokens"]
            assert all(span.num_ends == 1 for span in spans)
            text = got.body["choices"][0]["message"]["content"]
            assert not any(value == text for span in spans for value in span.attributes.values())

    run(go())


def test_failures_are_marked() -> None:
    answers = iter([reply({"error": {"message": "no"}}, 400), reply(completion("a"))])

    async def go() -> None:
        async with Script(lambda seen: next(answers)).serving() as url, served_at(url) as served:
            spans = traced(served)
            assert (await served.post(model="repeat(2, wave=1) | vote@toy")).status == 200
            await served.logged(1)
            assert [span.status for span in spans] == ["", "error", ""]
            assert spans[1].attributes["error.type"] == "BadRequest"
            assert (await served.post(colour=1)).status == 400
            await served.logged(2)
            assert (spans[3].status, spans[3].attributes["error.type"]) == ("error", "unknown_parameter")
            assert all(span.num_ends == 1 for span in spans)

    run(go())


def test_what_is_cut_off_is_ended() -> None:
    async def wait(seen: Any) -> bytes:
        await asyncio.sleep(10)
        return b""

    async def go() -> None:
        script = Script(wait)
        async with script.serving() as url, served_at(url) as served:
            spans = traced(served)
            sent = asyncio.create_task(served.post(model="vote4@toy"))
            while len(script.seen) < 4:
                await asyncio.sleep(0.005)
            sent.cancel()
            await served.logged(1)
            assert [span.attributes.get("error.type") for span in spans] == ["client_left", *["cancelled"] * 4]
            assert all(span.num_ends == 1 for span in spans)

    run(go())


def test_without_opentelemetry_there_are_no_spans() -> None:
    hidden = {name: module for name, module in sys.modules.items() if name.split(".")[0] != "opentelemetry"}
    with patch.object(sys, "modules", hidden):
        assert tracing.find_tracing() is None


def test_the_process_own_tracer_is_found() -> None:
    """With the real package, where it is installed."""
    pytest.importorskip("opentelemetry.sdk")
    import opentelemetry.trace as api
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def go() -> None:
        with patch.object(api, "get_tracer", provider.get_tracer):
            async with serving() as served:
                parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
                await served.post(model="vote4@toy", headers={"traceparent": parent})
                await served.logged(1)

    run(go())
    *draws, request = exporter.get_finished_spans()
    assert f"{request.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert [draw.name for draw in draws] == ["draw"] * 4
    assert all(draw.parent.span_id == request.context.span_id for draw in draws)
