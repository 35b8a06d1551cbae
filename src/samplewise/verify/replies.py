"""What judges share: which texts they read, and what their replies say."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence

from samplewise.core.types import Candidate, Completion, Message, Question

MIN_MASS = 0.5  # of the score tokens among those that the engine shows; below, the text decides

_NO_GRADE = re.compile(  # digits that are no grade: the scale itself, steps, items of a list, shares of another scale
    r"\bscale\b\D{0,12}\b1\b(?:\s*(?:\([^()]*\)\s*)?(?:to|[-–—])\s*(?:10|9)?)?"
    r"|\b1\s*(?:\([^()]*\)\s*)?(?:to|through|and|[-–—])\s*(?:10|9)\b"
    r"|\b(?:step|response|part|case|line|equation|option)s?\s*#?[0-9]+"
    r"|(?:\A\s*1|(?<=\S)[ \t]*\n\s*[0-9]+)[.)]\s+(?=[^\W\d])"
    r"|\b[0-9]+\s*(?:%|percent\b|(?:/|out\sof)\s*(?!(?:9|10)\b)[0-9]+)",
    re.IGNORECASE,
)
_LETTER = re.compile(  # "A" before a word is the article, but for words that tell of a response
    r"(?<![\w'’])(?:B|A(?!\s(?!(?:is|are|was|has|seems|appears|looks|does|because|since|as|over|and|or|nor|not|rather|instead"
    r"|better|more|wins)\b)[a-z]))(?![\w'’])"
)
_BOTH = re.compile(r"\b[AB]\W+(?:and|or|nor|equals?)\W+(?:response\W+)?[AB]\b|\b[AB]\s?[/&=]\s?[AB]\b", re.IGNORECASE)
_NOT_BEFORE = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\bneither|\bnor|\bboth|\breject)\W+(?:(?:the\s)?(?:response|answer|option)s?\W+)?\Z",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(
    r"\W{0,3}(?:(?:is|was|seems|looks|appears|does|has)\s+)?(?:\w+ly\s+)?"
    r"(?:(?:not|never)\b(?!\W+(?:response\W+)?[AB]\b)|\w{2,5}n['’]t\b|wrong\b|incorrect\b|false\b|worse\b|less\b)",
    re.IGNORECASE,
)
_ABOVE = re.compile(
    r"[^.;\n]{0,40}?\b(?:better|superior|preferable|likely|stronger)\b[^.;\n]{0,20}?\bthan\b"
    r"|\W{0,3}(?:over|rather than|instead of|not)\b",
    re.IGNORECASE,
)


def expected_digit(reply: Completion) -> float:
    """Return the expected digit over the score tokens at the position where the reply's first digit could stand.

    nan if the engine showed no tokens, or if digits have less than half of the mass.
    """
    for position in reply.top or ():
        value, mass = expectation((text, logp) for text, logp in position)
        if mass >= MIN_MASS:
            begun = reply.text.strip()[:1]  # "10" begins with a 1, and is none
            return math.nan if begun == position[0][0].strip() and math.isnan(written_digit(reply)) else value
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
    """Return the first digit from 1 to 9 that stands alone in the text, or nan.

    The ends of the scale, numbers of steps and lists, and shares of another scale ("7 out of 20", "5%") are no grades.
    """
    text = _NO_GRADE.sub(" ", reply.text) if reply.finish != "error" else ""
    match = re.search(r"(?<![\d.])[1-9](?![\d.]\d|\d)", text)
    return float(match.group()) if match else math.nan


def first_better(reply: Completion) -> float:
    """Return the probability that the response shown first is better.

    Computed over the letters if the engine shows top tokens, otherwise 1 or 0 as the text says; nan if it says neither,
    or both, or only which one is wrong.
    """
    if reply.finish == "error":
        return math.nan
    written, begun = _written_better(reply.text), ""
    for position in reply.top or ():
        first = math.fsum(math.exp(logp) for text, logp in position if text.strip().upper() == "A")
        second = math.fsum(math.exp(logp) for text, logp in position if text.strip().upper() == "B")
        if first + second >= MIN_MASS:
            follows = begun or reply.text.strip()[:1].upper() == position[0][0].strip().upper()
            return math.nan if follows and math.isnan(written) else first / (first + second)
        begun += position[0][0].strip() if position else ""
    return written


def _written_better(text: str) -> float:
    """Return 1 if a text names A as the better one, 0 if it names B, otherwise nan."""
    if alone := re.fullmatch(r"[\W_]*([ABab])[\W_]*", text):
        return float(alone[1] in "Aa")
    named = [
        match
        for match in _LETTER.finditer(text)
        if not _NOT_BEFORE.search(text[: match.start()]) and not _NOT_AFTER.match(text, match.end())
    ]
    if not named or _BOTH.search(text):
        return math.nan
    other = next((match for match in named if match[0] != named[0][0]), None)
    above = _ABOVE.match(text, named[0].end())
    if other is not None and (above is None or above.end() > other.start()):
        return math.nan
    return float(named[0][0] == "A")


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
