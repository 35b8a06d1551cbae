"""What a stop rule costs: microseconds to see a draw and decide, for every registered rule.

Pools of up to 64 draws come from five answer laws, from one that is plain to one with twelve answers nearly alike, with
a draw in fifty unreadable and a score on each. A rule is handed one pool after the other, each until it stops. Tables
start empty; filling them is in the figure, and in that of the first rule that needs them. Processor time, not wall
time: the machine may be busy with something else.

`cold` are the first tenth of the updates, `stops` the share of the pools on which the rule stopped. The table of
`vote_plan` is measured apart: how long it takes to make one, and to look up what to send.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.about import about, rounded
from samplewise.core.errors import SamplewiseError
from samplewise.core.keys import Key
from samplewise.core.registry import build, names
from samplewise.core.types import Candidate, Usage
from samplewise.stop.base import NOBODY, StopRule
from samplewise.stop.plan_table import plan_table, states_of

SEED = 0
DRAWS = 64
NUM_POOLS = 4000  # different ones; then they come again
LAWS = (
    (0.7, 0.1, 0.1, 0.1),
    (0.5, 0.3, 0.2),
    (0.4, 0.3, 0.3),
    (0.26, 0.25, 0.25, 0.24),
    (0.12, *(0.08,) * 11),
)
SHAPES = "((0.7, 0.2, 0.1), (0.5, 0.3, 0.2), (0.4, 0.3, 0.3), (0.2, 0.15, 0.15, 0.1, 0.1, 0.1, 0.1, 0.1))"
SETTINGS = {  # what a rule needs to be built; any other is built by its name, or with a verifier
    "bayes_l3": f"bayes_l3({SHAPES})",
    "beacon": "beacon(v, price=0.0001)",
    "cap": "cap(65)",
    "certify": 'certify("a")',
    "either": "either(vote_e, cap(65))",
    "lead": "lead(4)",
    "optscale": "optscale(0.95, v, target=0.99)",
    "pandora": "pandora(v, price=0.0001, law=(0.8, 0.1))",
    "passed": "passed(v, score=0.99)",
    "ppr_1v1": "ppr_1v1(12)",
    "ucb_pandora": "ucb_pandora(v, price=0.0001)",
}
VARIANTS = {
    "sprt": "sprt(0.6)",
    "asc": "asc(0.99)",
    "bayes_factor": "bayes_factor(100)",
    "optscale": "optscale(0.95, v, target=0.99, mode='paper')",
}


class Pools(NamedTuple):
    """Draws of many pools: candidates with a score, and their answers."""

    candidates: Sequence[Sequence[Candidate]]
    answers: Sequence[Sequence[str | None]]


def rules() -> dict[str, StopRule[Any] | None]:
    """Every registered rule, by the spec that it was built from; None for one that needs settings not given here. One
    that needs a verifier's name is given "v"."""
    found: dict[str, StopRule[Any] | None] = {}
    for name in names("stop"):
        for spec in (SETTINGS.get(name, name), *([VARIANTS[name]] if name in VARIANTS else [])):
            found[spec] = built(spec)
            if found[spec] is None:
                found[f"{name}(v)"] = built(f"{name}(v)")
                del found[spec]
    return found


def built(spec: str) -> StopRule[Any] | None:
    try:
        made: StopRule[Any] = build("stop", spec)
    except SamplewiseError:
        return None
    return made


def pools(num: int) -> Pools:
    rng = Key(SEED).fold("bench", "stopcost").generator()
    candidates, answers = [], []
    for number in range(num):
        law = np.array(LAWS[number % len(LAWS)])
        drawn = rng.choice(len(law), size=DRAWS, p=law / law.sum())
        scores = np.round(rng.beta(12, 1.2, size=DRAWS), 6).tolist()
        unreadable = rng.random(DRAWS) < 0.02
        candidates.append(
            [Candidate("", num_tokens=100, scores={"v": s, "deepconf.least": 10 * s, "reward": s}) for s in scores]
        )
        answers.append([None if bad else "abcdefghijkl"[k] for k, bad in zip(drawn, unreadable, strict=True)])
    return Pools(candidates, answers)


def measured(rule: StopRule[Any], drawn: Pools, updates: int) -> dict[str, float]:
    """Microseconds per draw, over all and over the first tenth, and the share of the pools that it stops."""
    spent, seconds, cold, done, stopped, seen = Usage(), 0.0, math.nan, 0, 0, 0
    while done < updates:
        place = seen % len(drawn.answers)
        state = rule.start(NOBODY)
        started = time.thread_time()
        for candidate, answer in zip(drawn.candidates[place], drawn.answers[place], strict=True):
            state = rule.see(state, candidate, answer)
            done += 1
            if rule.decide(state, spent) is not None:
                stopped += 1
                break
        seconds += time.thread_time() - started
        seen += 1
        if done >= updates / 10 and math.isnan(cold):
            cold = 1e6 * seconds / done
    return {"all": 1e6 * seconds / done, "cold": cold, "stops": stopped / seen}


def plan_figures(console: Console) -> dict[str, float]:
    """Seconds that the table of a plan takes for 32 draws, and microseconds of a look-up."""
    states_of.cache_clear()
    started = time.thread_time()
    table = plan_table.__wrapped__(0.01, 0.005, 32)
    made = time.thread_time() - started
    rng = Key(SEED).fold("bench", "plan").generator()
    counts = [np.bincount(rng.choice(5, 20, p=(0.5, 0.2, 0.1, 0.1, 0.1))).tolist() for _ in range(1000)]
    started = time.thread_time()
    for _ in range(20):
        for votes in counts:
            table.wave[20][table.position(votes)]
    look_up = 1e6 * (time.thread_time() - started) / 20_000
    console.print(f"vote_plan: a table for 32 draws in {made:.3f} s, a look-up in {look_up:.2f} microseconds")
    return {"plan_table_seconds": made, "plan_look_up": look_up}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=1_000_000, help="draws that each rule sees")
    parser.add_argument("--only", nargs="*", default=None, help="specs of the rules to run")
    options = parser.parse_args()
    started = time.monotonic()
    console = Console(stderr=False, width=100)
    drawn = pools(max(10, min(NUM_POOLS, options.updates // DRAWS)))
    chosen = rules() if options.only is None else {spec: build("stop", spec) for spec in options.only}
    table = Table("rule", "microseconds", "cold", "stops", box=None)
    figures: dict[str, dict[str, float]] = {}
    for spec, rule in chosen.items():
        label = spec if len(spec) < 60 or rule is None else rule.name
        if rule is None:
            figures[label] = dict.fromkeys(("all", "cold", "stops"), math.nan)
            table.add_row(label, "not measured: say in SETTINGS how it is built", "", "")
            continue
        figures[label] = measured(rule, drawn, options.updates)
        table.add_row(label, *(f"{figures[label][column]:.2f}" for column in ("all", "cold", "stops")))
    console.print(table)
    said = {
        **plan_figures(console),
        **{name: each["all"] for name, each in figures.items()},
        "cold": {name: each["cold"] for name, each in figures.items()},
        "updates": options.updates,
        **about("stopcost", SEED, started),
    }
    print(json.dumps(rounded(said)))


if __name__ == "__main__":
    main()
