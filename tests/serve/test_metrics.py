"""Prometheus text, log lines, and who may use the server from a browser."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import socket
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve.running import running

from samplewise.serve.log import EventLog, NoHttpFilter, log_line
from samplewise.serve.metrics import MAX_SERIES, Histogram, Metrics
from samplewise.serve.origin import cors_headers, foreign_origin

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\+Inf|-?[0-9.]+(?:e[+-]?[0-9]+)?)")


def parsed(text: str) -> dict[str, float]:
    """Return the samples of a page by name and labels; every line must be of the format."""
    assert text.endswith("\n")
    samples: dict[str, float] = {}
    typed: dict[str, str] = {}
    for line in text[:-1].split("\n"):
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in typed
            typed[name] = kind
        elif not line.startswith("# HELP "):
            match = SAMPLE.fullmatch(line)
            assert match, line
            family = re.sub("_(bucket|sum|count)$", "", match[1]) if match[1] not in typed else match[1]
            assert typed[family] == ("histogram" if family != match[1] else typed[match[1]])
            key = line.rpartition(" ")[0]
            assert key not in samples
            samples[key] = float(match[3])
    return samples


def test_exact_text_of_a_histogram() -> None:
    histogram = Histogram((1.0, 2.5))
    for value in (0.5, 1.0, 1.25, 7.0, math.nan, math.inf):
        histogram.observe(value)
    assert histogram.lines("x") == [
        'x_bucket{le="1"} 2',
        'x_bucket{le="2.5"} 3',
        'x_bucket{le="+Inf"} 4',
        "x_sum 9.75",
        "x_count 4",
    ]


def test_what_was_counted_is_shown() -> None:
    metrics = Metrics()
    metrics.observe_request("fast", "qwen", 200, 0.2, 0.1)
    metrics.observe_request("fast", "qwen", 200, 3.0, 0.1)
    metrics.observe_request("fast", "qwen", 429, 0.001)
    metrics.add_tokens("prompt", 10)
    metrics.add_tokens("completion", 32)
    metrics.add_tokens("completion", 8)
    metrics.add_saved(100)
    metrics.observe_draws(3)
    metrics.set_in_flight(2)
    metrics.set_queue(1)
    samples = parsed(metrics.render())
    expected = {
        'samplewise_requests_total{recipe="fast",model="qwen",code="200"}': 2,
        'samplewise_requests_total{recipe="fast",model="qwen",code="429"}': 1,
        'samplewise_tokens_total{kind="prompt"}': 10,
        'samplewise_tokens_total{kind="completion"}': 40,
        "samplewise_saved_tokens_total": 100,
        "samplewise_draws_count": 1,
        'samplewise_draws_bucket{le="2"}': 0,
        'samplewise_draws_bucket{le="4"}': 1,
        "samplewise_request_seconds_count": 3,
        'samplewise_request_seconds_bucket{le="0.25"}': 2,
        "samplewise_first_byte_seconds_count": 2,
        "samplewise_in_flight": 2,
        "samplewise_queue": 1,
    }
    assert {name: samples[name] for name in expected} == expected
    assert len(parsed(Metrics().render())) == 2 * 19 + 13 + 3


@given(recipe=st.text(), model=st.text())
def test_no_label_forges_a_line(recipe: str, model: str) -> None:
    metrics = Metrics()
    metrics.observe_request(recipe, model, 200, 0.1)
    text = metrics.render()
    text.encode("utf-8")
    samples = [line for line in text.split("\n") if line.startswith("samplewise_requests_total")]
    assert len(samples) == 1
    match = SAMPLE.fullmatch(samples[0])
    assert match
    unescaped = [
        re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value)
        for value in re.findall(r'="((?:[^"\\\n]|\\["\\n])*)"', match[2])
    ]
    assert unescaped == [
        recipe[:120].encode("utf-8", "replace").decode(),
        model[:120].encode("utf-8", "replace").decode(),
        "200",
    ]


def test_clients_cannot_make_series_without_end() -> None:
    metrics = Metrics()
    for index in range(5 * MAX_SERIES):
        metrics.observe_request(f"repeat({index})", "m", 200, 0.1)
    metrics.observe_request("repeat(0)", "m", 200, 0.1)
    samples = {name: value for name, value in parsed(metrics.render()).items() if "requests_total" in name}
    assert len(samples) == MAX_SERIES + 1
    assert samples['samplewise_requests_total{recipe="other",model="other",code="200"}'] == 4 * MAX_SERIES
    assert samples['samplewise_requests_total{recipe="repeat(0)",model="m",code="200"}'] == 2


# --- log lines --------------------------------------------------------------------------------------------------------

NOON = datetime(2026, 5, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))


def test_exact_log_line() -> None:
    line = log_line("request", NOON, client="alice", code=200, seconds=math.nan, spent={"usd": math.inf, "tokens": 3})
    assert line == (
        '{"time":"2026-05-01T12:00:00.000Z","event":"request","client":"alice","code":200,"seconds":null,'
        '"spent":{"usd":null,"tokens":3}}'
    )


@given(text=st.text(max_size=2000))
def test_no_text_forges_a_log_line(text: str) -> None:
    stream = io.StringIO()
    log = EventLog(stream, now=lambda: NOON)
    log.write("request", model=text)
    written = stream.getvalue()
    assert written.endswith("\n")
    assert written.isascii()
    assert len(written.splitlines()) == 1
    assert all(char.isprintable() for char in written[:-1])
    if len(text) <= 500 and "sk-" not in text:
        assert json.loads(written)["model"] == text


def test_credentials_are_not_logged() -> None:
    line = log_line("request", NOON, error="no such key sk-sw-0123456789abcdef", headers={"Authorization": "Bearer x"})
    assert "0123456789abcdef" not in line
    assert '"Authorization":"***"' in line


def test_a_closed_stream_ends_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    EventLog(stream).write("request")


# --- browsers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "is_open", "allowed"),
    [
        ({}, True, True),
        ({"Host": "localhost:8000"}, True, True),
        ({"Host": "LOCALHOST"}, True, True),
        ({"Host": "127.0.0.1:8000"}, True, True),
        ({"Host": "127.9.9.9"}, True, True),
        ({"Host": "[::1]:8000"}, True, True),
        ({"Host": "::1"}, True, True),
        ({"Host": "evil.example:8000"}, True, False),  # a name that was turned to 127.0.0.1
        ({"Host": "127.0.0.1.evil.example"}, True, False),
        ({"Host": "localhost.evil.example"}, True, False),
        ({"Host": "[::1].evil.example"}, True, True),  # no name that resolves
        ({"Host": "box.internal:8000"}, True, True),  # --allow-host
        ({"Host": "evil.example"}, False, True),  # its keys guard it
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, True, True),
        ({"Host": "localhost:8000", "Origin": "http://localhost:3000"}, True, False),
        ({"Host": "localhost:8000", "Origin": "https://evil.example"}, True, False),
        ({"Host": "localhost", "Origin": "http://localhost.evil.example"}, True, False),
        ({"Host": "localhost:8000", "Origin": "null"}, True, False),
        ({"Host": "localhost:8000", "Origin": "http://[oops"}, True, False),
        ({"Host": "", "Origin": "null"}, True, False),
        ({"Host": "localhost:8000", "Origin": "https://app.example"}, True, True),  # --cors
        ({"Host": "me.example", "Origin": "https://evil.example"}, False, False),
        ({"Host": "me.example", "Origin": "https://me.example"}, False, True),
    ],
)
def test_who_may_use_the_server_from_a_browser(headers: dict[str, str], is_open: bool, allowed: bool) -> None:
    refusal = foreign_origin(headers, is_open=is_open, origins=("https://app.example",), hosts=("box.internal",))
    assert (refusal is None) == allowed
    assert refusal is None or "start it with --" in refusal


def test_cors_is_off_unless_allowed() -> None:
    assert cors_headers("https://a.example", ()) == {}
    assert cors_headers(None, ("*",)) == {}
    assert cors_headers("https://a.example", ("https://b.example",)) == {}
    for origins in (("https://a.example",), ("*",)):
        headers = cors_headers("https://a.example", origins)
        assert headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in headers


def test_bytes_that_are_no_http_are_one_line_without_them(tmp_path: Path) -> None:
    """As a key may be among them."""
    log = tmp_path / "log"
    with running(log, "--engine", "toy") as url:
        host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
        for head in (
            b"POST /v1/models HTTP/1.1\r\nAuthorization: Bearer sk-sw-secret\x00\r\n\r\n",
            b"\x16\x03\x01\r\n\r\n",
        ):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head)
                assert connection.recv(100).startswith(b"HTTP/1.0 400")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Encoding: gzip\r\n"
                b"Content-Length: 6\r\n\r\nsecret"
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 415")
            assert b"uncompressed" in connection.recv(4000)
    text = log.read_text()
    assert "Traceback" not in text
    assert "secret" not in text
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert {(line["event"], line["code"]) for line in lines} == {("no_http", 400), ("request", 415)}
    assert [line.get("error") for line in lines].count("ContentEncodingError") == 1


def test_other_errors_of_the_http_server_keep_their_traceback() -> None:
    passing = NoHttpFilter(None)
    record = logging.LogRecord("aiohttp.server", logging.ERROR, "", 0, "no", (), (ValueError, ValueError("x"), None))
    assert passing.filter(record)
    assert passing.filter(logging.LogRecord("aiohttp.server", logging.ERROR, "", 0, "no", (), None))
