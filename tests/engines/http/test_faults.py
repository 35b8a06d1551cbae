"""The http engine in the loop, against everything that an endpoint can get wrong.

Each draw of the endpoint carries a mark that no other has, and the endpoint keeps its own books. So it is seen from
outside that no draw is lost or counted twice, that nothing is paid for twice, and that a budget holds by the bill that
the endpoint writes, whatever it says of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from samplewise.core.keys import Key
from samplewise.core.types import Message, Pool, Problem, Question, Score
from samplewise.engines.http import http
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.run import Summary, run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.testing.endpoint import FAULTS, Endpoint, EndpointSettings, EndpointTally

NUM_QUESTIONS, NUM_DRAWS = 4, 8
NUM = NUM_QUESTIONS * NUM_DRAWS
LINE = f"repeat({NUM_DRAWS}, max_tokens=12) | vote"
QUESTIONS = tuple(Question(f"q{i}", (Message("user", f"say {i}"),)) for i in range(NUM_QUESTIONS))
TASK = Task(
    "say",
    tuple(Problem(question, "a") for question in QUESTIONS),
    read=lambda question, text: text[-1:] or None,
    grade=lambda problem, answer: Score(float(answer == problem.reference)),
)

LOST = {"504", "half", "cut before", "cut middle", "stall"}  # drawn and billed, and nothing of it arrives
EMPTY = {"null", "finish filter"}  # arrives without a text
PASSING = [fault for fault in FAULTS if fault not in ("400", "stall", "slow", "429 date")]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses before retries."""
    monkeypatch.setattr("samplewise.core.retry.BACKOFF_S", 0.001)
    monkeypatch.setattr("samplewise.engines.http.transport.pace.MAX_BACKOFF_S", 0.005)


class Ran(NamedTuple):
    """The outcome of a run, on both sides."""

    summary: Summary
    pools: list[Pool]
    tally: EndpointTally

    @property
    def marks(self) -> list[int]:
        """Return the marks of the draws in the pools."""
        texts = [candidate.text for pool in self.pools for candidate in pool.candidates]
        return [int(text[1 : text.index(">")]) for text in texts if text.startswith("<")]


def ran(settings: EndpointSettings, store: Path, budget: Budget = Budget(), times: int = 1, **given: Any) -> Ran:
    """Run the task against an endpoint, `times` times with one store."""

    async def go() -> Ran:
        endpoint = Endpoint(settings)
        async with endpoint as url:
            engine = http("toy", base_url=url, **{"probe": "never", "patience_s": 120.0, **given})
            try:
                with Store(store) as kept:
                    for _ in range(times):
                        summary = await run_task(TASK, recipe(LINE), engine, kept, budget=budget)
                    pools = [record.pool for record in kept.records(summary.run)]
            finally:
                await engine.close()
            await quiet(endpoint)
        return Ran(summary, pools, endpoint.tally)

    return asyncio.run(go())


async def quiet(endpoint: Endpoint, seconds: float = 60.0) -> None:
    """Wait until nothing is in flight."""
    deadline = time.monotonic() + seconds
    while endpoint.tally.in_flight:
        assert time.monotonic() < deadline, "requests are still in flight"
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("together", ["never", "auto"])
@pytest.mark.parametrize("fault", PASSING)
def test_no_draw_is_lost_and_none_counted_twice(fault: str, together: str, tmp_path: Path) -> None:
    """Every second request of the first wave fails; retries succeed."""
    slots = 12 if together == "never" else 4
    settings = EndpointSettings(plan=(fault, "") * (slots // 2), marks=True, retry_after_s=0.0, slow_s=0.01)
    found = ran(settings, tmp_path / "s.db", n=together)
    assert found.summary.num_done == NUM_QUESTIONS
    assert [len(pool.candidates) for pool in found.pools] == [NUM_DRAWS] * NUM_QUESTIONS
    assert sum(pool.num_failed for pool in found.pools) == 0
    assert len(found.marks) == len(set(found.marks)), "a draw was counted twice"
    if fault not in EMPTY:
        assert len(found.marks) == NUM, "a draw was lost"
    assert max(found.marks) < found.tally.draws
    hit = found.tally.faults[fault]
    assert hit > 0
    if together == "never":
        surplus = hit if fault in LOST or fault == "more" else 0
        assert found.tally.draws == NUM + surplus, "drawn once more than there was need for"
    assert found.tally.tokens <= found.summary.paid.tokens, "what was billed is on the books"
    assert found.tally.disconnects == 0


@pytest.mark.parametrize("fault", ["500", "half", "usage negative", "fewer", "cut middle"])
def test_a_second_run_pays_nothing(fault: str, tmp_path: Path) -> None:
    settings = EndpointSettings(plan=(fault, "", fault), marks=True)
    once, twice = ran(settings, tmp_path / "a.db"), ran(settings, tmp_path / "b.db", times=2)
    assert twice.summary.paid.tokens == twice.summary.paid.requests == 0
    assert twice.tally.draws == once.tally.draws
    assert twice.tally.requests == once.tally.requests


HARD = [*(fault for fault in PASSING if fault not in ("more", "html")), ""]


@pytest.mark.parametrize("together", ["never", "auto"])
@pytest.mark.parametrize("fault", HARD)
def test_a_budget_holds_by_the_endpoint_s_own_bill(fault: str, together: str, tmp_path: Path) -> None:
    """Half of all requests fail. 1,200 tokens suffice for some of the draws only, since a prompt that was never counted
    is charged its upper bound."""
    settings = EndpointSettings(faults={fault: 0.5} if fault else {}, marks=True, retry_after_s=0.0)
    found = ran(settings, tmp_path / "s.db", Budget(tokens=1200), n=together)
    assert found.tally.tokens <= found.summary.paid.tokens
    if fault.startswith("long"):  # nothing can hold but what was in flight when the first long draw came
        # as many as fit at the worst case of prompts that were never counted, and those of one question whose prompt
        # was counted, and which so had room for the rest, before a long draw came
        assert found.tally.draws <= 1200 // 90 + NUM_DRAWS - 3
        return
    assert found.tally.tokens <= 1200
    assert found.summary.paid.tokens <= 1200
    if fault not in ("fewer", *LOST, "500", "502", "error 200"):  # those may have burnt it all
        assert found.tally.draws > 0


@pytest.mark.parametrize("fault", HARD)
def test_a_limit_on_requests_counts_draws(fault: str, tmp_path: Path) -> None:
    settings = EndpointSettings(faults={fault: 0.5} if fault else {}, marks=True, retry_after_s=0.0)
    found = ran(settings, tmp_path / "s.db", Budget(requests=20), n="never")
    assert found.summary.paid.requests <= 20
    assert found.tally.draws <= 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EndpointSettings(faults={"500": 1.0}), "an internal error"),
        (EndpointSettings(faults={"half": 1.0}), "broke off"),
        (EndpointSettings(faults={"html": 1.0}), "http(toy)"),
        (EndpointSettings(faults={"cut before": 1.0}), ""),
        (EndpointSettings(context=4), "maximum context length"),
    ],
    ids=["500", "half", "html", "cut", "context"],
)
def test_an_endpoint_that_never_answers_is_reported_with_its_message(settings: EndpointSettings, message: str) -> None:
    async def go() -> None:
        endpoint = Endpoint(settings)
        async with endpoint as url:
            engine = http("toy", base_url=url, probe="never", n="never")
            try:
                result = await run_question(
                    QUESTIONS[0], recipe("repeat(2, max_tokens=4) | vote"), RunContext(engine), Key(0), read=TASK.read
                )
                failures = [arrival.completion.failure async for arrival in engine.answer(asks_of(2))]
            finally:
                await engine.close()
        assert result.answer is None
        assert result.pool.num_failed == 2
        assert all(failure is not None and message in failure.message for failure in failures)
        assert endpoint.tally.tokens <= result.paid.tokens or endpoint.tally.tokens == 0

    asyncio.run(asyncio.wait_for(go(), 120))


def asks_of(num: int) -> Any:
    _, step = recipe(f"repeat({num}, max_tokens=4) | vote").sampler.step(
        Key(0), recipe(f"repeat({num}, max_tokens=4) | vote").sampler.init(_variants()), ()
    )
    return step.asks


def _variants() -> Any:
    from samplewise.vary.base import vary

    return vary().variants(vary().init(QUESTIONS[0]))


# --- what is no longer wanted is cancelled ----------------------------------------------------------------------------


def given_up(
    settings: EndpointSettings,
    line: str,
    budget: Budget = Budget(),
    cancel: Callable[[asyncio.Event], Any] | None = None,
) -> tuple[Any, EndpointTally]:
    """Run one question whose reader finds the same answer everywhere; wait until the endpoint is quiet."""

    async def go() -> tuple[Any, EndpointTally]:
        endpoint, event = Endpoint(settings), asyncio.Event()
        async with endpoint as url:
            engine = http("toy", base_url=url, probe="never", n="never")
            helper: asyncio.Future[Any] | None = None
            if cancel is not None:
                helper = asyncio.ensure_future(_as_coroutine(cancel, event, endpoint))
            try:
                result = await run_question(
                    QUESTIONS[0],
                    recipe(line),
                    RunContext(engine, budget=budget, cancel=event),
                    Key(0),
                    read=lambda question, text: "x",
                )
                await quiet(endpoint)
            finally:
                if helper is not None:
                    await helper
                await engine.close()
            return result, endpoint.tally

    return asyncio.run(asyncio.wait_for(go(), 120))


async def _as_coroutine(cancel: Any, event: asyncio.Event, endpoint: Endpoint) -> None:
    while endpoint.tally.in_flight < NUM_DRAWS:
        await asyncio.sleep(0.001)
    cancel(event)


SLOW = ("slow",) * NUM_DRAWS


def test_a_stop_rule_cancels_what_is_in_flight() -> None:
    """Two quick draws that agree decide; the six slow ones are cancelled, and nothing is drawn for them."""
    settings = EndpointSettings(plan=("", "", *SLOW[2:]), latency_ms=500, slow_s=600.0)  # all arrive before a reply
    result, tally = given_up(settings, f"repeat({NUM_DRAWS}, max_tokens=12) | until(lead(2), ahead={NUM_DRAWS}) | vote")
    assert result.stop.reason == "settled"
    assert (result.answer, len(result.pool.candidates)) == ("x", 2)
    assert (tally.disconnects, tally.aborted, tally.draws) == (6, 6, 2)


def test_the_end_of_the_time_cancels_what_is_in_flight() -> None:
    settings = EndpointSettings(plan=("", *SLOW[1:]), slow_s=600.0)
    result, tally = given_up(settings, f"repeat({NUM_DRAWS}, max_tokens=12) | vote", Budget(seconds=5.0))
    assert result.stop.reason == "budget"
    assert len(result.pool.candidates) == 1, "what was paid for is kept"
    assert (tally.disconnects, tally.draws) == (7, 1)


def test_cancelling_leaves_nothing_running() -> None:
    settings = EndpointSettings(plan=SLOW, slow_s=600.0)
    result, tally = given_up(settings, f"repeat({NUM_DRAWS}) | vote", cancel=lambda event: event.set())
    assert result.stop.reason == "cancelled"
    assert (tally.disconnects, tally.aborted, tally.draws) == (8, 8, 0)


def test_a_stalled_reply_is_given_up_charged_and_asked_for_again(tmp_path: Path) -> None:
    found = ran(EndpointSettings(plan=("stall",), marks=True), tmp_path / "s.db", n="never", timeout_s=3.0)
    assert len(set(found.marks)) == NUM
    assert found.tally.disconnects == 1
    assert found.tally.tokens <= found.summary.paid.tokens


def test_a_stalled_stream_is_given_up_too(tmp_path: Path) -> None:
    settings = EndpointSettings(plan=("stall",), marks=True)
    found = ran(settings, tmp_path / "s.db", n="never", stream=True, idle_timeout_s=3.0)
    assert len(set(found.marks)) == NUM
    assert found.tally.disconnects == 1


def test_an_overloaded_endpoint_is_not_flooded(tmp_path: Path) -> None:
    """Four requests fit; the others are rejected and retried. In the end everything is drawn once."""
    found = ran(EndpointSettings(capacity=4, latency_ms=5, marks=True, retry_after_s=0.0), tmp_path / "s.db", n="never")
    assert found.tally.most_in_flight <= 4
    assert sorted(found.marks) == list(range(NUM))
    assert found.tally.draws == NUM
