"""One returned response: power sampling beside plain draws, low temperatures, and what the same tokens buy otherwise.

The accuracy of a method that leaves several responses is that of the one it returns: a draw by weight for weighted
ones, any of independent ones. Its tokens are those of all that it drew for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.real.figures import (
    Dealt,
    Difference,
    Figure,
    at_equal,
    chosen_by,
    complete,
    difference,
    method,
    passes,
    spread_json,
)
from bench.real.methods import METHODS
from bench.real.pools import Pools, Row
from samplewise.core.numerics import Floats
from samplewise.measure import mean_interval, paired_difference
from samplewise.recipe import parse_choice

ALPHA = 4.0
SIR = 16  # plain draws, weighted
MANY = 8  # responses of a method, of which some is right
KS = (1, 2, 4, 8, 12, 16)
SAMPLERS = ("power", "power, published", "tempering", "smc")
BY_CHOICE = {  # what is drawn, and how one of several responses is chosen
    "vote": ("plain", "vote"),
    "best(likelihood)": ("plain", "best(likelihood)"),
    "vote, T .25": ("temperature .25", "vote"),
    "best(likelihood), T .25": ("temperature .25", "best(likelihood)"),
    "vote, T .6": ("temperature .6", "vote"),
    "best(likelihood), T .6": ("temperature .6", "best(likelihood)"),
}


PRINTED = ("vote", "best(likelihood)")  # of them have columns on the screen
LIKELIEST = "best(likelihood), T .25"  # of few draws, cheaper than any sampler of p ** alpha


def weighted(row: Row, log_weights: Floats) -> float:
    """Return the expected grade of a draw taken by weight."""
    weights = np.exp(log_weights - log_weights.max())
    return float((weights * np.array(row.grades)).sum() / weights.sum())


def returned(dealt: Dealt) -> Figure:
    """Return the one response of each question: every question pays for all that was drawn for it."""
    values = [weighted(row, np.array(row.log_weights or np.zeros(len(row.grades)))) for row in dealt.rows]
    tokens = [row.helpers + sum(row.costs) + row.rest for row in dealt.rows]
    return Figure(np.array(values), float(np.mean(tokens)), drawn_seconds(dealt), dealt.rounds)


def saved(dealt: Dealt, other: Dealt, by: str) -> Difference:
    """Return the share of another method's tokens or seconds that a method does without, question by question.

    A method's seconds are shared out by what its questions cost in tokens.
    """
    own, theirs = (np.array([row.helpers + sum(row.costs) + row.rest for row in each.rows]) for each in (dealt, other))
    if by == "seconds":
        own = own / own.mean() * drawn_seconds(dealt)
        theirs = theirs / theirs.mean() * drawn_seconds(other)
    estimate = paired_difference(theirs / theirs.mean(), own / theirs.mean(), support=None)
    return Difference(estimate.value, estimate.low, estimate.high)


def drawn_seconds(dealt: Dealt) -> float:
    """Return the processor seconds a question, by the method's own sittings."""
    return dealt.seconds_per_token * float(np.mean([sum(row.tokens) for row in dealt.rows]))


def any_of(dealt: Dealt) -> Figure:
    """Return one of independent draws: every question pays for one."""
    whole = returned(dealt)
    num = float(np.mean([len(row.grades) for row in dealt.rows]))
    return whole._replace(tokens=whole.tokens / num, seconds=whole.seconds / num)


def any_of_all(dealt: Dealt, num: int) -> Figure:
    """Return whether some of `num` responses is right: of a weighted group, of all that it left."""
    if any(row.log_weights for row in dealt.rows):
        return returned(dealt)._replace(values=np.array([max(row.grades) for row in dealt.rows]), draws=num)
    return passes(dealt, [num])[0]


def choice_curve(dealt: Dealt, spec: str) -> list[Figure]:
    """Return what a selector makes of 1, 2, ... of a method's draws, as many of `KS` as it has."""
    least = min(len(row.grades) for row in dealt.rows)
    return dealt.curve(chosen_by(parse_choice(spec)[1]), [k for k in KS if k <= least])


def importance(plain: Dealt) -> Figure:
    """Return one of `SIR` plain draws, taken by p ** (alpha - 1): what `sir(16, 4)` returns."""
    values = []
    for row in plain.rows:
        values.append(weighted(row._replace(grades=row.grades[:SIR]), log_weights(row)))
    one = any_of(plain)
    return Figure(np.array(values), SIR * one.tokens, SIR * one.seconds, 1)


def exactness(drawn: Mapping[str, Dealt], own_model: bool, console: Console) -> dict[str, Any]:
    """Return how well the samplers mixed: acceptance, effective samples, and two estimates of log Z side by side.

    The estimates are compared where one model in one precision, `own_model`, drew for both.
    """
    found: dict[str, Any] = {}
    for name in SAMPLERS:
        own = [row.figures for row in drawn[name].rows] if name in drawn else []
        found |= {
            f"{name}: {key}": float(np.mean([figures[key] for figures in own if key in figures]))
            for key in ("acceptance", "changed", "swapped", "ess")
            if any(key in figures for figures in own)
        }
    logs = [log_weights(row) for row in drawn["plain"].rows]
    found["sir: ess"] = float(np.mean([effective(each) for each in logs]))
    if "smc" in drawn and own_model:
        pairs = [
            (row.figures["log_z"], log_mean(each))
            for row, each in zip(drawn["smc"].rows, logs, strict=True)
            if "log_z" in row.figures
        ]
        gap = mean_interval(np.array([mine - other for mine, other in pairs]), support=None)
        found |= {"log_z: smc - sir": gap.value, "log_z: low": gap.low, "log_z: high": gap.high}
    console.print(", ".join(f"{key} {value:.3f}" for key, value in found.items()), "")
    return found


def log_weights(row: Row) -> Floats:
    """Return the log-weights (N,) of plain draws for p ** alpha, nats."""
    logs: Floats = (ALPHA - 1) * np.array([np.nan if value is None else value for value in row.logps[:SIR]])
    return logs


def effective(logs: Floats) -> float:
    """Return the effective number of samples of log-weights (N,)."""
    weights = np.exp(logs - logs.max())
    return float(weights.sum() ** 2 / (weights**2).sum())


def log_mean(logs: Floats) -> float:
    """Return the log of the mean of weights (N,), given by their logs."""
    return float(logs.max() + np.log(np.mean(np.exp(logs - logs.max()))))


def power_part(pools: Mapping[str, Pools], console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of each benchmark, and the claims' differences."""
    rounds = {each.name: float(each.rounds) for each in METHODS}
    part: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    for name, own in pools.items():
        drawn = {each: method(own, each, rounds=rounds[each]) for each in ("plain", *_singles(), *SAMPLERS)}
        drawn = complete(drawn)
        if not set(SAMPLERS) & set(drawn):
            continue
        figures = {each: any_of(drawn[each]) for each in ("plain", *_singles()) if each in drawn}
        figures["sir"] = importance(drawn["plain"])
        figures |= {each: returned(drawn[each]) for each in SAMPLERS if each in drawn}
        curves = {
            word: choice_curve(drawn[source], spec) for word, (source, spec) in BY_CHOICE.items() if source in drawn
        }
        low = figures["temperature .25"].values if "temperature .25" in figures else figures["plain"].values
        pairs = [f"over {word} at equal {by}" for word in PRINTED for by in ("tokens", "seconds")]
        table = Table(f"{name}, one response", "accuracy", "tokens", "rounds", "s", "over T .25", *pairs, box=None)
        for each, figure in figures.items():
            own_claims = {"over low temperature": difference(figure.values, low)}
            if each == "power" and "power, published" in figures:
                own_claims["over published"] = difference(figure.values, figures["power, published"].values)
                for by in ("tokens", "seconds"):
                    own_claims[f"share of {by} saved"] = saved(drawn[each], drawn["power, published"], by)
            for word, curve in curves.items():
                for by in ("tokens", "seconds"):
                    same = at_equal(curve, KS[: len(curve)], getattr(figure, by), by=by)
                    if not np.isnan(same).any():
                        own_claims[f"over {word} at equal {by}"] = difference(figure.values, same)
            if LIKELIEST in curves:
                few = curves[LIKELIEST][-1]
                own_claims[f"over {LIKELIEST} of {few.draws:.0f}"] = difference(figure.values, few.values)
            claims[f"{name}: {each}"] = own_claims
            shown = [str(own_claims.get(pair, "")) for pair in pairs]
            table.add_row(each, *_cells(figure), str(own_claims["over low temperature"]), *shown)
        for word, curve in curves.items():
            for k, figure in zip(KS, curve, strict=False):
                if k in (4, 16):
                    figures[f"{word} of {k}"] = figure
                    table.add_row(f"{word} of {k}", *_cells(figure), str(difference(figure.values, low)))
        for each, dealt in drawn.items():
            num = min(MANY, min(len(row.grades) for row in dealt.rows))
            if num > 1:
                figures[f"{each}, any of {num}"] = any_of_all(dealt, num)
                table.add_row(f"{each}, any of {num}", *_cells(figures[f"{each}, any of {num}"]))
        console.print(table, "")
        part[name] = {
            "exactness": exactness(drawn, own.models("smc") == own.models("plain"), console),
            "problems": len(drawn["plain"].rows),
            "draws": sum(len(row.grades) for dealt in drawn.values() for row in dealt.rows),
            "seconds": sum(drawn_seconds(dealt) * len(dealt.rows) for dealt in drawn.values()),
            **spread_json(figures),
        }
    return part, claims


def _singles() -> tuple[str, ...]:
    return ("greedy", "temperature .25", "temperature .6")


def _cells(figure: Figure) -> tuple[str, ...]:
    data = figure.json()
    return (
        f"{data['accuracy']:.3f} [{data['low']:.3f}, {data['high']:.3f}]",
        f"{figure.tokens:,.0f}",
        f"{figure.rounds:.0f}",
        f"{figure.seconds:.1f}",
    )
