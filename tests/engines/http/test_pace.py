"""The pace with a fake clock, the queue in an event loop, and which replica a prompt goes to."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.retry import BACKOFF_S, backoff_s
from samplewise.core.types import Message
from samplewise.engines.http.transport.client import Client
from samplewise.engines.http.transport.pace import (
    MAX_BACKOFF_S,
    START,
    Pace,
    RequestGate,
    retry_after_s,
)
from samplewise.engines.http.transport.replicas import MAX_SERVER_ERRORS, SPILL, Replica, Router


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def full_round(pace: Pace) -> None:
    """Record a success for every slot."""
    for _ in range(int(pace.limit)):
        pace.record_success(int(pace.limit))


def test_the_limit_doubles_until_the_first_overload_and_then_grows_by_one() -> None:
    pace = Pace(1000)
    assert pace.limit == START
    for expected in (32, 64, 128):
        for _ in range(expected // 2):
            pace.record_success(10_000)
        assert pace.limit == expected
    pace.record_overload(sent=0.0, now=1.0)
    assert pace.limit == 64
    full_round(pace)
    assert 64.9 < pace.limit <= 65


def test_an_unused_limit_does_not_grow() -> None:
    pace = Pace(1000)
    for _ in range(100):
        pace.record_success(3)
    assert pace.limit == START


def test_a_full_queue_of_overload_signals_is_one_cut() -> None:
    pace = Pace(1000, start=64)
    for _ in range(64):
        pace.record_overload(sent=1.0, now=2.0)
    assert pace.limit == 32
    pace.record_overload(sent=2.5, now=3.0)
    assert pace.limit == 16


@given(st.lists(st.sampled_from(["well", "badly"]), max_size=200), st.integers(1, 300))
def test_the_limit_stays_between_one_and_the_most(history: list[str], most: int) -> None:
    pace = Pace(most)
    for now, event in enumerate(history):
        if event == "well":
            pace.record_success(10_000)
        else:
            pace.record_overload(float(now), float(now))
        assert 1 <= pace.limit <= most


def test_nothing_is_sent_during_a_pause_and_the_pause_is_the_one_asked_for() -> None:
    pace = Pace(100)
    pace.record_overload(sent=0.0, now=10.0, retry_after_s=5.0)
    assert not pace.has_room(0, 14.9)
    assert pace.has_room(0, 15.0)
    pace.record_overload(
        sent=1.0, now=11.0, retry_after_s=7.0
    )  # sent before the cut: no second one, but the longer pause
    assert pace.limit == START / 2
    assert pace.resumes_at == 18.0


def test_pauses_grow_where_the_server_names_none() -> None:
    assert [backoff_s(n) for n in (0, 1, 2)] == [BACKOFF_S, 2 * BACKOFF_S, 4 * BACKOFF_S]
    assert backoff_s(10_000, longest_s=MAX_BACKOFF_S) == MAX_BACKOFF_S


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("", None), ("soon", None), ("-1", None), ("inf", None), ("nan", None)],
)
def test_retry_after_in_seconds(text: str, seconds: float | None) -> None:
    assert retry_after_s({"retry-after": text}) == seconds
    assert retry_after_s({}) is None


def test_retry_after_as_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert retry_after_s({"retry-after": later}, now) == 90.0
    assert retry_after_s({"retry-after": later}, now + timedelta(days=1)) == 0.0


def test_the_oldest_goes_first_and_cancelled_tasks_leave_the_queue() -> None:
    async def go() -> list[int]:
        gate = RequestGate(Pace(1), Clock())
        order: list[int] = []

        async def request(ticket: int) -> None:
            if not gate.try_enter():
                await gate.enter(ticket)
            order.append(ticket)
            await asyncio.sleep(0)
            gate.leave()

        tasks = {ticket: asyncio.create_task(request(ticket)) for ticket in (1, 5, 3, 4, 2)}
        await asyncio.sleep(0)
        assert (gate.in_flight, gate.load) == (1, 5)
        tasks[3].cancel()
        await asyncio.wait(tasks.values())
        assert (gate.in_flight, gate.load) == (0, 0)
        return order

    assert asyncio.run(go()) == [1, 2, 4, 5]


def test_a_pause_goes_on_in_the_next_event_loop() -> None:
    gate = RequestGate(Pace(4), time.monotonic)
    gate.pace.record_overload(time.monotonic(), time.monotonic(), 0.3)

    async def wait(ticket: int, timeout_s: float) -> None:
        await asyncio.wait_for(gate.enter(ticket), timeout_s)

    with pytest.raises(TimeoutError):
        asyncio.run(wait(0, 0.01))
    asyncio.run(wait(1, 30))
    assert gate.in_flight == 1


def test_the_queue_moves_on_when_a_pause_is_over() -> None:
    async def go() -> None:
        clock = asyncio.get_running_loop().time
        gate = RequestGate(Pace(4), clock)
        gate.pace.record_overload(clock(), clock(), 0.02)
        assert not gate.try_enter()
        await asyncio.wait_for(asyncio.gather(*(gate.enter(i) for i in range(2))), 120)
        assert clock() >= gate.pace.resumes_at
        assert gate.in_flight == 2

    asyncio.run(go())


# --- replicas ---------------------------------------------------------------------------------------------------------


def router(num: int, clock: Clock) -> Router:
    urls = [f"http://127.0.0.1:{8000 + i}/v1" for i in range(num)]
    return Router([Replica(Client(url), RequestGate(Pace(100), clock)) for url in urls])


def prompt(i: int) -> tuple[Message, ...]:
    return (Message("user", f"question {i}"),)


def test_a_prompt_keeps_to_its_replica_and_prompts_are_spread() -> None:
    clock = Clock()
    routed = router(3, clock)
    chosen = {i: routed.choose(prompt(i), clock.now) for i in range(300)}
    assert all(routed.choose(prompt(i), clock.now) is replica for i, replica in chosen.items())
    counts = Counter(routed.replicas.index(replica) for replica in chosen.values())
    assert all(60 < counts[i] < 140 for i in range(3))  # 100 on average, standard deviation 8


def test_a_replica_that_goes_moves_its_own_prompts_alone() -> None:
    clock = Clock()
    all_, fewer = router(3, clock), router(2, clock)
    for i in range(100):
        home = all_.replicas.index(all_.choose(prompt(i), clock.now))
        if home < 2:
            assert fewer.replicas.index(fewer.choose(prompt(i), clock.now)) == home


def test_a_paused_replica_is_skipped_and_tried_again() -> None:
    clock = Clock()
    routed = router(2, clock)
    home = routed.choose(prompt(0), clock.now)
    home.gate.pace.record_overload(clock.now, clock.now, 5.0)
    other = routed.choose(prompt(0), clock.now)
    assert other is not home
    other.gate.pace.record_overload(clock.now, clock.now, 9.0)
    assert routed.choose(prompt(0), clock.now) is home, "all rest: the first to be back"
    clock.now += 5.0
    assert routed.choose(prompt(0), clock.now) is home


def test_an_overloaded_replica_spills() -> None:
    clock = Clock()
    routed = router(2, clock)
    home = routed.choose(prompt(0), clock.now)
    home.gate.in_flight = SPILL
    assert routed.choose(prompt(0), clock.now) is home
    home.gate.in_flight = SPILL + 1
    assert routed.choose(prompt(0), clock.now) is not home


def test_several_server_errors_in_a_row_pause_a_replica() -> None:
    clock = Clock()
    (replica,) = router(1, clock).replicas
    for _ in range(MAX_SERVER_ERRORS - 1):
        replica.record_server_error(clock.now, clock.now)
    assert replica.resumes_at == -math.inf
    replica.record_server_error(clock.now, clock.now)
    assert replica.resumes_at > clock.now
