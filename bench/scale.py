"""Shards of one run, killed at random and merged, and a store of many draws.

**Shards.** 2,000 questions x 8 draws of the toy engine are drawn by 1, 2 and 4 processes, each a shard with a store of
its own; 20 of them in all are killed (SIGKILL) at points drawn evenly over the run, and started again at once. The
stores are merged, and the merged store is compared with that of one process that was never killed. As in
`bench/store.py`, a journal beside each store tells what was sent, handed over and kept.

    lost          draws that a store had said it kept, and that were not there after a kill, or not the same
    paid_twice    asks sent again, by any shard, although a store had said that it kept their draw
    identical     draws, pools, scores, decisions and the grades of another selector are those of the undisturbed run
    speedup       time of one process over that of m, on `--timed` questions without kills. Every request takes
                  `LATENCY_S`, as behind a network, and a process has 8 of them in flight; what the processes compute
                  shares this machine's cores

**A store of many draws** (`--draws`): responses of `TEXT_BYTES` bytes, 8 a question, written by the store's own code.

    put_per_s     draws a second, each committed as it arrives, into the empty store and into the full one
    bytes         on disk for each draw, its record included
    open_s        to open the store and list its runs
    redecide_s    to choose again by vote on every question
    merge_s       to merge it into a new store

**Compaction**: how much smaller recorded responses become, with their prompts and records, by zlib, row by row.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import resource
import signal
import sqlite3
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bench.about import about, rounded
from bench.store import KEPT, Journal, JournalledStore, JournalledToy, journal_of, repeats, tables, words
from samplewise.core.files import data_folder
from samplewise.core.keys import Key
from samplewise.core.types import (
    Ask,
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
from samplewise.engines.base import Arrival
from samplewise.recipe import recipe
from samplewise.runs.redecide import redecide
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.digests import ask_json, digest_of
from samplewise.store.merge import merge_stores
from samplewise.store.records import Record, Run

SEED = 0
NUM_QUESTIONS, NUM_DRAWS = 2_000, 8
RECIPE = f"repeat({NUM_DRAWS}, max_tokens=6) | best(logp)"
OTHER = "vote"  # what is decided again
SHARDS = (1, 2, 4)
LATENCY_S = 0.2  # of a request, where shards are timed
CONCURRENCY = 8
TEXT_BYTES = 300
NUM_PUTS = 20_000
BULK = 1_000  # questions a transaction, where the store is only filled
RECORDED = "recorded/math_qwen_rm_8x/math_cot_100_with_rm_scores.jsonl.gz"


class SlowToy(JournalledToy):
    """The toy engine, where every request takes `LATENCY_S`."""

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            await asyncio.sleep(LATENCY_S)
            yield Arrival(position, self.one(ask))


class BulkStore(Store):
    """A store that commits only where it is asked to: for filling it, where nothing was paid."""

    @contextmanager
    def bulk(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        yield
        self._db.execute("COMMIT")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._db.in_transaction:
            yield
        else:
            with super()._writing():
                yield


# --- shards -----------------------------------------------------------------------------------------------------------


def start(path: Path, num_questions: int, shard: tuple[int, int] | None, slow: bool = False) -> int:
    """Draw a shard in a child process. Return the process's id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        journal = Journal(path.with_suffix(".journal"))
        engine = (SlowToy if slow else JournalledToy)(journal)
        with Store(path) if slow else JournalledStore(path, journal) as store:
            task, line = words(num_questions), recipe(RECIPE)
            asyncio.run(run_task(task, line, engine, store, seed=SEED, shard=shard, concurrency=CONCURRENCY))
        os._exit(0)
    except BaseException as error:
        print(f"a shard failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def draw_shards(folder: Path, num: int, num_questions: int, slow: bool = False) -> tuple[list[Path], float]:
    """Draw all shards at once, undisturbed. Return their stores, and the seconds that it took."""
    paths = [folder / f"{num}-{index}.db" for index in range(num)]
    started = time.monotonic()
    children = [start(path, num_questions, (index, num), slow) for index, path in enumerate(paths)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    if any(codes):
        raise SystemExit("a shard failed by itself")
    return paths, time.monotonic() - started


def draw_killed(
    folder: Path, num: int, num_questions: int, marks: Sequence[int], drawn: dict[bytes, Any], rng: np.random.Generator
) -> tuple[list[Path], int, int]:
    """Draw all shards at once. At each mark, a length of all journals, kill one of them and start it again.

    Return their stores, how many draws were lost, and how many kills met a shard that was still drawing.
    """
    paths = [folder / f"killed-{num}-{index}.db" for index in range(num)]
    children = {start(path, num_questions, (i, num)): i for i, path in enumerate(paths)}
    lost: set[bytes] = set()
    due = sorted(marks)
    while children:
        done, status = os.waitpid(-1, os.WNOHANG)
        if done in children:
            if os.waitstatus_to_exitcode(status):
                raise SystemExit("a shard failed by itself")
            del children[done]
        journals = [path.with_suffix(".journal") for path in paths]
        if due and children and sum(j.stat().st_size for j in journals if j.exists()) >= due[0]:
            due.pop(0)
            child = sorted(children)[int(rng.integers(len(children)))]
            index = children.pop(child)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kept = {digest for what, digest in journal_of(paths[index]) if what == KEPT}
            there = {row[0]: row for row in tables(paths[index], "draws")["draws"]}
            lost |= {digest for digest in kept if there.get(digest) != drawn[digest]}
            print(f"  killed shard {index}/{num} with {len(there):,} draws kept", flush=True)
            children[start(paths[index], num_questions, (index, num))] = index
        time.sleep(0.002)
    return paths, len(lost), len(marks) - len(due)


def comparable(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return what a store holds, less clock times and the notes of shards."""
    held = tables(path)
    return {**held, "events": [row for row in held["events"] if row[1] != "shard"]}


def redecided(path: Path) -> tuple[list[float], float]:
    """Return the grades of another selector on a store's run, and the seconds that it took."""
    with Store(path) as store:
        started = time.monotonic()
        grades = redecide(store, store.runs()[0], OTHER)
        return grades, time.monotonic() - started


def shards(num_questions: int, num_kills: int, num_timed: int, folder: Path) -> dict[str, Any]:
    """Draw by shards, kill, merge, compare."""
    whole = folder / "whole.db"
    started = time.monotonic()
    os.waitpid(start(whole, num_questions, None), 0)
    print(f"undisturbed: {num_questions * NUM_DRAWS:,} draws in {time.monotonic() - started:.1f} s", flush=True)
    expected = comparable(whole)
    drawn = {row[0]: row for row in expected["draws"]}
    if len(drawn) != num_questions * NUM_DRAWS:
        raise SystemExit(f"the undisturbed run kept {len(drawn)} draws")
    grades, _ = redecided(whole)
    length = whole.with_suffix(".journal").stat().st_size
    rng = Key(SEED).fold("bench", "scale").generator()
    figures: dict[str, Any] = {"lost": 0, "paid_twice": 0, "identical": True, "kills": 0}
    merge_s, redecide_s = {}, {}
    total = sum(SHARDS)
    for num in SHARDS:
        kills = round(num_kills * num / total) if num != SHARDS[-1] else num_kills - figures["kills"]
        print(f"{num} shards, {kills} kills", flush=True)
        marks = [int(length * at) for at in rng.random(kills) * 0.95]
        paths, lost, kills = draw_killed(folder, num, num_questions, marks, drawn, rng)
        again: Counter[str] = Counter()
        for path in paths:
            again += repeats(journal_of(path))
        sent_by = Counter(digest for path in paths for digest in {digest for _, digest in journal_of(path)})
        figures["kills"] += kills
        figures["lost"] += lost
        figures["paid_twice"] += again[KEPT] + sum(num - 1 for num in sent_by.values())
        merged = folder / f"merged-{num}.db"
        started = time.monotonic()
        merge_stores(paths, merged)
        merge_s[num] = time.monotonic() - started
        same = comparable(merged) == expected
        again_grades, redecide_s[num] = redecided(merged)
        figures["identical"] &= same and again_grades == grades
    seconds = {num: draw_shards(folder, num, num_timed, slow=True)[1] for num in SHARDS} if num_timed else {}
    return {
        **figures,
        "questions": num_questions,
        "draws": num_questions * NUM_DRAWS,
        "shards": list(SHARDS),
        "speedup": {num: seconds[SHARDS[0]] / each for num, each in seconds.items()},
        "timed_questions": num_timed,
        "timed_s": seconds,
        "merge_s": merge_s,
        "redecide_s": redecide_s,
    }


# --- a store of many draws --------------------------------------------------------------------------------------------


def texts(rng: np.random.Generator) -> list[str]:
    """Return responses of `TEXT_BYTES` bytes, of words of two to nine letters."""
    letters = rng.integers(97, 123, 9 * 4_000).astype(np.uint8).tobytes().decode()
    vocabulary = [letters[9 * i : 9 * i + 2 + i % 8] for i in range(4_000)]
    picks = rng.integers(len(vocabulary), size=(997, TEXT_BYTES // 3))
    return [" ".join(vocabulary[pick] for pick in row)[:TEXT_BYTES] for row in picks.tolist()]


def drawn_of(number: int, responses: Sequence[str]) -> Iterator[tuple[bytes, Generate, Completion]]:
    """Yield the draws of question `number`."""
    messages = (Message("user", f"question {number}: what is the sum of the digits of {number * 7_919}?"),)
    for index in range(NUM_DRAWS):
        ask = Generate(messages, max_tokens=512, seed=number * NUM_DRAWS + index)
        text = responses[(number * 31 + index * 7) % len(responses)]
        yield digest_of("served", ask), ask, Completion(text, "stop", Usage(1, 25, 75))


def record_of(number: int, responses: Sequence[str]) -> Record:
    """Return the record of question `number`."""
    completions = [completion for _, _, completion in drawn_of(number, responses)]
    question = Question(f"q{number}", (Message("user", f"question {number}"),))
    candidates = tuple(Candidate(completion.text, num_tokens=75) for completion in completions)
    answers = tuple(str((number + index * index) % 5) for index in range(NUM_DRAWS))
    grades = tuple(float(answer == "0") for answer in answers)
    spent = Usage(NUM_DRAWS, 25 * NUM_DRAWS, 75 * NUM_DRAWS)
    return Record(Problem(question, "0"), number, Pool(candidates), answers, grades, spent, Stop("finished"))


def put_rate(store: Store, first: int, num_questions: int, responses: Sequence[str]) -> float:
    """Return draws a second, each committed as it arrives."""
    rows = [row for number in range(first, first + num_questions) for row in drawn_of(number, responses)]
    started = time.monotonic()
    for digest, ask, completion in rows:
        store.put_draw(digest, "served", ask, completion)
    return len(rows) / (time.monotonic() - started)


def many_draws(num_draws: int, folder: Path) -> dict[str, Any]:
    """Fill a store and measure it."""
    path, responses = folder / "many.db", texts(Key(SEED).fold("bench", "scale", "texts").generator())
    num, few = num_draws // NUM_DRAWS, min(NUM_PUTS, num_draws // 4) // NUM_DRAWS
    run = Run("many", f"repeat({NUM_DRAWS}) | vote", "digits", "served", SEED, {"task": {"problems": num}}, 1.0, None)
    started = time.monotonic()
    with BulkStore(path) as store:
        store.start_run(run)
        empty = put_rate(store, 0, few, responses)
        for first in range(0, num, BULK):
            with store.bulk():
                for number in range(first, min(first + BULK, num)):
                    if few <= number < num - few:
                        for digest, ask, completion in drawn_of(number, responses):
                            store.put_draw(digest, "served", ask, completion)
                    store.save("many", record_of(number, responses), "first", Selection("0", 0), 0.0)
            if first % (100 * BULK) == 0:
                print(f"  {first * NUM_DRAWS:,} draws, {time.monotonic() - started:.0f} s", flush=True)
        full = put_rate(store, num - few, few, responses)
        store.end_run("many")
    fill_s = time.monotonic() - started
    started = time.monotonic()
    with Store(path) as store:
        runs = store.runs()
        open_s = time.monotonic() - started
        started = time.monotonic()
        grades = redecide(store, runs[0], OTHER)
        redecide_s = time.monotonic() - started
    size = path.stat().st_size
    started = time.monotonic()
    merged = merge_stores([path], folder / "copy.db")
    merge_s = time.monotonic() - started
    if merged.rows["draws"] != num * NUM_DRAWS or len(grades) != num:
        raise SystemExit(f"the store holds {merged.rows}, of {num * NUM_DRAWS:,} draws")
    return {
        "draws": num * NUM_DRAWS,
        "fill_s": fill_s,
        "put_per_s": {"empty": empty, "full": full},
        "bytes": size / (num * NUM_DRAWS),
        "file_bytes": size,
        "open_s": open_s,
        "redecide_s": redecide_s,
        "redecide_draws_per_s": num * NUM_DRAWS / redecide_s,
        "merge_s": merge_s,
        "max_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


# --- compaction -------------------------------------------------------------------------------------------------------


def compaction() -> dict[str, float] | None:
    """Return bytes a draw of recorded responses in a store, plain and compressed row by row; None without them."""
    folder = data_folder()
    if folder is None or not (folder / RECORDED).is_file():
        return None
    with gzip.open(folder / RECORDED, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    parts: dict[str, list[bytes]] = {"ask": [], "text": [], "record": []}
    for row in rows:
        messages = (Message("user", f"{row['query']}\n\n{row['system']}"),)
        num = len(row["response"])
        for seed, text in enumerate(row["response"]):
            parts["ask"].append(ask_json(Generate(messages, max_tokens=2_048, seed=10**15 + seed)).encode())
            parts["text"].append(text.encode())
        columns = {"text": row["response"], "finish": ["stop"] * num, "arm": ["direct"] * num, "reasoning": [""] * num}
        parts["record"].append(json.dumps(columns).encode())
    num_draws = len(parts["text"])
    plain = {name: sum(map(len, texts)) / num_draws for name, texts in parts.items()}
    small = {f"{name}_zlib": sum(len(zlib.compress(t)) for t in texts) / num_draws for name, texts in parts.items()}
    return {**plain, **small, "ratio": sum(plain.values()) / sum(small.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--questions", type=int, default=NUM_QUESTIONS)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--timed", type=int, default=400, help="questions that are timed; 0: none")
    parser.add_argument("--draws", type=int, default=200_000, help="of the store of many draws; 0: none")
    parser.add_argument("--folder", type=Path, help="where the stores are put; default: a temporary folder")
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        figures = shards(options.questions, options.kills, options.timed, Path(folder))
        print(
            "{kills} kills: {lost} draws lost, {paid_twice} paid twice, identical: {identical}".format(**figures),
            flush=True,
        )
        speed = ", ".join(f"{num} shards {each:.2f}" for num, each in figures["speedup"].items())
        print(f"speed-up: {speed}" if speed else "not timed", flush=True)
        if options.draws:
            print(f"a store of {options.draws:,} draws", flush=True)
            figures["store"] = many_draws(options.draws, Path(folder))
    figures["compaction"] = compaction()
    figures["sqlite"] = sqlite3.sqlite_version
    print(json.dumps({**about("scale", SEED, started), **rounded(figures)}))


if __name__ == "__main__":
    main()
