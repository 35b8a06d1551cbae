"""A recipe over a whole task: many questions at once, graded, stored, and re-decided offline.

Every question's pool is in the store when its question is finished; a run that was cut off and is started again skips
those, re-plays the stored draws of the others, and pays for what is missing. Where questions share a budget
(`spread="worth"`) it re-plays them all, as what one drew decided what the others could.
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
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samplewise.engines.base import Engine, appetite_of
from samplewise.errors import SamplewiseError, SetupError, UsageError
from samplewise.events import Arrived, Ended, OnEvent, Retried, Started, Stopped, ignore
from samplewise.keys import Key
from samplewise.numerics import Floats
from samplewise.pot import Pot
from samplewise.purse import Purse
from samplewise.recipe import Recipe, recipe, selector_of
from samplewise.run import Budget, Result, check, run, score_pool
from samplewise.select.base import Graded, Round, Selector
from samplewise.select.fit import fitted
from samplewise.store import Record, Run, Store
from samplewise.tasks.base import Task
from samplewise.types import BatchVerifier, Json, Pool, Problem, Score, Usage, Verifier
from samplewise.verify.base import Judge

CONCURRENCY = 64  # questions under way at once; their asks share one engine batch
Spread = Literal["even", "worth"]  # how a run's budget is shared among its questions
NUM_RESAMPLES = 64  # subsets per problem and k, for a selector without a formula


class Summary(NamedTuple):
    """What a run came to. `spent` counts stored draws as if paid now; `paid` is what this call really caused."""

    run: str
    num_questions: int
    num_done: int
    accuracy: tuple[float, ...]  # (num_done,) grade of the chosen answer, in the order of the task
    spent: Usage
    paid: Usage
    cancelled: bool
    failure: str  # the last failed request's message, "" where none failed


def run_id(task: Task, recipe: Recipe, engine: Engine, seed: int, budget: Budget, spread: Spread = "even") -> str:
    """12 hex digits that name a run: equal for equal work, whoever starts it."""
    questions = [(p.question, p.reference) for p in task.problems]
    shared = [] if spread == "even" else [spread, appetite_of(engine)]  # who draws next depends on how many do at once
    work = [recipe.line, questions, engine.identity, seed, budget, *shared]
    text = json.dumps(work, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()


def manifest(
    task: Task, recipe: Recipe, engine: Engine, seed: int, budget: Budget, spread: Spread = "even"
) -> dict[str, Json]:
    """What it takes to tell, later, what a figure was made with."""
    packages = ("samplewise", "numpy", "scipy", "torch", "transformers")
    versions = {}
    for package in packages:
        if package.partition(".")[0] in sys.modules:
            versions[package] = importlib.metadata.version(package)
    return {
        "recipe": recipe.line,
        "task": {"name": task.name, "problems": len(task.problems), "source": task.source, "licence": task.licence},
        "engine": {"name": engine.name, "identity": engine.identity, "digest": getattr(engine, "digest", None)},
        "seed": seed,
        "budget": budget._asdict(),
        "spread": spread,
        "versions": {"python": platform.python_version(), **versions},
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
    concurrency: int = CONCURRENCY,
    on_event: OnEvent = ignore,
    cancel: asyncio.Event | None = None,
) -> Summary:
    """Run `recipe` on every problem of `task`. The budget is for the whole run and is split evenly over its questions,
    so that neither their order nor the machine's speed decides who gets what. With `spread` "worth" it is one purse for
    all of them, and the next draw goes where the stop rule says that it is worth most for its cost (see
    `samplewise.pot`); all questions are then under way at once.

    Raises, before anything is paid, UsageError where there is no budget to spread or no rule that says what a draw is
    worth, Unsupported, what the engine's `open` raises, and StoreConflict where another process is drawing into the
    store.
    """
    _check_spread(spread, recipe, budget)
    await engine.open()
    check(recipe, engine, budget)
    store.claim()
    identity = run_id(task, recipe, engine, seed, budget, spread)
    facts = manifest(task, recipe, engine, seed, budget, spread)
    store.start_run(Run(identity, recipe.line, task.name, engine.identity, seed, facts, time.time(), None))
    done = store.questions(identity)
    problems = task.problems
    on_event(Started(identity, len(problems), sum(p.question.id in done for p in problems)))
    key = Key(seed).fold("run")
    paid, failure = Usage(), ""
    passing: set[str] = set()  # questions whose last failure may be none the next time
    pot: Pot | None = None
    if spread == "worth" and len(done) < len(problems):
        wave = appetite_of(engine)
        pot = Pot(budget, [p.question.id for p in problems], wave=wave, cancel=cancel)
    waiting = iter([(i, p) for i, p in enumerate(problems) if pot is not None or p.question.id not in done])

    def tell(event: object) -> None:
        nonlocal failure
        if isinstance(event, Retried):
            failure = event.failure.message if event.failure else failure
            store.note(identity, "retried", [event.question, event.num, failure])
        elif isinstance(event, Arrived) and event.failure:
            failure = event.failure.message
            (passing.add if event.failure.retryable else passing.discard)(event.question)
        elif isinstance(event, Stopped) and event.stop.reason != "finished":
            store.note(identity, "stopped", [event.question, event.stop, *event[5:]])
        on_event(event)  # type: ignore[arg-type]

    async def worker() -> None:
        nonlocal paid
        for number, problem in waiting:
            if pot is None and cancel is not None and cancel.is_set():
                return
            share = budget.share(len(problems), number) if pot is None else Budget(seconds=budget.seconds)
            try:
                result = await run(
                    problem.question,
                    recipe,
                    engine,
                    key,
                    read=task.read,
                    budget=share,
                    store=store,
                    on_event=tell,
                    cancel=cancel,
                    pot=pot,
                )
            finally:
                if pot is not None:
                    pot.ended()
            paid = paid.plus(result.paid)
            # a question that was cancelled, or got no answer for now, is taken up again by the next start
            unanswered = not result.pool.candidates and problem.question.id in passing
            if result.stop.reason != "cancelled" and not unanswered and problem.question.id not in done:
                record, grade = await asyncio.to_thread(graded, task, number, problem, result)
                store.save(identity, record, selector_text(recipe), result.selection, grade)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(problems)) if pot is None else len(problems)):
                group.create_task(worker())
    except BaseExceptionGroup as raised:  # one question's error is the run's, and a user need not read 64 of them
        ours = [error for error in raised.exceptions if isinstance(error, SamplewiseError)]
        raise (ours or raised.exceptions)[0] from None
    finished = store.questions(identity) >= {p.question.id for p in problems}
    if finished:
        store.end_run(identity)
        on_event(Ended(identity, len(problems)))
    chosen = {q: grade for q, selector, _, _, grade in store.selections(identity) if selector == selector_text(recipe)}
    spent = Usage()
    for outcome in store.outcomes(identity):
        spent = spent.plus(outcome.spent)
    accuracy = tuple(chosen[p.question.id] for p in problems if p.question.id in chosen)
    return Summary(identity, len(problems), len(accuracy), accuracy, spent, paid, not finished, failure)


def _check_spread(spread: Spread, recipe: Recipe, budget: Budget) -> None:
    if spread not in ("even", "worth"):
        raise UsageError(f"spread is even or worth, got {spread!r}")
    if spread == "worth" and (recipe.stop is None or recipe.stop.worth is None):
        said = "has no stop rule" if recipe.stop is None else f"stops by {recipe.stop.name}, which does not say it"
        raise UsageError(f"spread=worth needs a stop rule that says what a draw is worth; {recipe.line} {said}")
    if spread == "worth" and all(cap is None for cap in budget[:5]):
        raise UsageError("spread=worth shares a budget among the questions: give one, such as --max-tokens")


def selector_text(recipe: Recipe) -> str:
    """The last stage of the recipe's line."""
    return recipe.line.rpartition(" | ")[2]


def graded(task: Task, number: int, problem: Problem, result: Result) -> tuple[Record, float]:
    """What is kept of a result, and the grade of its answer. Each answer is graded once. In a run this has a thread of
    its own: a grader may start programs and wait for them."""
    grade = _grader(task, problem)
    record = Record(
        problem=problem,
        number=number,
        pool=result.pool,
        answers=result.answers,
        grades=tuple(grade(answer) for answer in result.answers),
        spent=result.spent,
        stop=result.stop,
    )
    return record, grade(result.answer)


class _grader:
    """A task's grader on one problem, asked once per distinct answer."""

    def __init__(self, task: Task, problem: Problem) -> None:
        self._task, self._problem = task, problem
        self._known: dict[str | None, float] = {}

    def __call__(self, answer: str | None) -> float:
        if answer not in self._known:
            verdict: Score = self._task.grade(self._problem, answer)
            self._known[answer] = verdict.value
        return self._known[answer]


# --- stored pools as arrays -------------------------------------------------------------------------------------------


class Outcomes(NamedTuple):
    """A run's pools as arrays. `tokens_per_draw` (P,) is each problem's whole cost (prompts, thinkers and judges too)
    divided by its draws."""

    run: str
    questions: tuple[str, ...]  # (P,)
    graded: Graded
    num_draws: NDArray[np.int64]  # (P,)
    tokens_per_draw: Floats  # (P,)


def load(store: Store, run: str, *, scores: Sequence[str] = ()) -> Outcomes:
    """The outcomes of a stored run, with the named verifiers' scores where the run kept them."""
    rows = list(store.outcomes(run))
    num_draws = np.array([len(row.grades) for row in rows], dtype=np.int64)
    shape = (len(rows), int(num_draws.max(initial=0)))
    answers, grades = np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan)
    kept = {name: np.full(shape, np.nan) for name in scores}
    for number, row in enumerate(rows):
        num = len(row.grades)
        grades[number, :num] = row.grades
        codes: dict[str | None, int] = {None: -1}
        answers[number, :num] = [codes.setdefault(answer, len(codes) - 1) for answer in row.answers]
        stored = store.scores(run, row.question) if scores else {}
        for name in scores:
            kept[name][number, :num] = stored.get(name, np.nan)
    cost = np.array([row.spent.tokens for row in rows], dtype=np.float64)
    per_draw = np.divide(cost, num_draws, out=np.full(len(rows), np.nan), where=num_draws > 0)
    return Outcomes(run, tuple(row.question for row in rows), Graded(answers, grades, kept), num_draws, per_draw)


def rescore(store: Store, run: str, verifiers: Mapping[str, Verifier | Judge]) -> None:
    """Score a stored run's pools with verifiers that it has not used yet. Draws nothing: where a judge is among them
    that has not judged this run, it is a SetupError that says so (see `rejudge`)."""
    for record in store.records(run):
        question = record.problem.question
        known = store.scores(run, question.id)
        for name, verify in verifiers.items():
            if name not in known:
                if isinstance(verify, Judge):
                    raise SetupError(f"{name} has to ask an engine about run {run}: give select an --engine")
                pairs = [(question, candidate) for candidate in record.pool.candidates]
                if isinstance(verify, BatchVerifier):
                    values = verify.score_all(pairs)
                else:
                    values = [verify(*pair).value for pair in pairs]
                store.save_scores(run, question.id, name, values)


async def rejudge(store: Store, run: Run, judges: Mapping[str, Judge], engine: Engine, budget: Budget) -> Usage:
    """Let judges that have not judged a stored run look at its pools. Gives what was spent, at most `budget` in all."""
    await engine.open()
    records = list(store.records(run.id))
    key, spent = Key(run.seed).fold("run"), Usage()
    for number, record in enumerate(records):
        question = record.problem.question
        purse = Purse(question.id, engine, budget.share(len(records), number), store, ignore, None)
        known = store.scores(run.id, question.id)
        for name, judge in judges.items():
            if name not in known and record.pool.candidates:
                own = key.fold("question", question.id, "judge", name)
                values = await score_pool(judge, own, question, record.pool.candidates, record.answers, purse)
                store.save_scores(run.id, question.id, name, values)
        spent = spent.plus(purse.spent)
    store.note(run.id, "judged", [sorted(judges), spent])
    return spent


def verifier_tokens(store: Store, run: Run, verifiers: Mapping[str, Verifier | Judge]) -> float:
    """Tokens a draw that looking at a stored run's draws with these verifiers costs, beside drawing them. Those of the
    run's own recipe are in what it spent."""
    own = recipe(run.recipe).verifiers
    records = list(store.records(run.id)) if verifiers else []
    num = sum(len(record.pool.candidates) for record in records)
    total = 0
    for name, verify in verifiers.items():
        if name not in own and isinstance(verify, BatchVerifier):
            total += sum(verify.tokens_of(r.problem.question, c) for r in records for c in r.pool.candidates)
    for _, kind, data in store.events(run.id):
        if kind == "judged" and set(data[0]) & verifiers.keys():
            total += Usage(*data[1]).tokens
    return total / num if num else 0.0


def redecide(store: Store, run: Run, selector: str) -> list[float]:
    """Choose again on a stored run's pools with another selector, keep the decisions, and give their grades (P,)."""
    text, chosen, verifiers = selector_of(selector)
    rescore(store, run.id, verifiers)
    key = Key(run.seed).fold("run")
    grades = []
    for record, choosing in zip(store.records(run.id), _fitted(store, run.id, chosen, key), strict=True):
        question = record.problem.question.id
        selection = choosing.choose(key.fold("question", question, "select"), record.pool, record.answers)
        grade = _grade_at(record, selection.position)
        store.save_selection(run.id, question, text, selection, grade)
        grades.append(grade)
    return grades


def _fitted(store: Store, run: str, selector: Selector, key: Key) -> tuple[Selector, ...]:
    """The selector for each question of a stored run."""
    if selector.fit is None:
        return fitted(selector, [Round(Pool(), ())] * len(store.questions(run)), key)
    return fitted(selector, [Round(r.pool, r.answers, r.grades) for r in store.records(run)], key.fold("folds"))


def accuracy_at(store: Store, outcomes: Outcomes, selector: Selector, ks: NDArray[np.int64], key: Key) -> Floats:
    """Expected grade (K, P) of what `selector` chooses among k of a problem's draws, for each k of `ks`: by its formula
    where the selector has one, else over `NUM_RESAMPLES` subsets."""
    if selector.expected is not None:
        return selector.expected(outcomes.graded, ks, key)
    value = np.full((len(ks), len(outcomes.questions)), np.nan)
    choosing = _fitted(store, outcomes.run, selector, key)
    for row, (record, selector) in enumerate(zip(store.records(outcomes.run), choosing, strict=True)):
        for column, k in enumerate(ks.tolist()):
            grades = []
            for resample in key.fold(row, k).split(NUM_RESAMPLES):
                subset = np.sort(resample.generator().choice(len(record.answers), size=k, replace=False)).tolist()
                pool = Pool(tuple(record.pool.candidates[i] for i in subset))
                answers = tuple(record.answers[i] for i in subset)
                position = selector.choose(resample.fold("select"), pool, answers).position
                grades.append(_grade_at(record, None if position is None else subset[position]))
            value[column, row] = np.mean(grades)
    return value


def _grade_at(record: Record, position: int | None) -> float:
    """The grade of a stored candidate's answer. No answer is wrong, unless nothing here could be graded."""
    if position is not None:
        return record.grades[position]
    return math.nan if record.grades and all(math.isnan(g) for g in record.grades) else 0.0
