"""The exact law of ladders and particles on a model small enough to list: every outcome of the code that is shipped.

ladder_table     the joint transition matrix of a round of a tempering ladder
particle_masses  the mean, over all runs, of the weight that a particle sampler gives to each response
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from samplewise.conformance.forking import Forks, Tree
from samplewise.conformance.kernels import KEY, PROMPT, record_of
from samplewise.numerics import Floats, log_normalise
from samplewise.samplers.base import Sampler
from samplewise.samplers.power.ladder import TemperingState
from samplewise.types import Generate, Pool, Sampling


class MakeAny(Protocol):
    """A sampler whose dice are `roll`."""

    def __call__(self, roll: Forks) -> Sampler[Any]: ...


class Joint(NamedTuple):
    """What one round does to the rungs' records together."""

    states: list[tuple[tuple[int, ...], ...]]  # (S,) a record for each rung
    matrix: Floats  # (S, S)

    def law(self, model: Tree, alphas: Sequence[float]) -> Floats:
        """The product of the rungs' targets (S,)."""
        logs = [
            math.fsum(alpha * math.fsum(model.logp(record)) for alpha, record in zip(alphas, state, strict=True))
            for state in self.states
        ]
        return np.exp(log_normalise(logs))

    def invariance(self, model: Tree, alphas: Sequence[float]) -> float:
        law = self.law(model, alphas)
        return float(np.abs(law @ self.matrix - law).max())


def ladder_table(make: MakeAny, model: Tree, horizon: int, samplings: Sequence[Sampling], rungs: int) -> Joint:
    """The table of one round. `samplings` are the proposals' laws, one for each row of a record's `logq`."""
    records = model.records(horizon, samplings[0])
    states = list(itertools.product(records, repeat=rungs))
    place = {state: i for i, state in enumerate(states)}
    matrix = np.zeros((len(states), len(states)))
    forks = Forks()
    sampler = make(forks)
    for i, state in enumerate(states):
        begun = TemperingState(
            PROMPT,
            tuple(record_of(model, record, samplings) for record in state),
            (None,) * rungs,
            tuple(range(rungs)),
            2,
            0,
        )
        for odds, (planned, step) in list(forks.outcomes(lambda begun=begun: sampler.step(KEY, begun, ()))):

            def rest(planned: TemperingState = planned, step: Any = step) -> TemperingState:
                if not step.asks:
                    return planned
                answers = [model.answer(forks, ask) for ask in step.asks if isinstance(ask, Generate)]
                after, last = sampler.step(KEY, planned, answers)
                assert not last.asks, "a ladder with one round left asked for another"
                return after  # type: ignore[no-any-return]

            for share, after in forks.outcomes(rest):
                to = tuple(record.tokens for record in after.records if record is not None)
                matrix[i, place[to]] += odds * share
    return Joint(states, matrix)


def particle_masses(make: MakeAny, model: Tree, forks: Forks | None = None) -> dict[str, float]:
    """The mean over all runs of (1 / N) sum_i exp(log weight_i) [response i is x], for each text x that comes up. Where
    weights are absolute and unbiased this is x's unnormalised target."""
    forks = forks or Forks()
    sampler = make(forks)
    masses: dict[str, float] = {}
    for odds, pool in forks.outcomes(lambda: _whole_run(sampler, model, forks)):
        for candidate in pool.candidates:
            weight = odds * math.exp(candidate.log_weight) / len(pool.candidates)
            key = f"{candidate.text}{'.' if candidate.finish == 'stop' else ''}"
            masses[key] = masses.get(key, 0.0) + weight
    return masses


def _whole_run(sampler: Sampler[Any], model: Tree, forks: Forks) -> Pool:
    state, step = sampler.step(KEY, sampler.init(PROMPT), ())
    while step.asks:
        answers = [model.answer(forks, ask) for ask in step.asks if isinstance(ask, Generate)]
        state, step = sampler.step(KEY, state, answers)
    return sampler.pool(state)


def target_masses(model: Tree, horizon: int, alpha: float, shift: float = 0.0) -> dict[str, float]:
    """The unnormalised target of each response, by its text with a full stop where it has ended."""
    masses: dict[str, float] = {}
    for record in model.records(horizon):
        key = f"{model.text(record)}{'.' if model.ended(record) else ''}"
        weight = math.exp(alpha * math.fsum(model.logp(record)) + shift * len(record))
        masses[key] = masses.get(key, 0.0) + weight
    return masses
