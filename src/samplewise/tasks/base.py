"""A task: problems, how an answer is read out of a response, and how it is graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from samplewise.files import data_folder
from samplewise.types import Grader, Problem, Question, Reader

__all__ = ["Task", "data_folder", "first"]


@dataclass(frozen=True, slots=True)
class Task:
    """Problems with distinct question ids, and the reader and the grader that fit them."""

    name: str
    problems: tuple[Problem, ...]
    read: Reader
    grade: Grader
    source: str = ""  # where the problems come from
    licence: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError(f"task {self.name!r} has no problems")
        ids = {problem.question.id for problem in self.problems}
        if len(ids) < len(self.problems):
            raise ValueError(f"task {self.name!r} has {len(self.problems)} problems but only {len(ids)} different ids")

    @property
    def questions(self) -> tuple[Question, ...]:
        """The questions alone, which is all that a run may see."""
        return tuple(problem.question for problem in self.problems)


def first(problems: Sequence[Problem], limit: int | None) -> tuple[Problem, ...]:
    """The first `limit` problems, all of them for None."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    return tuple(problems[:limit])
