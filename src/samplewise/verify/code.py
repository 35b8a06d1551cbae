"""Programs: reading one out of a response, scoring it by the tests that the question shows, grading it by hidden ones.

What a question says is in its `facts`, where a verifier may look:

    entry_point   the name of the function that is asked for
    preamble      code that stands before it (imports, helpers), put in front of a whole function
    prompt        only where the model continues code: what it continues
    tests         public tests, a list of assert statements

What only a grader may see is in the `reference` of the problem: {"tests": code, "level": "apart" or "together"}, or
{"cases": [[input, output], ...]} for whole programs that read standard input; their outputs are compared here, line by
line up to trailing white space.

Programs run in the sandbox and nowhere else. A program is right if its tests pass there, wrong if they do not or it
goes past a limit, and nan if the sandbox itself has failed. A score whose reason names the weaker level was found by
tests in the program's own process (see `samplewise.verify.sandbox.Program`). Cost: no tokens; 5 to 10 ms for a short
program.
"""

from __future__ import annotations

import ast
import math
import re
import sys
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from samplewise.types import Candidate, Json, Problem, Question, Score
from samplewise.verify.sandbox import USUAL, Level, Limits, Program, Sandbox, Verdict, shared

STOP_WORDS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # where a completion of a function has gone past its end
MAX_CODE = 100_000  # characters
LIMITS = Limits(wall_s=10.0, cpu_s=3)  # three seconds, as published results have it, on a machine however busy

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_LANGUAGES = ("", "python", "py", "python3", "Python")
_END_MARKS = ("[DONE]", "\n```")


def read_code(question: Question, text: str) -> str | None:
    """The program of a response; None where there is none. Programs that differ in trailing white space are equal.

    It is the last fenced block that defines the entry point, else the text itself if that defines it, each after the
    question's preamble; else, for a question that is code to be continued, the prompt with the text up to the first of
    `STOP_WORDS`.
    """
    facts, text = question.facts, text.replace("\r\n", "\n")
    preamble, prompt = str(facts.get("preamble", "")), facts.get("prompt")
    defines = re.compile(rf"^(?:async[ \t]+)?(?:def|class)[ \t]+{re.escape(str(facts['entry_point']))}\b", re.MULTILINE)
    blocks = [textwrap.dedent(body) for language, body in _FENCE.findall(text) if language in _LANGUAGES]
    whole = next((block for block in reversed(blocks) if defines.search(block)), None)
    if whole is None and defines.search(text):
        whole = cut(text, _END_MARKS)
        while (first := defines.search(whole)) and not _compiles(whole) and _compiles(whole[first.start() :]):
            whole = whole[first.start() :]  # a sentence before the code
    if whole is not None:
        code = preamble + whole
    elif prompt is not None:
        code = str(prompt) + cut(text, (*STOP_WORDS, "\n```"))
    else:
        return None
    return f"{code.rstrip()}\n" if len(code) <= MAX_CODE else None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def cut(text: str, words: Sequence[str]) -> str:
    """The text before the first of the words."""
    places = [place for word in words if (place := text.find(word)) >= 0]
    return text[: min(places)] if places else text


def _compiles(code: str) -> bool:
    try:
        with warnings.catch_warnings(action="ignore"):
            ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


# --- running ----------------------------------------------------------------------------------------------------------


def hidden_program(problem: Problem, answer: str) -> Program:
    """The answer with the hidden tests of its problem."""
    reference: Mapping[str, Json] = problem.reference
    tests = str(reference["tests"])
    level = _level(reference)
    entry_point = str(problem.question.facts["entry_point"])
    return Program(answer, tests, level=level, entry_point=entry_point, imports=modules_used(tests))


def _level(said: Mapping[str, Json]) -> Level:
    return "together" if said.get("level") == "together" else "apart"


def score_of(verdict: Verdict) -> Score:
    """1 passed, 0 not, nan where the sandbox failed and nothing is known."""
    if verdict.status == "broken":
        return Score(math.nan, verdict.reason)
    if verdict.passed:
        return Score(1.0, verdict.reason)
    return Score(0.0, verdict.reason if verdict.status == "failed" else f"{verdict.status}: {verdict.reason}")


@dataclass(frozen=True, slots=True)
class CodeGrader:
    """Grades programs in one sandbox; None: the one that this process shares."""

    limits: Limits = LIMITS
    sandbox: Sandbox | None = None

    def __call__(self, problem: Problem, answer: str | None) -> Score:
        """Raises SetupError where no sandbox can be started: programs do not run without one."""
        if problem.reference is None:
            return Score(math.nan, "the question has no hidden tests")
        if not answer:
            return Score(0.0, "no program")
        sandbox = self.sandbox or shared()
        if "cases" in problem.reference:
            return self._cases(sandbox, answer, problem.reference["cases"])
        return score_of(sandbox.run(hidden_program(problem, answer), self.limits))

    def _cases(self, sandbox: Sandbox, answer: str, cases: Sequence[Sequence[str]]) -> Score:
        programs = [Program(answer, stdin=given) for given, _ in cases]
        for number, verdict in sandbox.run_all(programs, self.limits):
            score = score_of(verdict)
            if score.value != 1.0:
                return Score(score.value, f"case {number + 1}: {score.reason}")
            if _lines(verdict.stdout) != _lines(cases[number][1]):
                return Score(0.0, f"case {number + 1}: another output than expected")
        return Score(1.0, f"{len(cases)} cases, each with the expected output")


grade_code = CodeGrader()


def public_tests(wall_s: float = 3.0) -> PublicTests:
    """Share of the tests shown in the question that a program passes, each in `wall_s`. nan where it shows none."""
    return PublicTests(Limits(wall_s=wall_s))


@dataclass(frozen=True, slots=True)
class PublicTests:
    """The verifier. It never sees a reference: what it runs is in the question's facts."""

    limits: Limits = USUAL
    sandbox: Sandbox | None = None

    def __post_init__(self) -> None:
        self.limits.check()

    def __call__(self, question: Question, candidate: Candidate) -> Score:
        """Raises SetupError where no sandbox can be started."""
        tests = [str(test) for test in question.facts.get("tests") or ()]
        if not tests:
            return Score(math.nan, "the question shows no tests")
        code = read_code(question, candidate.text)
        if code is None:
            return Score(0.0, "no program")
        sandbox = self.sandbox or shared()
        name = str(question.facts["entry_point"])
        whole = Program(code, level=_level(question.facts), entry_point=name)
        one, *rest = [whole._replace(tests=test, imports=modules_used(test)) for test in ("\n".join(tests), *tests)]
        verdict = sandbox.run(one, self.limits)  # nearly all right programs are done here
        if verdict.passed or len(tests) == 1 or verdict.status == "broken":
            return score_of(verdict)
        verdicts = [verdict for _, verdict in sandbox.run_all(rest, self.limits)]
        if any(verdict.status == "broken" for verdict in verdicts):
            return Score(math.nan, "the sandbox failed")
        num = sum(verdict.passed for verdict in verdicts)
        return Score(num / len(tests), f"{num} of {len(tests)} public tests passed")


# --- tests as text ----------------------------------------------------------------------------------------------------


def modules_used(tests: str) -> tuple[str, ...]:
    """Standard modules that tests use without importing them: published tests count on the solution's imports."""
    tree = ast.parse(tests)
    used = {n.value.id for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)}
    bound = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return tuple(sorted((used - bound) & _USUAL))


_USUAL = frozenset(sys.stdlib_module_names) & {
    *("bisect", "cmath", "collections", "copy", "datetime", "functools", "heapq", "itertools", "json", "math"),
    *("operator", "random", "re", "statistics", "string", "sys", "typing"),
}


def makes_objects(tests: str, solution: str) -> bool:
    """Whether tests make objects of a class that the solution defines: those tests must run in its process."""
    classes = {n.name for n in ast.walk(_quiet(solution)) if isinstance(n, ast.ClassDef)}
    return any(isinstance(n, ast.Name) and n.id in classes for n in ast.walk(_quiet(tests)))


def _quiet(code: str) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):  # an invalid escape in a published solution is no reason to warn
        return ast.parse(code)
