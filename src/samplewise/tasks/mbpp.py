"""MBPP: short Python functions from one sentence and a few asserts.

Austin et al. 2021, arXiv 2108.07732; google-research (CC BY 4.0). `sanitized` is the hand-checked part, 427 problems;
`full` is all 974, of which tasks 11 to 510 are the test part that most results are for (`part="test"`).

The prompt has the authors' wording and shows the first `num_public` asserts. These are public, and a verifier may use
them. All asserts together are the hidden tests, and only the grader has them. Published results mostly show all three;
then nothing is hidden, and a verifier that runs them is an oracle.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from samplewise.core.checks import check_choice
from samplewise.core.types import Json, Message, Problem, Question
from samplewise.tasks.base import Task, first_problems
from samplewise.tasks.files import BenchmarkSource, field, problems
from samplewise.verify.code import CodeGrader, makes_objects
from samplewise.verify.extract import read_code
from samplewise.verify.sandbox import Limits

Split = Literal["sanitized", "full"]
Part = Literal["all", "test"]

SOURCES = {
    "sanitized": BenchmarkSource(
        name="MBPP sanitized",
        file="mbpp_sanitized_for_code_generation.jsonl.gz",
        hub="google-research-datasets/mbpp",
        config="sanitized",
        split="train+test+validation+prompt",
        origin="google-research mbpp, sanitized, as in microsoft/CodeT @35f54d6",
        licence="CC BY 4.0",
    ),
    "full": BenchmarkSource(
        name="MBPP",
        file="mbpp_974.jsonl.gz",
        hub="google-research-datasets/mbpp",
        config="full",
        split="train+test+validation+prompt",
        origin="google-research mbpp",
        licence="CC BY 4.0",
    ),
}
LIMITS = Limits(wall_s=30.0, cpu_s=12)  # the published solution of task 123 takes five seconds
WORDS = """You are an expert Python programmer, and here is your task: {text} Your code should pass these tests:

{tests}

Reply with the whole function in one ```python code block."""


def mbpp(split: Split = "sanitized", *, limit: int | None = None, num_public: int = 1, part: Part = "all") -> Task:
    """Load MBPP, short Python functions with hidden tests; the prompt shows the first `num_public` of them."""
    check_choice("split", split, get_args(Split))
    check_choice("part", part, get_args(Part))
    if num_public < 1:
        raise ValueError(f"num_public must be at least 1, got {num_public}: the tests give the function's name")
    source = SOURCES[split]
    chosen = problems(source, lambda number, row: _problem(row, num_public), limit if part == "all" else None)
    if part == "test":
        chosen = first_problems([p for p in chosen if 11 <= int(p.question.id.rpartition("/")[2]) <= 510], limit)
    return Task(
        name="mbpp" if split == "sanitized" else "mbpp-full",
        problems=chosen,
        read=read_code,
        grade=CodeGrader(LIMITS),
        source=source.origin,
        licence=source.licence,
        description="Write a short Python function from a sentence and an example.",
    )


def _problem(row: Mapping[str, Json], num_public: int) -> Problem:
    try:
        return _read_problem(row, num_public)
    except SyntaxError as error:
        raise ValueError(f"its solution or its tests are not Python ({error.msg})") from None


def _read_problem(row: Mapping[str, Json], num_public: int) -> Problem:
    number = str(row["task_id"]).rpartition("/")[2]
    if "test" in row:  # laid out as HumanEval: a function's head, and asserts within check()
        head, text = _head(str(row["prompt"]))
        solution = head + str(row["canonical_solution"])
        setup_lines, asserts = [], _asserts(str(row["test"]))
    else:
        text, solution = str(field(row, "text", "prompt")), str(row["code"])
        setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
        setup_lines, asserts = [str(setup)] if setup else [], [str(test) for test in row["test_list"]]
    solution = solution.replace("\r\n", "\n")
    public, tests = asserts[:num_public], "\n".join([*setup_lines, *asserts])
    level = "together" if makes_objects(tests, solution) else "apart"
    facts: dict[str, Json] = {
        "entry_point": _entry_point(solution, asserts),
        "tests": ["\n".join([*setup_lines, test]) for test in public],
    }
    if level == "together":
        facts["level"] = level
    asked = WORDS.format(text=" ".join(text.split()), tests="\n".join(public))
    question = Question(f"mbpp/{number}", (Message("user", asked),), facts)
    return Problem(question, {"tests": tests, "level": level, "solution": solution})


def _head(prompt: str) -> tuple[str, str]:
    """Return a function's head without its docstring, whose indentation need not be the body's, and the docstring."""
    function = [node for node in ast.parse(prompt).body if isinstance(node, ast.FunctionDef)][-1]
    lines = prompt.splitlines(keepends=True)
    return "".join(lines[: function.body[0].lineno - 1]), ast.get_docstring(function) or ""


def _asserts(check: str) -> list[str]:
    """Return the statements of check(), one text each."""
    (function,) = [node for node in ast.parse(check).body if isinstance(node, ast.FunctionDef)]
    return [textwrap.dedent(ast.get_source_segment(check, node) or "") for node in function.body]


def _entry_point(solution: str, asserts: Sequence[str]) -> str:
    """Return the function of the solution that the asserts call; of several the last one defined."""
    names = re.findall(r"^(?:def|class)\s+(\w+)", solution, re.MULTILINE)
    called = {
        node.func.id
        for text in asserts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    names_called = [name for name in names if name in called]
    if not names_called:
        raise ValueError("its tests call no function of its solution")
    return str(names_called[-1])
