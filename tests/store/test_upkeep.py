"""Looking after a store: what a check finds, one fault at a time, what is counted, what a vacuum gives back."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import sqlite3
from pathlib import Path

import pytest

from samplewise.core.errors import StoreConflict, StoreError, StoreVersion
from samplewise.core.types import Completion, Generate, Message
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.runs import redecide as redecide_module
from samplewise.runs.run import run_task
from samplewise.store import upkeep
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.store.encoding import from_text, packed
from samplewise.store.merge import merge_stores
from samplewise.store.schema import MIGRATIONS
from samplewise.store.upkeep import check_store, measure_store, vacuum_store
from samplewise.tasks.jsonl import jsonl

BEFORE = Path(__file__).parents[1] / "fixtures" / "store_before.sqlite3.gz"
ASK = Generate((Message("user", "hi \ud83d"),))
NUM, DRAWS = 4, 5


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "f.jsonl").write_text("".join(f'{{"question": "say {i}", "answer": "a"}}\n' for i in range(NUM)))
    with Store(folder / "s.db") as store:
        line = recipe(f"repeat({DRAWS}, max_tokens=3) | best(logp)")
        asyncio.run(run_task(jsonl(folder / "f.jsonl"), line, Toy(3), store))
    return (folder / "s.db").read_bytes()


@pytest.fixture
def store(drawn: bytes, tmp_path: Path) -> Path:
    (tmp_path / "s.db").write_bytes(drawn)
    return tmp_path / "s.db"


def change(path: Path, query: str) -> None:
    db = sqlite3.connect(path)
    assert db.execute(query).rowcount > 0
    db.commit()
    db.close()


def test_a_whole_store_has_no_problem(store: Path) -> None:
    written = store.read_bytes()
    health = check_store(store)
    assert (health.num_draws, health.num_runs, health.problems, health.notes) == (NUM * DRAWS, 1, (), ())
    assert store.read_bytes() == written
    assert [path.name for path in store.parent.iterdir()] == ["s.db"]


def test_stores_of_earlier_versions_and_blank_ones_are_whole(tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(gzip.decompress(BEFORE.read_bytes()))
    health = check_store(tmp_path / "old.db")
    assert (health.num_draws, health.num_runs, health.problems) == (1126, 18, ())
    (tmp_path / "blank.db").touch()
    assert check_store(tmp_path / "blank.db")[:3] == (0, 0, ())


ROW = "WHERE rowid=(SELECT min(rowid) FROM {0})"
FIRST = "WHERE digest=(SELECT min(digest) FROM draws)"
FAULTS = {
    "1 draws whose digest is not that of their ask": f"UPDATE draws SET ask=ask || ' ' {FIRST}",
    "20 draws whose digest is not that of their ask": "UPDATE draws SET engine='another'",
    "1 draws that cannot be read": f"UPDATE draws SET usage='[' {FIRST}",
    "1 draws with other numbers of tokens": f"UPDATE draws SET tokens=zeroblob(8), logp=zeroblob(16) {FIRST}",
    "1 runs that cannot be read": "UPDATE runs SET manifest='[]'",
    "1 runs that have ended without all of their questions": f"DELETE FROM pools {ROW.format('pools')}",
    "1 questions with scores and no record": f"DELETE FROM pools {ROW.format('pools')}",
    "1 questions with selections and no record": f"DELETE FROM pools {ROW.format('pools')}",
    "4 questions whose record cannot be read": "DELETE FROM scores WHERE scorer='grade'",
    "1 questions whose record cannot be read": f"UPDATE pools SET answers='[]' {ROW.format('pools')}",
    "2 questions whose record cannot be read": "UPDATE pools SET stop='[1]' WHERE number < 2",
    "3 questions whose record cannot be read": "UPDATE pools SET spent='x' WHERE number > 0",
    "4 questions whose record cannot be read: ": "UPDATE pools SET problem=replace(problem, '[[\"', '[[\"x')",
    "4 decisions for draws that are not there": f"UPDATE selections SET position={DRAWS}",
    "1 places of a task with two questions": "UPDATE pools SET number=0 WHERE number=1",
    "1 runs of which there are questions alone": "DELETE FROM runs",
}


@pytest.mark.parametrize("words", FAULTS)
def test_each_fault_is_told(store: Path, words: str) -> None:
    change(store, FAULTS[words])
    said = [str(problem) for problem in check_store(store).problems]
    assert [line for line in said if line.startswith(words)], said


def test_events_that_cannot_be_read_are_told(store: Path) -> None:
    db = sqlite3.connect(store)
    db.execute("INSERT INTO events (run, at, kind, data) VALUES ('gone', 1.0, 'stopped', '{')")
    db.commit()
    db.close()
    health = check_store(store)
    assert [(problem.words, problem.num) for problem in health.problems] == [("events that cannot be read", 1)]
    assert [str(note) for note in health.notes] == ["1 runs of which there are events alone: gone"]


def test_what_may_be_meant_so_is_noted(store: Path) -> None:
    """Draws without a run, and a run without its end."""
    with Store(store) as opened:
        opened.put_draw(digest_of("stranger", ASK), "stranger", ASK, Completion("a", "stop"))
    change(store, "UPDATE runs SET ended=NULL")
    health = check_store(store)
    assert health.problems == ()
    draws, runs = (str(note) for note in health.notes)
    assert draws.startswith("1 draws without a run")
    assert draws.endswith("1 of stranger")
    assert runs.endswith("(4 of 4)")


def test_faults_of_the_file_are_told_by_themselves(store: Path) -> None:
    """A page of the draws that was overwritten: nothing else is read from such a file."""
    db = sqlite3.connect(store)
    (root,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name='draws'").fetchone()
    db.close()
    content = bytearray(store.read_bytes())
    content[(root - 1) * 4096 + 8 : (root - 1) * 4096 + 600] = b"\x7f" * 592
    store.write_bytes(content)
    health = check_store(store)
    assert [problem.words for problem in health.problems] == ["faults of the file by SQLite's own check"]


def test_what_is_no_store_is_one_line(store: Path, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("no database" * 99)
    change_version(store, len(MIGRATIONS) + 1)
    for act in (check_store, measure_store, vacuum_store):
        with pytest.raises(StoreError, match="no store at"):
            act(tmp_path / "missing.db")
        with pytest.raises(StoreError, match="not a database"):
            act(tmp_path / "text.db")
        with pytest.raises(StoreVersion, match="newer samplewise"):
            act(store)


def change_version(path: Path, version: int) -> None:
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version={version}")
    db.commit()
    db.close()


def test_rows_and_bytes_are_counted(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        for i, engine in enumerate(("one", "one", "two")):
            store.put_draw(bytes([i]) * 16, engine, ASK, Completion("ünï", "stop", tokens=(1, 2)))
        (size,) = store._db.execute(
            "SELECT 16 + 3 + length(CAST(ask AS BLOB)) + 5 + 4 + 16 + length(usage) + 8 + 8 FROM draws LIMIT 1"
        ).fetchone()
    found = measure_store(tmp_path / "s.db")
    assert found.tables["draws"][0] == 3
    assert found.engines == {"one": (2, found.engines["one"][1]), "two": (1, found.engines["two"][1])}
    for num, num_bytes in found.engines.values():
        assert abs(num_bytes - num * size) <= num * 20  # times and an unknown number as text, of any length
    assert found.tables["draws"][1] == sum(num_bytes for _, num_bytes in found.engines.values())
    assert found.runs == {}
    assert found.file_bytes == (tmp_path / "s.db").stat().st_size


def test_a_runs_rows_are_its_records_scores_and_decisions(store: Path) -> None:
    found = measure_store(store)
    with Store(store) as opened:
        (run,) = opened.runs()
    assert {name: num for name, (num, _) in found.tables.items()} == {
        "draws": NUM * DRAWS, "runs": 1, "pools": NUM, "scores": 2 * NUM, "selections": NUM, "events": 0,
    }  # fmt: skip
    assert found.runs == {
        run.id: (1 + NUM + 2 * NUM + NUM, sum(b for t, (_, b) in found.tables.items() if t != "draws"))
    }


def test_a_vacuum_gives_back_what_was_deleted(store: Path) -> None:
    with Store(store) as opened:
        for i in range(200):
            opened.put_draw(i.to_bytes(16, "big"), "toy", ASK, Completion("x" * 2_000, "stop"))
        opened._db.execute("DELETE FROM draws WHERE text LIKE 'xx%'")
    assert measure_store(store).free_bytes > 200_000
    before, after = vacuum_store(store)
    assert after < before / 4
    assert after == store.stat().st_size
    assert measure_store(store).free_bytes == 0
    assert check_store(store).problems == ()
    with Store(store) as opened:
        opened.claim()
        with pytest.raises(StoreConflict):
            vacuum_store(store)


def test_a_run_is_read_without_holding_the_journal(store: Path) -> None:
    """A read that stayed open kept the journal from being emptied: 200 MB of it for 25,000 decisions."""
    with Store(store) as opened:
        (run,) = opened.runs()
        records = opened.records(run.id)
        assert next(records).number == 0
        opened.note(run.id, "stopped", [])
        busy, _, _ = opened._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0
        assert next(records).number == 1
        opened._db.execute("DELETE FROM pools WHERE number=2")
        with pytest.raises(StoreError, match="damaged"):  # rather than a question fewer, without a word
            next(records)


@pytest.mark.parametrize("at_once", [1, 3, NUM, 500])
def test_every_decision_is_kept_however_many_at_once(
    store: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redecide_module, "DECISIONS_AT_ONCE", at_once)
    with Store(store) as opened:
        (run,) = opened.runs()
        grades = redecide_module.redecide(opened, run, "first")
        kept = {row.question: row.grade for row in opened.selections(run.id) if row.selector == "first"}
        questions = [record.problem.question.id for record in opened.records(run.id)]
    assert [kept[question] for question in questions] == grades
    assert len(grades) == NUM


# --- packed texts -----------------------------------------------------------------------------------------------------

LONG = "So the sum of the digits is 1 + 2 + 3 = 6, and the answer is 6. " * 9


@pytest.fixture
def long_store(store: Path) -> Path:
    """The store with further draws: long texts, half a surrogate pair, reasoning, candidates for the next token."""
    others = (
        Completion(LONG, "stop", reasoning=LONG[::-1], raw=LONG + LONG),
        Completion(f"{LONG}\ud83d", "length", tokens=(255, 1), logp=(-1.0, -2.0), top=((("a" * 99, -1.0),) * 9,) * 2),
        Completion("short", "stop"),
    )
    with Store(store) as opened:
        for i, completion in enumerate(others):
            ask = ASK._replace(seed=i, messages=(Message("user", f"{LONG}\ud83d" if i else LONG),))
            opened.put_draw(digest_of("long", ask), "long", ask, completion)
        opened._db.execute(f"UPDATE pools SET problem=replace(problem, 'say', 'say {LONG}')")
    return store


def held(path: Path) -> str:
    with Store(path) as store:
        (run,) = store.runs()
        return repr([list(store.all_draws()), list(store.records(run.id)), store.selections(run.id)])


def test_a_packed_store_is_read_as_before(long_store: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.db"
    plain.write_bytes(long_store.read_bytes())
    before = held(long_store)
    vacuum_store(long_store, pack=True)
    assert held(long_store) == before
    assert check_store(long_store).problems == ()
    sizes = [measure_store(path).tables for path in (long_store, plain)]
    assert all(sizes[0][table][0] == sizes[1][table][0] for table in sizes[0])
    assert sizes[0]["draws"][1] < sizes[1]["draws"][1] / 2
    assert sizes[0]["pools"][1] < sizes[1]["pools"][1] / 1.5
    with contextlib.closing(sqlite3.connect(long_store)) as db, db:
        kinds = dict(db.execute("SELECT typeof(text), count(*) FROM draws GROUP BY 1").fetchall())
    assert kinds == {"blob": 2, "text": NUM * DRAWS + 1}  # what would not be shorter stays as it is
    written = long_store.read_bytes()
    vacuum_store(long_store, pack=True)
    assert held(long_store) == before
    assert measure_store(long_store).tables == sizes[0]
    assert len(long_store.read_bytes()) == len(written)


@pytest.mark.parametrize("text", ["a" * 200_000, LONG, "short", "", LONG.encode() + b"\xed\xa0\xbd"])
def test_a_text_is_packed_once(text: str | bytes) -> None:
    """One letter 200,000 times is so regular that its packed form could be packed again."""
    small = packed(text)
    assert small is not None
    assert packed(small) == small
    assert len(small) <= len(text)
    assert from_text(small) == from_text(text)
    assert packed(None) is None


def test_packed_and_plain_stores_merge_without_a_conflict(long_store: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.db"
    plain.write_bytes(long_store.read_bytes())
    vacuum_store(long_store, pack=True)
    merged = merge_stores([plain, long_store], tmp_path / "all.db")
    assert merged.rows["draws"] == NUM * DRAWS + 3
    assert held(tmp_path / "all.db") == held(plain)


def test_every_row_is_packed_however_many_there_are(
    tmp_path: Path, long_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "ROWS_AT_ONCE", 2)
    before = held(long_store)
    vacuum_store(long_store, pack=True)
    with contextlib.closing(sqlite3.connect(long_store)) as db, db:
        assert db.execute("SELECT DISTINCT typeof(problem) FROM pools").fetchall() == [("blob",)]
        assert db.execute("SELECT count(*) FROM draws WHERE typeof(ask)='blob'").fetchone() >= (3,)
    assert held(long_store) == before


def test_a_packed_text_whose_bytes_changed_is_one_line(long_store: Path) -> None:
    vacuum_store(long_store, pack=True)
    change(long_store, "UPDATE draws SET text=CAST(substr(text, 1, 20) AS BLOB) WHERE typeof(text)='blob'")
    with Store(long_store) as store, pytest.raises(StoreError, match="is damaged"):
        list(store.all_draws())
    assert [str(problem)[:28] for problem in check_store(long_store).problems] == ["2 draws that cannot be read:"]


def test_a_store_of_an_earlier_version_is_packed(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress(BEFORE.read_bytes()))
    with Store(path) as store:
        before = repr([list(store.all_draws()), [list(store.records(run.id)) for run in store.runs()]])
    size = vacuum_store(path)[1]
    assert vacuum_store(path, pack=True)[1] < size
    with Store(path) as store:
        assert repr([list(store.all_draws()), [list(store.records(run.id)) for run in store.runs()]]) == before
    assert check_store(path).problems == ()
