"""A replay shows what the run did: its asks, completions and trace, also where candidates take many completions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from samplewise.core.types import Json, Message, Problem, Question, Score
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.keys import run_key
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.replay import QuestionReplay, replay_question
from samplewise.runs.run import run_task
from samplewise.samplers.infos import read_trace
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.verify.readers import text_reader

PROBLEMS = tuple(Problem(Question(f"q{i}", (Message("user", f"Say {i}"),)), "x") for i in range(3))
TASK = Task("replayed", PROBLEMS, text_reader(), lambda problem, answer: Score(float(answer == problem.reference)))
CHAINS = [
    "power(4, 6, max_tokens=8)",
    "power(4, 5, chains=3, max_tokens=8)",
    "power(4, 6, blocks=2, block_steps=3, max_tokens=8)",
    "tempering((2, 4), 5, max_tokens=8)",
    "smc(4, 4, block=2, max_tokens=8)",
    "smc(4, 4, block=2, sweeps=2, max_tokens=8)",
    "adaptive(max_tokens=8)",
]


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(":memory:") as opened:
        yield opened


def both(line: str, store: Store, budget: Budget) -> Iterator[tuple[tuple[Json, ...], QuestionReplay, float]]:
    """Yield what a run's questions left, drawn again from the store, beside their replays, and their requests.

    What a limited run left is not drawn again, as that would go on.
    """
    parsed = recipe(line)
    summary = asyncio.run(run_task(TASK, parsed, Toy(), store, seed=5, budget=budget))
    (run,) = store.runs()
    for record in store.records(summary.run):
        trace: tuple[Json, ...] = ()
        if budget == Budget():
            context = RunContext(Toy(), store=store)
            live = asyncio.run(run_question(record.problem.question, parsed, context, run_key(5), read=TASK.read))
            assert live.paid.tokens == 0
            trace = live.trace
        yield trace, replay_question(parsed, store, run, record), record.spent.requests


@pytest.mark.parametrize("line", [*CHAINS, "sir(6, 4, max_tokens=8)", "repeat(4, max_tokens=8)"])
def test_a_replay_leaves_the_trace_of_the_run(line: str, store: Store) -> None:
    for trace, replay, requests in both(f"{line} | first", store, Budget()):
        assert replay.trace == trace
        assert len(replay.asks) == len(replay.completions) == requests
    assert trace or line.startswith("repeat")


def test_every_step_of_a_chain_is_replayed(store: Store) -> None:
    for _, replay, _ in both("power(4, 6, max_tokens=8) | first", store, Budget()):
        moves = read_trace(replay.trace).moves
        assert [move.step for move in moves] == list(range(6))


@pytest.mark.parametrize("line", ["power(4, 60, max_tokens=8)", "smc(4, 4, block=2, max_tokens=8)"])
def test_a_chain_that_a_limit_ended_is_replayed_as_far_as_it_came(line: str, store: Store) -> None:
    with Store(":memory:") as other:
        whole = [trace for trace, _, _ in both(f"{line} | first", other, Budget())]
    cut = [(replay, requests) for _, replay, requests in both(f"{line} | first", store, Budget(requests=12))]
    for trace, (replay, requests) in zip(whole, cut, strict=True):
        assert 0 < len(replay.asks) == requests <= 4
        assert replay.trace == trace[: len(replay.trace)]
    assert any(len(replay.trace) < len(trace) for trace, (replay, _) in zip(whole, cut, strict=True))


def test_a_chain_that_went_on_elsewhere_is_replayed_as_far_as_the_record(store: Store) -> None:
    """Another run with a higher limit left more completions of the same chains in the store."""
    line = recipe("power(2, 60, cuts='uniform', max_tokens=8) | first")
    short = asyncio.run(run_task(TASK, line, Toy(), store, seed=6, budget=Budget(requests=12)))
    records = list(store.records(short.run))
    run = next(run for run in store.runs() if run.id == short.run)
    for record in records:  # goes on in the same store
        context = RunContext(Toy(), store=store)
        longer = asyncio.run(run_question(record.problem.question, line, context, run_key(6), read=TASK.read))
        assert longer.pool.candidates[0].text != record.pool.candidates[0].text
        last = read_trace(replay_question(line, store, run, record).trace).moves[-1]
        assert last.logp == pytest.approx(record.pool.candidates[0].logp_sum)
        assert last.step < 59


def test_independent_draws_are_replayed_as_far_as_the_record_goes(store: Store) -> None:
    """The store holds sixteen, of a run without a stop rule; the run with one took fewer."""
    asyncio.run(run_task(TASK, recipe("repeat(16, max_tokens=8) | first"), Toy(), store, seed=5))
    parsed = recipe("repeat(16, max_tokens=8) | until(lead(2)) | vote")
    summary = asyncio.run(run_task(TASK, parsed, Toy(), store, seed=5))
    run = next(run for run in store.runs() if run.id == summary.run)
    for record in store.records(summary.run):
        replay = replay_question(parsed, store, run, record)
        assert len(record.answers) <= len(replay.completions) <= 16
        assert len(replay.logq(record)) == len(record.answers)
