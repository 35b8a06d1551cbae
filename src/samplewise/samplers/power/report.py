"""What a chain sampler's trace says: how well it mixed, what it cost, what each acceleration saved. Pure; O(trace).

Figures are over the steps of the last horizon, which alone carries the guarantee. Unknown is None: a rate of nothing, a
diagnostic of too few steps. Moves that change nothing (a cut behind the end, a redraw that is the record) are no
evidence of mixing, and are not in the acceptance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from samplewise.types import Json

NUM_DEPTHS = 4  # parts of a record's length by which acceptance is told
FROZEN_AFTER = 10  # steps of a chain, in its second half, of which none changed it though some could


def summary(trace: Sequence[Json]) -> dict[str, Json]:
    """The report of one question's trace, as plain data.

    `acceptance` is of redraws that differ from the record, `by_depth` the same by where they part from it, from the
    front to the end. `r_hat` is the split R-hat of log p over chains of one law. `saved` counts tokens: of jumps, those
    that were kept instead of drawn; of early rejection, what an aborted redraw lacked to the record's length.
    """
    moves = [move for info in trace if isinstance(info, Mapping) for move in info.get("moves", ())]
    swaps = [swap for info in trace if isinstance(info, Mapping) for swap in info.get("swaps", ())]
    last = max((move["stage"] for move in moves), default=0)
    final = [move for move in moves if move["stage"] == last]
    asked = [move for move in final if move["outcome"] in ("accepted", "rejected", "aborted")]
    accepted = [move for move in asked if move["outcome"] == "accepted"]
    tokens = sum(move["tokens"] for move in moves)
    runs = _by_chain(final)
    rungs = len({swap["rung"] for swap in swaps}) + 1
    alike = [run for run in runs if run[0]["chain"] % rungs == rungs - 1]  # of a ladder the highest rung alone
    told: dict[str, Json] = {
        "steps": len(final),
        "free": sum(move["outcome"] in ("behind", "same") for move in final),
        "failed": sum(move["outcome"] == "failed" for move in final),
        "tokens": tokens,
        "acceptance": _rate(len(accepted), len(asked)),
        "by_depth": _by_depth(asked),
        "tokens_per_change": _rate(tokens, len([move for move in moves if move["outcome"] == "accepted"])),
        "r_hat": split_r_hat([[move["logp"] for move in run] for run in alike]),
        "at_horizon": _rate(sum(not run[-1]["ended"] for run in runs), len(runs)),
        "saved": {
            "jump": sum(move["kept"] for move in moves),
            "early": sum(max(0, move["length"] - move["at"] - move["tokens"]) for move in moves if _aborted(move)),
        },
        "frozen": [run[0]["chain"] for run in runs if _frozen(run)],
    }
    if swaps:
        told["swap_rates"] = [
            _rate(sum(s["swapped"] for s in swaps if s["rung"] == rung), sum(s["rung"] == rung for s in swaps))
            for rung in range(rungs - 1)
        ]
        walkers = [info["walkers"] for info in trace if isinstance(info, Mapping) and "walkers" in info]
        told["round_trips"] = _round_trips(walkers, rungs)
    return told


def notes(told: Mapping[str, Any]) -> list[str]:
    """What a person should hear about a summary."""
    said = []
    if told["frozen"]:
        said.append(f"chains {told['frozen']} are frozen: lower alpha or use a ladder")
    if told["r_hat"] is not None and told["r_hat"] > 1.05:
        said.append(f"chains disagree in log p (split R-hat {told['r_hat']:.2f}): more steps are needed")
    if told["at_horizon"]:
        said.append(f"{told['at_horizon']:.0%} of the responses reached the horizon: raise max_tokens")
    return said


def split_r_hat(runs: Sequence[Sequence[float]]) -> float | None:
    """Split R-hat of chains of equal length (two or more): the halves of every chain are taken as chains. None where
    there are fewer than 4 steps a chain; 1 where nothing differs, and infinite where only the chains do."""
    size = min((len(run) for run in runs), default=0) // 2
    if len(runs) < 2 or size < 2:
        return None
    halves = [half for run in runs for half in (run[-2 * size : -size], run[-size:])]
    means = [math.fsum(half) / size for half in halves]
    within = math.fsum(_variance(half) for half in halves) / len(halves)
    between = _variance(means)
    if within == 0.0:
        return 1.0 if between == 0.0 else math.inf
    return math.sqrt((size - 1) / size + between / within)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _by_chain(moves: Sequence[Json]) -> list[list[Json]]:
    runs: dict[int, list[Json]] = {}
    for move in moves:
        runs.setdefault(move["chain"], []).append(move)
    return [runs[chain] for chain in sorted(runs)]


def _by_depth(asked: Sequence[Json]) -> list[float | None]:
    counts = [[0, 0] for _ in range(NUM_DEPTHS)]
    for move in asked:
        # A record that was accepted has another length than the one it parted from; either will do for a quarter.
        part = min(NUM_DEPTHS - 1, NUM_DEPTHS * max(0, move["at"]) // max(1, move["length"]))
        counts[part][0] += move["outcome"] == "accepted"
        counts[part][1] += 1
    return [_rate(hits, tried) for hits, tried in counts]


def _aborted(move: Json) -> bool:
    return bool(move["outcome"] == "aborted")


def _frozen(run: Sequence[Json]) -> bool:
    half = run[len(run) // 2 :]
    tried = [move for move in half if move["outcome"] not in ("behind", "failed")]
    return len(run) >= FROZEN_AFTER and bool(tried) and not any(m["outcome"] == "accepted" for m in run)


def _round_trips(walkers: Sequence[Sequence[int]], rungs: int) -> int:
    """How often a start has come from the highest rung to the lowest and up again, over all starts and ladders."""
    trips = 0
    for walker in range(len(walkers[-1])):
        goals = [rungs - 1, 0]
        legs = 0
        for rung in (row.index(walker) % rungs for row in walkers if walker in row):
            if rung == goals[legs % 2]:
                legs += 1
        trips += max(0, legs - 1) // 2
    return trips


def _rate(part: float, whole: float) -> float | None:
    return part / whole if whole else None
