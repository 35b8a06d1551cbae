"""What varying the prompt is worth: pass@k and choices of each arm and of the mix, beside direct draws.

Direct draws for comparison are those of `plain`; a mix has its own. Arms that ask a helper are charged its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    common,
    difference,
    joined,
    method,
    passes,
    solved,
    spread_json,
)
from bench.real.pools import Pools
from samplewise.recipe import parse_choice

KS = (1, 2, 4, 8, 16, 32)
LEVELS = {  # of relevance, from a poem to the question in other words
    "1 jabberwocky": ("fixed arms", "jabberwocky"),
    "2 role": ("fixed arms", "role"),
    "3 instruction": ("fixed arms", "instruction"),
    "4 idea": ("ideas", "idea"),
    "5 rephrase": ("rephrasings", "rephrase"),
}
MIX = ("role", "instruction", "idea", "rephrase")
CHOICES = {"vote": "vote", "log-pool": "log_pool", "best(likelihood)": "best(likelihood)", "arm vote": "arm_vote"}


def arms_of(pools: Pools) -> dict[str, Dealt]:
    """Return direct draws, each level's arm, the ladder and the mix, as far as they are recorded."""
    direct = method(pools, "plain")
    more = method(pools, "plain, more")
    found = {"direct": joined(direct, more) if more.rows else direct}
    for name, (run, arm) in LEVELS.items():
        found[name] = method(pools, run, (arm,), 2.0 if arm in ("idea", "rephrase") else 1.0)
    found["ladder"] = method(pools, "ladder", ("ladder",))
    parts = [method(pools, "fixed arms", ("direct", "role", "instruction"))]
    parts += [method(pools, "ideas", ("idea",), 2.0), method(pools, "rephrasings", ("rephrase",), 2.0)]
    if all(part.rows for part in parts):
        found["mix"] = joined(*parts)
    found["mix without helpers"] = parts[0]
    return {name: dealt for name, dealt in found.items() if dealt.rows}


def vary_part(pools: Mapping[str, Pools], console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of each benchmark, and the claims' differences."""
    part: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    for name, own in pools.items():
        drawn = arms_of(own)
        if len(drawn) < 3:
            continue
        drawn = dict(zip(drawn, common(*drawn.values()), strict=True))
        figures: dict[str, Figure] = {}
        direct_ks = [k for k in KS if k <= min(len(row.grades) for row in drawn["direct"].rows)]
        curve = [passes(drawn["direct"], k) for k in direct_ks]
        table = Table(f"{name}, pass@k", *map(str, KS), "tokens a draw", "over direct, equal draws", "tokens", box=None)
        for each, dealt in drawn.items():
            ks = [k for k in KS if k <= min(len(row.grades) for row in dealt.rows)]
            mine = curve if each == "direct" else dealt.curve(solved, ks)
            figures |= {f"{each} pass@{k}": figure for k, figure in zip(ks, mine, strict=True)}
            last = min(len(ks), len(direct_ks)) - 1
            own_gaps = gaps(mine[last], curve, direct_ks)
            if each != "direct":
                claims |= {
                    f"{name}: {each} at {k}": gaps(mine[i], curve, direct_ks)
                    for i, k in enumerate(ks)
                    if k in direct_ks
                }
            cells = [f"{figure.values.mean():.3f}" for figure in mine] + [""] * (len(KS) - len(ks))
            beside = (
                ("", "")
                if each == "direct"
                else (f"@{ks[last]} {own_gaps['equal draws']}", str(own_gaps["equal tokens"]))
            )
            table.add_row(each, *cells, f"{mine[-1].tokens / ks[-1]:.0f}", *beside)
        console.print(table, "")
        part[name] = {
            "problems": len(drawn["direct"].rows),
            "draws": sum(len(row.grades) for each in drawn.values() for row in each.rows),
            "seconds": sum(s.processor_s for s in own.sittings if s.method in ("plain", "fixed arms", "ideas")),
            **spread_json(figures),
        }
        if "mix" in drawn:
            claims |= choices(name, drawn, part[name], console)
    return part, claims


def gaps(figure: Figure, direct: Sequence[Figure], ks: Sequence[int]) -> dict[str, Difference]:
    """Return by how much a figure is above direct draws: as many, as many tokens, as many seconds."""
    same = {
        "equal draws": direct[list(ks).index(round(figure.draws))].values,
        "equal tokens": at_equal(direct, ks, figure.tokens),
        "equal seconds": at_equal(direct, ks, figure.seconds, by="seconds"),
    }
    return {name: difference(figure.values, values) for name, values in same.items() if not np.isnan(values).all()}


def choices(name: str, drawn: Mapping[str, Dealt], figures: dict[str, Any], console: Console) -> dict[str, Any]:
    """Show what selectors make of direct draws and of the mix, and return the claims' differences."""
    k = min(16, *(len(row.grades) for each in ("direct", "mix") for row in drawn[each].rows))
    table = Table(f"{name}, chosen of {k}", "direct", "mix", "mix over direct", box=None)
    claims: dict[str, Any] = {}
    found: dict[str, dict[str, Figure]] = {}
    for word, spec in {**CHOICES, **BY_TESTS}.items():
        worth = chosen_by(parse_choice(spec)[1])
        if word in BY_TESTS and not any("public_tests" in row.scores for row in drawn["mix"].rows):
            continue
        found[word] = {each: drawn[each].at(worth, k) for each in ("direct", "mix")}
        gap = difference(found[word]["mix"].values, found[word]["direct"].values)
        claims[f"{name}: {word} of {k}"] = {"mix over direct": gap}
        cells = [f"{found[word][each].values.mean():.3f}" for each in ("direct", "mix")]
        table.add_row(word, *cells, str(gap))
        figures |= {f"{word} of {k}, {each}": figure.json() for each, figure in found[word].items()}
    pooled = difference(found["log-pool"]["mix"].values, found["vote"]["mix"].values)
    claims[f"{name}: log-pool of {k}"]["over vote, on the mix"] = pooled
    console.print(table, f"log-pool over vote, on the mix: {pooled}", "")
    return claims


BY_TESTS = {"best(public_tests)": "best(public_tests)"}
