"""A world in which what a recipe costs can be counted from outside: a metered engine, and verifiers that cost tokens.

The meter knows nothing of ledgers, stores and bills. It counts what it hands over, the failed attempts too, and what
was asked of it and given up at the most that it can cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from samplewise.analysis.effect import EffectRuns, measure_effect
from samplewise.analysis.plan.make import PlanSettings, plan_run
from samplewise.core import registry
from samplewise.core.errors import EngineUnavailable
from samplewise.core.keys import Key
from samplewise.core.types import (
    Ask,
    Candidate,
    Capability,
    Completion,
    Generate,
    Message,
    Problem,
    Question,
    Sampling,
    Score,
    Usage,
)
from samplewise.engines.base import Arrival, Engine, failed
from samplewise.engines.team import Team
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.report.build import ReportEntry, build_report
from samplewise.report.plan_page import plan_report
from samplewise.runs.redecide import redecide
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.digests import ask_json
from samplewise.store.records import Run
from samplewise.tasks.base import Task
from samplewise.verify.base import Answers, Judge, Replies

FAILED = Usage(1, 3, 2)  # what an attempt costs that fails
IDEA, WORD = "idea(2, helper='two', max_tokens=4)", "max_tokens=3"

# Every way in which a recipe comes to cost tokens. Draws of the toy differ in length, so that no mean hides a mistake.
RECIPES = (
    f"repeat(8, {WORD}) | vote",
    f"repeat(8, {WORD}, wave=3) | best(likelihood)",
    f"repeat(6, {WORD}) | first",
    f"vary(ladder(0.3, 2.0)) | repeat(9, {WORD}) | vote",
    f"vary({IDEA}) | repeat(8, {WORD}) | vote",
    f"vary(rephrase(2, helper='two', max_tokens=4)) | repeat(7, {WORD}) | vote",
    f"vary(verbalized(3, helper='two', max_tokens=9)) | repeat(6, {WORD}) | vote",
    f"vary(concept(2, helper='two', max_tokens=4), ladder(0.5)) | repeat(6, {WORD}) | arm_vote",
    f"vary(role(2) + {IDEA}) | repeat(8, {WORD}) | vote",
    f"vary({IDEA}, share=quota(2, 3, 3)) | repeat(8, {WORD}) | log_pool",
    f"vary({IDEA}, share=iid) | repeat(8, {WORD}) | first",
    f"repeat(6, {WORD}) | best(judge('two'))",
    f"repeat(6, {WORD}) | best(knockout('two'))",
    f"repeat(6, {WORD}) | best(listwise)",
    f"repeat(6, {WORD}) | best(generated_tests)",
    f"repeat(6, {WORD}) | best(reader)",
    f"vary({IDEA}) | repeat(6, {WORD}) | weighted(reader)",
    f"vary({IDEA}) | repeat(5, {WORD}) | best(judge('two'))",
    f"vary({IDEA}) | repeat(6, {WORD}) | best(generated_tests)",
    f"repeat(8, {WORD}) | best(remote_reader)",
    f"repeat(20, {WORD}) | until(lead(2)) | vote",
    f"repeat(20, {WORD}) | until(lead(2), ahead=8) | vote",
    f"vary({IDEA}) | repeat(12, {WORD}) | until(asc(0.95), ahead=3) | vote",
    f"vary({IDEA}) | repeat(9, {WORD}) | until(optscale(0.9, reader, target=0.5)) | best(reader)",
    f"repeat(9, {WORD}) | until(passed(judge('two'), score=0.4), ahead=2) | best(judge('two'))",
    "power(4, 6, 3, max_tokens=4) | vote",
    f"vary({IDEA}) | power(4, 4, 2, max_tokens=4) | best(reader)",
    "smc(8, 4, block=2, max_tokens=4) | best(reader)",
    "sir(8, 4, max_tokens=4) | vote",
    "tempering((1.5, 3.0), 4, max_tokens=4) | vote",
    "adaptive(3, 4, max_tokens=4) | best(judge('two'))",
)


class Meter(Engine):
    """An engine that counts what it costs. `fails` of the asks fail once, at a cost, and then succeed.

    With `slow`, a reply takes a turn of the event loop, so that a stop finds draws in flight. With `retry_after_s`, it
    finds some that wait to be sent again, of which only the failed attempt is billed.
    """

    def __init__(self, *, fails: float = 0.0, slow: bool = False, retry_after_s: float = 0.0) -> None:
        self._team = Team({"": Toy(3), "two": Toy(5)})
        self.name, self.identity, self.members = "meter", self._team.identity, self._team.members
        self._fails, self._slow, self._retry_after_s = fails, slow, retry_after_s
        self._tried: set[str] = set()
        self.used = Usage()  # of all that was handed over
        self.given_up = Usage()  # the most that asks cost that were never answered

    @property
    def tokens(self) -> int:
        return self.used.tokens + self.given_up.tokens

    @property
    def can(self) -> frozenset[Capability]:
        return self._team.can

    def replace(self, ask: Ask, completion: Completion) -> Completion:
        """Return what to answer instead of the team's completion."""
        return completion

    def fails_first(self, ask: Ask) -> bool:
        """Return whether the first attempt of an ask fails."""
        return bool(Key(7).fold("fails", ask_json(ask)).generator().random() < self._fails)

    def worst_case(self, ask: Ask) -> Usage:
        return self._team.worst_case(ask)

    def member(self, ask: Ask) -> Engine:
        return self._team.member(ask)

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        waiting = dict(enumerate(asks))
        try:
            for position, ask in enumerate(asks):
                if self._slow:
                    await asyncio.sleep(0)
                (arrival,) = [arrival async for arrival in self._team.answer([ask])]
                completion, text = self.replace(ask, arrival.completion), ask_json(ask)
                if text not in self._tried and self.fails_first(ask):
                    completion = failed(EngineUnavailable("try again"), FAILED, retry_after_s=self._retry_after_s)
                self._tried.add(text)
                del waiting[position]
                self.used = self.used.plus(completion.usage)
                yield Arrival(position, completion)
        finally:
            for ask in waiting.values():
                self.given_up = self.given_up.plus(self.worst_case(ask))


class Reader:
    """A reward model that reads 7 tokens and the response, and counts what it read."""

    def __init__(self) -> None:
        self.read = 0

    def __call__(self, question: Question, candidate: Candidate) -> Score:
        return Score(self.score_all([(question, candidate)])[0])

    def score_all(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[float]:
        self.read += sum(self.tokens_of(*pair) for pair in pairs)
        return [Key(3).fold(candidate.text).generator().random() for _, candidate in pairs]

    def tokens_of(self, question: Question, candidate: Candidate) -> int:
        return 7 + len(candidate.text)


class RemoteReader(Reader):
    """The same behind a server."""

    batch_size = 2

    async def count_tokens(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[int]:
        return [self.tokens_of(*pair) for pair in pairs]

    async def score_pairs(self, pairs: Sequence[tuple[Question, Candidate]], on_retry: Any = None) -> list[Score]:
        return [Score(score) for score in self.score_all(pairs)]


READERS: dict[str, Reader] = {}  # of the run in progress


def reader() -> Reader:
    return READERS.setdefault("reader", Reader())


def remote_reader() -> Reader:
    return READERS.setdefault("remote_reader", RemoteReader())


def _ask(key: Key, text: str) -> Generate:
    return Generate(
        (Message("user", text),), sampling=Sampling(), max_tokens=4, seed=key.fold(text).seed(), engine="two"
    )


def _by_reply(replies: Replies, num: int) -> tuple[float, ...]:
    return tuple(float(len(replies[-1][0].text) * (i + 1) % 5) for i in range(num)) if replies else (0.0,) * num


def listwise() -> Judge:
    """A judge that reads all candidates at once: with fewer it would have been asked something else."""

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> Any:
        return () if replies else (_ask(key, " / ".join(candidate.text for candidate in candidates)),)

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> Any:
        return _by_reply(replies, len(candidates))

    return Judge("listwise", next_asks, rate, engines=frozenset({"two"}))


def generated_tests() -> Judge:
    """A judge with a fixed cost: tests are written once for the question, and run on each candidate for nothing."""

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> Any:
        return () if replies else tuple(_ask(key, f"test {i} of {question.messages[0].content}") for i in range(3))

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> Any:
        return _by_reply(replies, len(candidates))

    return Judge("generated_tests", next_asks, rate, engines=frozenset({"two"}))


@contextmanager
def costly_verifiers() -> Iterator[None]:
    """Make the verifiers of this file known to recipes."""
    table = registry.BUILT_IN["verifier"]
    own = {name: f"tests.support.bills:{name}" for name in ("reader", "remote_reader", "listwise", "generated_tests")}
    before = dict(table)
    table.update(own)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        table.clear()  # type: ignore[attr-defined]
        table.update(before)  # type: ignore[attr-defined]


def words(num: int = 4) -> Task:
    problems = tuple(
        Problem(Question(f"q{i}", (Message("user", f"word {i} {'x' * i}"),)), "abc"[i % 3]) for i in range(num)
    )

    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer is not None and answer.startswith(str(problem.reference))))

    return Task("words", problems, lambda question, text: text or None, grade)


class World(NamedTuple):
    """Where recipes are run: the task, and how an engine is made for each run."""

    task: Task
    engine: Callable[[], Meter] = Meter

    def run(self, line: str, store: Store) -> tuple[Run, float]:
        """Run a recipe. Return the run, and the mean tokens of a question as counted from outside."""
        READERS.clear()
        meter = self.engine()
        summary = asyncio.run(run_task(self.task, recipe(line), meter, store))
        stored = next(run for run in store.runs() if run.id == summary.run)
        read = sum(reader.read for reader in READERS.values())
        return stored, (meter.tokens + read) / len(self.task.problems)

    def cost(self, line: str) -> float:
        """Return the mean tokens of a question of running a recipe in an empty store, counted from outside."""
        with Store(":memory:") as store:
            return self.run(line, store)[1]


class Claim(NamedTuple):
    """What some table says a recipe costs, in mean tokens of a question.

    With draws ahead, how many have arrived at a stop depends on the moment, so that two runs cost different amounts.
    What is said of such a run is held against `counted`, what that very run cost as counted from outside.
    """

    where: str
    recipe: str
    tokens: float
    counted: float | None = None


def claims(world: World, line: str) -> list[Claim]:
    """Return every cost that report, plan and their pages claim about a stored run of `line`, the table's at three
    budgets."""
    parsed = recipe(line)
    selector = str(parsed.stages.selector)
    found: list[Claim] = []
    with Store(":memory:") as store:
        run, counted = world.run(line, store)
        if parsed.stop is None:
            redecide(store, run, selector)
        entry = ReportEntry("row", run, selector)
        curve = build_report(store, [entry], title="", baseline="row")
        costs = sorted({point.tokens for series in curve.series for point in series.points})
        for tokens in {costs[0], costs[len(costs) // 2], costs[-1]}:
            report = build_report(store, [entry], title="", baseline="row", tokens=tokens, views=False)
            found += [Claim("table", row.recipe, row.tokens) for row in report.methods]
            found += [Claim("parts", row.recipe, row.parts.total) for row in report.methods if row.parts is not None]
        for series in curve.series:
            for point in series.points:
                at = parsed.with_draws(point.num_draws) if parsed.splittable else parsed
                found.append(Claim(f"{series.kind} curve", at.line, point.tokens))
        if parsed.splittable:
            plan = plan_run(store, run, settings=PlanSettings(selectors=[selector], num_orders=20))
            found += [Claim(f"plan, {o.kind}", o.recipe, o.billed) for o in plan.options if not np.isnan(o.billed)]
            found += [Claim("plan, fixed", o.recipe, o.tokens) for o in plan.options if o.kind == "fixed"]
            fixed = {o.recipe for o in plan.options if o.kind == "fixed"}
            rows = plan_report(plan, run).methods
            found += [Claim("plan page", row.recipe, row.tokens) for row in rows if row.recipe in fixed]
    if parsed.ahead:
        return [claim._replace(counted=counted) if claim.recipe == parsed.line else claim for claim in found]
    return found


def effect_claims(world: World, direct: str, mix: str) -> list[Claim]:
    """Return the costs that `effect` claims of both sides at every number of draws."""
    found: list[Claim] = []
    with Store(":memory:") as store:
        runs = EffectRuns(world.run(direct, store)[0], world.run(mix, store)[0])
        for draws in range(2, 9):
            effect = measure_effect(store, runs, draws=draws)
            costs = (effect.mix_tokens, effect.direct_tokens)
            found += [Claim("effect", line, tokens) for line, tokens in zip(effect.recipes, costs, strict=True) if line]
    return found


def largest_difference(world: World, found: Sequence[Claim]) -> tuple[float, Claim | None]:
    """Run every recipe that is named, in a store of its own. Return the largest difference, and where it is."""
    costs = {line: world.cost(line) for line in dict.fromkeys(c.recipe for c in found if c.counted is None)}
    differences = [abs(c.tokens - (costs[c.recipe] if c.counted is None else c.counted)) for c in found]
    worst = max(range(len(found)), key=differences.__getitem__, default=None)
    return (0.0, None) if worst is None else (differences[worst], found[worst])
