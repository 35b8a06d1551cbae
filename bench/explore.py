"""What exploring is worth, every policy and control beside plain draws: a toy whose truth is known, and real puzzles.

toy      the branching-paths world: valid paths, distinct ones and rare ones, in groups of 8 and 16
game24   the bundled model on held-out puzzles: pass@K of groups of 4, 16 and 64 at equal tokens

Settings are chosen elsewhere (`--choose`): in another world, on other puzzles.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from bench.about import about, rounded
from bench.explore_game24 import KS, game24
from bench.explore_toy import toy

SEED = 0
PARTS = ("toy", "game24")


def fields(part: str, found: dict[str, Any]) -> dict[str, Any]:
    """A part's figures as the bench prints them: for the toy by K and policy, for puzzles pass@K by policy and K."""
    if part == "toy":
        return {"toy": {size: each["rows"] for size, each in found.items()}}
    options = found.pop("options", None)
    names = dict.fromkeys(name for each in found.values() for name in each)
    by_way = {name: {k: each[name]["equal"] for k, each in found.items() if name in each} for name in names}
    return {"game24": by_way, "game24_more": found, "game24_options": options}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--choose", action="store_true", help="try candidate settings instead, where they are chosen")
    parser.add_argument("--models", type=Path, default=Path("build/branches"), help="made there where they are not yet")
    parser.add_argument("--groups", type=int, default=6, help="toy: of each prompt of each world")
    parser.add_argument("--puzzles", type=int, default=200)
    parser.add_argument("--sizes", default=",".join(map(str, KS)), help="puzzles: samples of a group")
    parser.add_argument("--ways", default="", help="puzzles: some of them, split by ;")
    parser.add_argument("--seed", type=int, default=SEED, help="puzzles: of the draws")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    started, console = time.monotonic(), Console(width=140)
    torch.set_num_threads(args.threads)
    sizes = [int(size) for size in args.sizes.split(",")]
    told: dict[str, Any] = {}
    for part in args.only or PARTS:
        if part == "toy":
            found = toy(console, choosing=args.choose, models=args.models, groups=args.groups)
        else:
            ways = args.ways.split(";") if args.ways else ()
            found = game24(console, choosing=args.choose, puzzles=args.puzzles, sizes=sizes, seed=args.seed, ways=ways)
        told |= {part: found} if args.choose else fields(part, found)
    print(json.dumps(rounded({**about("explore", args.seed, started), **told})))


if __name__ == "__main__":
    main()
