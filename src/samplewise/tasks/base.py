"""A task: problems, how an answer is read from a response, and how it is graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from samplewise.core.errors import UsageError
from samplewise.core.files import data_folder
from samplewise.core.types import Grader, Message, Problem, Question, Reader

__all__ = ["Task", "data_folder", "first_problems", "with_system"]


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
    notes: tuple[str, ...] = ()  # what whoever runs it must know of the problems, such as fields that are not asked

    def __post_init__(self) -> None:
        if not self.problems:
            raise ValueError(f"task {self.name!r} has no problems")
        ids = {problem.question.id for problem in self.problems}
        if len(ids) < len(self.problems):
            raise ValueError(f"task {self.name!r} has {len(self.problems)} problems but only {len(ids)} different ids")

    @property
    def questions(self) -> tuple[Question, ...]:
        """Return the questions alone, which is all that a run may see."""
        return tuple(problem.question for problem in self.problems)


def first_problems(problems: Sequence[Problem], limit: int | None) -> tuple[Problem, ...]:
    """Return the first `limit` problems, all of them for None. ValueError for a limit below 1."""
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    return tuple(problems[:limit])


def with_system(task: Task, system: str) -> Task:
    """Return the task with a system prompt before each question. Raises UsageError where one has its own already."""
    if not system.strip():
        raise UsageError("the system prompt is empty; leave it out")

    def ask_first(problem: Problem) -> Problem:
        question = problem.question
        if question.messages and question.messages[0].role in ("system", "developer"):
            raise UsageError(f"question {question.id!r} has a system prompt of its own; leave out the other one")
        return problem._replace(question=question._replace(messages=(Message("system", system), *question.messages)))

    return replace(task, problems=tuple(map(ask_first, task.problems)))
