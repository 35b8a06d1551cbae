"""Read recorded draws from JSON lines, in the common layouts:

* one question per line with all its draws: `{"prompt": ..., "answer": ..., "samples": [...]}`. The list may be called
  `samples`, `completions`, `generations`, `responses` or `draws`; beside it `scores`, `correct` and
  `completion_tokens` may hold one entry per draw (of a list of step scores the last one is used);
* one draw per line, grouped by `id`, `task_id` or prompt, its text under `generation`, `completion`, `response` or
  `text`, with `score`, `correct` and `num_generated_tokens` beside it;
* the samples that lm-evaluation-harness logs, one document per line: `{"doc_id": ..., "arguments": {"gen_args_0":
  {"arg_0": prompt}}, "resps": [[...]], "target": ...}`. The messages of a chat come back as they were, any other prompt
  as one message. A document's one draw has the first of its metrics as its grade, if that lies in [0, 1]; in files of
  our own each draw has its grade and its tokens;
* the output of a batch of requests: `{"custom_id": ..., "response": {"body": {"choices": [...]}}}`.

A file with `task_id` or `custom_id` and without prompts needs `problems`, those of the task that it was drawn for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from samplewise.core.errors import BadInput
from samplewise.core.files import read_objects
from samplewise.core.types import Json, Message, Problem, Question

from .base import Draw, Recording, text_draw

ASKED = ("prompt", "question", "problem", "input")
ANSWERED = ("answer", "target", "expected_answer", "gold", "gt")
ONE = ("generation", "completion", "response", "output", "text")
MANY = ("samples", "completions", "generations", "responses", "draws")
IDS = ("id", "task_id", "custom_id", "idx", "unique_id", "doc_id")


class _Line(NamedTuple):
    """What one line holds: a question, and some of its draws."""

    id: str
    messages: tuple[Message, ...]  # empty: only the id is known
    reference: str | list[str] | None  # a list: several answers are accepted
    draws: tuple[Mapping[str, Json], ...]  # text, grade, score, tokens


def read_recording(paths: Sequence[Path], name: str, problems: Sequence[Problem] = ()) -> Recording:
    """Return the recording that one or more files hold. Raises BadInput with file and line."""
    problems_by_id = {problem.question.id: problem for problem in problems}
    recorded: dict[str, Problem] = {}
    draws: dict[str, list[Draw]] = {}
    for path in paths:
        for number, row in read_objects(path):
            try:
                line = _line(row)
                problem = _problem(line, problems_by_id)
            except ValueError as error:
                raise BadInput(f"{path}:{number}: {error}") from None
            except (TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
                raise BadInput(f"{path}:{number}: is no row of recorded draws ({error})") from None
            problem = recorded.setdefault(problem.question.id, problem)
            draws.setdefault(problem.question.id, []).extend(
                text_draw(
                    problem.question.messages,
                    draw["text"],
                    completion_tokens=draw["tokens"],
                    grade=draw["grade"],
                    scores={} if draw["score"] is None else {"score": draw["score"]},
                )
                for draw in line.draws
            )
    if not recorded:
        raise BadInput(f"{', '.join(map(str, paths))}: holds no recorded draws")
    return Recording(name, tuple(recorded.values()), tuple(tuple(draws[key]) for key in recorded))


def _problem(line: _Line, problems_by_id: Mapping[str, Problem]) -> Problem:
    if line.id in problems_by_id:
        return problems_by_id[line.id]
    if not line.messages:
        raise ValueError(
            f"{line.id!r} comes without its prompt, and "
            + ("no such problem is in the task" if problems_by_id else "no task is named that has it; give task=")
        )
    return Problem(Question(line.id, line.messages), line.reference)


def _line(row: Mapping[str, Json]) -> _Line:
    messages = _messages(row)
    row_id = next((row[key] for key in IDS if row.get(key) is not None), None)
    if row_id is None and not messages:
        raise ValueError(f"no question; give one of {', '.join((*ASKED, 'messages'))}, or an id and a task")
    reference = next((row[key] for key in ANSWERED if row.get(key) is not None), None)
    return _Line(
        str(row_id) if row_id is not None else "\n".join(message.content for message in messages),
        messages,
        _reference(reference),
        tuple(_draws(row)),
    )


def _reference(value: Json) -> str | list[str] | None:
    if isinstance(value, list) and value and all(type(text) in (str, int, float) for text in value):
        return [str(text) for text in value]
    return None if value is None else str(value)


def _messages(row: Mapping[str, Json]) -> tuple[Message, ...]:
    document: Json = row["doc"] if isinstance(row.get("doc"), dict) else {}
    for listed in (row.get("messages"), document.get("messages") if "answers" in document else None):  # ours
        if isinstance(listed, list):
            return _chat(listed)
    asked = next((row[key] for key in ASKED if isinstance(row.get(key), str)), None) or _argued(row.get("arguments"))
    if isinstance(asked, list):
        return _chat(asked)
    return () if asked is None else (Message("user", asked),)


def _chat(listed: list[Json]) -> tuple[Message, ...]:
    return tuple(Message(str(message["role"]), str(message["content"])) for message in listed)


def _argued(arguments: Json) -> str | list[Json] | None:
    """Return the prompt among a harness's arguments: by name, or the first of a list. A chat is its messages."""
    if isinstance(arguments, dict):
        arguments = [list(values.values()) for values in arguments.values() if isinstance(values, dict)]
    first = arguments[0] if isinstance(arguments, list) and arguments else None
    prompt = first[0] if isinstance(first, list) and first else None
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):  # a chat, as lm-eval wraps it
        messages = json.loads(prompt[0])
        return messages if isinstance(messages, list) else None
    return prompt if isinstance(prompt, str) else None


def _draws(row: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    if isinstance(row.get("response"), dict):  # the output of a batch
        body = row["response"].get("body") or {}
        for choice in body.get("choices") or ():
            message = choice.get("message") or {}
            yield _draw(message.get("content") or choice.get("text") or "", row, None)
        return
    if isinstance(row.get("resps"), list):  # one list per request; a generating task has a single request
        logged = [text for texts in row["resps"] for text in texts]
        tokens = _of_ours(row, "completion_tokens", len(logged)) or [None] * len(logged)
        for text, grade, num in zip(logged, _logged_grades(row, len(logged)), tokens, strict=True):
            yield _draw(text, {"correct": grade, "completion_tokens": num}, None)
        return
    for key in MANY:
        texts = row.get(key)
        if isinstance(texts, list):
            for index, text in enumerate(texts):
                if isinstance(text, dict):
                    yield _draw(next((text[name] for name in ONE if name in text), None), text, None)
                else:
                    yield _draw(text, row, index)
            return
    for key in ONE:
        if isinstance(row.get(key), str):
            yield _draw(row[key], row, None)
            return
    raise ValueError(f"no draws; give a list {', '.join(MANY)}, or a text {', '.join(ONE)}")


def _of_ours(row: Mapping[str, Json], name: str, num: int) -> list[Json] | None:
    """Return what the document of a file of our own says of each draw, None where it says nothing."""
    values = row["doc"].get(name) if isinstance(row.get("doc"), dict) else None
    return values if isinstance(values, list) and len(values) == num else None


def _logged_grades(row: Mapping[str, Json], num: int) -> list[Json]:
    """Return the grade of each draw of a harness's document, None where it is not known."""
    if (ours := _of_ours(row, "grades", num)) is not None:
        return ours
    metrics = row.get("metrics")
    value = row.get(metrics[0]) if isinstance(metrics, list) and metrics and num == 1 else None
    is_grade = isinstance(value, int | float) and 0 <= value <= 1
    return [value if is_grade else None] * num


def _draw(text: Json, row: Mapping[str, Json], index: int | None) -> Mapping[str, Json]:
    """Return a draw with its grade, score and tokens: at `index` of the lists beside the texts, or in the row."""
    if not isinstance(text, str):
        raise ValueError(f"a draw is a text; got {str(text)[:40]!r}")

    def beside(*names: str) -> Json:
        for name in names:
            value = row.get(name)
            if index is not None and isinstance(value, list) and len(value) > index:
                value = value[index]
            elif index is not None:
                continue
            while isinstance(value, list) and value:  # of scores step by step the last one
                value = value[-1]
            if isinstance(value, bool | int | float):
                return value
        return None

    grade, score = beside("correct", "is_correct", "grades"), beside("score", "scores", "reward", "rewards")
    tokens = beside("completion_tokens", "num_generated_tokens", "output_tokens")
    return {
        "text": text,
        "grade": math.nan if grade is None else float(grade),
        "score": None if score is None else float(score),
        "tokens": None if tokens is None else int(tokens),
    }
