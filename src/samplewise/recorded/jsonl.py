"""Recorded draws in JSON lines, in the shapes that are common:

* a question a line with all its draws: `{"prompt": ..., "answer": ..., "samples": [...]}`. The list may be called
  `samples`, `completions`, `generations`, `responses` or `draws`; beside it `scores`, `correct` and
  `completion_tokens` may hold one entry a draw (of a list of step scores the last counts);
* a draw a line, those of equal `id`, `task_id` or prompt belonging together, its text under `generation`,
  `completion`, `response` or `text`, with `score`, `correct` and `num_generated_tokens` beside it;
* the samples that lm-evaluation-harness logs, a document a line: `{"doc_id": ..., "arguments": {"gen_args_0": {"arg_0":
  prompt}}, "resps": [[...]], "target": ...}`; the prompt is what the model was sent, as one message;
* the output of a batch of requests: `{"custom_id": ..., "response": {"body": {"choices": [...]}}}`.

A file that says `task_id` or `custom_id` and no prompt needs `problems`: those of the task that it was drawn for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from samplewise.errors import BadInput
from samplewise.files import numbered
from samplewise.types import Json, Message, Problem, Question

from .base import Draw, Recording, text_draw

ASKED = ("prompt", "question", "problem", "input")
ANSWERED = ("answer", "target", "expected_answer", "gold", "gt")
ONE = ("generation", "completion", "response", "output", "text")
MANY = ("samples", "completions", "generations", "responses", "draws")
IDS = ("id", "task_id", "custom_id", "idx", "unique_id", "doc_id")


class _Line(NamedTuple):
    """What one line says: a question, and some of its draws."""

    id: str
    messages: tuple[Message, ...]  # empty: only the id is known
    reference: str | None
    draws: tuple[Mapping[str, Json], ...]  # text, grade, score, tokens


def recording(paths: Sequence[Path], name: str, problems: Sequence[Problem] = ()) -> Recording:
    """The recording that one or more files hold. Raises BadInput with file and line."""
    known = {problem.question.id: problem for problem in problems}
    found: dict[str, Problem] = {}
    draws: dict[str, list[Draw]] = {}
    for path in paths:
        for number, row in numbered(path):
            try:
                line = _line(row)
                problem = _problem(line, known)
            except (ValueError, TypeError, KeyError) as error:
                raise BadInput(f"{path}:{number}: {error}") from None
            problem = found.setdefault(problem.question.id, problem)
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
    if not found:
        raise BadInput(f"{', '.join(map(str, paths))}: holds no recorded draws")
    return Recording(name, tuple(found.values()), tuple(tuple(draws[key]) for key in found))


def _problem(line: _Line, known: Mapping[str, Problem]) -> Problem:
    if line.id in known:
        return known[line.id]
    if not line.messages:
        raise ValueError(
            f"{line.id!r} comes without its prompt, and "
            + ("no such problem is in the task" if known else "no task is named that has it; give task=")
        )
    return Problem(Question(line.id, line.messages), line.reference)


def _line(row: Mapping[str, Json]) -> _Line:
    messages = _messages(row)
    named = next((row[key] for key in IDS if row.get(key) is not None), None)
    if named is None and not messages:
        raise ValueError(f"no question; give one of {', '.join((*ASKED, 'messages'))}, or an id and a task")
    reference = next((row[key] for key in ANSWERED if row.get(key) is not None), None)
    return _Line(
        str(named) if named is not None else "\n".join(message.content for message in messages),
        messages,
        None if reference is None else str(reference),
        tuple(_draws(row)),
    )


def _messages(row: Mapping[str, Json]) -> tuple[Message, ...]:
    if isinstance(row.get("messages"), list):
        return tuple(Message(str(m["role"]), str(m["content"])) for m in row["messages"])
    asked = next((row[key] for key in ASKED if isinstance(row.get(key), str)), None) or _argued(row.get("arguments"))
    return () if asked is None else (Message("user", asked),)


def _argued(arguments: Json) -> str | None:
    """The prompt among a harness's arguments: by name, or the first of a list."""
    if isinstance(arguments, dict):
        arguments = [list(each.values()) for each in arguments.values() if isinstance(each, dict)]
    first = arguments[0] if isinstance(arguments, list) and arguments else None
    return first[0] if isinstance(first, list) and first and isinstance(first[0], str) else None


def _draws(row: Mapping[str, Json]) -> Iterator[Mapping[str, Json]]:
    if isinstance(row.get("response"), dict):  # of a batch
        body = row["response"].get("body") or {}
        for choice in body.get("choices") or ():
            said = choice.get("message") or {}
            yield _draw(said.get("content") or choice.get("text") or "", row, None)
        return
    if isinstance(row.get("resps"), list):  # of each argument a list; those that draw have one
        for texts in row["resps"]:
            for text in texts:
                yield _draw(text, {}, None)
        return
    for key in MANY:
        texts = row.get(key)
        if isinstance(texts, list):
            for place, text in enumerate(texts):
                if isinstance(text, dict):
                    yield _draw(next((text[name] for name in ONE if name in text), None), text, None)
                else:
                    yield _draw(text, row, place)
            return
    for key in ONE:
        if isinstance(row.get(key), str):
            yield _draw(row[key], row, None)
            return
    raise ValueError(f"no draws; give a list {', '.join(MANY)}, or a text {', '.join(ONE)}")


def _draw(text: Json, row: Mapping[str, Json], place: int | None) -> Mapping[str, Json]:
    """What is said of one draw: in the lists beside the texts at `place`, or in the row itself."""
    if not isinstance(text, str):
        raise ValueError(f"a draw is a text; got {str(text)[:40]!r}")

    def beside(*names: str) -> Json:
        for name in names:
            value = row.get(name)
            if place is not None and isinstance(value, list) and len(value) > place:
                value = value[place]
            elif place is not None:
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
