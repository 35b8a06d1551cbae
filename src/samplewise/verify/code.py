"""Programs: score one by the tests that the question shows, grade it by hidden ones.

A question's `facts` are public, and a verifier may use them: `tests`, a list of assert statements, and what
`samplewise.verify.extract` reads a program by.

The `reference` of the problem is for the grader alone: {"tests": code, "level": "apart" or "together"}, or {"cases":
[[input, output], ...]} for whole programs that read standard input. Their outputs are compared here, line by line up to
trailing white space.

Programs run in the sandbox only. A program is right if its tests pass there, wrong if they do not or if it exceeds a
limit, and nan if the sandbox itself failed or if its tests need what cannot be handed to them. If the tests ran in the
program's own process, a weaker level, the reason of the score says so (see `samplewise.verify.sandbox.Program`). Cost:
no tokens; 5 to 10 ms for a short program.
"""

from __future__ import annotations

import ast
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from samplewise.core.types import Candidate, Json, Problem, Question, Score
from samplewise.verify.extract import read_code
from samplewise.verify.sandbox import USUAL, Level, Limits, Program, ProgramVerdict, Sandbox, shared_sandbox

LIMITS = Limits(wall_s=10.0, cpu_s=3)  # three seconds of processor time, as in published results


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


# --- running ----------------------------------------------------------------------------------------------------------


def hidden_program(problem: Problem, answer: str) -> Program:
    """Return the answer with the hidden tests of its problem."""
    reference: Mapping[str, Json] = problem.reference
    facts = problem.question.facts
    tests = with_helpers(str(reference["tests"]), str(facts.get("preamble", "")))
    return Program(
        answer,
        tests,
        level=_level(reference),
        entry_point=str(facts["entry_point"]),
        imports=modules_used(tests),
    )


def with_helpers(tests: str, preamble: str) -> str:
    """Return tests that have the helpers of the question's preamble which they use, whatever the program defines.

    HumanEval 32, 38 and 50 test a function by another one, which the prompt defines and a program can replace.
    """
    if not preamble.strip():
        return tests
    try:
        head = _quiet(preamble)
    except SyntaxError:
        return tests
    helpers = {n.name for n in head.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    used = {n.id for n in ast.walk(_quiet(tests)) if isinstance(n, ast.Name)} & helpers
    return f"{preamble.rstrip()}\n\n{tests}" if used else tests


def _level(facts: Mapping[str, Json]) -> Level:
    return "together" if facts.get("level") == "together" else "apart"


def score_of(verdict: ProgramVerdict) -> Score:
    """Score 1 for passed and 0 otherwise; nan if nothing is known: the sandbox failed, or the tests need a value of the
    program that cannot be handed to them."""
    if not verdict.is_known:
        return Score(math.nan, verdict.reason)
    if verdict.passed:
        return Score(1.0, verdict.reason)
    return Score(0.0, verdict.reason if verdict.status == "failed" else f"{verdict.status}: {verdict.reason}")


@dataclass(frozen=True, slots=True)
class CodeGrader:
    """Grade programs in one sandbox; None: the sandbox shared by this process."""

    limits: Limits = LIMITS
    sandbox: Sandbox | None = None

    def check_setup(self) -> None:
        """Raise SetupError if no sandbox can be started."""
        _ = self.sandbox or shared_sandbox()

    def __call__(self, problem: Problem, answer: str | None) -> Score:
        """Raise SetupError if no sandbox can be started: programs do not run without one."""
        if problem.reference is None:
            return Score(math.nan, "the question has no hidden tests")
        if not answer:
            return Score(0.0, "no program")
        sandbox = self.sandbox or shared_sandbox()
        if "cases" in problem.reference:
            return self._cases(sandbox, answer, problem.reference["cases"])
        return score_of(sandbox.run(hidden_program(problem, answer), self.limits))

    def _cases(self, sandbox: Sandbox, answer: str, cases: Sequence[Sequence[str]]) -> Score:
        programs = [Program(answer, stdin=stdin) for stdin, _ in cases]
        for number, verdict in sandbox.run_all(programs, self.limits):
            score = score_of(verdict)
            if score.value != 1.0:
                return Score(score.value, f"case {number + 1}: {score.reason}")
            if _lines(verdict.stdout) != _lines(cases[number][1]):
                return Score(0.0, f"case {number + 1}: another output than expected")
        return Score(1.0, f"{len(cases)} cases, each with the expected output")


grade_code = CodeGrader()


def public_tests(wall_s: float = 3.0) -> PublicTests:
    """Score the share of the tests shown in the question that a program passes, each in `wall_s`. nan if it shows
    none."""
    return PublicTests(Limits(wall_s=wall_s))


@dataclass(frozen=True, slots=True)
class PublicTests:
    """The verifier `public_tests`. It never sees a reference: what it runs is in the question's facts."""

    limits: Limits = USUAL
    sandbox: Sandbox | None = None

    def __post_init__(self) -> None:
        self.limits.check()

    def check_setup(self) -> None:
        """Raise SetupError if no sandbox can be started."""
        _ = self.sandbox or shared_sandbox()

    def __call__(self, question: Question, candidate: Candidate) -> Score:
        """Raise SetupError if no sandbox can be started."""
        tests = [str(test) for test in question.facts.get("tests") or ()]
        if not tests:
            return Score(math.nan, "the question shows no tests")
        code = read_code(question, candidate.text)
        if code is None:
            return Score(0.0, "no program")
        sandbox = self.sandbox or shared_sandbox()
        name = str(question.facts["entry_point"])
        program = Program(code, level=_level(question.facts), entry_point=name)
        combined, *separate = [
            program._replace(tests=test, imports=modules_used(test)) for test in ("\n".join(tests), *tests)
        ]
        verdict = sandbox.run(combined, self.limits)  # nearly all right programs are done here
        if verdict.passed or len(tests) == 1 or verdict.status == "broken":
            return score_of(verdict)
        verdicts = [verdict for _, verdict in sandbox.run_all(separate, self.limits)]
        unknown = [verdict.reason for verdict in verdicts if not verdict.is_known]
        if unknown:
            return Score(math.nan, unknown[0])
        num = sum(verdict.passed for verdict in verdicts)
        return Score(num / len(tests), f"{num} of {len(tests)} public tests passed")


# --- tests as text ----------------------------------------------------------------------------------------------------


def modules_used(tests: str) -> tuple[str, ...]:
    """Return the standard modules that tests use without importing them.

    Published tests rely on the solution's imports.
    """
    tree = ast.parse(tests)
    used = {n.value.id for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return tuple(sorted((used - bound) & _USUAL))


_USUAL = frozenset(sys.stdlib_module_names) & {
    *("bisect", "cmath", "collections", "copy", "datetime", "functools", "heapq", "itertools", "json", "math"),
    *("operator", "random", "re", "statistics", "string", "sys", "typing"),
}


def makes_objects(tests: str, solution: str) -> bool:
    """Return whether tests make objects of a class that the solution defines: those tests must run in its process."""
    classes = {n.name for n in ast.walk(_quiet(solution)) if isinstance(n, ast.ClassDef)}
    return any(isinstance(n, ast.Name) and n.id in classes for n in ast.walk(_quiet(tests)))


def _quiet(code: str) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):  # an invalid escape in a published solution is no reason to warn
        return ast.parse(code)
