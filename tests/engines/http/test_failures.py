"""Which errors end a run (key, model, account, a server that is gone), and which are the failure of one ask."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.support.script import Script, Seen, completion, reply

from samplewise.core.errors import EngineUnavailable, SetupError
from samplewise.core.types import Completion, Generate, Message, Problem, Question, Score
from samplewise.engines.http import http
from samplewise.engines.http.dialect.failures import (
    NO_KEY,
    RESUME,
    OutageWatch,
    explain_not_found,
    format_names,
    is_out_of_money,
    model_names,
)
from samplewise.engines.http.transport.client import Client
from samplewise.recipe import recipe
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.testing.endpoint import Endpoint, EndpointSettings

QUESTIONS = tuple(Question(f"q{i}", (Message("user", f"say {i}"),)) for i in range(6))
TASK = Task(
    "say",
    tuple(Problem(question, "a") for question in QUESTIONS),
    read=lambda question, text: text[-1:] or None,
    grade=lambda problem, answer: Score(float(answer == problem.reference)),
)
LINE = "repeat(4, max_tokens=8) | vote"


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 120))


def ask(text: str = "say a", number: int = 0) -> Generate:
    return Generate((Message("user", text),), max_tokens=8, seed=number, draw=number)


async def answers(script: Script, *wanted: Generate, **options: Any) -> list[Completion]:
    async with script.serving() as url:
        engine = http("m", base_url=url, **{"probe": "never", "n": "never", **options})
        try:
            return [arrival.completion async for arrival in engine.answer(wanted)]
        finally:
            await engine.close()


def says(status: int, **error: Any) -> Script:
    """A server that answers every request for completions in one way, and lists the model "other"."""

    def answer(seen: Seen) -> bytes:
        if seen.path.endswith("/models"):
            return reply({"data": [{"id": "other"}]})
        return reply({"error": {"message": "no\nway", **error}}, status)

    return Script(answer)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (says(301), "change base_url"),
        (says(401), NO_KEY),
        (says(402), "the account is used up"),
        (says(403), NO_KEY),
        (says(404), "it serves other"),
        (says(405), "it serves other"),
        (says(410), "it serves other"),
        (says(429, code="insufficient_quota"), "the account is used up"),
        (says(429, type="insufficient_quota"), "the account is used up"),
    ],
)
def test_what_every_request_would_meet_ends_the_run_in_one_line(script: Script, message: str) -> None:
    with pytest.raises(SetupError) as raised:
        run(answers(script, ask(), patience_s=3600.0))
    (line,) = str(raised.value).splitlines()
    assert "no way" in line
    assert message in line
    assert sum(seen.path.endswith("/chat/completions") for seen in script.seen) == 1, "nothing is tried again"


@pytest.mark.parametrize("message", ["flagged by moderation", "content policy", "not safe: safety filter"])
def test_a_prompt_that_is_refused_is_the_failure_of_its_ask(message: str) -> None:
    (done,) = run(answers(says(403, message=message), ask()))
    assert done.failure is not None
    assert (done.failure.kind, done.failure.retryable, done.usage.tokens) == ("AuthError", False, 0)


def test_a_refusal_after_an_answer_is_about_the_prompt() -> None:
    """After an answer with the same key a 403 is not about the key; a 401 always is."""

    def answer(status: int) -> Callable[[Seen], bytes]:
        return lambda seen: reply(completion("x")) if "one" in str(seen.body) else reply({"error": "no"}, status)

    async def both(status: int) -> list[Completion]:
        script = Script(answer(status))
        async with script.serving() as url:
            engine = http("m", base_url=url, probe="never", n="never")
            try:
                return [arrival.completion for text in ("one", "two") async for arrival in engine.answer([ask(text)])]
            finally:
                await engine.close()

    assert [c.failure.kind if c.failure else c.text for c in run(both(403))] == ["x", "AuthError"]
    with pytest.raises(SetupError, match="OPENAI_API_KEY"):
        run(both(401))


@pytest.mark.parametrize(
    ("path", "model", "api", "message"),
    [
        ("", "toy", "chat", "it serves 'toy', but not by this route; try api=\"completions\""),
        ("", "toy", "completions", 'try api="chat"'),
        ("", "other", "chat", "it serves toy"),
        ("/chat/completions", "toy", "chat", "set base_url to '{url}'"),
        ("/completions", "toy", "chat", "set base_url to '{url}'"),
        ("/chat", "toy", "chat", "set base_url to '{url}'"),
        ("/v2", "toy", "chat", "does base_url end in /v1"),
    ],
)
def test_a_missing_model_or_route_is_explained(path: str, model: str, api: str, message: str) -> None:
    async def go() -> tuple[str, str]:
        async with Endpoint() as url:
            client = Client(url + path)
            try:
                return await explain_not_found(client, model, api), url
            finally:
                await client.close()

    found, url = run(go())
    assert message.format(url=url) in found


def test_lists_of_models() -> None:
    assert model_names({"data": [{"id": "b"}, {"id": "a"}, {"id": 3}, "c"]}) == ["a", "b"]
    assert model_names({"data": []}) == []
    assert [model_names(body) for body in (None, [], {}, {"data": "a"})] == [None] * 4
    assert format_names([]) == "no models"
    assert format_names(["a", "b"]) == "a, b"
    assert format_names([str(i) for i in range(9)]) == "0, 1, 2, 3, 4, 5, 6, 7, ..."


def test_a_full_queue_is_no_empty_account() -> None:
    async def go(**error: Any) -> bool:
        async with says(429, **error).serving() as url:
            client = Client(url)
            try:
                return is_out_of_money(await client.post("chat/completions", {}))
            finally:
                await client.close()

    assert run(go(code="insufficient_quota"))
    assert not run(go(code="rate_limit_exceeded"))


# --- a server that is gone --------------------------------------------------------------------------------------------

GONE = EngineUnavailable("gone")


def test_an_outage_ends_the_run_after_the_patience() -> None:
    outage = OutageWatch(10.0)
    assert outage.fatal_error(GONE, 0.0) is None, "nothing has happened"
    outage.record_trouble(5.0)
    outage.record_trouble(9.0)
    assert outage.fatal_error(GONE, 14.9) is None
    end = outage.fatal_error(GONE, 15.0)
    assert str(end) == f"gone; nothing was answered for 10 s ({RESUME})"
    outage.record_answer()
    assert outage.fatal_error(GONE, 15.0) is None
    assert outage.has_answered
    outage.record_trouble(20.0)
    outage.record_refusal()
    assert outage.fatal_error(GONE, 40.0) is None


def test_an_endpoint_that_may_still_be_working_is_not_gone() -> None:
    outage = OutageWatch(10.0)
    outage.record_sent(1, 0.0)
    outage.record_sent(2, 1.0)
    outage.record_trouble(1.0)
    assert outage.fatal_error(GONE, 20.0) is None, "the first was sent before the trouble began"
    outage.record_done(1)
    assert outage.fatal_error(GONE, 20.0) is not None, "the second was not"
    outage.record_done(1)


def test_a_pause_longer_than_the_patience_ends_the_run() -> None:
    outage = OutageWatch(10.0)
    assert outage.fatal_error(GONE, 5.0, 14.9) is None
    assert "pause of 3600 s" in str(outage.fatal_error(GONE, 5.0, 3605.0))
    outage.record_trouble(5.0)
    assert outage.fatal_error(GONE, 9.0, 14.9) is None
    assert "nothing was answered for 4 s" in str(outage.fatal_error(GONE, 9.0, 15.0)), "nor will it be in time"
    careless = OutageWatch(0.0)
    careless.record_trouble(0.0)
    assert careless.fatal_error(GONE, 99.0, math.inf) is None, "without patience every failure is reported"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samplewise.core.retry.BACKOFF_S", 0.001)
    monkeypatch.setattr("samplewise.engines.http.transport.pace.MAX_BACKOFF_S", 0.005)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (EndpointSettings(api_key="secret"), "OPENAI_API_KEY"),
        (EndpointSettings(model="other"), "it serves other"),
        (EndpointSettings(faults={"429": 1.0}, retry_after_s=0.001), "too many requests"),
        (EndpointSettings(faults={"429": 1.0}, retry_after_s=3600.0), "pause of 3600 s"),
        (EndpointSettings(faults={"503": 1.0}, retry_after_s=0.001), "overloaded"),
        (None, "cannot be reached"),
    ],
    ids=["key", "model", "429", "retry-after", "503", "nobody"],
)
def test_a_run_that_an_endpoint_ends_goes_on_when_it_is_mended(
    broken: EndpointSettings | None, message: str, tmp_path: Path
) -> None:
    """No question is booked as unanswered, and what was drawn before is not drawn again."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]

    async def once(settings: EndpointSettings | None) -> tuple[Any, int]:
        engine = http("toy", base_url=f"http://127.0.0.1:{port}/v1", probe="never", n="never", patience_s=0.3)
        endpoint = Endpoint(settings, port)
        try:
            with Store(tmp_path / "s.db") as store:
                if settings is None:
                    return await run_task(TASK, recipe(LINE), engine, store), 0
                async with endpoint:
                    summary = await run_task(TASK, recipe(LINE), engine, store, concurrency=2)
                    return summary, endpoint.tally.draws
        finally:
            await engine.close()

    good = EndpointSettings(plan=("",) * 9)  # the same port: the same endpoint, by its identity
    with pytest.raises(SetupError, match=message):
        run(once(broken))
    with Store(tmp_path / "s.db") as store:
        assert [len(store.questions(each.id)) for each in store.runs()] == [0]
    summary, draws = run(once(good))
    assert (summary.num_done, draws) == (6, 24)
    assert run(once(good))[1] == 0


@pytest.mark.usefixtures("quick")
def test_a_server_that_breaks_down_for_good_ends_the_run_and_not_its_questions() -> None:
    """After nine good draws every request is answered with 500, which is no rejection: it may have been billed."""

    async def go() -> list[Completion]:
        endpoint = Endpoint(EndpointSettings(plan=("",) * 9, faults={"500": 1.0}))
        async with endpoint as url:
            engine = http("toy", base_url=url, probe="never", n="never", patience_s=0.2, max_concurrency=4)
            found: list[Completion] = []

            async def collect() -> None:
                async for arrival in engine.answer([ask("say a", i) for i in range(100_000)]):
                    found.append(arrival.completion)

            with pytest.raises(SetupError, match="500") as raised:
                await collect()
            await engine.close()
            assert RESUME in str(raised.value)
            return found

    found = run(go())
    assert sum(c.failure is None for c in found) == 9
    assert len(found) < 100_000
