"""How answers are read and graded is part of a run: another reader is another run, over the same draws."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from pathlib import Path

import pytest

from samplewise.core.types import Completion, Problem, Score, Usage
from samplewise.engines.toy import Toy
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.run import Summary, find_run_id, reading_of, run_id, run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.tasks.jsonl import jsonl
from samplewise.verify.named import NamedGrader, NamedReader

LINE = recipe("repeat(4, max_tokens=3) | vote")


class Surd(Toy):
    """Answers every question with the same square root, spelled otherwise than the reference."""

    def one(self, ask: object) -> Completion:
        return Completion(r"so \boxed{\sqrt{8}}", "stop", Usage(1, 5, 5))


def run(store: Store, task: Task, engine: Toy | None = None) -> Summary:
    return asyncio.run(run_task(task, LINE, engine or Toy(3), store))


def write(folder: Path, *rows: object) -> Path:
    (folder / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "f.jsonl"


def test_another_reader_on_the_same_store_reads_the_same_draws(tmp_path: Path) -> None:
    pytest.importorskip("math_verify", reason="needs the extra [eval]")
    path = write(tmp_path, {"question": "the diagonal?", "answer": r"2\sqrt{2}"})
    with Store(tmp_path / "s.db") as store:
        plain = run(store, jsonl(path), Surd(3))
        maths = run(store, jsonl(path, read="maths"), Surd(3))
        again = run(store, jsonl(path), Surd(3))
        assert store.num_draws() == 4
        assert [r.manifest["reading"] for r in store.runs()] == [
            reading_of(jsonl(path)),
            reading_of(jsonl(path, read="maths")),
        ]
    assert (plain.accuracy, maths.accuracy, again.accuracy) == ((0.0,), (1.0,), (0.0,))
    assert plain.run == again.run != maths.run
    assert (plain.paid.requests, maths.paid.requests, again.paid.requests) == (4, 0, 0)


def test_a_new_version_of_a_reader_or_grader_is_another_run(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "say a", "answer": "a"}, {"question": "say b", "answer": "b"})
    task = jsonl(path)

    def half(problem: Problem, answer: str | None) -> Score:
        return Score(0.5)

    tasks = [
        task,
        dataclasses.replace(task, read=NamedReader("mine", 1, lambda question, text: "x")),
        dataclasses.replace(task, read=NamedReader("mine", 2, lambda question, text: "y")),
        dataclasses.replace(task, grade=NamedGrader("mine", 1, half)),
    ]
    with Store(tmp_path / "s.db") as store:
        summaries = [run(store, each) for each in tasks]
        assert len({summary.run for summary in summaries}) == len(store.runs()) == 4
        assert store.num_draws() == 8
    assert summaries[3].accuracy == (0.5, 0.5)
    assert [summary.paid.requests for summary in summaries] == [8, 0, 0, 0]


def old_run(folder: Path, task: Task) -> tuple[Store, str]:
    """Return a store in which a finished run has the id and the manifest of the first versions."""
    store = Store(folder / "s.db")
    new = run(store, task).run
    old = run_id(task, LINE, Toy(3), 0, Budget())
    store.close()
    import sqlite3

    with contextlib.closing(sqlite3.connect(folder / "s.db")) as db, db:
        for table in ("pools", "scores", "selections"):
            db.execute(f"UPDATE {table} SET run=? WHERE run=?", (old, new))
        facts = json.loads(db.execute("SELECT manifest FROM runs").fetchone()[0])
        del facts["reading"]
        db.execute("UPDATE runs SET id=?, manifest=?", (old, json.dumps(facts)))
    return Store(folder / "s.db"), old


def test_a_run_of_an_earlier_version_is_found_if_it_was_read_alike(tmp_path: Path) -> None:
    task = jsonl(write(tmp_path, {"question": "say a", "answer": "a"}, {"question": "say b"}))
    store, old = old_run(tmp_path, task)
    with store:
        found = run(store, task)
        assert (found.run, found.paid.requests, len(store.runs())) == (old, 0, 1)
        assert store.runs()[0].manifest["reading"] == reading_of(task)
        other = dataclasses.replace(task, read=NamedReader("other", 1, task.read))
        assert run(store, other).run != old, "how it was read is known by now"


def test_a_run_of_an_earlier_version_that_was_read_otherwise_is_another(tmp_path: Path) -> None:
    task = jsonl(write(tmp_path, {"question": "say a", "answer": "a"}, {"question": "say b", "answer": "b"}))
    store, old = old_run(tmp_path, task)
    upper = NamedReader("upper", 1, lambda question, text: text.upper() or None)
    zero = NamedGrader("zero", 1, lambda problem, answer: Score(0.25))
    with store:
        for other in (dataclasses.replace(task, read=upper), dataclasses.replace(task, grade=zero)):
            identity = asyncio.run(find_run_id(store, other, LINE, Toy(3), 0, Budget()))
            assert identity != old
        assert asyncio.run(find_run_id(store, task, LINE, Toy(3), 0, Budget())) == old
