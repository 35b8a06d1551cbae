"""Readers of short answers: a text, a last line, a number, or whatever the response marks as its answer.

Every reader gives a normal form, so that equal answers vote together and compare as strings:

- a number becomes one exact decimal, or a fraction where no decimal is exact: `1,000`, `1000.0`, `+1e3` and `$1000.`
  are `1000`, `0.50`, `1/2` and `\\frac{1}{2}` are `0.5`, `2/6` is `1/3`, `1\\frac{1}{2}` is `1.5`;
- any other answer loses emphasis, quotes, `$` and a full stop around it, case, and the width of its white space.

`50%` is not a number but a text, and so is `5 kg`; where a number is looked for within a text, they hold 50 and 5. The
reader `text` alone changes nothing but white space, for answers that must match letter by letter. There is no
mathematics beyond that: `2\\sqrt{2}` and `\\sqrt{8}` stay two answers. Cost: linear in the end of
the text, `MAX_TEXT` characters for a mark and `MAX_ANSWER` for a number.
"""

from __future__ import annotations

import re
from fractions import Fraction

from samplewise.types import Question, Reader

MAX_TEXT = 20_000  # characters searched for a mark
MAX_ANSWER = 2_000  # characters searched for a number
MAX_MARKS = 64

_DIGITS = (
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}(?![0-9,])|[0-9]{1,40}(?![0-9]))(?:\.[0-9]{1,40})?|\.[0-9]{1,40})(?![0-9])"
)
_NUMERAL = re.compile(
    rf"(?P<sign>(?<![\w.)\]}}])[-+])?\$?(?<![\w.])(?P<top>{_DIGITS})"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,2})(?!\w)|/(?P<bottom>[0-9]{1,40})(?![0-9/]))?"
)
_FRACTION = re.compile(r"([0-9]{1,40} ?)?\\[dt]?frac\s?\{\s?([0-9]{1,40})\s?\}\s?\{\s?([0-9]{1,40})\s?\}")
_MARK = re.compile(r"(?i:answer)[\s*_`\"']{0,8}(?:is\b[\s*_`\"']{0,8}:?|:|=)[\s*_`]{0,8}")
_AROUND = " \t\r\n\"'`*_$“”‘’"


def text(question: Question, text: str) -> str | None:
    """The whole response, white space folded; case and signs are kept."""
    return " ".join(text.split()) or None


def last_line(question: Question, text: str) -> str | None:
    """The last line with something in it, in normal form."""
    for line in reversed(text[-MAX_TEXT:].splitlines()):
        if line.strip() and (short := normal(line)):
            return short
    return None


def last_number(question: Question, text: str) -> str | None:
    """The last number in the response, in normal form."""
    return _last_number(text)


def auto(*, numeric: bool = False) -> Reader:
    r"""What the response marks as its answer: the last of `\boxed{}`, "answer:", "answer is" and `####`.

    Where the answers are `numeric`, it is the last number in that, or in the whole response where nothing is marked;
    else the whole of it.
    """

    def read(question: Question, text: str) -> str | None:
        tail = text[-MAX_TEXT:]
        marked = marked_answer(tail)
        chosen = tail if marked is None else marked
        return _last_number(chosen) if numeric else normal(chosen) or None

    return read


def marked_answer(text: str) -> str | None:
    r"""The last answer that is marked with `\boxed{}`, "answer:", "answer is" or `####`; None where none is."""
    end = len(text)
    for _ in range(MAX_MARKS):
        places = {form: text.rfind(form, 0, end) for form in ("\\boxed{", "####", "answer", "Answer", "ANSWER")}
        form, end = max(places.items(), key=lambda entry: entry[1])
        if end < 0:
            return None
        if form == "\\boxed{":
            inside = braced(text[end + len(form) : end + len(form) + MAX_ANSWER])
            if inside is not None:
                return inside
            continue
        mark = _MARK.match(text, end)
        start = end + len(form) if form == "####" else mark.end() if mark else None
        if start is not None:
            return next((line for line in text[start : start + MAX_ANSWER].splitlines() if normal(line)), "")
    return None


def last_box(text: str) -> str | None:
    r"""What is in the last `\boxed{}` or `\fbox{}` that closes; None where there is none."""
    end = len(text)
    for _ in range(MAX_MARKS):
        end = max(text.rfind(form, 0, end) for form in ("\\boxed{", "\\fbox{"))
        if end < 0:
            return None
        start = text.index("{", end) + 1
        inside = braced(text[start : start + MAX_ANSWER])
        if inside is not None:
            return inside
    return None


def boxed(question: Question, text: str) -> str | None:
    r"""What is in the last `\boxed{}`, in normal form; None where there is none, whatever else is marked."""
    inside = last_box(text[-MAX_TEXT:])
    return None if inside is None else normal(inside) or None


def braced(rest: str) -> str | None:
    """What is inside the braces that `rest` begins within; None where they do not close."""
    depth = 1
    for i, sign in enumerate(rest):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return rest[:i]
    return None


def normal(answer: str) -> str:
    """The normal form of a short answer; empty where there is nothing in it."""
    short = " ".join(answer.split()).strip(_AROUND)
    if short.endswith(".") and not short.endswith(".."):
        short = short[:-1].rstrip(_AROUND)
    number = as_number(short)
    return short.casefold() if number is None else number_text(number)


def as_number(answer: str) -> Fraction | None:
    """The number that a short answer is, None if it is anything else."""
    found = _NUMERAL.fullmatch(_plain(answer).strip(_AROUND)) if len(answer) <= MAX_ANSWER else None
    return None if found is None else _value(found)


def number_text(value: Fraction) -> str:
    """A number as one string: a decimal where one is exact, else a fraction in lowest terms."""
    if value.denominator == 1:
        return str(value.numerator)
    places = next((k for k in range(1, 200) if 10**k % value.denominator == 0), 0)
    if not places:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * (10**places // value.denominator)).rjust(places + 1, "0")
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _last_number(text: str) -> str | None:
    last = None
    for found in _NUMERAL.finditer(_plain(text[-MAX_ANSWER:])):
        value = _value(found)
        last = value if value is not None else last
    return None if last is None else number_text(last)


def _plain(text: str) -> str:
    """Minus signs, LaTeX fractions and thousands in plain characters."""
    text = text.replace("−", "-").replace("\\$", "$").replace("{,}", ",").replace("\\,", "")
    return _FRACTION.sub(_in_line, text)


def _in_line(found: re.Match[str]) -> str:
    """A fraction in plain characters; with a whole number in front of it, the two together."""
    whole, above, below = found.groups()
    return f"{int(whole or 0) * int(below) + int(above)}/{below}"


def _value(found: re.Match[str]) -> Fraction | None:
    value = Fraction(found["top"].replace(",", ""))
    if found["exponent"]:
        value *= Fraction(10) ** int(found["exponent"])
    if found["bottom"]:
        if not int(found["bottom"]):
            return None
        value /= int(found["bottom"])
    return -value if found["sign"] == "-" else value
