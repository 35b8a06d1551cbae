r"""Multiple choice: reads the letter of the option that a response chooses, and grades it.

A question carries its options as `facts["options"]`, a list of texts for the letters A, B, C ...; without them the
letters A to J are allowed. What is read, in this order:

1. what is marked as the answer (`\boxed{}`, "answer is", "answer:"): a letter at its start, else the text of an option;
2. the last line that begins with a letter set apart ("C", "**C**", "C. Paris", "(C) Paris"), if nothing follows it but
   one line of words;
3. the last "option C" or "C is correct" of the response;
4. the last line, if it is the text of exactly one option.

A letter counts where it is set apart by brackets, emphasis or punctuation: the word "A" in "A dog" and the word "I" are
no letters. Two letters side by side ("A or B") are no choice, and nor is a letter that has no option.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from samplewise.types import Problem, Question, Score
from samplewise.verify.readers import MAX_TEXT, last_box, marked_answer, normal

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NUM_LETTERS = 10  # where a question does not say its options

_BEFORE = (
    r"[\s*_`\"'$:]*(?:(?i:the|option|choice|answer|letter|is|\\text(?:bf)?\{|\\mathrm\{|\\mathbf\{)[\s*_`\"'$:]*)*"
)
_BRACKETED = re.compile(rf"{_BEFORE}[(\[{{]\s*(?:\\text\{{)?([A-Za-z])\}}?\s*[)\]}}]")
_BARE = re.compile(
    rf"{_BEFORE}([A-Z])(?=[\s*_`\"'$}}]*(?:$|[\n.,:;)!?\]*–—-]|(?:is|because|since|as|which|with)\b)|\s*\\)"
    r"(?!(?:')?[a-zA-Z])(?!-[a-zA-Z])"
)
_LOWER = re.compile(rf"{_BEFORE}([a-z])[\s*_`\"'$}}]*(?:\)|\.?$)")
_OTHER = re.compile(r"[\s*_`\"'$)\]}.,]*(?:and|or|/|&|,)\s*[\s*_`\"'$(\[{]*([A-Z])(?![a-zA-Z'])")
_NAMED = re.compile(
    r"(?:(?i:option|choice)(?:\s+is)?\s*[*_`\"'$(\[:]{0,8}([A-Z])(?![a-zA-Z'])"
    r"|(?<![\w'])[(\[*_]{0,4}([A-Z])[)\]*_]{0,4}\s+is\s+(?:the\s+)?(?:correct|right|best)\b)"
)
_MAX_LINES = 2  # from the end, that may hold the letter when nothing is marked


def options_of(question: Question) -> tuple[str, ...]:
    """The texts of the options, first one A; nothing where the question does not say them."""
    options = question.facts.get("options")
    return tuple(map(str, options)) if isinstance(options, list | tuple) else ()


def lettered(options: Sequence[str], form: str = "({letter}) {text}") -> str:
    """The options as lines of a prompt."""
    return "\n".join(form.format(letter=letter, text=text) for letter, text in zip(LETTERS, options, strict=False))


def read_choice(question: Question, text: str) -> str | None:
    """The letter that a response chooses, None where it chooses none."""
    options, tail = options_of(question), text[-MAX_TEXT:].rstrip()
    marked = last_box(tail)
    if marked is None:
        marked = marked_answer(tail)
    if marked is not None:
        found = letter_of(marked, options)
        if found is not None or any(character.isalnum() for character in marked):
            return found if found is not None else _named(tail, len(options))
    lines = [line for line in tail.splitlines() if any(character.isalnum() for character in line)]
    for line in reversed(lines[-_MAX_LINES:]):
        if (found := _letter(line, len(options))) is not None:
            return found
    return _named(tail, len(options)) or (_by_text(lines[-1], options) if lines else None)


def letter_of(answer: str, options: Sequence[str] = ()) -> str | None:
    """The letter of an answer that is a letter or the text of an option; None where it is neither."""
    exactly = _by_text(answer, options)
    if exactly is not None and len(normal(answer)) > 1:
        return exactly
    return _letter(answer, len(options)) or exactly


def _letter(line: str, num_options: int) -> str | None:
    """The letter that a line begins with, set apart."""
    found = _BRACKETED.match(line) or _BARE.match(line) or _LOWER.match(line)
    if found is None or ((other := _OTHER.match(line, found.end())) and other[1] != found[1]):
        return None
    return _allowed(found[1], num_options)


def _allowed(letter: str, num_options: int) -> str | None:
    place = LETTERS.find(letter.upper())
    return LETTERS[place] if 0 <= place < (num_options or NUM_LETTERS) else None


def _named(text: str, num_options: int) -> str | None:
    last = None
    for found in _NAMED.finditer(text):
        last = found[1] or found[2]
    return None if last is None else _allowed(last, num_options)


def _by_text(answer: str, options: Sequence[str]) -> str | None:
    """The letter of the one option whose text this is."""
    wanted = normal(answer)
    places = [place for place, option in enumerate(options[: len(LETTERS)]) if wanted and normal(option) == wanted]
    return LETTERS[places[0]] if len(places) == 1 else None


def grade_choice(problem: Problem, answer: str | None) -> Score:
    """1 where answer and reference are the same letter; either may be the text of an option instead."""
    if problem.reference is None:
        return Score(math.nan, "the question has no reference")
    if not answer or not answer.strip():
        return Score(0.0, "no answer")
    options = options_of(problem.question)
    reference = letter_of(str(problem.reference), options)
    if reference is None:
        return Score(math.nan, f"the reference {problem.reference!s:.40} is no option")
    right = letter_of(answer, options) == reference
    return Score(1.0, "equal to the reference") if right else Score(0.0, f"expected {reference}")
