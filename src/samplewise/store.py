"""The store: one SQLite file that holds every draw, so that nothing is paid for twice and everything can be re-decided.

A draw is kept under the digest of its ask and of the engine's identity; runs, recipes and selectors that need the same
draw share it. Each draw is committed as it arrives, so a process killed at any moment loses nothing that it was handed.
WAL mode: readers never wait. One process at a time may draw into a store; any number may read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from samplewise.errors import StoreConflict, StoreError, StoreVersion
from samplewise.types import (
    Ask,
    Candidate,
    Completion,
    Generate,
    Json,
    Message,
    Pool,
    Problem,
    Question,
    Selection,
    Stop,
    Usage,
)

# Append only: a migration that has been released is never edited. Its number is its place in this list, from 1.
MIGRATIONS = (
    """
    CREATE TABLE draws (
        digest BLOB PRIMARY KEY, engine TEXT NOT NULL, ask TEXT NOT NULL, text TEXT NOT NULL, finish TEXT NOT NULL,
        tokens BLOB, logp BLOB, logq BLOB, logp_sum REAL, usage TEXT NOT NULL, at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, recipe TEXT NOT NULL, task TEXT NOT NULL, engine TEXT NOT NULL, seed INTEGER NOT NULL,
        manifest TEXT NOT NULL, started REAL NOT NULL, ended REAL
    );
    CREATE TABLE pools (
        run TEXT NOT NULL REFERENCES runs(id), question TEXT NOT NULL, number INTEGER NOT NULL, spent TEXT NOT NULL,
        stop TEXT NOT NULL, answers TEXT NOT NULL, problem TEXT NOT NULL, columns TEXT NOT NULL, -- the bulk comes last
        PRIMARY KEY (run, question)
    );
    CREATE TABLE scores (
        run TEXT NOT NULL, question TEXT NOT NULL, scorer TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (run, question, scorer), FOREIGN KEY (run, question) REFERENCES pools(run, question)
    );
    CREATE TABLE selections (
        run TEXT NOT NULL, question TEXT NOT NULL, selector TEXT NOT NULL, answer TEXT, position INTEGER, grade REAL,
        PRIMARY KEY (run, question, selector), FOREIGN KEY (run, question) REFERENCES pools(run, question)
    );
    CREATE TABLE events (id INTEGER PRIMARY KEY, run TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, data TEXT);
    CREATE INDEX events_of_run ON events(run);
    """,
    "ALTER TABLE draws ADD COLUMN top TEXT;",
    "ALTER TABLE draws ADD COLUMN logz BLOB; ALTER TABLE draws ADD COLUMN certainty BLOB;",
    "ALTER TABLE draws ADD COLUMN explored TEXT;",
)

TIMEOUT_S = 30.0  # that a writer waits for another
DRAWN = "text, finish, usage, tokens, logp, logq, logp_sum, top, logz, certainty, explored"  # what `_completion` reads
GRADE = "grade"  # the scorer under which the grader's verdicts are kept


class Run(NamedTuple):
    """A run's row. `ended` is None while it is under way, or was cut off."""

    id: str
    recipe: str
    task: str
    engine: str
    seed: int
    manifest: dict[str, Json]
    started: float
    ended: float | None


class Record(NamedTuple):
    """What a run made of one question, as stored: the scored pool, each candidate's answer and grade, the costs."""

    problem: Problem
    number: int  # its place in the task
    pool: Pool
    answers: tuple[str | None, ...]
    grades: tuple[float, ...]  # (N,) in [0, 1]; nan: could not be graded
    spent: Usage
    stop: Stop


class Outcome(NamedTuple):
    """A question's grades (N,), answers (N,) and cost."""

    question: str
    grades: list[float]
    answers: list[str | None]
    spent: Usage


def digest_of(identity: str, ask: Ask) -> bytes:
    """16 bytes that name a draw, equal for equal asks. Fields at their default are left out, in what an ask holds too,
    so a later field changes nothing."""
    return hashlib.blake2b(f"{identity}\n{ask_json(ask)}".encode(errors="surrogatepass"), digest_size=16).digest()


def ask_json(ask: Ask) -> str:
    """Canonical text of an ask: its kind and every field that is not at its default. Left out are `draw`, as the seed
    tells draws apart, and `engine`, as the identity says more."""
    kind = "generate" if isinstance(ask, Generate) else "likelihood"
    plain = ask._replace(draw=0, engine="") if isinstance(ask, Generate) else ask
    return json.dumps({"ask": kind, **_canonical(plain)}, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _canonical(value: Any) -> Any:
    """Equal values in equal words: a named tuple as those of its fields that are not at their default, 2.0 as 2."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        known = getattr(value, "_field_defaults", {})
        return {k: _canonical(v) for k, v in zip(value._fields, value, strict=True) if k not in known or known[k] != v}
    if isinstance(value, tuple | list):
        return [v if type(v) is int else _canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Store:
    """Opened with a path, made where it is missing. `Store(":memory:")` lives and dies with the object.

    Raises StoreError where the file cannot be opened or is no store, StoreVersion where a newer samplewise wrote it.
    """

    def __init__(self, path: str | Path, *, must_exist: bool = False) -> None:
        self.path = str(path)
        self._lock: sqlite3.Connection | None = None
        if must_exist and not Path(path).is_file():
            raise StoreError(f"no store at {path}")
        with self._plainly("opened"):
            self._db = sqlite3.connect(self.path, timeout=TIMEOUT_S, isolation_level=None)
        try:
            with self._plainly("opened"):
                self._version()
                self._use_wal()
                self._db.execute("PRAGMA synchronous=NORMAL")  # safe against a killed process, not a lost disk cache
                self._migrate()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @contextlib.contextmanager
    def _plainly(self, done: str) -> Iterator[None]:
        """SQLite's complaints as one line of ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.path} cannot be {done}: {error}") from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._plainly("written (everything paid for so far is safe)"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

    def _use_wal(self) -> None:
        """Unlike all else this does not wait for its turn by itself, and two may open a blank store at once."""
        until = time.monotonic() + TIMEOUT_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
            time.sleep(0.02)

    def _migrate(self) -> None:
        if self._version() == len(MIGRATIONS):
            return
        with self._writing():
            for number, script in enumerate(MIGRATIONS[self._version() :], start=self._version() + 1):
                for statement in script.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={number}")

    def _version(self) -> int:
        """Number of the last migration that the file has seen. Raises where the file is not for us to write into."""
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        tables = {name for (name,) in self._db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
        if tables and "draws" not in tables:
            raise StoreError(f"{self.path} is a database of another program, not a store")
        if version > len(MIGRATIONS):
            raise StoreVersion(
                f"{self.path} was written by a newer samplewise (store version {version}); upgrade to read it"
            )
        return version

    def claim(self) -> None:
        """Be the one process that draws into this store, until it is closed. Raises StoreConflict where one is already.
        The claim is a lock of the operating system: it ends with the process, however that ends."""
        if self._lock is not None or self.path == ":memory:":
            return
        lock: sqlite3.Connection | None = None
        try:
            lock = sqlite3.connect(f"{self.path}.lock", timeout=0.0, isolation_level=None)
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if lock is not None:
                lock.close()
            if "locked" not in str(error):
                raise StoreError(f"the store {self.path} cannot be claimed: {error}") from error
            raise StoreConflict(
                f"another process is drawing into {self.path}; wait for it, or give another store"
            ) from None
        self._lock = lock

    # --- draws --------------------------------------------------------------------------------------------------------

    def put_draw(self, digest: bytes, identity: str, ask: Ask, completion: Completion) -> None:
        """Keep a completion. It is on disk when this returns; what is there stays, but for what explores."""
        row = (
            _text(ask_json(ask)),
            _text(completion.text),
            completion.finish,
            _blob("q", completion.tokens),
            _blob("d", completion.logp),
            _blob("d", completion.logq),
            completion.logp_sum,
            json.dumps(completion.usage),
            time.time(),
            None if completion.top is None else json.dumps(completion.top),
            _table(completion.logz),
            _blob("d", completion.certainty),
            None if completion.explored is None else json.dumps(completion.explored),
        )
        verb = "REPLACE" if isinstance(ask, Generate) and ask.group_size else "IGNORE"
        with self._plainly("written (everything paid for so far is safe)"):
            self._db.execute(f"INSERT OR {verb} INTO draws VALUES (?,?{',?' * len(row)})", (digest, identity, *row))

    def draws(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        """The completions that are there, by digest."""
        found: dict[bytes, Completion] = {}
        with self._plainly("read"):
            for start in range(0, len(digests), 500):
                some = digests[start : start + 500]
                marks = ",".join("?" * len(some))
                rows = self._db.execute(f"SELECT digest, {DRAWN} FROM draws WHERE digest IN ({marks})", list(some))
                found.update((row[0], _completion(row[1:])) for row in rows)
        return found

    def all_draws(self) -> Iterator[tuple[str, str, Completion]]:
        """Every draw that is kept: its engine's identity, the canonical text of its ask, its completion."""
        with self._plainly("read"):
            for row in self._db.execute(f"SELECT engine, ask, {DRAWN} FROM draws ORDER BY digest"):
                yield row[0], row[1], _completion(row[2:])

    def num_draws(self) -> int:
        with self._plainly("read"):
            return int(self._db.execute("SELECT COUNT(*) FROM draws").fetchone()[0])

    # --- runs ---------------------------------------------------------------------------------------------------------

    def start_run(self, run: Run) -> None:
        """Note that a run is under way. A run that was cut off starts again under the same id."""
        values = (*run[:5], json.dumps(run.manifest), run.started, None)
        with self._writing():
            self._db.execute(
                "INSERT INTO runs VALUES (?,?,?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET manifest=excluded.manifest",
                values,
            )

    def end_run(self, run_id: str) -> None:
        with self._writing():
            self._db.execute("UPDATE runs SET ended=? WHERE id=? AND ended IS NULL", (time.time(), run_id))

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        with self._plainly("read"):
            rows = self._db.execute("SELECT * FROM runs ORDER BY started, id").fetchall()
        return [Run._make([*row[:5], json.loads(row[5]), *row[6:]]) for row in rows]

    def save(self, run_id: str, record: Record, selector: str, selection: Selection, grade: float) -> None:
        """Keep what a run made of one question, all of it or nothing."""
        question, candidates = record.problem.question.id, record.pool.candidates
        plain = [name for name in Candidate._fields if name != "scores"]
        columns: dict[str, Json] = {name: [getattr(c, name) for c in candidates] for name in plain}
        columns["num_failed"] = record.pool.num_failed
        names = sorted({name for c in candidates for name in c.scores})
        scores = {name: [c.scores.get(name, float("nan")) for c in candidates] for name in names}
        with self._writing():
            for table in ("scores", "selections"):  # of an earlier pool of this question
                self._db.execute(f"DELETE FROM {table} WHERE run=? AND question=?", (run_id, _text(question)))
            self._db.execute(
                "INSERT OR REPLACE INTO pools VALUES (?,?,?,?,?,?,?,?)",
                (
                    run_id,
                    _text(question),
                    record.number,
                    json.dumps(record.spent),
                    json.dumps(record.stop),
                    json.dumps(record.answers),
                    json.dumps(record.problem),
                    json.dumps(columns),
                ),
            )
            for scorer, values in {**scores, GRADE: record.grades}.items():
                self._score(run_id, question, scorer, values)
            self._select(run_id, question, selector, selection, grade)

    def save_scores(self, run_id: str, question: str, scorer: str, values: Sequence[float]) -> None:
        """Keep another verifier's scores (N,) of a stored pool."""
        with self._writing():
            self._score(run_id, question, scorer, values)

    def _score(self, run_id: str, question: str, scorer: str, values: Sequence[float]) -> None:
        row = (run_id, _text(question), scorer, array("d", values).tobytes())
        self._db.execute("INSERT OR REPLACE INTO scores VALUES (?,?,?,?)", row)

    def save_selection(self, run_id: str, question: str, selector: str, selection: Selection, grade: float) -> None:
        """Keep another decision on a stored pool."""
        with self._writing():
            self._select(run_id, question, selector, selection, grade)

    def _select(self, run_id: str, question: str, selector: str, selection: Selection, grade: float) -> None:
        answer = None if selection.answer is None else _text(selection.answer)
        row = (run_id, _text(question), selector, answer, selection.position, grade)
        self._db.execute("INSERT OR REPLACE INTO selections VALUES (?,?,?,?,?,?)", row)

    def questions(self, run_id: str) -> set[str]:
        """Ids of the questions that the run has finished."""
        with self._plainly("read"):
            return {_str(q) for (q,) in self._db.execute("SELECT question FROM pools WHERE run=?", (run_id,))}

    def records(self, run_id: str) -> Iterator[Record]:
        """A run's questions in the order of the task, one at a time."""
        query = "SELECT number, problem, columns, answers, spent, stop FROM pools WHERE run=? ORDER BY number"
        with self._plainly("read"):
            for row in self._db.execute(query, (run_id,)):
                yield self._record(run_id, row)

    def _record(self, run_id: str, row: Sequence[Any]) -> Record:
        number, problem, columns, answers, spent, stop = row
        (question_id, messages, facts), reference = json.loads(problem)
        question = Question(question_id, tuple(Message(*m) for m in messages), facts)
        scores = self.scores(run_id, question_id)
        grades = scores.pop(GRADE)
        fields = json.loads(columns)
        num_failed = fields.pop("num_failed")
        by_candidate = [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]
        candidates = tuple(
            Candidate(**dict(zip(fields, values, strict=True)), scores=by_candidate[i] if by_candidate else {})
            for i, values in enumerate(zip(*fields.values(), strict=True))
        )
        return Record(
            Problem(question, reference),
            number,
            Pool(candidates, num_failed),
            tuple(json.loads(answers)),
            tuple(grades),
            Usage(*json.loads(spent)),
            Stop(*json.loads(stop)),
        )

    def scores(self, run_id: str, question: str) -> dict[str, list[float]]:
        """Every scorer's values (N,) for one question, the grader's under `GRADE`."""
        with self._plainly("read"):
            rows = self._db.execute(
                "SELECT scorer, value FROM scores WHERE run=? AND question=? ORDER BY scorer", (run_id, _text(question))
            ).fetchall()
        return {scorer: array("d", value).tolist() for scorer, value in rows}

    def outcomes(self, run_id: str) -> Iterator[Outcome]:
        """What comparisons need and nothing else, fast, in the order of the task."""
        query = (
            "SELECT pools.question, value, answers, spent FROM pools"
            " JOIN scores ON scores.run=pools.run AND scores.question=pools.question AND scorer=?"
            " WHERE pools.run=? ORDER BY number"
        )
        with self._plainly("read"):
            for question, value, answers, spent in self._db.execute(query, (GRADE, run_id)):
                grades = array("d", value).tolist()
                yield Outcome(_str(question), grades, json.loads(answers), Usage(*json.loads(spent)))

    def selections(self, run_id: str) -> list[tuple[str, str, str | None, int | None, float]]:
        """(question, selector, answer, position, grade) of every decision on the run's pools."""
        query = "SELECT question, selector, answer, position, grade FROM selections WHERE run=? ORDER BY 1, 2"
        with self._plainly("read"):
            rows = self._db.execute(query, (run_id,)).fetchall()
        nan = float("nan")
        return [(_str(q), s, None if a is None else _str(a), p, nan if g is None else g) for q, s, a, p, g in rows]

    # --- events -------------------------------------------------------------------------------------------------------

    def note(self, run_id: str, kind: str, data: Json) -> None:
        """Keep an event."""
        with self._plainly("written (everything paid for so far is safe)"):
            row = (run_id, time.time(), kind, json.dumps(data))
            self._db.execute("INSERT INTO events (run, at, kind, data) VALUES (?,?,?,?)", row)

    def events(self, run_id: str) -> list[tuple[float, str, Json]]:
        """(time, kind, data), oldest first."""
        with self._plainly("read"):
            rows = self._db.execute("SELECT at, kind, data FROM events WHERE run=? ORDER BY id", (run_id,)).fetchall()
        return [(at, kind, json.loads(data)) for at, kind, data in rows]


def _blob(code: str, values: Iterable[float] | None) -> bytes | None:
    return None if values is None else array(code, values).tobytes()


def _table(rows: tuple[tuple[float, ...], ...] | None) -> bytes | None:
    return None if rows is None else _blob("d", [len(rows[0]), *itertools.chain(*rows)] if rows else [])


def _rows(blob: bytes) -> tuple[tuple[float, ...], ...]:
    width, *numbers = array("d", blob or bytes(8))
    return tuple(zip(*[iter(numbers)] * int(width), strict=True))


def _text(text: str) -> str | bytes:
    """Text as SQLite takes it. Half of a surrogate pair (a response cut inside an emoji) is no UTF-8: as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")
    return text


def _str(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode(errors="surrogatepass")


def _completion(row: Sequence[Any]) -> Completion:
    text, finish, usage, tokens, logp, logq, logp_sum, top, logz, certainty, explored = row
    return Completion(
        text=_str(text),
        finish=finish,
        usage=Usage(*json.loads(usage)),
        tokens=None if tokens is None else tuple(array("q", tokens)),
        logp=None if logp is None else tuple(array("d", logp)),
        logq=None if logq is None else tuple(array("d", logq)),
        logp_sum=float("nan") if logp_sum is None else logp_sum,
        top=None if top is None else tuple(tuple((text, logp) for text, logp in place) for place in json.loads(top)),
        logz=None if logz is None else _rows(logz),
        certainty=None if certainty is None else tuple(array("d", certainty)),
        explored=None if explored is None else json.loads(explored),
    )
