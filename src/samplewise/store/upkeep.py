"""Look after a store: is it whole, how large is it, and can it be smaller.

`check_store` and `measure_store` read it as it is, whatever version it is of, and write nothing. `vacuum_store` gives
back the space of what was deleted, and packs texts (zlib, row by row) where that is asked for: recorded solutions of
MATH, with prompts and records, become 3.1 times smaller. Numbers are not packed, and what is drawn later is kept as it
comes until the next time. Cost: each reads the whole file once; a check decodes every row as well; packing takes about
0.1 ms a draw, and reading a packed record 5 microseconds a draw more.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from samplewise.core.types import Completion
from samplewise.store.database import DAMAGE, Store
from samplewise.store.encoding import COMPLETION_COLUMNS, from_text, packed, to_completion
from samplewise.store.reading import opened_to_read
from samplewise.store.records import GRADE, Run
from samplewise.store.rows import graded, to_decision, to_pool, to_problem, to_run, to_stop, to_usage

NUM_EXAMPLES = 3
ROWS_AT_ONCE = 1_000  # of a transaction that packs
PACKED_TEXTS = (  # table, its key, its texts
    ("draws", ("digest",), ("ask", "text", "top", "reasoning", "raw")),
    ("pools", ("run", "question"), ("problem", "columns")),
)
NUM_ERRORS = 100  # that SQLite's own check lists
TABLES = ("draws", "runs", "pools", "scores", "selections", "events")


class Finding(NamedTuple):
    """What a check has to say: in words, of how many rows, with examples of them."""

    words: str
    num: int
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(self.examples) + (" ..." if self.num > len(self.examples) else "")
        return f"{self.num:,} {self.words}" + (f": {shown}" if self.examples else "")


class Health(NamedTuple):
    """The outcome of a check. `problems` are wrong; `notes` are worth knowing, and may well be meant so."""

    num_draws: int
    num_runs: int
    problems: tuple[Finding, ...]
    notes: tuple[Finding, ...]


class Size(NamedTuple):
    """How much a store holds. `tables`, `engines` and `runs` map names to rows and bytes.

    Bytes are those of the values; `file_bytes` counts pages, indices and the journal too. A run's are those of its
    records, scores and decisions; its draws count with the engine that gave them, as runs share them.
    """

    file_bytes: int
    free_bytes: int
    tables: dict[str, tuple[int, int]]
    engines: dict[str, tuple[int, int]]
    runs: dict[str, tuple[int, int]]


def check_store(path: Path) -> Health:
    """Check a store: SQLite's own check of the file, then ours of what the rows say.

    Raises StoreError where it cannot be opened at all, StoreVersion where a newer samplewise wrote it.
    """
    with opened_to_read(path) as db:
        problems = list(_file_problems(db))
        if problems:  # nothing that is read from such a file can be trusted
            return Health(0, 0, tuple(problems), ())
        runs, findings = _check_runs(db)
        checks = (*findings, *_check_draws(db), *_check_pools(db, runs), *_check_links(db))
        problems = [finding for finding in checks if finding.num]
        notes = [finding for finding in _unusual(db, runs) if finding.num]
        return Health(_count(db, "draws"), _count(db, "runs"), tuple(problems), tuple(notes))


def measure_store(path: Path) -> Size:
    """Return rows and bytes of a store, by table, engine and run."""
    with opened_to_read(path) as db:
        tables: dict[str, tuple[int, int]] = {}
        engines: dict[str, tuple[int, int]] = {}
        runs: dict[str, tuple[int, int]] = {}
        for table in TABLES:
            size = " + ".join(f"coalesce(length(CAST({name} AS BLOB)), 0)" for name in _columns(db, table))
            group = {"draws": "engine", "runs": "id"}.get(table, "run")
            rows = {}
            for name, num, size_of in db.execute(f"SELECT {group}, count(*), sum({size}) FROM {table} GROUP BY 1"):
                rows[from_text(name)] = (num, size_of)
            tables[table] = (sum(num for num, _ in rows.values()), sum(size for _, size in rows.values()))
            if table == "draws":
                engines = rows
                continue
            for name, (num, size_of) in rows.items():
                before = runs.get(name, (0, 0))
                runs[name] = (before[0] + num, before[1] + size_of)
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        (page,) = db.execute("PRAGMA page_size").fetchone()
    files = (path, Path(f"{path}-wal"))
    return Size(sum(file.stat().st_size for file in files if file.exists()), free * page, tables, engines, runs)


def vacuum_store(path: Path, *, pack: bool = False) -> tuple[int, int]:
    """Rewrite a store without the space of what was deleted, perhaps with its texts packed. Return bytes before, after.

    It needs as much space again while it works. Killed while it packs, it leaves some texts packed and others not, and
    every one readable. Raises StoreConflict where a process draws into the store.
    """
    before = path.stat().st_size if path.exists() else 0
    with Store(path, must_exist=True) as store:
        store.claim()
        if pack:
            for table, key, texts in PACKED_TEXTS:
                _pack(store, table, key, texts)
        store.vacuum()
    return before, path.stat().st_size


def _pack(store: Store, table: str, key: Sequence[str], texts: Sequence[str]) -> None:
    """Pack the texts of a table, some rows at a time, in the order of their keys."""
    names, marks = ", ".join(key), ", ".join("?" * len(key))
    query = f"SELECT {names}, {', '.join(texts)} FROM {table} {{}} ORDER BY {names} LIMIT {ROWS_AT_ONCE}"
    update = f"UPDATE {table} SET {', '.join(f'{text}=?' for text in texts)} WHERE ({names})=({marks})"
    last: tuple[Any, ...] = ()
    while True:
        with store.transaction() as db:
            rows = db.execute(query.format(f"WHERE ({names})>({marks})" if last else ""), last).fetchall()
            for row in rows:
                plain = row[len(key) :]
                small = tuple(map(packed, plain))
                if small != plain:
                    db.execute(update, (*small, *row[: len(key)]))
        if not rows:
            return
        last = tuple(rows[-1][: len(key)])


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f"PRAGMA table_info({table})")]


def _count(db: sqlite3.Connection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def _file_problems(db: sqlite3.Connection) -> Iterator[Finding]:
    try:
        lines = [str(line) for (line,) in db.execute(f"PRAGMA integrity_check({NUM_ERRORS})")]
    except sqlite3.DatabaseError as error:
        lines = [str(error)]
    if lines != ["ok"]:
        yield _finding("faults of the file by SQLite's own check", [" ".join(line.split()) for line in lines])


def _finding(words: str, examples: list[str]) -> Finding:
    return Finding(words, len(examples), tuple(examples[:NUM_EXAMPLES]))


def _unreadable(rows: Iterator[tuple[str, Any]], read: Callable[[Any], object]) -> list[str]:
    """Return the names of the rows that cannot be read, each with why."""
    names = []
    for name, row in rows:
        try:
            read(row)
        except DAMAGE as error:
            names.append(f"{name} ({' '.join(str(error).split())[:80] or type(error).__name__})")
    return names


def _check_draws(db: sqlite3.Connection) -> Iterator[Finding]:
    """Check that each draw is filed under the digest of its ask, can be read, and has as many of each as of tokens."""
    misfiled, unreadable, uneven = [], [], []
    for digest, engine, ask, *row in db.execute(f"SELECT digest, engine, ask, {COMPLETION_COLUMNS} FROM draws"):
        name = digest.hex()[:12] if isinstance(digest, bytes) else repr(digest)
        try:
            text = f"{from_text(engine)}\n{from_text(ask)}".encode(errors="surrogatepass")
            if hashlib.blake2b(text, digest_size=16).digest() != digest:
                misfiled.append(name)
            if not _is_even(to_completion(row)):
                uneven.append(name)
        except DAMAGE:
            unreadable.append(name)
    yield _finding("draws whose digest is not that of their ask", misfiled)
    yield _finding("draws that cannot be read", unreadable)
    yield _finding("draws with other numbers of tokens than of log-probabilities", uneven)


def _is_even(completion: Completion) -> bool:
    lengths = {len(values) for values in (completion.tokens, completion.logp, completion.logq) if values is not None}
    return len(lengths) <= 1


def _check_runs(db: sqlite3.Connection) -> tuple[dict[str, Run], list[Finding]]:
    runs, unreadable = {}, []
    for row in db.execute("SELECT id, recipe, task, engine, seed, manifest, started, ended FROM runs"):
        try:
            run = to_run(row)
            runs[run.id] = run
        except DAMAGE as error:
            unreadable.append(f"{row[0]} ({' '.join(str(error).split())[:80]})")
    done = dict(db.execute("SELECT run, count(*) FROM pools GROUP BY run"))
    short = [
        f"{run.id} ({done.get(run.id, 0):,} of {run.num_questions:,})"
        for run in runs.values()
        if run.ended is not None and run.num_questions is not None and done.get(run.id, 0) < run.num_questions
    ]
    return runs, [
        _finding("runs that cannot be read", unreadable),
        _finding("runs that have ended without all of their questions", short),
    ]


def _check_pools(db: sqlite3.Connection, runs: dict[str, Run]) -> Iterator[Finding]:
    """Check that every record can be read with its scores, and that decisions are of candidates that are there."""
    query = "SELECT run, question, answers, problem, columns, spent, stop FROM pools"
    wrong_decisions: list[str] = []

    def read(row: Any) -> None:
        run, question, answers, problem, columns, spent, stop = row
        rows = db.execute("SELECT scorer, value FROM scores WHERE run=? AND question=?", (run, question)).fetchall()
        scores: dict[str, list[float]] = {scorer: array("d", value).tolist() for scorer, value in rows}
        if GRADE not in scores:
            raise ValueError("it has no grades")
        grades, _ = graded(scores.pop(GRADE), answers)
        num = len(to_pool(columns, scores).candidates)
        if num != len(grades):
            raise ValueError(f"{num} draws with {len(grades)} grades")
        if to_problem(problem).question.id != from_text(question):
            raise ValueError("its problem is another question's")
        to_usage(spent)
        to_stop(stop)
        chosen = db.execute(
            "SELECT question, selector, answer, position, grade FROM selections WHERE run=? AND question=?",
            (run, question),
        )
        for decision in map(to_decision, chosen):
            if decision.position is not None and decision.position >= num:
                wrong_decisions.append(f"{run} {decision.question} {decision.selector}")

    rows = ((f"{row[0]} {from_text(row[1])}", row) for row in db.execute(query))
    yield _finding("questions whose record cannot be read", _unreadable(rows, read))
    yield _finding("decisions for draws that are not there", wrong_decisions)
    numbers = db.execute("SELECT run, number FROM pools GROUP BY run, number HAVING count(*) > 1")
    yield _finding("places of a task with two questions", [f"{run} {number}" for run, number in numbers])
    unknown = (f"{run}" for (run,) in db.execute("SELECT DISTINCT run FROM pools") if run not in runs)
    yield _finding("runs of which there are questions alone", list(unknown))


def _check_links(db: sqlite3.Connection) -> Iterator[Finding]:
    for table in ("scores", "selections"):
        rows = db.execute(
            f"SELECT DISTINCT run, question FROM {table} AS t WHERE NOT EXISTS"
            " (SELECT 1 FROM pools AS p WHERE p.run=t.run AND p.question=t.question)"
        )
        yield _finding(f"questions with {table} and no record", [f"{run} {from_text(q)}" for run, q in rows])
    unreadable = _unreadable(
        ((f"{kind} of {run}", data) for run, kind, data in db.execute("SELECT run, kind, data FROM events")), json.loads
    )
    yield _finding("events that cannot be read", unreadable)


def _unusual(db: sqlite3.Connection, runs: dict[str, Run]) -> Iterator[Finding]:
    """Return what may be meant so: draws that no run of the store names the engine of, runs that have not ended."""
    identities = {identity for run in runs.values() for identity in (run.engine, *run.engines.values())}
    strangers = [
        (from_text(engine), num)
        for engine, num in db.execute("SELECT engine, count(*) FROM draws GROUP BY engine")
        if from_text(engine) not in identities
    ]
    yield Finding(
        "draws without a run, by engines that no run here has (`ask`, `solve`, a server, or a run that is gone)",
        sum(num for _, num in strangers),
        tuple(f"{num:,} of {engine}"[:100] for engine, num in strangers[:NUM_EXAMPLES]),
    )
    done = dict(db.execute("SELECT run, count(*) FROM pools GROUP BY run"))
    partial = [
        f"{run.id} ({done.get(run.id, 0):,}{'' if run.num_questions is None else f' of {run.num_questions:,}'})"
        for run in runs.values()
        if run.ended is None
    ]
    yield _finding("runs that have not ended, with the questions that are done", partial)
    events = db.execute(  # batches are noted under the engine that they were submitted to
        "SELECT DISTINCT run FROM events WHERE kind != 'batch' AND run NOT IN (SELECT id FROM runs)"
    )
    with contextlib.suppress(sqlite3.Error):
        yield _finding("runs of which there are events alone", [str(run) for (run,) in events])
