r"""Where a text goes into a prompt: before or after the question, or in its place. Nothing else is changed.

The question is the last user message. Trailing paragraphs about the form of the response (`End with one line ...`,
`\boxed{}`) are its rules: they stay last, and no arm rewrites them.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

from samplewise.core.errors import UsageError
from samplewise.core.types import Message, Question

Slot = Literal["before", "after"]

_RULES = re.compile(
    r"\\boxed|\b(?:final )?answer\s*(?:is|with|in|within|as|using|:)|\bletter of\b|\bend (?:your \w+ )?with\b"
    r"|\bfinish (?:your|with)\b|\b(?:reply|respond|output) (?:with|in|only)\b",
    re.IGNORECASE,
)


_STEPS = re.compile(r"\bstep by step\b|\b(?:show|explain) your (?:work|reasoning)\b", re.IGNORECASE)


class QuestionParts(NamedTuple):
    """A question's text: what it asks, and the rules for its response with the blank lines before them."""

    body: str
    rules: str = ""


def slot_of(name: str) -> Slot:
    """Return the slot of this name. ValueError for any other name."""
    for slot in get_args(Slot):
        if slot == name:
            checked: Slot = slot
            return checked
    raise ValueError(f"slot must be one of {', '.join(get_args(Slot))}, got {name!r}")


def wording(question: Question) -> str:
    """Return the text of the last user message. UsageError if there is none."""
    return question.messages[_last_user_index(question)].content


def body_of(question: Question) -> str:
    """Return the question's text without its rules: what a helper is shown."""
    return split_rules(wording(question)).body


def split_rules(text: str) -> QuestionParts:
    """Split the text before its rules. Body and rules together are the text. The body is never empty."""
    pieces = re.split(r"(\n\s*\n)", text)  # paragraphs, and between each two of them the blank lines
    upto = len(pieces)
    while upto > 2 and _are_rules(pieces[upto - 1]):
        upto -= 2
    return QuestionParts("".join(pieces[:upto]), "".join(pieces[upto:]))


def _are_rules(paragraph: str) -> bool:
    """Return whether a paragraph is about the response from its first sentence on.

    A paragraph that begins with the task itself and ends with "give your answer in metres" is the question.
    """
    opening = re.split(r"(?<=[.!:])\s", paragraph.strip(), maxsplit=1)[0]
    is_rule = _RULES.search(opening) or (_STEPS.search(opening) and _RULES.search(paragraph))
    return bool(is_rule) and "?" not in paragraph


def reworded(question: Question, text: str) -> tuple[Message, ...]:
    """Return the messages with this text in place of the question's own."""
    index = _last_user_index(question)
    message = question.messages[index]._replace(content=text)
    return (*question.messages[:index], message, *question.messages[index + 1 :])


def inserted(question: Question, text: str, slot: Slot = "before") -> tuple[Message, ...]:
    """Return the messages with the text as a paragraph before the question, or after it but before its rules."""
    original = wording(question)
    if slot == "before":
        return reworded(question, f"{text}\n\n{original}")
    body, rules = split_rules(original)
    return reworded(question, f"{body}\n\n{text}{rules}")


def _last_user_index(question: Question) -> int:
    for index in reversed(range(len(question.messages))):
        if question.messages[index].role == "user":
            return index
    raise UsageError(f"question {question.id!r} has no message of a user, so there is no prompt to vary")
