"""Measure what the http engine costs beside a bare client, and what it loses when the endpoint misbehaves.

    make bench NAME=http

**Speed.** 10,000 requests at concurrency 256 against the faulty endpoint in its own process, without faults, which
answers after 20 ms. The engine is compared with a bare aiohttp client that posts the same bodies and parses the
replies. Sides take turns, 2,000 requests each. `throughput_ratio` is the median over rounds of engine over bare;
`cpu_ratio` is the same of the process's own time per request, which a busy machine disturbs less.
`loop_requests_per_s` is the whole loop: a recipe over a task, every draw kept in a store on disk.

**Faults.** The endpoint fails one request in ten (429, 500, 503, connections cut before and within a reply, half
bodies, usage missing, zero, negative or absurd) and ignores `n`. Every draw it makes carries a mark, and it keeps a
tally of what it drew and billed.

    lost          draws that a recipe asked for and did not get, and draws that were received and thrown away
    duplicated    marks that were delivered twice, and draws stored twice
    over_budget   questions whose budget was exceeded, in tokens or in requests that were worked on, by the tally

`--careless` reports failed requests as free, which must show in `over_budget`; `--slow` puts 300 microseconds of work
on every completion, which must show in `throughput_ratio`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from bench.about import about
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Generate, Json, Message, Problem, Question, Score, Usage
from samplewise.engines.base import Arrival
from samplewise.engines.http import http
from samplewise.engines.http.dialect import requests
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.engine import HttpEngine
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task

SEED = 0
NUM_REQUESTS, CONCURRENCY, LATENCY_MS = 10_000, 256, 20
NUM_PROMPTS = 100
PARTS = 5  # in which the sides take turns within a round
MAX_TOKENS = 32
FAULTS = {
    "429": 0.02,
    "500": 0.015,
    "503": 0.015,
    "cut before": 0.01,
    "cut middle": 0.01,
    "half": 0.01,
    "usage absent": 0.005,
    "usage zero": 0.005,
    "usage negative": 0.005,
    "usage absurd": 0.005,
}
NO_DRAW = ("429", "503")  # faults of requests that were not worked on
SWALLOWED = ("cut before", "cut middle", "half")  # faults of requests whose draw never left the endpoint whole
BUDGET = Budget(requests=24, tokens=24 * 24)  # of one question; its worst case is reached after a dozen draws
MODEL = "toy"


def asks(num: int) -> list[Generate]:
    """Return draws of `NUM_PROMPTS` questions, in turn."""
    prompts = [(Message("user", f"Spell a word of kind {i}, with reasons. " * 4),) for i in range(NUM_PROMPTS)]
    return [Generate(prompts[i % NUM_PROMPTS], max_tokens=MAX_TOKENS, seed=i, draw=i) for i in range(num)]


def engine_for(url: str, **options: Any) -> HttpEngine:
    return http(MODEL, base_url=url, api_key="", max_concurrency=CONCURRENCY, **options)


# --- speed ------------------------------------------------------------------------------------------------------------


class Pass(NamedTuple):
    """Requests per second, and microseconds of this process's own time per request."""

    rate: float
    cpu_us: float


def passed(num: int, started: float, cpu: float) -> Pass:
    return Pass(num / (time.perf_counter() - started), (time.process_time() - cpu) / num * 1e6)


def mean(parts: Sequence[Pass]) -> Pass:
    """Average parts of about equal size."""
    return Pass(statistics.harmonic_mean([part.rate for part in parts]), statistics.mean(p.cpu_us for p in parts))


async def engine_side(engine: HttpEngine, wanted: Sequence[Ask], slow: bool) -> Pass:
    """Run all requests through the engine."""
    started, cpu = time.perf_counter(), time.process_time()
    num = 0
    async for arrival in engine.answer(wanted):
        if arrival.completion.failure is not None:
            raise SystemExit(f"a request failed: {arrival.completion.failure.message}")
        num += 1
        if slow:
            until = time.perf_counter() + 300e-6
            while time.perf_counter() < until:
                pass
    assert num == len(wanted)
    return passed(num, started, cpu)


async def bare_side(session: aiohttp.ClientSession, url: str, wanted: Sequence[Generate]) -> Pass:
    """Run all requests through a client that only posts and parses."""
    waiting = iter(wanted)
    profile = Profile()

    async def work() -> None:
        for ask in waiting:
            body = json.dumps(requests.draw_request(ask, MODEL, profile).body).encode()
            async with session.post(url, data=body) as response:
                json.loads(await response.read())

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return passed(len(wanted), started, cpu)


async def speed(url: str, num: int, rounds: int, slow: bool) -> tuple[list[Pass], list[Pass]]:
    """Return the engine's and the bare client's passes per round. Both keep their connections over the rounds."""
    engine = engine_for(url, probe="never", n="never")
    headers = {"Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=0)
    ours: list[Pass] = []
    bare: list[Pass] = []
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        await engine.open()
        wanted = asks(num)
        path = f"{url}/chat/completions"
        await engine_side(engine, wanted[: 8 * CONCURRENCY], False)  # until the engine has found its pace
        await bare_side(session, path, wanted[: 8 * CONCURRENCY])
        for number in range(rounds):
            parts: dict[str, list[Pass]] = {"ours": [], "bare": []}
            for part in range(PARTS):  # a shared machine is then as busy for one side as for the other
                some = wanted[part::PARTS]
                for side in ("ours", "bare") if (number + part) % 2 == 0 else ("bare", "ours"):
                    one = engine_side(engine, some, slow) if side == "ours" else bare_side(session, path, some)
                    parts[side].append(await one)
            ours.append(mean(parts["ours"]))
            bare.append(mean(parts["bare"]))
            rates = f"engine {ours[-1].rate:,.0f} requests/s, bare client {bare[-1].rate:,.0f}"
            print(
                f"round {number + 1}: {rates}; own time {ours[-1].cpu_us:.0f} and {bare[-1].cpu_us:.0f} us", flush=True
            )
    await engine.close()
    return ours, bare


def words(num_questions: int) -> Task:
    """Return a task: spell a word that begins with the letter that the question asks for."""

    def read(question: Question, text: str) -> str | None:
        return text[-2:] or None

    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer is not None and answer[0] == problem.reference))

    questions = [Question(f"q{i}", (Message("user", f"word number {i}"),)) for i in range(num_questions)]
    return Task("words", tuple(Problem(q, "abcd"[i % 4]) for i, q in enumerate(questions)), read, grade)


async def loop_speed(url: str, num: int) -> float:
    """Return requests per second of the whole loop, with a store on disk."""
    engine = engine_for(url, probe="never", n="never")
    line = recipe(f"repeat({num // NUM_PROMPTS}, max_tokens={MAX_TOKENS}) | vote")
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.db") as store:
        started = time.perf_counter()
        await run_task(words(NUM_PROMPTS), line, engine, store, seed=SEED)
        seconds = time.perf_counter() - started
        kept = store.num_draws()
    await engine.close()
    if kept != num // NUM_PROMPTS * NUM_PROMPTS:
        raise SystemExit(f"the loop kept {kept} draws of {num}")
    return kept / seconds


# --- faults -----------------------------------------------------------------------------------------------------------


class Careless:
    """An engine that reports failed requests as free."""

    def __init__(self, engine: HttpEngine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def answer(self, wanted: Sequence[Ask]) -> AsyncIterator[Arrival]:
        async for position, completion in self._engine.answer(wanted):
            failed = completion.failure is not None
            yield Arrival(position, completion._replace(usage=Usage()) if failed else completion)


class Losses(NamedTuple):
    asked: int
    lost: int
    duplicated: int
    seconds: float


async def losses(url: str, num_questions: int, num_draws: int) -> Losses:
    """Count draws lost and delivered twice, of a task without a budget."""
    engine = engine_for(url, probe="never")
    before = await tally(url)
    line = recipe(f"repeat({num_draws}, max_tokens={MAX_TOKENS}) | vote")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.db") as store:
        await run_task(words(num_questions), line, engine, store, seed=SEED)
        records = [record for made in store.runs() for record in store.records(made.id)]
        num_stored = store.num_draws()
    seconds = time.perf_counter() - started
    notes = engine.notes
    await engine.close()
    after = await tally(url)
    for note in notes:
        print(f"  note: {note}")
    marks = Counter(
        mark for record in records for c in record.pool.candidates for mark in re.findall(r"^<(\d+)>", c.text)
    )
    asked = num_questions * num_draws
    missing = asked - sum(len(record.pool.candidates) for record in records)
    drawn = after["draws"] - before["draws"]
    swallowed = sum(after["faults"].get(fault, 0) - before["faults"].get(fault, 0) for fault in SWALLOWED)
    thrown_away = drawn - swallowed - marks.total()
    duplicated = sum(count - 1 for count in marks.values()) + max(num_stored - len(marks), 0)
    return Losses(asked, missing + max(thrown_away, 0), duplicated, seconds)


async def overruns(url: str, num_questions: int, careless: bool) -> tuple[int, int]:
    """Return the questions whose budget was exceeded by the endpoint's tally, and the draws made; one question at a
    time."""
    engine = engine_for(url, probe="never")
    asking: Any = Careless(engine) if careless else engine
    line = recipe(f"repeat(64, max_tokens={MAX_TOKENS}, wave=8) | vote")
    over = draws = 0
    task = words(num_questions)
    for problem in task.problems:
        before = await tally(url)
        result = await run_question(
            problem.question, line, RunContext(asking, budget=BUDGET), Key(SEED).fold("run"), read=task.read
        )
        after = await tally(url)
        worked = [after["requests"] - before["requests"]]
        worked += [before["faults"].get(fault, 0) - after["faults"].get(fault, 0) for fault in NO_DRAW]
        assert BUDGET.tokens is not None
        assert BUDGET.requests is not None
        over += after["tokens"] - before["tokens"] > BUDGET.tokens or sum(worked) > BUDGET.requests
        draws += len(result.pool.candidates)
    await engine.close()
    return over, draws


async def tally(url: str) -> dict[str, Any]:
    """Return what the endpoint has counted so far."""
    async with aiohttp.ClientSession() as session, session.get(f"{url.removesuffix('/v1')}/tally") as response:
        counts: dict[str, Any] = await response.json()
        return counts


# --- the whole --------------------------------------------------------------------------------------------------------


@contextmanager
def endpoint(*options: str) -> Iterator[str]:
    """Run the endpoint in its own process, and yield its address."""
    command = [sys.executable, "-m", "samplewise.testing.endpoint", "--seconds", "1200", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.communicate()


def bench(options: argparse.Namespace) -> dict[str, Json]:
    latency = ("--latency-ms", str(LATENCY_MS))
    with endpoint(*latency) as url:
        ours, bare = asyncio.run(speed(url, options.requests, options.rounds, options.slow))
        loop = asyncio.run(loop_speed(url, options.requests))
    ratios = [a.rate / b.rate for a, b in zip(ours, bare, strict=True)]
    cpu_ratios = [b.cpu_us / a.cpu_us for a, b in zip(ours, bare, strict=True)]
    print(f"the loop with a store: {loop:,.0f} requests/s")
    faults = [word for fault, probability in FAULTS.items() for word in ("--fault", f"{fault}={probability}")]
    with endpoint("--latency-ms", "1", "--marks", "--ignores", "n", *faults) as url:
        faulty = asyncio.run(losses(url, options.questions, 20))
        over, draws = asyncio.run(overruns(url, options.questions, options.careless))
    print(
        f"{faulty.asked:,} draws with faults in {faulty.seconds:.1f} s: {faulty.lost} lost, {faulty.duplicated} twice"
    )
    print(f"{options.questions} budgets, {draws} draws: {over} exceeded")
    return {
        "throughput_ratio": round(statistics.median(ratios), 3),
        "requests": options.requests,
        "lost": faulty.lost,
        "duplicated": faulty.duplicated,
        "over_budget": over,
        "max_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "throughput_ratio_low": round(min(ratios), 3),
        "throughput_ratio_high": round(max(ratios), 3),
        "cpu_ratio": round(statistics.median(cpu_ratios), 3),
        "engine_requests_per_s": round(statistics.median(side.rate for side in ours)),
        "bare_requests_per_s": round(statistics.median(side.rate for side in bare)),
        "loop_requests_per_s": round(loop),
        "concurrency": CONCURRENCY,
        "rounds": options.rounds,
        "faulty_draws": faulty.asked,
        "budgets": options.questions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--requests", type=int, default=NUM_REQUESTS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--questions", type=int, default=100, help="of the runs with faults")
    parser.add_argument(
        "--careless", action="store_true", help="use an engine that is wrong about costs, which must show"
    )
    parser.add_argument("--slow", action="store_true", help="use a slow engine, which must show")
    options = parser.parse_args()
    started = time.monotonic()
    figures = bench(options)
    print(json.dumps({**about("http", SEED, started), "aiohttp": aiohttp.__version__, **figures}))


if __name__ == "__main__":
    main()
