"""The problems that are scored: a seeded draw of each benchmark, the same for every method."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.tasks.base import Task, with_system

SEED = 0
NUM_PROBLEMS = 60
SHORT = "Reply with one code block that holds the function alone: no docstring, no comments, no tests, no explanation."


class Benchmark(NamedTuple):
    """A benchmark, and the longest response in tokens, the same for every method."""

    name: str
    task: str
    max_tokens: int
    system: str = ""
    levels: tuple[int, ...] = ()  # of MATH: only these; () for all

    @property
    def is_code(self) -> bool:
        """Whether an answer is a program."""
        return bool(self.system)


BENCHMARKS = {
    "humaneval": Benchmark("humaneval", "humaneval(prompt='chat')", 320, SHORT),
    "mbpp": Benchmark("mbpp", "mbpp", 192, SHORT),
    "gsm8k": Benchmark("gsm8k", "gsm8k", 256),
    "math500": Benchmark("math500", "math500", 320, levels=(1, 2, 3)),
}


def load(benchmark: Benchmark, num_problems: int = NUM_PROBLEMS) -> Task:
    """Return the task with the problems that are scored."""
    task: Task = build("task", benchmark.task)
    problems = [p for p in task.problems if not benchmark.levels or int(p.question.facts["level"]) in benchmark.levels]
    order = Key(SEED).fold("real", benchmark.name).generator().permutation(len(problems))[:num_problems]
    task = dataclasses.replace(task, problems=tuple(problems[i] for i in order))
    return with_system(task, benchmark.system) if benchmark.system else task


def chunks(task: Task, size: int) -> list[Task]:
    """Return the task in parts of `size` problems."""
    starts = range(0, len(task.problems), size)
    return [dataclasses.replace(task, problems=task.problems[i : i + size]) for i in starts]
