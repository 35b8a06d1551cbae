"""HumanEval: prompts, examples of the docstrings, and the published solutions against the hidden tests."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from samplewise.core.errors import SetupError
from samplewise.core.types import Problem
from samplewise.tasks.humaneval import Prompt, docstring_examples, humaneval
from samplewise.verify.code import hidden_program, modules_used
from samplewise.verify.extract import read_code
from samplewise.verify.sandbox import Program, Sandbox

DATA = Path(os.environ.get("SAMPLEWISE_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "benchmarks" / "HumanEval.jsonl.gz").is_file(), reason="no HumanEval.jsonl.gz: set SAMPLEWISE_DATA"
)


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> tuple[Problem, ...]:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(DATA))
    return humaneval().problems


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (">>> f(1)\n    2\n    >>> f([1, 'a'])\n    [3]", ["assert f(1) == 2", "assert f([1, 'a']) == [3]"]),
        ("f(1) == 2", ["assert f(1) == 2"]),
        (">>> f(1) == 2", ["assert f(1) == 2"]),
        ("For f(1, 2) => 'a'", ["assert f(1, 2) == 'a'"]),
        ('f("(") ==> True', ['assert f("(") == True']),
        ("f(1) -> 3 - 1 = 2", ["assert f(1) == 2"]),
        ("f(1) should return false", ["assert f(1) == False"]),
        ("f(1) returns [1, 2]  # sorted", ["assert f(1) == [1, 2]"]),
        ("f(1) == 2\n    f(1) == 2", ["assert f(1) == 2"]),
        ("f(a) => 3\n    f(1) => b\n    f(1 => 2\n    g(1) => 2\n    f(1)", []),
        (">>> f(g(1))\n    2\n    >>> x = f(1)\n    >>> f(2)", []),
        ("", []),
    ],
)
def test_examples_are_read(lines: str, found: list[str]) -> None:
    assert list(docstring_examples(f'def f(x):\n    """Text.\n    {lines}\n    """\n', "f")) == found


def test_examples_of_something_else() -> None:
    assert docstring_examples("def f(x):\n    pass\n", "f") == ()
    assert docstring_examples("this is no python", "f") == ()
    assert docstring_examples('def g():\n    """f(1) == 2"""\n', "f") == ()


@needs_data
def test_prompts(problems: tuple[Problem, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(problems) == 164
    first = problems[0]
    assert first.question.id == "HumanEval/0"
    assert first.question.messages[0].content == first.question.facts["prompt"]
    assert first.question.messages[0].content.startswith("from typing import List\n\n\ndef has_close_elements(")
    assert first.question.facts["preamble"] == "from typing import List\n\n\n"
    assert first.question.facts["tests"] == [
        "assert has_close_elements([1.0, 2.0, 3.0], 0.5) == False",
        "assert has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], 0.3) == True",
    ]
    chat = humaneval(limit=3, prompt="chat")
    assert (chat.name, len(chat.problems), chat.licence) == ("humaneval-chat", 3, "MIT")
    assert "prompt" not in chat.problems[0].question.facts
    assert "def has_close_elements(" in chat.problems[0].question.messages[0].content
    for problem in problems:
        assert "def check(candidate)" not in str(problem.question), "a question must not hold its hidden tests"
        assert problem.reference["solution"] not in str(problem.question)
    assert sum(not problem.question.facts["tests"] for problem in problems) == 26
    with pytest.raises(ValueError, match="prompt must be one of complete, chat"):
        humaneval(prompt="plain")  # type: ignore[arg-type]
    monkeypatch.setenv("SAMPLEWISE_DATA", "/nowhere")
    with pytest.raises(SetupError, match=r"HumanEval\.jsonl\.gz"):
        humaneval()


FORGED = {  # an answer, and a helper that makes the tests believe it
    "HumanEval/32": ("def find_zero(xs):\n    return 42\n", "def poly(xs, x):\n    return 0.0\n"),
    "HumanEval/38": ("def decode_cyclic(s):\n    return s\n", "def encode_cyclic(s):\n    return s\n"),
    "HumanEval/50": ("def decode_shift(s):\n    return s\n", "def encode_shift(s):\n    return s\n"),
}


@needs_data
@pytest.mark.parametrize("prompt", ["chat", "complete"])
def test_helpers_of_the_prompt_are_not_the_programs(prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of three problems call a function that the prompt defines, and a program can define again."""
    monkeypatch.setenv("SAMPLEWISE_DATA", str(DATA))
    problems = {problem.question.id: problem for problem in humaneval(prompt=prompt).problems}
    programs = []
    for name, (answer, helper) in FORGED.items():
        problem = problems[name]
        head, lambdas = (
            problem.reference["solution"],
            re.sub(r"def (\w+)\((.*)\):\n\s+return ", r"\1 = lambda \2: ", helper),
        )
        right = hidden_program(problem, head)
        assert right.tests.startswith(str(problem.question.facts["preamble"]).rstrip())
        programs.append((right, True))
        programs.append((hidden_program(problem, helper + head), True))  # defined twice, the prompt's last
        programs += [(hidden_program(problem, text), False) for text in (answer, helper + answer, answer + lambdas)]
        if prompt == "complete":
            body = answer.partition("\n")[2]
            read = read_code(problem.question, body + lambdas)
            assert read is not None
            assert lambdas.strip() in read, "an assignment is no stop word"
            programs.append((hidden_program(problem, read), False))
    try:
        with Sandbox(1, isolation="bubblewrap") as sandbox:
            found = [sandbox.run(program).passed for program, _ in programs]
    except SetupError as error:
        pytest.skip(str(error))
    assert found == [passes for _, passes in programs]
    others = [p for p in problems.values() if p.question.id not in FORGED]
    assert [p.question.id for p in others if hidden_program(p, "pass").tests != p.reference["tests"]] == []


@pytest.mark.slow
@needs_data
def test_published_solutions_pass_and_nothing_does_not(problems: tuple[Problem, ...]) -> None:
    answers, empty, public = [], [], []
    for problem in problems:
        facts = problem.question.facts
        body = problem.reference["solution"][len(facts["prompt"]) :]
        answer = read_code(problem.question, body + "\n\n\nprint('and so on')\n")
        assert answer is not None
        answers.append(hidden_program(problem, answer))
        empty.append(hidden_program(problem, facts["prompt"] + "    pass\n"))
        public += [
            Program(answer, test, entry_point=facts["entry_point"], imports=modules_used(test))
            for test in facts["tests"]
        ]
    try:
        with Sandbox(isolation="bubblewrap") as sandbox:
            assert {n: v for n, v in sandbox.run_all(answers) if not v.passed} == {}
            assert {n: v for n, v in sandbox.run_all(public) if not v.passed} == {}
            assert [problems[n].question.id for n, v in sandbox.run_all(empty) if v.passed] == []
    except SetupError as error:
        pytest.skip(str(error))
