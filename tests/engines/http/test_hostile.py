"""The http engine against a hostile endpoint: keys, bombs, replies without end, control characters, false bills."""

from __future__ import annotations

import asyncio
import json
import resource
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tests.engines.http.test_faults import ran
from tests.support.script import Script, completion, reply

from samplewise.core.errors import RateLimited, SamplewiseError, SetupError
from samplewise.core.types import Completion, Generate, Message
from samplewise.engines.http import http
from samplewise.engines.http.engine import HttpEngine
from samplewise.engines.http.transport.body import BadEncoding, Inflater
from samplewise.engines.http.transport.client import Client, is_loopback
from samplewise.engines.http.transport.pace import Pace, retry_after_s
from samplewise.testing.endpoint import Endpoint, EndpointSettings, serving

PROMPT = (Message("user", "spell a word"),)
KEY = "sk-or-v1/12+abcdefgh"


def asks(num: int, **fields: Any) -> list[Generate]:
    ask = Generate(PROMPT, max_tokens=16)._replace(**fields)
    return [ask._replace(seed=1000 + 7 * i, draw=i) for i in range(num)]


async def answered(engine: HttpEngine, wanted: list[Generate]) -> list[Completion]:
    await engine.open()
    arrivals = [arrival async for arrival in engine.answer(wanted)]
    return [arrival.completion for arrival in sorted(arrivals)]


def drawn(settings: EndpointSettings, num: int = 1, **options: Any) -> tuple[list[Completion], HttpEngine, Endpoint]:
    """Return the completions of `num` asks, and both sides."""
    endpoint = Endpoint(settings)

    async def go() -> tuple[list[Completion], HttpEngine]:
        async with endpoint as url:
            given = {"probe": "never", "patience_s": 0.0, "api_key": settings.api_key, **options}
            engine = http("toy", base_url=url, **given)
            try:
                return await answered(engine, asks(num)), engine
            finally:
                await engine.close()

    return *asyncio.run(asyncio.wait_for(go(), 60)), endpoint


def message_of(settings: EndpointSettings, **options: Any) -> str:
    """Return the failure's message, or that of the error that ended the run."""
    try:
        completions, _, _ = drawn(settings, **options)
    except SamplewiseError as error:
        return str(error)
    assert completions[0].failure is not None
    return completions[0].failure.message


# --- keys and control characters --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("attack", ["key 400", "key 200", "key choice", "key redirect"])
def test_a_key_that_an_endpoint_repeats_is_in_no_message(attack: str, stream: bool) -> None:
    message = message_of(EndpointSettings(api_key=KEY, plan=(attack,)), stream=stream)
    assert KEY not in message
    assert "***" in message


@pytest.mark.parametrize("attack", ["key 200", "key choice", "key 400", "key text"])
def test_a_key_is_nowhere_in_the_store(attack: str, tmp_path: Path) -> None:
    """Nor in what a run says, its events and the texts of draws included."""
    settings = EndpointSettings(api_key=KEY, faults={attack: 1.0}, retry_after_s=0.0)
    extra = {"auth_token": "hunter22"}
    said = ""
    try:
        ran(settings, tmp_path / "s.db", api_key=KEY, n="never", patience_s=5.0, extra=extra)
    except SamplewiseError as error:
        said = str(error)
    assert KEY not in said
    data = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"say" in data
    assert KEY.encode() not in data
    assert b"hunter22" not in data


def test_credentials_in_extra_are_not_part_of_the_identity() -> None:
    def identity(extra: dict[str, Any] | None, **options: Any) -> str:
        return http("m", base_url="http://127.0.0.1:9/v1", extra=extra, **options).identity

    assert identity({"reasoning_effort": "low"}) == 'http:m:chat@http://127.0.0.1:9/v1?{"reasoning_effort": "low"}'
    assert identity(None) == "http:m:chat@http://127.0.0.1:9/v1"
    secret = identity({"provider": {"api_key": "abc"}, "b": 1})
    assert secret == 'http:m:chat@http://127.0.0.1:9/v1?{"b": 1, "provider": {"api_key": "***"}}'
    assert secret == identity({"provider": {"api_key": "another"}, "b": 1})


@pytest.mark.parametrize("attack", ["controls", "garbage"])
def test_messages_are_one_printable_line(attack: str) -> None:
    message = message_of(EndpointSettings(plan=(attack,)))
    assert message.isprintable()
    assert len(message) < 600


def test_a_page_is_called_what_it_is() -> None:
    message = message_of(EndpointSettings(plan=("html",)))
    assert "the reply is not JSON: Something is wrong" in message
    assert "the reply broke off" in message_of(EndpointSettings(plan=("cut middle",)))


# --- bombs and replies without end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["gzip bomb", "deflate bomb", "endless text"])
def test_a_reply_is_not_read_beyond_what_it_can_need(attack: str) -> None:
    """256 MB as a few hundred kilobytes: read up to 32 MB."""
    settings = EndpointSettings(plan=(attack,) * 2, bomb_mb=256)
    with serving(settings) as endpoint:  # in a process of its own its memory would not count; it is small

        async def go() -> list[Completion]:
            engine = http("toy", base_url=endpoint.url, probe="never", n="never")
            try:
                return await answered(engine, asks(2))
            finally:
                await engine.close()

        started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        completions = asyncio.run(asyncio.wait_for(go(), 60))
        grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert [c.failure.message.partition(": ")[2] for c in completions if c.failure] == [
        "a reply of more than 32 MB, which is not read"
    ] * 2
    assert time.monotonic() - started < 30
    assert grown_mb < 400


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_compressed_reply_is_read(encoding: str) -> None:
    import gzip
    import zlib

    raw = json.dumps(completion("a b c")).encode() * 1
    raw_deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bodies = [gzip.compress(raw)] if encoding == "gzip" else [zlib.compress(raw)]
    if encoding == "deflate":  # as some servers send it
        bodies.append(raw_deflate.compress(raw) + raw_deflate.flush())
    else:
        bodies.append(gzip.compress(raw[:40]) + gzip.compress(raw[40:]))

    for packed in bodies:

        def answer(seen: Any, packed: bytes = packed) -> bytes:
            assert seen.headers["accept-encoding"] == "gzip, deflate"
            head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {encoding}\r\ncontent-length: {len(packed)}\r\n\r\n"
            return head.encode() + packed

        async def go(script: Script) -> Any:
            async with script.serving() as url:
                client = Client(url)
                try:
                    return (await client.post("chat/completions", {})).body
                finally:
                    await client.close()

        assert asyncio.run(go(Script(answer))) == completion("a b c")


def test_what_is_not_in_its_encoding_is_no_reply() -> None:
    with pytest.raises(BadEncoding, match="not in the encoding"):
        list(Inflater("gzip").add(b"not gzip"))
    with pytest.raises(BadEncoding):
        list(Inflater("deflate").add(b"\xff\xff\xff"))


def test_a_stream_of_tokens_without_end_is_cut_and_billed() -> None:
    """Read up to 8 pieces a token and a few, then the connection is closed; what came is a draw that was cut."""
    (completion_,), engine, _ = drawn(EndpointSettings(plan=("endless stream",)), stream=True)
    assert completion_.finish == "length"
    num_words = len(completion_.text.split())
    assert 8 * 16 + 256 < num_words < 8 * 16 + 256 + 5000
    assert completion_.usage.completion_tokens >= num_words
    assert any(note.startswith("does not keep max_tokens (a draw of ") for note in engine.notes)


def test_a_line_without_end_is_given_up() -> None:
    tracemalloc.start()
    message = message_of(EndpointSettings(plan=("endless line",)), stream=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "a reply of more than 32 MB" in message
    assert peak < 200 << 20


def test_comments_alone_do_not_hold_a_request_for_ever() -> None:
    started = time.monotonic()
    settings = EndpointSettings(plan=("endless comments",))
    message = message_of(settings, stream=True, timeout_s=0.5, idle_timeout_s=5.0)
    assert "nothing but keep-alive comments for 0.5 s" in message
    assert time.monotonic() - started < 5


# --- bills ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_n", [1, 8])
def test_an_endpoint_that_ignores_max_tokens_is_charged_what_it_drew(max_n: int) -> None:
    """16 tokens were allowed, 5,000 drawn: an honest count is believed, and a note says that limits cannot hold."""
    completions, engine, endpoint = drawn(EndpointSettings(overrun=5000), 8, max_n=max_n)
    booked = sum(c.usage.completion_tokens for c in completions)
    assert booked == endpoint.tally.completion_tokens > 40_000
    assert any(note.startswith("does not keep max_tokens (a draw of ") for note in engine.notes)


def test_without_a_count_what_was_evidently_drawn_is_estimated() -> None:
    """Words of five bytes: an estimate of four bytes a token, never the 16 tokens that were allowed."""
    settings = EndpointSettings(overrun=5000, faults={"usage absent": 1.0})
    completions, engine, endpoint = drawn(settings, 8, n="never")
    booked, billed = sum(c.usage.completion_tokens for c in completions), endpoint.tally.completion_tokens
    assert billed <= booked <= 1.3 * billed
    assert any("without a plausible token count" in note for note in engine.notes)


@pytest.mark.parametrize("usage_absent", [False, True])
def test_what_an_endpoint_draws_beyond_its_limit_is_on_the_books_of_a_run(usage_absent: bool, tmp_path: Path) -> None:
    settings = EndpointSettings(overrun=500, faults={"usage absent": 1.0} if usage_absent else {})
    found = ran(settings, tmp_path / "s.db", n="never")
    assert found.tally.tokens <= found.summary.paid.tokens <= 1.4 * found.tally.tokens


def test_choices_beyond_what_was_asked_are_dropped_and_billed() -> None:
    completions, engine, endpoint = drawn(EndpointSettings(plan=("many choices",)))
    assert len(completions) == 1
    assert completions[0].usage.completion_tokens == endpoint.tally.completion_tokens >= 100_000
    assert any("more choices than asked for" in note for note in engine.notes)


# --- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["429 now", "429 past"])
def test_a_retry_after_of_nothing_is_backed_off_from(fault: str) -> None:
    """Half a second of patience is a handful of requests, not as many as fit."""
    with pytest.raises(SetupError, match="nothing was answered"):
        drawn(EndpointSettings(faults={fault: 1.0}), patience_s=1.5)
    endpoint = Endpoint(EndpointSettings(faults={fault: 1.0}))

    async def go() -> None:
        async with endpoint as url:
            engine = http("toy", base_url=url, probe="never", patience_s=1.5)
            try:
                await answered(engine, asks(1))
            finally:
                await engine.close()

    with pytest.raises(SetupError):
        asyncio.run(go())
    assert endpoint.tally.requests < 8


def test_a_word_that_does_not_help_is_not_followed_for_ever() -> None:
    pace = Pace(16)
    pauses = []
    for _ in range(6):
        now = max(pace.resumes_at, 0.0)
        pace.record_overload(now, now, 0.001)
        pauses.append(pace.resumes_at - now)
    assert pauses[:3] == pytest.approx([0.001] * 3)
    assert pauses[3:] == pytest.approx([0.25, 0.5, 1.0])


@pytest.mark.parametrize("text", ["1_000", "-1", "nan", "inf", "1e3", "٣", "soon", ""])
def test_only_a_number_or_a_date_is_a_time_to_wait(text: str) -> None:
    assert retry_after_s({"retry-after": text}) is None


def test_doctor_does_not_wait_for_a_day() -> None:
    async def go() -> None:
        async with Endpoint(EndpointSettings(faults={"429 huge": 1.0})) as url:
            engine = http("toy", base_url=url, probe="fresh")
            try:
                await engine.open()
            finally:
                await engine.close()

    started = time.monotonic()
    with pytest.raises(RateLimited, match="come back tomorrow; it asks for a pause of 86400 s"):
        asyncio.run(go())
    assert time.monotonic() - started < 5


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "is_here"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.3.2.1/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://127.0.0.1.evil.com/v1", False),
        ("http://127.evil/v1", False),
        ("http://localhost.evil.com/v1", False),
        ("http://10.0.0.1/v1", False),
        ("https://api.example.com/v1", False),
    ],
)
def test_only_this_machine_is_free(url: str, is_here: bool) -> None:
    assert is_loopback(url) is is_here
    assert http("m", base_url=url, probe="never").worst_case(asks(1)[0]).usd == 0.0 or not is_here


def test_a_query_in_the_base_url_is_sent_and_its_credentials_are_not_shown() -> None:
    script = Script(lambda seen: reply(completion("a")))

    async def go() -> str:
        async with script.serving() as url:
            engine = http("m", base_url=f"{url}?api-version=2024-02-01&api-key={KEY}", probe="never", n="never")
            try:
                await answered(engine, asks(1))
                return engine.identity
            finally:
                await engine.close()

    identity = asyncio.run(go())
    assert script.seen[0].path.startswith("/v1/chat/completions?api-version=2024-02-01&api-key=sk-or")
    assert identity.endswith("/v1?api-version=2024-02-01&api-key=***")
