"""What selectors make of plain draws: the same pools, the same tokens, each way to choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.real.benchmarks import BENCHMARKS
from bench.real.figures import Figure, chosen_by, difference, greedy_of, method, passes, spread_json
from bench.real.pools import Pools
from samplewise.recipe import parse_choice

K = 16
KS = (4, 16)
SELECTORS = {
    "first": "first",
    "vote": "vote",
    "softsat": "softsat",
    "sharpened 2": "sharpened(2)",
    "borda(likelihood)": "borda(likelihood)",
    "best(likelihood)": "best(likelihood)",
}
FOR_CODE = {"behaviour": "behaviour", "best(public_tests)": "best(public_tests)"}


def select_part(pools: Mapping[str, Pools], console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of each benchmark, and the claims' differences."""
    part: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    for name, own in pools.items():
        plain = method(own, "plain")
        if not plain.rows:
            continue
        specs = {**SELECTORS, **(FOR_CODE if BENCHMARKS[name].is_code else {})}
        figures: dict[str, Figure] = {}
        for each, spec in specs.items():
            worth = chosen_by(parse_choice(spec)[1])
            figures |= dict(zip((f"{each} of {k}" for k in KS), plain.curve(worth, KS), strict=True))
        figures |= dict(zip((f"any of {k}" for k in KS), passes(plain, KS), strict=True))
        greedy = greedy_of(own, {row.question for row in plain.rows})
        if greedy is not None:
            figures["greedy"] = greedy
        vote = figures[f"vote of {K}"].values
        table = Table(f"{name}, chosen of", *map(str, KS), "tokens", f"over vote of {K}", box=None)
        for each in [*specs, "any"]:
            gap = difference(figures[f"{each} of {K}"].values, vote)
            claims[f"{name}: {each} of {K}"] = {"over vote": gap}
            cells = [f"{figures[f'{each} of {k}'].values.mean():.3f}" for k in KS]
            table.add_row(each, *cells, f"{figures[f'{each} of {K}'].tokens:,.0f}", str(gap))
        if greedy is not None:
            gap = difference(greedy.values, vote)
            table.add_row("greedy", f"{greedy.values.mean():.3f}", "", f"{greedy.tokens:,.0f}", str(gap))
        console.print(table, "")
        part[name] = {
            "problems": len(plain.rows),
            "draws": sum(len(row.grades) for row in plain.rows),
            "seconds": figures[f"any of {K}"].seconds * len(plain.rows),
            **spread_json(figures),
        }
    return part, claims
