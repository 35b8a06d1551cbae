"""The embedded model with its reward model on 200 held-out puzzles: one fixed configuration against the best of 64.

The configuration is the documented default, with the cap that best-of-64 has; nothing of it was chosen on these
puzzles: the target is a calibrated probability of being right, calibrated on puzzles of another split. Every row is a
mean over random orders of the same 64 draws a puzzle, all tokens counted; one order is no figure.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.stop_replay import at_equal_tokens, bootstrap, measured, three_way
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.registry import build
from samplewise.recipe import recipe
from samplewise.runs.bills import bill_run
from samplewise.runs.orders import OrderReplays, replay_pools, stored_pools
from samplewise.runs.redecide import rescore
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.records import Run
from samplewise.tasks.base import Task

CAP = 64
ORDERS = 100
TARGET = 0.95  # a calibrated probability of being right
SIMPLE = "weighted(reward)"  # the best simple way with the same draws
RULES = {
    "default": f"optscale(0.95, reward, target={TARGET}, cap={CAP})",
    "futile below .05": f"optscale(0.95, reward, target={TARGET}, cap={CAP}, price=0.05)",
    "asc .95": "asc(0.95)",
    "vote_e .05": "vote_e(0.05)",
    "esc 5": "esc(5)",
    "agreement 2": "agreement(2)",
    "vote_plan": f"vote_plan(cap={CAP})",
}


async def drawn(store: Store, task: Task, line: str, seed: int) -> Run:
    engine = build("engine", "tiny")
    try:
        summary = await run_task(task, recipe(line), engine, store, seed=seed)
    finally:
        await engine.close()
    return next(run for run in store.runs() if run.id == summary.run)


def measure(
    store: Store, run: Run, rule: str, choice: str, key: Key, caps: Sequence[int] = (CAP,), num_orders: int = ORDERS
) -> tuple[OrderReplays, ...]:
    """A rule and a selector over random orders of a stored run's draws, all tokens counted."""
    parsed = recipe(run.recipe).with_stop(rule).with_selector(choice)
    pools = stored_pools(store, run.id, bill_run(store, run, parsed))
    assert parsed.stop is not None
    return replay_pools([parsed.stop] * len(pools), parsed.selector, pools, key, caps=caps, num_orders=num_orders)


def tiny(console: Console, key: Key, puzzles: int, store_at: str | None = None) -> dict[str, Any]:
    task = build("task", f"game24(limit={puzzles})")
    with tempfile.TemporaryDirectory() as folder, Store(Path(store_at or Path(folder) / "stop.db")) as store:
        run = asyncio.run(drawn(store, task, f"repeat({CAP}) | vote", 0))
        rescore(store, run.id, {"reward": build("verifier", "reward")})
        ids = [record.problem.question.id for record in store.records(run.id)]
        never, everything = f"cap({CAP + 1})", range(1, CAP + 1)
        # a vote does not pay for the reward model
        fixed = {name: measure(store, run, never, name, key, everything, 30) for name in ("best(reward)", "vote")}
        best, weighted = fixed["best(reward)"][-1].grades.mean(axis=1), measure(store, run, never, SIMPLE, key)[0]
        simple = weighted.grades.mean(axis=1)
        table = Table(
            f"{puzzles} puzzles",
            "accuracy",
            "one run",
            "draws",
            "rounds",
            "tokens",
            "seconds",
            "fixed, same tokens",
            "above it",
            box=None,
        )
        figures: dict[str, Any] = {
            "best_of_64_accuracy": float(best.mean()),
            "weighted_of_64_accuracy": float(simple.mean()),
            "majority_of_64_accuracy": float(fixed["vote"][-1].grades.mean()),
            "orders": ORDERS,
        }
        for name, rows in (*fixed.items(), (SIMPLE, (weighted,))):
            last = rows[-1]
            table.add_row(
                f"{name}, {CAP} draws", f"{last.grades.mean():.4f}", "", str(CAP), "1", f"{last.tokens.mean():.0f}"
            )
        rules: dict[str, Any] = {}
        for name, rule in RULES.items():
            choice = "best(reward)" if "reward" in rule else "vote"
            (replays,) = measure(store, run, rule, choice, key.fold("rules"))
            grades, own = replays.grades.mean(axis=1), float(replays.tokens.mean())
            frontier = at_equal_tokens([measured(each) for each in fixed[choice]], own)
            whole = fixed[choice][-1]
            rules[name] = {
                "accuracy": float(grades.mean()),
                "run_deviation": float(replays.grades.mean(axis=0).std(ddof=1)),
                "samples": float(replays.draws.mean()),
                "rounds": float(replays.rounds.mean()),
                "tokens": own,
                "seconds_of_draws": float(replays.seconds.mean()),  # nan: this engine does not say
                "token_saving": 1 - own / float(whole.tokens.mean()),
                **over("over_frontier", grades - frontier, ids, key.fold("frontier", name)),
                **over("over_64_draws", grades - whole.grades.mean(axis=1), ids, key.fold("loss", name)),
                **over("over_weighted", grades - simple, ids, key.fold("weighted", name)),
            }
            row = rules[name]
            table.add_row(
                f"{name}, {choice}",
                f"{row['accuracy']:.4f}",
                f"±{row['run_deviation']:.4f}",
                f"{row['samples']:.1f}",
                f"{row['rounds']:.1f}",
                f"{own:.0f} (-{row['token_saving']:.0%})",
                "" if math.isnan(row["seconds_of_draws"]) else f"{row['seconds_of_draws']:.1f}",
                f"{frontier.mean():.4f}",
                f"{row['over_frontier']:+.4f} [{row['over_frontier_low']:+.4f}, {row['over_frontier_high']:+.4f}]",
            )
        drawn_by_vote = stored_pools(store, run.id, bill_run(store, run, recipe(run.recipe)))
        three = three_way(console, f"{puzzles} puzzles, cap 32", drawn_by_vote, 32, key.fold("rounds"))
    console.print(table, "")
    for name, row in rules.items():
        beside = [
            f"{label} {row[field]:+.4f} [{row[field + '_low']:+.4f}, {row[field + '_high']:+.4f}]"
            for field, label in (("over_64_draws", "all 64 draws"), ("over_weighted", f"{SIMPLE} of 64"))
        ]
        console.print(f"{name}: above {', '.join(beside)}")
    return {**rules["default"], **figures, "rules": rules, "three_way": three}


def over(name: str, gain: Floats, ids: list[str], key: Key) -> dict[str, float]:
    """A mean difference with its interval, clustered by puzzle."""
    low, high = bootstrap(gain, ids, key)
    return {name: float(gain.mean()), f"{name}_low": low, f"{name}_high": high}
