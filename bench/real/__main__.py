"""What vary, power sampling, exploring, stopping and choosing are worth on a real language model.

Draws come first, bounded by `--minutes`, into a store under the user's cache folder; each finished chunk of problems is
recorded in bench/real/pools, and what is recorded is never drawn again. Then every table is decided from the recorded
pools, without a model: `--minutes 0` does only that.

The model is a folder, found under `$SAMPLEWISE_MODELS` or ~/.cache/samplewise-models, or `--engine` names another one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from bench.about import about, rounded
from bench.real.benchmarks import BENCHMARKS, NUM_PROBLEMS, SEED, Benchmark, load
from bench.real.claims import Verdict, claims_json, table, verdicts
from bench.real.draw import cache_folder, draw, missing, record_again
from bench.real.explore import explore_part
from bench.real.methods import METHODS, Method
from bench.real.page import renew
from bench.real.pools import Pools, read_pools
from bench.real.power import power_part
from bench.real.select import select_part
from bench.real.stop import stop_part
from bench.real.vary import vary_part
from samplewise.core.registry import build
from samplewise.store.database import Store

PARTS = ("plain", "vary", "power", "explore", "stop", "select")
MODEL = "qwen-coder"


def default_engine() -> str:
    """Return the spec of the model's folder, in the precision that its weights come in."""
    home = os.environ.get("SAMPLEWISE_MODELS") or Path.home() / ".cache" / "samplewise-models"
    return f"local('{Path(home) / MODEL}', device='cpu', dtype='bfloat16', max_rows=256)"


def show_size(console: Console, methods: Sequence[Method], names: Sequence[str]) -> None:
    """Say what is drawn, what is recorded of it, and what interval the size allows."""
    table = Table("benchmark", "method", "recorded", "of", "draws", box=None)
    for name in names:
        pools = read_pools(name)
        for method in methods:
            if name in method.benchmarks:
                rows = pools.of(method.name)
                table.add_row(
                    name, method.name, str(len(rows)), str(NUM_PROBLEMS), str(sum(len(r.grades) for r in rows))
                )
    console.print(table)
    console.print(
        f"{NUM_PROBLEMS} problems a benchmark: a mean near one half is known to within about "
        f"{1.96 * 0.4 / NUM_PROBLEMS**0.5:.2f}, a paired difference whose spread is .3 to within "
        f"{1.96 * 0.3 / NUM_PROBLEMS**0.5:.2f} (95 %)"
    )


def draw_all(options: argparse.Namespace, methods: tuple[Method, ...], benchmarks: Sequence[Benchmark]) -> None:
    """Draw what is missing, method by method over the benchmarks, until the time is over."""
    until = time.monotonic() + 60 * options.minutes
    engine = build("engine", options.engine or default_engine())
    tasks = {benchmark.name: load(benchmark) for benchmark in benchmarks}
    try:
        with Store(options.store or cache_folder() / "draws.db") as store:
            for method in methods:
                for benchmark in benchmarks:
                    for _, chunk in missing(benchmark, (method,), tasks[benchmark.name]):
                        if time.monotonic() > until or not draw(benchmark, method, chunk, engine, store, until):
                            return
    finally:
        asyncio.run(engine.close())


class Decided(NamedTuple):
    """A part's figures by benchmark, and its differences by benchmark and method."""

    figures: dict[str, Any]
    differences: dict[str, Any]


DECIDED: Mapping[str, Callable[[Mapping[str, Pools], Console], tuple[dict[str, Any], dict[str, Any]]]] = {
    "vary": vary_part,
    "power": power_part,
    "explore": explore_part,
    "stop": stop_part,
    "select": select_part,
}


def decide(pools: Mapping[str, Pools], parts: Sequence[str], console: Console) -> dict[str, Decided]:
    """Decide every table from recorded pools."""
    return {part: Decided(*DECIDED[part](pools, console)) for part in parts}


def verdicts_of(found: Mapping[str, Decided]) -> dict[str, list[Verdict]]:
    """Return what each part's differences say of its claims."""
    return {part: verdicts({part: each.differences}) for part, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="draw for so long; 0 decides on recorded pools alone"
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="one part, or several; all by default")
    parser.add_argument("--benchmark", choices=BENCHMARKS, action="append", help="one, or several; all by default")
    parser.add_argument("--method", action="append", help="draw only these methods")
    parser.add_argument("--engine", help="another model: an engine as on the command line, such as http(...)")
    parser.add_argument("--again", action="store_true", help="record finished draws of the store once more")
    parser.add_argument("--page", action="store_true", help="renew the tables and pictures of docs/evidence.md")
    parser.add_argument("--store", type=Path, help="keep the draws here")
    options = parser.parse_args()
    if options.page and (options.part or options.benchmark):
        parser.error("--page renews the whole page: leave --part and --benchmark out")
    started, console = time.monotonic(), Console(width=130)
    names = options.benchmark or list(BENCHMARKS)
    parts = options.part or list(PARTS)
    methods = tuple(m for m in METHODS if m.part in (*parts, "plain") and m.name in (options.method or [m.name]))
    show_size(console, methods, names)
    if options.again:
        with Store(options.store or cache_folder() / "draws.db", must_exist=True) as store:
            record_again(store)
    if options.minutes:
        draw_all(options, methods, [BENCHMARKS[name] for name in names])
        show_size(console, methods, names)
    found = decide({name: read_pools(name) for name in names}, [p for p in DECIDED if p in parts], console)
    by_part = verdicts_of(found)
    rows = [row for own in by_part.values() for row in own]
    console.print(Markdown(table(rows)))
    figures = {part: each.figures for part, each in found.items()}
    if options.page:
        renew(figures, by_part)
    print(json.dumps({**about("real", SEED, started), **rounded({**figures, "claims": claims_json(rows)})}))


if __name__ == "__main__":
    main()
