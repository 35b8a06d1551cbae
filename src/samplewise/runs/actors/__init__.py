"""A run whose questions are drawn by Ray's actors, each with an engine of its own (extra `ray`).

    async with RayWorkers("local:Qwen/Qwen3-4B", 8, gpus=1) as workers:
        summary = await run_task(task, recipe, workers, store)

Actors draw whole questions with the same loop as a run without them, so a question's outcome is the same wherever it is
drawn, and however often it is begun again. They report each draw as it arrives. The process that began the run is the
only one that writes to the store; where a store may hold draws of a question, actors look them up through a process
beside it that only reads. So what an actor has reported is not paid again when it dies: its questions are handed out
again and go on from there.
"""

from __future__ import annotations

from samplewise.runs.actors.pool import RayWorkers

__all__ = ["RayWorkers"]
