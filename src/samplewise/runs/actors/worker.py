"""What an actor does: it has an engine, draws whole questions with the loop, and reports. Knows nothing of Ray."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol

from samplewise.core import registry
from samplewise.core.errors import SamplewiseError, UsageError
from samplewise.core.events import Event
from samplewise.core.spec import Spec
from samplewise.core.types import Ask, Completion, Problem
from samplewise.engines.base import Engine
from samplewise.loop.context import RunContext, Trial
from samplewise.loop.drive import run_question
from samplewise.loop.keys import run_key
from samplewise.loop.ledger import Budget
from samplewise.loop.threads import abandon
from samplewise.recipe import recipe as parse_recipe
from samplewise.runs.run import EngineFacts, Solved, check_limit, check_run, engine_facts, grade_result
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.tasks.base import Task
from samplewise.verify.sandbox import Isolation, use


class ReportedDraw(NamedTuple):
    """A completion that arrived, as `Store.put_draw` takes it."""

    digest: bytes
    identity: str
    ask: Ask
    completion: Completion


class Raised(NamedTuple):
    """An error of ours. Some of their classes cannot be pickled by what they were made of."""

    kind: type[SamplewiseError]
    message: str

    def error(self) -> SamplewiseError:
        """Return the error, with the same class and words."""
        error = self.kind.__new__(self.kind)
        error.args = (self.message,)
        return error


Report = ReportedDraw | Event | Solved | Raised


class LookUp(Protocol):
    """Returns the completions that the run's store holds, by digest."""

    def __call__(self, digests: Sequence[bytes]) -> dict[bytes, Completion]: ...


class Work(NamedTuple):
    """What all questions of a run have in common. `task` need not have all of its problems."""

    engine: str | Spec | Callable[[], Engine]  # its spec, or what makes one
    task: Task
    recipe: str
    seed: int
    budget: Budget  # of the whole run
    isolation: Isolation  # of programs that are graded


class ReportingDraws:
    """Keeps the draws of one question by reporting them. Without `look_up`, the run's store holds none of them."""

    def __init__(self, report: Callable[[Report], None], look_up: LookUp | None) -> None:
        self._report, self._look_up = report, look_up
        self._reported: dict[bytes, Completion] = {}

    def put_draw(self, digest: bytes | None, identity: str, ask: Ask, completion: Completion) -> None:
        """Report a completion."""
        digest = digest_of(identity, ask) if digest is None else digest
        self._reported[digest] = completion
        self._report(ReportedDraw(digest, identity, ask, completion))

    def draws(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        """Return the completions that were reported, or are in the run's store, by digest."""
        there = {digest: self._reported[digest] for digest in digests if digest in self._reported}
        others = [digest for digest in digests if digest not in there]
        return there | self._look_up(others) if others and self._look_up is not None else there


class StoreReader:
    """Looks draws up in a store, for those who cannot open it. Writes nothing."""

    def __init__(self, path: str) -> None:
        self._store = Store(path, must_exist=True)

    def draws(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        """Return the completions that are stored, by digest."""
        return self._store.draws(digests)


class QuestionWorker:
    """An engine that draws whole questions, many at once."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._engine: Engine | None = None
        self._cancel = asyncio.Event()
        self._trial = Trial()

    async def open(self, task: Task | None) -> tuple[int, EngineFacts | Raised]:
        """Open the engine. Return the id of the process and what a run says of the engine.

        With `task`, which has all of its problems, check what a run needs.
        """
        work = self._work
        try:
            use(work.isolation)
            self._recipe, self._key = parse_recipe(work.recipe), run_key(work.seed)
            spec = work.engine
            engine = registry.build("engine", spec) if isinstance(spec, str | Spec) else spec()
            self._engine = engine
            if engine.is_batched:  # what was submitted would be forgotten with the actor
                raise UsageError(
                    f"{engine.name} answers in batches of all questions, which actors cannot: use no --ray"
                )
            await engine.open()
            self._recipe = self._recipe.with_max_tokens(engine.default_max_tokens)
            if task is not None:
                check_run(task, self._recipe, engine, work.budget)
                check_limit(task, self._recipe, engine, work.budget, seed=work.seed)
        except SamplewiseError as error:
            return os.getpid(), Raised(type(error), str(error))
        return os.getpid(), engine_facts(engine)

    async def cancel(self) -> None:
        """Give up what is in flight: every question in progress ends at once."""
        self._cancel.set()

    async def notes(self) -> tuple[str, ...]:
        """Return what a user should know about the engine after a run."""
        return () if self._engine is None else self._engine.notes

    async def solve(
        self, index: int, problem: Problem, budget: Budget, look_up: LookUp | None
    ) -> AsyncIterator[list[Report]]:
        """Draw one question. Yield what is to be reported as it happens, some at a time; the last is the outcome."""
        reports: list[Report] = []
        news = asyncio.Event()

        def report(message: Report) -> None:
            reports.append(message)
            news.set()

        solving = asyncio.ensure_future(self._solve(index, problem, budget, report, look_up))
        solving.add_done_callback(lambda _: news.set())
        try:
            while not solving.done() or reports:
                await news.wait()
                news.clear()
                some, reports[:] = list(reports), []
                if some:
                    yield some
            yield [solving.result()]
        finally:
            await abandon(solving)

    async def _solve(
        self,
        index: int,
        problem: Problem,
        budget: Budget,
        report: Callable[[Report], None],
        look_up: LookUp | None,
    ) -> Solved | Raised:
        assert self._engine is not None, "open() comes first"
        draws = ReportingDraws(report, look_up)
        context = RunContext(self._engine, draws, budget, report, self._cancel, self._trial)
        try:
            result = await run_question(problem.question, self._recipe, context, self._key, read=self._work.task.read)
            if result.stop.reason == "cancelled":
                return Solved(result.paid)
            return await grade_result(self._work.task, index, problem, result, self._cancel)
        except SamplewiseError as error:
            return Raised(type(error), str(error))
