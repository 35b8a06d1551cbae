"""What a run loses when its process is killed: 100 kills (SIGKILL) at random points of a 2,000-draw run.

A run of 100 questions x 20 draws goes into a store in a process of its own, which is killed four times on its way, at
points drawn evenly over the run, and each time started again on the same store, until it comes to its end. Then the
next run begins. What was paid is known from a journal that does not pass through the store: a line is appended when an
ask is sent, when its completion is handed over, and when the store has said that the draw is kept. (A line that was
written survives the death of its writer, as a committed draw does.) The journal's length is also the clock of the
kills, so that a machine that is busy with something else does not move them.

    lost                 draws that the store had said it kept, and that were not there after a kill, or not the same
    paid_twice           asks sent again although the store had said that it kept their draw
    identical            every run ended with the draws, pools, scores and decisions of one that was never killed
    in_flight_repeated   asks that were on their way when the process died, and had to be sent again: no store can help
    handed_repeated      those of them that died between engine and store

`--batched` runs against a store that commits 50 draws at a time, to see that this bench sees it. `--endpoint` draws
from an endpoint with faults, over HTTP: replies that are late, cut or refused, and `max_tokens` ignored. Then an ask
counts as sent when it is given to the engine, and what no two runs share is left out of what is compared: seconds, and
the bills, which count the attempts that failed by chance.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.about import about
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Completion, Message, Problem, Question, Score
from samplewise.engines.base import Arrival, Engine
from samplewise.engines.http import http
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.tasks.base import Task

SEED = 0
NUM_QUESTIONS, NUM_DRAWS = 100, 20
RECIPE = f"vary(ladder) | repeat({NUM_DRAWS}, max_tokens=6) | best(logp)"
LATENCY_S = 0.001  # of a request, on average
CONCURRENCY = 8
BATCH = 50  # draws a commit, of the store that is wrong on purpose

FAULTS = {"slow": 0.01, "429": 0.05, "500": 0.03, "cut middle": 0.03}  # probability of each, by request
KILLS_PER_RUN = 4
JITTER_S = 0.02  # a kill comes up to so much later, so that it may fall between two lines, or into a start

SENT, HANDED, KEPT = "sent", "handed", "kept"


class Kill(NamedTuple):
    """Due `delay_s` after the journal has come to this mark: so many bytes, or over HTTP so many draws kept."""

    mark: int
    delay_s: float


class Journal:
    """Appended to by the process that is killed, read by the one that kills it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str, digest: bytes) -> None:
        os.write(self._file, f"{what} {digest.hex()}\n".encode())  # one call a line: whole or not at all


class JournalledToy(Toy):
    """The toy engine behind a network: one request at a time per question, each with its latency."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(4)
        self._journal = journal

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            digest = digest_of(self.identity, ask)
            self._journal.write(SENT, digest)
            await asyncio.sleep(LATENCY_S * (0.5 + digest[0] / 255))
            completion = self.one(ask)
            self._journal.write(HANDED, digest)
            yield Arrival(position, completion)


class JournalledStore(Store):
    def __init__(self, path: Path, journal: Journal) -> None:
        super().__init__(path)
        self._journal = journal

    def put_draw(self, digest: bytes | None, identity: str, ask: Ask, completion: Completion) -> None:
        super().put_draw(digest, identity, ask, completion)
        self._journal.write(KEPT, digest or digest_of(identity, ask))


class BatchedStore(JournalledStore):
    """Says that it kept a draw, and commits it with the next 50."""

    _num = 0

    def put_draw(self, digest: bytes | None, identity: str, ask: Ask, completion: Completion) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")
        super().put_draw(digest, identity, ask, completion)
        self._num += 1
        if self._num % BATCH == 0:
            self._db.execute("COMMIT")

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self._db.in_transaction:
            self._db.execute("COMMIT")
        super().save(*args, **kwargs)


def words(num_questions: int) -> Task:
    """Spell a word; it is right if it begins with the letter that the question asks for."""

    def read(question: Question, text: str) -> str | None:
        return text[:2] or None

    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer is not None and answer[0] == problem.reference))

    asked = (Question(f"q{i}", (Message("user", f"word {i}"),)) for i in range(num_questions))
    return Task("words", tuple(Problem(question, "abcd"[i % 4]) for i, question in enumerate(asked)), read, grade)


def journalled(engine: Engine, journal: Journal) -> Engine:
    """The engine, with a journal of what is given to it and of what it hands over."""
    plain = engine.answer

    async def answer(asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        digests = [digest_of(engine.identity, ask) for ask in asks]
        for digest in digests:
            journal.write(SENT, digest)
        async with contextlib.aclosing(plain(asks)) as arrivals:  # type: ignore[type-var]
            async for arrival in arrivals:
                if arrival.completion.finish != "error":
                    journal.write(HANDED, digests[arrival.position])
                yield arrival

    engine.answer = answer  # type: ignore[method-assign]
    return engine


def journalled_http(url: str, journal: Journal) -> Engine:
    """The engine for the endpoint with faults. It is told whose log-probs come, which no probing amid faults finds."""
    known = Profile(logprobs=True, raw_logprobs=True)
    engine = http("toy", base_url=url, probe=known, n="never", identity="endpoint", max_concurrency=CONCURRENCY)
    return journalled(engine, journal)


@contextlib.contextmanager
def faulty_endpoint() -> Iterator[str]:
    """An endpoint with faults, in a process of its own. Gives its address."""
    faults = [part for name, probability in FAULTS.items() for part in ("--fault", f"{name}={probability}")]
    command = [sys.executable, "-m", "samplewise.testing.endpoint", "--ignores", "max_tokens", *faults]
    child = subprocess.Popen([*command, "--latency-ms", "2"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.communicate()


def draw(path: Path, num_questions: int, batched: bool, url: str) -> None:
    """The run: what the child process does."""
    journal = Journal(path.with_suffix(".journal"))
    with (BatchedStore if batched else JournalledStore)(path, journal) as store:
        task = words(num_questions)
        engine = journalled_http(url, journal) if url else JournalledToy(journal)
        asyncio.run(run_task(task, recipe(RECIPE), engine, store, seed=SEED, concurrency=CONCURRENCY))


def progress(journal: Path, url: str) -> int:
    """How far a run has come. Over HTTP a start journals all of its asks at once, so that bytes are no clock."""
    if not journal.exists():
        return 0
    return len({digest for what, digest in journal_lines(journal) if what == KEPT}) if url else journal.stat().st_size


def start(path: Path, num_questions: int, batched: bool, url: str, kill: Kill | None = None) -> bool:
    """Run in a child process, perhaps to be killed. Gives whether it came to its end."""
    journal = path.with_suffix(".journal")
    child = os.fork()
    if child == 0:
        try:
            draw(path, num_questions, batched, url)
            os._exit(0)
        except BaseException as error:
            print(f"the run failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    due = math.inf
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status):
                raise SystemExit("a run failed by itself")
            return True
        if kill is not None and due == math.inf and progress(journal, url) >= kill.mark:
            due = time.monotonic() + kill.delay_s
        if time.monotonic() >= due:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.0005)


def tables(path: Path, *only: str) -> dict[str, list[tuple[Any, ...]]]:
    """What a store holds, less the clock times. Read from a copy: the next start finds the file as the kill left it."""
    queries = {
        "draws": "SELECT digest, engine, ask, text, finish, logp_sum, usage FROM draws ORDER BY digest",
        "runs": "SELECT id, recipe, task, engine, seed, manifest, ended IS NULL FROM runs ORDER BY id",
        "pools": "SELECT run, question, number, stop, answers, problem, columns, spent, bill FROM pools"
        " ORDER BY run, question",
        "scores": "SELECT * FROM scores ORDER BY run, question, scorer",
        "selections": "SELECT * FROM selections ORDER BY run, question, selector",
        "events": "SELECT run, kind, data FROM events ORDER BY run, id",
    }
    with tempfile.TemporaryDirectory() as folder:
        for part in path.parent.glob(f"{path.name}*"):
            shutil.copy(part, folder)
        db = sqlite3.connect(Path(folder) / path.name)
        try:
            known = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
            wanted = {name: query for name, query in queries.items() if name in (only or queries)}
            return {name: db.execute(query).fetchall() if name in known else [] for name, query in wanted.items()}
        finally:
            db.close()


def comparable_over_http(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    """The tables without what no two runs over HTTP share: events, seconds, and bills, where attempts failed by chance.

    What the draws themselves cost stays.
    """
    kept = {name: found.get(name, []) for name in ("runs", "scores", "selections")}
    return {
        **kept,
        "draws": [(*row, json.loads(usage)[:6]) for *row, usage in found["draws"]],
        "pools": [(*row, json.loads(spent)[:6]) for *row, spent, _ in found.get("pools", [])],
    }


def journal_of(path: Path) -> list[tuple[str, bytes]]:
    journal = path.with_suffix(".journal")
    return [(what, bytes.fromhex(digest)) for what, digest in journal_lines(journal)] if journal.exists() else []


def journal_lines(journal: Path) -> list[tuple[str, str]]:
    whole = (line for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n"))
    return [(what, digest.strip()) for what, _, digest in (line.partition(" ") for line in whole)]


def repeats(journal: list[tuple[str, bytes]]) -> Counter[str]:
    """How far each ask that was sent again had come before: "kept", "handed" or "sent"."""
    reached: dict[bytes, str] = {}
    again: Counter[str] = Counter()
    for what, digest in journal:
        if what == SENT and digest in reached:
            again[reached[digest]] += 1
        if reached.get(digest) != KEPT:
            reached[digest] = what
    return again


def bench(
    num_kills: int, num_questions: int, batched: bool, folder: Path, url: str = "", per_run: int = KILLS_PER_RUN
) -> dict[str, Any]:
    def comparable(found: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
        return comparable_over_http(found) if url else found

    whole_path = folder / "whole.db"
    started = time.monotonic()
    start(whole_path, num_questions, batched, url)
    duration = time.monotonic() - started
    whole, length = comparable(tables(whole_path)), progress(whole_path.with_suffix(".journal"), url)
    drawn = {row[0]: row for row in whole["draws"]}
    if len(drawn) != num_questions * NUM_DRAWS:
        raise SystemExit(f"the undisturbed run kept {len(drawn)} draws, not {num_questions * NUM_DRAWS}")
    print(f"undisturbed: {len(drawn):,} draws in {duration:.2f} s; killing {num_kills} times", flush=True)
    rng = Key(SEED).fold("bench", "store").generator()
    kills = runs = lost = differing = 0
    again: Counter[str] = Counter()
    while kills < num_kills:
        runs += 1
        path = folder / f"run{runs}.db"
        gone: set[bytes] = set()
        points = sorted(int(length * at) for at in rng.random(min(per_run, num_kills - kills)))
        for kill in [*(Kill(point, float(rng.uniform(0, JITTER_S))) for point in points), None]:
            ended = start(path, num_questions, batched, url, kill)
            kept = {digest for what, digest in journal_of(path) if what == KEPT}
            there = {row[0]: row for row in comparable(tables(path, "draws"))["draws"]}
            gone |= {digest for digest in kept if there.get(digest) != drawn[digest]}
            if ended:
                break
            kills += 1
            print(f"kill {kills:3}: run {runs}, {len(there):5,} draws kept, {len(gone)} of this run lost", flush=True)
        lost += len(gone)
        again += repeats(journal_of(path))
        differing += comparable(tables(path)) != whole
        for part in folder.glob(f"{path.stem}.*"):
            part.unlink()
    return {
        "kills": kills,
        "lost": lost,
        "paid_twice": again[KEPT],
        "identical": differing == 0,
        "in_flight_repeated": again[SENT] + again[HANDED],
        "handed_repeated": again[HANDED],
        "runs": runs,
        "runs_that_differ": differing,
        "draws": len(drawn),
        "undisturbed_s": round(duration, 3),
        "result": hashlib.blake2b(repr(whole["pools"]).encode(), digest_size=8).hexdigest(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--questions", type=int, default=NUM_QUESTIONS)
    parser.add_argument("--batched", action="store_true", help="against a store that is wrong, which must be seen")
    parser.add_argument("--per-run", type=int, default=KILLS_PER_RUN, help="kills on the way of one run")
    parser.add_argument("--endpoint", action="store_true", help="draw from an endpoint with faults")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        url = stack.enter_context(faulty_endpoint()) if options.endpoint else ""
        figures = bench(options.kills, options.questions, options.batched, Path(folder), url, options.per_run)
    print(
        "{kills} kills over {runs} runs: {lost} draws lost, {paid_twice} paid twice, {runs_that_differ} results that "
        "differ; {in_flight_repeated} requests that were in flight at a kill were sent again".format(**figures)
    )
    print(json.dumps({**about("store", SEED, started), **figures}))


if __name__ == "__main__":
    main()
