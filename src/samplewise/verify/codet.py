"""Agreement of programs on generated tests (CodeT, arXiv 2207.10397), without a reference.

Solutions that pass the same tests form a group. Its score is the square root of its size times the number of its tests:
wrong solutions rarely agree on wrong tests. All solutions run on all tests in the sandbox. The tests run in a process
of their own, which reports what passed, so a program cannot claim more than its functions return.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Ask, Candidate, Generate, Question
from samplewise.verify.base import Answers, Judge, Replies
from samplewise.verify.code import modules_used
from samplewise.verify.extract import read_code
from samplewise.verify.sandbox import Limits, Program, Sandbox, shared_sandbox

PER_TEXT = 5  # tests taken from one text
MAX_TESTS = 300
TEST_S = 0.2  # time limit of one test
LIMITS = Limits(wall_s=20.0, cpu_s=6)

ASK = """{prompt}

Write {num} assert statements that test the function {name}: one a line, each a call with literal arguments compared \
with the value that it must return. Write nothing else and do not solve the problem."""
CONTINUE = "{prompt}    pass\n\n# check the correctness of {name}\nassert"


def read_tests(texts: Sequence[str], entry_point: str) -> tuple[str, ...]:
    """Return the different assert statements in generated texts that call the function, the most frequent first.

    At most `PER_TEXT` of each text and `MAX_TESTS` in all. A text may begin in the middle of an assert.
    """
    count: dict[str, int] = {}
    for text in texts:
        num_kept = 0
        for piece in ("assert " + text.removeprefix("assert")).split("\nassert"):
            test = _statement("assert " + piece.removeprefix("assert").strip(), entry_point)
            if test is not None and num_kept < PER_TEXT:
                count[test] = count.get(test, 0) + 1
                num_kept += 1
    return tuple(sorted(count, key=lambda test: -count[test])[:MAX_TESTS])


def _statement(text: str, entry_point: str) -> str | None:
    """Return the assert statement at the start of a text, as Python's `ast.unparse` writes it; None if it does not
    call the function."""
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


def who_passes(
    solutions: Sequence[str], tests: Sequence[str], entry_point: str = "", sandbox: Sandbox | None = None
) -> NDArray[np.bool_]:
    """Return which of the tests each solution passes, (N, T).

    A solution that exceeds a limit passes none; a call that takes longer than `TEST_S` fails its test. Cost: one run in
    the sandbox for each different solution.
    """
    different = tuple(dict.fromkeys(solutions))
    passed = {solution: np.zeros(len(tests), dtype=bool) for solution in different}
    blank = Program("", entry_point=entry_point, imports=modules_used("\n".join(tests)))
    programs = [blank._replace(source=source, separate_tests=tuple(tests), test_s=TEST_S) for source in different]
    for index, verdict in (sandbox or shared_sandbox()).run_all(programs, LIMITS):
        if verdict.separate:
            passed[different[index]] = np.array(verdict.separate, dtype=bool)
    return np.array([passed[solution] for solution in solutions]).reshape(len(solutions), len(tests))


def codet_scores(passed: NDArray[np.bool_]) -> Floats:
    """Return each solution's score (N,) from what the solutions pass, (N, T).

    The score is the square root of how many solutions pass just the same tests, times the number of these tests. nan if
    there are no tests.
    """
    if passed.size == 0:
        return np.full(len(passed), math.nan)
    _, group, size = np.unique(passed, axis=0, return_inverse=True, return_counts=True)
    scores: Floats = np.sqrt(size[group.ravel()]) * passed.sum(axis=1)
    return scores


def codet(engine: str = "", *, texts: int = 8, max_tokens: int = 300) -> Judge:
    """Score programs by agreement on tests that a model writes (CodeT): solutions that pass the same, many tests score
    highest.

    A question for a program is asked `texts` times for tests of its function, by the solver or by the team's member
    `engine`. nan if a response holds no program, or no test can be read. Cost: `texts` requests of the question and
    about 60 tokens, at most `max_tokens` of reply each, and one run in the sandbox for each different program.
    """
    check_count("texts", texts)

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[Ask, ...]:
        facts = question.facts
        if replies or "entry_point" not in facts:
            return ()
        prompt = question.messages[-1].content
        wording = CONTINUE if "prompt" in facts else ASK  # a model that continues code is given code to continue
        request = wording.format(prompt=prompt, num=PER_TEXT, name=facts["entry_point"])
        messages = (*question.messages[:-1], question.messages[-1]._replace(content=request))
        return tuple(
            Generate(messages, max_tokens=max_tokens, seed=key.fold("agreement", i).seed(), engine=engine)
            for i in range(texts)
        )

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]:
        programs = [read_code(question, candidate.text) for candidate in candidates] if replies else []
        written = [reply.text for reply in replies[0] if reply.finish != "error"] if replies else []
        name = str(question.facts.get("entry_point", ""))
        tests = read_tests(written, name)
        if not tests or not any(programs):
            return (math.nan,) * len(candidates)
        scores = iter(codet_scores(who_passes([p for p in programs if p], tests, name)).tolist())
        return tuple(next(scores) if program else math.nan for program in programs)

    return Judge("codet", next_asks, rate, engines=frozenset({engine} - {""}), setup=shared_sandbox)
