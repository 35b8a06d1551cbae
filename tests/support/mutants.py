"""Faulty power samplers, each a defect that was published, shipped or nearly so, and the exact test that sees it.

A mutant patches the code that is shipped, and nothing else. `worst(mutant)` is the error of the test that must see it:
a sound sampler has at most 1e-12 there, a mutant far more. `sound(mutant)` is the same without the patch.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from tests.support.ensembles import ladder_table, particle_masses, target_masses
from tests.support.forking import ForkedChoices, Tree
from tests.support.kernels import TransitionTable, power_target, total_variation, transitions
from tests.support.runs import name_of, of_candidate, whole_run

from samplewise.core.numerics import log_normalise
from samplewise.core.types import Generate, Sampling
from samplewise.samplers.power import chains, kernel, ladder
from samplewise.samplers.power.chains import ChainSettings, chain_sampler
from samplewise.samplers.power.kernel import Kernel, MoveProposal, log_sum_exp
from samplewise.samplers.power.ladder import LadderSettings, ladder_sampler
from samplewise.samplers.power.resample import resample
from samplewise.samplers.power.response import DrawnResponse
from samplewise.samplers.power.smc import SmcSettings, smc_sampler

ALPHA = 4.0
PLAIN: Mapping[str, Any] = {"jump": False, "early": False}
Term = Callable[[float, float], float]
smc = importlib.import_module("samplewise.samplers.power.smc")  # the package has a function of that name


class Mutant(NamedTuple):
    """What is patched (module or class, name, what stands there instead), and on what it is seen."""

    patches: tuple[tuple[Any, str, Any], ...]
    settings: Mapping[str, Any] = PLAIN
    test: str = "invariance"  # or "whole", "gap", "first", "swap", "evidence"
    horizon: int = 3
    temperature: float = 1.0 / ALPHA
    vocab: int = 2
    top_k: int = 0


# ------------------------------------------------------------------------------------------------- what the mutants do


def _ratio(term: Term, *, slices: bool = False, mean: bool = False, no_stop: bool = False) -> Any:
    """A log ratio of other terms: `slices` cuts the current sum to the proposal's length, `mean` divides each sum by
    its length, `no_stop` leaves out the stop token's term."""

    def ratio(
        kernel: Kernel, current: DrawnResponse, proposed: DrawnResponse, position: int, temperature_index: int
    ) -> float:
        def terms(response: DrawnResponse, upto: int | None = None) -> list[float]:
            values = [term(p, q) for p, q in zip(response.logp, response.logq[temperature_index], strict=True)]
            return values[position : upto if upto is not None else len(values) - (no_stop and response.ended)]

        new, old = terms(proposed), terms(current, len(proposed.tokens) if slices else None)
        cuts = SOUND_CORRECTION(kernel, current, proposed, temperature_index)
        if mean:
            return math.fsum(new) / max(1, len(new)) - math.fsum(old) / max(1, len(old)) + cuts
        return math.fsum(new) - math.fsum(old) + cuts

    return ratio


def _uncorrected(*args: Any) -> float:
    """No term for the two responses' cut probabilities."""
    return 0.0


def _own_start_cut(late: bool = False) -> Any:
    """A cut drawn as is once was shipped: up to the length of the chain's own start, one in twenty anywhere up to T.
    (On the first step, where it is seen, the start is the response.)"""

    def drawn(kernel: Kernel, current: DrawnResponse, temperature_index: int, choices: Any) -> int:
        length, horizon = len(current.tokens), kernel.horizon
        near = [float(position + 1) if late else 1.0 for position in range(length)]
        masses = [0.05 / horizon + 0.95 * weight / math.fsum(near) for weight in near]
        return int(choices.choose((*masses, *[0.05 / horizon] * (horizon - length))))

    return drawn


def _free_behind(kernel: Kernel, current: DrawnResponse, choices: Any) -> MoveProposal:
    """A cut behind the end, which the sound sampler never draws, changes nothing."""
    proposal = SOUND_PROPOSAL(kernel, current, choices)
    behind = proposal.cut >= len(current.tokens)
    return proposal._replace(positions=(-1,) * kernel.tries) if behind else proposal


def _conditioned(
    kernel: Kernel, current: DrawnResponse, proposed: DrawnResponse, position: int, temperature_index: int
) -> float:
    sound = SOUND_RATIO(kernel, current, proposed, position, temperature_index)
    return sound + math.log1p(-math.exp(current.logq[temperature_index][position]))


def _changed_asks(**changes: Callable[[DrawnResponse, int], Any]) -> Any:
    def changed(kernel: Kernel, current: DrawnResponse, *others: Any) -> tuple[Generate, ...]:
        return tuple(
            ask._replace(**{name: change(current, len(ask.prefix)) for name, change in changes.items()})
            for ask in SOUND_ASKS(kernel, current, *others)
        )

    return changed


def _another_u(kernel: Kernel, current: DrawnResponse, proposal: MoveProposal, completions: Any, choices: Any) -> Any:
    return SOUND_DECIDE(kernel, current, proposal._replace(log_u=choices.log_uniform()), completions, choices)


def _choosing(accept: Callable[[Sequence[float], int], float], *, best: bool = False) -> Any:
    """A multiple try that accepts with another probability (its log)."""

    def chosen(kernel: Kernel, proposal: MoveProposal, log_weights: Sequence[float], choices: Any) -> int | None:
        top = max(log_weights)
        weights = [math.exp(log_weight - top) for log_weight in log_weights]
        index = log_weights.index(top) if best else choices.choose(weights)
        return index if choices.log_uniform() <= accept(log_weights, index) else None

    return chosen


def _others(log_weights: Sequence[float], index: int) -> float:
    return log_sum_exp([log_weight for i, log_weight in enumerate(log_weights) if i != index])


def _steps_by_start(settings: ChainSettings, *args: Any) -> Any:
    """A budget that pays for more steps from a start whose steps cost less."""
    state = SOUND_BEGIN(settings, *args)
    start = state.chains[0].response
    assert start is not None
    assert settings.budget_tokens is not None
    affordable = settings.budget_tokens / kernel.expected_tokens(settings.kernel, start)
    return state._replace(num_steps=min(2, int(affordable)))


def _own_start_patches(late: bool = False) -> tuple[tuple[Any, str, Any], ...]:
    return (
        (kernel, "draw_cut", _own_start_cut(late)),
        (kernel, "cut_correction", _uncorrected),
        (chains, "propose_move", _free_behind),
    )


def _last_block(kernel: Kernel, current: DrawnResponse, temperature_index: int, choices: Any) -> int:
    middle = kernel.horizon // 2
    return middle + int(choices.choose((1.0,) * (kernel.horizon - middle)))


def _untruncated(self: Tree, tokens: tuple[int, ...], sampling: Sampling) -> Any:
    return self.draw_log_probs(tokens, Sampling(sampling.temperature))


def _without_normalizer(*args: Any) -> Any:
    offspring = SOUND_RESAMPLE(*args)
    scale = 1.0 / max(offspring.weights)
    return offspring._replace(weights=tuple(weight * scale for weight in offspring.weights))


SOUND_PROPOSAL, SOUND_BEGIN, SOUND_CORRECTION = kernel.propose_move, chains._begin, kernel.cut_correction
SOUND_RATIO, SOUND_ASKS, SOUND_DECIDE = kernel.log_ratio, kernel.move_asks, kernel.decide_move
SOUND_RESAMPLE, SOUND_SWAP, SOUND_GAIN = resample, ladder.swap_log_probability, smc.power_gain
RATIO = (kernel, "log_ratio")
CHOSEN = (kernel, "_choose_try")
UNCORRECTED = (kernel, "cut_correction", _uncorrected)
SHORT = (chains, "move_asks", _changed_asks(max_tokens=lambda current, position: len(current.tokens) - position))
SOUND_TERM: Term = lambda p, q: ALPHA * p - q  # noqa: E731
MTM: Mapping[str, Any] = {**PLAIN, "move": "mtm"}

MUTANTS: Mapping[str, Mutant] = {
    "the cap is the current length, and the record's sum is cut to it": Mutant(
        (SHORT, (*RATIO, _ratio(SOUND_TERM, slices=True)))
    ),
    "the cap is the current length": Mutant((SHORT,)),
    "cuts go by the chain's own start": Mutant(_own_start_patches()),
    "recent cuts go by the chain's own start": Mutant(_own_start_patches(late=True)),
    "uniform cuts without correction": Mutant((UNCORRECTED,)),
    "recent cuts without correction": Mutant((UNCORRECTED,), {**PLAIN, "cuts": "recent"}),
    "entropy cuts without correction": Mutant((UNCORRECTED,), {**PLAIN, "cuts": "entropy"}),
    "the proposal's term has the other sign": Mutant(((*RATIO, _ratio(lambda p, q: ALPHA * p + q)),)),
    "the proposal's term is left out": Mutant(((*RATIO, _ratio(lambda p, q: ALPHA * p)),)),
    "log p is taken for log q": Mutant(((*RATIO, _ratio(lambda p, q: (ALPHA - 1.0) * p)),)),
    "the ratio is of means": Mutant(((*RATIO, _ratio(SOUND_TERM, mean=True)),)),
    "log q ignores the filters": Mutant(((Tree, "reported", _untruncated),), PLAIN, "invariance", 3, 1.0, 3, top_k=2),
    "the stop token's term is left out": Mutant(((*RATIO, _ratio(SOUND_TERM, no_stop=True)),)),
    "jump: the conditioned log q stands in the ratio": Mutant(((*RATIO, _conditioned),), {"early": False}),
    "jump: the redraw may be the same token": Mutant(
        ((chains, "move_asks", _changed_asks(forbid_first=lambda current, position: None)),), {"early": False}
    ),
    "the rejection bound and the last test have different numbers": Mutant(((chains, "decide_move", _another_u),), {}),
    "the best of the tries, then as if it were the only one": Mutant(
        ((*CHOSEN, _choosing(lambda weights, index: weights[index], best=True)),), MTM, horizon=2
    ),
    "a try by weight, then as if it were the only one": Mutant(
        ((*CHOSEN, _choosing(lambda weights, index: weights[index])),), MTM, horizon=2
    ),
    "tries: accepted by the mean weight": Mutant(
        ((*CHOSEN, _choosing(lambda weights, index: log_sum_exp(weights) - math.log(len(weights)))),),
        MTM,
        "invariance",
        2,
    ),
    "tries: the record is not among those of the step back": Mutant(
        ((*CHOSEN, _choosing(lambda weights, index: log_sum_exp(weights) - _others(weights, index))),),
        MTM,
        "invariance",
        2,
    ),
    "the chain ends at the first acceptance": Mutant((), PLAIN, "first"),
    "a budget pays for steps by the chain's own start": Mutant(
        ((chains, "_begin", _steps_by_start),), {**PLAIN, "budget_tokens": 1}, "whole", vocab=1
    ),
    "only the last block is redrawn": Mutant(
        ((kernel, "draw_cut", _last_block), (chains, "propose_move", _free_behind)), PLAIN, "gap"
    ),
    "swaps have the other sign": Mutant(
        ((ladder, "swap_log_probability", lambda low, high, one, other: -SOUND_SWAP(low, high, one, other)),),
        {},
        "swap",
        2,
        vocab=1,
    ),
    "resampling forgets the evidence": Mutant(((smc, "resample", _without_normalizer),), {}, "evidence", 3),
    "ramp: ended particles miss the rise of the power": Mutant(
        ((smc, "power_gain", lambda particle, rise: 0.0 if particle.complete else SOUND_GAIN(particle, rise)),),
        {"ramp": 2},
        "evidence",
        2,
    ),
}


# ------------------------------------------------------------------------------------------------------ how it is seen


def worst(mutant: Mutant, seed: int = 1) -> float:
    """Return the error of the test that must see it, on the model of this seed."""
    with _patched(mutant):
        return _error(mutant, seed)


def sound(mutant: Mutant, seed: int = 1) -> float:
    """Return the same error without the defect. The chain that ends at the first acceptance has none: 0."""
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
            lambda choices: ladder_sampler(
                LadderSettings(alphas=alphas, rounds=1, max_tokens=mutant.horizon, keep="all", make_choices=choices)
            ),
            model,
            mutant.horizon,
            len(alphas),
        )
        return joint.invariance(model, alphas)
    if mutant.test == "evidence":
        masses = particle_masses(
            lambda choices: smc_sampler(
                SmcSettings(
                    num_particles=2,
                    alpha=ALPHA,
                    block=1,
                    max_tokens=mutant.horizon,
                    threshold=1.0,
                    make_choices=choices,
                    **mutant.settings,
                )
            ),
            model,
        )
        truth = target_masses(model, mutant.horizon, ALPHA)
        return max(abs(masses.get(text, 0.0) - mass) for text, mass in truth.items()) / sum(truth.values())
    if mutant.test == "whole":  # at alpha 1 a run begins in its target
        run = whole_run(
            lambda choices: chain_sampler(
                ChainSettings(alpha=1.0, max_tokens=mutant.horizon, make_choices=choices, **mutant.settings)
            ),
            model,
        )
        responses = model.responses(mutant.horizon)
        ends = of_candidate(run, [name_of(model, tokens) for tokens in responses])
        return total_variation(ends, np.exp(log_normalise(power_target(model, responses, 1.0))))
    table = table_of(mutant, model)
    target = power_target(model, table.responses, ALPHA)
    if mutant.test == "gap":
        return float(table.gap() < 1e-9)
    if mutant.test == "first":
        return total_variation(_until_first(table, table.target(target)), table.target(target))
    return max(table.invariance(target), float(table.lost.max()))


def table_of(mutant: Mutant, model: Tree) -> TransitionTable:
    """Return the transition table of a mutant's sampler, patched or not as things stand."""

    def make(choices: ForkedChoices) -> Any:
        return chain_sampler(
            ChainSettings(
                alpha=ALPHA,
                steps=1,
                temperature=mutant.temperature,
                max_tokens=mutant.horizon,
                top_k=mutant.top_k,
                make_choices=choices,
                **mutant.settings,
            )
        )

    return transitions(make, model, mutant.horizon, sampling=Sampling(mutant.temperature, mutant.top_k))


def _until_first(table: TransitionTable, start: Any) -> Any:
    """Return the distribution after the first acceptance, from a distribution."""
    stays = table.matrix - table.accepted
    return start @ np.linalg.solve(np.eye(len(start)) - stays, table.accepted)
