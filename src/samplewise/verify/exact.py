"""Graders that compare an answer with the reference as a text, or as a number. Microseconds; no mathematics.

Both are exact: `1,000`, `1000.0` and `1e3` are one number, and .333 is not 1/3. A set whose references are themselves
rounded is graded within its published tolerance (`number_grader`).
"""

from __future__ import annotations

import math
from fractions import Fraction

from samplewise.types import Grader, Problem, Score
from samplewise.verify.readers import as_number, normal


def grade_exact(problem: Problem, answer: str | None) -> Score:
    """1 where the normal forms of answer and reference are the same (see `samplewise.verify.readers`)."""
    if problem.reference is None:
        return Score(math.nan, "the question has no reference")
    if not answer or not normal(answer):
        return Score(0.0, "no answer")
    right = normal(answer) == normal(str(problem.reference))
    return Score(1.0, "equal to the reference") if right else Score(0.0, f"expected {problem.reference!s:.80}")


def number_grader(tolerance: float = 0.0) -> Grader:
    """Compares numbers exactly, or accepts what is less than `tolerance` away. A reference that is no number is nan."""
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
    allowed = Fraction(str(tolerance))

    def grade(problem: Problem, answer: str | None) -> Score:
        reference = None if problem.reference is None else as_number(str(problem.reference))
        if reference is None:
            return Score(math.nan, "the question has no number for a reference")
        found = as_number(normal(answer)) if answer else None
        if found is None:
            return Score(0.0, "no answer" if not answer else "not a number")
        right = found == reference or abs(found - reference) < allowed
        return Score(1.0, "equal to the reference") if right else Score(0.0, f"expected {problem.reference!s:.80}")

    return grade


grade_number = number_grader()
