"""Multiple choice: AQuA (five options) and MMLU-Pro (up to ten).

A response is read as the letter that it chooses (`samplewise.verify.choice`). The options are public facts of a
question, the right letter is its reference.

AQuA: Ling et al. 2017, arXiv 1705.04146, the 254 test problems. MMLU-Pro: Wang et al. 2024, arXiv 2406.01574.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal, get_args

from samplewise.core.types import Json, Problem
from samplewise.tasks.arithmetic import name_of
from samplewise.tasks.base import Task
from samplewise.tasks.files import BenchmarkSource, field, find_data_file, problems
from samplewise.tasks.wording import CHOICE, as_question, checked_wording
from samplewise.verify.choice import LETTERS, grade_choice, lettered, read_choice

Split = Literal["test", "sample"]

AQUA = BenchmarkSource(
    "aqua", "aqua.jsonl.gz", "deepmind/aqua_rat", "raw", "test", "reasoning-machines/pal @f81ca2a", "Apache-2.0"
)
MMLU_PRO: Mapping[Split, BenchmarkSource] = {
    "test": BenchmarkSource(
        "mmlu_pro", "mmlu_pro_test.jsonl.gz", "TIGER-Lab/MMLU-Pro", None, "test", "TIGER-Lab/MMLU-Pro", "MIT"
    ),
    "sample": BenchmarkSource(
        "mmlu_pro-sample",
        "recorded/mmlu_pro_28_models/sample_280_questions.jsonl.gz",
        origin="TIGER-AI-Lab/MMLU-Pro @f418b11, 20 questions of each of the 14 categories",
        licence="Apache-2.0",
    ),
}
_OPTION = re.compile(r"\(([a-e])\)")
_LETTERED = re.compile(r"^\s*\(?[A-Ea-e]\)\s*")


def aqua(limit: int | None = None, *, prompt: str = "steps") -> Task:
    """Load AQuA, algebra word problems with five options."""
    wording = checked_wording(prompt, CHOICE)
    seen: Counter[str] = Counter()

    def make(number: int, row: Mapping[str, Json]) -> Problem:
        if "input" in row:
            text, options = _options_apart(row["input"])
        else:
            text, options = field(row, "question"), [_LETTERED.sub("", option) for option in field(row, "options")]
        reference = str(field(row, "target", "correct")).strip("() ").upper()
        shown = f"{text.strip()}\n\nOptions:\n{lettered(options)}"
        question = as_question(f"aqua/{name_of(text, seen)}", wording, shown, {"options": options})
        return Problem(question, _checked(reference, options))

    return Task(
        name=AQUA.name,
        problems=problems(AQUA, make, limit),
        read=read_choice,
        grade=grade_choice,
        source=AQUA.origin,
        licence=AQUA.licence,
        description="Algebra word problems with five options.",
    )


def mmlu_pro(limit: int | None = None, *, split: Split | None = None, prompt: str = "steps") -> Task:
    """Load MMLU-Pro, knowledge and reasoning in 14 fields with up to ten options.

    `split` is "test", all 12,032 questions, or "sample", 280 of them. By default it is the one with a local file, or
    "test" from the Hub if neither has one; the task's name says which. Facts are the options and the category.
    """
    if split is not None and split not in get_args(Split):
        raise ValueError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    wording = checked_wording(prompt, CHOICE)
    if split is None:
        split = (
            "sample"
            if find_data_file(MMLU_PRO["test"].file) is None and find_data_file(MMLU_PRO["sample"].file)
            else "test"
        )
    source = MMLU_PRO[split]

    def make(number: int, row: Mapping[str, Json]) -> Problem:
        options, category = [str(option) for option in field(row, "options")], field(row, "category")
        shown = f"{field(row, 'question').strip()}\n\nOptions:\n{lettered(options)}"
        facts = {"options": options, "category": category}
        question = as_question(f"mmlu_pro/{field(row, 'question_id')}", wording, shown, facts)
        return Problem(question, _checked(field(row, "answer"), options))

    return Task(
        name=source.name,
        problems=problems(source, make, limit),
        read=read_choice,
        grade=grade_choice,
        source=source.origin,
        licence=source.licence,
        description="Knowledge and reasoning in 14 fields, up to ten options.",
    )


def _checked(reference: str, options: list[str]) -> str:
    if len(reference) != 1 or reference not in LETTERS[: len(options)]:
        raise ValueError(f"the answer {reference!r} is none of {len(options)} options")
    return reference


def _options_apart(text: str) -> tuple[str, list[str]]:
    """Return the question and its options, of a text that ends in "Answer Choices:(a) ...(b) ..."."""
    question, mark, listed = text.rpartition("Answer Choices:")
    parts = _OPTION.split(listed)
    if not mark or parts[1::2] != list("abcde"):
        raise ValueError("expected 'Answer Choices:' and the options (a) to (e)")
    return question, [part.strip() for part in parts[2::2]]
