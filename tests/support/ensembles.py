"""The exact distribution of ladders and particles on a model small enough to list: every outcome of the shipped code.

ladder_table     the joint transition matrix of a round of a tempering ladder
particle_masses  the mean, over all runs, of the weight that a particle sampler gives to each response
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from tests.support.forking import ForkedChoices, Tree
from tests.support.runs import KEY, PROMPT, joint, name_of, whole_run

from samplewise.core.numerics import Floats, log_normalise
from samplewise.core.types import Completion, Generate, Message, Pool, Sampling
from samplewise.samplers.base import Sampler, Variant


class MakeWithChoices(Protocol):
    """Makes a sampler with these random choices."""

    def __call__(self, choices: ForkedChoices) -> Sampler[Any]: ...


class JointTable(NamedTuple):
    """What one round does to the rungs' responses together."""

    states: list[tuple[tuple[int, ...], ...]]  # (S,) a response for each rung
    matrix: Floats  # (S, S)

    def target(self, model: Tree, alphas: Sequence[float]) -> Floats:
        """Return the product of the rungs' targets (S,), normalized."""
        logs = [
            math.fsum(alpha * math.fsum(model.logp(tokens)) for alpha, tokens in zip(alphas, state, strict=True))
            for state in self.states
        ]
        return np.exp(log_normalise(logs))

    def invariance(self, model: Tree, alphas: Sequence[float]) -> float:
        """Return max |pi P - pi|."""
        target = self.target(model, alphas)
        return float(np.abs(target @ self.matrix - target).max())


def ladder_table(
    make: MakeWithChoices, model: Tree, horizon: int, num_rungs: int, sampling: Sampling = Sampling()
) -> JointTable:
    """Return the table of a whole run of one ladder: row i is where it ends if it began at state i.

    The ladder must keep all rungs. `sampling` is a proposal's, for the responses that it can reach.
    """
    responses = model.responses(horizon, sampling)
    states = list(itertools.product(responses, repeat=num_rungs))
    index_of = {tuple(name_of(model, tokens) for tokens in state): i for i, state in enumerate(states)}
    matrix = np.zeros((len(states), len(states)))
    for i, state in enumerate(states):
        for names, probability in joint(whole_run(make, model, starts=state)).items():
            matrix[i, index_of[names[::-1]]] += probability  # a pool has the highest power first
    return JointTable(states, matrix)


class Prompts:
    """Models by the content of the prompt's one message, as one."""

    def __init__(self, models: Mapping[str, Tree]) -> None:
        self.models = models
        self.variants = tuple(Variant(name, (Message("user", name),)) for name in models)

    def answer(self, forks: ForkedChoices, ask: Generate) -> Completion:
        return self.models[ask.messages[0].content].answer(forks, ask)


def arm_pools(make: MakeWithChoices, prompts: Prompts) -> list[tuple[float, Pool]]:
    """Return the pools that a run over several prompts can end in, each with its probability."""
    forks = ForkedChoices()
    sampler = make(forks)
    return list(forks.outcomes(lambda: _whole_run(sampler, prompts, forks, prompts.variants)))


def particle_masses(make: MakeWithChoices, model: Tree, forks: ForkedChoices | None = None) -> dict[str, float]:
    """Return the mean over all runs of (1 / N) sum_i exp(log weight_i) [response i is x], for each text x that occurs.

    If weights are absolute and unbiased this is x's unnormalized target.
    """
    forks = forks or ForkedChoices()
    sampler = make(forks)
    masses: dict[str, float] = {}
    for probability, pool in forks.outcomes(lambda: _whole_run(sampler, model, forks)):
        for candidate in pool.candidates:
            weight = probability * math.exp(candidate.log_weight) / len(pool.candidates)
            key = f"{candidate.text}{'.' if candidate.finish == 'stop' else ''}"
            masses[key] = masses.get(key, 0.0) + weight
    return masses


def _whole_run(
    sampler: Sampler[Any], model: Tree | Prompts, forks: ForkedChoices, variants: tuple[Variant, ...] = PROMPT
) -> Pool:
    state, step = sampler.step(KEY, sampler.init(variants), ())
    while step.asks:
        completions = [model.answer(forks, ask) for ask in step.asks if isinstance(ask, Generate)]
        state, step = sampler.step(KEY, state, completions)
    return sampler.pool(state)


def target_masses(model: Tree, horizon: int, alpha: float, shift: float = 0.0) -> dict[str, float]:
    """Return the unnormalized target of each response, by its text, with a full stop if it has ended."""
    masses: dict[str, float] = {}
    for tokens in model.responses(horizon):
        key = f"{model.text(tokens)}{'.' if model.ended(tokens) else ''}"
        weight = math.exp(alpha * math.fsum(model.logp(tokens)) + shift * len(tokens))
        masses[key] = masses.get(key, 0.0) + weight
    return masses
