"""Agreement of programs on generated tests (CodeT, arXiv 2207.10397): no reference, only what solutions pass alike.

Solutions that pass the same tests form a group; it is worth the square root of its size times the number of its tests.
Wrong solutions seldom agree on wrong tests. All solutions run on all tests, in the sandbox: the host reads which passed
from what the program prints, so a program can lie about itself here, and no more than about itself.
"""

from __future__ import annotations

import ast
import json
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samplewise.keys import Key
from samplewise.numerics import Floats
from samplewise.types import Ask, Candidate, Generate, Question
from samplewise.verify.base import Answers, Judge, Talk
from samplewise.verify.code import read_code
from samplewise.verify.sandbox import Limits, Program, Sandbox, shared

PER_TEXT = 5  # tests taken from one text
MAX_TESTS = 300
TEST_S = 0.2  # of one test
LIMITS = Limits(wall_s=20.0, cpu_s=6)
MARK = "samplewise tests passed:"

ASK = """{prompt}

Write {num} assert statements that test the function {name}: one a line, each a call with literal arguments compared \
with the value that it must return. Write nothing else and do not solve the problem."""
CONTINUE = "{prompt}    pass\n\n# check the correctness of {name}\nassert"

_HARNESS = """
def __main():
    import json, signal, sys
    class Late(BaseException):
        pass
    def late(*_):
        raise Late
    signal.signal(signal.SIGALRM, late)
    passed = []
    for test in __tests:
        try:
            signal.setitimer(signal.ITIMER_REAL, {seconds})
            test()
            passed.append(1)
        except BaseException:
            passed.append(0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    sys.__stdout__.write("\\n{mark} " + json.dumps(passed) + "\\n")
__main()
"""


def read_tests(texts: Sequence[str], entry_point: str) -> tuple[str, ...]:
    """The different assert statements in generated texts that call the function, at most `PER_TEXT` of each text and
    `MAX_TESTS` in all; the most frequent first. A text may begin in the middle of an assert."""
    count: dict[str, int] = {}
    for text in texts:
        found = 0
        for piece in ("assert " + text.removeprefix("assert")).split("\nassert"):
            test = _statement("assert " + piece.removeprefix("assert").strip(), entry_point)
            if test is not None and found < PER_TEXT:
                count[test] = count.get(test, 0) + 1
                found += 1
    return tuple(sorted(count, key=lambda test: -count[test])[:MAX_TESTS])


def _statement(text: str, entry_point: str) -> str | None:
    """The assert statement at the beginning of a text, in Python's own spelling; None where there is none that calls
    the function."""
    for line in (text, text.splitlines()[0] if text.splitlines() else ""):
        try:
            body = ast.parse(line).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        first = body[0] if body else None
        if isinstance(first, ast.Assert) and not isinstance(first.test, ast.Constant | ast.Tuple):
            calls = {n.func.id for n in ast.walk(first) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
            return ast.unparse(ast.Assert(first.test)) if entry_point in calls else None
    return None


def who_passes(solutions: Sequence[str], tests: Sequence[str], sandbox: Sandbox | None = None) -> NDArray[np.bool_]:
    """Which of the tests each solution passes, (N, T). A solution that goes past a limit, or says nothing, passes none.
    One run in the sandbox for each different solution."""
    different = tuple(dict.fromkeys(solutions))
    passed = {solution: np.zeros(len(tests), dtype=bool) for solution in different}
    programs = [Program(_program(solution, tests)) for solution in different]
    for position, verdict in (sandbox or shared()).run_all(programs, LIMITS):
        said = next((line for line in reversed(verdict.stdout.splitlines()) if line.startswith(MARK)), None)
        try:
            flags = json.loads(said.removeprefix(MARK)) if said is not None else []
        except ValueError:
            flags = []
        if isinstance(flags, list) and len(flags) == len(tests):
            passed[different[position]] = np.array([flag == 1 for flag in flags], dtype=bool)
    return np.array([passed[solution] for solution in solutions]).reshape(len(solutions), len(tests))


def _program(solution: str, tests: Sequence[str]) -> str:
    functions = [f"def __test{i}():\n{textwrap.indent(test, '    ')}" for i, test in enumerate(tests)]
    names = ", ".join(f"__test{i}" for i in range(len(tests)))
    harness = _HARNESS.replace("{seconds}", str(TEST_S)).replace("{mark}", MARK)
    return "\n".join((solution, *functions, f"__tests = [{names}]", harness))


def agreement_scores(passed: NDArray[np.bool_]) -> Floats:
    """Each solution's score (N,) from what the solutions pass, (N, T): the square root of how many pass just the same
    tests, times the number of those. nan where there are no tests."""
    if passed.size == 0:
        return np.full(len(passed), math.nan)
    _, group, size = np.unique(passed, axis=0, return_inverse=True, return_counts=True)
    scores: Floats = np.sqrt(size[group.ravel()]) * passed.sum(axis=1)
    return scores


def agreement(engine: str = "", *, texts: int = 8, max_tokens: int = 300) -> Judge:
    """Agreement on tests that a model writes (CodeT): programs that pass the same tests, many of them, score highest.

    A question for a program is asked `texts` times for tests of its function, by the solver or the member of the crew
    called `engine`. nan where a response holds no program, or no test could be read. Cost: `texts` requests of the
    question and about 60 tokens, at most `max_tokens` of reply each; and one run in the sandbox for each different
    program.
    """
    if texts < 1:
        raise ValueError(f"texts must be at least 1, got {texts}")

    def inquire(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, heard: Talk
    ) -> tuple[Ask, ...]:
        facts = question.facts
        if heard or "entry_point" not in facts:
            return ()
        prompt = question.messages[-1].content
        wording = CONTINUE if "prompt" in facts else ASK  # a model that continues code is given code to continue
        said = wording.format(prompt=prompt, num=PER_TEXT, name=facts["entry_point"])
        messages = (*question.messages[:-1], question.messages[-1]._replace(content=said))
        return tuple(
            Generate(messages, max_tokens=max_tokens, seed=key.fold("agreement", i).seed(), engine=engine)
            for i in range(texts)
        )

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, heard: Talk
    ) -> tuple[float, ...]:
        programs = [read_code(question, candidate.text) for candidate in candidates] if heard else []
        written = [reply.text for reply in heard[0] if reply.finish != "error"] if heard else []
        tests = read_tests(written, str(question.facts.get("entry_point", "")))
        if not tests or not any(programs):
            return (math.nan,) * len(candidates)
        scores = iter(agreement_scores(who_passes([program for program in programs if program], tests)).tolist())
        return tuple(next(scores) if program else math.nan for program in programs)

    return Judge("agreement", inquire, rate, engines=frozenset({engine} - {""}))
