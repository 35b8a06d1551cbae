"""The loop: the only place that calls an engine, and so the only place that spends.

It drives machines (a way to vary, then a sampler) until they finish, a stop rule fires, a budget is used up or somebody
cancels. Every completion is in the store before anything else sees it; an ask that the store can answer is never sent.
A stored draw counts as spent exactly as when it was paid for, so a resumed run ends as an uninterrupted one would.

With a stop rule, draws go out by need: as many as the rule needs at least before it can stop, and no more, so that by
default no token is in vain. The rule sees them in the order of their asks, never of their arrival: short answers come
first and are easier, so that whoever counts by arrival counts wrong.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from samplewise.engines.base import Engine, idle_of, members_of
from samplewise.errors import SetupError, Unsupported
from samplewise.events import OnEvent, Stopped, Weighed, ignore
from samplewise.keys import Key
from samplewise.purse import MAX_RETRIES, Budget, Flight, Left, Purse, Shared
from samplewise.recipe import Recipe
from samplewise.samplers.base import Sampler, Step
from samplewise.stop.base import StopRule, of_dependent
from samplewise.stop.votes import count_vote, no_votes
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

__all__ = ["FLOOR", "MAX_RETRIES", "Budget", "Result", "check", "run", "score_pool"]

T = TypeVar("T")
FLOOR = 3  # draws of every question before questions that share a budget compete for it


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
    pot: Shared | None = None,
) -> Result:
    """Run one recipe on one question. A failed ask is a value. Raises, before anything is paid, Unsupported, and what
    the engine's `open` raises. `pot` is a budget that it shares with other questions."""
    await engine.open()
    check(recipe, engine, budget)
    key = key.fold("question", question.id)
    spender = Purse(question.id, engine, budget, store, on_event, cancel, pot)
    bench = _Bench(question, recipe, read, key.fold("judge"), spender)
    thinking = _Machine(recipe.vary, recipe.vary.init(question), key.fold("vary"))
    stop = await _drive(thinking, spender, None)
    variants = recipe.vary.variants(thinking.state)
    drawing = _Machine(recipe.sampler, recipe.sampler.init(variants), key.fold("draw"))
    if stop.reason in ("finished", "budget"):  # a thought that does not fit leaves what direct draws can be paid for
        spender.thought = spender.spent
        stop = await _drive(drawing, spender, bench if recipe.stop else None, lambda: _ahead(recipe, engine, bench))
    pool, answers = await bench.look(drawing.pool(), recipe.verifiers)
    selection = recipe.selector.choose(key.fold("select"), pool, answers)
    draws = len(pool.candidates) + pool.num_failed
    on_event(Stopped(question.id, stop, spender.spent, selection.answer, draws, *bench.left))
    trace = (*thinking.trace, *drawing.trace)
    return Result(question, selection.answer, pool, answers, selection, spender.spent, spender.paid, stop, trace)


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


def _ahead(recipe: Recipe, engine: Engine, bench: _Bench) -> int:
    """How many draws may be on their way beyond the need. None where verdicts have to be paid for out of what is left:
    what is drawn ahead would then decide what can be judged."""
    if bench.costly and bench.purse.limited:
        return 0
    return idle_of(engine) if recipe.ahead == "idle" else recipe.ahead


class _Machine:
    """A way to vary or a sampler, with its state."""

    def __init__(self, machine: Sampler[Any] | Vary[Any], state: Any, key: Key) -> None:
        self._machine, self.state, self._key = machine, state, key
        self.trace: list[Any] = []

    def advance(self, completions: Sequence[Completion]) -> Step:
        self.state, step = self._machine.step(self._key, self.state, completions)
        if step.info is not None:
            self.trace.append(step.info)
        return step

    def pool(self) -> Pool:
        assert isinstance(self._machine, Sampler)
        return self._machine.pool(self.state)

    def refuse(self, asks: Sequence[Any], following: Step) -> None:
        assert not (asks and following.asks), f"{self._machine.name} asked for more while its step was still in flight"


class Ahead(Protocol):
    def __call__(self) -> int: ...


async def _drive(machine: _Machine, purse: Purse, bench: _Bench | None, ahead: Ahead = lambda: 0) -> Stop:
    """Step a machine to its end, or to where the stop rule of `bench` ends it."""
    step = machine.advance(())
    while step.asks:
        if bench is not None and step.splittable:
            why, step = await _one_by_one(machine, step, purse, bench, ahead)
        else:
            why, step = await _whole(machine, step, purse, bench)
        if why is not None:
            return why
    return Stop("finished")


async def _whole(machine: _Machine, step: Step, purse: Purse, bench: _Bench | None) -> tuple[Stop | None, Step]:
    """Send all that fits of a step, hand it over together. A stop rule is asked after the step."""
    asks, following = step.asks, Step()
    while asks:
        fitting = 0
        if not purse.cancelled():
            fitting = await purse.grant(purse.cost_of(asks), whole=not step.splittable)
        if purse.cancelled() or fitting == 0:
            return purse.why(asks), following
        completions = await purse.completions(asks[:fitting], step.splittable)
        if completions:
            following = machine.advance(completions)
            purse.num_draws += len(completions)
            if bench is not None and (why := await bench.verdict(machine.pool(), "steps")):
                return why, following
        if len(completions) < fitting:  # cancelled, or out of time
            return purse.why(asks[len(completions) :]), following
        asks = asks[fitting:]
        machine.refuse(asks, following)
    return None, following


async def _one_by_one(
    machine: _Machine, step: Step, purse: Purse, bench: _Bench, ahead: Ahead
) -> tuple[Stop | None, Step]:
    """Send a splittable step by need, hand it over in the order of its asks, and ask the stop rule as they come.

    A verdict that costs something is asked for only where the rule can stop. What is sent never decides what is seen:
    an ask is sent when all before it and itself fit at their worst, and where it does not fit, again when those are in.
    """
    asks, following = step.asks, Step()
    flight = Flight(purse)
    before = purse.num_draws
    try:
        while flight.handed < len(asks):
            alone = flight.sent == flight.handed
            if alone and purse.cancelled():
                return purse.why(asks[flight.handed :]), following
            if alone or not purse.shared:
                upto = max(bench.due, purse.num_draws + 1) + ahead()
                if purse.shared:  # one at a time to where it is worth most, once everybody has had a few
                    upto = max(purse.num_draws + 1, min(bench.due, FLOOR))
                unsent = asks[flight.sent : upto - before]
                worth = bench.worth() if purse.num_draws >= FLOOR else math.inf
                fitting = await purse.grant(purse.cost_of(unsent), worth) if unsent else 0
                if alone and (fitting == 0 or purse.cancelled()):
                    return purse.why(asks[flight.handed :]), following
                if fitting:
                    flight.send(unsent[:fitting])
            completion = await flight.next()
            if completion is None:  # cancelled, or out of time
                return purse.why(asks[flight.handed :]), following
            following = machine.advance([completion])
            purse.num_draws += 1
            if (purse.num_draws >= bench.due or not bench.costly) and (
                why := await bench.verdict(machine.pool(), "asks")
            ):
                return why, following
            machine.refuse(asks[flight.handed :], following)
    finally:
        bench.left = await flight.close()
    return None, following


class _Bench:
    """Those who look at candidates: the reader, verifiers, judges, the stop rule. Each candidate is read, verified and
    seen once; where a sampler or a judge changes earlier ones, the rule's fold begins again."""

    def __init__(self, question: Question, recipe: Recipe, read: Reader, key: Key, purse: Purse) -> None:
        self.question, self.purse = question, purse
        self._verifiers, self._read, self._key = recipe.verifiers, read, key
        self._raw: tuple[Candidate, ...] = ()
        self._scored: tuple[Candidate, ...] = ()
        self._answers: tuple[str | None, ...] = ()
        self._rule: StopRule[Any] | None = recipe.stop
        self._independent = recipe.sampler.exchangeable
        self._seen: tuple[tuple[Candidate, ...], tuple[str | None, ...]] = ((), ())
        self._state: Any = recipe.stop.start(question) if recipe.stop else None
        judged = recipe.stop.verifiers if recipe.stop else ()
        self.costly = any(
            isinstance(v, BatchVerifier) or (isinstance(v, Judge) and n in judged) for n, v in self._verifiers.items()
        )
        self._votes, self._best = no_votes(question), math.nan
        self.due = self._need()
        self.left = Left()

    def _need(self) -> int:
        return 1 if self._rule is None else max(1, self._rule.at_least(self._state))

    def worth(self) -> float:
        """What the rule expects of the next draw; nan where it does not say."""
        return math.nan if self._rule is None or self._rule.worth is None else self._rule.worth(self._state)

    async def verdict(self, pool: Pool, order: str) -> Stop | None:
        """The stop rule's word on a pool, after single draws in the order of their asks, or after whole steps."""
        if self._rule is None:
            return None
        pool, answers = await self.look(pool, self._rule.verifiers)
        self._fold(pool.candidates, answers)
        self.due = self.purse.num_draws + self._need()
        votes, spent = self._votes, self.purse.spent
        self.purse.on_event(
            Weighed(self.question.id, len(pool.candidates), votes.first, votes.second, self._best, spent)
        )
        stop = self._rule.verdict(self._state, self.purse.spent) if pool.candidates else None
        if stop is None:
            return None
        stop = stop if self._independent else of_dependent(stop)
        return stop._replace(evidence={**stop.evidence, "order": order})

    def _fold(self, candidates: tuple[Candidate, ...], answers: tuple[str | None, ...]) -> None:
        assert self._rule is not None
        num = len(self._seen[0])
        if candidates[:num] != self._seen[0] or answers[:num] != self._seen[1]:  # equal objects are not looked into
            self._state, num = self._rule.start(self.question), 0
            self._votes, self._best = no_votes(self.question), math.nan
        for candidate, answer in zip(candidates[num:], answers[num:], strict=True):
            self._state = self._rule.see(self._state, candidate, answer)
            self._votes = count_vote(self._votes, candidate, answer)
            score = candidate.scores.get(self._rule.verifiers[0], math.nan) if self._rule.verifiers else math.nan
            self._best = self._best if math.isnan(score) else max(score, self._best)  # nan is no more than any score
        self._seen = (candidates, answers)

    async def look(self, pool: Pool, names: Sequence[str] | Mapping[str, Any]) -> tuple[Pool, tuple[str | None, ...]]:
        """The pool with its scores, and its answers. Judges are asked only if they are among `names`."""
        known = min(len(self._raw), len(pool.candidates))
        if pool.candidates[:known] != self._raw[:known]:
            known = next(i for i in range(known) if pool.candidates[i] != self._raw[i])
        new = pool.candidates[known:]
        scores = {n: await self._score(v, new) for n, v in self._verifiers.items() if not isinstance(v, Judge)}
        scored = [
            candidate._replace(scores={**candidate.scores, **{name: values[i] for name, values in scores.items()}})
            for i, candidate in enumerate(new)
        ]
        self._raw = pool.candidates
        self._scored = (*self._scored[:known], *scored)
        self._answers = (*self._answers[:known], *(self._read(self.question, each.text) for each in new))
        candidates = self._scored
        for name, judge in self._verifiers.items():
            if isinstance(judge, Judge) and name in names and candidates:
                own = self._key.fold(name)
                rated = await score_pool(judge, own, self.question, candidates, self._answers, self.purse)
                candidates = tuple(
                    each._replace(scores={**each.scores, name: value})
                    for each, value in zip(candidates, rated, strict=True)
                )
        return pool._replace(candidates=candidates), self._answers

    async def _score(self, verify: Verifier, candidates: Sequence[Candidate]) -> list[float]:
        """What computes tokens is charged for them; a candidate that the budget does not admit stays unscored."""
        if not isinstance(verify, BatchVerifier):
            return [verify(self.question, candidate).value for candidate in candidates]
        # What waits for a server must not hold up the loop; what computes here must not start threads of its own.
        work = asyncio.to_thread if getattr(verify, "waits", False) else _here
        pairs = [(self.question, candidate) for candidate in candidates]
        costs = await work(lambda: [Usage(prompt_tokens=verify.tokens_of(*pair)) for pair in pairs])
        num = await self.purse.charge(costs)
        scored = await work(lambda: verify.score_all(pairs[:num])) if num else []
        return [*scored, *[math.nan] * (len(candidates) - num)]


async def _here(do: Callable[[], T]) -> T:
    return do()


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
