"""MBPP: short Python functions from one sentence and a few asserts.

Austin et al. 2021, arXiv 2108.07732; google-research (CC BY 4.0). `sanitized` is the hand-checked part, 427 problems;
`full` is all 974, of which tasks 11 to 510 are the test part that most results are for (`part="test"`).

The prompt has the authors' wording and shows the first `num_public` asserts; these are public and may be used by a
verifier. All asserts together are the hidden tests, and only the grader has them. Published results mostly show all
three; then nothing is hidden, and a verifier that runs them is an oracle.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from samplewise.tasks.base import Task, first
from samplewise.tasks.files import Source, field, problems
from samplewise.types import Json, Message, Problem, Question
from samplewise.verify.code import CodeGrader, makes_objects, read_code
from samplewise.verify.sandbox import Limits

Split = Literal["sanitized", "full"]
Part = Literal["all", "test"]

SOURCES = {
    "sanitized": Source(
        name="MBPP sanitized",
        file="mbpp_sanitized_for_code_generation.jsonl.gz",
        hub="google-research-datasets/mbpp",
        config="sanitized",
        split="train+test+validation+prompt",
        origin="google-research mbpp, sanitized, as in microsoft/CodeT @35f54d6",
        licence="CC BY 4.0",
    ),
    "full": Source(
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
    """Short Python functions with hidden tests; the prompt shows the first `num_public` of them."""
    if split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    if part not in get_args(Part):
        raise ValueError(f"part must be one of {', '.join(get_args(Part))}, got {part!r}")
    if num_public < 1:
        raise ValueError(f"num_public must be at least 1, got {num_public}: the tests give the function's name")
    source = SOURCES[split]
    made = problems(source, lambda number, row: _problem(row, num_public), limit if part == "all" else None)
    if part == "test":
        made = first([p for p in made if 11 <= int(p.question.id.rpartition("/")[2]) <= 510], limit)
    return Task(
        name="mbpp" if split == "sanitized" else "mbpp-full",
        problems=made,
        read=read_code,
        grade=CodeGrader(LIMITS),
        source=source.origin,
        licence=source.licence,
        description="Write a short Python function from a sentence and an example.",
    )


def _problem(row: Mapping[str, Json], num_public: int) -> Problem:
    try:
        return _made(row, num_public)
    except SyntaxError as error:
        raise ValueError(f"its solution or its tests are not Python ({error.msg})") from None


def _made(row: Mapping[str, Json], num_public: int) -> Problem:
    number = str(row["task_id"]).rpartition("/")[2]
    if "test" in row:  # laid out as HumanEval: a function's head, and asserts within check()
        head, text = _head(str(row["prompt"]))
        solution = head + str(row["canonical_solution"])
        before, asserts = [], _asserts(str(row["test"]))
    else:
        text, solution = str(field(row, "text", "prompt")), str(row["code"])
        setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
        before, asserts = [str(setup)] if setup else [], [str(test) for test in row["test_list"]]
    solution = solution.replace("\r\n", "\n")
    public, tests = asserts[:num_public], "\n".join([*before, *asserts])
    level = "together" if makes_objects(tests, solution) else "apart"
    facts: dict[str, Json] = {
        "entry_point": _entry_point(solution, asserts),
        "tests": ["\n".join([*before, test]) for test in public],
    }
    if level == "together":
        facts["level"] = level
    asked = WORDS.format(text=" ".join(text.split()), tests="\n".join(public))
    question = Question(f"mbpp/{number}", (Message("user", asked),), facts)
    return Problem(question, {"tests": tests, "level": level, "solution": solution})


def _head(prompt: str) -> tuple[str, str]:
    """A function's head without its docstring, whose indentation need not be the body's, and the docstring."""
    function = [node for node in ast.parse(prompt).body if isinstance(node, ast.FunctionDef)][-1]
    lines = prompt.splitlines(keepends=True)
    return "".join(lines[: function.body[0].lineno - 1]), ast.get_docstring(function) or ""


def _asserts(check: str) -> list[str]:
    """The statements of check(), one text each."""
    (function,) = [node for node in ast.parse(check).body if isinstance(node, ast.FunctionDef)]
    return [textwrap.dedent(ast.get_source_segment(check, node) or "") for node in function.body]


def _entry_point(solution: str, asserts: Sequence[str]) -> str:
    """The function of the solution that the asserts call; the last one defined, where they call several."""
    names = re.findall(r"^(?:def|class)\s+(\w+)", solution, re.MULTILINE)
    called = {
        node.func.id
        for text in asserts
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    found = [name for name in names if name in called]
    if not found:
        raise ValueError("its tests call no function of its solution")
    return str(found[-1])
