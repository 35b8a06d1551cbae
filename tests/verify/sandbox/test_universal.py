"""Programs that read all the memory they can reach find neither their tests nor anything of other programs there.

`tests/support/universal.txt` knows nothing but its function's name. Where tests had been in memory before a program
was forked, it passed 3 of 8 random functions and 6 of the first 12 problems of HumanEval, four draws each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support import hostile

from samplewise.core.keys import Key
from samplewise.core.types import Problem
from samplewise.tasks.humaneval import humaneval
from samplewise.tasks.mbpp import mbpp
from samplewise.verify.code import hidden_program
from samplewise.verify.sandbox import Limits, Program, Sandbox

UNIVERSAL = Path(hostile.__file__).with_name("universal.txt").read_text(encoding="utf-8")
DATA = Path(os.environ.get("SAMPLEWISE_DATA") or Path(__file__).parents[4] / "shared" / "data")
LIMITS = Limits(wall_s=60, cpu_s=20)
CANARY = "quetzal-94817"  # in no program: each writes it backwards


def universal(name: str, padding: int = 0) -> str:
    """The program that looks for the tests of `name`. Where things lie in memory depends on its length."""
    return f"#{'x' * 613 * padding}\n{UNIVERSAL.replace('NAME', name)}"


def search(*words: str) -> str:
    """A program that says which words it finds in memory, each given backwards, whole or in part."""
    reading, _, _ = UNIVERSAL.partition("\n\n")
    return f"""
{reading}
backwards = {[word[::-1] for word in words]!r}
for word in backwards:
    if word[::-1].encode() in heap or word[::-1][:9].encode() in heap:
        print("found", word)
print(len(heap) > 1 << 20, b"backwards" in heap)
def add(a, b):
    return a + b
"""


def test_nothing_of_the_tests_is_in_the_programs_memory(sandbox: Sandbox) -> None:
    tests = f"assert add(2, 3) == 5, '{CANARY}'\nexpected = '{CANARY}'\nassert add('{CANARY[:9]}', 'x')[-1] == 'x'"
    for _ in range(3):
        verdict = sandbox.run(Program(search(CANARY), tests), LIMITS)
        assert verdict.passed, verdict
        assert verdict.stdout == "True True\n"


def test_nothing_of_other_programs_is_in_memory(sandbox: Sandbox) -> None:
    """What a right program has printed is the answer that the next one is asked for."""
    words = ("source-31337", "output-77213", "answer-90125", "stdin-55110", "failed-66021")
    source, output, answer, stdin, failed = words
    for _ in range(3):
        backwards = f"print('{output[::-1]}'[::-1], input())\n# {source}"
        assert output in sandbox.run(Program(backwards, stdin=stdin)).stdout
        sandbox.run(Program(f"def add(a, b):\n    return '{answer}'", f"assert add(1, 2) == '{failed}'"))
        assert sandbox.run(Program(search(*words)), LIMITS).stdout == "True True\n"


def test_an_attack_that_works_would_be_seen(sandbox: Sandbox) -> None:
    """A word that is in memory is found, whole or in part."""
    held = f"kept = '{CANARY[::-1]}'[::-1] * 100\n"
    assert "found" in sandbox.run(Program(held + search(CANARY)), LIMITS).stdout
    known = UNIVERSAL.replace(
        "import ast, re", "heap += b'assert f(3) == 17\\\\n\", \"assert f(4) == [5, 6]'\nimport ast, re"
    )
    assert sandbox.run(Program(known.replace("NAME", "f"), "assert f(3) == 17\nassert f(4) == [5, 6]"), LIMITS).passed


def test_random_functions_are_not_guessed(sandbox: Sandbox) -> None:
    rng = Key(0).generator()
    for _ in range(2):
        name = f"f{rng.integers(10**6):06}"
        tests = "\n".join(f"assert {name}({rng.integers(10**9)}) == {rng.integers(10**9)}" for _ in range(6))
        for padding in range(3):
            verdict = sandbox.run(Program(universal(name, padding), tests, entry_point=name), LIMITS)
            assert verdict.status == "failed", verdict


def forged(problems: tuple[Problem, ...]) -> Iterator[str]:
    """The problems that the universal program passes and one that returns None does not."""
    attempts, constants = [], []
    for problem in problems:
        name = str(problem.question.facts["entry_point"])
        attempts.append(hidden_program(problem, universal(name)))
        constants.append(hidden_program(problem, f"def {name}(*args, **kwargs):\n    return None\n"))
    with Sandbox(isolation="bubblewrap") as many:
        by_chance = {n for n, verdict in many.run_all(constants, LIMITS) if verdict.passed}
        for n, verdict in many.run_all(attempts, LIMITS):
            if verdict.passed and n not in by_chance:
                yield problems[n].question.id


@pytest.mark.slow
@pytest.mark.usefixtures("sandbox")
@pytest.mark.skipif(not (DATA / "benchmarks").is_dir(), reason="no benchmarks: set SAMPLEWISE_DATA")
@pytest.mark.parametrize("task", ["humaneval", "mbpp"])
def test_no_problem_of_a_benchmark_is_passed(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(DATA))
    problems = humaneval(prompt="chat").problems if task == "humaneval" else mbpp().problems
    assert len(problems) == {"humaneval": 164, "mbpp": 427}[task]
    assert list(forged(problems)) == []
