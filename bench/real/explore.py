"""What exploring is worth: groups of K draws that depend on one another, beside as many independent ones.

A group is scored as it was drawn. At equal tokens or seconds the dearer of two counts fewer of its draws, at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

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
from samplewise.core.numerics import Floats

K, FEW = 16, 8  # draws of a group
POLICIES = ("plain", "temperature .6", "min-p", "esamp", "frozen", "zero", "css", "lss")
SMALL = tuple(f"{policy} of {FEW}" for policy in ("esamp", "lss"))


def group(dealt: Dealt, num: float) -> Figure:
    """Return whether some of `num` draws is right, `num` between whole numbers by lot."""
    most = min(len(row.grades) for row in dealt.rows)
    low, share = math.floor(num), num - math.floor(num)
    below = dealt.at(solved, low, 1 if low == most else 100)
    if not share:
        return below
    above = dealt.at(solved, low + 1, 1 if low + 1 == most else 100)
    return above._replace(
        values=(1 - share) * below.values + share * above.values,
        tokens=(1 - share) * below.tokens + share * above.tokens,
        seconds=(1 - share) * below.seconds + share * above.seconds,
    )


def at_equal_cost(dealt: Dealt, plain: Dealt, k: int, by: str) -> Difference:
    """Return by how much a group of k is above plain draws at equal tokens or seconds: the dearer one counts fewer."""
    ratio = getattr(group(plain, k), by) / getattr(group(dealt, k), by)
    return difference(group(dealt, k * min(1.0, ratio)).values, group(plain, k * min(1.0, 1 / ratio)).values)


class Groups(NamedTuple):
    """Methods at one size of group: pass@k, different right answers, and what they gain over plain draws."""

    figures: dict[str, Figure]
    ways: dict[str, Floats]  # (P,)
    over_plain: dict[str, dict[str, Difference]]


def groups_of(drawn: Mapping[str, Dealt], k: int) -> Groups:
    """Return the figures of groups of k, where `plain` has as many draws or more."""
    whole = {each: group(dealt, k) for each, dealt in drawn.items()}
    ways = {each: np.array([distinct_right(row, range(k)) for row in dealt.rows]) for each, dealt in drawn.items()}
    plain = whole["plain"]
    over: dict[str, dict[str, Difference]] = {}
    for each, figure in whole.items():
        if each == "plain":
            continue
        over[each] = {"equal draws": difference(figure.values, plain.values)}
        for by in ("tokens", "seconds"):
            if getattr(figure, by) > 0 and getattr(plain, by) > 0:
                over[each][f"equal {by}"] = at_equal_cost(drawn[each], drawn["plain"], k, by)
        policy, _, size = each.partition(" of ")
        esamp = "esamp" if not size else f"esamp of {size}"
        if esamp in whole and policy in ("css", "lss"):
            over[each]["over esamp"] = difference(figure.values, whole[esamp].values)
    return Groups(whole, ways, over)


def show(name: str, drawn: Mapping[str, Dealt], found: Groups, k: int, console: Console) -> None:
    """Print what groups of k hold."""
    ways_of_counting = ("equal draws", "equal tokens", "equal seconds")
    headings = ("tokens", "s", "pass@1", "over plain", *ways_of_counting[1:], "different right ones", "")
    table = Table(f"{name}, pass@{k} of groups", "", *headings, box=None)
    for each, figure in found.figures.items():
        one = float(np.mean([np.mean(row.grades) for row in drawn[each].rows]))
        gaps = found.over_plain.get(each, {})
        more = difference(found.ways[each] / k, found.ways["plain"] / k)
        data = figure.json()
        table.add_row(
            each,
            f"{data['accuracy']:.3f} [{data['low']:.3f}, {data['high']:.3f}]",
            f"{figure.tokens:,.0f}",
            f"{figure.seconds:.1f}",
            f"{one:.3f}",
            *(str(gaps.get(way, "")) for way in ways_of_counting),
            f"{found.ways[each].mean():.2f}",
            "" if each == "plain" else f"{k * more.value:+.2f} [{k * more.low:+.2f}, {k * more.high:+.2f}]",
        )
    console.print(table, "")


def explore_part(pools: Mapping[str, Pools], console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of each benchmark, and the claims' differences."""
    part: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    for name, own in pools.items():
        drawn = complete({each: method(own, each) for each in POLICIES})
        if not {"lss", "css", "esamp"} & set(drawn):
            continue
        found = groups_of(drawn, K)
        show(name, drawn, found, K, console)
        claims |= {f"{name}: {each}": gaps for each, gaps in found.over_plain.items()}
        figures, counted = dict(found.figures), dict(drawn)
        small = complete({each: method(own, each) for each in ("plain", *SMALL)})
        if len(small) > 1:
            few = groups_of(small, FEW)
            show(name, small, few, FEW, console)
            claims |= {f"{name}: {each}": gaps for each, gaps in few.over_plain.items()}
            figures |= {f"plain of {FEW}" if each == "plain" else each: f for each, f in few.figures.items()}
            counted |= {each: dealt for each, dealt in small.items() if each != "plain"}
        part[name] = {
            "problems": len(drawn["plain"].rows),
            "draws": sum(len(row.grades) for dealt in counted.values() for row in dealt.rows),
            "seconds": sum(group(d, len(d.rows[0].grades)).seconds * len(d.rows) for d in counted.values()),
            **spread_json(figures),
            "pass@1": {each: np.mean([np.mean(row.grades) for row in d.rows]) for each, d in drawn.items()},
            "different_right": {each: values.mean() for each, values in found.ways.items()},
            "groups": learning(own, console),
        }
    return part, claims


def learning(pools: Pools, console: Console) -> dict[str, Any]:
    """Return what the policies measured of themselves, means over groups: does the learner learn?"""
    found: dict[str, Any] = {}
    for each in (*POLICIES, *SMALL):
        groups = [row.figures for row in pools.of(each) if row.figures]
        names = sorted({name for row in groups for name in row})
        if groups:
            found[each] = {n: float(np.mean([row[n] for row in groups if n in row])) for n in names}
            console.print(f"{each}: " + ", ".join(f"{n.replace('_', ' ')} {v:.3f}" for n, v in found[each].items()))
    return found
