"""Spans: one for each request, and within it one for each ask, where OpenTelemetry runs in the process."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
import threading
import urllib.request
from collections.abc import Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import opentelemetry.trace as api
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.serve.running import running
from tests.serve.serving import Served, served_at, serving
from tests.support.script import Script, completion, reply

from samplewise.core.errors import MissingExtra
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


class Recorded:
    """The process' own tracer, of the real package, with an exporter in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> list[Any]:
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    known = Recorded()
    with patch.object(api, "get_tracer", known.provider.get_tracer):
        yield known
    known.provider.shutdown()


def test_the_process_own_tracer_is_found(recorded: Recorded) -> None:
    async def go() -> None:
        async with serving() as served:
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            await served.post(model="vote4@toy", headers={"traceparent": parent})
            await served.logged(1)

    run(go())
    *draws, request = recorded.spans
    assert f"{request.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    assert request.kind is api.SpanKind.SERVER
    assert [draw.name for draw in draws] == ["draw"] * 4
    assert all(draw.parent.span_id == request.context.span_id for draw in draws)
    assert all(draw.kind is api.SpanKind.CLIENT for draw in draws)
    assert sorted(draw.attributes["samplewise.index"] for draw in draws) == [0, 1, 2, 3]
    spent = sum(draw.attributes["gen_ai.usage.output_tokens"] for draw in draws)
    assert spent == request.attributes["gen_ai.usage.output_tokens"] > 0
    assert all(request.start_time <= span.start_time <= span.end_time <= request.end_time for span in draws)


def test_each_request_to_the_endpoint_is_a_span(recorded: Recorded) -> None:
    """Draws, one of which fails, requests with tools that are relayed, and such that are voted on."""
    tools = [{"type": "function", "function": {"name": "add"}}]
    codes = iter([200, 400, 200, 400, 200, 503, 200, 200, 200])

    def answer(seen: Any) -> bytes:
        code = next(codes)
        return reply(completion("a") if code == 200 else {"error": {"message": "no"}}, code)

    async def go() -> None:
        async with Script(answer).serving() as url:
            async with served_at(url) as served:
                assert (await served.post(model="repeat(2, wave=1) | vote@toy")).status == 200
                assert (await served.post(tools=tools)).status == 200
                assert (await served.post(tools=tools)).status == 400
            async with served_at(url, tools="vote") as served:
                assert (await served.post(model="vote4@toy", tools=tools)).status == 200
                await served.logged(1)

    run(go())
    spans = recorded.spans
    requests = [span for span in spans if span.parent is None]
    under = [[s for s in spans if s.parent and s.parent.span_id == r.context.span_id] for r in requests]
    assert [[span.name for span in each] for each in under] == [["draw"] * 2, ["relay"], ["relay"], ["draw"] * 5]
    errors = [[e for span in each if (e := span.attributes.get("error.type"))] for each in under]
    assert errors == [["BadRequest"], [], ["engine_refused"], ["EngineUnavailable"]]
    failed = [span for span in spans if span.status.status_code is api.StatusCode.ERROR]
    assert len(failed) == 4  # two draws, the relayed request, and the request itself
    (relayed,) = under[1]
    assert relayed.attributes["gen_ai.usage.output_tokens"] == 5
    assert "gen_ai.request.temperature" not in relayed.attributes
    assert len({span.context.span_id for span in spans}) == len(spans) == 13
    texts = [value for span in spans for value in span.attributes.values()]
    assert "a" not in texts
    assert "hi" not in texts


def test_spans_are_sent_to_a_collector(tmp_path: Path) -> None:
    """By `--otel`: the whole way from the command to what a collector receives."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            data = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *words: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with (
            patch.dict(os.environ, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{server.server_port}"),
            running(tmp_path / "log", "--engine", "toy", "--otel") as url,
        ):
            body = json.dumps({"model": "vote8@toy", "prompt": "hi"}).encode()
            with urllib.request.urlopen(urllib.request.Request(f"{url}/completions", body)) as response:
                assert response.status == 200
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    spans, services = [], set()
    for data in bodies:
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            services |= {each.value.string_value for each in resource.resource.attributes if each.key == "service.name"}
            spans += [span for scope in resource.scope_spans for span in scope.spans]
    assert services == {"samplewise"}
    assert sorted(span.name for span in spans) == ["draw"] * 8 + ["text_completion samplewise"]


def test_without_the_package_the_flag_names_the_extra() -> None:
    with patch.dict(sys.modules, {"opentelemetry.sdk.trace": None}), pytest.raises(MissingExtra, match=r"\[otel\]"):
        tracing.start_tracing()


def test_a_tracer_that_is_there_stays() -> None:
    provider = TracerProvider()
    with (
        patch.object(api, "get_tracer_provider", lambda: provider),
        patch.object(api, "set_tracer_provider") as setting,
    ):
        tracing.start_tracing()()
    setting.assert_not_called()
    provider.shutdown()
