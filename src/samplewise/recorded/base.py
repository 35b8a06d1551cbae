"""What every format of recorded draws is read into."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from samplewise.types import Completion, Message, Problem, Sampling, Usage

# How an answer is read out of a response and graded. "answer": the text is the answer, and must be equal.
Kind = Literal["answer", "auto", "choice", "code", "maths", "number", "puzzle", "value"]

CHARS_PER_TOKEN = 4  # of English text, roughly; only where a recording says no count


class Draw(NamedTuple):
    """A recorded response. `sampling` is the law that it was drawn from, None where that is not known. `grade` and
    `scores` are what those who recorded it say of it; nan: nothing."""

    completion: Completion
    sampling: Sampling | None = None
    grade: float = math.nan
    scores: Mapping[str, float] = {}


class Recording(NamedTuple):
    """Problems and their recorded draws."""

    name: str
    problems: tuple[Problem, ...]  # (P,)
    draws: tuple[tuple[Draw, ...], ...]  # (P, N of each)
    kind: Kind = "auto"
    source: str = ""
    licence: str = ""
    is_exact: bool = False  # recorded by us: `sampling` says all about how a draw was made


def text_draw(
    messages: tuple[Message, ...],
    text: str,
    *,
    prompt_tokens: int | None = None,
    completion_tokens: int | None = None,
    sampling: Sampling | None = None,
    grade: float = math.nan,
    scores: Mapping[str, float] | None = None,
) -> Draw:
    """A draw of which only the text is known. Token counts that were not recorded are estimated, four characters a
    token, so that costs are of the right size."""
    asked = sum(len(message.content) for message in messages)
    prompt = _estimate(asked) if prompt_tokens is None else prompt_tokens
    drawn = _estimate(len(text)) if completion_tokens is None else completion_tokens
    return Draw(Completion(text, "stop", Usage(1, prompt, drawn)), sampling, grade, scores or {})


def _estimate(chars: int) -> int:
    return max(1, math.ceil(chars / CHARS_PER_TOKEN))
