"""Merged stores: one run from its shards, conflicts that are said, inputs left as they are, kills that harm nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import os
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import MergeConflict, StoreConflict, StoreError, StoreVersion, UsageError
from samplewise.core.types import Completion, Generate, Message, Problem, Question, Score, Usage
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.runs.export import export_run
from samplewise.runs.recheck import recheck_run
from samplewise.runs.redecide import redecide
from samplewise.runs.run import run_task
from samplewise.store import merge as merge_module
from samplewise.store.database import Store
from samplewise.store.merge import merge_stores
from samplewise.store.reading import opened_to_read
from samplewise.store.schema import MIGRATIONS, apply_migration
from samplewise.tasks.base import Task

BEFORE = Path(__file__).parents[1] / "fixtures" / "store_before.sqlite3.gz"
NUM = 12
LINES = ("repeat(4, max_tokens=3) | vote", "vary(ladder) | repeat(6, max_tokens=3) | until(lead(2)) | best(logp)")
ASK = Generate((Message("user", "hi"),))
SAID = Completion("a", "stop", Usage(1, 2, 3, seconds=0.5), (1,), (-0.5,), None, -0.5)


def words() -> Task:
    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer is not None and answer[0] == problem.reference))

    asked = (Question(f"q{i}", (Message("user", f"word {i}"),)) for i in range(NUM))
    problems = tuple(Problem(question, "abc"[i % 3]) for i, question in enumerate(asked))
    return Task("words", problems, lambda question, text: text[:2] or None, grade)


def draw(
    path: Path, shard: tuple[int, int] | None = None, engine: Toy | None = None, lines: Sequence[str] = LINES
) -> None:
    with Store(path) as store:
        for line in lines:
            asyncio.run(run_task(words(), recipe(line), engine or Toy(3), store, shard=shard))


def tables(path: Path) -> dict[str, list[Any]]:
    """What a store holds, less clock times and notes of shards."""
    queries = {
        "draws": "SELECT digest, engine, ask, text, finish, tokens, logp, logq, logp_sum, usage, reasoning FROM draws",
        "runs": "SELECT id, recipe, task, engine, seed, manifest, ended IS NULL FROM runs",
        "pools": "SELECT run, question, number, spent, stop, answers, problem, columns, bill FROM pools",
        "scores": "SELECT * FROM scores",
        "selections": "SELECT * FROM selections",
        "events": "SELECT run, kind, data FROM events WHERE kind != 'shard'",
    }
    with opened_to_read(path) as db:
        return {name: sorted(db.execute(query).fetchall(), key=repr) for name, query in queries.items()}


def put(path: Path, completion: Completion = SAID, name: bytes = b"x" * 16) -> Path:
    with Store(path) as store:
        store.put_draw(name, "toy", ASK, completion)
    return path


def texts(path: Path) -> list[str]:
    with Store(path) as store:
        return [completion.text for _, _, completion in store.all_draws()]


def state(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three shards of two runs, each in a store of its own, and the store `whole.db` of one process beside them."""
    folder = tmp_path_factory.mktemp("shards")
    draw(folder / "whole.db")
    for index in range(3):
        draw(folder / f"{index}.db", (index, 3))
    return [folder / f"{index}.db" for index in range(3)]


def test_merged_shards_are_the_whole_run(shards: list[Path], tmp_path: Path) -> None:
    merged = merge_stores(shards, tmp_path / "all.db")
    whole = shards[0].with_name("whole.db")
    assert tables(tmp_path / "all.db") == tables(whole)
    assert [(run.num_done, run.num_questions) for run in merged.runs] == [(NUM, NUM)] * 2
    assert merged.rows == merged.added
    assert merged.rows["pools"] == 2 * NUM
    assert (merged.conflicts, merged.notes) == ((), ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.db"]
    with contextlib.closing(sqlite3.connect(tmp_path / "all.db")) as db, db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_merged_run_is_decided_again_byte_for_byte(shards: list[Path], tmp_path: Path) -> None:
    merge_stores(shards, tmp_path / "all.db")
    (tmp_path / "whole.db").write_bytes(shards[0].with_name("whole.db").read_bytes())
    seen: list[list[Any]] = []
    for path in (tmp_path / "all.db", tmp_path / "whole.db"):
        with Store(path) as store:
            runs = sorted(store.runs())
            files = []
            for run in runs:
                grades = {line: redecide(store, run, line) for line in ("vote", "best(likelihood)", "first")}
                assert not [stop for stop in recheck_run(store, run) if stop.difference]
                for table in ("draws", "decisions"):
                    export_run(store, run, tmp_path / "table.jsonl", "jsonl", table)  # type: ignore[arg-type]
                    files.append((grades, (tmp_path / "table.jsonl").read_bytes()))
            seen.append(files)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 4


def test_a_merged_run_costs_nothing_more(shards: list[Path], tmp_path: Path) -> None:
    merge_stores(shards, tmp_path / "all.db")
    with Store(tmp_path / "all.db") as store:
        for line in LINES:
            summary = asyncio.run(run_task(words(), recipe(line), Toy(3), store))
            assert (summary.paid.requests, summary.num_done) == (0, NUM)


def test_a_part_of_the_shards_is_a_run_that_has_not_ended(shards: list[Path], tmp_path: Path) -> None:
    merged = merge_stores(shards[:2], tmp_path / "all.db")
    assert {run.num_questions for run in merged.runs} == {NUM}
    assert all(0 < run.num_done < NUM for run in merged.runs)
    assert merged.notes == tuple(f"run {run.id} is partial: {run.num_done} of {NUM} questions" for run in merged.runs)
    with Store(tmp_path / "all.db") as store:
        assert [run.ended for run in store.runs()] == [None, None]
        for line in LINES:  # what is missing is drawn
            summary = asyncio.run(run_task(words(), recipe(line), Toy(3), store))
            assert summary.paid.requests > 0
    assert tables(tmp_path / "all.db") == tables(shards[0].with_name("whole.db"))


def test_a_store_that_holds_nothing_is_said(shards: list[Path], tmp_path: Path) -> None:
    """A copy that was cut off to nothing was merged without a word."""
    (tmp_path / "cut.db").touch()
    merged = merge_stores([*shards, tmp_path / "cut.db"], tmp_path / "all.db")
    (note,) = merged.notes
    assert note.startswith(f"{tmp_path / 'cut.db'} is empty: no draw, no run")


def test_the_order_of_stores_and_a_second_merge_change_nothing(shards: list[Path], tmp_path: Path) -> None:
    merge_stores(shards, tmp_path / "all.db")
    merge_stores(shards[::-1], tmp_path / "back.db")
    merge_stores([*shards, shards[0]], tmp_path / "twice.db")
    assert tables(tmp_path / "all.db") == tables(tmp_path / "back.db") == tables(tmp_path / "twice.db")
    merge_stores([*shards, shards[0].with_name("whole.db")], tmp_path / "both.db")  # events are of two processes
    once, both = tables(tmp_path / "all.db"), tables(tmp_path / "both.db")
    assert {name: both[name] for name in both if name != "events"} == {n: once[n] for n in once if n != "events"}
    merge_stores(shards, tmp_path / "other.db")
    assert (tmp_path / "all.db").read_bytes() == (tmp_path / "other.db").read_bytes()
    with opened_to_read(tmp_path / "all.db") as db:
        before = [db.execute(f"SELECT * FROM {table}").fetchall() for table in merge_module.TABLES]
    again = merge_stores(shards, tmp_path / "all.db")
    assert again.added == dict.fromkeys(merge_module.TABLES, 0)
    with opened_to_read(tmp_path / "all.db") as db:
        assert [db.execute(f"SELECT * FROM {table}").fetchall() for table in merge_module.TABLES] == before


def test_a_merged_run_began_with_its_first_shard_and_ended_with_its_last(tmp_path: Path) -> None:
    """In whatever order they are named; an end that one store knows is kept, and of two the earlier."""
    draw(tmp_path / "a.db", (0, 2), lines=LINES[:1])
    draw(tmp_path / "b.db", (1, 2), lines=LINES[:1])
    for name, started, noted in (("a", 100.0, 400.0), ("b", 200.0, 300.0)):
        change(tmp_path / f"{name}.db", f"UPDATE runs SET started={started}")
        change(tmp_path / f"{name}.db", f"UPDATE events SET at={noted}")
    for order in ("ab", "ba"):
        merge_stores([tmp_path / f"{name}.db" for name in order], tmp_path / f"{order}.db")
        with Store(tmp_path / f"{order}.db") as store:
            (run,) = store.runs()
            assert (run.started, run.ended) == (100.0, 400.0)
    (tmp_path / "copy.db").write_bytes((tmp_path / "ab.db").read_bytes())
    change(tmp_path / "copy.db", "UPDATE runs SET ended=350.0")
    for order in (["a", "ab", "copy"], ["copy", "ab", "a"]):
        merge_stores([tmp_path / f"{name}.db" for name in order], tmp_path / f"{len(order[0])}-first.db")
        with Store(tmp_path / f"{len(order[0])}-first.db") as store:
            assert store.runs()[0].ended == 350.0


def test_one_after_the_other_is_as_all_at_once(shards: list[Path], tmp_path: Path) -> None:
    merge_stores(shards, tmp_path / "all.db")
    for path in shards:
        merge_stores([path], tmp_path / "grown.db")
    assert tables(tmp_path / "grown.db") == tables(tmp_path / "all.db")
    with Store(tmp_path / "grown.db") as store:
        assert all(run.ended is not None for run in store.runs())


def test_inputs_stay_as_they_are(shards: list[Path], tmp_path: Path) -> None:
    before = state(shards[0].parent)
    merge_stores(shards, tmp_path / "all.db")
    merge_stores(shards, tmp_path / "all.db")
    assert state(shards[0].parent) == before  # nor is there a journal that was not


def test_more_stores_than_sqlite_attaches(tmp_path: Path) -> None:
    paths = [put(tmp_path / f"{i}.db", SAID._replace(text=f"{i}"), bytes([i]) * 16) for i in range(14)]
    assert merge_stores(paths, tmp_path / "all.db").rows["draws"] == 14
    assert texts(tmp_path / "all.db") == [f"{i}" for i in range(14)]


def test_what_a_killed_process_left_in_its_journal_is_merged(tmp_path: Path) -> None:
    if os.fork() == 0:
        Store(tmp_path / "a.db").put_draw(b"x" * 16, "toy", ASK, SAID)
        os.kill(os.getpid(), signal.SIGKILL)
    os.wait()
    before = state(tmp_path)
    assert before["a.db-wal"]
    merge_stores([tmp_path / "a.db"], tmp_path / "out" / "all.db")
    assert {name: digest for name, digest in state_of_files(tmp_path).items() if name != "a.db-shm"} == {
        name: digest for name, digest in before.items() if name != "a.db-shm"
    }
    assert texts(tmp_path / "out" / "all.db") == ["a"]


def state_of_files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


# --- conflicts --------------------------------------------------------------------------------------------------------


def test_a_draw_that_differs_stops_the_merge(tmp_path: Path) -> None:
    paths = [put(tmp_path / "a.db"), put(tmp_path / "b.db", SAID._replace(text="b", usage=Usage(1, 2, 4)))]
    with pytest.raises(MergeConflict) as raised:
        merge_stores(paths, tmp_path / "all.db")
    assert "\n" not in str(raised.value)
    assert f"1 draws of {paths[1]} differ: 787878787878 (text, usage)" in str(raised.value)
    assert "nothing was written" in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "b.db"]
    for order, text in ((paths, "a"), (paths[::-1], "b")):
        merged = merge_stores(order, tmp_path / f"{text}-first.db", on_conflict="first")
        assert [conflict.num for conflict in merged.conflicts] == [1]
        assert texts(tmp_path / f"{text}-first.db") == [text]


FIELDS: dict[str, Any] = {
    "text": "b", "finish": "length", "tokens": (2,), "logp": (-0.25,), "logq": (-0.5,), "logp_sum": -0.25,
    "usage": Usage(1, 2, 3, usd=0.1), "top": ((("a", -1.0),),), "logz": ((0.5,),), "certainty": (0.5,),
    "explored": {"a": 1}, "reasoning": "so", "raw": "a b",
}  # fmt: skip


@pytest.mark.parametrize("field", Completion._fields)
def test_every_field_of_a_draw_counts(tmp_path: Path, field: str) -> None:
    if field not in FIELDS:
        pytest.skip("not kept")
    paths = [put(tmp_path / "a.db"), put(tmp_path / "b.db", SAID._replace(**{field: FIELDS[field]}))]
    with pytest.raises(MergeConflict, match=f"787878787878 \\({field}\\)"):
        merge_stores(paths, tmp_path / "all.db")


def test_seconds_and_clock_times_are_no_conflict(tmp_path: Path) -> None:
    paths = [put(tmp_path / "a.db"), put(tmp_path / "b.db", SAID._replace(usage=Usage(1, 2, 3, seconds=9.0)))]
    assert merge_stores(paths, tmp_path / "all.db").conflicts == ()


def test_conflicts_are_counted_and_three_are_shown(tmp_path: Path) -> None:
    for i in range(5):
        put(tmp_path / "a.db", SAID, bytes([i]) * 16)
        put(tmp_path / "b.db", SAID._replace(text="b"), bytes([i]) * 16)
    put(tmp_path / "b.db", SAID, b"y" * 16)
    merged = merge_stores([tmp_path / "a.db", tmp_path / "b.db"], tmp_path / "all.db", on_conflict="first")
    (conflict,) = merged.conflicts
    assert (conflict.table, conflict.num, len(conflict.examples)) == ("draws", 5, 3)
    assert str(conflict).endswith("020202020202 (text) ...")
    assert merged.rows["draws"] == 6


def change(path: Path, query: str) -> None:
    db = sqlite3.connect(path)
    assert db.execute(query).rowcount > 0
    db.commit()
    db.close()


CHANGES = {
    "draws": "UPDATE draws SET text='other' WHERE digest=(SELECT max(digest) FROM draws)",
    "runs": "UPDATE runs SET recipe=recipe || ' '",
    "questions": "UPDATE pools SET answers=replace(answers, 'null', '\"a\"'), number=number+1 WHERE number=0",
    "scores": "UPDATE scores SET value=zeroblob(length(value)) WHERE scorer='logp'",
    "selections": "UPDATE selections SET grade=0.5",
}


@pytest.mark.parametrize("table", CHANGES)
def test_every_table_is_compared(shards: list[Path], tmp_path: Path, table: str) -> None:
    """Into a new store, and into one that exists, which stays as it is."""
    copy = tmp_path / "copy.db"
    copy.write_bytes(shards[0].read_bytes())
    change(copy, CHANGES[table])
    merge_stores([shards[0]], tmp_path / "all.db")
    before = tables(tmp_path / "all.db")
    for inputs, output in (([shards[0], copy], "new.db"), ([copy], "all.db")):
        with pytest.raises(MergeConflict) as raised:
            merge_stores(inputs, tmp_path / output)
        assert table in {conflict.table for conflict in raised.value.conflicts}  # type: ignore[attr-defined]
    assert not (tmp_path / "new.db").exists()
    assert tables(tmp_path / "all.db") == before
    assert merge_stores([copy], tmp_path / "all.db", on_conflict="first").conflicts
    assert tables(tmp_path / "all.db") == before


def test_scores_and_decisions_come_from_where_the_pool_comes_from(shards: list[Path], tmp_path: Path) -> None:
    """Those of another pool would be of other candidates."""
    draw(tmp_path / "a.db", lines=LINES[:1])
    draw(tmp_path / "b.db", lines=LINES[:1])
    with Store(tmp_path / "b.db") as store:
        (run,) = store.runs()
        redecide(store, run, "best(likelihood)")
    change(tmp_path / "b.db", "UPDATE pools SET number=number+100 WHERE number<5")
    merged = merge_stores([tmp_path / "a.db", tmp_path / "b.db"], tmp_path / "all.db", on_conflict="first")
    assert [(conflict.table, conflict.num) for conflict in merged.conflicts] == [("questions", 5)]
    with Store(tmp_path / "all.db") as store:
        records = list(store.records(run.id))
        assert [record.number for record in records] == list(range(NUM))
        scored = [record.number for record in records if "likelihood" in record.pool.candidates[0].scores]
        chosen = {row.question for row in store.selections(run.id) if row.selector == "best(likelihood)"}
    assert scored == list(range(5, NUM))
    assert chosen == {f"q{i}" for i in range(5, NUM)}


def test_decisions_that_one_store_alone_has_are_added(shards: list[Path], tmp_path: Path) -> None:
    draw(tmp_path / "a.db", lines=LINES[:1])
    with Store(tmp_path / "a.db") as store:
        (run,) = store.runs()
        redecide(store, run, "best(likelihood)")
    merge_stores([shards[0].with_name("whole.db"), tmp_path / "a.db"], tmp_path / "all.db")
    with Store(tmp_path / "all.db") as store:
        assert {row.selector for row in store.selections(run.id)} == {"vote", "best(likelihood)"}


def test_other_versions_are_said_and_other_machines_are_not(shards: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes(shards[1].read_bytes())
    change(copy, "UPDATE runs SET manifest=json_set(manifest, '$.versions.numpy', '0.1', '$.machine', 'another')")
    merged = merge_stores([shards[0], copy], tmp_path / "all.db")
    assert merged.conflicts == ()
    notes = [note for note in merged.notes if "partial" not in note]
    assert len(notes) == 2
    assert all("was drawn with different versions" in note and " and 0.1" in note for note in notes)


def test_shards_whose_engines_are_called_otherwise_are_told(shards: list[Path], tmp_path: Path) -> None:
    """As where each had a server of its own: the merged store holds two parts, which no later merge makes one."""
    draw(tmp_path / "b.db", (1, 3), Toy(4), LINES[:1])
    (tmp_path / "a.db").write_bytes(shards[0].read_bytes())
    merged = merge_stores([tmp_path / "a.db", tmp_path / "b.db"], tmp_path / "all.db")
    (told,) = [note for note in merged.notes if "different engines" in note]
    assert "of one task, recipe and seed" in told
    assert told.endswith("shards of one run need one: http(..., identity=NAME)")
    assert merge_stores([tmp_path / "b.db"], tmp_path / "all.db").notes == merged.notes


# --- events -----------------------------------------------------------------------------------------------------------


def note(path: Path, events: Sequence[tuple[float, str]]) -> Path:
    Store(path).close()
    db = sqlite3.connect(path)
    db.executemany("INSERT INTO events (run, at, kind, data) VALUES ('r', ?, 'failed', ?)", events)
    db.commit()
    db.close()
    return path


def events(path: Path) -> list[str]:
    with Store(path) as store:
        return [data for _, _, data in store.events("r")]


def test_events_are_put_in_the_order_of_their_times(tmp_path: Path) -> None:
    """What one store noted stays in its order, also where its clock went back; the last word on a question counts."""
    note(tmp_path / "a.db", [(1.0, '"a1"'), (5.0, '"a5"'), (3.0, '"a3"'), (6.0, '"a6"')])
    note(tmp_path / "b.db", [(2.0, '"b2"'), (4.0, '"b4"'), (5.5, '"b5"')])
    inputs = [tmp_path / "a.db", tmp_path / "b.db"]
    for order in (inputs, inputs[::-1]):
        merge_stores(order, tmp_path / f"{order[0].stem}-first.db")
        assert events(tmp_path / f"{order[0].stem}-first.db") == ["a1", "b2", "b4", "a5", "a3", "b5", "a6"]


def test_an_event_that_two_stores_have_is_one(tmp_path: Path) -> None:
    """And one that a store has twice, at one reading of a coarse clock, is two."""
    note(tmp_path / "a.db", [(1.0, '"x"'), (2.0, '"y"'), (2.0, '"y"')])
    note(tmp_path / "b.db", [(1.0, '"x"'), (2.0, '"y"'), (3.0, '"z"')])
    for _ in range(2):
        merge_stores([tmp_path / "a.db", tmp_path / "b.db"], tmp_path / "all.db")
        assert events(tmp_path / "all.db") == ["x", "y", "y", "z"]
    merge_stores([tmp_path / "b.db"], tmp_path / "grown.db")
    merge_stores([tmp_path / "a.db"], tmp_path / "grown.db")
    assert sorted(events(tmp_path / "grown.db")) == ["x", "y", "y", "z"]


# --- old stores, wrong files, kills -----------------------------------------------------------------------------------


def before(path: Path) -> Path:
    path.write_bytes(gzip.decompress(BEFORE.read_bytes()))
    return path


def test_a_store_of_an_older_version_is_merged_and_stays_old(tmp_path: Path) -> None:
    old = before(tmp_path / "old.db")
    written = old.read_bytes()
    merged = merge_stores([old], tmp_path / "all.db")
    assert old.read_bytes() == written
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.db", "old.db"]
    assert len(merged.runs) == 18
    with Store(old) as store:  # brought up to date in place
        again = store.runs()
        records = [list(store.records(run.id)) for run in again]
    with Store(tmp_path / "all.db") as store:
        assert store.runs() == again
        assert repr([list(store.records(run.id)) for run in again]) == repr(records)
    assert tables(tmp_path / "all.db") == tables(old)
    assert merge_stores([old, before(tmp_path / "older.db")], tmp_path / "all.db").added["draws"] == 0


def test_an_older_spelling_of_the_same_draw_is_no_conflict(tmp_path: Path) -> None:
    """Draws of the first stores have no column of reasoning: nothing there is the same as none."""
    with Store(before(tmp_path / "old.db")) as old, Store(tmp_path / "new.db") as new:
        rows = old._db.execute("SELECT digest, engine, reasoning FROM draws ORDER BY digest").fetchall()
        assert {row[2] for row in rows} == {None}
        for digest, engine, _ in rows[:200]:
            (completion,) = old.draws([digest]).values()
            new.put_draw(digest, engine, ASK, completion)
        asks = [(row[0], row[1]) for row in old._db.execute("SELECT ask, digest FROM draws").fetchall()]
        new._db.executemany("UPDATE draws SET ask=? WHERE digest=?", asks)
    merged = merge_stores([tmp_path / "new.db", tmp_path / "old.db"], tmp_path / "all.db")
    assert merged.rows["draws"] == len(rows)


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_a_store_of_every_version_is_merged(tmp_path: Path, version: int) -> None:
    db = sqlite3.connect(tmp_path / "old.db")
    for migration in MIGRATIONS[:version]:
        apply_migration(db, migration)
    db.execute(f"PRAGMA user_version={version}")
    db.commit()
    db.close()
    assert merge_stores([tmp_path / "old.db", put(tmp_path / "a.db")], tmp_path / "all.db").rows["draws"] == 1


def test_what_is_no_store_is_refused_in_one_line(tmp_path: Path) -> None:
    good = put(tmp_path / "a.db")
    newer = put(tmp_path / "newer.db")
    change_version(newer, len(MIGRATIONS) + 1)
    (tmp_path / "text.db").write_text("no database" * 99)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE mine (x)")
    other.close()
    cases: list[tuple[str, type[Exception], str]] = [
        ("newer.db", StoreVersion, "was written by a newer samplewise"),
        ("text.db", StoreError, "file is not a database"),
        ("other.db", StoreError, "a database of another program"),
        ("missing.db", StoreError, "no store at"),
        ("all.db", UsageError, "is an input, which a merge does not change"),
    ]
    put(tmp_path / "all.db", name=b"z" * 16)
    files = state(tmp_path)
    for name, error, message in cases:
        with pytest.raises(error, match=message) as raised:
            merge_stores([good, tmp_path / name], tmp_path / "all.db")
        assert "\n" not in str(raised.value)
    with pytest.raises(UsageError, match="give the stores to merge"):
        merge_stores([], tmp_path / "all.db")
    with pytest.raises(StoreError, match="cannot be written"):
        merge_stores([good], tmp_path / "text.db" / "all.db")
    assert state(tmp_path) == files
    assert not (tmp_path / "missing.db").exists()


def change_version(path: Path, version: int) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={version}")
    db.commit()
    db.close()


def test_a_store_that_is_drawn_into_is_read_and_not_written(tmp_path: Path) -> None:
    put(tmp_path / "a.db")
    with Store(tmp_path / "busy.db") as store:
        store.claim()
        store.put_draw(b"z" * 16, "toy", ASK, SAID)
        merge_stores([tmp_path / "a.db", tmp_path / "busy.db"], tmp_path / "all.db")
        with pytest.raises(StoreConflict):
            merge_stores([tmp_path / "a.db"], tmp_path / "busy.db")
        assert store.num_draws() == 1
    assert texts(tmp_path / "all.db") == ["a", "a"]


STEPS = ("_add_source", "_add_events", "_end_whole_runs", "_outcome", "_take_name")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("exists", [False, True])
def test_a_killed_merge_leaves_what_was_there(
    shards: list[Path], tmp_path: Path, step: str, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at the start of each step, in its second call where there is one, and started again."""
    output = tmp_path / "all.db"
    if exists:
        merge_stores(shards[:1], output)
    before = tables(output) if exists else None
    calls = 0
    plain = getattr(merge_module, step)

    def killed(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 or step == "_take_name" or (step == "_outcome" and exists):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*arguments)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(merge_module, step, killed)
        merge_stores(shards, output)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    was_killed = os.WIFSIGNALED(status)
    if was_killed:
        assert (tables(output) if exists else None) == before
        assert output.exists() == exists
    merge_stores(shards, output)
    assert tables(output) == tables(shards[0].with_name("whole.db"))
    assert {path.name for path in tmp_path.iterdir()} <= {"all.db", "all.db-wal", "all.db-shm"}
    expected = {"_add_source", "_outcome" if exists else "_take_name"} | (
        {"_add_events", "_end_whole_runs"} if exists else set()
    )
    assert was_killed == (step in expected)


def test_a_conflict_says_its_json(tmp_path: Path) -> None:
    paths = [put(tmp_path / "a.db"), put(tmp_path / "b.db", SAID._replace(text="b"))]
    merged = merge_stores(paths, tmp_path / "all.db", on_conflict="first")
    assert json.loads(json.dumps([conflict._asdict() for conflict in merged.conflicts]))[0]["table"] == "draws"
