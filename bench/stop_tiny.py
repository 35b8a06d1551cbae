"""The embedded model with its reward model on 200 held-out puzzles: one fixed configuration against the best of 64.

The configuration is the documented default, with the cap that best-of-64 has; nothing of it was chosen on these
puzzles: the target is a calibrated chance to be right, calibrated on puzzles of another split.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.stop_replay import BEST, at_equal_tokens, bootstrap, measured
from samplewise.evaluate import load, redecide, rescore, run_task
from samplewise.keys import Key
from samplewise.numerics import Floats
from samplewise.plan.replays import Replays, Stored, replay_pools, stored_pools
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
    own = tuple(c._replace(scores={"score": c.scores["reward"]}) for c in pool.candidates)
    return pool._replace(candidates=own)


def _equal(line: Sequence[Replays], tokens: float) -> Floats:
    return at_equal_tokens([measured(each) for each in line], tokens)


def tiny(console: Console, key: Key, puzzles: int, store_at: str | None = None) -> dict[str, Any]:
    task = build("task", f"game24(limit={puzzles})")
    lines = {"best of 64": f"repeat({CAP}) | best(reward)"}
    lines |= {
        name: f"repeat({CAP}) | until({rule}) | {'best(reward)' if 'reward' in rule else 'vote'}"
        for name, rule in RULES.items()
    }
    with tempfile.TemporaryDirectory() as folder, Store(Path(store_at or Path(folder) / "stop.db")) as store:
        runs = asyncio.run(drawn(store, task, lines, 0))
        full = runs["best of 64"]
        redecide(store, full, "vote")
        most = chosen(store, full, "best(reward)")
        tokens, _ = spent(store, full)
        rescore(store, full.id, {"reward": build("verifier", "reward")})
        pools = [_renamed(pool) for pool in stored_pools(store, full.id)]
        never = build("stop", f"cap({CAP + 1})")
        lines_of = {
            name: replay_pools([never] * len(pools), selector, pools, key, caps=range(1, CAP + 1), num_orders=30)
            for name, selector in (("best(reward)", BEST), ("vote", build("selector", "vote")))
        }
        table = Table("200 held-out puzzles", "accuracy", "draws", "tokens", "fixed, same tokens", "above it", box=None)
        table.add_row("best of 64 by reward", f"{most.mean():.4f}", str(CAP), f"{tokens.mean():.0f}")
        votes = chosen(store, full, "vote")
        table.add_row("majority of 64", f"{votes.mean():.4f}", str(CAP), "")
        figures: dict[str, Any] = {"best_of_64_accuracy": float(most.mean()), "majority_of_64": float(votes.mean())}
        ids = list(load(store, full.id).questions)
        for name, rule in RULES.items():
            selector = "best(reward)" if "reward" in rule else "vote"
            grades = chosen(store, runs[name], selector)
            own, draws = spent(store, runs[name])
            equal = _equal(lines_of[selector], float(own.mean()))
            low, high = bootstrap(grades - equal, ids, key.fold("frontier", name))
            loss_low, loss_high = bootstrap(grades - most, ids, key.fold("loss", name))
            found = {
                "accuracy": float(grades.mean()),
                "samples": float(draws.mean()),
                "tokens": float(own.mean()),
                "token_saving": 1 - float(own.mean() / tokens.mean()),
                "over_frontier": float((grades - equal).mean()),
                "over_frontier_low": low,
                "over_frontier_high": high,
                "over_best_of_64": float((grades - most).mean()),
                "over_best_of_64_low": loss_low,
                "over_best_of_64_high": loss_high,
            }
            figures = {**found, **figures, "rules": {name: found}} if name == "default" else figures
            figures["rules"][name] = found
            table.add_row(
                name,
                f"{grades.mean():.4f}",
                f"{draws.mean():.1f}",
                f"{own.mean():.0f} (-{found['token_saving']:.0%})",
                f"{equal.mean():.4f}",
                f"{found['over_frontier']:+.4f} [{low:+.4f}, {high:+.4f}]",
            )
    console.print(table, "")
    return figures
