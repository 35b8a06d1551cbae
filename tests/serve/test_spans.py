"""OpenTelemetry spans: one of the request, a child for each draw. A tracer of the tests stands for the real one."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from samplewise.core.errors import MissingExtra
from samplewise.core.events import Arrived
from samplewise.core.types import Failure, Usage
from samplewise.serve.app import make_app
from samplewise.serve.jobs import Jobs
from samplewise.serve.plans import ServeSettings
from samplewise.serve.spans import Spans, make_spans
from samplewise.serve.upstreams import make_upstream


class RecordedSpan:
    """A span as the tests' tracer makes it."""

    def __init__(self, name: str, context: Any, kind: int, start_time: int | None, attributes: dict[str, Any]) -> None:
        self.name, self.parent, self.kind, self.start, self.attributes = name, context, kind, start_time, attributes
        self.end_time: int | None = None
        self.num_ends = 0

    def set_attributes(self, attributes: dict[str, Any]) -> None:
        self.attributes = {**self.attributes, **attributes}

    def end(self, end_time: int | None = None) -> None:
        self.end_time, self.num_ends = end_time, self.num_ends + 1


class RecordingTracer:
    """Keeps the spans that it makes."""

    def __init__(self) -> None:
        self.spans: list[RecordedSpan] = []

    def start_span(
        self, name: str, context: Any = None, kind: int = 0, start_time: int | None = None, attributes: Any = None
    ) -> RecordedSpan:
        self.spans.append(RecordedSpan(name, context, kind, start_time, dict(attributes or {})))
        return self.spans[-1]


def test_a_draw_s_span_lasts_as_long_as_the_draw() -> None:
    tracer = RecordingTracer()
    spans = Spans(tracer, now_ns=lambda: 10**10)
    span = spans.begin({}, "fast@toy", "chat")
    span.note(Arrived("q", Usage(1, 7, 3, seconds=0.25), "engine"))
    span.note(Arrived("q", Usage(1, 7, 0), "failure", Failure("RateLimited", "slow down")))
    whole, draw, failed = tracer.spans
    assert (whole.name, whole.kind, whole.num_ends) == ("chat fast@toy", 1, 0)
    assert whole.attributes["gen_ai.request.model"] == "fast@toy"
    assert (draw.parent, draw.start, draw.end_time) == (whole, 10**10 - 250_000_000, 10**10)
    assert draw.attributes == {
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 3,
        "samplewise.source": "engine",
    }
    assert failed.attributes["error.type"] == "RateLimited"


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_s_span_says_what_became_of_it(stream: bool) -> None:
    tracer = RecordingTracer()

    async def main() -> None:
        jobs = Jobs([make_upstream("toy")], ServeSettings(presets={"fast": "repeat(8) | until(lead(2)) | vote"}))
        app = make_app(jobs, spans=Spans(tracer, lambda headers: headers.get("traceparent")))
        async with TestClient(TestServer(app, handler_cancellation=True)) as client:
            body = {"model": "fast@toy", "messages": [{"role": "user", "content": "PROMPT"}], "max_tokens": 4}
            headers = {"traceparent": "00-1-2-01"}
            async with client.post(
                "/v1/chat/completions", json={**body, "stream": stream}, headers=headers
            ) as response:
                await response.read()
            async with client.post("/v1/chat/completions", json={**body, "oops": 1}) as response:
                assert response.status == 400

    asyncio.run(asyncio.wait_for(main(), 20))
    whole, *draws = tracer.spans
    assert whole.parent == "00-1-2-01"
    assert (whole.num_ends, whole.attributes["http.response.status_code"]) == (1, 200)
    assert whole.attributes["samplewise.preset"] == "fast"
    assert whole.attributes["samplewise.draws"] <= len(draws)
    assert whole.attributes["gen_ai.usage.output_tokens"] == sum(
        draw.attributes["gen_ai.usage.output_tokens"] for draw in draws
    )
    assert all(draw.parent is whole and draw.num_ends == 1 for draw in draws)
    assert "PROMPT" not in str([span.attributes for span in tracer.spans])


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtra, match=r"pip install 'samplewise\[otel\]'"):
        make_spans()
