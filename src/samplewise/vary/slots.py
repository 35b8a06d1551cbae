"""Where a text goes into a prompt: before or after the question, or in its place. Nothing else of it is touched.

A question is put by the last message of the user. Its trailing paragraphs that say what the response must look like
(`End with one line ...`, `\\boxed{}`) are its rules: they come last, and no arm rewrites them.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from samplewise.errors import UsageError
from samplewise.types import Message, Question

Slot = Literal["before", "after"]

_RULES = re.compile(
    r"\\boxed|\b(?:final )?answer\s*(?:is|with|in|within|as|using|:)|\bletter of\b|\bend (?:your \w+ )?with\b"
    r"|\bfinish (?:your|with)\b|\b(?:reply|respond|output) (?:with|in|only)\b",
    re.IGNORECASE,
)


_STEPS = re.compile(r"\bstep by step\b|\b(?:show|explain) your (?:work|reasoning)\b", re.IGNORECASE)


class Parts(NamedTuple):
    """A question's text: what it asks, and the rules for its response, with the blank lines before them."""

    body: str
    rules: str = ""


def slot_of(name: str) -> Slot:
    """The slot of this name, or ValueError."""
    for slot in get_args(Slot):
        if slot == name:
            found: Slot = slot
            return found
    raise ValueError(f"slot must be one of {', '.join(get_args(Slot))}, got {name!r}")


def wording(question: Question) -> str:
    """The text of the last message of the user; UsageError where there is none."""
    return question.messages[_place(question)].content


def body_of(question: Question) -> str:
    """The question's text without its rules: what a thinker is shown."""
    return parts(wording(question)).body


def parts(text: str) -> Parts:
    """The text split before its rules; body and rules together are the text. The body is never empty."""
    pieces = re.split(r"(\n\s*\n)", text)  # paragraphs, and between each two of them the blank lines
    upto = len(pieces)
    while upto > 2 and _are_rules(pieces[upto - 1]):
        upto -= 2
    return Parts("".join(pieces[:upto]), "".join(pieces[upto:]))


def _are_rules(paragraph: str) -> bool:
    """Whether a paragraph is about the response from its first sentence on: one that begins with the task itself, and
    ends with "give your answer in metres", is the question."""
    opening = re.split(r"(?<=[.!:])\s", paragraph.strip(), maxsplit=1)[0]
    told = _RULES.search(opening) or (_STEPS.search(opening) and _RULES.search(paragraph))
    return bool(told) and "?" not in paragraph


def reworded(question: Question, text: str) -> tuple[Message, ...]:
    """The messages with this text for the question's own."""
    place = _place(question)
    message = question.messages[place]._replace(content=text)
    return (*question.messages[:place], message, *question.messages[place + 1 :])


def inserted(question: Question, text: str, slot: Slot = "before") -> tuple[Message, ...]:
    """The messages with a paragraph of its own for the text. After the question still means before its rules."""
    own = wording(question)
    if slot == "before":
        return reworded(question, f"{text}\n\n{own}")
    body, rules = parts(own)
    return reworded(question, f"{body}\n\n{text}{rules}")


def _place(question: Question) -> int:
    for place in reversed(range(len(question.messages))):
        if question.messages[place].role == "user":
            return place
    raise UsageError(f"question {question.id!r} has no message of a user, so there is no prompt to vary")
