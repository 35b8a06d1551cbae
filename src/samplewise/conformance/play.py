"""What the laws are checked on: a case, a watched engine, and runs of a sampler by hand and through the loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol

from samplewise.engines.base import Arrival, Engine, failed
from samplewise.engines.toy import Toy
from samplewise.errors import BadRequest
from samplewise.keys import Key
from samplewise.recipe import Recipe
from samplewise.run import Budget, Result, run
from samplewise.samplers.base import Sampler, Step, Variant
from samplewise.select.votes import first
from samplewise.store import Store, ask_json
from samplewise.types import Ask, Completion, Question, Usage
from samplewise.vary.base import Arm, PlainArm, vary

MAX_STEPS = 2_000  # a sampler of small settings that has not finished by then never will


class Make(Protocol):
    """Makes the sampler afresh. Small settings: half a dozen draws of at most four tokens."""

    def __call__(self) -> Sampler[Any]: ...


class LogTarget(Protocol):
    """Log of the unnormalised law (nats) that a weighted sampler aims at, given a response and its log-probability."""

    def __call__(self, tokens: tuple[int, ...], logp: float) -> float: ...


class Case(NamedTuple):
    """A sampler under test and what it is tested on. `vary` has several arms; laws 8 and 11 use the direct one."""

    make: Make
    question: Question
    engine: Toy
    arms: tuple[Arm | PlainArm, ...]
    key: Key
    log_target: LogTarget | None


class Watched:
    """An engine that keeps count of what it is asked and what that costs, and fails a share of the asks on request.

    Whether an ask fails follows from `key` and the ask alone. It charges `usd_per_token`, to see budgets in money kept.
    """

    def __init__(
        self, engine: Engine, *, fails: float = 0.0, key: Key | None = None, usd_per_token: float = 0.0
    ) -> None:
        self.name, self.identity, self.can = f"watched {engine.name}", engine.identity, engine.can
        self.asked: list[Ask] = []
        self.used = Usage()
        self._engine, self._fails, self._price = engine, fails, usd_per_token
        self._key = key or Key(0)

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

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def _priced(self, usage: Usage) -> Usage:
        return usage._replace(usd=usage.tokens * self._price)


class Moment(NamedTuple):
    """A call of `step`: what it was given and what it gave."""

    before: Any
    completions: tuple[Completion, ...]
    after: Any
    step: Step


def play(case: Case, sampler: Sampler[Any], *, singly: bool = False) -> list[Moment]:
    """A whole run, step by step, without the loop."""
    state = sampler.init(variants_of(case))
    moments: list[Moment] = []
    waiting: list[tuple[Completion, ...]] = [()]
    while waiting:
        completions = waiting.pop(0)
        after, step = sampler.step(case.key, state, completions)
        moments.append(Moment(state, completions, after, step))
        state = after
        if waiting and step.asks:
            broken(12, "splitting", f"{sampler.name} asked for more while completions of its step were still to come")
        if len(moments) > MAX_STEPS:
            broken(4, "anytime", f"{sampler.name} has not finished after {MAX_STEPS} steps")
        got = tuple(case.engine.one(ask) for ask in step.asks)
        if got:
            waiting = [(c,) for c in got] if singly and step.splittable else [got]
    return moments


def variants_of(case: Case) -> tuple[Variant, ...]:
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
    sampler = case.make()
    recipe = Recipe(sampler.name, vary(*(case.arms if arms is None else arms)), sampler, None, first(), {})
    going = run(
        case.question, recipe, engine, key or case.key, read=lambda _, text: text or None, budget=budget, store=store
    )
    return asyncio.run(going)


def text_of(value: Any) -> str:
    """Equal text for equal values, nan included."""
    return json.dumps(value, sort_keys=True)


def broken(number: int, law: str, message: str) -> NoReturn:
    """A law is broken: say which, and what was seen."""
    raise AssertionError(f"law {number} ({law}): {message}")
