"""Draws of a model that reasons: what is read, voted, judged, stored and said."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from samplewise.api import asolve
from samplewise.core.keys import Key
from samplewise.core.types import (
    Ask,
    Candidate,
    Capability,
    Completion,
    Finish,
    Generate,
    Message,
    Problem,
    Question,
    Usage,
)
from samplewise.engines.base import Arrival, Engine, tell_reasoning
from samplewise.loop.result import unanswered_note
from samplewise.recipe import recipe
from samplewise.runs.redecide import redecide
from samplewise.runs.replay import replay_question
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.verify.auto import read_auto
from samplewise.verify.exact import grade_exact
from samplewise.verify.judge import judge

CUT: tuple[str, Finish] = ("<think>so the answer is 5, wait", "length")
ANSWERED: tuple[str, Finish] = ("<think>Is it 5? No.</think>\n\n391", "stop")
ASKED = (Message("user", "17 * 23?"),)


class Thinker(Engine):
    """Answers the draws in turn with the given texts; keeps the asks. `reasons` as a model that says so."""

    def __init__(self, texts: Sequence[tuple[str, Finish]], reasons: bool = False) -> None:
        self.name = self.identity = "thinker"
        self.default_max_tokens = 16_384 if reasons else None
        self.texts, self.asks = texts, list[Generate]()

    @property
    def can(self) -> frozenset[Capability]:
        return frozenset({Capability.GENERATE, Capability.SEED})

    def worst_case(self, ask: Ask) -> Usage:
        return Usage(1, 4, 40)

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            assert isinstance(ask, Generate)
            self.asks.append(ask)
            text, finish = self.texts[ask.draw % len(self.texts)]
            completion = Completion(text, finish, Usage(1, 4, len(text) // 4))
            yield Arrival(position, tell_reasoning(completion, ask))


def _solve(line: str, engine: Engine, **more: Any) -> Any:
    return asyncio.run(asolve("17 * 23?", engine=engine, recipe=line, read=read_auto, **more))


def test_cut_reasoning_casts_no_vote_and_is_said() -> None:
    result = _solve("repeat(16) | vote", Thinker([CUT] * 12 + [ANSWERED] * 4))
    assert (result.answer, result.votes, result.num_unanswered) == ("391", {"391": 4}, 12)
    assert "12 of 16 draws ended while reasoning: raise max_tokens" in repr(result)
    assert result.to_dict()["unanswered"] == 12
    assert [c["reasoning"] for c in result.to_dict()["candidates"]][11:13] == [
        "so the answer is 5, wait",
        "Is it 5? No.",
    ]
    assert result.spent.completion_tokens == 12 * (len(CUT[0]) // 4) + 4 * (len(ANSWERED[0]) // 4)


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_text_at_the_limit_is_cut_reasoning(text: str) -> None:
    cut: tuple[str, Finish] = (text, "length")
    result = _solve("repeat(16) | vote", Thinker([cut] * 12 + [ANSWERED] * 4))
    assert result.num_unanswered == 12
    assert result.votes == {"391": 4}


def test_what_is_said_of_them() -> None:
    whole, cut, ended = Candidate("391"), Candidate("", "length"), Candidate("", "stop", reasoning="so")
    assert unanswered_note([whole, Candidate("", "stop")]) == ""
    assert unanswered_note([whole, cut, ended]) == "2 of 3 draws ended while reasoning: raise max_tokens"
    remedy = "the model stops there, or its reasoning is told apart wrongly"
    assert unanswered_note([whole, ended]) == f"1 of 2 draws ended while reasoning: {remedy}"


def test_a_judge_reads_texts_alone_and_nothing_unanswered() -> None:
    question = Question("q", ASKED)
    candidates = (
        Candidate("391", reasoning="5?"),
        Candidate("", "length", reasoning="5"),
        Candidate("391", reasoning="6"),
    )
    rating = judge()
    asks = rating.next_asks(Key(0), question, candidates, ("391", None, "391"), ())
    assert len(asks) == 1
    assert "5" not in asks[0].messages[0].content.replace("17 * 23", "")[-30:]
    scores = rating.rate(Key(0), question, candidates, ("391", None, "391"), ((Completion("9", "stop"),),))
    assert scores[0] == scores[2] == 1.0
    assert scores[1] != scores[1]


def _task() -> Task:
    return Task("sums", (Problem(Question("q", ASKED), "391"),), read=read_auto, grade=grade_exact)


def test_reasoning_is_stored_and_decided_again(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store(path) as store:
        summary = asyncio.run(run_task(_task(), recipe("repeat(16) | vote"), Thinker([CUT, ANSWERED]), store))
        run = next(run for run in store.runs() if run.id == summary.run)
        record = next(store.records(run.id))
        assert {(c.text, c.reasoning) for c in record.pool.candidates} == {
            ("", "so the answer is 5, wait"),
            ("391", "Is it 5? No."),
        }
        assert redecide(store, run, "vote") == [1.0]
        replayed = replay_question(recipe(run.recipe), store, run, record)
        assert [(c.text, c.reasoning) for c in replayed.completions] == [
            (c.text, c.reasoning) for c in record.pool.candidates
        ]


def test_what_was_stored_before_is_cut_when_it_is_read(tmp_path: Path) -> None:
    """Stores of earlier versions hold texts with the reasoning in them, and no column for it."""
    path = tmp_path / "s.db"
    with Store(path) as store:
        summary = asyncio.run(run_task(_task(), recipe("repeat(16) | vote"), Thinker([CUT, ANSWERED]), store))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for text, _ in (CUT, ANSWERED):
            kept = "" if text == CUT[0] else "391"
            db.execute("UPDATE draws SET text=?, reasoning=NULL WHERE text=?", (text, kept))
        (columns,) = db.execute("SELECT columns FROM pools").fetchone()
        fields = json.loads(columns)
        del fields["reasoning"]
        fields["text"] = [CUT[0] if not text else ANSWERED[0] for text in fields["text"]]
        db.execute("UPDATE pools SET columns=?", (json.dumps(fields),))
    db.close()
    with Store(path) as store:
        pool = next(store.records(summary.run)).pool
        assert [c.text for c in pool.candidates] == ["", "391"] * 8
        assert [c.reasoning for c in pool.candidates] == ["so the answer is 5, wait", "Is it 5? No."] * 8
        assert {c.text for _, _, c in store.all_draws()} == {"", "391"}
        assert {c.reasoning for _, _, c in store.all_draws()} == {"so the answer is 5, wait", "Is it 5? No."}


def test_a_model_that_reasons_has_a_larger_limit(tmp_path: Path) -> None:
    """The limit is written into the run's recipe, so digests and replays follow from the line alone."""
    engine = Thinker([ANSWERED], reasons=True)
    with Store(tmp_path / "s.db") as store:
        asyncio.run(run_task(_task(), recipe("repeat(2) | vote"), engine, store))
        assert [run.recipe for run in store.runs()] == ["repeat(2, max_tokens=16384) | vote"]
    assert {ask.max_tokens for ask in engine.asks} == {16_384}
    named, plain = Thinker([ANSWERED], reasons=True), Thinker([ANSWERED])
    _solve("repeat(2, max_tokens=100) | vote", named)
    _solve("repeat(2) | vote", plain)
    assert ({ask.max_tokens for ask in named.asks}, {ask.max_tokens for ask in plain.asks}) == ({100}, {512})
