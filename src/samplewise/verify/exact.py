"""Graders that compare an answer with the reference as a text, or as a number. Microseconds; no mathematics.

Both are exact: `1,000`, `1000.0` and `1e3` are one number, and .333 is not 1/3. A benchmark with rounded references is
graded within its published tolerance (`number_grader`).
"""

from __future__ import annotations

import math
from fractions import Fraction

from samplewise.core.types import Problem, Score
from samplewise.verify.named import NamedGrader, named_grader
from samplewise.verify.numbers import as_number, normal_form


@named_grader("exact", 1)
def grade_exact(problem: Problem, answer: str | None) -> Score:
    """Score 1 if the normal forms of answer and reference are equal (see `samplewise.verify.numbers`), otherwise 0."""
    if problem.reference is None:
        return Score(math.nan, "the question has no reference")
    if not answer or not normal_form(answer):
        return Score(0.0, "no answer")
    is_equal = normal_form(answer) == normal_form(str(problem.reference))
    return Score(1.0, "equal to the reference") if is_equal else Score(0.0, f"expected {problem.reference!s:.80}")


def number_grader(tolerance: float = 0.0) -> NamedGrader:
    """Return a grader that compares numbers exactly, or within less than `tolerance`. nan if the reference is no
    number."""
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or more, got {tolerance}")
    allowed = Fraction(str(tolerance))

    def grade(problem: Problem, answer: str | None) -> Score:
        reference = None if problem.reference is None else as_number(str(problem.reference))
        if reference is None:
            return Score(math.nan, "the question has no number for a reference")
        number = as_number(normal_form(answer)) if answer else None
        if number is None:
            return Score(0.0, "no answer" if not answer else "not a number")
        is_equal = number == reference or abs(number - reference) < allowed
        return Score(1.0, "equal to the reference") if is_equal else Score(0.0, f"expected {problem.reference!s:.80}")

    return NamedGrader(f"number({tolerance:g})" if tolerance else "number", 1, grade)


grade_number = number_grader()
