"""What the power samplers' code does, exactly: transition matrices by enumeration, and mutants to be killed.

whole     {kernel: of the whole sampler with two steps, starts included: alpha_1, the total variation from p at alpha 1
          (None where the kernel needs alpha above 1); alpha_2, the error of the worst entry of pi P at alpha 2, P from
          every start; memory, of the matrix of two steps less the square of that of one. The ladder: its joint matrix}
kernels   {kernel: invariance, detailed_balance: the error of the worst entry, accelerated_difference: between the
          matrix with early rejection and jump and the one without, None where there is nothing to switch off;
          tokens, plain_tokens: of a step of the stationary chain}
evidence  the error of the mean weight over enumerated particle runs, relative to the target's mass
mutants   defects tried, and those that an exact test saw (an error above 1e-4 where the sound code has below 1e-12)
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, NamedTuple

import numpy as np
from tests.support.ensembles import ladder_table, particle_masses, target_masses
from tests.support.forking import ForkedChoices, Tree
from tests.support.kernels import TransitionTable, power_target, total_variation, transitions
from tests.support.mutants import MUTANTS, sound, worst
from tests.support.runs import WHOLE_KERNELS, name_of, of_candidate, whole_chain, whole_matrix, whole_run

from bench.about import about
from samplewise.core.numerics import Floats, log_normalise
from samplewise.core.types import Sampling
from samplewise.samplers.power.chains import ChainSettings, chain_sampler
from samplewise.samplers.power.ladder import LadderSettings, ladder_sampler
from samplewise.samplers.power.smc import SmcSettings, smc_sampler

SEED = 1  # of the models
ALPHA = 4.0
PLAIN = {"jump": False, "early": False}
KERNELS: dict[str, dict[str, Any]] = {
    "uniform cuts": {},
    "recent cuts": {"cuts": "recent"},
    "entropy cuts": {"cuts": "entropy"},
    "temperature 0.5": {"temperature": 0.5},
    "temperature 1": {"temperature": 1.0},
    "three temperatures": {"temperatures": (0.25, 0.5, 1.0)},
    "top-k": {"top_k": 2},
    "length preference": {"length_preference": 0.4},
}
TRIES: dict[str, dict[str, Any]] = {
    "multiple try": {"move": "mtm", "early": False},
    "i-SIR": {"move": "isir", "early": False},
}


def table(model: Tree, horizon: int, settings: dict[str, Any]) -> TransitionTable:
    tau = settings.get("temperature", 1.0 / ALPHA)

    def make(choices: ForkedChoices) -> Any:
        return chain_sampler(ChainSettings(alpha=ALPHA, steps=1, max_tokens=horizon, make_choices=choices, **settings))

    return transitions(
        make,
        model,
        horizon,
        sampling=Sampling(tau, settings.get("top_k", 0)),
    )


def kernels(horizon: int) -> dict[str, dict[str, float | None]]:
    model = Tree(2, seed=SEED, scale=1.5)
    found: dict[str, dict[str, float | None]] = {}
    for name, settings in {**KERNELS, **TRIES}.items():
        size = horizon if name in KERNELS else 2
        fast = table(model, size, settings)
        plain = table(model, size, {**settings, **PLAIN})
        target = power_target(model, fast.responses, ALPHA, settings.get("length_preference", 0.0))
        found[name] = {
            "invariance": fast.invariance(target),
            "detailed_balance": fast.detailed_balance(target),
            "accelerated_difference": float(np.abs(fast.matrix - plain.matrix).max()),
            "tokens": fast.expected_tokens(target),
            "plain_tokens": plain.expected_tokens(target),
        }
        print(f"{name:20}", *(f"{value:.1e}" for value in found[name].values() if value is not None), flush=True)
    found["ladder"] = {
        "invariance": ladder(1, (2.0, ALPHA), 3).error,
        "detailed_balance": None,
        "accelerated_difference": None,
    }
    print(f"{'ladder':20} {found['ladder']['invariance']:.1e}")
    return found


class Ladder(NamedTuple):
    """A ladder's joint matrix, and the error of the worst entry of pi P."""

    matrix: Floats
    error: float


def ladder(rounds: int, alphas: tuple[float, ...], horizon: int) -> Ladder:
    model = Tree(1, seed=SEED, scale=1.5)
    table = ladder_table(
        lambda choices: ladder_sampler(
            LadderSettings(alphas=alphas, rounds=rounds, max_tokens=horizon, keep="all", make_choices=choices)
        ),
        model,
        horizon,
        len(alphas),
    )
    return Ladder(table.matrix, table.invariance(model, alphas))


def whole() -> dict[str, dict[str, float | None]]:
    """Whole runs on four responses, of 1, 2, 3 and 3 tokens, one of which the horizon cuts; ladders on three."""
    model, horizon = Tree(1, seed=SEED, scale=1.5), 3
    responses = model.responses(horizon)
    names = [name_of(model, tokens) for tokens in responses]
    plain, sharp = (np.exp(log_normalise(power_target(model, responses, alpha))) for alpha in (1.0, 2.0))
    found: dict[str, dict[str, float | None]] = {}
    for name, settings in WHOLE_KERNELS.items():
        one, two = (whole_matrix(whole_chain(2.0, steps, horizon, **settings), model, horizon) for steps in (1, 2))
        at_one = None
        if settings.get("cuts") != "entropy":
            run = whole_run(whole_chain(1.0, 2, horizon, **settings), model)
            at_one = total_variation(of_candidate(run, names), plain)
        found[name] = {
            "alpha_1": at_one,
            "alpha_2": float(np.abs(sharp @ two - sharp).max()),
            "memory": float(np.abs(two - one @ one).max()),
        }
    one_round, two_rounds = (ladder(rounds, (1.0, 2.0), 2) for rounds in (1, 2))
    found["ladder of powers 1 and 2"] = {
        "alpha_1": None,
        "alpha_2": max(one_round.error, two_rounds.error),
        "memory": float(np.abs(two_rounds.matrix - one_round.matrix @ one_round.matrix).max()),
    }
    for name, errors in found.items():
        print(f"whole, {name:24}", *(f"{value:.1e}" for value in errors.values() if value is not None), flush=True)
    return found


def evidence() -> dict[str, float]:
    model = Tree(2, seed=SEED, scale=1.5)
    found = {}
    for name, settings in {"systematic": {}, "residual": {}, "chopthin": {}, "ramp": {"ramp": 2}}.items():
        more = settings if settings else {"scheme": name}

        def make(choices: ForkedChoices, more: dict[str, Any] = more) -> Any:
            settings = SmcSettings(
                num_particles=2, alpha=ALPHA, block=1, max_tokens=3, threshold=1.0, make_choices=choices, **more
            )
            return smc_sampler(settings)

        masses, truth = particle_masses(make, model), target_masses(model, 3, ALPHA)
        found[name] = max(abs(masses.get(text, 0.0) - mass) for text, mass in truth.items()) / sum(truth.values())
        print(f"particles, {name:12} {found[name]:.1e}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--horizon", type=int, default=4, help="tokens of the longest response")
    options = parser.parse_args()
    started = time.monotonic()
    complete, found, particles = whole(), kernels(options.horizon), evidence()
    killed = 0
    for name, mutant in MUTANTS.items():
        error, rest = worst(mutant, SEED), sound(mutant, SEED)
        dead = error > 1e-4 and rest < 1e-12
        killed += dead
        print(f"{'dead ' if dead else 'ALIVE'} {error:.1e} {rest:.1e} {name}", flush=True)
    print(f"{killed} of {len(MUTANTS)} mutants seen")
    figures = {"whole": complete, "kernels": found, "evidence": particles, "mutants": len(MUTANTS), "killed": killed}
    print(json.dumps({**about("power_law", SEED, started), **figures}))  # not rounded: it is all about the last digits


if __name__ == "__main__":
    main()
