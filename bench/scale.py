"""Shards of one run, killed at random and merged; actors that are killed; and stores of many draws.

**Shards.** 2,000 questions x 8 draws of the toy engine are drawn by 1, 2 and 4 processes, each a shard with a store of
its own; most of 20 kills (SIGKILL) meet one of them, at points drawn evenly over the run, and it is started again at
once. The stores are merged, and the merged store is compared with that of one process that was never killed. As in
`bench/store.py`, a journal beside each store tells what was sent, handed over and kept.

**Actors.** The same questions are drawn by 2 of Ray's actors into one store, and the other kills meet actors; then
`--tiny` questions of the bundled model. Left out where Ray, or torch, is not installed.

    lost          draws that a store had said it kept, and that were not there after a kill, or not the same
    paid_twice    asks sent again, by any shard or actor, although a store had said that it kept their draw
    identical     draws, pools, scores, decisions and the grades of another selector are those of the undisturbed run;
                  of the engine tiny without log-probs, which differ in the sixth digit with who shares its batch
    speedup       time of one process, or actor, over that of m, on `--timed` questions without kills. Every request
                  takes `LATENCY_S`, as behind a network, and a process has 8 of them in flight; what the processes
                  compute shares this machine's cores. The time that Ray takes to start is not counted

**A store of many draws** (`--draws`, several sizes): see `bench/scale_store.py`.

    put_per_s     draws a second, each committed as it arrives, into the empty store and into the full one
    bytes         on disk for each draw, its record included; after a vacuum, packed, and in a Parquet file
    open_s        to open the store and list its runs
    seconds       to fill it, count it (stats), check it, choose again by vote on every question, export its draws,
                  merge it into a new store, vacuum and pack it; with what each computed per draw, and its memory
    parquet_equal rows, bytes of text, tokens, grades and choices of the exported table add up to those of the store

**Compaction**: how much smaller recorded responses become, with their prompts and records, by zlib, row by row.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gzip
import importlib.util
import json
import os
import signal
import sqlite3
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.about import about, rounded
from bench.scale_store import NUM_DRAWS, OTHER, many_draws
from bench.store import KEPT, Journal, JournalledStore, JournalledToy, journal_of, journalled, repeats, tables, words
from samplewise.core import registry
from samplewise.core.events import Arrived, Event
from samplewise.core.files import data_folder
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Generate, Message
from samplewise.engines.base import Arrival, Engine
from samplewise.recipe import recipe
from samplewise.runs.actors import RayWorkers
from samplewise.runs.redecide import redecide
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.digests import ask_json
from samplewise.store.merge import FACTS_OF_A_PROCESS, merge_stores

SEED = 0
NUM_QUESTIONS = 2_000
RECIPE = f"repeat({NUM_DRAWS}, max_tokens=6) | best(logp)"
SHARDS = (1, 2, 4)
LATENCY_S = 0.2  # of a request, where shards are timed
CONCURRENCY = 8
NUM_ACTORS = 2
TINY_KILLS = 2
RECORDED = "recorded/math_qwen_rm_8x/math_cot_100_with_rm_scores.jsonl.gz"


class SlowToy(JournalledToy):
    """The toy engine, where every request takes `LATENCY_S`."""

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            await asyncio.sleep(LATENCY_S)
            yield Arrival(position, self.one(ask))


# --- shards -----------------------------------------------------------------------------------------------------------


def start(
    path: Path,
    num_questions: int,
    shard: tuple[int, int] | None,
    slow: bool = False,
    make: Callable[[Path], Engine] | None = None,
) -> int:
    """Draw a shard in a child process. Return the process's id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        journal = Journal(path.with_suffix(".journal"))
        engine = (make or (make_slow_toy if slow else make_toy))(path.with_suffix(".journal"))
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
    """Return what a store holds, less clock times, the notes of shards and what a process says of itself."""
    held = tables(path)
    runs = [(*row[:5], *_of_the_run(row[5]), *row[6:]) for row in held["runs"]]
    return {**held, "runs": runs, "events": [row for row in held["events"] if row[1] != "shard"]}


def _of_the_run(manifest: str) -> list[tuple[str, Any]]:
    """Return what a manifest says of the run itself."""
    return [(name, value) for name, value in json.loads(manifest).items() if name not in FACTS_OF_A_PROCESS]


def without_log_probs(held: Mapping[str, Sequence[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    """Return tables without log-probs: in the sixth digit those of a network depend on who shares its batch."""
    return {
        "draws": [(*row[:5], row[6]) for row in held["draws"]],
        "pools": [row[:5] for row in held.get("pools", ())],
        "selections": list(held.get("selections", ())),
    }


def redecided(path: Path) -> tuple[list[float], float]:
    """Return the grades of another selector on a store's run, and the seconds that it took."""
    with Store(path) as store:
        started = time.monotonic()
        grades = redecide(store, store.runs()[0], OTHER)
        return grades, time.monotonic() - started


def undisturbed(path: Path, num_questions: int, make: Callable[[Path], Engine] | None = None) -> None:
    """Draw the whole task in one process that nobody kills."""
    started = time.monotonic()
    os.waitpid(start(path, num_questions, None, make=make), 0)
    print(f"undisturbed: {num_questions * NUM_DRAWS:,} draws in {time.monotonic() - started:.1f} s", flush=True)


def shards(whole: Path, num_questions: int, num_kills: int, num_timed: int, folder: Path) -> dict[str, Any]:
    """Draw by shards, kill, merge, compare with the undisturbed run."""
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


# --- actors -----------------------------------------------------------------------------------------------------------


def has_ray() -> bool:
    """Return whether Ray is installed; say it where it is not."""
    if importlib.util.find_spec("ray") is not None:
        return True
    print("Ray is not installed, so runs with actors are left out: pip install 'samplewise[ray]'", flush=True)
    return False


def make_toy(journal: Path) -> Engine:
    return JournalledToy(Journal(journal))


def make_slow_toy(journal: Path) -> Engine:
    return SlowToy(Journal(journal))


def make_tiny(journal: Path) -> Engine:
    return journalled(registry.build("engine", "tiny"), Journal(journal))


def draw_with_actors(
    path: Path,
    num: int,
    num_questions: int,
    make: Callable[[Path], Engine],
    marks: Sequence[int] = (),
    expected: Sequence[tuple[Any, ...]] = (),
    rng: np.random.Generator | None = None,
) -> tuple[int, int, float]:
    """Draw with `num` actors. At each mark, a length of the journal, kill one of them. Draws are as `expected`.

    Return how many draws were lost, how many actors were killed, and the seconds from the first draw to the last.
    """
    journal, due = path.with_suffix(".journal"), sorted(marks)
    drawn = {row[0]: row for row in expected}
    lost: set[bytes] = set()
    killed: list[int] = []
    moments: list[float] = []

    async def kill(workers: RayWorkers) -> None:
        for mark in due:
            while not journal.exists() or journal.stat().st_size < mark:
                await asyncio.sleep(0.002)
            while not (pids := sorted(set(workers.pids()) - set(killed))):
                await asyncio.sleep(0.01)
            assert rng is not None
            killed.append(pids[int(rng.integers(len(pids)))])
            os.kill(killed[-1], signal.SIGKILL)
            kept = {digest for what, digest in journal_of(path) if what == KEPT}
            there = {row[0]: row for row in without_log_probs(tables(path, "draws"))["draws"]}
            lost.update(digest for digest in kept if there.get(digest) != drawn[digest])
            print(f"  killed an actor with {len(there):,} draws kept", flush=True)

    def on_event(event: Event) -> None:
        if isinstance(event, Arrived):
            moments.append(time.monotonic())

    async def draw(store: Store) -> None:
        async with RayWorkers(functools.partial(make, journal), num, concurrency=CONCURRENCY) as workers:
            killing = asyncio.create_task(kill(workers))
            task, line = words(num_questions), recipe(RECIPE)
            await run_task(task, line, workers, store, seed=SEED, concurrency=CONCURRENCY, on_event=on_event)
            killing.cancel()

    with JournalledStore(path, Journal(journal)) as store:
        asyncio.run(draw(store))
    return len(lost), len(killed), moments[-1] - moments[0]


def actors(
    name: str, make: Callable[[Path], Engine], whole: Path, num_questions: int, num_kills: int, folder: Path
) -> dict[str, Any]:
    """Draw with actors that are killed, and compare with the store of an undisturbed run without them."""
    expected = without_log_probs(tables(whole, "draws"))["draws"]
    rng = Key(SEED).fold("bench", "scale", name).generator()
    marks = [int(whole.with_suffix(".journal").stat().st_size * at) for at in rng.random(num_kills) * 0.95]
    print(f"{NUM_ACTORS} actors on the engine {name}, {num_kills} kills", flush=True)
    path = folder / f"actors-{name}.db"
    lost, kills, _ = draw_with_actors(path, NUM_ACTORS, num_questions, make, marks, expected, rng)
    grades = [redecided(each)[0] for each in (path, whole)]
    stores = [comparable(each) for each in (path, whole)]
    if name != "toy":
        stores = [without_log_probs(store) for store in stores]
    return {
        "kills": kills,
        "lost": lost,
        "paid_twice": repeats(journal_of(path))[KEPT],
        "in_flight_repeated": sum(num for what, num in repeats(journal_of(path)).items() if what != KEPT),
        "identical": stores[0] == stores[1] and grades[0] == grades[1],
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


def drawn_by_many(num_questions: int, num_kills: int, num_timed: int, num_tiny: int, folder: Path) -> dict[str, Any]:
    """Draw by shards and by actors."""
    whole = folder / "whole.db"
    undisturbed(whole, num_questions)
    of_actors = round(num_kills * NUM_ACTORS / (sum(SHARDS) + NUM_ACTORS)) if has_ray() else 0
    figures = shards(whole, num_questions, num_kills - of_actors, num_timed, folder)
    by_engine: dict[str, dict[str, Any]] = {}
    if of_actors:
        by_engine["toy"] = actors("toy", make_toy, whole, num_questions, of_actors, folder)
        if num_tiny and importlib.util.find_spec("torch") is None:
            print("torch is not installed, so the engine tiny is left out: pip install 'samplewise[local]'", flush=True)
        elif num_tiny:
            undisturbed(folder / "tiny.db", num_tiny, make_tiny)
            by_engine["tiny"] = actors("tiny", make_tiny, folder / "tiny.db", num_tiny, TINY_KILLS, folder)
    for each in by_engine.values():
        figures |= {name: figures[name] + each[name] for name in ("kills", "lost", "paid_twice")}
        figures["identical"] &= each["identical"]
    figures["actors"] = {"num": NUM_ACTORS, **by_engine}
    if of_actors and num_timed:
        seconds = {
            num: draw_with_actors(folder / f"timed-{num}.db", num, num_timed, make_slow_toy)[2]
            for num in (1, NUM_ACTORS)
        }
        figures["actors"] |= {"timed_s": seconds, "speedup": seconds[1] / seconds[NUM_ACTORS]}
    print("{kills} kills: {lost} draws lost, {paid_twice} paid twice, identical: {identical}".format(**figures))
    speed = [f"{num} shards {each:.2f}" for num, each in figures["speedup"].items()]
    if "speedup" in figures["actors"]:
        speed.append(f"{NUM_ACTORS} actors {figures['actors']['speedup']:.2f}")
    print(f"speed-up: {', '.join(speed)}" if speed else "not timed", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--questions", type=int, default=NUM_QUESTIONS, help="0: measure stores alone")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--timed", type=int, default=400, help="questions that are timed; 0: none")
    parser.add_argument("--tiny", type=int, default=100, help="questions of the engine tiny, with actors; 0: none")
    parser.add_argument("--draws", type=int, nargs="*", default=[200_000], help="of each store of many draws")
    parser.add_argument("--folder", type=Path, help="where the stores are put; default: a temporary folder")
    options = parser.parse_args()
    started = time.monotonic()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        if options.questions:
            figures = drawn_by_many(options.questions, options.kills, options.timed, options.tiny, folder)
        for num in options.draws:
            print(f"a store of {num:,} draws", flush=True)
            with tempfile.TemporaryDirectory(dir=folder) as of_store:
                figures.setdefault("stores", []).append(many_draws(num, Path(of_store)))
    figures["compaction"] = compaction()
    figures["sqlite"] = sqlite3.sqlite_version
    print(json.dumps({**about("scale", SEED, started), **rounded(figures)}))


if __name__ == "__main__":
    main()
