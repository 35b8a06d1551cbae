"""What varying the prompt is worth: pass@k and choices of each arm and of the mix, beside direct draws.

Direct draws for comparison are those of `plain`; a mix has its own. Arms that ask a helper are charged for all that it
read and wrote. Where a helper's text was refused, further direct draws of the run stand in for the arm's, as they do in
any run: an arm is scored as it was meant, and so is the mix.
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
    complete,
    difference,
    family,
    joined,
    method,
    only,
    passes,
    solved,
    spread_json,
)
from bench.real.methods import METHODS
from bench.real.pools import Pools
from samplewise.recipe import parse_choice

KS = (1, 2, 4, 8, 16, 32)
CHOSEN = 16  # draws that are chosen from
RUNS = ("plain", "plain, more", "fixed arms", "ideas", "rephrasings", "ladder")
PER_ARM = 8  # draws that an arm was meant to have in its run
LEVELS = {  # of relevance, from a poem to the question in other words
    "1 jabberwocky": ("fixed arms", "jabberwocky"),
    "2 role": ("fixed arms", "role"),
    "3 instruction": ("fixed arms", "instruction"),
    "4 idea": ("ideas", "idea"),
    "5 rephrase": ("rephrasings", "rephrase"),
}
CHOICES = {
    "vote": "vote",
    "arm vote": "arm_vote",
    "log-pool": "log_pool",
    "softsat": "softsat",
    "best(likelihood)": "best(likelihood)",
}
BY_SCORE = {"behaviour": ("outputs", "behaviour"), "best(public_tests)": ("public_tests", "best(public_tests)")}


def runs_of(pools: Pools) -> dict[str, Dealt]:
    """Return the runs that are recorded for all questions of `plain`, nothing if it is alone."""
    rounds = {each.name: float(each.rounds) for each in METHODS}
    runs = complete({name: method(pools, name, rounds[name]) for name in RUNS})
    return runs if set(runs) - {"plain", "plain, more"} else {}


def arms_of(runs: Mapping[str, Dealt]) -> dict[str, Dealt]:
    """Return direct draws, each level's arm, the ladder with its direct draws, and the mixes."""
    found = {"direct": joined(*(runs[name] for name in ("plain", "plain, more") if name in runs))}
    found |= {level: arm_of(runs[run], arm) for level, (run, arm) in LEVELS.items() if run in runs}
    if "ladder" in runs:
        found["ladder"] = runs["ladder"]
    if "fixed arms" in runs:
        found["mix without helpers"] = only(runs["fixed arms"], ("direct", "role", "instruction"))
        if {"ideas", "rephrasings"} <= set(runs):
            found["mix"] = joined(found["mix without helpers"], found["4 idea"], found["5 rephrase"])
    return found


def arm_of(run: Dealt, arm: str) -> Dealt:
    """Return the draws that an arm was meant to have in a run: its own, and direct ones that stand in for others."""
    rows = []
    for row in run.rows:
        own = [i for i, name in enumerate(row.all_arms) if family(name) == arm]
        spare = [i for i, name in enumerate(row.all_arms) if name == "direct"]
        missing = min(len(spare), max(0, PER_ARM - len(own)))
        rows.append(row.some(sorted([*own, *spare[len(spare) - missing :]])))
    return run._replace(rows=rows)


def vary_part(pools: Mapping[str, Pools], console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of each benchmark, and the claims' differences."""
    part: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    for name, own in pools.items():
        runs = runs_of(own)
        if not runs:
            continue
        drawn = arms_of(runs)
        figures, over = curves(drawn)
        chosen = choices(drawn, runs["plain"]) if "mix" in drawn else {}
        show(name, figures, over, chosen, console)
        part[name] = {
            "problems": len(drawn["direct"].rows),
            "draws": sum(len(row.grades) for run in runs.values() for row in run.rows),
            "seconds": sum(own.seconds(run) for run in runs),
            **spread_json(figures),
            "over direct": {
                each: {by: gap.json() for by, gap in gaps.items()} for each, gaps in {**over, **chosen}.items()
            },
            "direct instead of arm": {
                level: float(np.mean([name == "direct" for row in drawn[level].rows for name in row.all_arms]))
                for level in LEVELS
                if level in drawn
            },
        }
        claims |= {f"{name}: {each}": gaps for each, gaps in {**over, **chosen}.items()}
    return part, claims


def least(dealt: Dealt) -> int:
    """Return the draws that every question has."""
    return min(len(row.grades) for row in dealt.rows)


def curves(drawn: Mapping[str, Dealt]) -> tuple[dict[str, Figure], dict[str, dict[str, Difference]]]:
    """Return each arm's pass@k for k of `KS`, and by how much it is above direct draws."""
    direct = passes(drawn["direct"], range(1, least(drawn["direct"]) + 1))
    figures: dict[str, Figure] = {}
    over: dict[str, dict[str, Difference]] = {}
    for each, dealt in drawn.items():
        own = direct if each == "direct" else dealt.curve(solved, range(1, least(dealt) + 1))
        for k in KS:
            if k <= len(own):
                figures[f"{each} pass@{k}"] = own[k - 1]
                if each != "direct" and k <= len(direct):
                    over[f"{each} at {k}"] = gaps(own, k, direct)
    return figures, over


def gaps(own: Sequence[Figure], k: int, direct: Sequence[Figure]) -> dict[str, Difference]:
    """Return by how much k draws are above direct draws: as many, as many tokens, as many seconds.

    Both are curves from one draw on. Where k draws cost more than all direct draws, as many are counted as those pay.
    """
    found = {"equal draws": difference(own[k - 1].values, direct[k - 1].values)}
    for by in ("tokens", "seconds"):
        mine, same = own[k - 1].values, at_equal(direct, range(1, len(direct) + 1), getattr(own[k - 1], by), by=by)
        if np.isnan(same).all():
            same = direct[-1].values
            mine = at_equal(own, range(1, len(own) + 1), getattr(direct[-1], by), by=by)
        if not np.isnan(mine).any():
            found[f"equal {by}"] = difference(mine, same)
    return found


def choices(drawn: Mapping[str, Dealt], plain: Dealt) -> dict[str, dict[str, Difference]]:
    """Return what selectors make of the mix and of direct draws, and their differences.

    What programs do is numbered for `plain` draws and for those of the mix, but not across, so `behaviour` has the
    former alone to compare with.
    """
    k = min(CHOSEN, least(drawn["direct"]), least(drawn["mix"]))
    known = set.intersection(
        *({name for row in rows for name in row.scores} for rows in (plain.rows, drawn["mix"].rows))
    )
    specs = {**CHOICES, **{word: spec for word, (score, spec) in BY_SCORE.items() if score in known}}
    found: dict[str, dict[str, Difference]] = {}
    mixed: dict[str, Figure] = {}
    for word, spec in specs.items():
        worth = chosen_by(parse_choice(spec)[1])
        base = plain if word == "behaviour" else drawn["direct"]
        ks = [num for num in (k, 20, 24, 32) if k <= num <= least(base)]
        direct = base.curve(worth, ks)
        mixed[word] = drawn["mix"].at(worth, k)
        found[f"{word} of {k}"] = own = {
            "direct": interval(direct[0]),
            "mix": interval(mixed[word]),
            "equal draws": difference(mixed[word].values, direct[0].values),
            "over vote, on the mix": difference(mixed[word].values, mixed["vote"].values),
        }
        for by in ("tokens", "seconds"):
            same = at_equal(direct, ks, getattr(mixed[word], by), by=by)
            if not np.isnan(same).any():
                own[f"equal {by}"] = difference(mixed[word].values, same)
    return found


def interval(figure: Figure) -> Difference:
    """Return a figure's accuracy with its interval: its difference from nothing."""
    return Difference(*(figure.json()[name] for name in ("accuracy", "low", "high")))


def show(
    name: str,
    figures: Mapping[str, Figure],
    over: Mapping[str, Mapping[str, Difference]],
    chosen: Mapping[str, Mapping[str, Difference]],
    console: Console,
) -> None:
    """Print pass@k of each arm, and what selectors make of the mix."""
    ways = ("equal draws", "equal tokens", "equal seconds")
    table = Table(f"{name}, pass@k", "accuracy", "tokens", *ways, box=None)
    for each, figure in figures.items():
        gaps_of = over.get(each.replace(" pass@", " at "), {})
        table.add_row(
            each, f"{figure.values.mean():.3f}", f"{figure.tokens:,.0f}", *(str(gaps_of.get(w, "")) for w in ways)
        )
    console.print(table, "")
    if chosen:
        columns = ("direct", "mix", *ways, "over vote, on the mix")
        table = Table(f"{name}, chosen by", *columns, box=None)
        for word, found in chosen.items():
            table.add_row(word, *(str(found.get(column, "")) for column in columns))
        console.print(table, "")
