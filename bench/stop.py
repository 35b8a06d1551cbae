"""Stop rules: as published, where the truth is known, on recorded draws of real models, and on the embedded model.

golden   the released code's sample counts, from the parameters that its notebooks print (four decimals)
worlds   laws of scores and of answers that are known: what each rule attains, against what it says
replay   recorded draws in many random orders, beside the fixed number of draws at equal tokens
rounds   the same for votes: accuracy, draws and rounds of a plan against other rules
tiny     200 held-out puzzles: one fixed configuration against the best of 64 by reward
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from typing import Any

import numpy as np
from rich.console import Console

from bench.about import about, rounded
from bench.stop_replay import humaneval, maths, otis, rounds
from bench.stop_tiny import tiny
from bench.stop_worlds import first_pass_shares, worlds
from samplewise.core.files import data_folder
from samplewise.core.keys import Key
from samplewise.stop.grid import grid_count

SEED = 0
PARTS = ("golden", "worlds", "replay", "rounds", "tiny")


def golden(console: Console) -> dict[str, Any]:
    """Share of the recorded counts that the released rule gives again."""
    folder = data_folder()
    assert folder is not None
    same = total = near = 0
    with gzip.open(folder / "optscale_reference" / "recorded_counts.json.gz", "rt") as file:
        records = json.load(file)
    for record in records:
        columns = {name: place for place, name in enumerate(record["params_columns"])}
        params = np.array(record["params"], dtype=float)
        for mode in ("mle", "map"):
            cells = [cell for cell in record["cells"] if cell["mode"].lower() == mode]
            targets = sorted({cell["target"] for cell in cells})
            shares = sorted({cell["percentile"] for cell in cells})
            laws = params[:, columns[f"{mode}_mu"]], params[:, columns[f"{mode}_sigma"]]
            counts = grid_count(*laws, targets, 1 - np.array(shares), record["peek"], record["cap"])
            for cell in cells:
                ours = counts[:, targets.index(cell["target"]), shares.index(cell["percentile"])]
                same += int((ours == np.array(cell["samples"])).sum())
                near += int((abs(ours - np.array(cell["samples"])) <= 1).sum())
                total += len(ours)
    line = f"golden: {same:,} of {total:,} recorded counts ({same / total:.2%}); within one: {near / total:.2%}"
    console.print(line, "")
    return {"golden_share": same / total, "golden_within_one": near / total, "golden_counts": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append")
    parser.add_argument("--runs", type=int, default=12, help="of the otis runs")
    parser.add_argument("--every", type=int, default=4, help="which problems of HumanEval")
    parser.add_argument("--puzzles", type=int, default=200)
    parser.add_argument("--store", help="where the embedded model's draws are kept; default: nowhere")
    options = parser.parse_args()
    console, key, started = Console(width=190), Key(SEED).fold("bench", "stop"), time.monotonic()
    parts = options.only or PARTS
    figures: dict[str, Any] = {"golden_share": None, "worlds": None, "replay": None, "rounds": None, "tiny": None}
    if "golden" in parts:
        figures |= golden(console)
    if "worlds" in parts:
        figures["first_pass"] = first_pass_shares(console, key)
        figures["worlds"] = worlds(console, key)
    if "replay" in parts:
        figures["replay"] = {
            "otis_aime_8x": otis(console, key, options.runs),
            "math_qwen_rm_8x": maths(console, key),
            "humaneval": humaneval(console, key, options.every),
        }
    if "rounds" in parts:
        figures["rounds"] = rounds(console, key, options.runs)
    if "tiny" in parts:
        figures["tiny"] = tiny(console, key, options.puzzles, options.store)
    print(json.dumps(rounded({**figures, **about("stop", SEED, started)})))


if __name__ == "__main__":
    main()
