"""Readers and graders that say what they are: a name with its settings, and a version.

The version of a part goes up when it reads or grades a response otherwise than before. Name and version are part of
what a figure was made with, and `identity_of` returns both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Grader, Problem, Question, Reader, Score


@dataclass(frozen=True, slots=True)
class NamedReader:
    """A reader that reads what follows a model's reasoning. Reasoning that never ended has no answer."""

    name: str
    version: int
    read: Reader = field(repr=False)

    def __call__(self, question: Question, text: str) -> str | None:
        reply = split_reasoning(text)
        return self.read(question, reply.text) if reply.closed else None


@dataclass(frozen=True, slots=True)
class NamedGrader:
    """A grader with a name and a version. `setup` raises SetupError where this machine lacks what it needs."""

    name: str
    version: int
    grade: Grader = field(repr=False)
    setup: Callable[[], object] | None = field(default=None, repr=False)

    def check_setup(self) -> None:
        """Raise SetupError where this machine lacks what it needs."""
        if self.setup is not None:
            self.setup()

    def __call__(self, problem: Problem, answer: str | None) -> Score:
        return self.grade(problem, answer)


def named_reader(name: str, version: int) -> Callable[[Reader], NamedReader]:
    """Give a function that reads its name and version."""
    return lambda read: NamedReader(name, version, read)


def named_grader(name: str, version: int, setup: Callable[[], object] | None = None) -> Callable[[Grader], NamedGrader]:
    """Give a function that grades its name and version, and what checks its needs of this machine."""
    return lambda grade: NamedGrader(name, version, grade, setup)


def accepted_texts(problem: Problem) -> list[str]:
    """Return the texts of a reference, any one of which is right: those of a list, or the one; none without a
    reference."""
    reference = problem.reference
    return [] if reference is None else list(reference) if isinstance(reference, list) else [reference]


def accept_any(grader: NamedGrader) -> NamedGrader:
    """Grade by the best of the accepted answers, where the reference is a list of texts.

    The grade is 1 if any one is right, otherwise nan (unknown) if any one could not be compared. A reference that is
    no list is graded as before, so name and version stay.
    """

    def grade(problem: Problem, answer: str | None) -> Score:
        if not isinstance(problem.reference, list):
            return grader.grade(problem, answer)
        scores = [grader.grade(problem._replace(reference=text), answer) for text in accepted_texts(problem)]
        best = max(scores, key=lambda score: 0.5 if math.isnan(score.value) else score.value)
        if best.value == 0.0 and answer:
            return Score(0.0, f"expected any of {', '.join(map(repr, accepted_texts(problem)))}"[:160])
        return best

    return NamedGrader(grader.name, grader.version, grade, grader.setup)


def identity_of(part: Reader | Grader) -> str:
    """Return what a reader or grader is, such as "number/2"; of one's own function its module and name."""
    if isinstance(part, NamedReader | NamedGrader):
        return f"{part.name}/{part.version}"
    return f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', type(part).__qualname__)}"
