"""Runs with Ray's actors on this machine, which are killed at random (make test-ray)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bench.scale import comparable
from bench.store import KEPT, SENT, Journal, JournalledStore, JournalledToy, journal_of, repeats, words

from samplewise.core.errors import EngineUnavailable, SetupError, UnknownName, UsageError
from samplewise.core.events import Arrived, Event, Stopped
from samplewise.core.keys import Key
from samplewise.core.types import Ask
from samplewise.engines.base import Arrival
from samplewise.engines.toy import Toy
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.actors import RayWorkers
from samplewise.runs.actors.pool import import_ray
from samplewise.runs.run import Summary, run_task
from samplewise.store.database import Store

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),  # Ray's
]

LINE = "vary(ladder) | repeat(8, max_tokens=6) | best(logp)"
NUM = 30


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[Any]:
    """One Ray for all tests: it takes seconds to start."""
    started = import_ray()
    yield started
    started.shutdown()


def local(path: Path, budget: Budget = Budget(), line: str = LINE) -> dict[str, Any]:
    """What a run without Ray leaves."""
    with Store(path) as store:
        asyncio.run(run_task(words(NUM), recipe(line), Toy(4), store, budget=budget))
    return comparable(path)


def quiet(line: str) -> None:
    pass


class Doomed(Toy):
    """An engine that takes its process with it."""

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        os._exit(1)
        yield Arrival(0, self.one(asks[0]))


def test_actors_that_are_killed_lose_nothing_and_pay_nothing_twice(tmp_path: Path) -> None:
    """Two actors and five kills at random points: the store is that of an undisturbed run without Ray."""
    expected = local(tmp_path / "local.db")
    path, num_kills = tmp_path / "ray.db", 5
    journal = Journal(path.with_suffix(".journal"))
    journal_path = str(path.with_suffix(".journal"))
    rng = Key(1).fold("test", "ray").generator()
    marks = sorted(rng.integers(1, NUM * 8 * 9 // 10, num_kills).tolist())
    killed: list[int] = []
    heard: list[Event] = []

    async def kill(workers: RayWorkers) -> None:
        for mark in marks:
            while sum(what == KEPT for what, _ in journal_of(path)) < mark:
                await asyncio.sleep(0.005)
            while not (pids := [pid for pid in workers.pids() if pid not in killed]):
                await asyncio.sleep(0.02)
            killed.append(int(rng.choice(np.array(pids))))
            os.kill(killed[-1], signal.SIGKILL)

    async def go(store: Store) -> Summary:
        def make() -> Toy:
            return SlowJournalledToy(Journal(Path(journal_path)))

        async with RayWorkers(make, 2, concurrency=4, say=quiet) as workers:
            killing = asyncio.create_task(kill(workers))
            try:
                return await run_task(words(NUM), recipe(LINE), workers, store, concurrency=4, on_event=heard.append)
            finally:
                killing.cancel()

    with JournalledStore(path, journal) as store:
        summary = asyncio.run(go(store))
    there = comparable(path)
    assert there == expected
    assert len(killed) == num_kills
    again = repeats(journal_of(path))
    assert again[KEPT] == 0, "paid twice"
    drawn = {row[0] for row in there["draws"]}
    assert {digest for what, digest in journal_of(path) if what == KEPT} == drawn, "lost"
    assert again[SENT] + again["handed"] <= num_kills * 8, "more was in flight than two actors have"
    assert (summary.num_done, summary.num_draws, summary.cancelled, summary.num_failed) == (NUM, NUM * 8, False, 0)
    assert summary.paid.requests == NUM * 8
    assert sum(isinstance(event, Arrived) for event in heard) == NUM * 8
    assert sum(isinstance(event, Stopped) for event in heard) == NUM


class SlowJournalledToy(JournalledToy):
    """Eight questions in flight, of which each request takes a moment."""

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        async for arrival in super().answer(asks):
            await asyncio.sleep(0.02)
            yield arrival


def test_a_run_goes_on_with_actors_where_another_was_cut_off(tmp_path: Path) -> None:
    """Begun without Ray and cancelled; then with actors, cancelled too; then to its end. Nothing is paid twice."""
    expected = local(tmp_path / "local.db")
    path = tmp_path / "cut.db"

    async def go(store: Store, with_ray: bool, stop_after: int) -> Summary:
        cancel, num = asyncio.Event(), 0

        def on_event(event: Event) -> None:
            nonlocal num
            num += isinstance(event, Arrived) and event.source == "engine"
            if num >= stop_after:
                cancel.set()

        if not with_ray:
            return await run_task(words(NUM), recipe(LINE), Toy(4), store, on_event=on_event, cancel=cancel)
        async with RayWorkers("toy(4)", 2, say=quiet) as workers:
            return await run_task(words(NUM), recipe(LINE), workers, store, on_event=on_event, cancel=cancel)

    paid = 0
    for with_ray, stop_after in ((False, 40), (True, 60), (True, 10**6)):
        with Store(path) as store:
            summary = asyncio.run(go(store, with_ray, stop_after))
            assert summary.cancelled == (stop_after < 10**6)
            paid += summary.paid.requests
            num_kept = store.num_draws()
    assert paid == num_kept == NUM * 8
    assert {name: rows for name, rows in comparable(path).items() if name != "events"} == {
        name: rows for name, rows in expected.items() if name != "events"
    }


def test_a_budget_is_split_as_without_actors(tmp_path: Path) -> None:
    budget = Budget(tokens=NUM * 40)
    expected = local(tmp_path / "local.db", budget)
    with Store(tmp_path / "ray.db") as store:

        async def go() -> None:
            async with RayWorkers("toy(4)", 2, say=quiet) as workers:
                await run_task(words(NUM), recipe(LINE), workers, store, budget=budget)

        asyncio.run(go())
    there = comparable(tmp_path / "ray.db")
    assert {**there, "events": sorted(there["events"])} == {**expected, "events": sorted(expected["events"])}
    assert 0 < len(there["draws"]) < NUM * 8


def test_actors_that_die_by_themselves_end_the_run_in_one_line(tmp_path: Path) -> None:
    async def go(store: Store) -> None:
        async with RayWorkers(lambda: Doomed(4), 2, say=quiet) as workers:
            await run_task(words(4), recipe(LINE), workers, store)

    with Store(tmp_path / "s.db") as store, pytest.raises(EngineUnavailable, match="actors in a row died") as raised:
        asyncio.run(go(store))
    assert len(str(raised.value).splitlines()) == 1


def test_errors_before_anything_is_paid(tmp_path: Path) -> None:
    async def go(store: Store, engine: str, gpus: float = 0.0, budget: Budget = Budget()) -> None:
        async with RayWorkers(engine, 1, gpus=gpus, say=quiet) as workers:
            await run_task(words(4), recipe(LINE), workers, store, budget=budget)

    with Store(tmp_path / "s.db") as store:
        with pytest.raises(UnknownName, match="no engine is called 'nobody'"):
            asyncio.run(go(store, "nobody"))
        with pytest.raises(UsageError, match="does not admit one draw of each"):
            asyncio.run(go(store, "toy(4)", budget=Budget(requests=3)))
        with pytest.raises(SetupError, match="--ray-gpus 1: Ray finds 0 GPUs here"):
            asyncio.run(go(store, "toy(4)", gpus=1.0))
        assert not store.has_draws()
    with Store(":memory:") as store, pytest.raises(UsageError, match="give a file"):
        asyncio.run(go(store, "toy(4)"))


def test_ray_listens_on_the_loopback_interface_alone(ray: Any) -> None:
    assert {node["NodeManagerAddress"] for node in ray.nodes()} == {"127.0.0.1"}
