"""The replay engine: every recorded draw once, in a seeded order, and nothing that was not recorded."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from samplewise.api import solve
from samplewise.core.errors import SetupError
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Capability, Generate, Likelihood, Message, Problem, Question, Sampling
from samplewise.engines.replay import Replay, replay
from samplewise.recipe import recipe
from samplewise.recorded import Recording
from samplewise.recorded.base import text_draw
from samplewise.runs.run import run_task
from samplewise.store.database import Store

HI, HO = (Message("user", "hi"),), (Message("user", "ho"),)
WARM = Sampling(temperature=0.8)


def recording(num: int = 5, sampling: Sampling | None = None) -> Recording:
    problems = (Problem(Question("hi", HI), "r3"), Problem(Question("ho", HO), "r3"))
    draws = tuple(tuple(text_draw(m, f"r{i} STOP tail", sampling=sampling) for i in range(num)) for m in (HI, HO))
    return Recording("mine", problems, draws)


def ask(draw: int = 0, **others: object) -> Generate:
    return Generate(HI, draw=draw, seed=Key(0).fold(draw).seed())._replace(**others)


@given(st.integers(1, 30), st.integers(0, 1000))
def test_without_replacement_every_draw_comes_once(num: int, seed: int) -> None:
    engine = Replay(recording(num), seed=seed)
    served = [engine.one(ask(i)).text for i in range(num)]
    assert sorted(served) == sorted(f"r{i} STOP tail" for i in range(num))
    assert served == [engine.one(ask(i)).text for i in range(num)], "whatever was asked before"


def test_orders_differ_by_seed_and_question() -> None:
    orders = {tuple(Replay(recording(8), seed=s).one(ask(i)).text for i in range(8)) for s in range(20)}
    assert len(orders) == 20, "8! orders: two of 20 agree once in 200 times"
    engine = Replay(recording(8))
    hi, ho = ([engine.one(ask(i, messages=m)).text for i in range(8)] for m in (HI, HO))
    assert hi != ho


def test_every_order_is_as_likely_as_another() -> None:
    """3! orders, 600 seeds: chi-square at odds of 1e-6 of a false alarm."""
    seen = Counter(tuple(Replay(recording(3), seed=s).one(ask(i)).text for i in range(3)) for s in range(600))
    assert len(seen) == 6
    assert chisquare(list(seen.values())).pvalue > 1e-6


def test_with_replacement_the_seed_picks() -> None:
    engine = Replay(recording(3), replace=True)
    picked = Counter(engine.one(ask(i)).text for i in range(600))
    assert len(picked) == 3
    assert chisquare(list(picked.values())).pvalue > 1e-6
    assert engine.one(ask(7)) == engine.one(ask(7)._replace(draw=99)), "the seed alone"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (ask(5), "has 5 draws of this prompt, and draw 6 was asked for"),
        (ask(messages=(Message("user", "never asked"),)), "no draws of the prompt 'never asked'"),
        (ask(prefix=(1,)), "whole responses only"),
        (ask(forbid_first=1), "whole responses only"),
        (Likelihood(HI, (1, 2)), "whole responses only"),
        (ask(sampling=Sampling(0.5)), "recorded at temperature=0.8, not at temperature=0.5"),
    ],
)
def test_nothing_is_made_up(asked: Generate, said: str) -> None:
    completion = Replay(recording(sampling=WARM)).one(asked)
    assert completion.finish == "error"
    assert completion.failure is not None
    assert said in completion.failure.message
    assert not completion.failure.retryable


def test_what_was_asked_for_in_vain_is_told_most_often_first() -> None:
    engine = Replay(recording(2, WARM))
    assert engine.notes == ()
    engine.one(ask())
    assert engine.notes == (), "it was served"
    for wanted in (
        ask(2),
        ask(2),
        ask(sampling=Sampling(0.5)),
        Likelihood(HI, (1,)),
        ask(2),
        ask(sampling=Sampling(0.5)),
    ):
        engine.one(wanted)
    beyond, colder, other = engine.notes
    assert beyond.startswith("3 requests failed: mine has 2 draws of this prompt, and draw 3 was asked for")
    assert colder == "2 requests failed: mine was recorded at temperature=0.8, not at temperature=0.5"
    assert other.startswith("1 request failed: a replay serves whole responses only")
    for name in ("ha", "he", "he"):
        engine.one(ask(messages=(Message("user", name),)))
    assert len(engine.notes) == 4
    assert engine.notes[-1] == "2 more failed, for 2 other reasons"


def test_the_recorded_temperature_and_none_at_all_are_served() -> None:
    engine = Replay(recording(sampling=WARM))
    assert engine.one(ask(sampling=WARM)).finish == engine.one(ask()).finish == "stop"


def test_a_stop_string_cuts() -> None:
    assert Replay(recording(1)).one(ask(stop=("zzz", " STOP"))).text == "r0"


def test_the_identity_follows_the_content_and_the_order() -> None:
    engines = [
        Replay(recording(5)),
        Replay(recording(6)),
        Replay(recording(5), seed=1),
        Replay(recording(5), replace=True),
    ]
    assert len({engine.identity for engine in engines}) == 4
    assert Replay(recording(5)).identity == engines[0].identity


def test_a_run_that_was_cut_off_goes_on_with_the_same_draws(tmp_path: Path) -> None:
    """Half of a question's draws are in the store, and a new process serves the rest: each recorded draw once."""
    whole = solve("hi", engine=Replay(recording(8)), recipe="repeat(8) | vote")
    with Store(tmp_path / "s.db") as store:
        solve("hi", engine=Replay(recording(8)), recipe="repeat(4) | vote", store=store)
        again = solve("hi", engine=Replay(recording(8)), recipe="repeat(8) | vote", store=store)
    assert again.paid.requests == 4
    assert [c.text for c in again.pool.candidates] == [c.text for c in whole.pool.candidates]
    assert len({candidate.text for candidate in again.pool.candidates}) == 8


def test_our_own_store_is_a_recording(tmp_path: Path) -> None:
    """What one engine drew is drawn again, log-probs and all, by an engine that knows the prompts alone."""
    path = tmp_path / "s.db"
    line = "repeat(6, max_tokens=3) | vote"
    first = solve("hi", engine="toy", recipe=line, store=path)
    engine = replay(str(path))
    assert {Capability.GENERATE, Capability.SEED} <= engine.can
    again = solve("hi", engine=engine, recipe=line)
    assert sorted(c.text for c in again.pool.candidates) == sorted(c.text for c in first.pool.candidates)
    assert again.spent.tokens == first.spent.tokens
    cold = solve("hi", engine=engine, recipe="repeat(6, temperature=0.5) | vote")
    assert cold.pool.num_failed == 6, "drawn at temperature 1, and our own store knows it"


def test_a_store_with_several_engines_wants_to_know_whose(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    for engine in ("toy", "toy(2)"):
        solve("hi", engine=engine, recipe="repeat(2) | vote", store=path)
    with pytest.raises(SetupError, match=r"holds draws of toy\(2.* and toy\(3.*engine="):
        replay(str(path))
    assert replay(str(path), engine="toy(2").recording.source.startswith("toy(2")


def test_on_the_command_lines_words(tmp_path: Path) -> None:
    """A file of somebody's draws, asked and voted on: the task and the engine by name."""
    path = tmp_path / "mine.jsonl"
    rows = [
        {"prompt": f"q{i}", "answer": "yes", "samples": ["Answer: yes", "Answer: no", "Answer: yes"]} for i in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task, engine = build("task", f"recorded({str(path)!r})"), build("engine", f"replay:{path}")
    with Store(tmp_path / "s.db") as store:
        summary = asyncio.run(run_task(task, recipe("repeat(3) | vote"), engine, store))
    assert summary.accuracy == (1.0, 1.0, 1.0)


def test_recorded_scores_choose(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        json.dumps({"id": "a", "prompt": "q", "answer": "7", "samples": ["5", "6", "7"], "scores": [1, 2, 9]})
    )
    task, engine = build("task", f"recorded({str(path)!r})"), build("engine", f"replay:{path}")
    line = recipe(f"repeat(3) | best(recorded({str(path)!r}, score='score'))")
    with Store(tmp_path / "s.db") as store:
        summary = asyncio.run(run_task(task, line, engine, store))
    assert summary.accuracy == (1.0,)
    with pytest.raises(Exception, match="no score of"):
        recipe(f"repeat(3) | best(recorded({str(path)!r}))")
