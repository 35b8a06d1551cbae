"""The user's own questions: a file with one JSON object a line, a JSON list or a CSV table, plain or gzipped.

Each row asks with one of `prompt`, `question`, `problem`, `input` or `messages`. It may give the reference with one
of `answer`, `target`, `expected_answer`, an `id` (by default the line number) and `facts`, which verifiers may see.
`metadata` and fields of other names are not asked, as they may well hold a worked solution; `Task.notes` names them.

An answer is right if its normal form is that of the reference (see `samplewise.verify.readers`); for `maths`, if it is
the same mathematics (`samplewise.verify.maths`); for `choice`, if it is the same letter. Where the reference is a list
of texts, it is right if it is so for any one of them. A question without a reference gets the grade nan.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from samplewise.core.checks import check_choice
from samplewise.core.errors import BadInput, UsageError
from samplewise.core.files import problem_of, read_lines, read_table
from samplewise.core.registry import build, names
from samplewise.core.spec import parse_spec
from samplewise.core.text import as_one_line
from samplewise.core.types import Json, Message, Problem, Question, Reader, Score
from samplewise.tasks.base import Task
from samplewise.tasks.layouts import as_row
from samplewise.verify.choice import answer_options, grade_choice, letter_of
from samplewise.verify.marks import marked_answer
from samplewise.verify.maths import grade_maths, require_math_verify
from samplewise.verify.named import NamedGrader, NamedReader, accept_any, accepted_texts
from samplewise.verify.numbers import as_number, normal_form
from samplewise.verify.readers import marked_text, read_number


def jsonl(path: str | Path, *, limit: int | None = None, read: str = "auto", name: str | None = None) -> Task:
    r"""Read the questions in a file. `read` is how an answer is read from a response.

    "auto": a number where the question's reference is one, otherwise what the response marks as its answer (`\boxed{}`,
    "Answer:", `####`) or all of it; as the question asks, if the file has no reference. "number", "choice" (`facts` may
    hold the `options`), "maths", "json('field')", "last_line" and "text" are the readers of these names.
    """
    kind = _kind_of_reader(read)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if kind == "maths":
        require_math_verify()
    path = Path(path)
    from samplewise.tasks.rows import unknown_fields

    lines: dict[str, int] = {}
    unknown: dict[str, None] = {}
    problems: list[Problem] = []
    for line, value in _values(path):
        row = _row(path, line, value)
        problem = _problem(path, line, row)
        unknown |= dict.fromkeys(unknown_fields(row))
        index = lines.setdefault(problem.question.id, line)
        if index != line:
            _fail(path, line, f"id {problem.question.id!r} is already the id of line {index}; make them differ")
        problems.append(problem)
        if len(problems) == limit:
            break
    if not problems:
        raise BadInput(f"{path}: holds no questions; expected one JSON object a line, a JSON list or a CSV table")
    references = [problem.reference for problem in problems if problem.reference is not None]
    accepted = [text for problem in problems for text in accepted_texts(problem)]
    numeric = kind == "number" or (kind == "auto" and bool(references) and all(map(_is_numeric, accepted)))
    if numeric:
        _check_numbers(path, problems, lines)
    if kind == "choice":
        _check_letters(path, problems, lines)
    return Task(
        name=name or _as_utf8(path.name).removesuffix(".gz").removesuffix(".jsonl"),
        problems=tuple(problems),
        read=_reader(read, numeric, problems),
        grade=accept_any(_grader(kind)),
        source=_as_utf8(str(path)),
        description=f"{len(problems)} questions, {len(references)} with a reference.",
        notes=_note_of_fields(path, list(unknown)),
    )


def _as_utf8(name: str) -> str:
    """Return a file's name with bytes that are no UTF-8 spelled out: a store could not write them."""
    return name.encode(errors="backslashreplace").decode()


def _values(path: Path) -> Iterator[tuple[int, Json]]:
    """Yield the rows of a file with their numbers: lines of JSON, or the rows of a CSV file or of a JSON list, from 1.

    An empty cell of a CSV file is no value.
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".csv":
        for number, row in enumerate(read_table(path), start=1):
            yield number, {name: cell for name, cell in row.items() if cell}
    elif suffix == ".json":
        yield from enumerate(read_table(path), start=1)
    else:
        for line, raw in read_lines(path):
            yield line, _parsed(path, line, raw)


def _parsed(path: Path, line: int, raw: str) -> Json:
    try:
        value = json.loads(raw, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()  # a store could not write half a surrogate pair
    except json.JSONDecodeError as error:
        _fail(path, line, f"not JSON: {problem_of(error)}; write one object a line")
    except UnicodeEncodeError:
        _fail(path, line, "half of a surrogate pair (\\ud800 to \\udfff) is no text; write the character itself")
    except RecursionError:
        _fail(path, line, "its JSON is nested too deeply")
    except ValueError as error:
        _fail(path, line, f"not JSON: {error}")
    return value


def _row(path: Path, line: int, value: Json) -> dict[str, Json]:
    """Return a row of any layout with our fields."""
    if not isinstance(value, dict):
        _fail(path, line, f'expected a JSON object, got {_kind(value)}; write {{"prompt": ...}}')
    try:
        return as_row(value)
    except ValueError as error:
        _fail(path, line, str(error))


def _note_of_fields(path: Path, unknown: list[str], most: int = 8) -> tuple[str, ...]:
    """Say once which fields of a file are not asked, so that nothing of a question is left out unseen."""
    if not unknown:
        return ()
    names = ", ".join(as_one_line(name, 40) for name in unknown[:most])
    more = f" and {len(unknown) - most} more" if len(unknown) > most else ""
    word = "field" if len(unknown) == 1 else "fields"
    return (f"{path}: {word} {names}{more} not asked; what belongs to the question must stand in its text",)


def _problem(path: Path, line: int, value: Mapping[str, Json]) -> Problem:
    from pydantic import ValidationError

    from samplewise.tasks.rows import QuestionRow, explain

    try:
        row = QuestionRow.model_validate(value)
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
    """Return the part of a reference that is the answer: GSM8K's follow a worked solution and `####`."""
    marked = marked_answer(reference)
    return reference if marked is None else marked


def _is_numeric(reference: str) -> bool:
    return as_number(_short(reference)) is not None


def _check_numbers(path: Path, problems: list[Problem], lines: dict[str, int]) -> None:
    for problem in problems:
        for text in accepted_texts(problem):
            if not _is_numeric(text):
                shown = text if len(text) <= 40 else text[:37] + "..."
                message = f"reference {shown!r} is not a number; use another read than 'number'"
                _fail(path, lines[problem.question.id], message)


def _check_letters(path: Path, problems: list[Problem], lines: dict[str, int]) -> None:
    for problem in problems:
        for text in accepted_texts(problem):
            if not letter_of(text, answer_options(problem.question)):
                message = f"reference {text[:40]!r} is no option; give its letter, or the options in facts"
                _fail(path, lines[problem.question.id], message)


def _kind_of_reader(read: str) -> str:
    """Return the name of a reader. ValueError if there is none."""
    kind = read if read in names("reader") else parse_spec(read).name
    check_choice("read", kind, names("reader"))
    return kind


def reader_of(read: str) -> Reader:
    """Return the reader of a spec such as "number" or "json('total')". UsageError if there is none."""
    try:
        kind = _kind_of_reader(read)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if kind == "maths":
        require_math_verify()
    reader: Reader = build("reader", read)
    return reader


def _reader(read: str, numeric: bool, problems: list[Problem]) -> Reader:
    if read != "auto" or not any(accepted_texts(problem) for problem in problems):
        return reader_of(read)
    if numeric:
        return read_number
    texts = {problem.question.id: accepted_texts(problem) for problem in problems}
    numbers = frozenset(
        question for question, accepted in texts.items() if accepted and all(map(_is_numeric, accepted))
    )
    return _by_reference(numbers) if numbers else marked_text


def _by_reference(numbers: frozenset[str]) -> NamedReader:
    """Read a number in responses to the questions of these ids, whose references are numbers, and a text in others."""

    def read(question: Question, text: str) -> str | None:
        return read_number(question, text) if question.id in numbers else marked_text(question, text)

    return NamedReader("by reference", 1, read)


def _grader(kind: str) -> NamedGrader:
    if kind == "choice":
        return grade_choice
    if kind == "maths":
        return NamedGrader("maths of a file", 1, _grade_short_maths)

    def grade(problem: Problem, answer: str | None) -> Score:
        if problem.reference is None:
            return Score(math.nan, "the question has no reference")
        if not answer:
            return Score(0.0, "no answer")
        reference = " ".join(problem.reference.split()) if kind == "text" else normal_form(_short(problem.reference))
        is_equal = answer == reference or (kind != "text" and normal_form(answer) == reference)
        return Score(1.0, "equal to the reference") if is_equal else Score(0.0, f"expected {reference[:80]!r}")

    return NamedGrader("text" if kind == "text" else "short", 1, grade)


def _grade_short_maths(problem: Problem, answer: str | None) -> Score:
    reference = None if problem.reference is None else _short(problem.reference)
    return grade_maths(problem._replace(reference=reference), answer)
