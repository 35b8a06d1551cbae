"""The fixtures of the law checks: a case, a watched engine, and runs of a sampler by hand and through the loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from samplewise.core.errors import BadRequest
from samplewise.core.keys import Key
from samplewise.core.spec import Spec
from samplewise.core.types import Ask, Capability, Completion, Question, Usage
from samplewise.engines.base import Arrival, Engine, failed
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.recipe import Recipe, Stages
from samplewise.samplers.base import Sampler, Step, Variant
from samplewise.select.votes import first
from samplewise.store.database import Store
from samplewise.store.digests import ask_json
from samplewise.vary.base import Arm, PlainArm, vary

MAX_STEPS = 2_000  # a sampler with small settings that has not finished by then is taken to be endless


class MakeSampler(Protocol):
    """Make a new sampler. Use small settings: half a dozen draws of at most four tokens."""

    def __call__(self) -> Sampler[Any]: ...


class LogTarget(Protocol):
    """Return the log of a weighted sampler's unnormalized target (nats) for a response and its log-probability."""

    def __call__(self, tokens: tuple[int, ...], logp: float) -> float: ...


class Case(NamedTuple):
    """A sampler under test and what it is tested on. Laws 8 and 11 use the direct arm alone."""

    make: MakeSampler
    question: Question
    engine: Toy
    arms: tuple[Arm | PlainArm, ...]
    key: Key
    log_target: LogTarget | None


class WatchedEngine(Engine):
    """An engine that keeps count of what it is asked and what that costs, and fails a share of the asks on request.

    Whether an ask fails follows from `key` and the ask alone. It charges `usd_per_token`, to see budgets in money kept.
    """

    def __init__(
        self, engine: Engine, *, fails: float = 0.0, key: Key | None = None, usd_per_token: float = 0.0
    ) -> None:
        self.name, self.identity = f"watched {engine.name}", engine.identity
        self.asked: list[Ask] = []
        self.used = Usage()
        self._engine, self._fails, self._price = engine, fails, usd_per_token
        self._key = key or Key(0)

    @property
    def can(self) -> frozenset[Capability]:
        return self._engine.can

    def worst_case(self, ask: Ask) -> Usage:
        return self._priced(self._engine.worst_case(ask))

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        async for position, completion in self._engine.answer(asks):
            ask = asks[position]
            self.asked.append(ask)
            if self._key.fold("fails", ask_json(ask)).generator().random() < self._fails:
                completion = failed(BadRequest("failed on request"))
            completion = completion._replace(usage=self._priced(completion.usage))
            self.used = self.used.plus(completion.usage)
            yield Arrival(position, completion)

    def _priced(self, usage: Usage) -> Usage:
        return usage._replace(usd=usage.tokens * self._price)


class PlayedStep(NamedTuple):
    """A call of `step`: its inputs and its outputs."""

    before: Any
    completions: tuple[Completion, ...]
    after: Any
    step: Step


def play(case: Case, sampler: Sampler[Any], *, singly: bool = False) -> list[PlayedStep]:
    """Run a sampler to its end, step by step, without the loop. `singly` hands over one completion at a time."""
    state = sampler.init(variants_of(case))
    steps: list[PlayedStep] = []
    waiting: list[tuple[Completion, ...]] = [()]
    while waiting:
        completions = waiting.pop(0)
        after, step = sampler.step(case.key, state, completions)
        steps.append(PlayedStep(state, completions, after, step))
        state = after
        if waiting and step.asks:
            broken(12, "splitting", f"{sampler.name} asked for more while completions of its step were still to come")
        if len(steps) > MAX_STEPS:
            broken(4, "anytime", f"{sampler.name} has not finished after {MAX_STEPS} steps")
        answers = tuple(case.engine.one(ask) for ask in step.asks)
        if answers:
            waiting = [(answer,) for answer in answers] if singly and step.splittable else [answers]
    return steps


def variants_of(case: Case) -> tuple[Variant, ...]:
    """Return the question's variants under the case's arms."""
    mix = vary(*case.arms)
    return mix.variants(mix.init(case.question))


def run_case(
    case: Case,
    engine: Engine,
    *,
    budget: Budget = Budget(),
    store: Store | None = None,
    arms: tuple[Arm | PlainArm, ...] | None = None,
    key: Key | None = None,
) -> Result:
    """Run the case through the loop, on this engine."""
    sampler = case.make()
    stages = Stages(vary=None, sampler=Spec(sampler.name), stop=None, selector=Spec("first"))
    recipe = Recipe(stages, vary(*(case.arms if arms is None else arms)), sampler, None, first(), {})
    context = RunContext(engine, budget=budget, store=store)
    running = run_question(case.question, recipe, context, key or case.key, read=lambda _, text: text or None)
    return asyncio.run(running)


def text_of(value: Any) -> str:
    """Return equal text for equal values, nan included."""
    return json.dumps(value, sort_keys=True)


def broken(number: int, name: str, message: str) -> NoReturn:
    """Raise AssertionError with the law that is broken and the evidence."""
    raise AssertionError(f"law {number} ({name}): {message}")
