"""The embedded model with its reward model on 200 held-out puzzles: one fixed configuration against the best of 64.

The configuration is the documented default, with the cap that best-of-64 has; nothing of it was chosen on these
puzzles: the target is a calibrated chance to be right, calibrated on puzzles of another split.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.stop_replay import BEST, VOTE, Measured, at_equal_tokens, bootstrap, measured
from samplewise.evaluate import load, rescore, run_task
from samplewise.keys import Key
from samplewise.numerics import Floats
from samplewise.plan.replays import Stored, replay_pools, stored_pools
from samplewise.recipe import recipe
from samplewise.spec import build
from samplewise.store import Run, Store
from samplewise.tasks.base import Task

CAP = 64
TARGET = 0.95  # a calibrated chance to be right
RULES = {
    "default": f"optscale(0.95, reward, target={TARGET}, cap={CAP})",
    "futile below .05": f"optscale(0.95, reward, target={TARGET}, cap={CAP}, price=0.05)",
    "asc .95": "asc(0.95)",
    "vote_e .05": "vote_e(0.05)",
}


async def drawn(store: Store, task: Task, lines: dict[str, str], seed: int) -> dict[str, Run]:
    engine, runs = build("engine", "tiny"), {}
    try:
        for name, line in lines.items():
            summary = await run_task(task, recipe(line), engine, store, seed=seed)
            runs[name] = next(run for run in store.runs() if run.id == summary.run)
    finally:
        await engine.close()
    return runs


def chosen(store: Store, run: Run, selector: str) -> Floats:
    rows = {q: grade for q, name, _, _, grade in store.selections(run.id) if name == selector}
    return np.array([rows[q] for q in load(store, run.id).questions])


def spent(store: Store, run: Run) -> tuple[Floats, Floats]:
    """Tokens (P,), everything counted, and draws (P,)."""
    rows = list(store.outcomes(run.id))
    return np.array([float(row.spent.tokens) for row in rows]), np.array([float(len(row.grades)) for row in rows])


def _renamed(pool: Stored) -> Stored:
    """The reward's scores under the name that the benches' selectors look at."""
    own = tuple(c._replace(scores={"score": c.scores.get("reward", math.nan)}) for c in pool.candidates)
    return pool._replace(candidates=own)


def tiny(console: Console, key: Key, puzzles: int, store_at: str | None = None) -> dict[str, Any]:
    task = build("task", f"game24(limit={puzzles})")
    choosing = {name: "best(reward)" if "reward" in rule else "vote" for name, rule in RULES.items()}
    full = {"best(reward)": f"repeat({CAP}) | best(reward)", "vote": f"repeat({CAP}) | vote"}
    lines = full | {name: f"repeat({CAP}) | until({rule}) | {choosing[name]}" for name, rule in RULES.items()}
    with tempfile.TemporaryDirectory() as folder, Store(Path(store_at or Path(folder) / "stop.db")) as store:
        runs = asyncio.run(drawn(store, task, lines, 0))
        rescore(store, runs["best(reward)"].id, {"reward": build("verifier", "reward")})
        never = build("stop", f"cap({CAP + 1})")
        fixed: dict[str, list[Measured]] = {}
        for name, selector in (("best(reward)", BEST), ("vote", VOTE)):  # a vote does not pay for the reward model
            pools = [_renamed(pool) for pool in stored_pools(store, runs[name].id)]
            rows = replay_pools([never] * len(pools), selector, pools, key, caps=range(1, CAP + 1), num_orders=30)
            fixed[name] = [measured(each) for each in rows]
        most = {name: chosen(store, runs[name], name) for name in full}
        cost = {name: float(spent(store, runs[name])[0].mean()) for name in full}
        table = Table(f"{puzzles} puzzles", "accuracy", "draws", "tokens", "fixed, same tokens", "above it", box=None)
        for name in full:
            table.add_row(f"{name}, {CAP} draws", f"{most[name].mean():.4f}", str(CAP), f"{cost[name]:.0f}")
        ids = list(load(store, runs["vote"].id).questions)
        figures: dict[str, Any] = {
            "best_of_64_accuracy": float(most["best(reward)"].mean()),
            "majority_of_64_accuracy": float(most["vote"].mean()),
        }
        found: dict[str, Any] = {}
        for name, selector_name in choosing.items():
            grades = chosen(store, runs[name], selector_name)
            own, draws = spent(store, runs[name])
            equal = at_equal_tokens(fixed[selector_name], float(own.mean()))
            low, high = bootstrap(grades - equal, ids, key.fold("frontier", name))
            loss = grades - most[selector_name]
            loss_low, loss_high = bootstrap(loss, ids, key.fold("loss", name))
            found[name] = {
                "accuracy": float(grades.mean()),
                "samples": float(draws.mean()),
                "tokens": float(own.mean()),
                "token_saving": 1 - float(own.mean()) / cost[selector_name],
                "over_frontier": float((grades - equal).mean()),
                "over_frontier_low": low,
                "over_frontier_high": high,
                "over_64_draws": float(loss.mean()),
                "over_64_draws_low": loss_low,
                "over_64_draws_high": loss_high,
            }
            table.add_row(
                f"{name}, {selector_name}",
                f"{grades.mean():.4f}",
                f"{draws.mean():.1f}",
                f"{own.mean():.0f} (-{found[name]['token_saving']:.0%})",
                f"{equal.mean():.4f}",
                f"{found[name]['over_frontier']:+.4f} [{low:+.4f}, {high:+.4f}]",
            )
    console.print(table, "")
    return {**found["default"], **figures, "rules": found}
