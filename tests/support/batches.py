"""A small task, run by the batch API of the faulty endpoint."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from samplewise.core.events import OnEvent, ignore
from samplewise.core.types import Message, Problem, Question, Score
from samplewise.engines.http import http
from samplewise.engines.http.batch import collect
from samplewise.engines.http.batch.remote import RemoteBatches
from samplewise.engines.http.dialect.profile import Profile
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.run import Summary, run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task

NUM, DRAWS = 6, 4
LINE = f"repeat({DRAWS}, max_tokens=8) | vote"
TASK = Task(
    "words",
    tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(NUM)),
    lambda _, text: text or None,
    lambda *_: Score(1.0),
)
KNOWN = Profile(api="chat", max_tokens_field="max_tokens", seed=True, n=True)


class BatchRun(NamedTuple):
    """What a run by batches ended in."""

    summary: Summary
    notes: tuple[str, ...]
    texts: tuple[str, ...]  # of all draws of the store


def run_in_batches(
    url: str,
    path: Path | str,
    line: str = LINE,
    *,
    n: str = "auto",
    task: Task = TASK,
    budget: Budget = Budget(),
    cancel_after_s: float | None = None,
    on_event: OnEvent = ignore,
    **options: object,
) -> BatchRun:
    """Run a recipe in batches, with a store at `path`."""

    async def go(store: Store) -> tuple[Summary, tuple[str, ...]]:
        engine = http("toy", base_url=url, probe=KNOWN, n=n, batch=True, price=(1, 2), **options)  # type: ignore[arg-type]
        cancel = asyncio.Event()
        if cancel_after_s is not None:
            asyncio.get_running_loop().call_later(cancel_after_s, cancel.set)
        try:
            summary = await run_task(task, recipe(line), engine, store, budget=budget, cancel=cancel, on_event=on_event)
            return summary, engine.notes
        finally:
            await engine.close()

    with Store(path) as store:
        summary, notes = asyncio.run(go(store))
        return BatchRun(summary, notes, tuple(completion.text for *_, completion in store.all_draws()))


class Fatal(NamedTuple):
    """Where a process dies: in the call of a method, once `num` calls have returned."""

    owner: type
    method: str
    num: int = 1


DEATHS = {
    "uploaded": Fatal(RemoteBatches, "upload"),
    "about to submit": Fatal(Store, "note", 1),
    "submitted, not noted": Fatal(RemoteBatches, "create"),
    "submitted": Fatal(Store, "note", 2),
    "waiting": Fatal(RemoteBatches, "state"),
    "fetched": Fatal(RemoteBatches, "results"),
    "one draw kept": Fatal(Store, "put_draw", 1),
    "half of the draws kept": Fatal(Store, "put_draw", NUM * DRAWS // 2 + 1),
    "all draws kept": Fatal(Store, "put_draw", NUM * DRAWS),
}


def die_at(fatal: Fatal) -> None:
    """Have this process end like a killed one, without any clean-up."""
    method, left = getattr(fatal.owner, fatal.method), [fatal.num]

    def count() -> None:
        left[0] -= 1
        if not left[0]:
            os._exit(9)

    async def returned_later(*args: Any) -> Any:
        result = await method(*args)
        count()
        return result

    def returned(*args: Any) -> Any:
        result = method(*args)
        if fatal.method != "note" or args[2] == "batch":
            count()
        return result

    setattr(fatal.owner, fatal.method, returned_later if asyncio.iscoroutinefunction(method) else returned)


def hurry() -> None:
    """Have batches submitted and polled without pauses that people would not notice."""
    collect.COLLECT_S, collect.FIRST_POLL_S = 0.1, 0.05


if __name__ == "__main__":
    hurry()
    die_at(DEATHS[sys.argv[3]])
    run_in_batches(sys.argv[1], sys.argv[2], sys.argv[4], n=sys.argv[5])
