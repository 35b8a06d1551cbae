"""A store of many draws: how fast it takes draws, how large it is, and what reading all of it costs.

Part of `bench.scale`. Responses have `TEXT_BYTES` bytes, 8 a question. Rows are written by the store's own code, or
copied from one that was, and a check reads them all. A store of draws that came in any order has its pages about two
thirds full. To fill a large one in minutes and have it so all the same, draws are written in parts, each as large as
all before it, and each in the order of its digests. Every stage runs in a process of its own, so that its memory is
its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import sqlite3
import sys
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samplewise.core.keys import Key
from samplewise.core.types import (
    Candidate,
    Completion,
    Generate,
    Message,
    Pool,
    Problem,
    Question,
    Selection,
    Stop,
    Usage,
)
from samplewise.runs.export import export_run
from samplewise.runs.redecide import redecide
from samplewise.store.database import Store
from samplewise.store.digests import ask_json, digest_of
from samplewise.store.merge import merge_stores
from samplewise.store.records import GRADE, Record, Run
from samplewise.store.upkeep import check_store, measure_store, vacuum_store

SEED = 0
NUM_DRAWS = 8  # of a question
OTHER = "vote"  # what is decided again
TEXT_BYTES = 300
NUM_PUTS = 20_000
FIRST_PART = 100_000  # draws
ENGINE, RUN = "served", "many"
ASK = (
    '{{"ask":"generate","max_tokens":512,"messages":[{{"content":"question {number}: what is the sum of the digits of '
    '{product}?","role":"user"}}],"seed":{seed}}}'
)


class BulkStore(Store):
    """A store that commits only where it is asked to: for filling it, where nothing was paid."""

    @contextmanager
    def bulk(self) -> Iterator[None]:
        self._db.execute("PRAGMA journal_mode=OFF")
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.execute("BEGIN")
        yield
        self._db.execute("COMMIT")
        self._use_wal()
        self._db.execute("PRAGMA synchronous=NORMAL")

    def copy_rows(self, draws: Iterable[tuple[bytes, str, Completion]]) -> None:
        """Keep draws, as a digest, an ask and a completion, in rows like the first one that the store has written."""
        row = self._db.execute("SELECT * FROM draws LIMIT 1").fetchone()
        names = [column[1] for column in self._db.execute("PRAGMA table_info(draws)")]
        places = [names.index(name) for name in ("digest", "ask", "text", "usage")]
        like, marks = list(row), ",".join("?" * len(row))

        def rows() -> Iterator[list[Any]]:
            for digest, ask, completion in draws:
                new = (digest, ask, completion.text, json.dumps(completion.usage))
                for place, value in zip(places, new, strict=True):
                    like[place] = value
                yield like

        self._db.executemany(f"INSERT INTO draws VALUES ({marks})", rows())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._db.in_transaction:
            yield
        else:
            with super()._writing():
                yield


class Stage(NamedTuple):
    """What a function gave that ran in a process of its own, and what that took."""

    value: Any
    seconds: float
    cpu_s: float
    max_rss_mb: float


def staged(function: Callable[[], Any]) -> Stage:
    """Call a function in a child process."""
    sys.stdout.flush()
    reading, writing = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            with open(writing, "wb") as pipe:  # noqa: PTH123 - a descriptor has no path
                pickle.dump(function(), pipe)
            os._exit(0)
        except BaseException as error:
            print(f"a stage failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123
        sent = pipe.read()
    _, status, usage = os.wait4(child, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit("a stage failed by itself")
    seconds = time.monotonic() - started
    return Stage(pickle.loads(sent), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


# --- what it holds ----------------------------------------------------------------------------------------------------


def texts(rng: np.random.Generator) -> list[str]:
    """Return responses of `TEXT_BYTES` bytes, of words of two to nine letters."""
    letters = rng.integers(97, 123, 9 * 4_000).astype(np.uint8).tobytes().decode()
    vocabulary = [letters[9 * i : 9 * i + 2 + i % 8] for i in range(4_000)]
    picks = rng.integers(len(vocabulary), size=(997, TEXT_BYTES // 3))
    return [" ".join(vocabulary[pick] for pick in row)[:TEXT_BYTES] for row in picks.tolist()]


def ask_of(number: int, index: int) -> Generate:
    """Return what was asked for draw `index` of question `number`."""
    messages = (Message("user", f"question {number}: what is the sum of the digits of {number * 7_919}?"),)
    return Generate(messages, max_tokens=512, seed=number * NUM_DRAWS + index)


def completion_of(number: int, index: int, responses: Sequence[str]) -> Completion:
    """Return what was answered."""
    text = responses[(number * 31 + index * 7) % len(responses)]
    return Completion(text, "stop", Usage(1, 25, 60 + (number + index) % 31))


def record_of(number: int, responses: Sequence[str]) -> Record:
    """Return the record of question `number`."""
    completions = [completion_of(number, index, responses) for index in range(NUM_DRAWS)]
    question = Question(f"q{number}", (Message("user", f"question {number}"),))
    tokens = [completion.usage.completion_tokens for completion in completions]
    candidates = tuple(Candidate(c.text, num_tokens=num) for c, num in zip(completions, tokens, strict=True))
    answers = tuple(str((number + index * index) % 5) for index in range(NUM_DRAWS))
    grades = tuple(float(answer == "0") for answer in answers)
    spent = Usage(NUM_DRAWS, 25 * NUM_DRAWS, sum(tokens))
    return Record(Problem(question, "0"), number, Pool(candidates), answers, grades, spent, Stop("finished"))


def ask_text(number: int, index: int) -> str:
    """Return `ask_json` of what was asked, in a fifth of the time."""
    return ASK.format(number=number, product=number * 7_919, seed=number * NUM_DRAWS + index)


def digest_at(number: int, index: int) -> bytes:
    """Return the digest of what was asked."""
    return hashlib.blake2b(f"{ENGINE}\n{ask_text(number, index)}".encode(), digest_size=16).digest()


def sorted_draws(first: int, last: int) -> Iterator[tuple[int, int]]:
    """Yield the draws of questions `first` to `last` in the order of their digests, as a number and an index."""
    digests = b"".join(digest_at(number, index) for number in range(first, last) for index in range(NUM_DRAWS))
    for place in np.argsort(np.frombuffer(digests, dtype="S16")).tolist():
        yield first + place // NUM_DRAWS, place % NUM_DRAWS


def put_rate(store: Store, first: int, num_questions: int, responses: Sequence[str]) -> float:
    """Return draws a second, each committed as it arrives."""
    draws = [(number, index) for number in range(first, first + num_questions) for index in range(NUM_DRAWS)]
    started = time.monotonic()
    for number, index in draws:
        ask = ask_of(number, index)
        store.put_draw(digest_of(ENGINE, ask), ENGINE, ask, completion_of(number, index, responses))
    return len(draws) / (time.monotonic() - started)


def fill(path: Path, num: int) -> dict[str, float]:
    """Fill a store with `num` questions. Return how many draws a second it took when it was empty, and full."""
    responses = texts(Key(SEED).fold("bench", "scale", "texts").generator())
    few = min(NUM_PUTS, num * NUM_DRAWS // 4) // NUM_DRAWS
    run = Run(RUN, f"repeat({NUM_DRAWS}) | vote", "digits", ENGINE, SEED, {"task": {"problems": num}}, 1.0, None)
    if ask_text(num, 1) != ask_json(ask_of(num, 1)):
        raise SystemExit(f"asks are written otherwise now: {ask_json(ask_of(num, 1))}")
    started = time.monotonic()
    with BulkStore(path) as store:
        store.start_run(run)
        empty, there = put_rate(store, 0, few, responses), few
        with store.bulk():
            while there < num - few:
                last = min(num - few, there + max(FIRST_PART // NUM_DRAWS, there))
                store.copy_rows(
                    (digest_at(*draw), ask_text(*draw), completion_of(*draw, responses))
                    for draw in sorted_draws(there, last)
                )
                there = last
                print(f"  {there * NUM_DRAWS:,} draws, {time.monotonic() - started:.0f} s", flush=True)
            for number in range(num):
                store.save(RUN, record_of(number, responses), "first", Selection("0", 0), 0.0)
        full = put_rate(store, num - few, few, responses)
        store.end_run(RUN)
    return {"empty": empty, "full": full}


# --- what is done with it ---------------------------------------------------------------------------------------------


def opened(path: Path) -> float:
    """Return the seconds that it takes to open a store and list its runs."""
    started = time.monotonic()
    with Store(path) as store:
        store.runs()
        return time.monotonic() - started


def checked(path: Path) -> None:
    """Check a store."""
    if problems := check_store(path).problems:
        raise SystemExit(f"the store is not whole: {'; '.join(map(str, problems))}")


def redecided(path: Path) -> int:
    """Choose again on every question. Return how many there are."""
    with Store(path) as store:
        return len(redecide(store, store.runs()[0], OTHER))


def exported(path: Path, output: Path) -> int:
    """Export the run's draws as Parquet. Return the number of rows."""
    with Store(path) as store:
        return export_run(store, store.runs()[0], output, "parquet")


def sums_of_store(path: Path) -> dict[str, float]:
    """Return what a store's tables add up to, by SQL: draws, bytes of text, tokens, grades, draws that were chosen."""
    with closing(sqlite3.connect(path)) as db:
        one = "SELECT count(*), sum(length(CAST(text AS BLOB))), sum(json_extract(usage, '$[2]')) FROM draws"
        num, size, tokens = db.execute(one).fetchone()
        graded = (array("d", value) for (value,) in db.execute("SELECT value FROM scores WHERE scorer=?", (GRADE,)))
        grades = sum(sum(values) for values in graded)
        (chosen,) = db.execute("SELECT count(position) FROM selections WHERE selector=?", ("vote",)).fetchone()
    return {"draws": num, "text_bytes": size, "tokens": tokens, "grades": grades, "chosen": chosen}


def sums_of_table(output: Path) -> dict[str, float]:
    """Return what the exported table adds up to."""
    import pyarrow.compute as compute  # type: ignore[import-not-found, import-untyped, unused-ignore]
    import pyarrow.parquet as parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]

    sums = dict.fromkeys(("draws", "text_bytes", "tokens", "grades", "chosen"), 0.0)
    with parquet.ParquetFile(output) as file:
        for batch in file.iter_batches(columns=["text", "tokens", "grade", "chosen"]):
            sums["draws"] += batch.num_rows
            sums["text_bytes"] += compute.sum(compute.binary_length(batch["text"])).as_py()
            sums["tokens"] += compute.sum(batch["tokens"]).as_py()
            sums["grades"] += compute.sum(batch["grade"]).as_py()
            sums["chosen"] += compute.sum(batch["chosen"]).as_py()
    return sums


def merged(path: Path, output: Path) -> int:
    """Merge a store into a new one. Return its draws."""
    return merge_stores([path], output).rows["draws"]


def many_draws(num_draws: int, folder: Path) -> dict[str, Any]:
    """Fill a store and measure it."""
    path, table, copy = folder / "many.db", folder / "many.parquet", folder / "copy.db"
    num = num_draws // NUM_DRAWS
    stages: dict[str, Stage] = {}

    def stage(name: str, function: Callable[[], Any]) -> Any:
        stages[name] = staged(function)
        _, seconds, cpu_s, max_rss_mb = stages[name]
        print(f"  {name}: {seconds:.1f} s, {cpu_s:.1f} s of them computed, {max_rss_mb:.0f} MB", flush=True)
        return stages[name].value

    puts = stage("fill", lambda: fill(path, num))
    size = path.stat().st_size
    open_s = stage("open", lambda: opened(path))
    stage("stats", lambda: measure_store(path).tables["draws"])
    stage("check", lambda: checked(path))
    if stage("redecide", lambda: redecided(path)) != num:
        raise SystemExit("the store has lost questions")
    rows = stage("export", lambda: exported(path, table))
    sums, exported_sums = sums_of_store(path), sums_of_table(table)
    if rows != num * NUM_DRAWS or sums["draws"] != rows or stage("merge", lambda: merged(path, copy)) != rows:
        raise SystemExit(f"{rows:,} rows were exported, of {num * NUM_DRAWS:,} draws")
    copy.unlink()
    stage("vacuum", lambda: vacuum_store(path))
    vacuumed = path.stat().st_size
    stage("pack", lambda: vacuum_store(path, pack=True))
    return {
        "draws": rows,
        "put_per_s": puts,
        "bytes": size / rows,
        "bytes_vacuumed": vacuumed / rows,
        "bytes_packed": path.stat().st_size / rows,
        "bytes_parquet": table.stat().st_size / rows,
        "file_bytes": size,
        "open_s": open_s,
        "parquet_equal": exported_sums == sums,
        "seconds": {name: each.seconds for name, each in stages.items()},
        "cpu_us_a_draw": {name: each.cpu_s / rows * 1e6 for name, each in stages.items() if name != "open"},
        "max_rss_mb": {name: each.max_rss_mb for name, each in stages.items()},
    }
