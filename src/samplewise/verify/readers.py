r"""Readers of short answers: a text, a last line, a number, a field of a JSON object.

Every reader returns a normal form, so that equal answers vote together and compare as strings:

- a number becomes one exact decimal, or a fraction if no decimal is exact: `1,000`, `1000.0`, `+1e3` and `$1000.` are
  `1000`, `0.50`, `1/2` and `\frac{1}{2}` are `0.5`, `2/6` is `1/3`, `1\frac{1}{2}` is `1.5`;
- any other answer loses surrounding emphasis, quotes, `$` and a full stop, its case, and repeated white space.

`50%` is not a number but a text, and so is `5 kg`; the number reader finds 50 and 5 in them. The reader `text` alone
changes nothing but white space, for answers that must match letter by letter. There is no mathematics beyond that:
`2\sqrt{2}` and `\sqrt{8}` stay two answers.

All of them read what follows a model's reasoning; reasoning that never ended has no answer. Cost: linear in the end of
the text, `MAX_TEXT` characters for a mark and `MAX_ANSWER` for a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction

from samplewise.core.types import Json, Question
from samplewise.verify.marks import (
    MAX_ANSWER,
    MAX_TEXT,
    JsonNumber,
    Mark,
    first_sentence,
    json_values,
    last_mark,
    retracted_after,
    without_additions,
    without_reason,
)
from samplewise.verify.named import NamedReader, named_reader
from samplewise.verify.numbers import NumberExpression, as_number, normal_form, number_expressions, number_text, plain

MAX_DEPTH = 32  # levels of a JSON value


def text_reader() -> NamedReader:
    """Read the whole response, letter by letter."""
    return text


def last_line_reader() -> NamedReader:
    """Read the last line that is not empty."""
    return last_line


def number_reader() -> NamedReader:
    """Read the number that the response marks as its answer, or ends on."""
    return read_number


@named_reader("text", 2)
def text(question: Question, text: str) -> str | None:
    """Return the whole response with white space collapsed; case and signs are kept."""
    return " ".join(text.split()) or None


@named_reader("last_line", 2)
def last_line(question: Question, text: str) -> str | None:
    """Return the last line that is not empty, in normal form."""
    for line in reversed(text[-MAX_TEXT:].splitlines()):
        if line.strip() and (short := normal_form(line)):
            return short
    return None


@named_reader("marked", 3)
def marked_text(question: Question, text: str) -> str | None:
    """Return what the response marks as its answer, in normal form; the whole response if nothing is marked."""
    mark = last_mark(text)
    if mark is None:
        return normal_form(text[-MAX_TEXT:]) or None
    claim = claimed_text(mark)
    after = retracted_after(text, mark)
    return claim if after is None or (claim is not None and claim in " ".join(after.split()).casefold()) else None


def claimed_text(mark: Mark) -> str | None:
    """Return a marked answer without its reasons, in normal form."""
    if mark.form == "json":
        return json_form(mark.value)
    claim = mark.answer
    if mark.form in ("words", "hash"):
        claim = without_additions(first_sentence(claim))
    return normal_form(claim) or None


# -------------------------------------------------------------------------------------------------------------- numbers


@named_reader("number", 3)
def read_number(question: Question, text: str) -> str | None:
    """Return the number that the response marks as its answer, or ends on if it marks none; None if that is unclear.

    The grammar of numbers is in `samplewise.verify.numbers`, that of marks in `samplewise.verify.marks`.
    """
    mark = last_mark(text)
    value = _unmarked_number(text) if mark is None else marked_number(text, mark)
    return None if value is None else number_text(value)


def marked_number(text: str, mark: Mark) -> Fraction | None:
    """Return the number of a marked answer, or None if it holds none, or several, or is taken back."""
    value = _claimed_number(mark)
    after = retracted_after(text, mark)
    if after is None:
        return value
    prepared = plain(after[-MAX_ANSWER:])
    later = number_expressions(prepared)
    if not later:
        return None
    last = later[-1]
    corrects = _CORRECTS.search(prepared[max(0, last.start - 60) : last.start])
    corrects = corrects or _LEAD.fullmatch(prepared, 0, last.start)
    return last.value if corrects or last.value == value else None


_CORRECTS = re.compile(
    r"(?:\bis|'s|\bshould (?:be|have been)|\bmust be|\bequals|=)\s(?:actually\s|really\s)?\W*$", re.I
)
_LEAD = re.compile(
    r"\W*(?:(?:about|approximately|approx\.?|exactly|roughly|around|nearly|just|only|simply|therefore|thus|then|hence|so"
    r"|now|clearly|equal to|equals|is|are|a|an|the|of|final|answer|number|value|amount|total|sum|product|result|no"
    r"|option|rs\.?|usd|eur|us|[a-z]\s?=)(?![a-zA-Z])\W*)*",
    re.IGNORECASE,
)
_BOUNDARY = re.compile(
    r"[.!?](?=\s|$)|[;:(\[—\n]|\s[-–]\s(?=\D)|,(?!\s*(?:and\s+|or\s+)?[-+$€£]?\.?[0-9])"
    r"|\b(?:because|since|as|so|given|due|where|which|while|whereas|when|if|after|before|therefore|thus|hence|considering"
    r"|but|that|who|meaning|making|leaving|using|with)\b",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"(?:\b(?:so|therefore|thus|hence|which (?:is|means|gives|makes|equals)|meaning|giving|making|in total|altogether"
    r"|for a total of)\b|→)",
    re.IGNORECASE,
)
_CONFIDENCE = re.compile(r"\b(?:confiden|certain|sure\b)", re.IGNORECASE)
_ROUNDED = re.compile(
    r"[\s,(]*(?:which\s|and\s|then\s)?(?:is\s|can be\s|we\s)?(?:rounds?|rounded)\s"
    r"(?:(?:it|this)\s)?(?:(?:up|down|off)\s)?to\s\W*",
    re.IGNORECASE,
)
_PRECISION = re.compile(r"\s*(?:decimal|significant|digits?|places?|d\.?p|s\.?f)\b", re.IGNORECASE)
_ANOTHER = re.compile(r"[\s,;$]*(?:and\s)?\$?(?:[a-z]\s?=|\([b-z]\)\s)", re.IGNORECASE)  # "x = 1, y = 2"
_SIGN_APART = re.compile(r"^([\s$*_`({\\]*)[-−–] +(?=[$\\.0-9])")  # "- 3", where no bullet stands
_SIGN_ABOVE = re.compile(r"(\\[dtc]?frac\s?\{)\s?[-−]\s?(?=[0-9])")
_FORMULA = re.compile(r"[,;+*/^<>≤≥|&!]|\\[a-zA-Z]|(?<![a-zA-Z\s])=|\(\S|_\{|[0-9]")
_PARENTHESIS = re.compile(r"(?:(?<=\s)\((?=[^()\n]*[a-zA-Z]{2})|(?<=[0-9%°*]\s)\()[^()\n]*\)(?!\s*[-+*/×÷=^])")


def _claimed_number(mark: Mark) -> Fraction | None:
    if mark.form == "json":
        if isinstance(mark.value, JsonNumber):
            return as_number(mark.value)
        if not isinstance(mark.value, str):
            return None
    prepared = plain(_SIGN_ABOVE.sub(r"-\1", _SIGN_APART.sub(r"\1-", mark.answer[:MAX_ANSWER])))
    expressions = number_expressions(prepared)
    claim = without_reason(first_sentence(prepared)) if mark.form != "box" else prepared
    if not any(expression.start < len(claim) for expression in expressions):
        return _number_in_words(claim)
    first = expressions[0]
    if mark.form == "box" and _FORMULA.search(prepared[: first.start] + " " + prepared[first.end :]):
        return None
    if _LEAD.fullmatch(prepared[: first.start]):
        second = expressions[1] if len(expressions) > 1 else None
        if (
            second
            and _ROUNDED.fullmatch(prepared, first.end, second.start)
            and not _PRECISION.match(prepared, second.end)
        ):
            return second.value
        if second and _ANOTHER.match(prepared, first.end):
            return None
        boundary = _BOUNDARY.search(prepared, first.end)
        stop = boundary.start() if boundary else len(prepared)
        is_alone = first.end > stop or len(expressions) == 1 or expressions[1].start >= stop
        return first.value if is_alone and not first.is_list else None
    conclusions = list(_CONCLUDES.finditer(claim))
    if conclusions:
        inside = [e for e in expressions if conclusions[-1].end() <= e.start < len(claim)]
        if inside:
            return _one_value(inside)
    return _one_value([expression for expression in expressions if expression.start < len(claim)])


def _one_value(expressions: Sequence[NumberExpression]) -> Fraction | None:
    """Return the value that all expressions have, or None."""
    values = {expression.value for expression in expressions}
    is_one = len(values) == 1 and not any(expression.is_list for expression in expressions)
    return values.pop() if is_one else None


def _unmarked_number(text: str) -> Fraction | None:
    """Return the number that a text ends on: the last one of its last statement with a number, reasons aside."""
    tail = text[-MAX_ANSWER:]
    is_cut = len(tail) < len(text)
    prepared = plain(tail)
    for line in reversed(prepared.splitlines()):
        if not any(map(str.isdigit, line)) or not number_expressions(line):
            continue
        for sentence in reversed(_sentences(line)):
            if _CONFIDENCE.search(sentence):
                continue
            outside = _PARENTHESIS.sub(" ", sentence)
            for statement in (without_reason(outside), outside, sentence):
                expressions = number_expressions(statement)
                if expressions:
                    last = expressions[-1]
                    return None if is_cut and last.start == 0 and prepared.startswith(statement) else last.value
    return None


def _sentences(line: str) -> list[str]:
    parts = []
    while line:
        sentence = first_sentence(line)
        parts.append(sentence)
        line = line[len(sentence) :]
    return parts


_ONES_BY_TEN = "twenty thirty forty fifty sixty seventy eighty ninety"
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_SMALL = {word: value for value, word in enumerate(_ONES.split())}
_TENS = dict(zip(_ONES_BY_TEN.split(), range(20, 100, 10), strict=True))
_LARGE = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9}
_ANY_WORD = "|".join([*_SMALL, *_TENS, *_LARGE])
_IN_WORDS = re.compile(rf"(?:(?:{_ANY_WORD})\b(?:[ -](?:and[ -](?=(?:{_ANY_WORD})\b))?(?=(?:{_ANY_WORD})\b))?)+", re.I)
_PART_FOLLOWS = re.compile(
    r"\s?(?:[-–+*/]|of\b|or\b|and\b|to\b|out\b|half|halves|thirds?\b|quarters?\b|fourths?\b|fifths?\b|point\b|times\b"
    r"|plus\b|minus\b|more\b|less\b|hundreds|thousands|millions|dozen\b|at a\b)|,\s?(?:\w+,|and\b|or\b)",
    re.IGNORECASE,
)


def _number_in_words(claim: str) -> Fraction | None:
    """Return the number at the start of a statement that is written in words, or None."""
    lead = _LEAD.match(claim)
    match = _IN_WORDS.match(claim, lead.end() if lead else 0)
    if match is None or _PART_FOLLOWS.match(claim, match.end()) or _IN_WORDS.search(claim, match.end()):
        return None
    total = group = 0
    last = 0  # the size of the word before; sizes must fall within a group
    for word in re.findall(r"[a-z]+", match[0].lower()):
        if word == "and":
            continue
        if word in _LARGE:
            if not group:
                return None
            if word == "hundred":
                group *= 100
            else:
                total, group = total + group * _LARGE[word], 0
            last = 100 if word == "hundred" else 1_000
        elif word in _TENS:
            if last and last < 100:
                return None
            group, last = group + _TENS[word], 10
        else:
            if last and (last < 10 or (last == 10 and not 0 < _SMALL[word] < 10)):
                return None
            group, last = group + _SMALL[word], 1
    return Fraction(total + group)


# ----------------------------------------------------------------------------------------------------------------- JSON


def json_reader(path: str = "") -> NamedReader:
    """Read a field of the last JSON object or list in the response. `path` may be dotted: "result.total", "items.0".

    Without a path it is all of it. Equal values give equal strings: numbers and texts are in normal form, and fields
    are sorted. null and a field that is missing are no answer.
    """
    steps = path.split(".") if path else []
    if not all(steps):
        raise ValueError(f"path must be names between dots, got {path!r}")

    def read(question: Question, text: str) -> str | None:
        for value, _, _ in json_values(text):
            inner, is_there = _at(value, steps)
            if is_there:
                return json_form(inner)
        return None

    return NamedReader("json" if not path else f"json({path!r})", 1, read)


def _at(value: Json, steps: Sequence[str]) -> tuple[Json, bool]:
    """Return what a path leads to, and whether it leads to anything."""
    for step in steps:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None, False
    return value, True


def json_form(value: Json) -> str | None:
    """Return the normal form of a JSON value; None for null, and for an empty text."""
    if value is None or isinstance(value, dict | list):
        return None if value is None else _json_text(value, 0)
    if isinstance(value, bool):
        return "true" if value else "false"
    return normal_form(str(value)) or None


def _json_text(value: Json, depth: int) -> str:
    if depth > MAX_DEPTH:
        return "..."
    if isinstance(value, dict):
        fields = [f"{name!r}: {_json_text(item, depth + 1)}" for name, item in sorted(value.items())]
        return "{" + ", ".join(fields) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_json_text(item, depth + 1) for item in value) + "]"
    form = json_form(value)
    return "null" if form is None else form if isinstance(value, bool | JsonNumber) else repr(form)
