"""Power sampling by chains: Metropolis-Hastings over complete responses, at a fixed horizon.

The target is p(x)^alpha exp(lambda L) over whole responses of at most T tokens; `kernel` has the step and its proof
obligations. All that a step can settle without the model is settled at once; all chains' requests make one step of the
loop, which the engine answers together.

The number of steps is fixed before a chain begins, with a budget in tokens by a forecast from its start: a chain that
ends when something has happened (the first acceptance, so many changes, no tokens left) has another law. What n steps
give is close to p^alpha, not from it; the law of the start wears off with the steps.

Cost: a start for each chain, and at most `tries` requests for each step, most of which end early or are never sent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from samplewise.keys import Key
from samplewise.samplers.base import Sampler, Step, Variant, deal
from samplewise.samplers.power.cuts import Cuts, Kind, fixed_masses
from samplewise.samplers.power.dice import KeyDice, Roll
from samplewise.samplers.power.kernel import Kernel, Moved, Planned, asks, decide, expected_tokens, plan
from samplewise.samplers.power.record import Record, candidate_of, gains, part_of, spliced
from samplewise.samplers.power.settings import started, whole
from samplewise.types import Capability, Completion, Generate, Json, Pool, Sampling

MAX_STEPS = 100_000  # of a forecast


class Chain(NamedTuple):
    """`record` None: not started, or its start failed. `stage` counts horizons, `done` the steps within one."""

    record: Record | None = None
    stage: int = 0
    done: int = 0
    near: int = 0  # tokens: the longest start, which the law of cuts goes by
    planned: Planned | None = None
    growing: bool = False
    over: bool = False


class ChainsState(NamedTuple):
    variants: tuple[Variant, ...]
    chains: tuple[Chain, ...]
    phase: int = -1  # 0: pilots are asked for, 1: starts, 2: under way
    length_preference: float = math.nan
    num_steps: int = 0  # of the last stage
    tokens: int = 0  # drawn so far
    num_failed: int = 0


class Plan(NamedTuple):
    """What a chain sampler does. `stages` are growing horizons with their steps; the last has the full horizon, and it
    alone carries the guarantee. `num_pilots` plain draws set lambda where `auto_length`."""

    name: str
    needs: frozenset[Capability]
    kernel: Kernel  # its cuts and horizon are each stage's own
    kind: Kind
    stages: tuple[tuple[int, int], ...]  # horizon, steps
    num_chains: int
    num_starts: int  # whole draws; more than chains: each chain begins at one of its arm's, drawn by weight
    auto_length: bool = False
    num_pilots: int = 2
    budget_tokens: int | None = None
    roll: Roll = KeyDice


def chains(plan_: Plan) -> Sampler[ChainsState]:
    """The sampler of a plan."""
    return Sampler(
        name=plan_.name,
        needs=plan_.needs,
        init=lambda variants: ChainsState(variants, (Chain(),) * plan_.num_chains),
        step=lambda key, state, completions: _Turn(plan_, key, state).take(completions),
        pool=pool,
    )


def pool(state: ChainsState) -> Pool:
    """The chains' present records."""
    found = [
        candidate_of(chain.record, deal(state.variants, index).arm)
        for index, chain in enumerate(state.chains)
        if chain.record is not None
    ]
    return Pool(tuple(found), state.num_failed)


class _Turn:
    """One call of `step`."""

    def __init__(self, plan_: Plan, key: Key, state: ChainsState) -> None:
        self.plan, self.key, self.state = plan_, key.fold(plan_.name), state
        self.moves: list[Json] = []

    def take(self, completions: Sequence[Completion]) -> tuple[ChainsState, Step]:
        state = self.state
        drawn = sum(completion.usage.completion_tokens for completion in completions)
        failed = sum(completion.finish == "error" for completion in completions)
        self.state = state = state._replace(tokens=state.tokens + drawn, num_failed=state.num_failed + failed)
        if state.phase < 0:
            shift = self.plan.kernel.length_preference
            self.state = state._replace(phase=0, length_preference=math.nan if self.plan.auto_length else shift)
            if self.plan.auto_length:
                return self.state, Step(self._pilots(), {"target": self._target()})
        if self.state.phase == 0:
            if completions:
                self.state = self.state._replace(length_preference=self._preference(completions))
            self.state = self.state._replace(phase=1)
            return self.state, Step(self._starts(), {"target": self._target()})
        if state.phase == 1:
            self._start(completions)
            completions = ()
        waiting = iter(completions)
        after = tuple(self._chain(index, chain, waiting) for index, chain in enumerate(self.state.chains))
        requests = tuple(ask for _, asked in after for ask in asked)
        self.state = self.state._replace(chains=tuple(chain for chain, _ in after))
        return self.state, Step(requests, {"moves": self.moves})

    # --------------------------------------------------------------------------------------------------- the beginning

    def _pilots(self) -> tuple[Generate, ...]:
        plain = self.plan.kernel.sampling._replace(temperature=1.0)
        key = self.key.fold("pilot")
        horizon = self.plan.kernel.horizon
        return tuple(whole(key, self._variant(i), plain, horizon, i) for i in range(self.plan.num_pilots))

    def _preference(self, completions: Sequence[Completion]) -> float:
        """lambda = (alpha - 1) times the mean surprisal of a token of the pilots: to first order no preference between
        long and short responses. 0 where no pilot came back."""
        logp = [value for completion in completions for value in completion.logp or ()]
        return (self.plan.kernel.alpha - 1.0) * -math.fsum(logp) / len(logp) if logp else 0.0

    def _starts(self) -> tuple[Generate, ...]:
        kernel, horizon = self.plan.kernel, self.plan.stages[0][0]
        powers = tuple(1.0 / tau for tau in kernel.temperatures) if len(kernel.temperatures) > 1 else ()
        sampling = kernel.drawn_at(0)
        return tuple(
            whole(self.key, self._variant(i), sampling, horizon, i, powers) for i in range(self.plan.num_starts)
        )

    def _start(self, completions: Sequence[Completion]) -> None:
        horizon = self.plan.stages[0][0]
        records = [
            started(completion, self._kernel_of(index).temperatures, horizon)
            for index, completion in enumerate(completions)
        ]
        near = max((len(record.tokens) for record in records if record is not None), default=0)
        if self.plan.num_starts > self.plan.num_chains:
            records = [self._drawn_start(index, records) for index in range(self.plan.num_chains)]
        made = tuple(Chain(record, near=near, over=record is None) for record in records)
        self.state = self.state._replace(phase=2, chains=made)
        self.state = self.state._replace(num_steps=self._num_steps())

    def _drawn_start(self, index: int, records: Sequence[Record | None]) -> Record | None:
        """One of the starts of the chain's arm, by its weight p^alpha exp(lambda L) / q."""
        every = len(self.state.variants)
        own = [record for record in records[index % every :: every] if record is not None]
        if not own:
            return None
        kernel = self._kernel_of(index)
        logs = [
            math.fsum(gains(record.logp, record.logq[0], kernel.alpha))
            + self.state.length_preference * len(record.tokens)
            for record in own
        ]
        dice = self.plan.roll(self.key.fold("start", index))
        return own[dice.choose([math.exp(each - max(logs)) for each in logs])]

    def _num_steps(self) -> int:
        """Of the last stage: as given, or what the tokens that are left will do, by the starts' own forecast."""
        given = self.plan.stages[-1][1]
        live = [(index, chain) for index, chain in enumerate(self.state.chains) if chain.record is not None]
        if self.plan.budget_tokens is None or not live:
            return given
        each = 0.0
        for index, chain in live:
            kernel = self._kernel(index, chain)
            assert chain.record is not None
            each += expected_tokens(kernel, chain.record, fixed_masses(kernel.cuts, kernel.horizon))
        left = max(0, self.plan.budget_tokens - self.state.tokens)
        return min(MAX_STEPS, int(left / each)) if each > 0 else MAX_STEPS if left else 0

    # ------------------------------------------------------------------------------------------------------- the steps

    def _chain(self, index: int, chain: Chain, waiting: Any) -> tuple[Chain, tuple[Generate, ...]]:
        """One chain, as far as it comes without asking, and what it asks for."""
        if chain.growing:
            chain = self._grown(index, chain, next(waiting))
        elif chain.planned is not None:
            answers = [next(waiting) for _ in range(chain.planned.num_asks)]
            chain = self._moved(index, chain, chain.planned, answers)
        while not chain.over and (record := chain.record) is not None:
            horizon, num_steps = self.plan.stages[chain.stage]
            last = chain.stage == len(self.plan.stages) - 1
            if chain.done < (self.state.num_steps if last else num_steps):
                kernel = self._kernel(index, chain)
                planned = plan(kernel, record, self._dice(index, chain, "plan"))
                if planned.num_asks:
                    variant, seeds = self._variant(index), self._seeds(index, chain)
                    asked = asks(kernel, record, planned, variant.messages, seeds, variant.group)
                    return chain._replace(planned=planned), asked
                chain = self._moved(index, chain, planned, ())
            elif last:
                chain = chain._replace(over=True)
            else:
                chain = chain._replace(stage=chain.stage + 1, done=0, near=len(record.tokens))
                if not record.ended and len(record.tokens) == horizon < self.plan.stages[chain.stage][0]:
                    return chain._replace(growing=True), (self._growth(index, chain, record),)
        return chain, ()

    def _moved(self, index: int, chain: Chain, planned: Planned, answers: Sequence[Completion]) -> Chain:
        assert chain.record is not None
        dice = self._dice(index, chain, "decide")
        moved = decide(self._kernel(index, chain), chain.record, planned, answers, dice)
        self.moves.append({"chain": index, "stage": chain.stage, "step": chain.done, **told(planned, moved)})
        return chain._replace(record=moved.record, planned=None, done=chain.done + 1)

    def _growth(self, index: int, chain: Chain, record: Record) -> Generate:
        """What continues a record that has reached the last stage's horizon and has not ended."""
        kernel = self._kernel(index, chain)
        draw = whole(
            self.key.fold("grow", chain.stage),
            self._variant(index),
            kernel.drawn_at(0),
            kernel.horizon - len(record.tokens),
            index,
            tuple(1.0 / tau for tau in kernel.temperatures) if len(kernel.temperatures) > 1 else (),
        )
        return draw._replace(prefix=record.tokens, want=(*draw.want, "whole"))

    def _grown(self, index: int, chain: Chain, completion: Completion) -> Chain:
        """A chain whose record could not be continued holds no complete record of the next stage: it is given up, with
        what it had."""
        assert chain.record is not None
        part = part_of(completion, self._kernel_of(index).temperatures)
        if part is None:
            return chain._replace(growing=False, over=True)
        place = len(chain.record.tokens)
        record = spliced(chain.record, place, completion, part, self.plan.stages[chain.stage][0] - place)
        return chain._replace(record=record, growing=False, near=len(record.tokens))

    # -------------------------------------------------------------------------------------------------------- its parts

    def _variant(self, index: int) -> Variant:
        return deal(self.state.variants, index)

    def _kernel_of(self, index: int) -> Kernel:
        """The plan's kernel with what the chain's arm says of the proposal."""
        kernel = self.plan.kernel
        if len(kernel.temperatures) > 1:
            return kernel
        sampling = self._variant(index).sampled(kernel.sampling)
        return kernel._replace(sampling=sampling, temperatures=(sampling.temperature,))

    def _kernel(self, index: int, chain: Chain) -> Kernel:
        return self._kernel_of(index)._replace(
            horizon=self.plan.stages[chain.stage][0],
            cuts=Cuts(self.plan.kind, chain.near),
            length_preference=self.state.length_preference,
        )

    def _dice(self, index: int, chain: Chain, what: str) -> Any:
        return self.plan.roll(self.key.fold("chain", index, chain.stage, chain.done, what))

    def _seeds(self, index: int, chain: Chain) -> tuple[int, ...]:
        key = self.key.fold("chain", index, chain.stage, chain.done, "draw")
        return tuple(each.seed() for each in key.split(self.plan.kernel.tries))

    def _target(self) -> Json:
        kernel, shift = self.plan.kernel, self.state.length_preference
        cut = kernel.sampling[1:] != Sampling()[1:]
        return {
            "alpha": kernel.alpha if math.isfinite(kernel.alpha) else None,
            "length_preference": None if math.isnan(shift) else shift,
            "temperatures": list(kernel.temperatures),
            "restricted_support": cut,
            "horizon": self.plan.stages[-1][0],
            "stages": [list(stage) for stage in self.plan.stages],
            "cuts": self.plan.kind,
            "move": kernel.move,
            "tries": kernel.tries,
            "chains": self.plan.num_chains,
        }


def told(planned: Planned, moved: Moved) -> dict[str, Json]:
    """A step for the trace, as plain data."""
    return {
        "cut": planned.cut,
        "at": moved.at,
        "outcome": moved.outcome,
        "log_ratio": moved.log_ratio,
        "tokens": moved.tokens,
        "kept": moved.saved,
        "length": len(moved.record.tokens),
        "logp": math.fsum(moved.record.logp),
        "ended": moved.record.ended,
    }
