"""The gate: rates, concurrency, the queue, and what a key may spend in a day. Time is the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplewise.core.errors import BadInput
from samplewise.serve.keys import Policy
from samplewise.serve.limits import Busy, DayBooks, Gate, TokenBucket

T = TypeVar("T")
NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC)
DAILY = Policy("daily", tokens_per_request=100, tokens_per_day=250)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def utc(self) -> datetime:
        return NOON + timedelta(seconds=self.seconds)


def run(go: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(go(), 10)

    return asyncio.run(bounded())


async def turns(num: int = 5) -> None:
    for _ in range(num):
        await asyncio.sleep(0)


def gate(clock: Clock | None = None, **options: Any) -> Gate:
    clock = clock or Clock()
    return Gate(books=DayBooks(now=clock.utc), clock=clock.monotonic, **options)


async def enters(door: Gate, policy: Policy, tokens: int = 0) -> None:
    async with door.enter(policy) as ticket:
        ticket.spend(tokens)


class Holder:
    """A request that runs until it is told to end."""

    def __init__(self, door: Gate, policy: Policy) -> None:
        self.ended = asyncio.Event()
        self.is_running = False
        self.task = asyncio.ensure_future(self._hold(door, policy))

    async def _hold(self, door: Gate, policy: Policy) -> None:
        async with door.enter(policy) as ticket:
            ticket.spend(0)
            self.is_running = True
            await self.ended.wait()
        self.is_running = False


# --- rates ------------------------------------------------------------------------------------------------------------


@given(
    per_minute=st.integers(1, 120),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=200),
)
def test_a_bucket_lets_through_what_it_says_and_no_more(per_minute: int, gaps: list[float]) -> None:
    """In every window of t seconds at most per_minute * (1 + t / 60) pass; what is refused may pass after the wait."""
    now, passed = 0.0, []
    bucket = TokenBucket(per_minute, now)
    for gap in gaps:
        now += gap
        if bucket.wait_s(now) == 0:
            bucket.take()
            passed.append(now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            assert last - first + 1 <= per_minute * (1 + (passed[last] - passed[first]) / 60) + 1e-6
    wait_s = bucket.wait_s(now)
    assert wait_s <= 60 / per_minute + 1e-9
    assert bucket.wait_s(now + wait_s + 1e-9) == 0


def test_a_minute_s_worth_may_come_at_once_and_then_one_at_a_time() -> None:
    bucket = TokenBucket(3, 0.0)
    for _ in range(3):
        assert bucket.wait_s(0.0) == 0
        bucket.take()
    assert bucket.wait_s(0.0) == pytest.approx(20)
    assert bucket.wait_s(15.0) == pytest.approx(5)
    assert bucket.wait_s(14.0) == pytest.approx(5)  # a clock that goes back gives nothing
    assert bucket.wait_s(20.0) == 0
    for _ in range(3):  # an idle hour saves up no more than a minute's worth
        assert bucket.wait_s(3600.0) == 0
        bucket.take()
    assert bucket.wait_s(3600.0) > 0


def test_the_gate_refuses_beyond_the_rate_and_says_when() -> None:
    clock = Clock()
    policy = Policy("a", requests_per_minute=2)

    async def go() -> None:
        door = gate(clock)
        await enters(door, policy)
        await enters(door, policy)
        with pytest.raises(Busy, match="'a' may make 2 requests a minute") as raised:
            await enters(door, policy)
        assert (raised.value.status, raised.value.retry_after_s) == (429, pytest.approx(30))
        assert raised.value.should_retry
        await enters(door, Policy("b", requests_per_minute=2))  # another key has a rate of its own
        clock.seconds = raised.value.retry_after_s
        await enters(door, policy)

    run(go)


def test_a_request_that_is_refused_for_another_reason_uses_up_no_rate() -> None:
    policy = Policy("a", requests_per_minute=2, concurrency=1)

    async def go() -> None:
        door = gate(queue=0)
        held = Holder(door, policy)
        await turns()
        for _ in range(5):
            with pytest.raises(Busy, match="no slot came free"):
                await enters(door, policy)
        held.ended.set()
        await held.task
        await enters(door, policy)
        with pytest.raises(Busy, match="requests a minute"):
            await enters(door, policy)

    run(go)


# --- concurrency and the queue ----------------------------------------------------------------------------------------


@given(
    keys=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=40),
    total=st.integers(1, 6),
    own=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_slots_are_never_exceeded_lost_or_left_unused(keys: list[tuple[str, int, bool]], total: int, own: int) -> None:
    """Whatever comes, goes and is cancelled: the limits hold, and at the end every slot is free again."""

    async def go() -> None:
        door = gate(concurrency=total, queue=100)
        running: Counter[str] = Counter()
        passed = 0

        async def request(key: str, num_turns: int) -> None:
            nonlocal passed
            async with door.enter(Policy(key, concurrency=own)) as ticket:
                ticket.spend(0)
                running[key] += 1
                assert running.total() <= total
                assert running[key] <= own
                assert door.in_flight == running.total()
                try:
                    await turns(num_turns)
                finally:
                    running[key] -= 1
                passed += 1

        tasks = []
        for key, num_turns, is_cancelled in keys:
            tasks.append((asyncio.ensure_future(request(key, num_turns)), is_cancelled))
            await turns(num_turns)
            for task, leaves in tasks:
                if leaves:
                    task.cancel()
        ends = await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
        assert sum(end is None for end in ends) == passed
        assert sum(end is None for (_, leaves), end in zip(tasks, ends, strict=True) if not leaves) == sum(
            not leaves for _, leaves in tasks
        )
        assert (door.in_flight, door.num_queued) == (0, 0)
        assert await door.drained(0.1)

    run(go)


def test_the_key_with_fewest_running_goes_first() -> None:
    """A key with many requests waiting does not keep another key's only one waiting behind them."""

    async def go() -> None:
        door = gate(concurrency=2)
        many = [Holder(door, Policy("many")) for _ in range(20)]
        await turns()
        one = Holder(door, Policy("one"))
        await turns()
        assert [holder.is_running for holder in many] == [True, True] + [False] * 18
        assert door.num_queued == 19
        many[0].ended.set()
        await turns()
        assert one.is_running
        one.ended.set()
        await turns()
        assert many[2].is_running  # and within a key, who came first
        for holder in many:
            holder.ended.set()
        await asyncio.gather(*(holder.task for holder in many))

    run(go)


def test_a_full_queue_refuses_and_a_wait_ends() -> None:
    async def go() -> None:
        door = gate(concurrency=1, queue=1, queue_s=0.05)
        held = Holder(door, Policy("a"))
        await turns()
        waiting = asyncio.ensure_future(enters(door, Policy("a")))
        await turns()
        with pytest.raises(Busy, match="the server is busy, and no slot came free; 1 requests wait") as raised:
            await enters(door, Policy("b"))
        assert raised.value.status == 429
        assert 1 <= raised.value.retry_after_s <= 60
        with pytest.raises(Busy, match="no slot came free"):
            await waiting
        assert (door.in_flight, door.num_queued) == (1, 0)
        held.ended.set()
        await held.task
        await enters(door, Policy("b"))

    run(go)


def test_a_key_at_its_limit_fills_no_slot_of_others() -> None:
    async def go() -> None:
        door = gate(concurrency=4)
        narrow = [Holder(door, Policy("a", concurrency=1)) for _ in range(3)]
        await turns()
        await asyncio.wait_for(enters(door, Policy("b")), 1)  # passes by those who wait for their own key's slot
        assert (door.in_flight, door.num_queued) == (1, 2)
        for holder in narrow:
            holder.ended.set()
        await asyncio.gather(*(holder.task for holder in narrow))

    run(go)


def test_a_slot_given_to_a_request_that_leaves_goes_to_the_next() -> None:
    async def go() -> None:
        door = gate(concurrency=1)
        held = Holder(door, Policy("a"))
        await turns()
        leaves, stays = Holder(door, Policy("b")), Holder(door, Policy("c"))
        await turns()
        held.ended.set()
        await held.task  # now the slot is the first one's, which has not run yet
        leaves.task.cancel()
        await turns()
        assert leaves.task.cancelled()
        assert stays.is_running
        stays.ended.set()
        await stays.task
        assert door.in_flight == 0

    run(go)


def test_draining_refuses_newcomers_and_those_who_wait_and_lets_the_others_end() -> None:
    async def go() -> None:
        door = gate(concurrency=1)
        held = Holder(door, Policy("a"))
        await turns()
        waiting = asyncio.ensure_future(enters(door, Policy("a")))
        await turns()
        door.drain()
        for refused in (waiting, enters(door, Policy("a"))):
            with pytest.raises(Busy, match="shutting down") as raised:
                await refused
            assert (raised.value.status, raised.value.code) == (503, "shutting_down")
        assert not await door.drained(0.01)
        held.ended.set()
        assert await door.drained(1)
        await held.task

    run(go)


def test_who_waited_for_a_slot_until_its_day_was_spent_leaves_the_slot_to_others() -> None:
    async def go() -> None:
        door = gate(concurrency=1)
        async with door.enter(DAILY) as ticket:
            ticket.spend(200)
            waiting = asyncio.ensure_future(enters(door, DAILY))  # 100 of 250 would still fit
            await asyncio.sleep(0)
            assert door.num_queued == 1
        with pytest.raises(Busy, match="is reached"):
            await waiting
        assert door.in_flight == 0
        await asyncio.wait_for(enters(door, Policy("other")), 1)

    run(go)


def test_an_error_inside_gives_the_slot_back() -> None:
    async def go() -> None:
        door = gate(concurrency=1)
        for _ in range(3):
            with contextlib.suppress(KeyError):
                async with door.enter(DAILY) as ticket:
                    ticket.spend(1)
                    raise KeyError
        assert door.in_flight == 0
        assert door.books.spent("daily").tokens == 3

    run(go)


# --- a day's limits ---------------------------------------------------------------------------------------------------


def test_a_day_s_limit_holds_with_requests_at_once() -> None:
    """250 a day, 100 a request: two may run, as a third might end at 300."""

    async def go() -> None:
        door = gate()
        async with door.enter(DAILY) as one, door.enter(DAILY) as two:
            with pytest.raises(Busy, match="reserved by running requests") as raised:
                await enters(door, DAILY)
            assert raised.value.should_retry
            one.spend(100)
            two.spend(40)
        await enters(door, DAILY, 10)  # 140 are spent, and 100 fit
        with pytest.raises(Busy, match="150 are spent, and one request may use 101") as raised:
            async with door.enter(Policy("daily", tokens_per_request=101, tokens_per_day=250)):
                raise AssertionError
        assert (raised.value.code, raised.value.should_retry) == ("insufficient_quota", False)
        assert raised.value.retry_after_s == pytest.approx(12 * 3600)

    run(go)


@given(costs=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 4)), max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_order_of_requests_passes_a_day_s_limit(costs: list[tuple[int, int]]) -> None:
    async def go() -> None:
        door = gate()
        booked = 0

        async def request(tokens: int, num_turns: int) -> None:
            nonlocal booked
            with contextlib.suppress(Busy):
                async with door.enter(DAILY) as ticket:
                    assert ticket.tokens == 100
                    await turns(num_turns)
                    ticket.spend(tokens)
                    booked += tokens

        tasks = []
        for tokens, num_turns in costs:
            tasks.append(asyncio.ensure_future(request(tokens, num_turns)))
            await turns(1)
        await asyncio.gather(*tasks)
        assert door.books.spent("daily").tokens == booked <= 250

    run(go)


def test_a_request_whose_cost_was_never_said_is_charged_in_full() -> None:
    async def go() -> None:
        door = gate()
        policy = Policy("a", tokens_per_request=100, usd_per_request=0.5, tokens_per_day=10**6, usd_per_day=10)
        async with door.enter(policy):
            pass
        assert door.books.spent("a") == (100, 0.5)
        async with door.enter(policy) as ticket:
            ticket.spend(3, 0.125)
            ticket.spend(4, math.nan)  # a price that nobody knows: at the most
        assert door.books.spent("a") == (107, 1.0)

    run(go)


def test_dollars_a_day() -> None:
    policy = Policy("a", usd_per_request=0.1, usd_per_day=0.3)

    async def go() -> None:
        door = gate()
        for _ in range(3):  # 0.1 + 0.1 + 0.1 is a little more than 0.3
            async with door.enter(policy) as ticket:
                ticket.spend(5, 0.1)
        with pytest.raises(Busy, match=r"0.3 USD a day is reached"):
            await enters(door, policy)

    run(go)


def test_a_new_day_begins_at_midnight_utc() -> None:
    clock = Clock()

    async def go() -> None:
        door = gate(clock)
        await enters(door, DAILY, 200)
        clock.seconds = 12 * 3600 - 1
        with pytest.raises(Busy) as raised:
            await enters(door, DAILY)
        assert raised.value.retry_after_s == pytest.approx(1)
        clock.seconds += 1
        await enters(door, DAILY, 200)
        clock.seconds -= 3600  # the clock is put back
        with pytest.raises(Busy) as raised:
            await enters(door, DAILY)
        assert raised.value.retry_after_s == pytest.approx(25 * 3600)

    run(go)


def test_what_was_spent_outlives_a_restart(tmp_path: Path) -> None:
    path, clock = tmp_path / "spent.json", Clock()

    async def go() -> None:
        first = Gate(books=DayBooks(path, now=clock.utc))
        await enters(first, DAILY, 160)
        await enters(first, Policy("without limits"), 9)
        second = Gate(books=DayBooks(path, now=clock.utc))
        assert second.books.spent("daily") == (160, 0.0)
        with pytest.raises(Busy, match="160 are spent"):
            await enters(second, DAILY)
        clock.seconds = 86_400
        await enters(Gate(books=DayBooks(path, now=clock.utc)), DAILY, 7)

    run(go)
    assert json.loads(path.read_text())["spent"] == {"daily": [7, 0.0]}
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "day": "x", "spent": {}}', "\xff"])
def test_books_that_are_none_are_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "spent.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BadInput, match="is no record of what keys have spent; move it away"):
        DayBooks(path)
    assert path.read_bytes() == text.encode("latin-1")
