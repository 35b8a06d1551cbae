"""A user's own questions: a file with one JSON object a line, plain or gzipped.

Each object asks with one of `prompt`, `question`, `problem`, `input` or `messages`, and may give the reference with one
of `answer`, `target`, `expected_answer`, an `id` (else the line number) and `facts`, which verifiers may see.
`metadata` and fields of other names are passed over; they may well hold a worked solution.

An answer is right where its normal form is that of the reference (see `samplewise.verify.readers`); of `maths`, where
it is the same mathematics (`samplewise.verify.maths`), and of `choice`, where it is the same letter. A question without
a reference gets the grade nan.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal, NoReturn, get_args

from samplewise.errors import BadInput
from samplewise.tasks.base import Task
from samplewise.tasks.files import lines as lines_of
from samplewise.types import Grader, Json, Message, Problem, Question, Reader, Score
from samplewise.verify.choice import grade_choice, letter_of, options_of, read_choice
from samplewise.verify.maths import grade_maths, read_maths, require
from samplewise.verify.readers import as_number, auto, last_line, last_number, marked_answer, normal, text

Read = Literal["auto", "choice", "last_line", "maths", "number", "text"]


def jsonl(path: str | Path, *, limit: int | None = None, read: Read = "auto", name: str | None = None) -> Task:
    """The task in a file. `read` is how an answer is read out of a response.

    "auto": what the response marks as its answer (`\\boxed{}`, "Answer:", `####`); without a mark the last number if
    every reference of the file is a number, else the whole response. "maths": what it marks, as mathematics. "choice":
    the letter of an option; `facts` may hold the `options`. "last_line", "number" and "text" are as they say.
    """
    if read not in get_args(Read):
        raise ValueError(f"read must be one of {', '.join(get_args(Read))}, got {read!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if read == "maths":
        require()
    path = Path(path)
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    for line, raw in lines_of(path):
        problem = _problem(path, line, raw)
        place = lines.setdefault(problem.question.id, line)
        if place != line:
            _fail(path, line, f"id {problem.question.id!r} is already the id of line {place}; make them differ")
        problems.append(problem)
        if len(problems) == limit:
            break
    if not problems:
        raise BadInput(f"{path}: holds no questions; expected one JSON object a line")
    references = [problem.reference for problem in problems if problem.reference is not None]
    numeric = read == "number" or (read == "auto" and bool(references) and all(map(_is_numeric, references)))
    if numeric:
        _check_numbers(path, problems, lines)
    if read == "choice":
        _check_letters(path, problems, lines)
    return Task(
        name=name or path.name.removesuffix(".gz").removesuffix(".jsonl"),
        problems=tuple(problems),
        read=_reader(read, numeric),
        grade=_grader(read, numeric),
        source=str(path),
        description=f"{len(problems)} questions, {len(references)} with a reference.",
    )


def _problem(path: Path, line: int, raw: str) -> Problem:
    from pydantic import ValidationError

    from samplewise.tasks.rows import Row, explain

    try:
        found = json.loads(raw, parse_constant=_no_constant)
        json.dumps(found, ensure_ascii=False).encode()  # a store could not write half a surrogate pair
    except json.JSONDecodeError as error:
        _fail(path, line, f"not JSON: {error.msg} at column {error.colno}; write one object a line")
    except UnicodeEncodeError:
        _fail(path, line, "half of a surrogate pair (\\ud800 to \\udfff) is no text; write the character itself")
    except (ValueError, RecursionError) as error:
        _fail(path, line, f"not JSON: {error}")
    if not isinstance(found, dict):
        _fail(path, line, f'expected a JSON object, got {_kind(found)}; write {{"prompt": ...}}')
    try:
        row = Row.model_validate(found)
    except ValidationError as error:
        _fail(path, line, explain(error))
    return Problem(
        Question(
            id=str(line if row.id is None else row.id),
            messages=tuple(Message(role, content) for role, content in row.asked),
            facts=row.facts,
        ),
        row.reference,
    )


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number; write null or leave the field out")


def _kind(value: Json) -> str:
    return {list: "a list", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _fail(path: Path, line: int, message: str) -> NoReturn:
    raise BadInput(f"{path}:{line}: {message}")


# ------------------------------------------------------------------------------------------------------------ grading


def _short(reference: str) -> str:
    """The part of a reference that is the answer: GSM8K's follow a worked solution and `####`."""
    marked = marked_answer(reference)
    return reference if marked is None else marked


def _is_numeric(reference: str) -> bool:
    return as_number(_short(reference)) is not None


def _check_numbers(path: Path, problems: list[Problem], lines: dict[str, int]) -> None:
    for problem in problems:
        if problem.reference is not None and not _is_numeric(problem.reference):
            reference = problem.reference if len(problem.reference) <= 40 else problem.reference[:37] + "..."
            _fail(
                path,
                lines[problem.question.id],
                f"reference {reference!r} is not a number; use another read than 'number'",
            )


def _check_letters(path: Path, problems: list[Problem], lines: dict[str, int]) -> None:
    for problem in problems:
        if problem.reference is not None and not letter_of(problem.reference, options_of(problem.question)):
            _fail(
                path,
                lines[problem.question.id],
                f"reference {problem.reference[:40]!r} is no option; give its letter, or the options in facts",
            )


def _reader(read: Read, numeric: bool) -> Reader:
    if read == "auto":
        return auto(numeric=numeric)
    readers: dict[str, Reader] = {
        "choice": read_choice,
        "last_line": last_line,
        "maths": read_maths,
        "number": last_number,
        "text": text,
    }
    return readers[read]


def _grader(read: Read, numeric: bool) -> Grader:
    if read == "choice":
        return grade_choice
    if read == "maths":
        return lambda problem, answer: grade_maths(
            problem._replace(reference=None if problem.reference is None else _short(problem.reference)), answer
        )

    def grade(problem: Problem, answer: str | None) -> Score:
        if problem.reference is None:
            return Score(math.nan, "the question has no reference")
        if not answer:
            return Score(0.0, "no answer")
        reference = " ".join(problem.reference.split()) if read == "text" else normal(_short(problem.reference))
        right = answer == reference or (read != "text" and normal(answer) == reference)
        return Score(1.0, "equal to the reference") if right else Score(0.0, f"expected {reference[:80]!r}")

    return grade
