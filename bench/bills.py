"""Bills against a meter: what tables, curves, plans and effects say a recipe costs, and what running it costs.

Every recipe of `tests.support.bills` is run, billed at its own number of draws and at fewer, and every line that a
table, a curve, a plan or an effect names is then run in an empty store on an engine that counts for itself. Helpers,
judges, reward models, stop rules, draws sent ahead, failed attempts and samplers whose draws depend on one another are
among them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial

from rich.console import Console
from rich.table import Table
from tests.support.bills import (
    RECIPES,
    WORD,
    Claim,
    Meter,
    World,
    claims,
    costly_verifiers,
    effect_claims,
    largest_difference,
    words,
)

from bench.about import about, rounded

DIRECT = f"repeat(60, {WORD}) | vote"
ENGINES: dict[str, Callable[[], Meter]] = {
    "as asked": Meter,
    "three of ten fail once": partial(Meter, fails=0.3),
    "slow": partial(Meter, slow=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=2, help="at least 2")
    started, console = time.monotonic(), Console()
    task = words(parser.parse_args().questions)
    table = Table("recipe", "engine", "claims", "largest difference, tokens", box=None)
    largest, num_claims, lines = 0.0, 0, set[str]()
    with costly_verifiers():
        for name, engine in ENGINES.items():
            world = World(task, engine)
            for line in RECIPES:
                found: list[Claim] = claims(world, line)
                if name == "as asked" and "vary" in line and "repeat(8" in line:
                    found += effect_claims(world, DIRECT, line)
                difference, _ = largest_difference(world, found)
                largest, num_claims = max(largest, difference), num_claims + len(found)
                lines |= {claim.recipe for claim in found}
                table.add_row(line, name, str(len(found)), f"{difference:.3g}")
    console.print(table)
    difference = 0.0 if largest < 1e-9 else largest  # means over questions are rounded
    figures = {"recipes": len(RECIPES), "lines": len(lines), "claims": num_claims, "largest_difference": difference}
    console.print(f"{num_claims} claims about {len(lines)} lines; largest difference {difference:.3g} tokens")
    print(json.dumps({**about("bills", 0, started), **rounded(figures)}))


if __name__ == "__main__":
    main()
