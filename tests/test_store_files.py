"""The store as a file: old ones, new ones, broken ones, shared ones, and those that are no store."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from samplewise import store as store_module
from samplewise.errors import StoreConflict, StoreError, StoreVersion
from samplewise.store import MIGRATIONS, Store, ask_json
from samplewise.types import Completion, Generate, Message, Usage

ASK = Generate((Message("user", "hi"),))


def schema(path: Path) -> list[tuple[str, ...]]:
    db = sqlite3.connect(path)
    found = db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()
    db.close()
    return found


def put(store: Store, name: bytes = b"x" * 16) -> None:
    store.put_draw(name, "toy", ASK, Completion("said", "stop"))


def make(path: Path, version: int) -> None:
    """A store as an older samplewise left it."""
    db = sqlite3.connect(path)
    for script in MIGRATIONS[:version]:
        db.executescript(script)
    db.execute(f"PRAGMA user_version={version}")
    db.commit()
    db.close()


@pytest.mark.parametrize("version", range(len(MIGRATIONS) + 1))
def test_every_older_version_is_brought_up_to_date(tmp_path: Path, version: int) -> None:
    make(tmp_path / "old.db", version)
    for _ in range(2):  # and then left alone
        with Store(tmp_path / "old.db") as store:
            put(store)
            assert store.num_draws() == 1
    Store(tmp_path / "new.db").close()
    assert schema(tmp_path / "old.db") == schema(tmp_path / "new.db")


def test_draws_from_before_groups_told_of_themselves(tmp_path: Path) -> None:
    """A store of version 3, with a draw in it as that version wrote it: it reads as it was, and says nothing."""
    make(tmp_path / "old.db", 3)
    db = sqlite3.connect(tmp_path / "old.db")
    usage, numbers = "[1, 2, 3, 0, 0, 0.0, 0.0]", array("d", [-0.5]).tobytes()
    row = (
        b"x" * 16,
        "toy",
        ask_json(ASK),
        "said",
        "stop",
        None,
        numbers,
        numbers,
        -0.5,
        usage,
        1.0,
        None,
        None,
        numbers,
    )
    db.execute(f"INSERT INTO draws VALUES (?{',?' * 13})", row)
    db.commit()
    db.close()
    with Store(tmp_path / "old.db") as store:
        told = Completion("told", "stop", explored={"policy": "css", "samples": 2, "numbers": {}, "problem": ""})
        store.put_draw(b"y" * 16, "toy", ASK, told)
        store.put_draw(b"z" * 16, "toy", ASK, Completion("plain", "stop"))
        found = store.draws([b"x" * 16, b"y" * 16])
        assert found[b"x" * 16] == Completion(
            "said", "stop", Usage(1, 2, 3), None, (-0.5,), (-0.5,), -0.5, certainty=(-0.5,)
        )
        assert found[b"y" * 16].explored == told.explored
        assert store._db.execute("SELECT text, explored IS NULL FROM draws ORDER BY digest").fetchall() == [
            ("said", 1),
            ("told", 0),
            ("plain", 1),
        ]


def test_a_later_migration_keeps_the_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "s.db") as store:
        put(store)
    later = (*MIGRATIONS, "CREATE TABLE extra (a); INSERT INTO extra VALUES (1);")
    monkeypatch.setattr(store_module, "MIGRATIONS", later)
    with Store(tmp_path / "s.db") as store:
        assert store.draws([b"x" * 16])[b"x" * 16].text == "said"
    monkeypatch.undo()
    with pytest.raises(StoreVersion, match=rf"newer samplewise \(store version {len(later)}\); upgrade"):
        Store(tmp_path / "s.db")


def test_a_migration_is_made_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "s.db") as store:
        put(store)
    before = schema(tmp_path / "s.db")
    monkeypatch.setattr(store_module, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE extra (a); CREATE TABLE draws (a);"))
    with pytest.raises(StoreError, match="already exists"):
        Store(tmp_path / "s.db")
    monkeypatch.undo()
    assert schema(tmp_path / "s.db") == before
    with Store(tmp_path / "s.db") as store:
        assert store.num_draws() == 1


OPEN = """
import sys
from samplewise.store import Store
print("ready", flush=True)
sys.stdin.readline()
for i in range(int(sys.argv[2])):
    Store(f"{sys.argv[1]}/{i}.db").close()
"""


def test_a_blank_store_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    """Each saw version 0 and made the tables: all but the first got "table draws already exists"."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(tmp_path), "20"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.close()
    codes = [child.wait(60) for child in children]
    for child in children:
        assert child.stdout is not None
        child.stdout.close()
    assert codes == [0, 0, 0]


# --- what is no store -------------------------------------------------------------------------------------------------


def test_paths_that_cannot_be_a_store(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "file").write_text("x")
    bad = [tmp_path / "folder.db", tmp_path / "nowhere" / "s.db", tmp_path / "file" / "s.db", Path("/proc/s.db")]
    for path in bad:
        with pytest.raises(StoreError, match="cannot be opened") as caught:
            Store(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_store_that_must_exist(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store at"):
        Store(tmp_path / "s.db", must_exist=True)
    assert list(tmp_path.iterdir()) == []
    Store(tmp_path / "s.db").close()
    Store(tmp_path / "s.db", must_exist=True).close()


@pytest.mark.parametrize("content", [b"not a database, not even close", b"SQLite format 3\x00" + b"\xff" * 4_000])
def test_a_file_of_something_else_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match="cannot be opened"):
        Store(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("version", [0, 1, 99])
def test_the_database_of_another_program_is_left_as_it_is(tmp_path: Path, version: int) -> None:
    """Our tables were made inside it, next to its own."""
    path = tmp_path / "places.sqlite"
    db = sqlite3.connect(path)
    db.executescript(f"CREATE TABLE bookmarks (url); PRAGMA user_version={version};")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store(path)
    assert path.read_bytes() == before


def test_a_damaged_store_says_so(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store(path) as store:
        for i in range(300):
            put(store, i.to_bytes(16, "big"))
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 64] = b"\xff" * 64
    path.write_bytes(content)

    def read() -> None:
        with Store(path) as store:
            store.draws([i.to_bytes(16, "big") for i in range(300)])

    with pytest.raises(StoreError, match="malformed"):
        read()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.db")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="cannot be read"):
        store.num_draws()
    with pytest.raises(StoreError, match="everything paid for so far is safe"):
        put(store)


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        put(store)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages}")
        big = Completion("x" * 100_000, "stop")
        with pytest.raises(StoreError, match=r"everything paid for so far is safe.*full"):
            store.put_draw(b"y" * 16, "toy", ASK, big)
        assert store.num_draws() == 1
        store._db.execute("PRAGMA max_page_count=100000")
        store.put_draw(b"y" * 16, "toy", ASK, big)
    with Store(tmp_path / "s.db") as store:
        assert store.num_draws() == 2


# --- who may draw -----------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from samplewise.store import Store
store = Store(sys.argv[1])
store.claim()
print("claimed", flush=True)
time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "claimed\n"
    return child


def test_one_process_draws_and_others_read(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    child = holder(path)
    assert child.stdout is not None
    try:
        with Store(path) as store:
            assert store.num_draws() == 0
            with pytest.raises(StoreConflict, match=r"another process is drawing into .*s.db; wait for it"):
                store.claim()
            child.send_signal(signal.SIGKILL)
            child.wait(30)
            store.claim()  # the claim died with its process
            store.claim()  # once is enough
    finally:
        child.kill()
        child.wait(30)
        child.stdout.close()


def test_a_claim_ends_with_the_store(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as one, Store(tmp_path / "s.db") as other:
        one.claim()
        with pytest.raises(StoreConflict):
            other.claim()
        one.close()
        other.claim()
    with Store(":memory:") as one, Store(":memory:") as other:
        one.claim()
        other.claim()


@pytest.mark.parametrize("kind", ["folder", "rubbish"])
def test_a_lock_that_cannot_be_taken_is_a_store_error(tmp_path: Path, kind: str) -> None:
    """It was an error of SQLite's, with a traceback."""
    lock = tmp_path / "s.db.lock"
    if kind == "folder":
        lock.mkdir()
    else:
        lock.write_bytes(b"rubbish " * 600)
    with Store(tmp_path / "s.db") as store, pytest.raises(StoreError, match="cannot be claimed") as caught:
        store.claim()
    assert not isinstance(caught.value, StoreConflict)
