"""The store: one SQLite file that holds every draw, so that nothing is paid for twice and everything can be re-decided.

A draw is kept under the digest of its ask and of the engine's identity; runs, recipes and selectors that need the same
draw share it. Each draw is committed as it arrives, so a process killed at any moment loses nothing that it was handed.
WAL mode: readers never wait. One process at a time may draw into a store; any number may read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from samplewise.errors import StoreConflict, StoreError, StoreVersion
from samplewise.types import Ask, Candidate, Completion, Generate, Json, Pool, Selection, Stop, Usage

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
        run TEXT NOT NULL REFERENCES runs(id), question TEXT NOT NULL, number INTEGER NOT NULL, prompt TEXT NOT NULL,
        reference TEXT NOT NULL, columns TEXT NOT NULL, answers TEXT NOT NULL, spent TEXT NOT NULL, stop TEXT NOT NULL,
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
)

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

    question: str
    number: int
    prompt: str
    reference: Json
    pool: Pool
    answers: tuple[str | None, ...]
    grades: tuple[float, ...]  # (N,) in [0, 1]; nan: could not be graded
    spent: Usage
    stop: Stop


def digest_of(identity: str, ask: Ask) -> bytes:
    """16 bytes that name a draw. Fields that stand at their default are left out, so a later field changes nothing."""
    return hashlib.blake2b(f"{identity}\n{ask_json(ask)}".encode(), digest_size=16).digest()


def ask_json(ask: Ask) -> str:
    """Canonical text of an ask: its kind and every field that is not at its default."""
    defaults = ask._field_defaults
    fields = {k: v for k, v in zip(ask._fields, ask, strict=True) if k not in defaults or defaults[k] != v}
    kind = "generate" if isinstance(ask, Generate) else "likelihood"
    return json.dumps({"ask": kind, **fields}, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


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
            self._db = sqlite3.connect(self.path, timeout=30.0, isolation_level=None)
        try:
            with self._plainly("opened"):
                self._db.execute("PRAGMA journal_mode=WAL")
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
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise StoreVersion(
                f"{self.path} was written by a newer samplewise (store version {version}); upgrade to read it"
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            self._db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number}; COMMIT;")

    def claim(self) -> None:
        """Be the one process that draws into this store, until it is closed. Raises StoreConflict where one is already.
        The claim is a lock of the operating system: it ends with the process, however that ends."""
        if self._lock is not None or self.path == ":memory:":
            return
        lock = sqlite3.connect(f"{self.path}.lock", timeout=0.0, isolation_level=None)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            lock.close()
            if "locked" not in str(error):
                raise StoreError(f"the store {self.path} cannot be claimed: {error}") from error
            raise StoreConflict(
                f"another process is drawing into {self.path}; wait for it, or give another store"
            ) from None
        self._lock = lock

    # --- draws --------------------------------------------------------------------------------------------------------

    def put_draw(self, digest: bytes, identity: str, ask: Ask, completion: Completion) -> None:
        """Keep a completion. It is on disk when this returns; a digest that is there already is left as it is."""
        row = (
            digest,
            identity,
            ask_json(ask),
            completion.text,
            completion.finish,
            _blob("q", completion.tokens),
            _blob("d", completion.logp),
            _blob("d", completion.logq),
            completion.logp_sum,
            json.dumps(completion.usage),
            time.time(),
        )
        with self._plainly("written (everything paid for so far is safe)"):
            self._db.execute("INSERT OR IGNORE INTO draws VALUES (?,?,?,?,?,?,?,?,?,?,?)", row)

    def draws(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        """The completions that are there, by digest."""
        found: dict[bytes, Completion] = {}
        fields = "digest, text, finish, usage, tokens, logp, logq, logp_sum"
        with self._plainly("read"):
            for start in range(0, len(digests), 500):
                some = digests[start : start + 500]
                marks = ",".join("?" * len(some))
                rows = self._db.execute(f"SELECT {fields} FROM draws WHERE digest IN ({marks})", list(some))
                found.update((row[0], _completion(row[1:])) for row in rows)
        return found

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
        return [Run(*row[:5], json.loads(row[5]), *row[6:]) for row in rows]

    def save(self, run_id: str, record: Record, selector: str, selection: Selection, grade: float) -> None:
        """Keep what a run made of one question, all of it or nothing."""
        candidates = record.pool.candidates
        columns: dict[str, Json] = {
            name: [getattr(c, name) for c in candidates] for name in Candidate._fields if name not in ("scores",)
        }
        columns["num_failed"] = record.pool.num_failed
        names = sorted({name for c in candidates for name in c.scores})
        scores = {name: [c.scores.get(name, float("nan")) for c in candidates] for name in names}
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO pools VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    run_id,
                    record.question,
                    record.number,
                    record.prompt,
                    json.dumps(record.reference),
                    json.dumps(columns),
                    json.dumps(record.answers),
                    json.dumps(record.spent),
                    json.dumps(record.stop),
                ),
            )
            for scorer, values in {**scores, GRADE: record.grades}.items():
                row = (run_id, record.question, scorer, array("d", values).tobytes())
                self._db.execute("INSERT OR REPLACE INTO scores VALUES (?,?,?,?)", row)
            self._select(run_id, record.question, selector, selection, grade)

    def save_selection(self, run_id: str, question: str, selector: str, selection: Selection, grade: float) -> None:
        """Keep another decision on a stored pool."""
        with self._writing():
            self._select(run_id, question, selector, selection, grade)

    def _select(self, run_id: str, question: str, selector: str, selection: Selection, grade: float) -> None:
        row = (run_id, question, selector, selection.answer, selection.position, grade)
        self._db.execute("INSERT OR REPLACE INTO selections VALUES (?,?,?,?,?,?)", row)

    def questions(self, run_id: str) -> set[str]:
        """Ids of the questions that the run has finished."""
        with self._plainly("read"):
            return {q for (q,) in self._db.execute("SELECT question FROM pools WHERE run=?", (run_id,))}

    def records(self, run_id: str) -> Iterator[Record]:
        """A run's questions in the order of the task, one at a time."""
        query = "SELECT question, number, prompt, reference, columns, answers, spent, stop FROM pools WHERE run=? ORDER BY number"
        with self._plainly("read"):
            for row in self._db.execute(query, (run_id,)):
                yield self._record(run_id, row)

    def _record(self, run_id: str, row: Sequence[Any]) -> Record:
        question, number, prompt, reference, columns, answers, spent, stop = row
        scores = self.scores(run_id, question)
        grades = scores.pop(GRADE)
        fields = json.loads(columns)
        num_failed = fields.pop("num_failed")
        by_candidate = [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]
        rows = zip(*(fields[name] for name in fields), strict=True)
        candidates = tuple(
            Candidate(**dict(zip(fields, values, strict=True)), scores=by_candidate[i] if by_candidate else {})
            for i, values in enumerate(rows)
        )
        return Record(
            question,
            number,
            prompt,
            json.loads(reference),
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
                "SELECT scorer, value FROM scores WHERE run=? AND question=? ORDER BY scorer", (run_id, question)
            ).fetchall()
        return {scorer: array("d", value).tolist() for scorer, value in rows}

    def outcomes(self, run_id: str) -> Iterator[tuple[str, list[float], list[str | None], Usage, list[int]]]:
        """What comparisons need and nothing else, fast: per question its id, grades (N,), answers (N,), spent, and
        generated tokens (N,)."""
        query = (
            "SELECT pools.question, value, answers, spent, json_extract(columns, '$.num_tokens') FROM pools"
            " JOIN scores ON scores.run=pools.run AND scores.question=pools.question AND scorer=?"
            " WHERE pools.run=? ORDER BY number"
        )
        with self._plainly("read"):
            for question, value, answers, spent, num_tokens in self._db.execute(query, (GRADE, run_id)):
                grades = array("d", value).tolist()
                yield question, grades, json.loads(answers), Usage(*json.loads(spent)), json.loads(num_tokens)

    def selections(self, run_id: str) -> list[tuple[str, str, str | None, int | None, float]]:
        """(question, selector, answer, position, grade) of every decision on the run's pools."""
        query = (
            "SELECT question, selector, answer, position, grade FROM selections WHERE run=? ORDER BY question, selector"
        )
        with self._plainly("read"):
            rows = self._db.execute(query, (run_id,)).fetchall()
        return [(q, s, a, p, float("nan") if g is None else g) for q, s, a, p, g in rows]

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
    return None if values is None else array(code, values).tobytes()  # type: ignore[arg-type]


def _completion(row: Sequence[Any]) -> Completion:
    text, finish, usage, tokens, logp, logq, logp_sum = row
    return Completion(
        text=text,
        finish=finish,
        usage=Usage(*json.loads(usage)),
        tokens=None if tokens is None else tuple(array("q", tokens)),
        logp=None if logp is None else tuple(array("d", logp)),
        logq=None if logq is None else tuple(array("d", logq)),
        logp_sum=float("nan") if logp_sum is None else logp_sum,
    )
