"""Rounds: what a rule plans is what the loop sends, and what a replay of the stored draws counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Ask, Message, Question
from samplewise.engines.base import Arrival
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.result import Result
from samplewise.recipe import recipe
from samplewise.runs.orders import StoredPool, replay_rule
from samplewise.stop.plan_table import plan_table

QUESTION = Question("q", (Message("user", "spell a word"),))


class Counting(Toy):
    """Answers all asks of a call at the same time, and keeps the sizes of the calls."""

    def __init__(self) -> None:
        super().__init__(3)
        self.waves: list[int] = []

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        self.waves.append(len(asks))
        await asyncio.sleep(0)
        for position, ask in enumerate(asks):
            yield Arrival(position, self.one(ask))


def solve(line: str, engine: Any, key: Key, length: int = 1) -> Result:
    context = RunContext(engine)
    return asyncio.run(run_question(QUESTION, recipe(line), context, key, read=lambda _, text: text[:length] or None))


def planned(answers: Sequence[str | None], price_round: float, price_draw: float, cap: int) -> list[int]:
    """The waves of the plan on these answers, from its table."""
    table = plan_table(price_round, price_draw, cap)
    waves, seen = [table.wave[0][0]], table.wave[0][0]
    while seen < cap:
        votes = [answer for answer in answers[:seen] if answer is not None]
        more = table.wave[seen][table.position([votes.count(answer) for answer in set(votes)])]
        if more == 0:
            break
        waves.append(more)
        seen += more
    return waves


@given(st.integers(0, 10**6), st.sampled_from([(0.01, 0.005), (0.0, 0.01), (0.03, 0.002)]), st.integers(1, 2))
@settings(max_examples=30)
def test_the_loop_sends_the_waves_of_the_plan(seed: int, prices: tuple[float, float], length: int) -> None:
    """Answers of one letter agree soon, those of two scatter."""
    engine = Counting()
    line = f"repeat(24, max_tokens=4) | until(vote_plan{(*prices, 24)}) | vote"
    result = solve(line, engine, Key(seed), length)
    assert engine.waves == planned(result.answers, *prices, 24)
    assert sum(engine.waves) == len(result.answers) == result.paid.requests
    assert result.stop.evidence["rounds"] == len(engine.waves)
    assert result.paid == result.spent, "nothing is sent in vain"


def test_a_dear_round_is_avoided_and_a_free_one_is_taken() -> None:
    free, dear = Counting(), Counting()
    solve("repeat(24, max_tokens=4) | until(vote_plan(0.0, 0.005, 24)) | vote", free, Key(1), 2)
    solve("repeat(24, max_tokens=4) | until(vote_plan(0.05, 0.005, 24)) | vote", dear, Key(1), 2)
    assert set(free.waves) == {1}
    assert len(dear.waves) < len(free.waves) / 3
    assert max(dear.waves) == 8


def test_the_wave_of_the_sampler_still_bounds() -> None:
    engine = Counting()
    result = solve("repeat(24, max_tokens=4, wave=3) | until(vote_plan(cap=24)) | vote", engine, Key(2), 2)
    whole = Counting()
    assert solve("repeat(24, max_tokens=4) | until(vote_plan(cap=24)) | vote", whole, Key(2), 2).answer == result.answer
    assert sum(engine.waves) == sum(whole.waves)
    assert max(engine.waves) == 3


@pytest.mark.parametrize("rule", ["cap(9)", "esc(3)", "vote_plan(cap=24)", "vote_plan(0.03, 0.002, 24)"])
def test_a_replay_counts_the_rounds_of_the_loop(rule: str) -> None:
    rounds = set()
    for seed in range(12):
        engine = Counting()
        result = solve(f"repeat(24, max_tokens=4) | until({rule}) | vote", engine, Key(seed), 1 + seed % 2)
        num = len(result.answers)
        pool = StoredPool(QUESTION, result.pool.candidates, result.answers, (0.0,) * num, (1.0,) * num)
        replay = replay_rule(build("stop", rule), pool, range(num))
        assert (replay.draws, replay.rounds(replay.draws)) == (num, len(engine.waves))
        rounds.add(len(engine.waves))
    assert (rounds == {1}) == (rule == "cap(9)")


def test_on_the_bundled_model_rounds_and_draws_are_as_planned() -> None:
    pytest.importorskip("transformers", reason="needs the extra [local]")
    engine = build("engine", "tiny")
    waves: list[int] = []
    answer = engine.answer

    def counted(asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        waves.append(len(asks))
        arrivals: AsyncIterator[Arrival] = answer(asks)
        return arrivals

    engine.answer = counted
    task = build("task", "game24(limit=1)")

    async def run() -> None:
        for problem in task.problems:
            waves.clear()
            line = "repeat(16) | until(vote_plan(0.02, 0.005, 16)) | vote"
            result = await run_question(problem.question, recipe(line), RunContext(engine), Key(0), read=task.read)
            assert waves == planned(result.answers, 0.02, 0.005, 16)
            assert len(result.answers) == sum(waves)
        await engine.close()

    asyncio.run(run())
