"""The store as a file: old ones, new ones, broken ones, shared ones, and those that are no store."""

from __future__ import annotations

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from array import array
from pathlib import Path

import pytest

from samplewise.core.errors import StoreConflict, StoreError, StoreVersion
from samplewise.core.types import Completion, Generate, Message, RejectionBound, Usage
from samplewise.store import database as store_module
from samplewise.store.database import Store
from samplewise.store.digests import ask_json, digest_of
from samplewise.store.schema import MIGRATIONS, apply_migration

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
    for migration in MIGRATIONS[:version]:
        apply_migration(db, migration)
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


def test_draws_that_were_rejected_under_the_old_word(tmp_path: Path) -> None:
    """Version 4 wrote finish "floor" for a draft that was given up: it reads as "rejected", under the same digest."""
    make(tmp_path / "old.db", 4)
    ask = ASK._replace(reject_below=RejectionBound(4.0, -2.5))
    digest = bytes.fromhex("3d09b5ff52877b0fe8abe371cb683803")
    text = '{"ask":"generate","floor":{"alpha":4,"value":-2.5},"messages":[{"content":"hi","role":"user"}]}'
    db = sqlite3.connect(tmp_path / "old.db")
    for name, finish in ((digest, "floor"), (b"y" * 16, "stop")):
        row = (name, "toy", text, "dra", finish, None, None, None, -0.5, "[1, 2, 3]", 1.0, None, None, None, None)
        db.execute(f"INSERT INTO draws VALUES (?{',?' * 14})", row)
    db.commit()
    db.close()
    assert (digest_of("toy", ask), ask_json(ask)) == (digest, text)
    with Store(tmp_path / "old.db") as store:
        assert store.draws([digest])[digest] == Completion("dra", "rejected", Usage(1, 2, 3), logp_sum=-0.5)
        assert store.draws([b"y" * 16])[b"y" * 16].finish == "stop"


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
from samplewise.store.database import Store
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
    codes = [child.wait(300) for child in children]
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
    with pytest.raises(StoreError, match=rf"there is no folder {re.escape(str(tmp_path / 'nowhere'))}; make it first$"):
        Store(tmp_path / "nowhere" / "s.db")


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
    with pytest.raises(StoreError, match="every draw that it holds is safe"):
        put(store)


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        put(store)
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages}")
        big = Completion("x" * 100_000, "stop")
        with pytest.raises(StoreError, match=r"every draw that it holds is safe, what has just arrived is lost.*full"):
            store.put_draw(b"y" * 16, "toy", ASK, big)
        assert store.num_draws() == 1
        store._db.execute("PRAGMA max_page_count=100000")
        store.put_draw(b"y" * 16, "toy", ASK, big)
    with Store(tmp_path / "s.db") as store:
        assert store.num_draws() == 2


# --- who may draw -----------------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from samplewise.store.database import Store
store = Store(sys.argv[1])
store.claim()
print("claimed", flush=True)
time.sleep(600)
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
            child.wait(300)
            store.claim()  # the claim died with its process
            store.claim()  # once is enough
    finally:
        child.kill()
        child.wait(300)
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


@pytest.mark.parametrize("way", ["symlink", "lock removed", "relative", "second descriptor"])
def test_a_claim_is_on_the_file_by_whatever_name(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a symlink, or once the lock file was gone, two processes drew at once: 113 of 160 draws bought twice."""
    path, name = tmp_path / "s.db", tmp_path / "s.db"
    child = holder(path)
    assert child.stdout is not None
    try:
        if way == "symlink":
            name = tmp_path / "other.db"
            name.symlink_to(path)
        elif way == "lock removed":
            for lock in tmp_path.glob("*.lock"):
                lock.unlink()
        elif way == "relative":
            monkeypatch.chdir(tmp_path)
            name = Path("s.db")
        for _ in range(2):  # a store that was closed must not have taken the other's claim along
            with Store(name) as store, pytest.raises(StoreConflict, match="another process is drawing"):
                store.claim()
    finally:
        child.kill()
        child.wait(300)
        child.stdout.close()
    with Store(name) as store:
        store.claim()


def test_a_file_with_two_names_is_not_drawn_into(tmp_path: Path) -> None:
    """SQLite's journal goes by the name, so draws of a killed process would be missing under the other one."""
    path, other = tmp_path / "s.db", tmp_path / "other.db"
    Store(path).close()
    other.hardlink_to(path)
    for name in (path, other):
        with Store(name) as store, pytest.raises(StoreError, match="a second name"):
            store.claim()
    other.unlink()
    with Store(path) as store:
        store.claim()


def test_claims_leave_the_locks_of_sqlite_alone(tmp_path: Path) -> None:
    """The system drops SQLite's locks when any descriptor of the file is closed: then another process could take the
    journal away under a store that is open."""
    path = tmp_path / "s.db"
    with Store(path) as reader:
        put(reader)
        for _ in range(3):
            with Store(path) as store:
                store.claim()
                put(store, b"y" * 16)
        code = "import sys; from samplewise.store.database import Store; Store(sys.argv[1]).close()"
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=300)
        assert (tmp_path / "s.db-wal").exists(), "another process took itself for the last one"
        assert reader.num_draws() == 2


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    for must_exist in (False, True):
        with pytest.raises(StoreError, match="no store at" if must_exist else "cannot be opened"):
            Store(tmp_path / ("x" * 300 + ".db"), must_exist=must_exist)


READ = """
import sys
from samplewise.core.errors import StoreError
from samplewise.store.database import Store
with Store(sys.argv[1], must_exist=True) as store:
    store.note("run", "kept", [])  # into the copy
    try:
        store.claim()
    except StoreError as error:
        print(store.num_draws(), "can be read but not written" in str(error))
"""


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap to make a folder read-only")
@pytest.mark.parametrize("how", ["closed", "open", "killed", "old"])
def test_a_store_that_cannot_be_written_is_read(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "s.db"
    if how == "old":
        make(path, 2)
    store = Store(path) if how != "old" else None
    if store is not None:
        put(store)
        if how == "killed":  # its journal is there, and nobody who has it open
            shutil.copytree(folder, tmp_path / "left")
            (tmp_path / "left" / "s.db-shm").unlink()
            path = tmp_path / "left" / "s.db"
        if how != "open":
            store.close()
    command = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(path.parent), str(path.parent)]
    try:
        done = subprocess.run(
            [*command, sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=300, check=False
        )
    finally:
        if store is not None:
            store.close()
    if "bwrap:" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert (done.stdout.split(), done.stderr) == (["0" if how == "old" else "1", "True"], "")


def test_an_old_run_of_a_team_says_which_engine_bears_which_name(tmp_path: Path) -> None:
    """Stores of before kept it as the text of an identity alone, and who read it guessed by containment: an identity
    within another one's text was taken for a member."""
    make(tmp_path / "old.db", 4)
    db = sqlite3.connect(tmp_path / "old.db")
    for identity in ("toy(3)", "toy(3), x", "other"):
        values = (identity.encode(), identity, "{}", "text", "stop", None, None, None, 0.0, "[0]", 0.0) + (None,) * 4
        db.execute(f"INSERT INTO draws VALUES ({','.join('?' * len(values))})", values)
    for run, engine in (("team", "crew(=toy(3), x, strong=toy(3))"), ("plain", "other")):
        row = (run, "repeat(1) | first", "task", engine, 0, '{"engine": {"name": "n"}}', 0.0, None)
        db.execute("INSERT INTO runs VALUES (?,?,?,?,?,?,?,?)", row)
    db.commit()
    db.close()
    with Store(tmp_path / "old.db") as store:
        runs = {run.id: run for run in store.runs()}
    assert runs["team"].engines == {"": "toy(3), x", "strong": "toy(3)"}
    assert runs["plain"].engines == {"": "other"}
    assert runs["team"].manifest["engine"]["name"] == "n"


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap to make a folder read-only")
def test_commands_read_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"question": "say a", "answer": "a"}')
    program = [sys.executable, "-m", "samplewise"]
    asked = ["run", f"jsonl:{mine}", "--engine", "toy", "--recipe", "repeat(4, max_tokens=2) | vote"]
    store = ["--store", str(folder / "s.db")]
    subprocess.run([*program, *asked, *store], check=True, capture_output=True, timeout=300)
    prefix = ["bwrap", "--dev-bind", "/", "/", "--ro-bind", str(folder), str(folder)]
    for command in (["show"], ["passk"], ["export", "-o", str(out / "d.csv")], ["report", "-o", str(out / "p.html")]):
        done = subprocess.run(
            [*prefix, *program, *command, *store], capture_output=True, text=True, timeout=300, check=False
        )
        if "bwrap:" in done.stderr:
            pytest.skip(done.stderr.strip())
        assert (done.returncode, done.stderr) == (0, ""), command
    assert (out / "d.csv").read_text().count("\n") == 5


def test_checkpoints_are_left_to_a_thread(tmp_path: Path) -> None:
    """Of 1,600 pages in the journal none is put into the file by who draws; a thread puts all there meanwhile."""
    path, others = tmp_path / "s.db", tmp_path / "others.db"
    with Store(path) as store:
        store.defer_checkpoints()
        size = path.stat().st_size
        for number in range(800):
            store.put_draw(number.to_bytes(16, "big"), "toy", ASK, Completion(f"{number}", "stop"))
        assert path.stat().st_size == size
        thread = threading.Thread(target=store.checkpoint)
        thread.start()
        store.put_draw(b"1" * 16, "toy", ASK, Completion("meanwhile", "stop"))
        thread.join(60)
        shutil.copy(path, others)  # without its journal
        with Store(others) as copied:
            assert copied.num_draws() >= 800
        assert store.num_draws() == 801
    with Store(path) as again:
        assert again.num_draws() == 801


def test_a_checkpoint_that_cannot_be_made_ends_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        pass
    (tmp_path / "s.db").write_bytes(b"no database" * 100)
    store.checkpoint()
