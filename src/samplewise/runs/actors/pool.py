"""The driver of a run with actors: starts them, hands questions out, keeps what they report.

At most `num` actors are there at once. The first opens its engine alone, as it may find out what the others then need
not; the run begins with it, and each of the others takes questions once it is up, whenever Ray has found a place for
it. One that dies is replaced, its questions go to whoever is free, and one for which nothing is left is given back.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from samplewise.core.errors import EngineUnavailable, MissingExtra, SetupError, UsageError
from samplewise.core.events import Arrived, Drawn, Event, Stopped
from samplewise.core.spec import Spec
from samplewise.core.types import Completion, Problem, Usage
from samplewise.engines.base import Engine
from samplewise.loop.ledger import Budget
from samplewise.recipe import Recipe
from samplewise.runs.actors.worker import QuestionWorker, Raised, ReportedDraw, StoreReader, Work
from samplewise.runs.run import CONCURRENCY, EngineFacts, RunLog, Solved
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.verify.sandbox import chosen

MAX_DEATHS = 3  # of actors in a row that drew nothing, while nobody else did
MAX_DEATHS_OF_A_QUESTION = 10  # of actors that drew it, with nothing new of it: others die of other things meanwhile
FAIR_S = 30.0  # for which an actor that starts has its part of the questions left for it
PATIENCE_S = 60.0  # without an actor, after which it is said
NOTES_S = 2.0  # that actors have to say what is worth knowing of their engines
NUM_STARTS = 2  # of a Ray of our own: it gives up after 30 seconds, which a busy machine can take
OBJECTS_BYTES = 128 << 20  # of shared memory in a Ray of our own: reports are small
# Of a Ray of our own: no usage statistics, and every port on the loopback interface, which is what Ray does where it
# must not be a cluster.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def import_ray(gpus: float = 0.0) -> Any:
    """Return the module `ray`, connected: to a cluster where `RAY_ADDRESS` is set, else to a Ray of our own.

    Raises SetupError where it does not start or has too few GPUs.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    import ray

    is_new = not ray.is_initialized()
    if is_new:
        for num_left in reversed(range(NUM_STARTS)):
            try:
                _start_ray(ray, address)
                break
            except Exception as error:
                ray.shutdown()
                if not num_left or address is not None:
                    where = "here" if address is None else f"at {address}"
                    raise SetupError(f"Ray does not start {where}: {' '.join(str(error).split())[:300]}") from error
    there = ray.cluster_resources().get("GPU", 0)
    if address is None and gpus > there:  # a cluster may get further nodes
        if is_new:
            ray.shutdown()
        raise SetupError(f"--ray-gpus {gpus:g}: Ray finds {there:g} GPUs here; set RAY_ADDRESS for a cluster that has")
    return ray


def _start_ray(ray: Any, address: str | None) -> None:
    """Connect to a cluster, or start a Ray of our own. In that, actors need no CPU each: many wait for an endpoint."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        own = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": OBJECTS_BYTES}
        ray.init("local", **own, **quiet)
    else:
        ray.init(address, **quiet)


class ReaderLookUp:
    """Looks draws up in the run's store, from within an actor. Blocks for a millisecond or two."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def __call__(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        import ray

        # Ray warns of a `get` in the thread of an event loop, where it cannot know that little is waited for
        with ThreadPoolExecutor(1) as thread:
            draws: dict[bytes, Completion] = thread.submit(ray.get, self._reader.draws.remote(list(digests))).result()
        return draws


class _Actor:
    """An actor, as the driver sees it."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.questions: set[str] = set()  # in progress
        self.started = time.monotonic()
        self.is_open = self.has_drawn = False
        self.pid = 0  # known once it is open

    @property
    def num(self) -> int:
        """How many questions are in progress."""
        return len(self.questions)


class _Log:
    """Logs the events of a question once, however often it is begun again, and adds up what was paid and is lost."""

    def __init__(self, log: RunLog) -> None:
        self.paid = Usage()  # by actors that died
        self.num_deaths = 0  # since anything new arrived
        self._log = log
        self._num_arrived = self._num_again = self._tokens_before = self._tokens = 0
        self._paid = Usage()  # by the actor that is at it
        self._stopped: Stopped | None = None  # not logged before the outcome is here: the actor may die in between

    def __call__(self, event: Event) -> None:
        if isinstance(event, Arrived):
            if event.source == "store" and self._num_again:  # an actor that died has reported it
                self._num_again -= 1
                return
            self._num_arrived += event.source != "failure"
            if event.source != "store":
                self._paid = self._paid.plus(event.usage)
                self.num_deaths = 0
        elif isinstance(event, Drawn):
            self._tokens = self._tokens_before + event.tokens
            event = event._replace(tokens=self._tokens)
        elif isinstance(event, Stopped):
            self._stopped = event
            return
        self._log(event)

    def finish(self) -> None:
        """Note that the outcome is here."""
        if self._stopped is not None:
            self._log(self._stopped)

    def begin_again(self, question: str) -> None:
        """Note that the actor died."""
        self.paid, self._paid, self._stopped = self.paid.plus(self._paid), Usage(), None
        self._num_again, self._tokens_before = self._num_arrived, self._tokens
        self.num_deaths += 1
        self._log.forget(question)


class RayWorkers:
    """Actors that draw the questions of a run: see `samplewise.runs.run`.

    Each builds its engine from the spec, or calls what makes one. `gpus` are those of one actor, and may be a fraction.
    An actor draws up to `concurrency` questions at once. `say` is told what a person who waits should know.

    Raises MissingExtra without Ray, UsageError where there is no actor.
    """

    def __init__(
        self,
        engine: str | Spec | Callable[[], Engine],
        num: int,
        *,
        gpus: float = 0.0,
        concurrency: int = CONCURRENCY,
        say: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ) -> None:
        if num < 1:
            raise UsageError(f"the number of actors is at least 1, got {num}")
        if not 0.0 <= gpus < math.inf:
            raise UsageError(f"the GPUs of an actor are at least 0, got {gpus}")
        if importlib.util.find_spec("ray") is None:
            raise MissingExtra("--ray", "ray")
        self.num = num
        self.notes: tuple[str, ...] = ()  # about the engines, once closed
        self._engine, self._gpus, self._concurrency, self._say = engine, gpus, concurrency, say
        self._ray: Any = None
        self._is_ours = False  # Ray: we started it, or connected to it
        self._actors: list[_Actor] = []
        self._changed = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._retiring: set[asyncio.Task[None]] = set()
        self._facts: EngineFacts | None = None
        self._work: Any = None
        self._fatal: Exception | None = None
        self._reader: Any = None
        self._look_up: ReaderLookUp | None = None
        self._cancel: asyncio.Event | None = None
        self._may_hold = True
        self._cpus = 1
        self._num_left = self._num_waiting = self._num_idle_deaths = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    # --- what a run asks ----------------------------------------------------------------------------------------------

    async def open(self, task: Task, recipe: Recipe, seed: int, budget: Budget) -> EngineFacts:
        """Start the first actor, and have it open its engine and check what the run needs."""
        sandbox = chosen()
        if self._ray is None:
            self._say(f"Ray starts, with up to {self.num} actors")
            already = "ray" in sys.modules and sys.modules["ray"].is_initialized()
            self._ray = await asyncio.to_thread(import_ray, self._gpus)
            self._is_ours = not already
            self._cpus = int("RAY_ADDRESS" in os.environ)
        few = replace(task, problems=task.problems[:1])
        self._work = self._ray.put(Work(self._engine, few, recipe.line, seed, budget, sandbox))
        while self._facts is None:
            actor = self._start()
            await self._open(actor, self._ray.put(task))
            if self._fatal is not None:
                raise self._fatal
        return self._facts

    def begin(self, store: Store, num_questions: int, cancel: asyncio.Event | None) -> None:
        """Start the other actors, and the process that looks draws up."""
        if store.path == ":memory:":
            raise UsageError("a store in memory cannot be read by actors: give a file")
        ray = self._ray
        self._store, self._num_left, self._cancel = store, num_questions, cancel
        self._may_hold = store.has_draws()
        here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            ray.get_runtime_context().get_node_id(), soft=False
        )
        self._reader = (
            ray.remote(StoreReader)
            .options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)
            .remote(os.path.abspath(store.path))  # noqa: PTH100 - of a name that SQLite takes
        )
        self._look_up = ReaderLookUp(self._reader)
        self._fill()
        if cancel is not None:
            self._spawn(self._pass_on(cancel))

    async def solve(self, index: int, problem: Problem, budget: Budget, log: RunLog) -> Solved:
        """Return what comes of a question, handed out until an actor has finished it."""
        question, history, is_first = problem.question.id, _Log(log), True
        while True:
            actor = await self._free_actor(question)
            if actor is None:
                return Solved(history.paid)
            look_up = None if is_first and not self._may_hold else self._look_up
            is_first = False
            try:
                solved = await self._solve_on(actor, index, problem, budget, history, look_up)
            except self._ray.exceptions.RayTaskError:  # a bug of ours: with its traceback
                raise
            except self._ray.exceptions.RayError as error:
                self._bury(actor, error)
                history.begin_again(question)
                if history.num_deaths >= MAX_DEATHS_OF_A_QUESTION:
                    why = f"question {question}: {history.num_deaths} actors in a row died while they drew it"
                    raise EngineUnavailable(f"{why} ({_why(error)})") from None
                continue
            finally:
                actor.questions.discard(question)
                await self._notify()
            history.finish()
            self._num_left -= 1
            self._give_back()
            return solved._replace(paid=history.paid.plus(solved.paid))

    async def close(self) -> None:
        """Give all actors back. Ray is shut down where it was started here."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ray is None:
            return
        await asyncio.gather(self._keep_notes(self._actors), *self._retiring)
        for actor in self._actors:
            self._ray.kill(actor.handle)
        if self._reader is not None:
            self._ray.kill(self._reader)
        self._actors.clear()
        if self._is_ours:
            await asyncio.to_thread(self._ray.shutdown)
        self._ray = None

    async def _keep_notes(self, actors: Sequence[_Actor]) -> None:
        """Keep what actors say of their engines, if they do in time."""
        asked = [asyncio.ensure_future(_of(actor.handle.notes.remote())) for actor in actors if actor.is_open]
        if asked:
            ready, late = await asyncio.wait(asked, timeout=NOTES_S)
            for task in late:
                task.cancel()
            notes = [note for task in ready if task.exception() is None for note in task.result()]
            self.notes = tuple(dict.fromkeys((*self.notes, *notes)))

    async def _retire(self, actor: _Actor) -> None:
        """Give an actor back, once it has said what is worth knowing of its engine."""
        await self._keep_notes([actor])
        self._ray.kill(actor.handle)

    # --- actors -------------------------------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Return the processes of the actors that are up."""
        return [actor.pid for actor in self._actors if actor.pid]

    def _start(self) -> _Actor:
        options = {"num_cpus": self._cpus, "num_gpus": self._gpus, "max_restarts": 0}
        kind = self._ray.remote(QuestionWorker).options(**options, max_concurrency=self._concurrency + 8)
        actor = _Actor(kind.remote(self._work))
        self._actors.append(actor)
        return actor

    async def _open(self, actor: _Actor, task: Any = None) -> None:
        """Have an actor open its engine, and take it into service."""
        reply = asyncio.ensure_future(_of(actor.handle.open.remote(task)))
        try:
            if not (await asyncio.wait([reply], timeout=PATIENCE_S))[0]:
                self._say("an actor has not started yet: Ray has no place for it so far, or its model loads")
            pid, facts = await reply
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            self._bury(actor, error)
            return
        finally:
            reply.cancel()
        if isinstance(facts, Raised):
            self._fatal = facts.error()
        elif self._facts is not None and facts.identity != self._facts.identity:
            self._fatal = SetupError(
                f"the actors have different engines, {self._facts.identity} and {facts.identity}: give all nodes the "
                "same files and packages"
            )
        else:
            self._facts = facts
            actor.is_open, actor.pid = True, pid
        await self._notify()

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal = error if isinstance(error, Exception) else self._fatal
            self._spawn(self._notify())

    def _fill(self) -> None:
        """Start as many actors as there is work for."""
        while len(self._actors) < min(self.num, self._num_left) and self._fatal is None:
            self._spawn(self._open(self._start()))

    def _bury(self, actor: _Actor, error: Exception) -> None:
        """Take a dead actor out of service, once, and start another in its place."""
        if actor not in self._actors:
            return
        self._actors.remove(actor)
        self._ray.kill(actor.handle)  # it may only have been out of reach
        self._say(f"an actor died, and its {actor.num} questions are handed out again ({_why(error)})")
        self._num_idle_deaths = 0 if actor.has_drawn else self._num_idle_deaths + 1
        if self._num_idle_deaths >= MAX_DEATHS:
            at = f", the last at question {min(actor.questions)}" if actor.num == 1 else ""
            self._fatal = EngineUnavailable(
                f"{self._num_idle_deaths} actors in a row died before they drew anything{at}: {_why(error)}"
            )
        self._fill()

    def _give_back(self) -> None:
        """Give back the actors for which nothing is left: all that is, is in progress with others."""
        if not self._num_left or self._num_waiting or self._num_left > sum(actor.num for actor in self._actors):
            return
        for actor in [actor for actor in self._actors if not actor.num and self._num_left < len(self._actors)]:
            self._actors.remove(actor)
            task = asyncio.ensure_future(self._retire(actor))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _pass_on(self, cancel: asyncio.Event) -> None:
        """Tell every actor when the user cancels."""
        await cancel.wait()
        for actor in self._actors:
            actor.handle.cancel.remote()
        await self._notify()

    # --- questions ----------------------------------------------------------------------------------------------------

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _free_actor(self, question: str) -> _Actor | None:
        """Wait for the actor that takes a question; None if the user cancels."""
        self._num_waiting += 1
        try:
            async with self._changed:
                while True:
                    if self._fatal is not None:
                        raise self._fatal
                    if self._cancel is not None and self._cancel.is_set():
                        return None
                    if (actor := self._least_busy()) is not None:
                        actor.questions.add(question)
                        return actor
                    await self._changed.wait()
        finally:
            self._num_waiting -= 1

    def _least_busy(self) -> _Actor | None:
        """Return the actor that has the fewest questions, None if all have their part of those that are left."""
        young = time.monotonic() - FAIR_S
        num = sum(actor.is_open or actor.started > young for actor in self._actors)
        limit = min(self._concurrency, math.ceil(self._num_left / max(1, num)))
        free = [actor for actor in self._actors if actor.is_open and actor.num < limit]
        return min(free, key=lambda actor: actor.num, default=None)

    async def _solve_on(
        self,
        actor: _Actor,
        index: int,
        problem: Problem,
        budget: Budget,
        history: _Log,
        look_up: ReaderLookUp | None,
    ) -> Solved:
        """Have an actor draw a question, and keep what it reports. Raises RayError where it dies."""
        reports = actor.handle.solve.options(num_returns="streaming").remote(index, problem, budget, look_up)
        async for some in reports:
            for report in await some:
                if isinstance(report, Solved):
                    return report
                if isinstance(report, Raised):
                    raise report.error()
                if isinstance(report, ReportedDraw):
                    actor.has_drawn, self._num_idle_deaths = True, 0
                    self._store.put_draw(*report)
                else:
                    history(report)
        raise EngineUnavailable(f"an actor said nothing of question {problem.question.id}")


async def _of(reply: Any) -> Any:
    """Return what a call of an actor gives."""
    return await reply


def _why(error: Exception) -> str:
    """Return why an actor died, in one line: the first sentence of the last line of Ray's error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__).partition(". ")[0][:300]
