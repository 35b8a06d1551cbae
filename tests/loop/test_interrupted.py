"""Ctrl-C, slow checks and limits against an endpoint that keeps none of its promises."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import StoreError
from samplewise.core.events import Arrived, Event, Stopped
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Candidate, Message, Problem, Question, Score, Usage
from samplewise.engines.base import Arrival, Engine
from samplewise.engines.http import http
from samplewise.engines.team import Team
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.loop.threads import MAX_THREADS, in_thread
from samplewise.recipe import recipe
from samplewise.runs.run import Summary, run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.testing.endpoint import EndpointSettings, EndpointTally, serving

QUESTION = Question("q", (Message("user", "spell a word"),))


# --- threads ----------------------------------------------------------------------------------------------------------


def test_threads_are_bounded_and_raise_what_was_raised() -> None:
    running, most = 0, 0

    def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        if number == 3:
            raise KeyError(number)
        return number

    async def go() -> list[int | BaseException]:
        return await asyncio.gather(*(in_thread(work, number) for number in range(40)), return_exceptions=True)

    results = asyncio.run(go())
    assert [result for result in results if isinstance(result, int)] == [n for n in range(40) if n != 3]
    assert isinstance(results[3], KeyError)
    assert 1 < most <= MAX_THREADS


class Ticking(Toy):
    """Answers after a while, and measures how long the event loop was held up meanwhile."""

    longest = 0.0

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            for _ in range(5):
                before = time.monotonic()
                await asyncio.sleep(0.01)
                self.longest = max(self.longest, time.monotonic() - before)
            yield Arrival(position, self.one(ask))


@pytest.mark.parametrize("line", ["repeat(4) | best(slow)", "repeat(4) | until(passed(slow)) | best(slow)"])
def test_slow_checks_do_not_hold_up_replies(line: str) -> None:
    """Programs ran in the event loop: 13 of 21 replies were taken for time-outs, and bought again."""
    from dataclasses import replace

    def slow(question: Question, candidate: Candidate) -> Score:
        time.sleep(0.5)
        return Score(0.0)

    plain = recipe(line.replace("slow", "logp"))
    made = replace(plain, verifiers={"logp": slow})
    engine = Ticking(3)
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(4))
    task = Task("words", problems, lambda _, text: text or None, lambda *_: Score(1.0))
    with Store(":memory:") as store:
        done = asyncio.run(run_task(task, made, engine, store))
    assert done.num_done == 4
    assert engine.longest < 0.4


# --- limits -----------------------------------------------------------------------------------------------------------


def drawn(settings: EndpointSettings, budget: Budget, **more: object) -> tuple[Summary, EndpointTally, tuple[str, ...]]:
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(10))
    task = Task("words", problems, lambda _, text: text or None, lambda *_: Score(1.0))
    with serving(settings) as endpoint, Store(":memory:") as store:

        async def go() -> tuple[Summary, tuple[str, ...]]:
            engine = http("toy", base_url=endpoint.url, probe="never", price=(0, 1), **more)  # type: ignore[arg-type]
            try:
                return await run_task(task, recipe("repeat(8, max_tokens=4) | vote"), engine, store, budget=budget), (
                    engine.notes
                )
            finally:
                await engine.close()

        summary, notes = asyncio.run(go())
        return summary, endpoint.tally, notes


@pytest.mark.parametrize("fault", ["long", "long uncounted"])
@pytest.mark.parametrize("limit", [Budget(tokens=3000), Budget(usd=0.003)])
def test_an_endpoint_that_ignores_max_tokens_passes_a_limit_once(fault: str, limit: Budget) -> None:
    """3,000 tokens were allowed, 2,600 booked and 500,000 billed."""
    summary, tally, notes = drawn(EndpointSettings(faults={fault: 1.0}), limit)
    assert tally.requests == 1, "one request is awaited before others are sent, and shows that no limit can be kept"
    assert summary.paid.completion_tokens >= tally.completion_tokens >= 5000
    assert any("does not keep max_tokens" in note for note in notes)
    for kept in ({}, {"usage absent": 1.0}):
        summary, _, notes = drawn(EndpointSettings(faults=kept), limit)
        assert summary.num_done == 10
        assert summary.num_draws == 80 or (limit.tokens and summary.num_draws == 30)  # 3 uncounted prompts each fit
        assert not any("does not keep" in note for note in notes)


@pytest.mark.parametrize("fault", ["long", "long uncounted"])
def test_what_passes_a_limit_is_bounded_by_what_was_in_flight(fault: str) -> None:
    """The endpoint keeps max_tokens for forty requests of eighty, and then no longer: all others would be long.

    A slot that a long draw frees is filled before its bill is seen, on a busy machine (34 were drawn) once more.
    """
    faults = EndpointSettings(plan=("",) * 40 + (fault,) * 400, latency_ms=20, token_ms=1)
    summary, tally, notes = drawn(faults, Budget(tokens=10 * 8 * 120), n="never", max_concurrency=16)
    assert any("does not keep max_tokens" in note for note in notes)
    num_long = tally.completion_tokens // 5000
    assert 0 < num_long <= 2.5 * 16, "those in flight when it was first seen, and those that took their place"
    assert summary.paid.completion_tokens >= tally.completion_tokens


@pytest.mark.parametrize("line", ["repeat(64, max_tokens=8)", "repeat(64, max_tokens=8) | until(lead(60)) | vote"])
@pytest.mark.parametrize("how", ["seconds", "cancel"])
def test_what_is_cut_off_is_paid_at_its_worst_case(line: str, how: str) -> None:
    """A run cut off by its time was booked at 0 tokens, and 259,200 were billed."""
    events: list[Event] = []
    with serving(EndpointSettings(latency_ms=60_000)) as endpoint, Store(":memory:") as store:

        async def go() -> Result:
            cancel = asyncio.Event()
            engine = http("toy", base_url=endpoint.url, probe="never", n="never")
            if how == "cancel":
                asyncio.get_running_loop().call_later(1.0, cancel.set)
            budget = Budget(seconds=1.0) if how == "seconds" else Budget()
            context = RunContext(engine, store, budget, on_event=events.append, cancel=cancel)
            try:
                return await run_question(QUESTION, recipe(line), context, Key(0), read=lambda _, text: text)
            finally:
                await engine.close()

        result = asyncio.run(go())
        sent = endpoint.tally.requests
    assert 0 < sent <= 64
    assert result.paid.requests == sent, "neither what was never sent, nor less than what was"
    assert result.paid.completion_tokens == 8 * sent
    assert result.spent == Usage()
    assert isinstance(events[-1], Stopped)
    assert events[-1].at_most == result.paid


@pytest.mark.parametrize("how", ["stop", "cancel", "stop in a team"])
def test_draws_that_came_with_others_are_kept_when_a_run_ends(how: str) -> None:
    """Of 17 draws of one request 14 were dropped, booked at their worst case and drawn again by the next recipe."""
    with serving(EndpointSettings()) as endpoint, Store(":memory:") as store:

        async def go() -> Result:
            cancel = asyncio.Event()

            def on_event(event: Event) -> None:
                if how == "cancel" and isinstance(event, Arrived):
                    cancel.set()

            engine: Engine = http("toy", base_url=endpoint.url, probe="never")
            engine = Team({"": engine}) if how == "stop in a team" else engine
            line = "repeat(32, max_tokens=8) | until(lead(1), ahead=15) | vote"
            try:
                context = RunContext(engine, store, on_event=on_event, cancel=cancel)
                return await run_question(QUESTION, recipe(line), context, Key(0), read=lambda _, text: text)
            finally:
                await engine.close()

        result = asyncio.run(go())
        assert (endpoint.tally.requests, endpoint.tally.draws, store.num_draws()) == (1, 16, 16)
    assert result.paid.completion_tokens == endpoint.tally.completion_tokens
    assert result.paid.requests == 16


# --- signals ----------------------------------------------------------------------------------------------------------

RUN = """
import time
from samplewise.core.types import Score
from samplewise.core import registry
import samplewise.verify.confidence as confidence
from samplewise.cli import main
slow = {slow!r}
if slow == "verifier":
    confidence.__dict__  # the verifier that the recipe names is replaced by one that hangs
    from samplewise.verify.code import PublicTests
    PublicTests.__call__ = lambda self, question, candidate: time.sleep(60) or Score(0.0)
if slow == "grader":
    from samplewise.verify import exact
    import samplewise.runs.run as run
    plain = run.in_thread
    run.in_thread = lambda function, *args: plain(time.sleep, 60)
main()
"""


@pytest.mark.parametrize(
    ("slow", "times", "name"),
    [
        ("endpoint", 1, "SIGINT"),
        ("verifier", 1, "SIGINT"),
        ("grader", 2, "SIGINT"),
        ("verifier", 1, "SIGTERM"),
    ],
)
def test_a_signal_ends_a_run_within_two_seconds(tmp_path: Path, slow: str, times: int, name: str) -> None:
    """It took 77 and 130 seconds, and ended without the line that says how to go on."""
    (tmp_path / "mine.jsonl").write_text('{"question": "say 1", "answer": "1"}\n')
    settings = EndpointSettings(latency_ms=60_000 if slow == "endpoint" else 0)
    selector = "best(public_tests)" if slow == "verifier" else "vote"
    with serving(settings) as endpoint:
        command = [sys.executable, "-c", RUN.format(slow=slow), "run", f"jsonl:{tmp_path / 'mine.jsonl'}"]
        command += ["--engine", 'http("toy", probe="never")', "--recipe", f"repeat(4, max_tokens=4) | {selector}"]
        command += ["--store", str(tmp_path / "s.db")]
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OPENAI_BASE_URL": endpoint.url},
        )
        deadline = time.monotonic() + 120
        while endpoint.tally.requests == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        started = time.monotonic()
        for _ in range(times):
            child.send_signal(getattr(signal, name))
            time.sleep(0.2)
        _, err = child.communicate(timeout=60)
        elapsed = time.monotonic() - started
    assert (child.returncode, err.count("interrupted;"), "Traceback" in err) == (130, 1, False), err
    assert "the same command goes on from there" in err
    assert elapsed < 5.0, err  # two seconds, and what a busy machine takes to end a process
    with Store(tmp_path / "s.db") as store:
        (run,) = store.runs()
        assert run.ended is None
        assert store.num_draws() == (0 if slow == "endpoint" else 4)
        cut = [data[-1] for _, kind, data in store.events(run.id) if kind == "stopped" and data[-1][0]]
        if slow == "endpoint":
            assert Usage(*cut[0]).completion_tokens == 16


def test_a_signal_while_the_program_is_imported_ends_it_with_one_line() -> None:
    """5 of 32 ended in a traceback."""
    code = "from samplewise.cli import main; print(1, flush=True); main()"
    seen = []
    for delay_s in (0.05, 0.2, 0.4, 0.8):
        child = subprocess.Popen(
            [sys.executable, "-c", code, "run", "game24", "--engine", "tiny"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(delay_s)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
        seen.append((child.returncode, err.count("\n"), "Traceback" in err))
    assert all(code == 130 and lines >= 1 and not broken for code, lines, broken in seen), seen


# --- full disks and few descriptors -----------------------------------------------------------------------------------


def test_a_full_disk_says_what_is_lost() -> None:
    """106 draws were answered, 43 kept, and the message said that all were safe."""
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(10))
    task = Task("words", problems, lambda _, text: text or None, lambda *_: Score(1.0))
    with serving(EndpointSettings(latency_ms=20)) as endpoint, Store(":memory:") as store:
        num = 0
        plain = store.put_draw

        def put_draw(*args: Any) -> None:
            nonlocal num
            num += 1
            if num == 12:
                pages = store._db.execute("PRAGMA page_count").fetchone()[0]
                store._db.execute(f"PRAGMA max_page_count={pages}")
                args = (*args[:3], args[3]._replace(text="x" * 100_000))
            plain(*args)

        store.put_draw = put_draw  # type: ignore[method-assign]

        async def go() -> Summary:
            engine = http("toy", base_url=endpoint.url, probe="never", n="never")
            try:
                return await run_task(task, recipe("repeat(8, max_tokens=4) | vote"), engine, store)
            finally:
                await engine.close()

        told = r"what has just arrived is lost.*full; \d+ requests in flight were given up.* at most [\d,]+ tokens"
        with pytest.raises(StoreError, match=told):
            asyncio.run(go())
        assert store.num_draws() >= 11


@pytest.mark.parametrize("limit", [64, 256])
def test_concurrency_fits_the_limit_of_open_files(tmp_path: Path, limit: int) -> None:
    """With ulimit -n 256 a run was three times as slow, or ended in a traceback of a late import."""
    (tmp_path / "mine.jsonl").write_text("\n".join(f'{{"question": "say {i}", "answer": "1"}}' for i in range(8)))
    with serving(EndpointSettings(latency_ms=5)) as endpoint:
        command = [sys.executable, "-m", "samplewise", "run", f"jsonl:{tmp_path / 'mine.jsonl'}", "--store"]
        command += [str(tmp_path / "s.db"), "--recipe", "repeat(64, max_tokens=2) | vote"]
        command += ["--engine", 'http("toy", probe="never", n="never")']
        done = subprocess.run(
            ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *command],
            env={**os.environ, "OPENAI_BASE_URL": endpoint.url},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
        assert endpoint.tally.requests == 8 * 64
        assert endpoint.tally.most_in_flight <= max(1, limit - 96)
