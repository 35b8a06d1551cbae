"""The driver of a run with actors, with a Ray that is made up: actors in this process, which die when they are told."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench.scale import comparable
from bench.store import KEPT, Journal, JournalledStore, JournalledToy, journal_of, repeats, words

from samplewise.core.errors import EngineUnavailable
from samplewise.core.events import Arrived, Event
from samplewise.core.keys import Key
from samplewise.core.types import Ask
from samplewise.engines.base import Arrival, Engine
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.runs.actors import RayWorkers, pool
from samplewise.runs.actors.worker import QuestionWorker, StoreReader
from samplewise.runs.run import run_task
from samplewise.store.database import Store

LINE = "vary(ladder) | repeat(6, max_tokens=5) | best(logp)"
NUM = 24


class Dead(Exception):
    """As `ray.exceptions.RayError`."""


class Bug(Dead):
    """As `ray.exceptions.RayTaskError`."""


class Handle:
    """An actor: calls of its methods give what awaits their result, until it is killed."""

    def __init__(self, made: Any) -> None:
        self.made = made
        self.killed = asyncio.Event()
        self.most = 0  # questions at once
        self._num = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.made, name)
        if name == "solve":
            return SimpleNamespace(options=lambda num_returns: SimpleNamespace(remote=self.stream))

        async def call(*arguments: Any) -> Any:
            if self.killed.is_set():
                raise Dead("first line\nthe actor is dead")
            result = method(*arguments)
            return await result if asyncio.iscoroutine(result) else result

        return SimpleNamespace(remote=lambda *arguments: asyncio.ensure_future(call(*arguments)))

    async def stream(self, *arguments: Any) -> AsyncIterator[Any]:
        """What the actor yields; what it has not handed over when it dies is lost."""
        self._num += 1
        self.most = max(self.most, self._num)
        solving = self.made.solve(*arguments)
        try:
            while True:
                step, killed = asyncio.ensure_future(anext(solving)), asyncio.ensure_future(self.killed.wait())
                await asyncio.wait({step, killed}, return_when=asyncio.FIRST_COMPLETED)
                killed.cancel()
                if self.killed.is_set():
                    step.cancel()
                    await asyncio.wait({step})
                    raise Dead("first line\nthe actor is dead")
                try:
                    some = step.result()
                except StopAsyncIteration:
                    return
                ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                ready.set_result(some)
                yield ready
        finally:
            self._num -= 1


class MadeUpRay:
    """As much of Ray as the driver uses."""

    exceptions = SimpleNamespace(RayError=Dead, RayTaskError=Bug)

    def __init__(self) -> None:
        self.handles: list[Handle] = []
        self.util = SimpleNamespace(
            scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node, soft: node)
        )

    def remote(self, kind: type) -> Any:
        def start(*arguments: Any) -> Handle:
            handle = Handle(kind(*arguments))
            self.handles.append(handle)
            return handle

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=start))

    def put(self, value: Any) -> Any:
        return value

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here")

    def kill(self, handle: Handle) -> None:
        handle.killed.set()
        if isinstance(handle.made, StoreReader):
            handle.made._store.close()  # as the end of its process does

    def shutdown(self) -> None:
        pass

    @property
    def living(self) -> list[Handle]:
        """Actors that draw."""
        return [each for each in self.handles if isinstance(each.made, QuestionWorker) and not each.killed.is_set()]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> MadeUpRay:
    made_up = MadeUpRay()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: "there" if name == "ray" else find(name))
    monkeypatch.setattr(pool, "import_ray", lambda gpus: made_up)

    class LookUp:
        def __init__(self, reader: Handle) -> None:
            self.reader = reader.made

        def __call__(self, digests: Sequence[bytes]) -> Any:
            assert isinstance(self.reader, StoreReader)
            return self.reader.draws(digests)

    monkeypatch.setattr(pool, "ReaderLookUp", LookUp)
    return made_up


def run(
    path: Path,
    make: Callable[[], Engine],
    num: int,
    *,
    on_event: Callable[[Event], None] = lambda event: None,
    num_questions: int = NUM,
    say: list[str] | None = None,
) -> Any:
    said = [] if say is None else say

    async def go(store: Store) -> Any:
        async with RayWorkers(make, num, concurrency=4, say=said.append) as workers:
            task, line = words(num_questions), recipe(LINE)
            return await run_task(task, line, workers, store, on_event=on_event, concurrency=4)

    with JournalledStore(path, Journal(path.with_suffix(".journal"))) as store:
        return asyncio.run(go(store))


@pytest.mark.parametrize("seed", range(6))
def test_deaths_at_any_moment_change_nothing(ray: MadeUpRay, tmp_path: Path, seed: int) -> None:
    rng = Key(seed).fold("deaths").generator()
    due = set(rng.choice(NUM * 6, 12, replace=False).tolist())
    path, num_arrived = tmp_path / "s.db", 0
    heard: list[Event] = []

    def on_event(event: Event) -> None:
        nonlocal num_arrived
        heard.append(event)
        if isinstance(event, Arrived) and event.source == "engine":
            if num_arrived in due and ray.living:
                ray.kill(ray.living[int(rng.integers(len(ray.living)))])
            num_arrived += 1

    said: list[str] = []
    summary = run(path, lambda: JournalledToy(Journal(path.with_suffix(".journal"))), 3, on_event=on_event, say=said)
    with Store(tmp_path / "local.db") as store:
        asyncio.run(run_task(words(NUM), recipe(LINE), Toy(4), store))
    assert comparable(path) == comparable(tmp_path / "local.db")
    assert repeats(journal_of(path))[KEPT] == 0
    assert summary.paid.requests == NUM * 6
    assert sum(isinstance(event, Arrived) for event in heard) == NUM * 6, "a draw was told twice"
    deaths = [line for line in said if line.startswith("an actor died, and its ")]
    assert len(deaths) >= 8
    assert deaths[0].endswith("(the actor is dead)")


def test_questions_are_dealt_out_evenly_and_actors_without_any_given_back(
    ray: MadeUpRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six questions and three actors: two each, though one could take four. Of eight actors there are six."""

    def alive_at_end(event: Event) -> None:
        most.append(len(ray.living))

    def retire(workers: RayWorkers, actor: Any) -> Any:
        retired.append(actor)
        return give_back(workers, actor)

    most: list[int] = []
    retired: list[Any] = []
    give_back = RayWorkers._retire
    monkeypatch.setattr(RayWorkers, "_retire", retire)
    run(tmp_path / "a.db", lambda: JournalledToy(Journal(tmp_path / "a.journal")), 3, num_questions=6)
    assert [handle.most for handle in ray.handles if isinstance(handle.made, QuestionWorker)] == [2, 2, 2]
    ray.handles.clear()
    run(tmp_path / "b.db", lambda: Toy(4), 8, num_questions=6, on_event=alive_at_end)
    assert max(most) == 6
    assert retired
    assert not ray.living


def test_what_an_actor_had_to_say_is_kept_when_it_is_given_back(ray: MadeUpRay, tmp_path: Path) -> None:
    """Six actors end one after the other. Those that were given back before the end took their notes along."""

    class Noting(Toy):
        @property
        def notes(self) -> tuple[str, ...]:  # type: ignore[override]
            return (f"engine {self.number}",)

    def make() -> Noting:
        engine = Noting(4)
        engine.number = next(numbers)  # type: ignore[attr-defined]
        return engine

    async def go(store: Store) -> tuple[str, ...]:
        async with RayWorkers(make, 6, say=lambda line: None) as workers:
            await run_task(words(6), recipe(LINE), workers, store)
        return workers.notes

    numbers = itertools.count()
    with Store(tmp_path / "s.db") as store:
        assert sorted(asyncio.run(go(store))) == [f"engine {number}" for number in range(6)]
    assert not ray.living


def test_nothing_is_started_where_all_is_done(ray: MadeUpRay, tmp_path: Path) -> None:
    run(tmp_path / "s.db", lambda: Toy(4), 3)
    ray.handles.clear()
    summary = run(tmp_path / "s.db", lambda: Toy(4), 3)
    assert (summary.num_done, summary.paid.requests) == (NUM, 0)
    assert sum(isinstance(handle.made, QuestionWorker) for handle in ray.handles) == 1


class Fatal(Toy):
    """Its process dies of one question."""

    ray: MadeUpRay

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        if any("word 7" in message.content for ask in asks for message in ask.messages):  # type: ignore[union-attr]
            for handle in self.ray.living:
                if handle.made._engine is self:
                    self.ray.kill(handle)
            await asyncio.sleep(60)
        async for arrival in super().answer(asks):
            yield arrival


def test_a_question_that_kills_its_actors_ends_the_run(
    ray: MadeUpRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fatal.ray = ray
    with pytest.raises(EngineUnavailable, match="actors in a row died"):
        run(tmp_path / "s.db", lambda: Fatal(4), 2)
    monkeypatch.setattr(pool, "MAX_DEATHS", 99)
    with pytest.raises(EngineUnavailable, match=r"question q\d+: 10 actors in a row died .* \(the actor is dead\)"):
        run(tmp_path / "s.db", lambda: Fatal(4), 2)


def test_actors_that_never_come_up_end_the_run(ray: MadeUpRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MadeUpRay, "put", lambda self, value: self.handles[-1].killed.set() if self.handles else value)
    with pytest.raises(EngineUnavailable, match="3 actors in a row died before they drew anything: the actor is dead"):
        run(tmp_path / "s.db", lambda: Toy(4), 2)


def test_actors_of_another_engine_are_found_out(ray: MadeUpRay, tmp_path: Path) -> None:
    engines = iter(range(4, 9))
    with pytest.raises(Exception, match="the actors have different engines, toy"):
        run(tmp_path / "s.db", lambda: Toy(next(engines)), 2)
