"""Merge stores into one: what one holds and the others do not is added, what two hold differently is a conflict.

Draws are named by digests, runs by the digest of all that they follow from, so equal names mean equal things and rows
can be put side by side (insert or ignore). Clock times and seconds that a request took differ between any two stores
and are no conflict; neither is a store written by an older samplewise that spells the same value otherwise. Everything
else is: two processes have drawn the same question from an engine that does not repeat itself, or one store went on
where the other was copied. Conflicts are counted, with examples, and nothing is written unless the caller says that
the store named first is right.

Inputs are only read. Stores of older versions are brought up to date in a copy. A new store is built beside its name
and takes it when it is whole; one that exists is added to in one transaction. Either way a killed merge leaves what was
there before, and the same merge again changes nothing. Cost: one pass over every input, and space for the output.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from samplewise.core.errors import MergeConflict, StoreConflict, StoreError, UsageError
from samplewise.core.files import is_file
from samplewise.core.types import Usage
from samplewise.store.claims import claim_file
from samplewise.store.database import DAMAGE, Store
from samplewise.store.encoding import COMPLETION_COLUMNS, from_text, to_completion
from samplewise.store.reading import attach_address, create_schema
from samplewise.store.rows import to_pool, to_problem, to_run, to_stop

OnConflict = Literal["stop", "first"]
NUM_EXAMPLES = 3
CACHE_KIB = 262_144  # of pages, while a store is built: its draws come in the order of their digests, many times over
TABLES = ("draws", "runs", "pools", "scores", "selections", "events")
FACTS_OF_A_PROCESS = ("machine", "versions")  # in a manifest: they do not say what a run is

# The columns that `_pool_value` and `_draw_value` read.
_POOL = "number, stop, answers, problem, columns, spent"
_DRAW = f"engine, ask, {COMPLETION_COLUMNS}"


class Conflict(NamedTuple):
    """Rows of one table that an input holds otherwise than the stores before it."""

    table: str
    source: str
    num: int
    examples: tuple[str, ...]

    def __str__(self) -> str:
        more = "" if self.num <= len(self.examples) else " ..."
        return f"{self.num:,} {self.table} of {self.source} differ: {'; '.join(self.examples)}{more}"


class MergedRun(NamedTuple):
    """A run of the merged store. `num_questions` is None where the run does not say how many its task has."""

    id: str
    task: str
    recipe: str
    engine: str
    seed: int
    num_done: int
    num_questions: int | None

    @property
    def is_partial(self) -> bool:
        """Whether questions of its task are missing."""
        return self.num_questions is not None and self.num_done < self.num_questions


class Merged(NamedTuple):
    """What a merge did: rows of the output, rows that are new in it, its runs, what was said on the way."""

    rows: dict[str, int]
    added: dict[str, int]
    runs: tuple[MergedRun, ...]
    conflicts: tuple[Conflict, ...] = ()
    notes: tuple[str, ...] = ()


def merge_stores(sources: Sequence[str | Path], output: str | Path, *, on_conflict: OnConflict = "stop") -> Merged:
    """Merge stores into `output`, which may exist and is then added to. Inputs are not changed.

    With `on_conflict="first"` the row of the store that is named first stays, an existing output being the very first;
    a question's scores and decisions come from where its pool comes from.

    Raises UsageError where an input is the output; StoreError where one is missing or no store, StoreVersion where a
    newer samplewise wrote it; StoreConflict where a process draws into the output; MergeConflict, with everything left
    as it was, where rows differ.
    """
    target, inputs = Path(output), [Path(source) for source in sources]
    if not inputs:
        raise UsageError("give the stores to merge: samplewise merge a.db b.db -o all.db")
    for path in inputs:
        if not is_file(path):
            raise StoreError(f"no store at {path}")
        if target.exists() and path.samefile(target):
            raise UsageError(f"{path} is an input, which a merge does not change: give another output")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _built_beside(target) as union:
            conflicts, notes = _union(inputs, union)
            _check(conflicts, on_conflict)
            if not is_file(target):
                with contextlib.closing(_connect(union)) as db:
                    merged = _outcome(db, dict.fromkeys(TABLES, 0))
                _take_name(union, target)
            else:
                merged = _add(union, target, on_conflict)
            notes += [note for note in merged.notes if note not in notes]
            return merged._replace(conflicts=(*conflicts, *merged.conflicts), notes=tuple(notes))
    except sqlite3.Error as error:
        raise StoreError(f"{target} cannot be merged: {error}; it is as it was") from error
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror or error}; it is as it was") from error


@contextlib.contextmanager
def _built_beside(target: Path) -> Iterator[Path]:
    """Yield a new file beside `target`, removed in the end; what a killed merge has left there is removed first.

    A claim on the file tells one that is being built from one that was left.
    """
    prefix, suffix = f".{target.name}.", ".merging"
    for left in target.parent.glob(f"{prefix}*{suffix}"):
        with contextlib.suppress(StoreError, OSError):  # another merge is building it
            claim = claim_file(str(left))
            left.unlink()
            claim.release()
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=target.parent)
    os.close(handle)
    path = Path(name)
    claim = claim_file(name)
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):  # it has taken its name
            os.truncate(path, 0)  # the claim keeps the file open
            path.unlink()
        claim.release()


def _take_name(union: Path, target: Path) -> None:
    """Give a store that is whole its name, once the system has it on disk. Raises StoreConflict if it was taken."""
    mode = os.umask(0)
    os.umask(mode)
    union.chmod(0o666 & ~mode)
    with union.open("rb") as file:
        os.fsync(file.fileno())
    try:
        target.open("xb").close()
    except FileExistsError:
        raise StoreConflict(f"another process has made {target} meanwhile: merge again") from None
    union.replace(target)


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file that nobody else opens, without the journals that make it safe."""
    db = sqlite3.connect(path.absolute().as_uri(), isolation_level=None, uri=True)
    db.execute("PRAGMA journal_mode=OFF")
    db.execute("PRAGMA synchronous=OFF")
    db.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    return db


def _union(inputs: Sequence[Path], union: Path) -> tuple[list[Conflict], list[str]]:
    """Fill a blank file with what the inputs hold. Return their conflicts, and what to say of them."""
    conflicts: list[Conflict] = []
    notes: list[str] = []
    with contextlib.closing(_connect(union)) as db:
        create_schema(db)
        _create_arrivals(db)
        for number, path in enumerate(inputs):
            with attach_address(path) as address:
                db.execute("ATTACH ? AS source", (address,))
                db.execute("BEGIN")  # one snapshot of the input, should somebody draw into it
                with _plainly(path):
                    if not any(db.execute(f"SELECT 1 FROM source.{table} LIMIT 1").fetchone() for table in TABLES):
                        notes.append(f"{path} is empty: no draw, no run; if it should hold some, they were lost before")
                    conflicts += _add_source(db, number, str(path), notes)
                db.execute("COMMIT")
                db.execute("DETACH source")
        db.execute("BEGIN")
        _add_events(db)
        _end_whole_runs(db)
        db.execute("COMMIT")
    return conflicts, notes


@contextlib.contextmanager
def _plainly(path: Path) -> Iterator[None]:
    """Say which input it was that could not be merged."""
    try:
        yield
    except (sqlite3.Error, *DAMAGE) as error:
        why = " ".join(str(error).split())[:200]
        raise StoreError(f"the store {path} cannot be merged ({why}), and nothing was written") from error


def _add(union: Path, target: Path, on_conflict: OnConflict) -> Merged:
    """Add the union of the inputs to a store that exists, in one transaction."""
    with Store(target) as store:
        store.claim()
        with store.transaction() as db:
            before = _num_rows(db)
            _create_arrivals(db)
            notes: list[str] = []
            db.execute("ATTACH ? AS source", (str(union.absolute()),))
            conflicts = _add_source(db, 0, "the inputs", notes)
            _check(conflicts, on_conflict)
            _add_events(db)
            _end_whole_runs(db)
            merged = _outcome(db, before)
        return merged._replace(conflicts=tuple(conflicts), notes=(*notes, *merged.notes))


def _check(conflicts: Sequence[Conflict], on_conflict: OnConflict) -> None:
    if conflicts and on_conflict == "stop":
        raise MergeConflict(
            f"the stores contradict each other, and nothing was written: {'. '.join(map(str, conflicts))}. "
            "To keep what the store named first holds: --on-conflict first",
            conflicts,
        )


def _create_arrivals(db: sqlite3.Connection) -> None:
    """Make the temporary tables: events to be added, and the questions whose pools an input holds otherwise."""
    db.execute("CREATE TEMP TABLE arrivals (source, moment, run, at, kind, data, repeat)")
    db.execute("CREATE TEMP TABLE differing (run, question, PRIMARY KEY (run, question))")


def _add_source(db: sqlite3.Connection, number: int, name: str, notes: list[str]) -> list[Conflict]:
    """Add all that the database attached as `source` holds. Return the conflicts, and add to `notes`."""
    db.execute("DELETE FROM differing")
    conflicts = [
        _conflict("draws", name, _differing(db, "draws", ("digest",), _DRAW, _draw_value)),
        _conflict("runs", name, _differing_runs(db, name, notes)),
        _conflict("questions", name, _differing_pools(db)),
    ]
    db.execute("INSERT OR IGNORE INTO main.draws SELECT * FROM source.draws ORDER BY digest")
    db.execute(
        "INSERT INTO main.runs SELECT * FROM source.runs WHERE true ON CONFLICT(id) DO UPDATE SET"
        " started=min(started, excluded.started), ended=coalesce(min(ended, excluded.ended), ended, excluded.ended)"
    )
    db.execute("INSERT OR IGNORE INTO main.pools SELECT * FROM source.pools ORDER BY run, question")
    for table, key, columns in (
        ("scores", ("run", "question", "scorer"), "value"),
        ("selections", ("run", "question", "selector"), "answer, position, grade"),
    ):
        conflicts.append(_conflict(table, name, _differing(db, table, key, columns, _plain_value, _OF_EQUAL_POOLS)))
        db.execute(f"INSERT OR IGNORE INTO main.{table} SELECT * FROM source.{table} AS s WHERE {_OF_EQUAL_POOLS}")
    db.execute(
        "INSERT INTO arrivals SELECT ?, max(at) OVER (ORDER BY id), run, at, kind, data,"
        " row_number() OVER (PARTITION BY run, at, kind, data ORDER BY id) FROM source.events",
        (number,),
    )
    return [conflict for conflict in conflicts if conflict.num]


_OF_EQUAL_POOLS = "NOT EXISTS (SELECT 1 FROM differing AS d WHERE d.run=s.run AND d.question=s.question)"


class _Difference(NamedTuple):
    """A row that differs: its key, and the columns in which it does."""

    key: tuple[Any, ...]
    columns: tuple[str, ...]


def _conflict(table: str, source: str, differences: Iterator[_Difference]) -> Conflict:
    num, examples = 0, []
    for num, difference in enumerate(differences, start=1):
        if num <= NUM_EXAMPLES:
            key = " ".join(part.hex()[:12] if isinstance(part, bytes) else str(part) for part in difference.key)
            examples.append(f"{key} ({', '.join(difference.columns)})")
    return Conflict(table, source, num, tuple(examples))


def _differing(
    db: sqlite3.Connection,
    table: str,
    key: Sequence[str],
    columns: str,
    value_of: Callable[[Sequence[Any]], dict[str, str]],
    condition: str = "true",
) -> Iterator[_Difference]:
    """Yield the rows of `source` whose key is there with other values; equal ones may be spelled otherwise."""
    names = columns.split(", ")
    unlike = " OR ".join(f"s.{name} IS NOT m.{name}" for name in names)
    rows = db.execute(
        f"SELECT {', '.join(f's.{name}' for name in (*key, *names))}, {', '.join(f'm.{name}' for name in names)}"
        f" FROM source.{table} AS s JOIN main.{table} AS m USING ({', '.join(key)}) WHERE ({unlike}) AND {condition}"
    )
    for row in rows:
        new, old = row[len(key) : len(key) + len(names)], row[len(key) + len(names) :]
        try:
            ours, theirs = value_of(old), value_of(new)
            changed = tuple(name for name in ours if ours[name] != theirs[name])
        except DAMAGE:
            changed = ("unreadable",)
        if changed:
            yield _Difference(tuple(row[: len(key)]), changed)


def _differing_pools(db: sqlite3.Connection) -> Iterator[_Difference]:
    """Yield the questions whose pools differ, and note them in `differing`."""
    for difference in list(_differing(db, "pools", ("run", "question"), _POOL, _pool_value)):
        db.execute("INSERT INTO differing VALUES (?,?)", difference.key)
        run, question = difference.key
        yield difference._replace(key=(run, from_text(question)))


def _differing_runs(db: sqlite3.Connection, name: str, notes: list[str]) -> Iterator[_Difference]:
    """Yield the runs that are called alike and are not. Other versions of packages are said, and are no conflict."""
    columns = "id, recipe, task, engine, seed, manifest, started, ended"
    theirs = {row[0]: row for row in db.execute(f"SELECT {columns} FROM main.runs")}
    for row in db.execute(f"SELECT {columns} FROM source.runs ORDER BY id"):
        new = to_run(row)
        if row[0] not in theirs:
            continue
        old = to_run(theirs[row[0]])
        changed = [
            field for field in ("recipe", "task", "engine", "seed") if getattr(new, field) != getattr(old, field)
        ]
        # later versions have added fields: what both know is compared
        shared = new.manifest.keys() & old.manifest.keys() - {*FACTS_OF_A_PROCESS}
        changed += [f"manifest.{field}" for field in sorted(shared) if new.manifest[field] != old.manifest[field]]
        if changed:
            yield _Difference((new.id,), tuple(changed))
        versions = [run.manifest.get("versions", {}) for run in (old, new)]
        others = [
            f"{package} {versions[0][package]} and {versions[1][package]}"
            for package in sorted(versions[0].keys() & versions[1].keys())
            if versions[0][package] != versions[1][package]
        ]
        if others:
            notes.append(f"run {new.id} was drawn with different versions, in {name} too: {', '.join(others)}")


def _draw_value(row: Sequence[Any]) -> dict[str, str]:
    engine, ask, *rest = row
    completion = to_completion(rest)
    value = {name: repr(field) for name, field in completion._asdict().items()}
    return {**value, "usage": _cost(completion.usage), "engine": engine, "ask": from_text(ask)}


def _pool_value(row: Sequence[Any]) -> dict[str, str]:
    number, stop, answers, problem, columns, spent = row
    return {
        "number": str(number),
        "stop": json.dumps(to_stop(stop), sort_keys=True),
        "answers": json.dumps(json.loads(answers)),
        "problem": json.dumps(to_problem(problem), sort_keys=True),
        "draws": json.dumps(to_pool(columns, {})),
        "spent": _cost(Usage(*json.loads(spent))),
    }


def _plain_value(row: Sequence[Any]) -> dict[str, str]:
    return {"value": repr(row)}


def _cost(usage: Usage) -> str:
    """Return a cost without the seconds that it took."""
    return repr(usage._replace(seconds=0.0))


def _add_events(db: sqlite3.Connection) -> None:
    """Add the events that have arrived and are not there yet, in the order of their times.

    The order within each input is kept, whatever its clock did: an event's time counts as the latest up to it.
    """
    db.execute(
        "CREATE TEMP TABLE present AS SELECT run, at, kind, data,"
        " row_number() OVER (PARTITION BY run, at, kind, data ORDER BY id) AS repeat FROM main.events"
    )
    db.execute("CREATE INDEX temp.presence ON present (run, at)")
    db.execute(
        "INSERT INTO main.events (run, at, kind, data) SELECT run, at, kind, data FROM arrivals AS a WHERE NOT EXISTS"
        " (SELECT 1 FROM present AS p WHERE p.run=a.run AND p.at=a.at AND p.kind=a.kind AND p.data IS a.data"
        " AND p.repeat=a.repeat)"
        " GROUP BY run, at, kind, data, repeat ORDER BY min(moment), min(source), min(rowid)"
    )


def _end_whole_runs(db: sqlite3.Connection) -> None:
    """Note the end of each run whose questions have all come together: the time of its last event."""
    for run in _runs(db):
        if run.num_questions is not None and not run.is_partial:
            db.execute(
                "UPDATE main.runs SET ended=max(started, coalesce((SELECT max(at) FROM main.events WHERE run=?), 0))"
                " WHERE id=? AND ended IS NULL",
                (run.id, run.id),
            )


def _runs(db: sqlite3.Connection) -> list[MergedRun]:
    done = dict(db.execute("SELECT run, count(*) FROM main.pools GROUP BY run"))
    runs = [
        to_run(row)
        for row in db.execute(
            "SELECT id, recipe, task, engine, seed, manifest, started, ended FROM main.runs ORDER BY started, id"
        )
    ]
    return [
        MergedRun(run.id, run.task, run.recipe, run.engine, run.seed, done.get(run.id, 0), run.num_questions)
        for run in runs
    ]


def _num_rows(db: sqlite3.Connection) -> dict[str, int]:
    return {table: int(db.execute(f"SELECT count(*) FROM main.{table}").fetchone()[0]) for table in TABLES}


def _outcome(db: sqlite3.Connection, before: dict[str, int]) -> Merged:
    rows, runs = _num_rows(db), _runs(db)
    notes = [
        f"run {run.id} is partial: {run.num_done:,} of {run.num_questions:,} questions"
        for run in runs
        if run.is_partial
    ]
    return Merged(rows, {t: rows[t] - before[t] for t in TABLES}, tuple(runs), notes=(*notes, *_strangers(runs)))


def _strangers(runs: Sequence[MergedRun]) -> Iterator[str]:
    """Yield what to say of partial runs that may be meant as shards of one, and are not, as their engines differ."""
    alike: dict[tuple[Any, ...], list[MergedRun]] = {}
    for run in runs:
        if run.is_partial:
            alike.setdefault((run.task, run.recipe, run.seed, run.num_questions), []).append(run)
    for group in alike.values():
        if len(engines := sorted({run.engine for run in group})) > 1:
            yield (
                f"runs {', '.join(run.id for run in group)} are of one task, recipe and seed, and of different engines "
                f"({', '.join(engines)}), so they stay apart; shards of one run need one: http(..., identity=NAME)"
            )
