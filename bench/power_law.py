"""What the power samplers' code does, exactly: transition matrices of `step` by enumeration, and mutants that must die.

kernels   {kernel: invariance, detailed_balance: how far the worst entry is off, accelerated_difference: between the
          matrix with early rejection and jump and the one without, None where there is nothing to switch off;
          tokens, plain_tokens: of a step of the stationary chain}
evidence  how far the mean of the weights of enumerated particle runs is off, over the target's mass
mutants   defects tried, and those that an exact test saw (an error above 1e-4 where the sound code has below 1e-12)
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

from bench.about import about
from samplewise.conformance.ensembles import ladder_table, particle_masses, target_masses
from samplewise.conformance.forking import Forks, Tree
from samplewise.conformance.kernels import Table, power_target, transitions
from samplewise.conformance.mutants import MUTANTS, sound, worst
from samplewise.samplers.power.ladder import _tempering
from samplewise.samplers.power.metropolis import _power
from samplewise.samplers.power.particles import _smc
from samplewise.types import Sampling

SEED = 1  # of the models
ALPHA = 4.0
PLAIN = {"jump": False, "early": False}
KERNELS: dict[str, dict[str, Any]] = {
    "uniform cuts": {},
    "recent cuts": {"cuts": "recent"},
    "own cuts": {"cuts": "own"},
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


def table(model: Tree, horizon: int, settings: dict[str, Any]) -> Table:
    tau = settings.get("temperature", 1.0 / ALPHA)

    def make(roll: Forks) -> Any:
        return _power(ALPHA, 1, 1, max_tokens=horizon, roll=roll, **settings)

    return transitions(
        make,
        model,
        horizon,
        sampling=Sampling(tau, settings.get("top_k", 0)),
        temperatures=settings.get("temperatures", ()),
        length_preference=settings.get("length_preference", 0.0),
    )


def kernels(horizon: int) -> dict[str, dict[str, float | None]]:
    model = Tree(2, seed=SEED, scale=1.5)
    found: dict[str, dict[str, float | None]] = {}
    for name, settings in {**KERNELS, **TRIES}.items():
        size = horizon if name in KERNELS else 2
        fast = table(model, size, settings)
        plain = table(model, size, {**settings, **PLAIN})
        target = power_target(model, fast.records, ALPHA, settings.get("length_preference", 0.0))
        found[name] = {
            "invariance": fast.invariance(target),
            "detailed_balance": fast.detailed_balance(target),
            "accelerated_difference": float(np.abs(fast.matrix - plain.matrix).max()),
            "tokens": fast.bill(target),
            "plain_tokens": plain.bill(target),
        }
        print(f"{name:20}", *(f"{value:.1e}" for value in found[name].values() if value is not None), flush=True)
    small = Tree(1, seed=SEED, scale=1.5)
    joint = ladder_table(
        lambda roll: _tempering((2.0, ALPHA), 1, 1, max_tokens=3, roll=roll),
        small,
        3,
        [Sampling(0.5), Sampling(1.0 / ALPHA)],
        2,
    )
    off = joint.invariance(small, (2.0, ALPHA))
    found["ladder"] = {"invariance": off, "detailed_balance": None, "accelerated_difference": None}
    print(f"{'ladder':20} {off:.1e}")
    return found


def evidence() -> dict[str, float]:
    model = Tree(2, seed=SEED, scale=1.5)
    found = {}
    for name, settings in {"systematic": {}, "residual": {}, "chopthin": {}, "ramp": {"ramp": 2}}.items():
        more = settings if settings else {"scheme": name}

        def make(roll: Forks, more: dict[str, Any] = more) -> Any:
            return _smc(2, ALPHA, block=1, max_tokens=3, threshold=1.0, roll=roll, **more)

        masses, truth = particle_masses(make, model), target_masses(model, 3, ALPHA)
        found[name] = max(abs(masses.get(text, 0.0) - mass) for text, mass in truth.items()) / sum(truth.values())
        print(f"particles, {name:12} {found[name]:.1e}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--horizon", type=int, default=4, help="tokens of the longest response")
    options = parser.parse_args()
    started = time.monotonic()
    found, particles = kernels(options.horizon), evidence()
    killed = 0
    for name, mutant in MUTANTS.items():
        error, rest = worst(mutant, SEED), sound(mutant, SEED)
        dead = error > 1e-4 and rest < 1e-12
        killed += dead
        print(f"{'dead ' if dead else 'ALIVE'} {error:.1e} {rest:.1e} {name}", flush=True)
    print(f"{killed} of {len(MUTANTS)} mutants seen")
    figures = {"kernels": found, "evidence": particles, "mutants": len(MUTANTS), "killed": killed}
    print(json.dumps({**about("power_law", SEED, started), **figures}))  # not rounded: it is all about the last digits


if __name__ == "__main__":
    main()
