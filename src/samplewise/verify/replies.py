"""What judges share: which texts they read, and what their replies say."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence

from samplewise.core.types import Candidate, Completion, Message, Question

MIN_MASS = 0.5  # of the score tokens among those that the engine shows; below, the text decides


def expected_digit(reply: Completion) -> float:
    """Return the expected digit over the score tokens at the position where the reply's first digit could stand.

    nan if the engine showed no tokens, or if digits have less than half of the mass.
    """
    for position in reply.top or ():
        value, mass = expectation((text, logp) for text, logp in position)
        if mass >= MIN_MASS:
            return value
        if any(text.strip() for text, _ in position[:1]):  # the most likely token is no digit
            return math.nan
    return math.nan


def expectation(tokens: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """Return the mean digit 1 to 9 under the probabilities of some tokens, and their mass. "8" and " 8" both count."""
    total = mass = 0.0
    for text, logp in tokens:
        digit = text.strip()
        if len(digit) == 1 and digit in "123456789":
            mass += math.exp(logp)
            total += int(digit) * math.exp(logp)
    return (total / mass if mass else math.nan), mass


def written_digit(reply: Completion) -> float:
    """Return the first digit from 1 to 9 that stands alone in the text, or nan."""
    match = re.search(r"(?<![\d.])[1-9](?![\d.]\d|\d)", reply.text) if reply.finish != "error" else None
    return float(match.group()) if match else math.nan


def first_better(reply: Completion) -> float:
    """Return the probability that the response shown first is better.

    Computed over the letters if the engine shows top tokens, otherwise 1 or 0 as the text says; nan if it says neither.
    """
    if reply.finish == "error":
        return math.nan
    for position in reply.top or ():
        first = math.fsum(math.exp(logp) for text, logp in position if text.strip().upper() == "A")
        second = math.fsum(math.exp(logp) for text, logp in position if text.strip().upper() == "B")
        if first + second >= MIN_MASS:
            return first / (first + second)
    match = re.search(r"\b[AB]\b", reply.text)
    return math.nan if match is None else float(match.group() == "A")


def mean_known(values: Sequence[float]) -> float:
    """Return the mean of those that are no nan; nan of none."""
    finite = [value for value in values if not math.isnan(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def distinct(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Return the different responses in order of first occurrence, without those that ended while reasoning."""
    return tuple(dict.fromkeys(candidate.text for candidate in candidates if not candidate.is_unanswered))


@functools.lru_cache(maxsize=256)
def _joined(messages: tuple[Message, ...]) -> str:
    return "\n\n".join(message.content for message in messages)


def asked_text(question: Question) -> str:
    """Return the question as a judge reads it."""
    return _joined(question.messages)
