"""Graders of texts and of numbers."""

from __future__ import annotations

import math

import pytest

from samplewise.core.types import Problem, Question
from samplewise.verify.exact import grade_exact, grade_number, number_grader
from samplewise.verify.marks import last_box

QUESTION = Question("q", ())


def test_texts() -> None:
    problem = Problem(QUESTION, "New York")
    assert grade_exact(problem, "**new  york**.") == (1.0, "equal to the reference")
    assert grade_exact(problem, "York") == (0.0, "expected New York")
    for nothing in (None, "", " ", "**"):
        assert grade_exact(problem, nothing) == (0.0, "no answer")
    assert grade_exact(Problem(QUESTION, ""), "").value == 0.0
    assert math.isnan(grade_exact(Problem(QUESTION), "x").value)


def test_numbers_are_compared_exactly() -> None:
    problem = Problem(QUESTION, "1000")
    for answer in ("1,000", "1000.0", "1e3", "$1000."):
        assert grade_number(problem, answer).value == 1.0
    assert grade_number(problem, "1000.0000001") == (0.0, "expected 1000")
    assert grade_number(problem, "many") == (0.0, "not a number")
    assert grade_number(problem, None) == (0.0, "no answer")
    assert grade_number(Problem(QUESTION, 0.5), "1/2").value == 1.0
    assert math.isnan(grade_number(Problem(QUESTION), "7").value)
    assert math.isnan(grade_number(Problem(QUESTION, "seven"), "7").value)


def test_a_tolerance_is_a_bound_that_is_not_reached() -> None:
    grade = number_grader(1e-3)
    problem = Problem(QUESTION, "14053029.666666666")
    assert grade(problem, "14053029.6667").value == 1.0
    assert grade(problem, "14053029.67").value == 0.0
    assert grade(Problem(QUESTION, "1"), "1.001").value == 0.0
    assert grade(Problem(QUESTION, "1"), "1.0009999").value == 1.0
    for tolerance in (-1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance must be 0 or more"):
            number_grader(tolerance)


def test_boxes() -> None:
    assert last_box(r"\boxed{\frac{1}{2}} and the answer is 7") == r"\frac{1}{2}"
    assert last_box(r"\fbox{3}") == "3"
    assert last_box("the answer is 7") is None
    assert last_box(r"\boxed{1} \boxed{2") == "1"
    assert last_box(r"\boxed{" * 200) is None
