"""Faulty power samplers, each a defect that was published, shipped or nearly so, and the exact test that sees it.

A mutant patches the code that is shipped, and nothing else. `worst(mutant)` is the error of the test that must see it:
a sound sampler has at most 1e-12 there, a mutant far more. `sound(mutant)` is the same without the patch.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from samplewise.conformance.ensembles import ladder_table, particle_masses, target_masses
from samplewise.conformance.forking import Forks, Tree
from samplewise.conformance.kernels import Table, power_target, total_variation, transitions
from samplewise.samplers.power import chains, kernel, ladder, particles
from samplewise.samplers.power.cuts import Cuts
from samplewise.samplers.power.kernel import Kernel, Planned, log_sum
from samplewise.samplers.power.metropolis import _power
from samplewise.samplers.power.record import Record
from samplewise.samplers.power.resample import resample
from samplewise.types import Generate, Sampling

ALPHA = 4.0
PLAIN: Mapping[str, Any] = {"jump": False, "early": False}
Gain = Callable[[float, float], float]


class Mutant(NamedTuple):
    """What is patched (module or class, name, what stands there instead), and on what it is seen."""

    patches: tuple[tuple[Any, str, Any], ...]
    settings: Mapping[str, Any] = PLAIN
    test: str = "invariance"  # or "gap", "first", "swap", "evidence"
    horizon: int = 3
    temperature: float = 1.0 / ALPHA
    vocab: int = 2
    top_k: int = 0


# ------------------------------------------------------------------------------------------------- what the mutants do


def _ratio(gain: Gain, *, slices: bool = False, mean: bool = False, no_stop: bool = False) -> Any:
    """A log ratio of other terms: `slices` cuts the record's sum to the proposal's length, `mean` divides each sum by
    its length, `no_stop` leaves out the stop token's term."""

    def ratio(made: Kernel, record: Record, proposal: Record | None, place: int, row: int) -> float:
        assert proposal is not None, "a mutant is given what the sound one is"

        def terms(one: Record, upto: int | None = None) -> list[float]:
            found = [gain(p, q) for p, q in zip(one.logp, one.logq[row], strict=True)]
            return found[place : upto if upto is not None else len(found) - (no_stop and one.ended)]

        new, old = terms(proposal), terms(record, len(proposal.tokens) if slices else None)
        if mean:
            return math.fsum(new) / max(1, len(new)) - math.fsum(old) / max(1, len(old))
        return math.fsum(new) - math.fsum(old)

    return ratio


def _uncorrected(made: Kernel, record: Record, proposal: Record | None, place: int, row: int) -> float:
    return SOUND_RATIO(made._replace(cuts=Cuts("uniform", 2)), record, proposal, place, row)


def _conditioned(made: Kernel, record: Record, proposal: Record | None, place: int, row: int) -> float:
    return SOUND_RATIO(made, record, proposal, place, row) + math.log1p(-math.exp(record.logq[row][place]))


def _changed_asks(**changes: Callable[[Record, int], Any]) -> Any:
    def asked(made: Kernel, record: Record, *others: Any) -> tuple[Generate, ...]:
        return tuple(
            ask._replace(**{name: change(record, len(ask.prefix)) for name, change in changes.items()})
            for ask in SOUND_ASKS(made, record, *others)
        )

    return asked


def _another_u(made: Kernel, record: Record, planned: Planned, completions: Any, dice: Any) -> Any:
    return SOUND_DECIDE(made, record, planned._replace(log_u=dice.log_uniform()), completions, dice)


def _choosing(accept: Callable[[Sequence[float], int], float], *, best: bool = False) -> Any:
    """A multiple try that accepts with other odds (their log)."""

    def chosen(made: Kernel, planned: Planned, log_weights: Sequence[float], dice: Any) -> int | None:
        top = max(log_weights)
        at = log_weights.index(top) if best else dice.choose([math.exp(each - top) for each in log_weights])
        return at if dice.log_uniform() <= accept(log_weights, at) else None

    return chosen


def _others(log_weights: Sequence[float], at: int) -> float:
    return log_sum([each for number, each in enumerate(log_weights) if number != at])


def _last_block(cuts: Cuts, dice: Any, horizon: int, weights: Sequence[float]) -> int:
    return horizon // 2 + int(dice.choose((1.0,) * (horizon - horizon // 2)))


def _untruncated(self: Tree, tokens: tuple[int, ...], sampling: Sampling) -> Any:
    return self.law(tokens, Sampling(sampling.temperature))


def _without_evidence(*args: Any) -> Any:
    made = SOUND_RESAMPLE(*args)
    scale = 1.0 / max(made.weights)
    return made._replace(weights=tuple(weight * scale for weight in made.weights))


SOUND_RATIO, SOUND_ASKS, SOUND_DECIDE = kernel.log_ratio, kernel.asks, kernel.decide
SOUND_RESAMPLE, SOUND_SWAP, SOUND_RISE = resample, ladder.swap_log_odds, particles.rise
RATIO = (kernel, "log_ratio")
CHOSEN = (kernel, "_chosen")
SHORT = (chains, "asks", _changed_asks(max_tokens=lambda record, place: len(record.tokens) - place))
SOUND_GAIN: Gain = lambda p, q: ALPHA * p - q  # noqa: E731
MTM: Mapping[str, Any] = {**PLAIN, "move": "mtm"}

MUTANTS: Mapping[str, Mutant] = {
    "the cap is the current length, and the record's sum is cut to it": Mutant(
        (SHORT, (*RATIO, _ratio(SOUND_GAIN, slices=True)))
    ),
    "the cap is the current length": Mutant((SHORT,)),
    "own cuts without correction": Mutant(((*RATIO, _uncorrected),), {**PLAIN, "cuts": "own"}),
    "entropy cuts without correction": Mutant(((*RATIO, _uncorrected),), {**PLAIN, "cuts": "entropy"}),
    "the proposal's term has the other sign": Mutant(((*RATIO, _ratio(lambda p, q: ALPHA * p + q)),)),
    "the proposal's term is left out": Mutant(((*RATIO, _ratio(lambda p, q: ALPHA * p)),)),
    "log p is taken for log q": Mutant(((*RATIO, _ratio(lambda p, q: (ALPHA - 1.0) * p)),)),
    "the ratio is of means": Mutant(((*RATIO, _ratio(SOUND_GAIN, mean=True)),)),
    "log q does not know of the cut law": Mutant(
        ((Tree, "reported", _untruncated),), PLAIN, "invariance", 3, 1.0, 3, top_k=2
    ),
    "the stop token's term is left out": Mutant(((*RATIO, _ratio(SOUND_GAIN, no_stop=True)),)),
    "jump: the conditioned log q stands in the ratio": Mutant(((*RATIO, _conditioned),), {"early": False}),
    "jump: the redraw may be the same token": Mutant(
        ((chains, "asks", _changed_asks(forbid_first=lambda record, place: None)),), {"early": False}
    ),
    "the floor and the last test have different numbers": Mutant(((chains, "decide", _another_u),), {}),
    "the best of the tries, then as if it were the only one": Mutant(
        ((*CHOSEN, _choosing(lambda weights, at: weights[at], best=True)),), MTM, "invariance", 2
    ),
    "a try by weight, then as if it were the only one": Mutant(
        ((*CHOSEN, _choosing(lambda weights, at: weights[at])),), MTM, "invariance", 2
    ),
    "tries: accepted by the mean weight": Mutant(
        ((*CHOSEN, _choosing(lambda weights, at: log_sum(weights) - math.log(len(weights)))),), MTM, "invariance", 2
    ),
    "tries: the record is not among those of the step back": Mutant(
        ((*CHOSEN, _choosing(lambda weights, at: log_sum(weights) - _others(weights, at))),), MTM, "invariance", 2
    ),
    "the chain ends at the first acceptance": Mutant((), PLAIN, "first"),
    "only the last block is redrawn": Mutant(((kernel, "draw_cut", _last_block),), PLAIN, "gap"),
    "swaps have the other sign": Mutant(
        ((ladder, "swap_log_odds", lambda low, high, one, other: -SOUND_SWAP(low, high, one, other)),),
        {},
        "swap",
        2,
        vocab=1,
    ),
    "resampling forgets the evidence": Mutant(((particles, "resample", _without_evidence),), {}, "evidence", 3),
    "ramp: ended particles miss the rise of the power": Mutant(
        ((particles, "rise", lambda particle, more: 0.0 if particle.over else SOUND_RISE(particle, more)),),
        {"ramp": 2},
        "evidence",
        2,
    ),
}


# ------------------------------------------------------------------------------------------------------ how it is seen


def worst(mutant: Mutant, seed: int = 1) -> float:
    """The error of the test that must see it, on the model of this seed."""
    with _patched(mutant):
        return _error(mutant, seed)


def sound(mutant: Mutant, seed: int = 1) -> float:
    """The same error without the defect. The chain that ends at the first acceptance has none: 0."""
    return 0.0 if mutant.test == "first" else _error(mutant, seed)


@contextlib.contextmanager
def _patched(mutant: Mutant) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for where, name, what in mutant.patches:
            stack.enter_context(patch.object(where, name, what))
        yield


def _error(mutant: Mutant, seed: int) -> float:
    model = Tree(mutant.vocab, seed=seed, scale=1.5)
    if mutant.test == "swap":
        alphas = (2.0, ALPHA)
        joint = ladder_table(
            lambda roll: ladder._tempering(alphas, 1, 1, max_tokens=mutant.horizon, temperature=0.5, roll=roll),
            model,
            mutant.horizon,
            [Sampling(0.5)],
            len(alphas),
        )
        return joint.invariance(model, alphas)
    if mutant.test == "evidence":
        found = particle_masses(
            lambda roll: particles._smc(
                2, ALPHA, block=1, max_tokens=mutant.horizon, threshold=1.0, roll=roll, **mutant.settings
            ),
            model,
        )
        truth = target_masses(model, mutant.horizon, ALPHA)
        return max(abs(found.get(text, 0.0) - mass) for text, mass in truth.items()) / sum(truth.values())
    table = table_of(mutant, model)
    target = power_target(model, table.records, ALPHA)
    if mutant.test == "gap":
        return float(table.gap() < 1e-9)
    if mutant.test == "first":
        return total_variation(_until_first(table, table.law(target)), table.law(target))
    return max(table.invariance(target), float(table.lost.max()))


def table_of(mutant: Mutant, model: Tree) -> Table:
    """The transition table of a mutant's sampler, patched or not as things stand."""

    def make(roll: Forks) -> Any:
        return _power(
            ALPHA,
            1,
            1,
            temperature=mutant.temperature,
            max_tokens=mutant.horizon,
            top_k=mutant.top_k,
            roll=roll,
            **mutant.settings,
        )

    return transitions(make, model, mutant.horizon, sampling=Sampling(mutant.temperature, mutant.top_k))


def _until_first(table: Table, law: Any) -> Any:
    """The law after the first acceptance, from a law."""
    stays = table.matrix - table.accepted
    return law @ np.linalg.solve(np.eye(len(law)) - stays, table.accepted)
