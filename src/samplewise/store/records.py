"""What the store gives back: runs, records of questions, decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from samplewise.core.bill import CostSplit
from samplewise.core.types import Json, Pool, Problem, Stop, Usage

GRADE = "grade"  # the scorer under which the grader's verdicts are kept


class Run(NamedTuple):
    """A run. `ended` is None while it is in progress, or was cut off."""

    id: str
    recipe: str
    task: str
    engine: str
    seed: int
    manifest: dict[str, Json]
    started: float  # seconds since the epoch
    ended: float | None

    @property
    def engine_name(self) -> str:
        """What people call the engine: its short name, or its identity where the manifest has none."""
        return str(self.manifest.get("engine", {}).get("name", self.engine))

    @property
    def engines(self) -> Mapping[str, str]:
        """Identities of the engines that answered, by the name that asks call them; "" is the solver."""
        members: dict[str, str] = self.manifest.get("engine", {}).get("members") or {}
        return members or {"": self.engine}

    @property
    def num_questions(self) -> int | None:
        """How many questions the whole task has; None where the manifest does not say."""
        num = self.manifest.get("task", {}).get("problems")
        return num if type(num) is int else None


class Record(NamedTuple):
    """A question of a run: the scored pool, each candidate's answer and grade, the costs.

    `bill` is None in records of the first versions, which kept the sum alone.
    """

    problem: Problem
    number: int  # its index in the task
    pool: Pool
    answers: tuple[str | None, ...]
    grades: tuple[float, ...]  # (N,) in [0, 1]; nan: could not be graded
    spent: Usage
    stop: Stop
    bill: CostSplit | None = None


class Outcome(NamedTuple):
    """A question's grades (N,), answers (N,) and cost."""

    question: str
    grades: list[float]
    answers: list[str | None]
    spent: Usage


class Decision(NamedTuple):
    """What a selector chose for a question. `position` is that of the candidate, None where no answer was chosen."""

    question: str
    selector: str
    answer: str | None
    position: int | None
    grade: float
