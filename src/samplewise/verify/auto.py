"""Read an answer where nobody says what kind it is: a letter, a number or a text, as the question asks for it.

The kind follows from the question alone, so that all responses to a question are read alike:

- **choice**, if the question has the fact `options`, or lists options with the letters A, B ... in its text;
- **number**, if it asks for one ("how many", "what is 17 * 23", "calculate");
- **text**, otherwise.

A response of the first two kinds that cannot be read so is read as a text: what it marks as its answer, otherwise all
of it, in normal form.
"""

from __future__ import annotations

import re
from typing import Literal

from samplewise.core.types import Question
from samplewise.verify.choice import LETTERS, answer_options, read_choice
from samplewise.verify.named import NamedReader, named_reader
from samplewise.verify.readers import marked_text, read_number

AnswerForm = Literal["choice", "number", "text"]

MAX_QUESTION = 20_000  # characters searched, from the end

_QUANTITY = (
    r"(?:total|sum|product|difference|quotient|remainder|number|value|amount|average|mean|median|area|volume|perimeter"
    r"|length|width|height|distance|speed|price|cost|profit|probability|percentage|ratio|age|square root|factorial"
    r"|derivative at|limit|result of|greatest common|least common|largest|smallest|maximum|minimum)"
)
_ASKS_NUMBER = re.compile(
    r"\bhow (?:many|much|long|far|old|fast|tall|high|big|heavy|large|deep|wide|often)\b"
    r"|\b(?:what|which)(?:'s| is| are| was| were| would be| will be)? (?:the |its |his |her |their )?"
    rf"(?:\w+ )?{_QUANTITY}\b"
    rf"|\b(?:find|give|determine|state) (?:the |its )?(?:\w+ )?{_QUANTITY}\b"
    r"|\b(?:calculate|compute|evaluate|add up|multiply|divide|subtract)\b"
    r"|\b(?:in )?(?:what|which) year\b|\bsolve for\b|\bwhat percent"
    r"|\d\s?(?:[-+*/×÷^]|\*\*|\\times|\\cdot|plus|minus|times|divided by|mod)\s?[(\d]",
    re.IGNORECASE,
)
_LINE_OPTION = re.compile(r"^[ \t]*[*_]{0,2}\(?([A-Z])[).:][*_]{0,2}[ \t]+(\S.*)$", re.MULTILINE)
_INLINE_OPTION = re.compile(r"\(([A-Z])\)\s?([^()\n]{1,200}?)(?=\s*[,;]?\s*(?:\([A-Z]\)|$))", re.MULTILINE)


def auto_reader() -> NamedReader:
    """Read the answer as the question asks for it: the letter of an option, a number, or a text."""
    return read_auto


@named_reader("auto", 3)
def read_auto(question: Question, text: str) -> str | None:
    """Return the answer of a response, read as `answer_form` says."""
    form, options = answer_form(question)
    if form == "choice":
        with_options = question._replace(facts={**question.facts, "options": list(options)})
        answer = read_choice(with_options, text)
    else:
        answer = read_number(question, text) if form == "number" else None
    return marked_text(question, text) if answer is None else answer


def answer_form(question: Question) -> tuple[AnswerForm, tuple[str, ...]]:
    """Return what kind of answer a question asks for, and the texts of its options."""
    options = answer_options(question)
    if options:
        return "choice", options
    asked = next((m.content for m in reversed(question.messages) if m.role == "user"), "")[-MAX_QUESTION:]
    for pattern in (_LINE_OPTION, _INLINE_OPTION):
        listed = pattern.findall(asked)
        letters = "".join(letter for letter, _ in listed)
        if len(listed) > 1 and letters == LETTERS[: len(listed)]:
            return "choice", tuple(option.strip() for _, option in listed)
    return ("number" if _ASKS_NUMBER.search(asked) else "text"), ()
