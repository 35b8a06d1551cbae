"""Measure power sampling on the bundled model: a single response, and at equal tokens.

(a) One returned response, nothing to vote on or to check it with: plain draws, the best low temperature, chains of 20
steps (with uniform and with entropy cuts, and begun at one of 16 draws by weight), importance weights on 16 and 64
draws, particles, the highest rung of a ladder. Where a run has several independent responses, or the weights that one
is drawn by, accuracy is their mean: what one returned response is expected to score.
(b) At the tokens of 1, 4 and 12 chains: direct draws by majority vote, by log-probability and by the checker, low
temperature by vote, chains by vote and by log-probability.
(c) pass@k of the chains and of draws at temperature 1 and at the low temperature, up to k = 16.

Tokens are those of the loop: every request's prompt and prefix, starts, and proposals rejected early. A prefix that the
engine still holds costs it nothing, so the comparison is made once more at equal decoded tokens. Intervals are over
puzzles, differences paired. Powers and the low temperature were chosen on `dev` puzzles, which are not scored here
(`--choose` shows how). `agreement` is the mean covariance of correctness and standardised log p over plain draws of a
puzzle: its sign says whether sharpening begins to help or to hurt.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.about import about, rounded
from samplewise.cli.progress import Bar
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.registry import build
from samplewise.measure import mean_interval, paired_difference
from samplewise.measure.coverage import pass_at
from samplewise.recipe import parse_choice, recipe
from samplewise.runs.arrays import Outcomes, load_outcomes
from samplewise.runs.redecide import rescore
from samplewise.runs.run import run_task
from samplewise.store.database import Store

SEED = 0
HORIZON = 64  # tokens of the longest response, for every method
STEPS, CHAINS = 20, 16
BUDGETS = (1, 4, 12)  # chains whose tokens the others get
KS = (1, 2, 4, 8, 16)
TEMPERATURES = (0.1, 0.25, 0.4, 0.6)  # to choose from, on dev puzzles
ALPHAS = (2.0, 4.0, 8.0, 16.0)
LOW, ALPHA = 0.1, 4.0  # chosen there, on 40 puzzles: chains, weights, particles and ladder do best at 4, or as well
RUNGS = {2.0: (1.25, 1.6, 2.0), 4.0: (1.5, 2.5, 4.0), 8.0: (2.0, 4.0, 8.0), 16.0: (4.0, 8.0, 16.0)}


def lines(low: float, alpha: float) -> dict[str, str]:
    """Return each method's draws as a recipe."""
    return {
        "plain": f"repeat(64, max_tokens={HORIZON})",
        "low_temperature": f"repeat(64, temperature={low:g}, max_tokens={HORIZON})",
        "power": f"power({alpha:g}, {STEPS}, {CHAINS}, max_tokens={HORIZON})",
        "power_entropy": f"power({alpha:g}, {STEPS}, 4, max_tokens={HORIZON}, cuts='entropy')",
        "power_started": f"power({alpha:g}, {STEPS}, 1, max_tokens={HORIZON}, cuts='entropy', starts=16)",
        "sir": f"sir(64, {alpha:g}, max_tokens={HORIZON})",
        "smc": f"smc(16, {alpha:g}, block=8, max_tokens={HORIZON})",
        "ladder": f"tempering({RUNGS[alpha]}, {STEPS}, 2, max_tokens={HORIZON})",
    }


SHARED = ("plain", "low_temperature", "power")  # what is compared at equal tokens


class Drawn(NamedTuple):
    """A method's responses to P puzzles; costs are of one candidate, in tokens a puzzle."""

    outcomes: Outcomes  # with log-probabilities as scores
    weights: Floats  # (P, N) of the pool, which sum to 1
    tokens: float
    decoded: float

    @property
    def grades(self) -> Floats:
        """(P, N)"""
        return self.outcomes.graded.grades


class Single(NamedTuple):
    """One returned response: its expected grade (P,), and what it costs, in tokens a puzzle."""

    grades: Floats
    tokens: float
    decoded: float


def draw(store: Store, task: Any, engine: Any, line: str) -> Drawn:
    """Draw a method, or load its draws from the store."""
    with Bar(line) as bar:
        summary = asyncio.run(run_task(task, recipe(f"{line} | vote"), engine, store, seed=SEED, on_event=bar))
    rescore(store, summary.run, parse_choice("best(likelihood)")[2])
    found = load_outcomes(store, summary.run, scores=("likelihood",))
    logs = [[c.log_weight for c in record.pool.candidates] for record in store.records(summary.run)]
    num = found.graded.grades.shape[1]
    if any(len(row) != num for row in logs):
        raise SystemExit(f"{line}: some draws failed")  # the bundled model fails at nothing
    weights = np.exp(np.array(logs) - np.max(logs, axis=1, keepdims=True))
    each = num * len(task.problems)
    return Drawn(
        found,
        weights / weights.sum(1, keepdims=True),
        summary.spent.tokens / each,
        summary.spent.completion_tokens / each,
    )


# ----------------------------------------------------------------------------------------------------- (a) one response


def one(found: Drawn) -> Single:
    """Average independent responses, each of which could be the returned one."""
    return Single(found.grades.mean(1), found.tokens, found.decoded)


def weighted_one(found: Drawn, num: int) -> Single:
    """Average one response drawn by weight among `num`, over disjoint groups of the draws.

    The order is shuffled by key, since a pool has the one that was drawn by weight in front.
    """
    places = np.tile(np.arange(found.grades.shape[1]), (len(found.grades), 1))
    order = Key(SEED).fold("groups").generator().permuted(places, axis=1)
    grades, weights = (np.take_along_axis(each, order, 1) for each in (found.grades, found.weights))
    shape = (len(grades), -1, num)
    share = weights.reshape(shape)
    expected = (share * grades.reshape(shape)).sum(2) / share.sum(2)
    return Single(expected.mean(1), found.tokens * num, found.decoded * num)


def singles(drawn: dict[str, Drawn]) -> dict[str, Single]:
    found: dict[str, Single] = {name: one(each) for name, each in drawn.items() if name not in ("sir", "smc")}
    if "sir" in drawn:
        found |= {"sir_16": weighted_one(drawn["sir"], 16), "sir": weighted_one(drawn["sir"], 64)}
    if "smc" in drawn:
        found["smc"] = weighted_one(drawn["smc"], 16)
    return found


# ----------------------------------------------------------------------------------------------------- (b) equal tokens


def chosen(found: Drawn, selector: str, num: int) -> Floats:
    """Return the expected grade (P,) of what a selector chooses among `num` of the responses."""
    num = min(num, found.grades.shape[1])
    if selector == "checker":  # exact
        return np.asarray(pass_at(found.grades, [num])[0])
    expected = parse_choice(selector)[1].expected
    assert expected is not None
    return np.asarray(expected(found.outcomes.graded, np.array([num]), Key(SEED).fold(selector))[0])


WAYS = {
    "majority": ("plain", "vote"),
    "best_loglik": ("plain", "best(likelihood)"),
    "best_checker": ("plain", "checker"),
    "low_temperature_majority": ("low_temperature", "vote"),
    "low_temperature_best_loglik": ("low_temperature", "best(likelihood)"),
    "power": ("power", "vote"),
    "power_best_loglik": ("power", "best(likelihood)"),
    "power_best_checker": ("power", "checker"),
}


def equal(drawn: dict[str, Drawn], num_chains: int, decoded: bool) -> tuple[dict[str, Floats], dict[str, int]]:
    """Return grades (P,) and numbers of responses at the cost of `num_chains` chains."""

    def cost(name: str) -> float:
        return drawn[name].decoded if decoded else drawn[name].tokens

    budget = num_chains * cost("power")
    counts = {name: max(1, int(budget / cost(name) + 1e-9)) for name in SHARED}
    counts = {name: min(num, drawn[name].grades.shape[1]) for name, num in counts.items()}
    return {way: chosen(drawn[name], by, counts[name]) for way, (name, by) in WAYS.items()}, counts


# -------------------------------------------------------------------------------------------------------------- figures


def interval(values: Floats) -> str:
    estimate = mean_interval(values)
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def difference(values: Floats, baseline: Floats) -> list[float]:
    estimate = paired_difference(values, baseline)
    return [estimate.value, estimate.low, estimate.high]


def signed(three: Sequence[float]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(*three)


def show_singles(console: Console, found: dict[str, Single]) -> dict[str, Any]:
    table = Table("one response", "tokens", "decoded", "accuracy", "over low temperature", box=None)
    low = found["low_temperature"].grades
    over = {name: difference(each.grades, low) for name, each in found.items() if name != "low_temperature"}
    for name, each in found.items():
        told = signed(over[name]) if name in over else "baseline"
        table.add_row(name, f"{each.tokens:,.0f}", f"{each.decoded:,.0f}", interval(each.grades), told)
    console.print(table)
    return {
        **{name: each.grades.mean() for name, each in found.items()},
        "over_low_temperature": over,
        "tokens": {name: [each.tokens, each.decoded] for name, each in found.items()},
    }


def show_equal(console: Console, drawn: dict[str, Drawn], decoded: bool) -> dict[str, Any]:
    table = Table("equal decoded tokens" if decoded else "equal tokens", *(f"{n} chains" for n in BUDGETS), box=None)
    found = [equal(drawn, num, decoded) for num in BUDGETS]
    for name in SHARED:
        table.add_row(f"responses, {name}", *(str(counts[name]) for _, counts in found))
    for way in WAYS:
        table.add_row(way, *(interval(grades[way]) for grades, _ in found))
    for way in ("majority", "best_loglik"):
        mine = "power" if way == "majority" else "power_best_loglik"
        table.add_row(f"{mine} - {way}", *(signed(difference(grades[mine], grades[way])) for grades, _ in found))
    console.print(table)
    return {
        str(num): {
            **{way: values.mean() for way, values in grades.items()},
            "power_minus_majority": difference(grades["power"], grades["majority"]),
            "power_best_loglik_minus_best_loglik": difference(grades["power_best_loglik"], grades["best_loglik"]),
            "responses": counts,
        }
        for num, (grades, counts) in zip(BUDGETS, found, strict=True)
    }


def show_passes(console: Console, drawn: dict[str, Drawn]) -> dict[str, list[float]]:
    table = Table("pass@k", *map(str, KS), box=None)
    found = {}
    for name in SHARED:
        found[name] = [float(row.mean()) for row in pass_at(drawn[name].grades, KS)]
        table.add_row(name, *(f"{value:.3f}" for value in found[name]))
    console.print(table)
    return found


def agreement(found: Drawn) -> Floats:
    """Return the covariance (P,) of correctness and standardised log p over a puzzle's draws, at most half."""
    logp = found.outcomes.graded.scores["likelihood"]
    apart = (logp - logp.mean(1, keepdims=True)) / np.maximum(logp.std(1, keepdims=True), 1e-9)
    return np.asarray(((found.grades - found.grades.mean(1, keepdims=True)) * apart).mean(1))


def choose(console: Console, store: Store, engine: Any, puzzles: int) -> None:
    """Show the accuracy of one response on dev puzzles, by power or temperature."""
    task = build("task", f"game24('dev', limit={puzzles})")
    table = Table("one response, on dev puzzles", "at", "tokens", "accuracy", box=None)
    grids = {name: TEMPERATURES if name == "low_temperature" else ALPHAS for name in lines(LOW, ALPHA)}
    del grids["plain"]
    for name, grid in grids.items():
        for value in grid:
            line = (lines(value, ALPHA) if name == "low_temperature" else lines(LOW, value))[name]
            for each, found in singles({name: draw(store, task, engine, line)}).items():
                table.add_row(each, f"{value:g}", f"{found.tokens:,.0f}", interval(found.grades))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--puzzles", type=int, default=200)
    parser.add_argument("--choose", action="store_true", help="compare powers and temperatures on dev puzzles instead")
    parser.add_argument("--store", type=Path, help="keep the draws here, and go on from there")
    options = parser.parse_args()
    started, console = time.monotonic(), Console(width=130)
    with tempfile.TemporaryDirectory() as folder, Store(options.store or Path(folder) / "power.db") as store:
        engine = build("engine", "tiny")
        if options.choose:
            choose(console, store, engine, options.puzzles)
            asyncio.run(engine.close())
            return
        task = build("task", f"game24(limit={options.puzzles})")
        settings = lines(LOW, ALPHA)
        drawn = {name: draw(store, task, engine, line) for name, line in settings.items()}
        asyncio.run(engine.close())
    figures = show_singles(console, singles(drawn))
    by_tokens, by_decoded = (show_equal(console, drawn, decoded) for decoded in (False, True))
    figures |= {
        "puzzles": options.puzzles,
        "recipes": settings,
        "equal_tokens": by_tokens[str(BUDGETS[1])],
        "equal_tokens_by_chains": by_tokens,
        "equal_decoded_tokens_by_chains": by_decoded,
        "pass@k": show_passes(console, drawn),
        "k": list(KS),
    }
    aligned = mean_interval(agreement(drawn["plain"]), support=(-0.5, 0.5))
    console.print(f"covariance of correctness, log p: {aligned.value:+.3f} [{aligned.low:+.3f}, {aligned.high:+.3f}]")
    figures["agreement"] = [aligned.value, aligned.low, aligned.high]
    print(json.dumps({**about("power", SEED, started), **rounded(figures)}))


if __name__ == "__main__":
    main()
