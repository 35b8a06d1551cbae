"""The store: one SQLite file that holds every draw, so that nothing is paid twice and everything can be decided again.

A draw is kept under the digest of its ask and of the engine's identity. Runs, recipes and selectors that need the same
draw share it. Each draw is committed when it arrives, so a process that is killed at any moment loses none. WAL mode:
readers never wait. One process at a time may draw into a store (see `samplewise.store.claims`); any number may read it.

A store that cannot be written is read from a temporary copy: decisions on it are made as on any other, and not kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from samplewise.core.bill import bill_json, read_bill
from samplewise.core.errors import StoreError, StoreVersion
from samplewise.core.files import is_file
from samplewise.core.types import (
    Ask,
    Candidate,
    Completion,
    Generate,
    Json,
    Selection,
)
from samplewise.store.claims import Claim, claim_file, copy_read_only, is_unwritable
from samplewise.store.digests import ask_json, digest_of_text
from samplewise.store.encoding import (
    COMPLETION_COLUMNS,
    from_text,
    to_blob,
    to_completion,
    to_table,
    to_text,
)
from samplewise.store.records import GRADE, Decision, Outcome, Record, Run
from samplewise.store.rows import graded, to_decision, to_pool, to_problem, to_run, to_stop, to_usage
from samplewise.store.schema import MIGRATIONS, apply_migration

TIMEOUT_S = 30.0  # that a writer waits for another
MAX_JOURNAL = 65_536  # pages (256 MB) that may wait for a checkpoint, where checkpoints are deferred
WRITTEN = "written (every draw that it holds is safe, what has just arrived is lost)"
# what reading a row raises whose bytes have changed
DAMAGE = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, MemoryError)


def check_version(db: sqlite3.Connection, path: str) -> int:
    """Return the number of the last migration applied to a database. Raises where the file is not ours to write."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if tables and "draws" not in tables:
        raise StoreError(f"{path} is a database of another program, not a store")
    if version > len(MIGRATIONS):
        raise StoreVersion(f"{path} was written by a newer samplewise (store version {version}); upgrade to read it")
    return version


class Store:
    """A store of draws and runs. The file is created where it is missing; `Store(":memory:")` keeps nothing.

    Raises StoreError where the file cannot be opened or is no store, StoreVersion where a newer samplewise wrote it.
    """

    def __init__(self, path: str | Path, *, must_exist: bool = False) -> None:
        self.path = str(path)
        self._claim: Claim | None = None
        exists = is_file(Path(path))
        if must_exist and not exists:
            raise StoreError(f"no store at {path}")
        folder = Path(path).absolute().parent
        if not exists and not folder.is_dir():
            raise StoreError(f"the store {path} cannot be opened: there is no folder {folder}; make it first")
        self.is_read_only = exists and not os.access(path, os.W_OK)
        with self._plainly("opened"):
            try:
                if self.is_read_only:
                    self._open(copy_read_only(self.path))
                    return
                self._open(sqlite3.connect(self.path, timeout=TIMEOUT_S, isolation_level=None))
            except sqlite3.OperationalError as error:
                if not exists or not is_unwritable(error):
                    raise
                self.is_read_only = True
                self._open(copy_read_only(self.path))

    def _open(self, db: sqlite3.Connection) -> None:
        self._db = db
        try:
            self._version()
            if not self.is_read_only:
                self._use_wal()
                db.execute("PRAGMA synchronous=NORMAL")  # safe against a killed process, not a lost disk cache
            self._migrate()
        except BaseException:
            db.close()
            raise

    def close(self) -> None:
        self._db.close()
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @contextlib.contextmanager
    def _plainly(self, done: str) -> Iterator[None]:
        """Turn SQLite's errors into one line of ours, and what rows raise that are damaged. Raises StoreError."""
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"the store {self.path} cannot be {done}: {error}") from error
        except DAMAGE as error:
            if done == WRITTEN:
                raise
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise StoreError(
                f"the store {self.path} is damaged ({why}): use a copy of it, or draw what it held again"
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._plainly(WRITTEN):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection within a transaction: what is done to it happens whole, or not at all."""
        with self._writing():
            yield self._db

    def _use_wal(self) -> None:
        """Switch to WAL mode. SQLite does not wait for this lock by itself, and two may open a blank store at once."""
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
            for number, migration in enumerate(MIGRATIONS[self._version() :], start=self._version() + 1):
                apply_migration(self._db, migration)
                self._db.execute(f"PRAGMA user_version={number}")

    def _version(self) -> int:
        return check_version(self._db, self.path)

    def claim(self) -> None:
        """Claim the store for drawing until it is closed. Raises StoreConflict where another process has claimed it.

        The claim is on the file itself, by whatever name, and ends with the process, however that ends.
        """
        if self.is_read_only:
            raise StoreError(f"the store {self.path} can be read but not written: copy it, or give another store")
        if self._claim is None and self.path != ":memory:":
            self._claim = claim_file(self.path)

    def defer_checkpoints(self) -> None:
        """Leave it to `checkpoint` to put the journal into the file, up to `MAX_JOURNAL` pages of it.

        Otherwise every few hundred draws one waits for the disk. Draws are as safe as before: they are in the journal.
        """
        self._db.execute(f"PRAGMA wal_autocheckpoint={MAX_JOURNAL}")

    def checkpoint(self) -> None:
        """Put the journal into the file so far. Nobody who writes meanwhile waits for it: call it in a thread."""
        with (
            contextlib.suppress(sqlite3.Error),  # it is put there later, and who writes is told what is wrong
            contextlib.closing(sqlite3.connect(self.path, timeout=0.0, isolation_level=None)) as db,
        ):
            db.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def vacuum(self) -> None:
        """Rewrite the file without the space of what was deleted, its journal put into it first."""
        with self._plainly("rewritten (it is as it was)"):
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    # --- draws --------------------------------------------------------------------------------------------------------

    def put_draw(self, digest: bytes | None, identity: str, ask: Ask, completion: Completion) -> None:
        """Keep a completion. It is on disk when this returns. A draw that is there stays, unless it is of a group.

        Without a digest, it is `digest_of(identity, ask)`.
        """
        text = ask_json(ask)
        digest = digest_of_text(identity, text) if digest is None else digest
        row = (
            to_text(text),
            to_text(completion.text),
            completion.finish,
            to_blob("q", completion.tokens),
            to_blob("d", completion.logp),
            to_blob("d", completion.logq),
            completion.logp_sum,
            json.dumps(completion.usage),
            time.time(),
            None if completion.top is None else json.dumps(completion.top),
            to_table(completion.logz),
            to_blob("d", completion.certainty),
            None if completion.explored is None else json.dumps(completion.explored),
            to_text(completion.reasoning),
            None if completion.raw is None else to_text(completion.raw),
        )
        verb = "REPLACE" if isinstance(ask, Generate) and ask.group_size else "IGNORE"
        with self._plainly(WRITTEN):
            self._db.execute(f"INSERT OR {verb} INTO draws VALUES (?,?{',?' * len(row)})", (digest, identity, *row))

    def draws(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        """Return the completions that are stored, by digest."""
        completions: dict[bytes, Completion] = {}
        with self._plainly("read"):
            for start in range(0, len(digests), 500):
                some = digests[start : start + 500]
                marks = ",".join("?" * len(some))
                rows = self._db.execute(
                    f"SELECT digest, {COMPLETION_COLUMNS} FROM draws WHERE digest IN ({marks})", list(some)
                )
                completions.update((row[0], to_completion(row[1:])) for row in rows)
        return completions

    def all_draws(self) -> Iterator[tuple[str, str, Completion]]:
        """Yield every draw: its engine's identity, the canonical text of its ask, its completion."""
        with self._plainly("read"):
            for row in self._db.execute(f"SELECT engine, ask, {COMPLETION_COLUMNS} FROM draws ORDER BY digest"):
                yield row[0], from_text(row[1]), to_completion(row[2:])

    def has_draws(self) -> bool:
        """Return whether the store holds any draw."""
        with self._plainly("read"):
            return self._db.execute("SELECT 1 FROM draws LIMIT 1").fetchone() is not None

    def num_draws(self) -> int:
        with self._plainly("read"):
            return int(self._db.execute("SELECT COUNT(*) FROM draws").fetchone()[0])

    # --- runs ---------------------------------------------------------------------------------------------------------

    def start_run(self, run: Run) -> None:
        """Keep that a run has begun. A run that was cut off starts again under the same id."""
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
        """Return every run, oldest first."""
        with self._plainly("read"):
            return [to_run(row) for row in self._db.execute("SELECT * FROM runs ORDER BY started, id")]

    def save(self, run_id: str, record: Record, selector: str, selection: Selection, grade: float) -> None:
        """Keep a run's record of one question, all of it or nothing."""
        question, candidates = record.problem.question.id, record.pool.candidates
        plain = [name for name in Candidate._fields if name != "scores"]
        columns: dict[str, Json] = {name: [getattr(c, name) for c in candidates] for name in plain}
        columns["num_failed"] = record.pool.num_failed
        names = sorted({name for c in candidates for name in c.scores})
        scores = {name: [c.scores.get(name, float("nan")) for c in candidates] for name in names}
        with self._writing():
            for table in ("scores", "selections"):  # of an earlier pool of this question
                self._db.execute(f"DELETE FROM {table} WHERE run=? AND question=?", (run_id, to_text(question)))
            self._db.execute(
                "INSERT OR REPLACE INTO pools VALUES (?,?,?,?,?,?,?,?,?)",
                (
                    run_id,
                    to_text(question),
                    record.number,
                    json.dumps(record.spent),
                    json.dumps(record.stop),
                    json.dumps(record.answers),
                    json.dumps(record.problem),
                    json.dumps(columns),
                    None if record.bill is None else json.dumps(bill_json(record.bill)),
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
        row = (run_id, to_text(question), scorer, array("d", values).tobytes())
        self._db.execute("INSERT OR REPLACE INTO scores VALUES (?,?,?,?)", row)

    def save_selection(self, run_id: str, question: str, selector: str, selection: Selection, grade: float) -> None:
        """Keep another decision on a stored pool."""
        with self._writing():
            self._select(run_id, question, selector, selection, grade)

    def save_selections(self, run_id: str, rows: Iterable[tuple[str, str, Selection, float]]) -> None:
        """Keep decisions on many stored pools, all of them or none: question, selector, selection and grade of each."""
        with self._writing():
            for row in rows:
                self._select(run_id, *row)

    def _select(self, run_id: str, question: str, selector: str, selection: Selection, grade: float) -> None:
        answer = None if selection.answer is None else to_text(selection.answer)
        row = (run_id, to_text(question), selector, answer, selection.position, grade)
        self._db.execute("INSERT OR REPLACE INTO selections VALUES (?,?,?,?,?,?)", row)

    def questions(self, run_id: str) -> set[str]:
        """Return the ids of the questions that the run has finished."""
        with self._plainly("read"):
            return {from_text(q) for (q,) in self._db.execute("SELECT question FROM pools WHERE run=?", (run_id,))}

    def records(self, run_id: str) -> Iterator[Record]:
        """Yield a run's records in the order of the task, each read when its turn comes.

        So nothing large is sorted, and what is written meanwhile does not pile up in the journal behind a long read.
        """
        order = "SELECT question FROM pools WHERE run=? ORDER BY number"
        query = "SELECT number, problem, columns, answers, spent, stop, bill FROM pools WHERE run=? AND question=?"
        with self._plainly("read"):
            for (question,) in self._db.execute(order, (run_id,)).fetchall():
                row = self._db.execute(query, (run_id, question)).fetchone()
                if row is None:  # nobody deletes records
                    raise ValueError(f"the record of {question} is listed and not there")
                yield self._record(run_id, row)

    def _record(self, run_id: str, row: Sequence[Any]) -> Record:
        number, problem, columns, answers, spent, stop, bill = row
        asked = to_problem(problem)
        scores = self.scores(run_id, asked.question.id)
        grades, texts = graded(scores.pop(GRADE), answers)
        pool = to_pool(columns, scores)
        if len(pool.candidates) != len(grades):
            raise ValueError(f"{len(pool.candidates)} draws with {len(grades)} grades")
        paid = None if bill is None else read_bill(json.loads(bill))
        return Record(asked, number, pool, tuple(texts), tuple(grades), to_usage(spent), to_stop(stop), paid)

    def has_bills(self, run_id: str) -> bool:
        """Return whether every record of the run has its cost in parts. Earlier versions kept a sum alone."""
        with self._plainly("read"):
            query = "SELECT COUNT(*) FROM pools WHERE run=? AND bill IS NULL"
            (num,) = self._db.execute(query, (run_id,)).fetchone()
            return bool(num == 0)

    def bills(self, run_id: str) -> Iterator[tuple[str, int, Json]]:
        """Yield each question, its number of candidates and its bill as plain data, fast, in the order of the task."""
        query = "SELECT question, json_array_length(answers), bill FROM pools WHERE run=? ORDER BY number"
        with self._plainly("read"):
            for question, num, bill in self._db.execute(query, (run_id,)):
                yield from_text(question), num, json.loads(bill)

    def has_unread(self, run_id: str) -> bool:
        """Return whether some draw of the run may have no answer."""
        with self._plainly("read"):
            query = "SELECT 1 FROM pools WHERE run=? AND answers LIKE '%null%' LIMIT 1"
            return self._db.execute(query, (run_id,)).fetchone() is not None

    def scores(self, run_id: str, question: str) -> dict[str, list[float]]:
        """Return every scorer's values (N,) for one question, the grader's under `GRADE`."""
        with self._plainly("read"):
            rows = self._db.execute(
                "SELECT scorer, value FROM scores WHERE run=? AND question=? ORDER BY scorer",
                (run_id, to_text(question)),
            ).fetchall()
            return {scorer: array("d", value).tolist() for scorer, value in rows}

    def scorers(self, run_id: str) -> set[str]:
        """Return the names of those that have scored draws of the run, without the grader's."""
        query = "SELECT DISTINCT scorer FROM scores WHERE run=? AND length(value) > 0"
        with self._plainly("read"):
            return {scorer for (scorer,) in self._db.execute(query, (run_id,))} - {GRADE}

    def outcomes(self, run_id: str) -> Iterator[Outcome]:
        """Yield what comparisons need, fast, in the order of the task."""
        query = (
            "SELECT pools.question, value, answers, spent FROM pools"
            " JOIN scores ON scores.run=pools.run AND scores.question=pools.question AND scorer=?"
            " WHERE pools.run=? ORDER BY number"
        )
        with self._plainly("read"):
            for question, value, answers, spent in self._db.execute(query, (GRADE, run_id)):
                yield Outcome(from_text(question), *graded(array("d", value).tolist(), answers), to_usage(spent))

    def selections(self, run_id: str) -> list[Decision]:
        """Return every decision on the run's pools."""
        query = "SELECT question, selector, answer, position, grade FROM selections WHERE run=? ORDER BY 1, 2"
        with self._plainly("read"):
            return [to_decision(row) for row in self._db.execute(query, (run_id,))]

    def decisions(self, run_id: str, question: str) -> list[Decision]:
        """Return every decision on one question's pool."""
        query = (
            "SELECT question, selector, answer, position, grade FROM selections WHERE run=? AND question=? ORDER BY 2"
        )
        with self._plainly("read"):
            return [to_decision(row) for row in self._db.execute(query, (run_id, to_text(question)))]

    # --- events -------------------------------------------------------------------------------------------------------

    def note(self, run_id: str, kind: str, data: Json) -> None:
        """Keep an event of a run."""
        with self._plainly(WRITTEN):
            row = (run_id, time.time(), kind, json.dumps(data))
            self._db.execute("INSERT INTO events (run, at, kind, data) VALUES (?,?,?,?)", row)

    def events(self, run_id: str) -> list[tuple[float, str, Json]]:
        """Return (time, kind, data) of a run's events, oldest first."""
        with self._plainly("read"):
            rows = self._db.execute("SELECT at, kind, data FROM events WHERE run=? ORDER BY id", (run_id,)).fetchall()
            return [(at, kind, json.loads(data)) for at, kind, data in rows]
