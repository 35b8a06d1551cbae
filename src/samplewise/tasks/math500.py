r"""MATH-500: 500 competition problems of the MATH test set, in seven subjects and five levels.

The answers are numbers and formulas, read from the last `\boxed{}` and compared as mathematics
(`samplewise.verify.maths`). A percent sign counts as a unit, because most references leave it out: 50\% is 50.

Hendrycks et al. 2021, arXiv 2103.03874; the subset is that of Lightman et al. 2023, arXiv 2305.20050.
"""

from __future__ import annotations

from collections.abc import Mapping

from samplewise.core.types import Json, Problem
from samplewise.tasks.base import Task
from samplewise.tasks.files import BenchmarkSource, field, problems
from samplewise.tasks.wording import STEPS, as_question, checked_wording
from samplewise.verify.maths import maths, require_math_verify

MATH500 = BenchmarkSource(
    name="math500",
    file="math500.jsonl.gz",
    hub="HuggingFaceH4/MATH-500",
    origin="hendrycks/MATH, the subset of openai/prm800k",
    licence="MIT",
)


def math500(limit: int | None = None, *, prompt: str = "boxed") -> Task:
    """Load MATH-500, competition mathematics, with subject and level as facts. Needs samplewise[eval]."""
    wording = checked_wording(prompt, STEPS)
    require_math_verify()
    read, grade = maths(percent="unit")

    def make(number: int, row: Mapping[str, Json]) -> Problem:
        name = str(field(row, "unique_id")).removeprefix("test/").removesuffix(".json")
        facts = {"subject": field(row, "subject"), "level": field(row, "level")}
        return Problem(as_question(f"math500/{name}", wording, field(row, "problem"), facts), field(row, "answer"))

    return Task(
        name=MATH500.name,
        problems=problems(MATH500, make, limit),
        read=read,
        grade=grade,
        source=MATH500.origin,
        licence=MATH500.licence,
        description="Competition mathematics; answers are compared as mathematics.",
    )
