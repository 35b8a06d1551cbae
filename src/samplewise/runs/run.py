"""Run a recipe over a task: many questions at once, graded and stored.

A question's pool is in the store when the question is finished. A run that was cut off and is started again skips
those questions, replays the stored draws of the others and pays for what is missing. Where questions share one budget
(`spread="gain"`) all of them are replayed, as what one drew decided what the others could.

A draw that failed, for whatever reason but its prompt's length, may succeed once the endpoint is mended. The pool is
stored without it, and the next start asks for it again. A question that got no draw at all is not booked as answered,
unless the engine answered others after it had refused every draw of this one.

With `shard=(i, m)` a call draws the questions of one shard alone (see `samplewise.runs.shards`). The run, its id and
each question's part of the budget are those of the whole task.

Whole questions may be drawn by workers in other processes (see `samplewise.runs.actors`). They have the engines; this
process alone writes to the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence, Set
from typing import Literal, NamedTuple, Protocol, get_args

from samplewise.core.errors import SamplewiseError, StoreError, UsageError
from samplewise.core.events import Arrived, Ended, Event, OnEvent, Recorded, Retried, Started, Stopped, Waiting, ignore
from samplewise.core.spec import wire
from samplewise.core.types import Generate, Json, NeedsSetup, Problem, Score, Selection, Usage
from samplewise.engines.base import Engine
from samplewise.loop.context import RunContext, Trial
from samplewise.loop.drive import check_questions, check_recipe, least_cost, run_question
from samplewise.loop.keys import run_key
from samplewise.loop.ledger import TOLERANCE, Budget, amounts_of, total
from samplewise.loop.result import Result
from samplewise.loop.sharing import SharedBudget
from samplewise.loop.threads import in_thread, unless_cancelled
from samplewise.recipe import Recipe
from samplewise.runs.shards import SHARD, Shard
from samplewise.store.database import Store
from samplewise.store.records import Record, Run
from samplewise.tasks.base import Task
from samplewise.verify.named import identity_of

CONCURRENCY = 64  # questions in progress at once; their asks share one engine batch
Spread = Literal["even", "gain"]  # how a run's budget is spread over its questions
LIMITS = ("requests", "prompt_tokens", "completion_tokens", "tokens", "usd")  # as in `Budget.amounts`
CALL_OFF_S = 0.8  # that calling a batch off may take, of the time that an interrupted process has
LOOK_EVERY_S = 1.0  # between two looks at what a batched engine waits for
GRACE_S = 0.5  # that a question's grades may still take once the run is cancelled
LASTING = frozenset({"ContextOverflow"})  # failures of an ask that no later start can mend
PACKAGES = ("samplewise", "numpy", "scipy", "torch", "transformers")  # whose versions a manifest states


class Summary(NamedTuple):
    """The outcome of a run. `spent` counts stored draws as if paid now; `paid` is what this call caused.

    Of a shard, all figures are those of its own questions; `num_in_task` counts those of the whole task.
    """

    run: str
    num_questions: int
    num_done: int
    accuracy: tuple[float, ...]  # (num_done,) grade of the chosen answer, in the order of the task
    spent: Usage
    paid: Usage
    cancelled: bool
    failure: str  # the last failed request's message, "" where none failed
    num_draws: int = 0  # in the pools of the questions that are done
    num_empty: int = 0  # questions that are done and have no draw
    num_failed: int = 0  # requests that failed for good, and that the next start makes again
    cut: Usage = Usage()  # what requests that were cut off may have cost at most, in all starts of this run
    shard: Shard | None = None
    num_in_task: int = 0


class EngineFacts(NamedTuple):
    """What the id and the manifest of a run say of its engine and of the process that has it.

    `members` maps the names of a team's engines to their identities, the solver's under "".
    """

    name: str
    identity: str
    digest: str | None
    members: dict[str, str]
    max_concurrency: int
    default_max_tokens: int | None
    versions: dict[str, str]  # of Python and the packages that are loaded
    system: str  # that it runs on


def engine_facts(engine: Engine) -> EngineFacts:
    """Return what a run says of its engine, which must be open and in this process."""
    members = {name: engine.member(Generate((), engine=name)).identity for name in ("", *sorted(engine.members))}
    loaded = {name: importlib.metadata.version(name) for name in PACKAGES if name in sys.modules}
    return EngineFacts(
        engine.name,
        engine.identity,
        engine.digest,
        members,
        engine.max_concurrency,
        engine.default_max_tokens,
        {"python": platform.python_version(), **loaded},
        platform.platform(),
    )


AnyEngine = Engine | EngineFacts


class Solved(NamedTuple):
    """What came of one question: what this call paid for it, and its record, None where it was cancelled."""

    paid: Usage
    record: Record | None = None
    selection: Selection = Selection(None, None)
    grade: float = math.nan


class Workers(Protocol):
    """Processes that draw whole questions, each with an engine of its own."""

    num: int  # at most at once

    async def open(self, task: Task, recipe: Recipe, seed: int, budget: Budget) -> EngineFacts:
        """Have the engine opened and check everything that `run_task` checks of it. Raises as that does."""
        ...

    def begin(self, store: Store, num_questions: int, cancel: asyncio.Event | None) -> None:
        """Note how many questions will be drawn, and the store that holds the draws that are not to be paid again."""
        ...

    async def solve(self, index: int, problem: Problem, budget: Budget, log: RunLog) -> Solved:
        """Return what comes of a question. Draws are put into the store, and events logged, as they arrive.

        Raises EngineUnavailable where those die who draw it, and whatever they raise.
        """
        ...


def run_id(
    task: Task,
    recipe: Recipe,
    engine: AnyEngine,
    seed: int,
    budget: Budget,
    spread: Spread = "even",
    reading: Sequence[str] = (),
) -> str:
    """Return 12 hex digits that name a run: equal for equal work, whoever starts it.

    `reading` says how answers are read and graded (see `reading_of`); the first stores did not know it.
    """
    questions = [(p.question, p.reference) for p in task.problems]
    # who draws next depends on how many draw at once
    shared = [] if spread == "even" else ["worth", engine.max_concurrency]  # "worth": the word that run ids fold
    work = [wire(recipe.line), questions, engine.identity, seed, budget, *shared, *reading]
    text = json.dumps(work, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()


def reading_of(task: Task) -> list[str]:
    """Return the reader and the grader of a task, each with its version: figures of another reading are others."""
    return [identity_of(task.read), identity_of(task.grade)]


async def find_run_id(
    store: Store, task: Task, recipe: Recipe, engine: AnyEngine, seed: int, budget: Budget, spread: Spread = "even"
) -> str:
    """Return the id of this work in a store.

    A run of the first stores, whose id does not say how its answers were read, is this work if today's reader and
    grader give what it holds. That is found out once: each of its answers is read and graded again, in a thread.
    """
    reading = reading_of(task)
    identity = run_id(task, recipe, engine, seed, budget, spread, reading)
    runs = {run.id: run for run in store.runs()}
    earlier = runs.get(run_id(task, recipe, engine, seed, budget, spread))
    if identity in runs or earlier is None:
        return identity
    if "reading" in earlier.manifest:
        return earlier.id if earlier.manifest["reading"] == reading else identity
    records = list(store.records(earlier.id))
    return earlier.id if await asyncio.to_thread(_reads_alike, task, records) else identity


def _reads_alike(task: Task, records: Sequence[Record]) -> bool:
    """Return whether a task's reader and grader give the stored answers and grades."""
    problems = {problem.question.id: problem for problem in task.problems}
    for record in records:
        problem = problems[record.problem.question.id]
        texts = [candidate.text for candidate in record.pool.candidates]
        if tuple(task.read(problem.question, text) for text in texts) != record.answers:
            return False
        for answer, grade in dict(zip(record.answers, record.grades, strict=True)).items():
            again = task.grade(problem, answer).value
            if again != grade and not (math.isnan(again) and math.isnan(grade)):
                return False
    return True


def manifest(
    task: Task, recipe: Recipe, engine: EngineFacts, seed: int, budget: Budget, spread: Spread = "even"
) -> dict[str, Json]:
    """Describe a run: all that it takes to tell later what a figure was made with."""
    return {
        "recipe": recipe.line,
        "reading": reading_of(task),
        "task": {"name": task.name, "problems": len(task.problems), "source": task.source, "licence": task.licence},
        "engine": {
            "name": engine.name,
            "identity": engine.identity,
            "digest": engine.digest,
            "members": engine.members,
        },
        "seed": seed,
        "budget": budget._asdict(),
        "spread": spread,
        "versions": engine.versions,
        "machine": engine.system,
    }


async def run_task(
    task: Task,
    recipe: Recipe,
    engine: Engine | Workers,
    store: Store,
    *,
    seed: int = 0,
    budget: Budget = Budget(),
    spread: Spread = "even",
    shard: tuple[int, int] | None = None,
    concurrency: int = CONCURRENCY,
    on_event: OnEvent = ignore,
    cancel: asyncio.Event | None = None,
) -> Summary:
    """Run `recipe` on every problem of `task` and keep the outcome in `store`.

    The budget is for the whole run. It is split evenly over the questions, so that neither their order nor the
    machine's speed decides who gets what. With `spread="gain"` the questions share it, and the next draw goes where
    the stop rule expects the largest gain for its cost (see `samplewise.loop.sharing`); all questions are then in
    progress at once.

    A question whose part of the budget does not admit one draw gets none: see `check_limit`.
    Where the model reasons and the recipe names no `max_tokens`, the run has the engine's default, and its stored
    recipe says so.

    With `shard=(i, m)`, only the questions of shard i of m are drawn, i from 0. The run has come to its end once the
    store holds every question of the task, by whatever shards, or merged from their stores.

    Workers in the place of an engine draw whole questions elsewhere, `concurrency` at once in each of them.

    Raises, before anything is paid: UsageError where there is no budget to share, no rule that says what a draw is
    worth, no such shard, or a shared budget with shards or workers; Unsupported, whatever the engine's `open` raises,
    and StoreConflict where another process draws into the store.
    """
    part = None if shard is None else Shard(*shard).checked()
    workers = None if isinstance(engine, Engine) else engine
    _check_spread(spread, recipe, budget, "shards" if part else "the actors of --ray" if workers else "")
    if isinstance(engine, Engine):
        await engine.open()
        check_run(task, recipe, engine, budget)
        if engine.is_batched and spread == "gain":
            raise UsageError(
                "spread=gain decides where each draw goes by those before it, which a batch cannot: leave out"
            )
        facts = engine_facts(engine)
    else:
        facts = await engine.open(task, recipe, seed, budget)
    store.claim()
    recipe = recipe.with_max_tokens(facts.default_max_tokens)
    identity = await find_run_id(store, task, recipe, facts, seed, budget, spread)
    about = manifest(task, recipe, facts, seed, budget, spread)
    store.start_run(Run(identity, recipe.line, task.name, facts.identity, seed, about, time.time(), None))
    failed_before = _failed_questions(store, identity)
    done = store.questions(identity) - failed_before
    problems = task.problems
    own = {p.question.id for p in problems if part is None or part.holds(p.question.id)}
    on_event(Started(identity, len(own), len(own & done)))
    log = RunLog(store, identity, on_event)
    key, selector = run_key(seed), str(recipe.stages.selector)
    attending: asyncio.Future[None] | None = None
    if isinstance(engine, Engine) and engine.is_batched:  # a user's cancel reaches questions once it is called off
        called_off = asyncio.Event()
        attending = asyncio.ensure_future(_attend(engine, on_event, cancel or asyncio.Event(), called_off))
        cancel = called_off
    paid, trial = Usage(), Trial()
    empty: list[Solved] = []  # questions of which every draw was refused
    shared: SharedBudget | None = None
    if spread == "gain" and len(done) < len(problems):
        shared = SharedBudget(budget, [p.question.id for p in problems], wave=facts.max_concurrency, cancel=cancel)
    waiting = iter([(i, p) for i, p in enumerate(problems) if shared is not None or p.question.id in own - done])

    async def draw_here(engine: Engine, index: int, problem: Problem, share: Budget) -> Solved:
        context = RunContext(engine, budget=share, store=store, on_event=log, cancel=cancel, trial=trial)
        try:
            result = await run_question(problem.question, recipe, context, key, read=task.read, shared=shared)
        finally:
            if shared is not None:
                shared.leave()
        if result.stop.reason == "cancelled" or problem.question.id in done:
            return Solved(result.paid)  # what was cancelled is taken up by the next start
        return await grade_result(task, index, problem, result, cancel)

    async def work() -> None:
        nonlocal paid
        for index, problem in waiting:
            if shared is None and cancel is not None and cancel.is_set():
                return
            share = budget.share(len(problems), index) if shared is None else Budget(seconds=budget.seconds)
            if isinstance(engine, Engine):
                solved = await draw_here(engine, index, problem, share)
            else:
                solved = await engine.solve(index, problem, share, log)
            paid = paid.plus(solved.paid)
            if solved.record is None:
                continue
            if solved.record.pool.candidates or not log.is_refused(problem.question.id):
                keep(solved, solved.record)
            else:
                empty.append(solved)

    def keep(solved: Solved, record: Record) -> None:
        question = record.problem.question.id
        if num := log.failed[question]:  # noted first: a process that is killed in between must not forget it
            store.note(identity, "failed", [question, num])
        store.save(identity, record, selector, solved.selection, solved.grade)
        if not num and question in failed_before:
            store.note(identity, "failed", [question, 0])
        on_event(Recorded(question, solved.grade, record.spent, len(record.answers)))

    num_at_once = min(concurrency * (1 if workers is None else workers.num), len(own))
    if workers is not None:
        workers.begin(store, len(own - done), cancel)
    if attending is not None:
        num_at_once = len(own)  # a batch is of all questions
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(num_at_once if shared is None else len(problems)):
                group.create_task(work())
    except BaseExceptionGroup as raised:  # one question's error is the run's, and a user need not read 64 of them
        ours = [error for error in raised.exceptions if isinstance(error, SamplewiseError)]
        error = (ours or raised.exceptions)[0]
        if isinstance(error, StoreError) and trial.cut.requests:
            raise StoreError(
                f"{error}; {trial.cut.requests} requests in flight were given up, which may be billed: at most "
                f"{trial.cut.tokens:,} tokens"
            ) from None
        raise error from None
    finally:
        if attending is not None:
            attending.cancel()
            on_event(Waiting(""))
    refused_before = _refused_before(store, identity) if empty else set()
    for solved in empty:
        question = "" if solved.record is None else solved.record.problem.question.id
        if solved.record is not None and log.is_about_the_question(question, question in refused_before):
            keep(solved, solved.record)
    stored = store.questions(identity)
    finished = stored >= own
    if finished and part is not None and not _is_noted(store, identity, part):
        store.note(identity, SHARD, list(part))
    if stored >= {p.question.id for p in problems}:
        store.end_run(identity)
    if finished:
        on_event(Ended(identity, len(own)))
    summary = _summarize(store, identity, task, selector, own, paid=paid, cancelled=not finished, log=log)
    return summary._replace(shard=part, num_in_task=len(problems))


async def _attend(engine: Engine, on_event: OnEvent, cancel: asyncio.Event, called_off: asyncio.Event) -> None:
    """Say what a batched engine waits for, whenever that changes, until the user cancels: then call it off.

    That comes before thousands of questions end, as an interrupted process has little time.
    """
    last = ""
    while not cancel.is_set():
        if (text := engine.waits_for()) != last:
            last = text
            on_event(Waiting(text))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(cancel.wait(), LOOK_EVERY_S)
    try:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(engine.call_off(), CALL_OFF_S)
    finally:
        called_off.set()


class RunLog:
    """An `OnEvent` that keeps a run's notes in the store and passes every event on."""

    def __init__(self, store: Store, run: str, on_event: OnEvent) -> None:
        self._store, self._run, self._on_event = store, run, on_event
        self.failure = ""  # the last failed request's message
        self.failed: Counter[str] = Counter()  # requests that the next start makes again, by question
        self._num_answered = 0
        self._refused_after: dict[str, float] = {}  # answers that had come when a question was refused; inf: may pass

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, Retried):
            self.failure = event.failure.message if event.failure else self.failure
            self._store.note(self._run, "retried", [event.question, event.num, self.failure])
        elif isinstance(event, Arrived) and event.failure:
            self.failure = event.failure.message
            if event.failure.kind not in LASTING:
                self.failed[event.question] += 1
                before = self._refused_after.get(event.question, 0)
                self._refused_after[event.question] = (
                    math.inf if event.failure.retryable else max(before, self._num_answered)
                )
        elif isinstance(event, Arrived):
            self._num_answered += event.source == "engine"
        elif isinstance(event, Stopped) and (event.stop.reason != "finished" or event.at_most.requests):
            self._store.note(self._run, "stopped", [event.question, event.stop, *event[5:]])
        self._on_event(event)

    def forget(self, question: str) -> None:
        """Forget which requests for a question failed: all of it is asked again."""
        self.failed.pop(question, None)
        self._refused_after.pop(question, None)

    def is_refused(self, question: str) -> bool:
        """Return whether a request for the question failed that the next start makes again."""
        return question in self._refused_after

    def is_about_the_question(self, question: str, refused_before: bool) -> bool:
        """Return whether the engine answered others after it had refused this question, for a reason that stays.

        What it answers may all be in the store: then it counts that another run says so, `refused_before`.
        """
        after = self._refused_after[question]
        return after < (math.inf if refused_before else self._num_answered)


def _failed_questions(store: Store, identity: str) -> set[str]:
    """Return the questions of a run with requests that failed and are made again."""
    nums = dict(data for _, kind, data in store.events(identity) if kind == "failed")
    return {question for question, num in nums.items() if num}


def _refused_before(store: Store, identity: str) -> set[str]:
    """Return the questions that another run of the same task and engine holds without a draw, as they were refused."""
    runs = store.runs()
    own = next(run for run in runs if run.id == identity)
    refused: set[str] = set()
    for run in runs:
        if run.id != identity and (run.task, run.engine) == (own.task, own.engine):
            empty = {outcome.question for outcome in store.outcomes(run.id) if not outcome.grades}
            refused |= empty & _failed_questions(store, run.id)
    return refused


def _is_noted(store: Store, identity: str, shard: Shard) -> bool:
    """Return whether the store says already that a shard is done."""
    return any(kind == SHARD and tuple(data) == shard for _, kind, data in store.events(identity))


def _summarize(
    store: Store,
    identity: str,
    task: Task,
    selector: str,
    own: Set[str],
    *,
    paid: Usage,
    cancelled: bool,
    log: RunLog,
) -> Summary:
    chosen = {row.question: row.grade for row in store.selections(identity) if row.selector == selector}
    spent, num_draws, num_empty = Usage(), 0, 0
    for outcome in store.outcomes(identity):
        if outcome.question not in own:  # another shard's
            continue
        spent = spent.plus(outcome.spent)
        num_draws += len(outcome.grades)
        num_empty += not outcome.grades
    accuracy = tuple(chosen[p.question.id] for p in task.problems if p.question.id in own & chosen.keys())
    stopped = (data for _, kind, data in store.events(identity) if kind == "stopped")
    cut = total(Usage(*data[-1]) for data in stopped if data[0] in own)
    counts = (num_draws, num_empty, log.failed.total(), cut)
    return Summary(identity, len(own), len(accuracy), accuracy, spent, paid, cancelled, log.failure, *counts)


def check_run(task: Task, recipe: Recipe, engine: Engine, budget: Budget) -> None:
    """Raise Unsupported, SetupError or UsageError unless an engine, which must be open, can do what a run needs."""
    recipe = recipe.with_max_tokens(engine.default_max_tokens)
    check_recipe(recipe, engine, budget)
    check_questions(recipe, (problem.question for problem in task.problems))
    if isinstance(task.grade, NeedsSetup) and any(problem.reference is not None for problem in task.problems):
        task.grade.check_setup()


def _check_spread(spread: Spread, recipe: Recipe, budget: Budget, apart: str) -> None:
    """Raise UsageError where a budget cannot be spread so; `apart` names those who would have to share it."""
    if spread not in get_args(Spread):
        raise UsageError(f"spread is even or gain, got {spread!r}")
    if spread == "gain" and apart:
        raise UsageError(
            f"spread=gain shares one budget among all questions, which {apart} cannot: leave out one of them"
        )
    if spread == "gain" and (recipe.stop is None or recipe.stop.expected_gain is None):
        problem = "has no stop rule" if recipe.stop is None else f"stops by {recipe.stop.name}, which does not say it"
        raise UsageError(
            f"spread=gain needs a stop rule that says what a draw is expected to gain; {recipe.line} {problem}"
        )
    if spread == "gain" and all(cap is None for cap in budget[:5]):
        raise UsageError("spread=gain shares a budget among the questions: give one, such as --budget-tokens")


def check_limit(
    task: Task, recipe: Recipe, engine: Engine, budget: Budget, *, seed: int = 0, spread: Spread = "even"
) -> None:
    """Raise UsageError, which names the least limit that is enough, if a question could not even draw once.

    The engine must be open. Asks nothing.
    """
    if not budget.is_limited or not task.problems:
        return
    num, key = len(task.problems), run_key(seed)
    costs = [amounts_of(least_cost(problem.question, recipe, engine, key)) for problem in task.problems]
    for name, cap, *amounts in zip(LIMITS, budget.amounts, *costs, strict=True):
        least = num * max(amounts) if spread == "even" else sum(amounts)
        if cap is None or least <= cap + TOLERANCE:
            continue
        shown = f"{_rounded_up(least):g}" if name == "usd" else f"{least:.0f}"
        raise UsageError(
            f"a limit of {cap:g} {name.replace('_', ' ')} over {num} questions does not admit one draw of each, which "
            f"may cost up to {max(amounts):.2g}: give at least {shown}, a smaller max_tokens or fewer questions"
        )


def _rounded_up(usd: float) -> float:
    """Return an amount of money, rounded up to three digits."""
    scale = 10.0 ** (2 - math.floor(math.log10(usd)))
    return math.ceil(usd * scale) / scale


async def grade_result(
    task: Task, index: int, problem: Problem, result: Result, cancel: asyncio.Event | None = None
) -> Solved:
    """Return a question's result with the grades of its answers. Each distinct answer is graded once.

    Answers are graded side by side, in threads: a grader may start programs and wait for them. Cancelled, it has
    `GRACE_S` seconds left.
    """
    answers = list(dict.fromkeys((*result.answers, result.answer)))

    async def grade_all() -> list[Score]:
        return await asyncio.gather(*(in_thread(task.grade, problem, answer) for answer in answers))

    scores = await unless_cancelled(grade_all(), cancel, GRACE_S)
    if scores is None:
        return Solved(result.paid)
    grades = {answer: score.value for answer, score in zip(answers, scores, strict=True)}
    record = Record(
        problem=problem,
        number=index,
        pool=result.pool,
        answers=result.answers,
        grades=tuple(grades[answer] for answer in result.answers),
        spent=result.spent,
        stop=result.stop,
        bill=result.bill,
    )
    return Solved(result.paid, record, result.selection, grades[result.answer])
