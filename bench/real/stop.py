"""When to stop: rules replayed on plain draws in many random orders, beside fixed numbers at equal tokens.

On code a rule sees the score of the tests that the question shows, on maths votes or log-probabilities. Settings that
are chosen are chosen on the other half of the problems. A fixed number has one round; a rule that looks after every
draw has as many as it draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.real.benchmarks import BENCHMARKS
from bench.real.figures import KEY, Difference, greedy_of, method
from bench.real.pools import Pools, stored
from bench.stop_replay import NUM_ORDERS, Measured, at_equal_tokens, bootstrap, frontier, measured
from samplewise.core.numerics import Floats
from samplewise.core.registry import build
from samplewise.recipe import parse_choice
from samplewise.runs.orders import StoredPool, replay_pools
from samplewise.stop.base import StopRule

CAP = 16


class Family(NamedTuple):
    """A rule in several settings, of which one is chosen on the other half, and the selector after it."""

    specs: tuple[str, ...]
    selector: str = "vote"
    released: bool = False


VOTES = {
    "asc .95": Family(("asc(0.95)",)),
    "esc 4": Family(("esc(4)",)),
    "agreement 2": Family(("agreement(2)",)),
    "lead 3": Family(("lead(3)",)),
    "vote_e .05": Family(("vote_e(0.05)",)),
    "asc, chosen": Family(tuple(f"asc({c})" for c in (0.6, 0.7, 0.8, 0.9, 0.95, 0.99))),
    "vote_plan, chosen": Family(
        tuple(
            f"vote_plan(price_round={r}, price_draw={d}, cap={CAP})"
            for r in (0.002, 0.01)
            for d in (0.001, 0.003, 0.01, 0.03)
        )
    ),
}
TESTS = "public_tests"
PASSES = {
    "first pass": Family((f"passed({TESTS}, cap={CAP})",), f"best({TESTS})"),
    "first pass, futile below .05": Family((f"passed({TESTS}, price=0.05, cap={CAP})",), f"best({TESTS})"),
    "optscale": Family((f"optscale(0.95, {TESTS}, target=1, cap={CAP})",), f"best({TESTS})"),
    "optscale, released": Family(
        (f"optscale(0.95, {TESTS}, target=1, mode='code', peek=4, cap={CAP})",), f"best({TESTS})"
    ),
}


def stop_part(pools: Mapping[str, Pools], console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of each benchmark, and the claims' differences."""
    part: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    for name, own in pools.items():
        rows = method(own, "plain").rows
        if BENCHMARKS[name].is_code:
            rows = [row for row in rows if row.scores.get(TESTS)]
        if not rows:
            continue
        replayed = [pool.first(CAP) for pool in stored(rows)]
        seconds = own.seconds_per_token("plain") * float(np.mean([t for row in rows for t in row.tokens]))
        families = PASSES if BENCHMARKS[name].is_code else VOTES
        figures, own_claims = score(console, f"{name}, {len(rows)} problems", replayed, families, seconds)
        claims |= {f"{name}: {each}": value for each, value in own_claims.items()}
        greedy = greedy_of(own, {row.question for row in rows})
        if greedy is not None:
            figures["greedy"] = greedy.json()
        part[name] = {
            "problems": len(rows),
            "draws": sum(len(row.grades) for row in rows),
            "seconds": seconds * CAP * len(rows),
            **figures,
        }
    return part, claims


def score(
    console: Console, title: str, pools: Sequence[StoredPool], families: Mapping[str, Family], draw_s: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return each family's figures, and what it gains over the fixed number at equal tokens."""
    key, groups = KEY.fold("stop"), [pool.question.id for pool in pools]
    selectors = {family.selector: parse_choice(family.selector)[1] for family in families.values()}
    lines = {spec: frontier(selector, pools, CAP, key) for spec, selector in selectors.items()}
    sides = np.arange(len(pools)) % 2
    figures: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    chosen_rows: dict[str, Measured] = {}
    table = Table(title, "accuracy", "draws", "tokens", "rounds", "s", "over fixed, equal tokens", "setting", box=None)
    for name, family in families.items():
        line = lines[family.selector]
        rows = []
        for spec in family.specs:
            rule: StopRule[Any] = build("stop", spec)
            found = replay_pools(
                [rule] * len(pools), selectors[family.selector], pools, key, caps=[CAP], num_orders=NUM_ORDERS
            )
            rows.append(measured(found[0]))
        picks = [int(np.argmax([above(row, line, sides != side).mean() for row in rows])) for side in (0, 1)]
        chosen = Measured(*(np.where(sides == 0, a, b) for a, b in zip(rows[picks[0]], rows[picks[1]], strict=True)))
        gains = np.zeros(len(pools))
        for side in (0, 1):
            gains[sides == side] = above(chosen, line, sides == side)
        gap = Difference(float(gains.mean()), *bootstrap(gains, groups, key.fold(name)))
        settings = " / ".join(dict.fromkeys(family.specs[pick] for pick in picks))
        claims[name] = {"equal tokens": gap}
        chosen_rows[name] = chosen
        figures[name] = {**as_json(chosen, draw_s), "settings": settings}
        table.add_row(name, *cells(figures[name]), str(gap), settings if len(family.specs) > 1 else "")
    if "optscale, released" in chosen_rows:
        theirs = chosen_rows["optscale, released"].accuracy
        gains = chosen_rows["first pass"].accuracy - theirs
        claims["first pass"]["over optscale, released"] = Difference(
            float(gains.mean()), *bootstrap(gains, groups, key.fold("released"))
        )
    for spec, line in lines.items():
        for num in (1, 2, 4, 8, 16):
            figures[f"{spec} of {num}"] = as_json(line[num - 1], draw_s, rounds=1.0)
            table.add_row(f"{spec} of {num}", *cells(figures[f"{spec} of {num}"]))
    console.print(table, "")
    return figures, claims


def above(row: Measured, line: Sequence[Measured], some: Any) -> Floats:
    """Return by how much a rule is above the fixed numbers at equal tokens, for some questions."""
    part = [Measured(*(column[some] for column in each)) for each in line]
    gains: Floats = row.accuracy[some] - at_equal_tokens(part, float(row.tokens[some].mean()))
    return gains


def as_json(row: Measured, draw_s: float, rounds: float | None = None) -> dict[str, Any]:
    """Return what the bench prints of a rule; seconds are a processor's, for the mean number of draws."""
    from samplewise.measure import mean_interval

    estimate = mean_interval(row.accuracy)
    return {
        "accuracy": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "draws": float(row.samples.mean()),
        "tokens": float(row.tokens.mean()),
        "rounds": float(row.rounds.mean()) if rounds is None else rounds,
        "seconds": float(row.samples.mean()) * draw_s,
    }


def cells(data: Mapping[str, Any]) -> list[str]:
    """Return a table's cells."""
    return [
        f"{data['accuracy']:.3f} [{data['low']:.3f}, {data['high']:.3f}]",
        f"{data['draws']:.2f}",
        f"{data['tokens']:,.0f}",
        f"{data['rounds']:.2f}",
        f"{data['seconds']:.1f}",
    ]
