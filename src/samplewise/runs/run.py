"""Run a recipe over a task: many questions at once, graded and stored.

A question's pool is in the store when the question is finished. A run that was cut off and is started again skips
those questions, replays the stored draws of the others and pays for what is missing. Where questions share one budget
(`spread="gain"`) all of them are replayed, as what one drew decided what the others could.

A draw that failed, for whatever reason but its prompt's length, may succeed once the endpoint is mended. The pool is
stored without it, and the next start asks for it again. A question that got no draw at all is not booked as answered,
unless the engine answered others after it had refused every draw of this one.

With `shard=(i, m)` a call draws the questions of one shard alone (see `samplewise.runs.shards`). The run, its id and
each question's part of the budget are those of the whole task.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import json
import math
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence, Set
from typing import Literal, NamedTuple, get_args

from samplewise.core.errors import SamplewiseError, StoreError, UsageError
from samplewise.core.events import Arrived, Ended, Event, OnEvent, Recorded, Retried, Started, Stopped, Waiting, ignore
from samplewise.core.spec import wire
from samplewise.core.types import Generate, Json, Problem, Usage
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


def run_id(
    task: Task,
    recipe: Recipe,
    engine: Engine,
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
    store: Store, task: Task, recipe: Recipe, engine: Engine, seed: int, budget: Budget, spread: Spread = "even"
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
    task: Task, recipe: Recipe, engine: Engine, seed: int, budget: Budget, spread: Spread = "even"
) -> dict[str, Json]:
    """Describe a run: all that it takes to tell later what a figure was made with.

    `engine.members` maps the names of a team's engines to their identities, the solver's under "".
    """
    loaded = {name: importlib.metadata.version(name) for name in PACKAGES if name in sys.modules}
    members = {name: engine.member(Generate((), engine=name)).identity for name in ("", *sorted(engine.members))}
    return {
        "recipe": recipe.line,
        "reading": reading_of(task),
        "task": {"name": task.name, "problems": len(task.problems), "source": task.source, "licence": task.licence},
        "engine": {
            "name": engine.name,
            "identity": engine.identity,
            "digest": engine.digest,
            "members": members,
        },
        "seed": seed,
        "budget": budget._asdict(),
        "spread": spread,
        "versions": {"python": platform.python_version(), **loaded},
        "machine": platform.platform(),
    }


async def run_task(
    task: Task,
    recipe: Recipe,
    engine: Engine,
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

    Raises, before anything is paid: UsageError where there is no budget to share, no rule that says what a draw is
    worth, no such shard, or a shared budget with shards; Unsupported, whatever the engine's `open` raises, and
    StoreConflict where another process draws into the store.
    """
    part = None if shard is None else Shard(*shard).checked()
    _check_spread(spread, recipe, budget, part)
    await engine.open()
    recipe = recipe.with_max_tokens(engine.default_max_tokens)
    check_recipe(recipe, engine, budget)
    if engine.is_batched and spread == "gain":
        raise UsageError("spread=gain decides where each draw goes by those before it, which a batch cannot: leave out")
    check_questions(recipe, (problem.question for problem in task.problems))
    store.claim()
    identity = await find_run_id(store, task, recipe, engine, seed, budget, spread)
    facts = manifest(task, recipe, engine, seed, budget, spread)
    store.start_run(Run(identity, recipe.line, task.name, engine.identity, seed, facts, time.time(), None))
    failed_before = _failed_questions(store, identity)
    done = store.questions(identity) - failed_before
    problems = task.problems
    own = {p.question.id for p in problems if part is None or part.holds(p.question.id)}
    on_event(Started(identity, len(own), len(own & done)))
    log = _EventLog(store, identity, on_event)
    key, selector = run_key(seed), str(recipe.stages.selector)
    paid, trial = Usage(), Trial()
    empty: list[tuple[int, Problem, Result]] = []  # questions of which every draw was refused
    shared: SharedBudget | None = None
    if spread == "gain" and len(done) < len(problems):
        shared = SharedBudget(budget, [p.question.id for p in problems], wave=engine.max_concurrency, cancel=cancel)
    waiting = iter([(i, p) for i, p in enumerate(problems) if shared is not None or p.question.id in own - done])

    async def work() -> None:
        nonlocal paid
        for index, problem in waiting:
            if shared is None and cancel is not None and cancel.is_set():
                return
            share = budget.share(len(problems), index) if shared is None else Budget(seconds=budget.seconds)
            try:
                result = await run_question(
                    problem.question,
                    recipe,
                    RunContext(engine, budget=share, store=store, on_event=log, cancel=cancel, trial=trial),
                    key,
                    read=task.read,
                    shared=shared,
                )
            finally:
                if shared is not None:
                    shared.leave()
            paid = paid.plus(result.paid)
            if result.stop.reason == "cancelled" or problem.question.id in done:
                continue  # what was cancelled is taken up by the next start
            if result.pool.candidates or not log.is_refused(problem.question.id):
                await keep(index, problem, result)
            else:
                empty.append((index, problem, result))

    async def keep(index: int, problem: Problem, result: Result) -> None:
        graded = await unless_cancelled(grade_result(task, index, problem, result), cancel, GRACE_S)
        if graded is None:
            return
        record, grade = graded
        question = problem.question.id
        if num := log.failed[question]:  # noted first: a process that is killed in between must not forget it
            store.note(identity, "failed", [question, num])
        store.save(identity, record, selector, result.selection, grade)
        if not num and question in failed_before:
            store.note(identity, "failed", [question, 0])
        on_event(Recorded(question, grade, record.spent, len(record.answers)))

    if engine.is_batched:  # a batch is of all questions
        concurrency = len(own)
    telling = asyncio.ensure_future(_tell_waits(engine, on_event)) if engine.is_batched else None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(own)) if shared is None else len(problems)):
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
        if telling is not None:
            telling.cancel()
    for index, problem, result in empty:
        if log.is_about_the_question(problem.question.id):
            await keep(index, problem, result)
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


async def _tell_waits(engine: Engine, on_event: OnEvent) -> None:
    """Say what a batched engine waits for, whenever that changes."""
    last = ""
    while True:
        if (text := engine.waits_for()) != last:
            last = text
            on_event(Waiting(text))
        await asyncio.sleep(LOOK_EVERY_S)


class _EventLog:
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

    def is_refused(self, question: str) -> bool:
        """Return whether a request for the question failed that the next start makes again."""
        return question in self._refused_after

    def is_about_the_question(self, question: str) -> bool:
        """Return whether the engine answered others after it had refused this question, for a reason that stays."""
        return self._refused_after[question] < self._num_answered


def _failed_questions(store: Store, identity: str) -> set[str]:
    """Return the questions of a run with requests that failed and are made again."""
    nums = dict(data for _, kind, data in store.events(identity) if kind == "failed")
    return {question for question, num in nums.items() if num}


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
    log: _EventLog,
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


def _check_spread(spread: Spread, recipe: Recipe, budget: Budget, shard: Shard | None) -> None:
    if spread not in get_args(Spread):
        raise UsageError(f"spread is even or gain, got {spread!r}")
    if spread == "gain" and shard is not None:
        raise UsageError(
            "spread=gain shares one budget among all questions, which shards cannot: leave out one of them"
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


async def grade_result(task: Task, index: int, problem: Problem, result: Result) -> tuple[Record, float]:
    """Return a result as a record, and the grade of its answer. Each distinct answer is graded once.

    Answers are graded side by side, in threads: a grader may start programs and wait for them.
    """
    answers = list(dict.fromkeys((*result.answers, result.answer)))
    scores = await asyncio.gather(*(in_thread(task.grade, problem, answer) for answer in answers))
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
    return record, grades[result.answer]
