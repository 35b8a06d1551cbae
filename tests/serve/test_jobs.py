"""Runs that do not end as they should: clients that leave and come back, deadlines, limits."""

from __future__ import annotations

import asyncio
import gc
import math
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.serve.serving import HELLO, Served, events, served_at, serving, streamed_text
from tests.support.script import Script, Seen, completion, reply

from samplewise.core.types import Candidate, Completion, Generate, Message, Usage
from samplewise.engines.toy import toy
from samplewise.recipe import Recipe, Stages, from_stages
from samplewise.serve import jobs, plans
from samplewise.serve.drawn import DrawLog, WantingEngine
from samplewise.serve.jobs import Asked, Job, RunName, Unfinished
from samplewise.serve.keys import KeyRing, Policy, key_digest
from samplewise.serve.limits import DailySpend, Gate, Ticket
from samplewise.serve.wire import parse_call, read_timeout_s
from samplewise.store.database import Store
from samplewise.testing.endpoint import Endpoint, EndpointSettings

LEFT_S = 2.0  # nothing of a client that left is asked for longer than a second; the other is for a busy machine


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


class Upstream:
    """An endpoint that answers each draw after `seconds`, the texts of `answers` in turn, the last one for ever."""

    def __init__(self, seconds: float, *answers: str) -> None:
        self.seconds, self.answers = seconds, list(answers) or ["yes"]
        self.num_drawn = 0
        self.seeds: list[int] = []
        self.script = Script(self.answer)

    async def answer(self, seen: Seen) -> bytes:
        self.seeds.append(seen.body["seed"])
        await asyncio.sleep(self.seconds)
        text = self.answers[min(self.num_drawn, len(self.answers) - 1)]
        self.num_drawn += 1
        return reply(completion(text, tokens=5, prompt=7))

    @property
    def num_open(self) -> int:
        """How many requests wait for their answer."""
        return len(self.seeds) - self.num_drawn - self.script.lost


async def leave(served: Served, when: Callable[[], bool], **body: Any) -> None:
    """Send a request, and close its connection once something is the case."""
    sent = asyncio.create_task(served.post(**body))
    await until(when, 10)
    assert not sent.done()
    sent.cancel()
    await asyncio.wait({sent})


async def until(condition: Callable[[], bool], seconds: float = LEFT_S) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def draws_of(served: Served, key: str = "local") -> list[int]:
    """Return how many draws of each running request have arrived."""
    return [live.num_draws for live in served.service.board.activity(key).live.values()]


# --- clients that leave -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{}, {"stream": True}, {"stream": True, "samplewise": {"progress": True}}])
@pytest.mark.parametrize("quiet_s", [0.05, 15.0])
def test_a_client_that_leaves_cancels_every_request_upstream(body: dict[str, Any], quiet_s: float) -> None:
    async def go() -> None:
        upstream = Upstream(10.0)
        async with upstream.script.serving() as url, served_at(url, quiet_s=quiet_s, heartbeat_s=0.05) as served:
            await leave(served, lambda: len(upstream.seeds) == 4, model="vote4@toy", **body)
            await until(lambda: upstream.script.lost == 4)
            assert len(upstream.seeds) == 4
            line = await served.logged(1)
            assert line["code"] == 499
            assert line["tokens"] > 0  # what was cut off is charged at its most
            assert served.service.gate.in_flight == 0
            assert not upstream.num_drawn

    run(go())


def test_a_client_that_leaves_the_queue_is_forgotten() -> None:
    async def go() -> None:
        upstream = Upstream(0.5)
        gate = Gate(concurrency=1, queue=5)
        async with upstream.script.serving() as url, served_at(url, gate=gate) as served:
            first = asyncio.create_task(served.post())
            await until(lambda: len(upstream.seeds) == 1)
            await leave(served, lambda: gate.num_queued == 1)
            await until(lambda: gate.num_queued == 0)
            assert (await first).status == 200
            assert len(upstream.seeds) == 1

    run(go())


def test_other_requests_go_on_when_one_is_left() -> None:
    async def go() -> None:
        upstream = Upstream(0.3)
        async with upstream.script.serving() as url, served_at(url) as served:
            other = asyncio.create_task(served.post(model="vote4@toy"))
            await leave(served, lambda: len(upstream.seeds) == 8, model="vote4@toy")
            assert (await other).body["samplewise"]["draws"] == 4

    run(go())


# --- and come back ----------------------------------------------------------------------------------------------------


def test_who_comes_back_pays_only_the_rest(tmp_path: Path) -> None:
    """A client leaves after two of six draws; its retry has the same six draws, and four of them are asked for."""
    body = {"model": "repeat(6, wave=1) | vote@toy"}

    async def go() -> None:
        upstream = Upstream(0.1, "a", "b")
        with Store(tmp_path / "s.db") as store:
            async with upstream.script.serving() as url, served_at(url, store=store) as served:
                await leave(served, lambda: draws_of(served) == [2], **body)
                await served.logged(1)
                drawn, asked = upstream.num_drawn, list(upstream.seeds)
                assert 2 <= drawn < 6
                got = await served.post(**body)
                assert got.body["samplewise"]["resumed"] is True
                assert got.body["samplewise"]["draws"] == 6
                assert upstream.num_drawn == 6
                assert upstream.seeds == [*asked, *upstream.seeds[len(asked) :]]
                assert len(set(upstream.seeds)) == 6
                assert got.body["usage"]["total_tokens"] == 6 * 12
                assert got.body["samplewise"]["paid"]["tokens"] == (6 - drawn) * 12
                assert (await served.logged(1))["run"] == got.body["samplewise"]["run"]
                again = await served.post(**body)
                assert "resumed" not in again.body["samplewise"]
                assert upstream.num_drawn == 12
                assert len(set(upstream.seeds)) == 12

    run(go())


def test_who_is_refused_on_the_way_back_still_pays_only_the_rest(tmp_path: Path) -> None:
    """A retry that finds no free slot, or leaves the queue, keeps what was drawn for the next one."""
    body = {"model": "repeat(6, wave=1) | vote@toy"}

    async def go() -> None:
        upstream = Upstream(0.1)
        gate = Gate(concurrency=1, queue=1)
        with Store(tmp_path / "s.db") as store:
            async with upstream.script.serving() as url, served_at(url, store=store, gate=gate) as served:
                await leave(served, lambda: draws_of(served) == [2], **body)
                await served.logged(1)
                drawn = upstream.num_drawn
                async with gate.enter(Policy("other")):
                    await leave(served, lambda: gate.num_queued == 1, **body)
                    await served.logged(2)
                    gate.queue = 0
                    assert (await served.post(**body)).status == 429
                got = await served.post(**body)
                assert got.body["samplewise"]["paid"]["tokens"] == (6 - drawn) * 12
                assert got.body["usage"]["total_tokens"] == 6 * 12

    run(go())


@pytest.mark.parametrize("change", ["body", "route", "header", "key", "time", "store"])
def test_only_the_same_request_goes_on(change: str, tmp_path: Path) -> None:
    keys = KeyRing({key_digest(name): Policy(name, recipes="free") for name in ("a", "b")})
    now = [0.0]

    async def go(store: Store | None) -> None:
        upstream = Upstream(0.1)
        async with (
            upstream.script.serving() as url,
            served_at(url, store=store, keys=keys, now=lambda: now[0], resume_s=600.0) as served,
        ):
            body: dict[str, Any] = {"model": "repeat(3, wave=1)@toy", "headers": {"Authorization": "Bearer a"}}
            key = "a"
            await leave(served, lambda: draws_of(served, key) == [1], **body)
            await served.logged(1)
            if change == "body":
                body["temperature"] = 1
            elif change == "route":
                body["path"] = "/v1/completions"
            elif change == "header":
                body["headers"] = {**body["headers"], "X-ITS-Budget": "3"}
            elif change == "key":
                body["headers"] = {"Authorization": "Bearer b"}
            elif change == "time":
                now[0] = 601.0
            got = await served.post(**body)
            assert got.status == 200
            assert "resumed" not in got.body["samplewise"]
            assert got.body["samplewise"]["paid"]["requests"] == 3

    if change == "store":
        run(go(None))
    else:
        with Store(tmp_path / "s.db") as store:
            run(go(store))


def test_two_that_left_go_on_apart(tmp_path: Path) -> None:
    """Equal requests at once are independent, and so they are when they come back."""
    body = {"model": "repeat(3, wave=1)@toy"}

    async def go() -> None:
        upstream = Upstream(0.1)
        with Store(tmp_path / "s.db") as store:
            async with upstream.script.serving() as url, served_at(url, store=store) as served:
                seen = asyncio.Event()

                def both() -> bool:
                    """Return whether each has had a draw."""
                    if len(draws := draws_of(served)) == 2 and min(draws) >= 1:
                        seen.set()
                    return seen.is_set()

                await asyncio.gather(leave(served, both, **body), leave(served, both, **body))
                await served.logged(2)
                got = [await served.post(**body) for _ in range(3)]
                runs = [reply.body["samplewise"]["run"] for reply in got]
                assert len(set(runs)) == 3
                assert [reply.body["samplewise"].get("resumed") for reply in got] == [True, True, None]

    run(go())


def test_unfinished_runs_are_remembered_for_a_while() -> None:
    now = [0.0]
    runs = Unfinished(10.0, lambda: now[0])
    asked = Asked("a", "chat", b"x")
    assert runs.take(asked) is None
    runs.put(asked, RunName("a", 1))
    now[0] = 5.0
    runs.put(asked, RunName("b", 2))
    assert runs.take(asked) == RunName("a", 1, True)
    now[0] = 14.9
    assert runs.take(asked) == RunName("b", 2, True)
    assert runs.take(asked) is None
    runs.put(asked, RunName("c", 3))
    now[0] = 24.9
    assert runs.take(asked) is None
    for num in range(jobs.MAX_REMEMBERED + 5):
        runs.put(asked._replace(body=b"%d" % num), RunName("d", num))
    assert runs.take(asked._replace(body=b"4")) is None
    assert runs.take(asked._replace(body=b"5")) == RunName("d", 5, True)


def test_runs_whose_time_is_up_are_forgotten_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    runs = Unfinished(10.0, lambda: now[0])
    asked, other = Asked("a", "chat", b"x"), Asked("a", "chat", b"y")
    runs.put(asked, RunName("a", 1))
    now[0] = 5.0
    runs.put(asked, RunName("b", 2))
    runs.put(other, RunName("c", 3))
    now[0] = 10.0
    assert runs.take(asked) == RunName("b", 2, True)
    now[0] = 15.0
    monkeypatch.setattr(Asked, "fingerprint", lambda asked: pytest.fail("there is nothing to look for"))
    assert runs.take(other) is None


def test_requests_are_told_apart_byte_by_byte() -> None:
    requests = [
        Asked("a", "chat", b"x"),
        Asked("b", "chat", b"x"),
        Asked("a", "completions", b"x"),
        Asked("a", "chat", b"x "),
        Asked("a", "chat", b"x", ("y",)),
        Asked("a", "chat", b"x", (None, "y")),
        Asked("a", "chat", b"x", ("\udc80",)),
    ]
    assert len({asked.fingerprint() for asked in requests}) == len(requests)
    assert Asked("a", "chat", b"x", ("y",)).fingerprint() == Asked("a", "chat", b"x", ("y",)).fingerprint()


# --- deadlines and limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_stream", [False, True])
def test_at_the_deadline_the_answer_is_the_best_so_far(is_stream: bool) -> None:
    async def go() -> None:
        upstream = Upstream(0.1, "b")
        async with upstream.script.serving() as url, served_at(url) as served:
            wants = {"budget": {"seconds": 0.8}}
            model = "repeat(50, wave=1) | vote@toy"
            got = await served.post(model=model, samplewise=wants, stream=is_stream)
            assert got.status == 200
            if is_stream:
                (*_, last) = chunks = events(got.data)
                text, finish, evidence = streamed_text(chunks), last["choices"][0]["finish_reason"], last["samplewise"]
            else:
                choice, evidence = got.body["choices"][0], got.body["samplewise"]
                text, finish = choice["message"]["content"], choice["finish_reason"]
            assert (text, finish) == ("b", "length")
            assert evidence["stop"]["reason"] == "budget"
            assert 1 <= evidence["draws"] <= 8
            await until(lambda: upstream.num_open == 0)

    run(go())


@pytest.mark.parametrize(
    ("settings", "headers", "is_stream", "seconds"),
    [
        ({"seconds": 7.0}, {}, False, 7.0),
        ({}, {}, False, 600.0),
        ({}, {"x-stainless-read-timeout": "20"}, False, 600.0),
        ({"quiet_s": None}, {"x-stainless-read-timeout": "20"}, False, 18.0),
        ({}, {"x-stainless-read-timeout": "15"}, False, 13.5),
        ({}, {"x-stainless-read-timeout": "2"}, False, 1.5),
        ({}, {"x-stainless-read-timeout": "0.4"}, False, 0.2),
        ({}, {"x-stainless-read-timeout": "2"}, True, 600.0),
        ({"quiet_s": None}, {"x-stainless-read-timeout": "2"}, True, 600.0),
        ({}, {"x-stainless-read-timeout": "soon"}, False, 600.0),
    ],
)
def test_a_run_ends_before_its_client_gives_up(
    settings: dict[str, Any], headers: dict[str, str], is_stream: bool, seconds: float
) -> None:
    async def go() -> None:
        async with serving(**settings) as served:
            call = parse_call({"model": "toy", "messages": HELLO, "stream": is_stream}, "chat")
            policy = Policy("a", seconds_per_request=1000)
            assert served.service._seconds(call, policy, read_timeout_s(headers)) == pytest.approx(seconds)
            policy = Policy("a", seconds_per_request=0.1)
            assert served.service._seconds(call, policy, read_timeout_s(headers)) == 0.1

    run(go())


def expect_the_best_in_time(headers: dict[str, str], keys: KeyRing | None = None) -> None:
    """A run of 99 draws, one after the other in ten seconds, is answered with the best so far within three."""

    async def go() -> None:
        upstream = Upstream(0.1, "a")
        async with upstream.script.serving() as url, served_at(url, keys=keys) as served:
            loop = asyncio.get_running_loop()
            started = loop.time()
            got = await served.post(model="repeat(99, wave=1)@toy", headers=headers)
            assert loop.time() - started < 3.0
            assert got.body["choices"][0]["finish_reason"] == "length"

    run(go())


def test_a_read_timeout_ends_a_silent_run_in_time() -> None:
    expect_the_best_in_time({"X-Stainless-Read-Timeout": "1.5"})


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ({"samplewise": {"budget": {"seconds": 0.3}}}, {}, 0.3),
        ({"samplewise": {"budget": {"seconds": 0.3}}, "stream": True}, {}, 0.3),
        ({}, {"X-Stainless-Read-Timeout": "0.6"}, 0.3),
        ({}, {"X-Stainless-Read-Timeout": "0.4"}, 0.2),  # though a reply would be kept alive
    ],
)
def test_nobody_waits_for_a_slot_beyond_the_deadline(
    body: dict[str, Any], headers: dict[str, str], seconds: float
) -> None:
    """Nothing was paid, so the client may ask again."""

    async def go() -> None:
        upstream = Upstream(5.0)
        gate = Gate(concurrency=1, queue=5)
        async with upstream.script.serving() as url, served_at(url, gate=gate, quiet_s=0.3) as served:
            other = asyncio.create_task(served.post())
            await until(lambda: len(upstream.seeds) == 1)
            loop = asyncio.get_running_loop()
            started = loop.time()
            got = await served.post(headers=headers, **body)
            assert seconds - 0.05 <= loop.time() - started < 2.0
            assert (got.status, got.body["error"]["code"]) == (429, "rate_limit")
            assert got.headers["x-should-retry"] == "true"
            assert gate.num_queued == 0
            other.cancel()
            await asyncio.wait({other})

    run(go())


def test_who_is_refused_a_slot_after_a_long_wait_is_told_so_by_the_status() -> None:
    """A sign of life would have said 200."""

    async def go() -> None:
        upstream = Upstream(0.6)
        gate = Gate(concurrency=1, queue=5, queue_s=0.3)
        async with (
            upstream.script.serving() as url,
            served_at(url, gate=gate, quiet_s=0.05, heartbeat_s=0.05) as served,
        ):
            first = asyncio.create_task(served.post())
            await until(lambda: len(upstream.seeds) == 1)
            got = await served.post()
            assert (got.status, got.body["error"]["code"]) == (429, "rate_limit")
            gate.queue_s = 5.0
            got = await served.post()
            assert got.status == 200
            assert got.data.startswith(b"\n")  # and it is kept alive once it has a slot
            assert (await first).status == 200

    run(go())


def test_nothing_drawn_in_time_is_an_error() -> None:
    async def go() -> None:
        upstream = Upstream(5.0)
        async with upstream.script.serving() as url, served_at(url) as served:
            got = await served.post(samplewise={"budget": {"seconds": 0.1}})
            assert (got.status, got.body["error"]["code"]) == (504, "timeout")
            assert got.headers["x-should-retry"] == "false"
            await until(lambda: upstream.script.lost == len(upstream.seeds))

    run(go())


def test_a_key_has_a_limit_in_seconds() -> None:
    keys = KeyRing({key_digest("k"): Policy("k", recipes="free", seconds_per_request=0.5)})
    expect_the_best_in_time({"Authorization": "Bearer k"}, keys)


def test_more_choices_are_drawn_within_what_failed_attempts_have_left() -> None:
    """Three draws decide, an attempt of the first is lost and charged at its most, and nine choices are asked for."""
    answers = iter([None, *["yes"] * 20])
    script = Script(lambda seen: None if (text := next(answers)) is None else reply(completion(text, tokens=5)))

    async def go() -> None:
        async with script.serving() as url, served_at(url, patience_s=20.0) as served:
            worst = 74 + 8  # of the attempt that was lost
            limit = 2 * worst
            body = {"model": "repeat(9, wave=1) | until(lead(3)) | vote@toy", "n": 9}
            got = await served.post(**body, samplewise={"budget": {"tokens": limit}})
            assert got.status == 200
            assert got.body["samplewise"]["draws"] == 3
            assert got.body["usage"]["total_tokens"] == worst + len(got.body["choices"]) * 12 <= limit
            assert 3 < len(got.body["choices"]) < 9
            assert len(script.seen) == len(got.body["choices"]) + 1

    run(go())


def test_a_budget_of_tokens_ends_a_run_with_the_best_so_far() -> None:
    async def go() -> None:
        async with serving() as served:
            got = await served.post(model="repeat(40) | vote@toy", samplewise={"budget": {"tokens": 50}})
            assert got.body["usage"]["total_tokens"] <= 50
            assert got.body["samplewise"]["stop"]["reason"] == "budget"
            assert got.body["choices"][0]["finish_reason"] == "length"
            got = await served.post(samplewise={"budget": {"tokens": 5}})
            assert (got.status, got.body["error"]["code"]) == (400, "budget_too_small")

    run(go())


def test_the_least_limit_holds() -> None:
    keys = KeyRing({key_digest("k"): Policy("k", recipes="free", tokens_per_request=30)})

    async def go() -> None:
        async with serving(keys=keys) as served:
            for budget in ({}, {"tokens": 1000}, {"tokens": 20}):
                got = await served.post(
                    model="repeat(40) | vote@toy",
                    samplewise={"budget": budget},
                    headers={"Authorization": "Bearer k"},
                )
                assert got.body["usage"]["total_tokens"] <= min(30, budget.get("tokens", 30))

    run(go())


def test_a_limit_in_money_needs_a_price() -> None:
    async def go() -> None:
        upstream = Upstream(0.0)
        async with upstream.script.serving() as url, served_at(url) as served:
            got = await served.post(model="repeat(50)@toy", samplewise={"budget": {"usd": 100e-6}})
            assert got.body["samplewise"]["spent"]["usd"] <= 100e-6
            assert got.body["samplewise"]["stop"]["reason"] == "budget"

    run(go())


def test_usage_counts_failed_attempts() -> None:
    """A draw that failed after it may have been billed, and the one that replaced it."""
    answers = iter([reply({"error": {"message": "broken"}}, 500), *(reply(completion("a")) for _ in range(9))])

    async def go() -> None:
        script = Script(lambda seen: next(answers))
        async with script.serving() as url, served_at(url) as served:
            got = await served.post(model="repeat(2, wave=1) | vote@toy", max_tokens=5)
            assert got.body["samplewise"]["spent"]["requests"] == 3
            assert got.body["usage"]["completion_tokens"] == 15
            assert got.body["samplewise"]["paid"]["requests"] == 3

    run(go())


@pytest.mark.parametrize("is_graceful", [True, False])
def test_a_run_that_is_cut_off_hard_is_charged_all_that_it_might_have_spent(is_graceful: bool) -> None:
    """Given up, it knows its books; if its task is cancelled, nobody knows what was in flight."""
    policy = Policy("k", recipes="free", tokens_per_request=5000)
    reserved = DailySpend(5000, 0.0)

    async def go() -> None:
        upstream = Upstream(10.0)
        async with upstream.script.serving() as url, served_at(url) as served:
            ticket, own = Ticket(policy), served.service.jobs
            call = parse_call({"model": "repeat(2)@toy", "messages": HELLO}, "chat")
            job = await own.start(call, b"", policy, time.monotonic() + 60)
            task = asyncio.create_task(own.answer(job, ticket))
            await until(lambda: len(upstream.seeds) >= 1, 10)
            if is_graceful:
                job.cancel.set()
            else:
                task.cancel()
            await asyncio.wait({task})
            if is_graceful:
                assert 0 < ticket.charged(reserved).tokens < 5000
            else:
                assert ticket.charged(reserved) == reserved

    run(go())


def test_who_leaves_before_its_run_begins_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes are built in a thread. Requests that wait for the same one have it built once."""
    go_on, num_built = threading.Event(), 0
    keys = KeyRing({key_digest("k"): Policy("k", recipes="free", tokens_per_request=10**6, tokens_per_day=10**9)})

    def slow(stages: Stages) -> Recipe:
        nonlocal num_built
        num_built += 1
        go_on.wait(10)
        return from_stages(stages)

    monkeypatch.setattr(plans, "from_stages", slow)

    async def go() -> None:
        upstream = Upstream(0.0)
        async with upstream.script.serving() as url, served_at(url, keys=keys) as served:
            headers = {"Authorization": "Bearer k"}
            leaving, *waiting = (
                asyncio.create_task(served.post(model="vote4@toy", headers=headers, max_tokens=size))
                for size in (5, 6, 7)
            )
            await until(lambda: num_built > 0)
            leaving.cancel()
            line = await served.logged(1)
            assert (line["code"], "run" in line, "tokens" in line) == (499, False, False)
            assert not upstream.seeds
            go_on.set()
            assert [(await sent).status for sent in waiting] == [200, 200]
            assert num_built == 1
            assert len(upstream.seeds) == 8
            assert served.service.gate.books.spent("k").tokens == sum(line["tokens"] for line in served.lines[1:])

    run(go())


@pytest.mark.parametrize("codes", [[500, 401], [500, 200, 401], [200, 500, 401]])
def test_a_run_that_an_error_ends_is_charged_what_it_paid(codes: list[int]) -> None:
    """Attempts that failed after they may have been billed were forgotten where a refused key then ended the run."""
    keys = KeyRing({key_digest("k"): Policy("k", recipes="free", tokens_per_request=10**6, tokens_per_day=10**9)})
    replies = [reply(completion("a")) if code == 200 else reply({"error": "no"}, code) for code in codes]

    async def go() -> None:
        script = Script(lambda seen: replies[len(script.seen) - 1])
        async with script.serving() as url, served_at(url, keys=keys) as served:
            headers = {"Authorization": "Bearer k"}
            got = await served.post(model="repeat(2, wave=1) | vote@toy", headers=headers, max_tokens=5)
            assert (got.status, got.body["error"]["code"]) == (502, "engine_misconfigured")
            assert got.headers["x-should-retry"] == "false"
            line = await served.logged(1)
            assert line["tokens_out"] == 5 * (len(codes) - 1)
            assert served.service.gate.books.spent("k").tokens == line["tokens"]

    run(go())


def test_nothing_is_lost_among_faults_and_clients_that_leave() -> None:
    """Every request is answered or left, every token that was billed is in the books, and nothing stays open."""
    keys = KeyRing({key_digest("k"): Policy("k", recipes="free", tokens_per_request=10**6, tokens_per_day=10**9)})
    faults = {"500": 0.03, "cut before": 0.03, "429 now": 0.03, "usage absent": 0.03, "half": 0.02}
    endpoint = Endpoint(EndpointSettings(latency_ms=15, faults=faults))
    statuses: list[int] = []

    async def client(served: Served, num: int) -> None:
        body = {"model": "repeat(3, wave=1) | vote@toy", "seed": num, "stream": num % 3 == 0}
        sent = asyncio.create_task(served.post(headers={"Authorization": "Bearer k"}, **body))
        if num % 5 == 0:
            await asyncio.sleep(0.05)
            sent.cancel()
            await asyncio.wait({sent})
            return
        statuses.append((await sent).status)

    async def go() -> None:
        async with endpoint as url, served_at(url, keys=keys, patience_s=5) as served:
            for start in range(0, 60, 12):
                await asyncio.gather(*(client(served, num) for num in range(start, start + 12)))
            await until(lambda: served.service.gate.in_flight == 0, 5)
            await until(lambda: endpoint.tally.in_flight == 0, 5)
            codes = [line["code"] for line in served.lines]
            assert len(statuses) == 48
            assert len(codes) >= 48  # of those that left, some had not been read yet
            assert set(statuses) == {200}
            begun = [line for line in served.lines if "run" in line]
            # whose client leaves while its recipe is built has no run, and nothing is sent for it
            assert all(line["code"] == 499 for line in served.lines if line not in begun)
            booked = sum(line["tokens"] for line in begun)
            assert served.service.gate.books.spent("k").tokens == booked
            assert endpoint.tally.tokens <= booked
            assert not served.service.board.activity("k").live

    run(go())


# --- the parts --------------------------------------------------------------------------------------------------------

ASK = Generate((Message("user", "hi"),), max_tokens=6, seed=3)


def test_an_engine_is_asked_for_more_and_named_the_same() -> None:
    engine = toy()
    wanting = WantingEngine(engine, ("logp", "tokens"))

    async def go() -> None:
        await wanting.open()
        (arrival,) = [arrival async for arrival in wanting.answer([ASK])]
        (plain,) = [arrival async for arrival in engine.answer([ASK])]
        assert plain.completion.logp is None
        assert arrival.completion.logp is not None
        assert arrival.completion.tokens is not None
        assert math.fsum(arrival.completion.logp) == arrival.completion.logp_sum
        assert arrival.completion._replace(logp=None, tokens=None) == plain.completion
        other = ASK._replace(engine="judge")
        (judged,) = [arrival async for arrival in wanting.answer([other])]
        assert judged.completion.logp is None

    run(go())
    assert (wanting.identity, wanting.can, wanting.worst_case(ASK)) == (
        engine.identity,
        engine.can,
        engine.worst_case(ASK),
    )
    assert wanting.member(ASK) is engine
    assert wanting.may_bill(ASK) == engine.may_bill(ASK)


def test_a_log_remembers_draws_and_hands_them_on(tmp_path: Path) -> None:
    drawn = Completion("a", "stop", Usage(1, 2, 3), logp=(-1.0,), logp_sum=-1.0)
    with Store(tmp_path / "s.db") as store:
        log = DrawLog(store)
        log.put_draw(b"1" * 16, "e", ASK, drawn)
        assert store.draws([b"1" * 16]).keys() == {b"1" * 16}
        store.put_draw(b"2" * 16, "e", ASK._replace(seed=4), drawn._replace(text="b"))
        assert DrawLog(store).draws([b"1" * 16, b"2" * 16, b"3" * 16]).keys() == {b"1" * 16, b"2" * 16}
    alone = DrawLog(None)
    alone.put_draw(b"1" * 16, "e", ASK, drawn)
    assert alone.draws([b"1" * 16, b"2" * 16]) == {b"1" * 16: drawn}
    candidate = Candidate("a", num_tokens=3, logp_sum=-1.0)
    assert alone.completion_of(candidate) is drawn
    for other in (
        candidate._replace(text="b"),
        candidate._replace(num_tokens=4),
        candidate._replace(finish="length"),
        candidate._replace(reasoning="r"),
        candidate._replace(logp_sum=-2.0),
        candidate._replace(logp_sum=math.nan),
    ):
        assert alone.completion_of(other) is None
    alone.put_draw(b"3" * 16, "e", ASK, drawn._replace(logp_sum=math.nan, text="n"))
    assert alone.completion_of(Candidate("n", num_tokens=3)) is not None


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_request_leaves_nothing_to_the_garbage_collector() -> None:
    """A collection while hundreds of requests run stops all of them, so none must be needed."""

    async def go() -> None:
        async with serving() as served:
            started: list[weakref.ref[Job]] = []
            start = served.service.jobs.start

            async def noted(*given: Any, **options: Any) -> Job:
                job = await start(*given, **options)
                started.append(weakref.ref(job))
                return job

            served.service.jobs.start = noted  # type: ignore[method-assign]
            gc.collect()
            gc.disable()
            try:
                for body in ({}, {"model": "vote(2)@toy"}, {"stream": True}, {"n": 2, "logprobs": True}):
                    got = await served.post(**body)  # type: ignore[arg-type]
                    assert got.status == 200
                await served.logged(4)
                await asyncio.sleep(0.01)
                assert [job() for job in started] == [None] * 4
            finally:
                gc.enable()

    run(go())
