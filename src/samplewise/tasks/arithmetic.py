"""Grade-school word problems whose answer is a number: GSM8K, GSM-Hard and SVAMP.

The answer read is the number that the response marks as its answer, otherwise the one that it ends on. GSM8K and
SVAMP are graded exactly. GSM-Hard's references are results of floating-point programs, so an answer less than 0.001
away is right, as its authors grade. That is strict for large fractions: 14053029.67 is not 14053029.666666666.

GSM8K: Cobbe et al. 2021, arXiv 2110.14168. GSM-Hard: Gao et al. 2022, arXiv 2211.10435. SVAMP: Patel et al. 2021, arXiv
2103.07191, all 1,000 problems.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from samplewise.core.types import Json, Problem
from samplewise.tasks.base import Task
from samplewise.tasks.files import BenchmarkSource, field, problems
from samplewise.tasks.wording import STEPS, as_question, checked_wording
from samplewise.verify.exact import grade_number, number_grader
from samplewise.verify.numbers import as_number, number_text
from samplewise.verify.readers import read_number

GSM8K = BenchmarkSource(
    "gsm8k", "gsm8k_test.jsonl.gz", "openai/gsm8k", "main", "test", "openai/grade-school-math @3101c7d", "MIT"
)
GSM_HARD = BenchmarkSource(
    "gsm_hard",
    "gsmhardv2.jsonl.gz",
    "reasoning-machines/gsm-hard",
    None,
    "train",
    "reasoning-machines/pal @f81ca2a",
    "MIT",
)
SVAMP = BenchmarkSource(
    "svamp", "svamp.json.gz", "ChilleD/SVAMP", None, "train+test", "reasoning-machines/pal @f81ca2a", "MIT"
)
TOLERANCE = 1e-3  # of GSM-Hard


def gsm8k(limit: int | None = None, *, prompt: str = "boxed") -> Task:
    """Load GSM8K, the 1,319 test problems. The reference is the number after ####."""
    wording = checked_wording(prompt, STEPS)

    def make(number: int, row: Mapping[str, Json]) -> Problem:
        _, mark, reference = field(row, "answer").rpartition("####")
        if not mark:
            raise ValueError("the answer has no ####")
        return Problem(as_question(f"gsm8k/{number}", wording, field(row, "question")), _number(reference.strip()))

    return Task(
        name=GSM8K.name,
        problems=problems(GSM8K, make, limit),
        read=read_number,
        grade=grade_number,
        source=GSM8K.origin,
        licence=GSM8K.licence,
        description="Grade-school word problems whose answer is a whole number.",
    )


def gsm_hard(limit: int | None = None, *, prompt: str = "boxed") -> Task:
    """Load GSM-Hard, the 1,319 problems of GSM8K with large numbers."""
    wording = checked_wording(prompt, STEPS)

    def make(number: int, row: Mapping[str, Json]) -> Problem:
        return Problem(as_question(f"gsm_hard/{number}", wording, field(row, "input")), _number(field(row, "target")))

    return Task(
        name=GSM_HARD.name,
        problems=problems(GSM_HARD, make, limit),
        read=read_number,
        grade=number_grader(TOLERANCE),
        source=GSM_HARD.origin,
        licence=GSM_HARD.licence,
        description="GSM8K with large numbers; an answer less than 0.001 away is right.",
    )


def svamp(limit: int | None = None, *, prompt: str = "boxed") -> Task:
    """Load SVAMP, 1,000 short word problems with varied structure."""
    wording = checked_wording(prompt, STEPS)
    seen: Counter[str] = Counter()

    def make(number: int, row: Mapping[str, Json]) -> Problem:
        text = row["input"] if "input" in row else f"{field(row, 'Body').strip()} {field(row, 'Question').strip()}"
        question = as_question(f"svamp/{name_of(text, seen)}", wording, text)
        return Problem(question, _number(field(row, "target", "Answer")))

    return Task(
        name=SVAMP.name,
        problems=problems(SVAMP, make, limit),
        read=read_number,
        grade=grade_number,
        source=SVAMP.origin,
        licence=SVAMP.licence,
        description="Short word problems with varied structure.",
    )


def name_of(text: str, seen: Counter[str]) -> str:
    """Return a name that depends on a question's words alone, for sets whose file and Hub differ in their order.

    `seen` counts the names so far: a question that occurs again gets a number after its name.
    """
    words = "".join(character for character in text.casefold() if character.isalnum())
    name = hashlib.blake2b(words.encode(), digest_size=5).hexdigest()
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}-{seen[name]}"


def _number(written: str | float) -> str:
    """Return a reference in normal form."""
    value = as_number(str(written))
    if value is None:
        value = Fraction(str(written))  # a float in a notation with many digits
    return number_text(value)
