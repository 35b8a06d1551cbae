"""Rows of the store as values. A row whose bytes have changed raises ValueError, TypeError or KeyError here, not later:
what a value is taken for is checked, not only that it can be parsed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from samplewise.core.reasoning import split_reasoning
from samplewise.core.spec import modern
from samplewise.core.types import Candidate, Json, Message, Pool, Problem, Question, Stop, Usage
from samplewise.store.encoding import from_text
from samplewise.store.records import Decision, Run

_COLUMNS: Mapping[str, tuple[type, ...]] = {  # fields of a candidate, other than its scores
    "text": (str,),
    "finish": (str,),
    "arm": (str,),
    "log_weight": (float, int),
    "num_tokens": (int,),
    "logp_sum": (float, int),
    "reasoning": (str,),
}


def check_type(value: Json, *types: type) -> Any:
    """Return a value of one of these types. Raises TypeError."""
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise TypeError(f"{value!r:.40} is no {types[0].__name__}")
    return value


def to_usage(text: str) -> Usage:
    """Return a stored cost."""
    usage = Usage(*json.loads(text))
    for amount in usage:
        check_type(amount, float, int)
    return usage


def to_run(row: Sequence[Any]) -> Run:
    """Return a row of the table of runs."""
    manifest = check_type(json.loads(row[5]), dict)
    check_type(row[4], int)
    check_type(row[6], float, int)
    for name in ("engine", "task", "versions"):
        check_type(manifest.get(name, {}), dict)
    members = manifest.get("engine", {}).get("members") or {}
    for name, identity in check_type(members, dict).items():
        check_type(name, str)
        check_type(identity, str)
    texts = [from_text(check_type(value, str, bytes)) for value in row[:4]]
    return Run(texts[0], modern(texts[1]), texts[2], texts[3], row[4], manifest, *row[6:])


def to_decision(row: Sequence[Any]) -> Decision:
    """Return a row of the table of selections."""
    question, selector, answer, position, grade = row
    if position is not None and check_type(position, int) < 0:
        raise ValueError(f"position {position}")
    grade = math.nan if grade is None else float(check_type(grade, float, int))
    return Decision(from_text(question), selector, None if answer is None else from_text(answer), position, grade)


def graded(grades: list[float], answers: str) -> tuple[list[float], list[str | None]]:
    """Return a pool's grades (N,) and answers (N,)."""
    texts = check_type(json.loads(answers), list)
    _check_all(texts, str, type(None))
    if len(texts) != len(grades):
        raise ValueError(f"{len(texts)} answers with {len(grades)} grades")
    values = np.array(grades)
    if not (np.isnan(values) | ((values >= 0.0) & (values <= 1.0))).all():
        raise ValueError("a grade outside of 0 to 1")
    return grades, texts


def _check_all(values: Sequence[Json], *types: type) -> None:
    """Raise TypeError unless every value is of one of these very types."""
    if wrong := set(map(type, values)) - set(types):
        raise TypeError(f"a {min(kind.__name__ for kind in wrong)} is no {types[0].__name__}")


def to_problem(stored: str | bytes) -> Problem:
    """Return a stored problem."""
    (question_id, messages, facts), reference = json.loads(from_text(stored))
    asked = tuple(Message(*map(_text, message)) for message in messages)
    return Problem(Question(check_type(question_id, str), asked, check_type(facts, dict)), reference)


def _text(value: Json) -> str:
    text: str = check_type(value, str)
    return text


def to_pool(stored: str | bytes, scores: Mapping[str, Sequence[float]]) -> Pool:
    """Return a stored pool with its scores, each (N,)."""
    fields = json.loads(from_text(stored))
    num_failed = check_type(fields.pop("num_failed"), int)
    if "reasoning" not in fields:  # stored before reasoning was told apart
        replies = [split_reasoning(text) for text in fields["text"]]
        fields |= {"text": [r.text for r in replies], "reasoning": [r.reasoning for r in replies]}
    if unknown := fields.keys() - _COLUMNS.keys():
        raise KeyError(min(unknown))
    for name, types in _COLUMNS.items():
        _check_all(fields.get(name, ()), *types)
    num = len(fields["text"])
    by_candidate = [dict(zip(scores, values, strict=True)) for values in zip(*scores.values(), strict=True)]
    if by_candidate and len(by_candidate) != num:
        raise ValueError(f"{num} draws with {len(by_candidate)} scores")
    columns = {name: fields.get(name, [Candidate._field_defaults.get(name)] * num) for name in _COLUMNS}
    columns["scores"] = by_candidate or [{} for _ in range(num)]
    rows = zip(*(columns[name] for name in Candidate._fields), strict=True)
    return Pool(tuple(map(Candidate._make, rows)), num_failed)


def to_stop(text: str) -> Stop:
    """Return a stored stop, its rule under today's name."""
    stop = Stop(*json.loads(text))
    check_type(stop.reason, str)
    rule = check_type(stop.evidence, dict).get("rule")
    return stop if rule is None else stop._replace(evidence={**stop.evidence, "rule": modern(str(rule))})
