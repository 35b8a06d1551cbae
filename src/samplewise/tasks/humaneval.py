"""HumanEval: 164 functions to be written from signature and docstring, graded by hidden tests.

Chen et al. 2021, arXiv 2107.03374; openai/human-eval (MIT). The hidden tests are the published ones. The public tests
are the examples in the docstring, as far as they can be read: `>>> f(1)` with its value in the next line, and lines
such as `f(1) == 2`, `f(1) => 2` and `f(1) returns 2`. Six that contradict the published solution are left out; 26
questions have none.

`prompt` is "complete" for base models: they continue the function's head, as in published results, and a response is
cut at the end of the function. It is "chat" for instruction models, which are asked for a whole function.
"""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from samplewise.core.checks import check_choice
from samplewise.core.types import Json, Message, Problem, Question
from samplewise.tasks.base import Task
from samplewise.tasks.files import BenchmarkSource, problems
from samplewise.verify.code import grade_code
from samplewise.verify.extract import read_code

Prompt = Literal["complete", "chat"]

SOURCE = BenchmarkSource(
    name="HumanEval",
    file="HumanEval.jsonl.gz",
    hub="openai/openai_humaneval",
    split="test",
    origin="openai/human-eval @6d43fb9",
    licence="MIT",
)
CHAT = """Complete this Python function. Reply with the whole function and its imports, in one code block.

```python
{prompt}
```"""


def humaneval(*, limit: int | None = None, prompt: Prompt = "complete") -> Task:
    """Load HumanEval, 164 Python functions with hidden tests.

    `prompt` is "complete" (base models) or "chat" (instruction models).
    """
    check_choice("prompt", prompt, get_args(Prompt))
    return Task(
        name="humaneval" if prompt == "complete" else "humaneval-chat",
        problems=problems(SOURCE, lambda number, row: _problem(row, prompt), limit),
        read=read_code,
        grade=grade_code,
        source=SOURCE.origin,
        licence=SOURCE.licence,
        description="Write a Python function from its signature and docstring.",
    )


def _problem(row: Mapping[str, Json], prompt: Prompt) -> Problem:
    head, name = str(row["prompt"]), str(row["entry_point"])
    facts: dict[str, Json] = {
        "entry_point": name,
        "preamble": head[: _start(head, name)],
        "tests": list(docstring_examples(head, name)),
    }
    if prompt == "complete":
        facts["prompt"] = head
    text = head if prompt == "complete" else CHAT.format(prompt=head.rstrip())
    question = Question(str(row["task_id"]), (Message("user", text),), facts)
    tests = f"{row['test']}\n\ncheck({name})\n"
    return Problem(question, {"tests": tests, "level": "apart", "solution": head + str(row["canonical_solution"])})


def _start(head: str, name: str) -> int:
    matches = list(re.finditer(rf"^def {re.escape(name)}\(", head, re.MULTILINE))
    if not matches:
        raise ValueError(f"the prompt does not define {name}")
    return matches[-1].start()


# --- examples of a docstring ------------------------------------------------------------------------------------------

_ARROW = re.compile(r"\s*(?:={1,2}>|==|->|➞|➡|=|(?:should\s+)?returns?:?|#\s*=>|#\s*returns?|is)\s*(.+)")
_WRONG = {  # examples that the published solution does not pass
    "assert median([-10, 4, 6, 1000, 10, 20]) == 15.0",  # the median is 8
    "assert tri(1) == 3",  # a step of an explanation, not an example
    "assert tri(4) == 3",
    "assert sort_array([1, 5, 2, 3, 4]) == [1, 2, 3, 4, 5]",  # sorted by number, not by number of ones
    "assert sort_array([-2, -3, -4, -5, -6]) == [-6, -5, -4, -3, -2]",
    'assert bf("Earth", "Mercury") == ("Venus")',  # brackets without a comma are no tuple
}


def docstring_examples(head: str, name: str) -> tuple[str, ...]:
    """Return the examples in the docstring of a function's head, each as an assert statement, in order and each
    once."""
    try:
        functions = [n for n in ast.parse(head).body if isinstance(n, ast.FunctionDef) and n.name == name]
    except SyntaxError:
        return ()
    text = ast.get_docstring(functions[-1]) if functions else None
    tests = [*_sessions(text or "", name), *_lines(text or "", name)]
    return tuple(test for test in dict.fromkeys(tests) if test not in _WRONG)


def _sessions(text: str, name: str) -> Iterator[str]:
    try:
        parsed = doctest.DocTestParser().get_examples(text)
    except ValueError:  # the published examples are not all well formed
        return
    for example in parsed:
        call, equals, want = example.source.partition(" == ")
        test = _assert(call.strip(), want.strip() if equals else example.want.strip(), name)
        if test:
            yield test


def _lines(text: str, name: str) -> Iterator[str]:
    for line in text.splitlines():
        index = line.find(f"{name}(")
        end = _closing(line, index + len(name)) if index >= 0 and ">>>" not in line else None
        if end is None:
            continue
        arrow = _ARROW.fullmatch(line[end:])
        test = _assert(line[index:end], arrow[1].strip(), name) if arrow else None
        if test:
            yield test


def _closing(line: str, start: int) -> int | None:
    """Return the position after the bracket that closes the one at `start`, or None."""
    for end in range(start + 1, len(line) + 1):
        if line[end - 1] == ")":
            try:
                ast.parse(line[start:end], mode="eval")
            except SyntaxError:
                continue
            return end
    return None


def _assert(call: str, want: str, name: str) -> str | None:
    """Return the example as a test; None unless it is one call with literals, whose value is a literal."""
    want = re.split(r"\s+(?:#|//)|(?<=[\])}'\"\w])[.;,]?\s+\(", want)[0].rstrip(".;, ")
    want = {"true": "True", "false": "False"}.get(want, want)
    if re.fullmatch(r"[-\d\s]+=\s*-?\d+", want):  # 19 - 5 - 6 = 8
        want = want.rpartition("=")[2].strip()
    try:
        node = ast.parse(call, mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id != name:
            return None
        for argument in (*node.args, *(k.value for k in node.keywords)):
            ast.literal_eval(argument)
        ast.literal_eval(want)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return f"assert {call} == {want}"
