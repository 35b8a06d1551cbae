"""Drives one question: varies the prompt, steps the sampler until it finishes, a stop rule fires or a budget ends.

With a stop rule, draws are sent by need: as many as the rule needs at least before it can stop, and no more, so that by
default no token is wasted. The rule sees draws in the order of their asks, never of their arrival: short answers arrive
first and are easier, so counting by arrival would be biased.

A stored draw counts as spent exactly as when it was paid for, so a resumed run ends as an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from samplewise.core.bill import CostSplit
from samplewise.core.errors import SetupError, Unsupported, UsageError
from samplewise.core.events import BrokenOff, StopChecked, Stopped
from samplewise.core.keys import Key
from samplewise.core.types import (
    Ask,
    Capability,
    Completion,
    Generate,
    NeedsSetup,
    Question,
    Reader,
    Stop,
    Usage,
)
from samplewise.engines.base import Engine
from samplewise.loop.context import RunContext
from samplewise.loop.dispatch import Dispatcher, Flight, Leftover
from samplewise.loop.keys import question_keys
from samplewise.loop.ledger import Budget, Ledger, total
from samplewise.loop.result import Result
from samplewise.loop.rounds import check_batch
from samplewise.loop.scoring import Scorer
from samplewise.loop.sharing import SharedBudget
from samplewise.loop.stopping import StopFold
from samplewise.recipe import Recipe
from samplewise.samplers.base import Sampler, Step
from samplewise.vary.base import Vary
from samplewise.verify.base import Judge
from samplewise.verify.confidence import ConfidenceVerifier

MIN_DRAWS = 3  # of every question, before questions that share a budget compete for it


async def run_question(
    question: Question,
    recipe: Recipe,
    context: RunContext,
    key: Key,
    *,
    read: Reader,
    reads_at_once: bool = False,
    shared: SharedBudget | None = None,
) -> Result:
    """Run a recipe on one question. A failed ask is a value, not an exception.

    A reader that `reads_at_once` takes no time, and is called in the event loop; others have a thread. With `shared`,
    the budget of several questions, the context's own limits apply as well. Raises, before anything is
    paid, Unsupported, SetupError, and what the engine's `open` raises.
    """
    await context.engine.open()
    check_recipe(recipe, context.engine, context.budget)
    return await _Drive(question, recipe, context, key, read, shared, reads_at_once).run()


def check_recipe(recipe: Recipe, engine: Engine, budget: Budget = Budget()) -> None:
    """Raise Unsupported unless the engine can do what the recipe needs, SetupError for a limit in money without a
    known price."""
    if missing := sorted(recipe.needs - engine.can):
        why = next((f": {why}" for capability in missing if (why := engine.why_missing(capability))), "")
        raise Unsupported(f"{recipe.line} needs {', '.join(missing)}, which {engine.name} cannot do{why}")
    _check_log_probs(recipe, engine)
    if unknown := sorted(recipe.engines - engine.members):
        name = unknown[0] if unknown[0].isidentifier() else "NAME"  # a spec where a name belongs
        hint = f'give one, and name it in the recipe: --engine "team({engine.name}, {name}=...)"'
        raise Unsupported(f"{recipe.line} asks an engine called {unknown[0]}; {hint}")
    for name, verifier in recipe.verifiers.items():
        if isinstance(verifier, Judge):
            check_judge(name, verifier, engine)
        if isinstance(verifier, NeedsSetup):
            verifier.check_setup()
    if engine.is_batched:
        check_batch(recipe, engine, budget)
    for name in ("", *sorted(recipe.engines)) if budget.usd is not None else ():
        if math.isnan(engine.worst_case(Generate((), engine=name)).usd):  # the limit would admit none of its requests
            raise SetupError(
                f"{engine.member(Generate((), engine=name)).name} has no known price; give price=(input, cached, "
                "output), in USD per million tokens, or SAMPLEWISE_PRICES, or no limit in USD"
            )


def check_judge(name: str, judge: Judge, engine: Engine) -> None:
    """Raise Unsupported unless those whom the judge asks can do what it needs."""
    for member_name in sorted(judge.engines) or [""]:
        member = engine.member(Generate((), engine=member_name)) if member_name in ("", *engine.members) else engine
        if missing := sorted(judge.needs - member.can):
            raise Unsupported(f"{name} needs {', '.join(missing)}, which {member.name} cannot do")


def check_questions(recipe: Recipe, questions: Iterable[Question]) -> None:
    """Raise UsageError where a judge of the recipe cannot score answers to any of the questions."""
    asked = tuple(questions)
    for name, verifier in recipe.verifiers.items():
        if isinstance(verifier, Judge):
            check_scorable(name, verifier, asked)


def check_scorable(name: str, judge: Judge, questions: Iterable[Question]) -> None:
    """Raise UsageError where the judge cannot score answers to any of the questions."""
    why = ""
    for question in questions if judge.unfit is not None else ():
        unfit = judge.unfit(question) if judge.unfit is not None else ""
        if not unfit:
            return
        why = why or f"{name} cannot score answers to {question.id}: {unfit}; choose by vote or best(...) instead"
    if why:
        raise UsageError(why)


def _check_log_probs(recipe: Recipe, engine: Engine) -> None:
    """Raise Unsupported where the recipe's draws would come without the log-probs that it draws or chooses by."""
    judged_by = [verifier for verifier in recipe.verifiers.values() if isinstance(verifier, ConfidenceVerifier)]
    for verifier in judged_by:
        if verifier.option and verifier.needs not in recipe.sampler.needs:
            raise Unsupported(
                f"{recipe.line}: {verifier.name} needs draws that carry it: repeat(..., {verifier.option})"
            )
    of_log_probs = {Capability.LOGP, Capability.LOGQ, Capability.TOP}
    if of_log_probs.isdisjoint({*recipe.sampler.needs, *(verifier.needs for verifier in judged_by)}):
        return
    for sampling in sorted(recipe.samplings):
        if why := engine.why_no_logp(sampling):
            raise Unsupported(f"{recipe.line} needs log-probs of its draws, but {engine.name} {why}")


def least_cost(question: Question, recipe: Recipe, engine: Engine, key: Key) -> Usage:
    """Return the worst case of the first that a question draws: what a limit must admit, or it gets no draw at all."""
    keys = question_keys(key, question.id)
    vary = recipe.vary.init(question)
    sampler = _Process(recipe.sampler, recipe.sampler.init(recipe.vary.variants(vary)), keys.draw)
    step = sampler.advance(())
    return total(engine.worst_case(ask) for ask in (step.asks[:1] if step.splittable else step.asks))


class _Process:
    """A way to vary or a sampler, stepped with its key; keeps the state, the trace, and what its asks cost."""

    def __init__(self, process: Sampler[Any] | Vary[Any], state: Any, key: Key) -> None:
        self.state, self.trace = state, list[Any]()
        self.costs, self.failed = list[Usage](), list[int]()  # of its asks, in their order; which of them failed
        self._process, self._key = process, key

    def advance(self, completions: Sequence[Completion]) -> Step:
        self.state, step = self._process.step(self._key, self.state, completions)
        if step.info is not None:
            self.trace.append(step.info)
        return step

    def bill(self, asks: Sequence[Ask], completions: Sequence[Completion], dispatcher: Dispatcher) -> None:
        """Note what these asks cost, with the attempts that failed before they were answered."""
        for ask, completion in zip(asks, completions, strict=True):
            if completion.finish == "error":
                self.failed.append(len(self.costs))
            self.costs.append(completion.usage.plus(dispatcher.attempts_of(ask)))

    def check_finished(self, unsent: Sequence[Ask], following: Step) -> None:
        """Assert that nothing new is asked while asks of the step are still in flight."""
        assert not (unsent and following.asks), f"{self._process.name} asked for more while its step was in flight"


class _Drive:
    """The run of one question. Owns the count of draws."""

    def __init__(
        self,
        question: Question,
        recipe: Recipe,
        context: RunContext,
        key: Key,
        read: Reader,
        shared: SharedBudget | None,
        reads_at_once: bool,
    ) -> None:
        self.ledger = Ledger(context.budget)
        self.num_draws = 0  # completions that the processes took, failed ones too
        self.helper_cost = Usage()
        self._question, self._recipe, self._context = question, recipe, context
        self._keys = question_keys(key, question.id)
        self._dispatcher = Dispatcher(context, question.id, self.ledger, shared)
        self._scorer = Scorer(
            question, recipe.verifiers, read, self._keys, self._dispatcher, reads_at_once=reads_at_once
        )
        self._fold = StopFold(recipe.stop, question, independent=recipe.sampler.independent) if recipe.stop else None
        self._due = 1 if self._fold is None else self._fold.num_needed  # draws after which the rule may stop
        self._is_costly = self._scorer.is_costly(recipe.stop.verifiers if recipe.stop else ())
        self._leftover = Leftover()
        if shared is not None:
            shared.join(question.id, self)

    async def run(self) -> Result:
        """Return the result. Says what was paid where it raises, as there is no result that would."""
        try:
            return await self._result()
        except BaseException:
            self._context.on_event(BrokenOff(self._question.id, self.ledger.paid))
            raise

    async def _result(self) -> Result:
        recipe, question = self._recipe, self._question
        vary = _Process(recipe.vary, recipe.vary.init(question), self._keys.vary)
        to_helpers = vary.advance(())
        if to_helpers.asks:  # arms that do not go together, or not with the sampler, must not cost what helpers do
            recipe.sampler.init(recipe.vary.variants(vary.state))
        stop = await self._drive(vary, to_helpers)
        sampler = _Process(recipe.sampler, recipe.sampler.init(recipe.vary.variants(vary.state)), self._keys.draw)
        if stop.reason in ("finished", "budget"):  # what helpers could not spend is left for direct draws
            self.helper_cost = self.ledger.spent
            stop = await self._drive(sampler, sampler.advance(()), self._fold)
        pool, answers = await self._scorer.look(recipe.sampler.pool(sampler.state), tuple(recipe.verifiers))
        selection = recipe.selector.choose(self._keys.select, pool, answers)
        if self._dispatcher.is_cancelled:  # perhaps while the pool was scored: it is not what it would have been
            stop = Stop("cancelled")
        num_draws = len(pool.candidates) + pool.num_failed
        spent, paid = self.ledger.spent, self.ledger.paid
        left = (*self._leftover, self.ledger.lost)
        self._context.on_event(Stopped(question.id, stop, spent, selection.answer, num_draws, *left))
        trace, bill = (*vary.trace, *sampler.trace), self._bill(vary, sampler)
        return Result(question, selection.answer, pool, answers, selection, spent, paid, stop, trace, bill)

    def _bill(self, vary: _Process, sampler: _Process) -> CostSplit:
        """Return the cost in parts. What no part accounts for was dropped, or cancelled and is billed at its most."""
        bill = CostSplit(
            helpers=total(vary.costs),
            draws=tuple(sampler.costs),
            failed=tuple(sampler.failed),
            verifiers={name: tuple(costs) for name, costs in self._scorer.costs.items()},
            judges=dict(self._scorer.judge_costs),
            attempts=self._dispatcher.judge_attempts,
        )
        gone = self.ledger.spent.plus(self.ledger.dropped)
        return bill._replace(dropped=gone.minus(bill.total))

    async def _drive(self, process: _Process, step: Step, fold: StopFold | None = None) -> Stop:
        """Step a process from its first step to its end, or to where the stop rule or the budget ends it."""
        while step.asks:
            if fold is not None and step.splittable:
                stop, step = await self._by_need(process, step, fold)
            else:
                stop, step = await self._at_once(process, step, fold)
            if stop is not None:
                return stop
        return Stop("finished")

    async def _at_once(self, process: _Process, step: Step, fold: StopFold | None) -> tuple[Stop | None, Step]:
        """Send all of a step that fits, and hand its completions over together. The rule is asked after that."""
        asks, following = step.asks, Step()
        while asks:
            num = 0
            if not self._dispatcher.is_over:
                num = len(asks)
                if self._dispatcher.is_limited:
                    num = await self._dispatcher.grant(self._dispatcher.worst_cases(asks), whole=not step.splittable)
            if self._dispatcher.is_over or num == 0:
                return self._out_of_budget(asks), following
            completions = await self._dispatcher.completions(asks[:num], step.splittable)
            if completions:
                process.bill(asks[: len(completions)], completions, self._dispatcher)
                following = process.advance(completions)
                self.num_draws += len(completions)
                is_part = bool(following.asks) and self._recipe.sampler.partial
                if fold is not None and not is_part and (stop := await self._check_stop(process, fold, "steps")):
                    return stop, following
            if len(completions) < num:  # cancelled, or out of time
                return self._out_of_budget(asks[len(completions) :]), following
            asks = asks[num:]
            process.check_finished(asks, following)
        return None, following

    async def _by_need(self, process: _Process, step: Step, fold: StopFold) -> tuple[Stop | None, Step]:
        """Send a splittable step by need, hand it over in the order of its asks, and ask the rule as they come.

        A verdict that costs tokens is asked for only where the rule can stop. What is sent never decides what is seen:
        an ask is sent once all before it and itself fit at their worst case, and if it does not fit, it is tried again
        when those have arrived.
        """
        asks, following = step.asks, Step()
        flight = Flight(self._dispatcher)
        num_before = self.num_draws
        try:
            while flight.num_taken < len(asks):
                if not await self._send_more(flight, asks, num_before, fold):
                    return self._out_of_budget(asks[flight.num_taken :]), following
                completion = await flight.next()
                if completion is None:  # cancelled, or out of time
                    return self._out_of_budget(asks[flight.num_taken :]), following
                process.bill([asks[flight.num_taken - 1]], [completion], self._dispatcher)
                following = process.advance([completion])
                self.num_draws += 1
                if (self.num_draws >= self._due or not self._is_costly) and (
                    stop := await self._check_stop(process, fold, "asks")
                ):
                    return stop, following
                process.check_finished(asks[flight.num_taken :], following)
        finally:
            self._leftover = await flight.close()
        return None, following

    async def _send_more(self, flight: Flight, asks: Sequence[Ask], num_before: int, fold: StopFold) -> bool:
        """Send the asks that are needed now. Return False if nothing is in flight and nothing can be sent."""
        is_empty = flight.num_sent == flight.num_taken
        if is_empty and self._dispatcher.is_over:
            return False
        if not is_empty and self._dispatcher.is_shared:
            return True
        unsent = asks[flight.num_sent : self._num_wanted() - num_before]
        gain = fold.expected_gain if self.num_draws >= MIN_DRAWS else math.inf
        num = await self._dispatcher.grant(self._dispatcher.worst_cases(unsent), gain) if unsent else 0
        if is_empty and (num == 0 or self._dispatcher.is_over):
            return False
        if num:
            flight.send(unsent[:num])
        return True

    def _num_wanted(self) -> int:
        """Return how many draws should have been sent by now.

        In a shared budget: one at a time, to where the gain is largest, once every question has had a few.
        """
        if self._dispatcher.is_shared:
            return max(self.num_draws + 1, min(self._due, MIN_DRAWS))
        return max(self._due, self.num_draws + 1) + self._num_ahead()

    def _num_ahead(self) -> int:
        """Return how many draws may be in flight beyond the need.

        None if verdicts are paid for out of the same budget: draws ahead would then decide what can be judged.
        """
        if self._is_costly and self._dispatcher.is_limited:
            return 0
        ahead = self._recipe.ahead
        return max(0, self._context.engine.free_slots()) if ahead == "idle" else ahead

    async def _check_stop(self, process: _Process, fold: StopFold, order: str) -> Stop | None:
        """Return the stop rule's verdict on the pool so far."""
        pool, answers = await self._scorer.look(self._recipe.sampler.pool(process.state), fold.rule.verifiers)
        fold.see(pool.candidates, answers)
        self._due = self.num_draws + fold.num_needed
        spent = self.ledger.spent
        self._context.on_event(StopChecked(self._question.id, len(pool.candidates), *fold.standing, spent))
        return fold.verdict(spent, order)

    def _out_of_budget(self, unsent: Sequence[Ask]) -> Stop:
        """Return why the run ends with asks unsent."""
        if self._dispatcher.is_cancelled:
            return Stop("cancelled")
        spent = self.ledger.spent
        evidence = {"requests": spent.requests, "tokens": spent.tokens, "usd": spent.usd}
        return Stop("budget", {**evidence, "unsent": len(unsent)})
