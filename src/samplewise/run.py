"""The loop: the only place that calls an engine, and so the only place that spends.

It drives machines (a way to vary, then a sampler) until they finish, a stop rule fires, a budget is used up or somebody
cancels. Every completion is in the store before anything else sees it; an ask that the store can answer is never sent.
A stored draw counts as spent exactly as when it was paid for, so a resumed run ends as an uninterrupted one would.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from samplewise.engines.base import Engine, members_of
from samplewise.errors import SetupError, Unsupported
from samplewise.events import OnEvent, Stopped, ignore
from samplewise.keys import Key
from samplewise.purse import MAX_RETRIES, Budget, Purse
from samplewise.recipe import Recipe
from samplewise.samplers.base import Sampler, Step
from samplewise.store import Store
from samplewise.types import (
    BatchVerifier,
    Candidate,
    Completion,
    Generate,
    Pool,
    Question,
    Reader,
    Selection,
    Stop,
    Usage,
    Verifier,
)
from samplewise.vary.base import Vary
from samplewise.verify.base import Judge, Talk

__all__ = ["MAX_RETRIES", "Budget", "Result", "check", "run", "score_pool"]


class Result(NamedTuple):
    """What a recipe made of one question. `answers` (N,) are the pool's candidates as the reader reads them.

    `spent` is the cost of all that the pool was made from, stored draws included. `paid` is what this call really
    caused: fresh draws, failed attempts, and draws that arrived after the decision.
    """

    question: Question
    answer: str | None
    pool: Pool
    answers: tuple[str | None, ...]
    selection: Selection
    spent: Usage
    paid: Usage
    stop: Stop
    trace: tuple[Any, ...] = ()


async def run(
    question: Question,
    recipe: Recipe,
    engine: Engine,
    key: Key,
    *,
    read: Reader,
    budget: Budget = Budget(),
    store: Store | None = None,
    on_event: OnEvent = ignore,
    cancel: asyncio.Event | None = None,
) -> Result:
    """Run one recipe on one question. A failed ask is a value. Raises, before anything is paid, Unsupported, and what
    the engine's `open` raises."""
    await engine.open()
    check(recipe, engine, budget)
    key = key.fold("question", question.id)
    spender = Purse(question.id, engine, budget, store, on_event, cancel)
    bench = _Bench(question, recipe, read, key.fold("judge"), spender)
    stop, state, trace = await _drive(recipe.vary, recipe.vary.init(question), key.fold("vary"), spender, None)
    variants = recipe.vary.variants(state)
    state = recipe.sampler.init(variants)
    if stop.reason in ("finished", "budget"):  # a thought that does not fit leaves what direct draws can be paid for
        stop, state, more = await _drive(recipe.sampler, state, key.fold("draw"), spender, bench)
        trace += more
    pool, answers = await bench.look(recipe.sampler.pool(state), recipe.verifiers)
    selection = recipe.selector.choose(key.fold("select"), pool, answers)
    on_event(Stopped(question.id, stop, spender.spent, selection.answer))
    return Result(question, selection.answer, pool, answers, selection, spender.spent, spender.paid, stop, tuple(trace))


def check(recipe: Recipe, engine: Engine, budget: Budget = Budget()) -> None:
    """Raise Unsupported unless the engine can do what the recipe needs, SetupError where a limit in money cannot be
    kept as nobody knows the price."""
    if missing := sorted(recipe.needs - engine.can):
        raise Unsupported(f"{recipe.line} needs {', '.join(missing)}, which {engine.name} cannot do")
    if unknown := sorted(recipe.engines - members_of(engine)):
        missing_one = f'give one: --engine "crew({engine.name}, {unknown[0]}=...)"'
        raise Unsupported(f"{recipe.line} asks an engine called {unknown[0]}; {missing_one}")
    if budget.usd is not None and math.isnan(engine.worst_case(Generate(())).usd):
        raise SetupError(
            f"{engine.name} has no known price; give price=(input, cached, output), in USD per million tokens, or "
            "SAMPLEWISE_PRICES, or no limit in USD"
        )


async def _drive(
    machine: Sampler[Any] | Vary[Any], state: Any, key: Key, spender: Purse, bench: _Bench | None
) -> tuple[Stop, Any, list[Any]]:
    """Step a machine to its end. With a stop rule, it is asked after every completion of a splittable step."""
    rule = bench.rule if bench is not None and isinstance(machine, Sampler) else None
    trace: list[Any] = []

    def advance(completions: Sequence[Completion]) -> Step:
        nonlocal state
        state, step = machine.step(key, state, completions)
        if step.info is not None:
            trace.append(step.info)
        return step

    async def verdict() -> Stop | None:
        if rule is None or bench is None or not isinstance(machine, Sampler):
            return None
        pool, answers = await bench.look(machine.pool(state), rule.verifiers)
        return rule.check(pool, answers, spender.spent, bench.question) if pool.candidates else None

    step = advance(())
    while True:
        if not step.asks:
            return Stop("finished"), state, trace
        asks, following = step.asks, Step()
        while asks:
            fitting = spender.admitted(asks)
            if spender.cancelled() or fitting == 0 or (fitting < len(asks) and not step.splittable):
                return spender.why(asks), state, trace
            handed = 0
            handovers = spender.completions(
                asks[:fitting], step.splittable, singly=step.splittable and rule is not None
            )
            async with contextlib.aclosing(handovers):
                async for completions in handovers:
                    following, handed = advance(completions), handed + len(completions)
                    if why := await verdict():
                        return why, state, trace
            if handed < fitting:  # cancelled, or out of time
                return spender.why(asks[handed:]), state, trace
            asks = asks[fitting:]
            assert not (asks and following.asks), f"{machine.name} asked for more while its step was still in flight"
        step = following


class _Bench:
    """Those who look at candidates: the reader, verifiers, judges. Each candidate is read and verified once."""

    def __init__(self, question: Question, recipe: Recipe, read: Reader, key: Key, purse: Purse) -> None:
        self.rule = recipe.stop
        self.question, self._verifiers, self._read, self._key, self._purse = (
            question,
            recipe.verifiers,
            read,
            key,
            purse,
        )
        self._raw: list[Candidate] = []
        self._scored: list[Candidate] = []
        self._answers: list[str | None] = []

    async def look(self, pool: Pool, names: Sequence[str] | Mapping[str, Any]) -> tuple[Pool, tuple[str | None, ...]]:
        """The pool with its scores, and its answers. Judges are asked only if they are among `names`."""
        known = min(len(self._raw), len(pool.candidates))
        same = next((i for i in range(known) if pool.candidates[i] is not self._raw[i]), known)
        del self._raw[same:], self._scored[same:], self._answers[same:]
        new = pool.candidates[same:]
        scores = {n: self._score(v, new) for n, v in self._verifiers.items() if not isinstance(v, Judge)}
        for place, candidate in enumerate(new):
            own = {name: values[place] for name, values in scores.items()}
            self._raw.append(candidate)
            self._scored.append(candidate._replace(scores={**candidate.scores, **own}))
            self._answers.append(self._read(self.question, candidate.text))
        answers = tuple(self._answers)
        candidates = tuple(self._scored)
        for name, judge in self._verifiers.items():
            if isinstance(judge, Judge) and name in names and candidates:
                rated = await score_pool(judge, self._key.fold(name), self.question, candidates, answers, self._purse)
                candidates = tuple(
                    each._replace(scores={**each.scores, name: value})
                    for each, value in zip(candidates, rated, strict=True)
                )
        return pool._replace(candidates=candidates), answers

    def _score(self, verify: Verifier, candidates: Sequence[Candidate]) -> list[float]:
        """What computes tokens is charged for them; a candidate that the budget does not admit stays unscored."""
        if not isinstance(verify, BatchVerifier):
            return [verify(self.question, candidate).value for candidate in candidates]
        num = next(
            (i for i, c in enumerate(candidates) if not self._purse.charge(self._cost(verify, c))), len(candidates)
        )
        scored = verify.score_all([(self.question, candidate) for candidate in candidates[:num]])
        return [*scored, *[math.nan] * (len(candidates) - num)]

    def _cost(self, verify: BatchVerifier, candidate: Candidate) -> Usage:
        return Usage(prompt_tokens=verify.tokens_of(self.question, candidate))


async def score_pool(
    judge: Judge,
    key: Key,
    question: Question,
    candidates: tuple[Candidate, ...],
    answers: tuple[str | None, ...],
    purse: Purse,
) -> tuple[float, ...]:
    """A judge's scores (N,), asking until it has heard enough or the purse is empty."""
    heard: Talk = ()
    while asks := judge.inquire(key, question, candidates, answers, heard):
        completions = await purse.heard(asks)
        if completions is None:
            break
        heard = (*heard, completions)
    return judge.rate(key, question, candidates, answers, heard)
