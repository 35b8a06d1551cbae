"""The problems that recorded draws were drawn for, so that a replay has something to be asked."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from samplewise.recorded import load
from samplewise.tasks.base import Task, first
from samplewise.verify.readers import auto

# kind -> module, reader, grader. A module is imported when its kind is first met: some of them start processes.
PARTS = {
    "answer": ("samplewise.verify.readers:text", "samplewise.verify.exact:grade_exact"),
    "auto": ("samplewise.tasks.recorded:read_auto", "samplewise.verify.exact:grade_exact"),
    "choice": ("samplewise.verify.choice:read_choice", "samplewise.verify.choice:grade_choice"),
    "code": ("samplewise.verify.code:read_code", "samplewise.verify.code:grade_code"),
    "maths": ("samplewise.verify.maths:read_maths", "samplewise.verify.maths:grade_maths"),
    "number": ("samplewise.verify.readers:last_number", "samplewise.verify.exact:grade_number"),
    "puzzle": ("samplewise.verify.puzzle:read_puzzle", "samplewise.verify.puzzle:grade_puzzle"),
    "value": ("samplewise.verify.value:read_value", "samplewise.verify.value:grade_value"),
}

read_auto = auto()


def recorded(recording: str, *, limit: int | None = None, kind: str | None = None) -> Task:
    """The problems of a recording, graded by our own graders; what its authors said of each draw stays with the draws.

    `kind` is how answers are read and graded where the recording does not say (one of the names in `PARTS`).
    """
    if kind is not None and kind not in PARTS:
        raise ValueError(f"kind must be one of {', '.join(PARTS)}, got {kind!r}")
    source = load(recording)
    read, grade = map(_part, PARTS[kind or source.kind])
    return Task(
        name=source.name,
        problems=first(source.problems, limit),
        read=read,
        grade=grade,
        source=source.source,
        licence=source.licence,
        description="The problems of recorded draws.",
    )


def _part(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
