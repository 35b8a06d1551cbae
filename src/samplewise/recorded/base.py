"""The types that every format of recorded draws is read into."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Completion, Message, Problem, Sampling, Usage

# How an answer is read from a response and graded. "answer": the text is the answer, and must be equal.
Kind = Literal["answer", "auto", "choice", "code", "maths", "number", "puzzle", "value"]

CHARS_PER_TOKEN = 4  # of English text, roughly; used where a recording has no count


class Draw(NamedTuple):
    """A recorded response. `sampling` is how it was drawn, None if unknown. `grade` and `scores` are those that the
    recording states, nan for none."""

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
    is_exact: bool = False  # recorded by samplewise: `sampling` is complete


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
    """Return a draw of which only the text is known, its reasoning cut out. Missing token counts are estimated at four
    characters a token."""
    asked = sum(len(message.content) for message in messages)
    prompt = _estimate(asked) if prompt_tokens is None else prompt_tokens
    drawn = _estimate(len(text)) if completion_tokens is None else completion_tokens
    reply = split_reasoning(text)
    completion = Completion(
        reply.text,
        "stop",
        Usage(1, prompt, drawn),
        reasoning=reply.reasoning,
        raw=text if reply.text != text else None,
    )
    return Draw(completion, sampling, grade, scores or {})


def _estimate(chars: int) -> int:
    return max(1, math.ceil(chars / CHARS_PER_TOKEN))
