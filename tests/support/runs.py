"""The exact distribution of a whole run of a sampler on a model small enough to list: starts, every step, the pool.

    whole_run(sampler, model, forks)                          [(probability, pool)] over every choice and completion
    whole_run(sampler, model, forks, starts=[(0, 1, 2)])      the same, given what the first whole responses are

The shipped `init`, `step` and `pool` are driven through every outcome (see forking.py). States that are equal are one,
so a run of many steps costs no more than its states times the ways of one step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tests.support.forking import ForkedChoices, LogUniform, Tree

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Completion, Generate, Pool, Usage
from samplewise.samplers.base import Sampler, Step, Variant
from samplewise.samplers.power.chains import ChainSettings, chain_sampler

PROMPT = (Variant("direct", ()),)
KEY = Key(0)  # unused: the choices are forked
Response = tuple[int, ...]
MakeSampler = Callable[[ForkedChoices], Sampler[Any]]


class Branch(NamedTuple):
    """A state that a run can be in, what it asks for then, and with which probability it gets there."""

    probability: float
    state: Any
    step: Step


def whole_run(
    make: MakeSampler,
    model: Tree,
    *,
    variants: tuple[Variant, ...] = PROMPT,
    starts: Sequence[Response] | None = None,
) -> list[tuple[float, Pool]]:
    """Return the pools that a run can end in, each with its probability; a pool can come several times.

    `starts` answer the sampler's first asks, in place of what the model would draw: the run given where its chains
    begin.
    """
    forks = ForkedChoices()
    sampler = make(forks)
    pools: list[tuple[float, Pool]] = []
    first = [Branch(p, *out) for p, out in forks.outcomes(lambda: sampler.step(KEY, sampler.init(variants), ()))]
    branches = _merged(first)
    while branches:
        after: list[Branch] = []
        for branch in branches:
            if not branch.step.asks:
                pools.append((branch.probability, sampler.pool(branch.state)))
                continue
            after += _next(sampler, model, forks, branch, starts)
        branches, starts = _merged(after), None
    return pools


def _next(
    sampler: Sampler[Any], model: Tree, forks: ForkedChoices, branch: Branch, forced: Sequence[Response] | None
) -> Iterator[Branch]:
    asks = [ask for ask in branch.step.asks if isinstance(ask, Generate)]

    def play() -> tuple[Any, Step]:
        if forced is None:
            completions = [model.answer(forks, ask) for ask in asks]
        else:
            completions = [given(model, ask, tokens) for ask, tokens in zip(asks, forced, strict=True)]
        stepped: tuple[Any, Step] = sampler.step(KEY, branch.state, completions)
        return stepped

    for share, (state, step) in forks.outcomes(play):
        yield Branch(branch.probability * share, state, step)


def given(model: Tree, ask: Generate, tokens: Response) -> Completion:
    """Return the completion of an ask for a whole response, given its tokens."""
    logp, logq = model.logp(tokens), model.logq(tokens, ask.sampling)
    logz = tuple(tuple(model.log_power(tokens[:i], e) for e in ask.exponents) for i in range(len(tokens)))
    return Completion(
        text=model.text(tokens),
        finish="stop" if model.ended(tokens) else "length",
        usage=Usage(1, 0, len(tokens)),
        tokens=tokens,
        logp=tuple(logp),
        logq=tuple(logq),
        logp_sum=math.fsum(logp),
        logz=logz if ask.exponents else None,
    )


def _merged(branches: Sequence[Branch]) -> list[Branch]:
    """Add up the probabilities of equal states. What a state asks for follows from it."""
    merged: dict[Hashable, Branch] = {}
    for branch in branches:
        key = _plain(branch.state)
        before = merged[key].probability if key in merged else 0.0
        merged[key] = merged.get(key, branch)._replace(probability=before + branch.probability)
    return list(merged.values())


def _plain(value: Any) -> Hashable:
    """Return a state as something hashable. Two uniform numbers that were not compared yet are the same."""
    if isinstance(value, LogUniform):
        return ("u", value._shift)
    if isinstance(value, tuple):
        return tuple(_plain(item) for item in value)
    if isinstance(value, float) and math.isnan(value):
        return "nan"
    return value if isinstance(value, Hashable) else repr(value)


def name_of(model: Tree, tokens: Response) -> str:
    """Return a response's text, with a full stop if it has ended."""
    return f"{model.text(tokens)}{'.' if model.ended(tokens) else ''}"


def joint(pools: Sequence[tuple[float, Pool]]) -> dict[tuple[str, ...], float]:
    """Return the probability of every list of responses that a pool can have, named as by `name_of`."""
    found: dict[tuple[str, ...], float] = {}
    for probability, pool in pools:
        names = tuple(f"{c.text}{'.' if c.finish == 'stop' else ''}" for c in pool.candidates)
        found[names] = found.get(names, 0.0) + probability
    return found


def of_candidate(pools: Sequence[tuple[float, Pool]], names: Sequence[str], index: int = 0) -> Floats:
    """Return the distribution (S,) of one candidate of the pool over these responses; what else occurs is an error."""
    found = dict.fromkeys(names, 0.0)
    for responses, probability in joint(pools).items():
        found[responses[index]] += probability
    return np.array(list(found.values()))


# ------------------------------------------------------------------------------------------------- chains, start to end

WHOLE_KERNELS: Mapping[str, Mapping[str, Any]] = {
    "uniform": {},
    "recent": {"cuts": "recent"},
    "entropy": {"cuts": "entropy"},
    "uniform, nothing saved": {"jump": False, "early": False},
    "recent, nothing saved": {"cuts": "recent", "jump": False, "early": False},
    "multiple try": {"move": "mtm", "early": False},
    "multiple try, recent": {"move": "mtm", "early": False, "cuts": "recent"},
    "i-SIR": {"move": "isir", "early": False},
    "two temperatures": {"temperatures": (1.0, 0.5)},
    "warm proposals": {"temperature": 1.0},
}


def whole_chain(alpha: float, steps: int, horizon: int, **settings: Any) -> MakeSampler:
    """Return what makes the chain sampler of these settings from forked choices."""

    def make(choices: ForkedChoices) -> Sampler[Any]:
        return chain_sampler(
            ChainSettings(alpha=alpha, steps=steps, max_tokens=horizon, make_choices=choices, **settings)
        )

    return make


def whole_matrix(make: MakeSampler, model: Tree, horizon: int) -> Floats:
    """Return where whole runs of one chain end (S, S), by where the chain begins."""
    responses = model.responses(horizon)
    names = [name_of(model, tokens) for tokens in responses]
    return np.array([of_candidate(whole_run(make, model, starts=[start]), names) for start in responses])
