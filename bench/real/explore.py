"""What exploring is worth: groups of K draws that depend on one another, beside as many independent ones.

A group is scored as it was drawn. At equal tokens or seconds the dearer of two counts fewer of its draws, at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.real.figures import (
    Dealt,
    Difference,
    Figure,
    complete,
    difference,
    distinct_right,
    method,
    solved,
    spread_json,
)
from bench.real.pools import Pools

K = 16
POLICIES = ("plain", "temperature .6", "min-p", "esamp", "frozen", "zero", "css", "lss")


def group(dealt: Dealt, num: float) -> Figure:
    """Return whether some of `num` draws is right, `num` between whole numbers by lot."""
    low, share = math.floor(num), num - math.floor(num)
    below = dealt.at(solved, low, 1 if low == K else 100)
    if not share:
        return below
    above = dealt.at(solved, low + 1, 1 if low + 1 == K else 100)
    return above._replace(
        values=(1 - share) * below.values + share * above.values,
        tokens=(1 - share) * below.tokens + share * above.tokens,
        seconds=(1 - share) * below.seconds + share * above.seconds,
    )


def at_equal_cost(dealt: Dealt, plain: Dealt, by: str) -> Difference:
    """Return by how much a group is above plain draws at equal tokens or seconds: the dearer one counts fewer."""
    ratio = getattr(group(plain, K), by) / getattr(group(dealt, K), by)
    return difference(group(dealt, K * min(1.0, ratio)).values, group(plain, K * min(1.0, 1 / ratio)).values)


def explore_part(pools: Mapping[str, Pools], console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of each benchmark, and the claims' differences."""
    part: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    for name, own in pools.items():
        drawn = {each: method(own, each) for each in POLICIES}
        drawn = complete(drawn)
        if not {"lss", "css", "esamp"} & set(drawn):
            continue
        whole = {each: group(dealt, K) for each, dealt in drawn.items()}
        ways = {each: np.array([distinct_right(row, range(K)) for row in d.rows]) for each, d in drawn.items()}
        plain = whole["plain"]
        headings = ("tokens", "s", "pass@1", "over plain", "equal tokens", "equal seconds", "different right ones", "")
        table = Table(f"{name}, pass@{K} of groups", "", *headings, box=None)
        for each, figure in whole.items():
            dealt = drawn[each]
            one = float(np.mean([np.mean(row.grades) for row in dealt.rows]))
            gap = difference(figure.values, plain.values)
            equal = {
                f"equal {by}": at_equal_cost(dealt, drawn["plain"], by)
                for by in ("tokens", "seconds")
                if getattr(figure, by) > 0 and getattr(plain, by) > 0
            }
            more_ways = difference(ways[each] / K, ways["plain"] / K)
            if each != "plain":
                claims[f"{name}: {each}"] = {"equal draws": gap, **equal}
                if "esamp" in whole and each in ("css", "lss"):
                    claims[f"{name}: {each}"]["over esamp"] = difference(figure.values, whole["esamp"].values)
            data = figure.json()
            table.add_row(
                each,
                f"{data['accuracy']:.3f} [{data['low']:.3f}, {data['high']:.3f}]",
                f"{figure.tokens:,.0f}",
                f"{figure.seconds:.1f}",
                f"{one:.3f}",
                *(
                    ("", "", "")
                    if each == "plain"
                    else (str(gap), *(str(equal.get(f"equal {by}", "")) for by in ("tokens", "seconds")))
                ),
                f"{ways[each].mean():.2f}",
                ""
                if each == "plain"
                else f"{K * more_ways.value:+.2f} [{K * more_ways.low:+.2f}, {K * more_ways.high:+.2f}]",
            )
        console.print(table, "")
        learners = learning(own, console)
        part[name] = {
            "problems": len(drawn["plain"].rows),
            "draws": sum(len(row.grades) for dealt in drawn.values() for row in dealt.rows),
            "seconds": sum(figure.seconds * len(drawn["plain"].rows) for figure in whole.values()),
            **spread_json(whole),
            "pass@1": {each: np.mean([np.mean(row.grades) for row in d.rows]) for each, d in drawn.items()},
            "different_right": {each: values.mean() for each, values in ways.items()},
            "groups": learners,
        }
    return part, claims


def learning(pools: Pools, console: Console) -> dict[str, Any]:
    """Return what the policies measured of themselves, means over groups: does the learner learn?"""
    found: dict[str, Any] = {}
    for each in POLICIES:
        groups = [row.figures for row in pools.of(each) if row.figures]
        names = sorted({name for row in groups for name in row})
        if groups:
            found[each] = {n: float(np.mean([row[n] for row in groups if n in row])) for n in names}
            console.print(f"{each}: " + ", ".join(f"{n.replace('_', ' ')} {v:.3f}" for n, v in found[each].items()))
    return found
