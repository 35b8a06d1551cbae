"""Grade what a program computes: an input that gives an output, or the output of an input (CRUXEval).

The problem's reference holds the `code` of a function `f`, an `input` and its `output`, all as Python text. The answer
is a Python expression: a call `f(...)`, or a value. Answer and function run in the sandbox. Cost: one short program per
grade.
"""

from __future__ import annotations

import math
import re

from samplewise.core.types import Problem, Question, Score
from samplewise.verify.named import named_grader, named_reader
from samplewise.verify.sandbox import Program, shared_sandbox

MAX_ANSWER = 4_000  # characters


@named_reader("value", 2)
def read_value(question: Question, text: str) -> str | None:
    """Return the response itself, without surrounding white space."""
    return text.strip() or None


@named_grader("value", 1, setup=shared_sandbox)
def grade_value(problem: Problem, answer: str | None) -> Score:
    """Score 1 if the answer, in place of what was asked for, makes `f(input) == output` true, otherwise 0.

    An answer that calls `f` where a value was asked for, or that does not call it where a call was, is wrong.
    """
    if problem.reference is None:
        return Score(math.nan, "the question has no reference")
    if not answer or len(answer) > MAX_ANSWER:
        return Score(0.0, "no answer" if not answer else "too long for an answer")
    calls = re.search(r"\bf\s*\(", answer) is not None
    if calls != (problem.question.facts["task"] == "input"):
        return Score(0.0, "no call of f" if not calls else "a call of f is no value")
    reference = problem.reference
    program = Program(
        f"{reference['code']}\ndef answer():\n    return ({answer}\n)",
        tests=f"assert answer() == ({reference['output']})",
        entry_point="answer",
    )
    verdict = shared_sandbox().run(program)
    if not verdict.is_known:
        return Score(math.nan, verdict.reason)
    return Score(float(verdict.passed), verdict.reason or verdict.status)
