"""What selectors make of plain draws: the same pools, the same tokens, each way to choose."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.real.benchmarks import BENCHMARKS
from bench.real.figures import Figure, chosen_by, difference, method, passes, spread_json
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
    "weighted(likelihood)": "weighted(likelihood)",
    "best(likelihood)": "best(likelihood)",
}
BY_TESTS = {"best(public_tests)": "best(public_tests)"}


def select_part(pools: Mapping[str, Pools], console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of each benchmark, and the claims' differences.

    An answer of a program is its behavior on shared inputs, so that `vote` is `behaviour` there: text votes are worth
    nothing.
    """
    part: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    for name, own in pools.items():
        plain = method(own, "plain")
        if not plain.rows:
            continue
        specs = {**SELECTORS, **(BY_TESTS if BENCHMARKS[name].is_code else {})}
        figures: dict[str, Figure] = {}
        for each, spec in specs.items():
            worth = chosen_by(parse_choice(spec)[1])
            figures |= {f"{each} of {k}": plain.at(worth, k) for k in KS}
        figures |= {f"any of {k}": passes(plain, k) for k in KS}
        if BENCHMARKS[name].is_code:
            figures |= {f"text vote of {k}": text_vote(plain, k) for k in KS}
        vote = figures[f"vote of {K}"].values
        table = Table(f"{name}, chosen of", *map(str, KS), "tokens", f"over vote of {K}", box=None)
        for each in [*specs, *(["text vote"] if BENCHMARKS[name].is_code else []), "any"]:
            gap = difference(figures[f"{each} of {K}"].values, vote)
            claims[f"{name}: {each} of {K}"] = {"over vote": gap}
            if f"text vote of {K}" in figures and each == "vote":
                claims[f"{name}: {each} of {K}"]["over text vote"] = difference(
                    vote, figures[f"text vote of {K}"].values
                )
            cells = [f"{figures[f'{each} of {k}'].values.mean():.3f}" for k in KS]
            table.add_row(each, *cells, f"{figures[f'{each} of {K}'].tokens:,.0f}", str(gap))
        console.print(table, "")
        part[name] = {
            "problems": len(plain.rows),
            "draws": sum(len(row.grades) for row in plain.rows),
            "seconds": figures[f"any of {K}"].seconds * len(plain.rows),
            **spread_json(figures),
        }
    return part, claims


def text_vote(plain: Any, k: int) -> Figure:
    """Return a vote over programs as they are written, names aside."""
    rows = [row._replace(answers=row.shapes) for row in plain.rows]
    return plain._replace(rows=rows).at(chosen_by(parse_choice("vote")[1]), k)
