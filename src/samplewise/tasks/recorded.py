"""A task of the problems in a recording, for a replay engine to answer."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from samplewise.recorded import load_recording
from samplewise.tasks.base import Task, first_problems
from samplewise.verify.named import NamedGrader, accept_any

# kind -> module, reader, grader. A module is imported when its kind is first met: some of them start processes.
PARTS = {
    "answer": ("samplewise.verify.readers:text", "samplewise.verify.exact:grade_exact"),
    "auto": ("samplewise.verify.readers:marked_text", "samplewise.verify.exact:grade_exact"),
    "choice": ("samplewise.verify.choice:read_choice", "samplewise.verify.choice:grade_choice"),
    "code": ("samplewise.verify.extract:read_code", "samplewise.verify.code:grade_code"),
    "maths": ("samplewise.verify.maths:read_maths", "samplewise.verify.maths:grade_maths"),
    "number": ("samplewise.verify.readers:read_number", "samplewise.verify.exact:grade_number"),
    "puzzle": ("samplewise.verify.puzzle:read_puzzle", "samplewise.verify.puzzle:grade_puzzle"),
    "value": ("samplewise.verify.value:read_value", "samplewise.verify.value:grade_value"),
}


def recorded_task(recording: str, *, limit: int | None = None, kind: str | None = None) -> Task:
    """Replay the problems of a recording, graded by our own graders; its authors' labels stay with the draws.

    `kind` is how answers are read and graded if the recording does not say (one of the names in `PARTS`).
    """
    if kind is not None and kind not in PARTS:
        raise ValueError(f"kind must be one of {', '.join(PARTS)}, got {kind!r}")
    source = load_recording(recording)
    read, grade = map(_part, PARTS[kind or source.kind])
    return Task(
        name=source.name,
        problems=first_problems(source.problems, limit),
        read=read,
        grade=accept_any(grade) if isinstance(grade, NamedGrader) else grade,
        source=source.source,
        licence=source.licence,
        description="The problems of recorded draws.",
    )


def _part(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
