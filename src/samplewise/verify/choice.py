r"""Multiple choice: read the letter of the option that a response chooses, and grade it.

A question carries its options as `facts["options"]`, a list of texts for the letters A, B, C ...; without them the
letters A to J are allowed. What is read, in this order:

1. what is marked last as the answer (`samplewise.verify.marks`): a letter at its start, otherwise the text of an
   option, or its number; a boxed formula that is neither is passed over;
2. the last line that begins with a letter set apart ("C", "**C**", "c. Paris", "(C) Paris"), if at most one line of
   words follows it, and if it is not one of several such lines;
3. the last "option C", "C is correct", "I pick C" or "It is C." of the response, unless it is denied;
4. the last line, if it is the text of exactly one option.

A letter counts if brackets, emphasis or punctuation set it apart: the word "A" in "A dog" and the word "I" are no
letters. Two letters side by side ("A or B") are no choice, and neither is a letter without an option.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from samplewise.core.types import Problem, Question, Score
from samplewise.verify.marks import MAX_TEXT, Mark, find_marks, retracted_after
from samplewise.verify.named import NamedReader, named_grader, named_reader
from samplewise.verify.numbers import normal_form, number_expressions, plain

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NUM_LETTERS = 10  # where a question does not say its options

_BEFORE = (
    r"[\s*_`\"'$:]*(?:(?i:the|option|choice|answer|letter|is|\\text(?:bf)?\{|\\mathrm\{|\\mathbf\{)[\s*_`\"'$:]*)*"
)
_SET_APART = re.compile(r"\\[()\[\]]")  # LaTeX's own brackets of a formula
_BRACKETED = re.compile(rf"{_BEFORE}[(\[{{]\s*(?:\\text\{{)?([A-Za-z])\}}?\s*[)\]}}]")
_BARE = re.compile(
    rf"{_BEFORE}([A-Z])(?=[\s*_`\"'$}}]*(?:$|[\n.,:;)!?\]*–—-]|(?:is|because|since|as|which|with)\b)|\s*\\)"
    r"(?!(?:')?[a-zA-Z])(?!-[a-zA-Z])"
)
_LOWER = re.compile(rf"{_BEFORE}([a-z])[\s*_`\"'$}}]*(?:\)|\.?$|[.:]\s)")
_OTHER = re.compile(r"[\s*_`\"'$)\]}.,]*(?:and|or|/|&|,)\s*[\s*_`\"'$(\[{]*([A-Z](?![a-zA-Z'])|[a-z](?=\s*[)\]}]))")
_APART = r"(?![a-zA-Z'])(?!(?<=[AI])\s+[a-z])"  # no article, no pronoun
_NAMED = re.compile(
    rf"(?:(?i:option|choice)(?:\s+is)?\s*[*_`\"'$(\[:]{{0,8}}([A-Z])(?![a-zA-Z'])"
    rf"|(?<![\w'])[(\[*_]{{0,4}}([A-Z])[)\]*_]{{0,4}}\s+is\s+(?:the\s+)?(?:correct|right|best)\b"
    rf"|\b(?i:pick(?:ed)?|choose|chose|select(?:ed)?|go(?:ing)?\swith|went\swith|opt\sfor|settle\son|go\sfor)"
    rf"\s+(?:(?i:the\s+)?(?i:letter|answer)\s+)?[*_`\"'$(\[]{{0,4}}([A-Z]){_APART}"
    rf"|\b(?i:it|that|this)(?:'s|’s|\s(?:is|must\sbe|should\sbe))\s[*_`\"'$(\[]{{0,4}}([A-Z])(?=[*_`\"'$)\]]{{0,4}}(?:[.,;!\n]|$)))"
)
_DENIED_BEFORE = re.compile(
    r"(?i:\bnot|n't|n’t|\bnever|\bthan|\beliminate|\breject|\brule out|\bexclude|\bif|\bwhy)(?:\s\w+)?\s*$"
)
_DENIED_AFTER = re.compile(
    r"[)\]*_`\"'$]{0,4}\s*,?\s*(?:(?:is|are|was|seems|looks|can|could|does|would|must)\s+(?:be\s+)?)?"
    r"(?i:not\b|isn't|isn’t|cannot|can't|wrong|incorrect|false\b|invalid|ruled out|eliminated|is out\b)"
)
_NOT_OTHER = re.compile(
    r"[)\]*_`\"'$]{0,4}\s*,\s*not\s(?:(?i:option)\s)?[(\[*_`\"'$]{0,4}[A-Za-z](?![\w'])"
)  # "C, not D"
_LISTED = re.compile(r"[\s*_`>-]*\(?([A-Za-z])[.):]")
_CONFIRMED = re.compile(r"\b(?:yes|indeed|correct|confirm|checks? out|stands?)\b", re.IGNORECASE)
_MAX_LINES = 2  # from the end, that may hold the letter when nothing is marked


def answer_options(question: Question) -> tuple[str, ...]:
    """Return the texts of the options, first one A; () if the question does not give them."""
    options = question.facts.get("options")
    return tuple(map(str, options)) if isinstance(options, list | tuple) else ()


def lettered(options: Sequence[str], form: str = "({letter}) {text}") -> str:
    """Return the options as lines of a prompt."""
    return "\n".join(form.format(letter=letter, text=text) for letter, text in zip(LETTERS, options, strict=False))


def choice_reader() -> NamedReader:
    """Read the letter of the option that the response chooses; the options are the question's fact `options`."""
    return read_choice


@named_reader("choice", 3)
def read_choice(question: Question, text: str) -> str | None:
    """Return the letter that a response chooses, or None."""
    options, tail = answer_options(question), text[-MAX_TEXT:].rstrip()
    for mark in find_marks(tail):
        if (letter := _marked_letter(mark, options)) is not None:
            return _unless_retracted(letter, tail, mark, len(options))
        if mark.form != "box" and any(character.isalnum() for character in mark.answer):
            return _named(tail, len(options))
    lines = [line for line in tail.splitlines() if any(character.isalnum() for character in line)]
    for index in range(len(lines) - 1, max(-1, len(lines) - 1 - _MAX_LINES), -1):
        if (letter := _letter(lines[index], len(options))) is not None:
            is_listed = _LISTED.match(lines[index]) and index and (before := _LISTED.match(lines[index - 1]))
            if is_listed and before and before[1].upper() != letter:
                break
            return letter
    return _named(tail, len(options)) or (_by_text(lines[-1], options) if lines else None)


def _marked_letter(mark: Mark, options: Sequence[str]) -> str | None:
    if mark.form == "box" and not options and len(normal_form(plain(mark.answer))) > 1:
        return _letter(mark.answer, 0)
    return letter_of(mark.answer, options) or _by_number(mark.answer, options)


def _unless_retracted(letter: str, text: str, mark: Mark, num_options: int) -> str | None:
    """Return the letter, or the one that a response names after it took the answer back."""
    after = retracted_after(text, mark)
    if after is None:
        return letter
    return _named(after, num_options) or (letter if _CONFIRMED.search(after) else None)


def _by_number(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter of the one option whose only number is this one."""
    prepared = plain(answer).strip(" .$")
    wanted = number_expressions(prepared)
    if len(wanted) != 1 or wanted[0].value is None or (wanted[0].start, wanted[0].end) != (0, len(prepared)):
        return None
    values = [number_expressions(plain(option)) for option in options[: len(LETTERS)]]
    indices = [i for i, numbers in enumerate(values) if len(numbers) == 1 and numbers[0].value == wanted[0].value]
    return LETTERS[indices[0]] if len(indices) == 1 else None


def letter_of(answer: str, options: Sequence[str] = ()) -> str | None:
    """Return the letter of an answer that is a letter or the text of an option, or None."""
    exactly = _by_text(answer, options)
    if exactly is not None and len(normal_form(answer)) > 1:
        return exactly
    return _letter(answer, len(options)) or exactly


def _letter(line: str, num_options: int) -> str | None:
    """Return the letter, set apart, that a line begins with, or None."""
    line = _SET_APART.sub(" ", line)
    match = _BRACKETED.match(line) or _BARE.match(line) or _LOWER.match(line)
    if (
        match is None
        or line[match.end() :].lstrip(" )]*_`}$")[:1] == "?"
        or (_DENIED_AFTER.match(line, match.end()) and not _NOT_OTHER.match(line, match.end()))
        or ((other := _OTHER.match(line, match.end())) and other[1].upper() != match[1].upper())
    ):
        return None
    return _allowed(match[1], num_options)


def _allowed(letter: str, num_options: int) -> str | None:
    """Return the letter in upper case, or None if there is no such option."""
    index = LETTERS.find(letter.upper())
    return LETTERS[index] if 0 <= index < (num_options or NUM_LETTERS) else None


def _named(text: str, num_options: int) -> str | None:
    """Return the last letter that is named as an option or as correct, or None."""
    last = None
    for match in _NAMED.finditer(text):
        letter = next(group for group in match.groups() if group)
        is_denied = _DENIED_BEFORE.search(text[max(0, match.start() - 24) : match.start()])
        if not is_denied and not _DENIED_AFTER.match(text, match.end()):
            last = letter
    return None if last is None else _allowed(last, num_options)


def _by_text(answer: str, options: Sequence[str]) -> str | None:
    """Return the letter of the one option with this text, or None."""
    for form in (normal_form, _plain_form):
        wanted = form(answer)
        indices = [index for index, option in enumerate(options[: len(LETTERS)]) if wanted and form(option) == wanted]
        if indices:
            return LETTERS[indices[0]] if len(indices) == 1 else None
    return None


def _plain_form(answer: str) -> str:
    return normal_form(plain(answer))


@named_grader("choice", 3)
def grade_choice(problem: Problem, answer: str | None) -> Score:
    """Score 1 if answer and reference are the same letter, otherwise 0. Either may be the text of an option instead."""
    if problem.reference is None:
        return Score(math.nan, "the question has no reference")
    if not answer or not answer.strip():
        return Score(0.0, "no answer")
    options = answer_options(problem.question)
    reference = letter_of(str(problem.reference), options)
    if reference is None:
        return Score(math.nan, f"the reference {problem.reference!s:.40} is no option")
    is_equal = letter_of(answer, options) == reference
    return Score(1.0, "equal to the reference") if is_equal else Score(0.0, f"expected {reference}")
