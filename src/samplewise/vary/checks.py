"""Refuse what a helper wrote: it gives the result away, it lost a part of the question, or it says nothing new.

All checks are rules about the surface of a text. They refuse some good texts and let some bad ones pass. Refusals are
counted, never hidden.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

import numpy as np

from samplewise.measure.texts import cosines

SAME: Final = 0.9  # cosine from which two texts count as one
MAX_ANSWER: Final = 1_000  # characters of an answer that is looked for in an idea

_NUMBER = r"[-−]?\$?\d[\d,]*(?:\.\d+)?(?:/\d+)?%?"
_ENDED = r"\$?(?=\s*(?:[.;!?)]|\Z|\n))"
_LEAKS = re.compile(
    r"\\boxed|\\fbox|```|^[ \t]*(?:(?:def|class) \w+|(?:return|print)\b[^\n]*\()"  # a boxed value, code
    r"|\b(?:answer|solution|result)\s*(?:is|=|:|would be|will be|must be|should be|equals|comes out (?:as|to))"
    rf"\s*:?[*$\s]*(?:{_NUMBER}|\\frac|(?-i:\(?[A-HJ]\)?)(?=[\s*]*(?:[.,;!)]|\Z|\n)))"  # a stated result
    rf"|\b(?:equals|gives|giving|yields|yielding|get|obtain)\s+(?:us |you )?(?:exactly )?\$?{_NUMBER}{_ENDED}"
    rf"|\d\s*[-+−*/×÷·^]\s*\d[^=\n]{{0,24}}=\s*{_NUMBER}",  # a worked step
    re.MULTILINE | re.I,
)
_LETTER = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoose|[Pp]ick|[Ss]elect|[Cc]hoice) \(?[A-HJ]\b|(?<!\w)\([A-J]\)|\A\W*[A-J]\W*\Z"
)


def leaks(text: str) -> bool:
    """Return whether an idea gives the result away: a boxed value, a stated result, an option, code, or a worked
    step."""
    return bool(_LEAKS.search(text) or _LETTER.search(text))


def gives_away(text: str, answer: str, body: str) -> bool:
    """Return whether an idea holds an answer that the question `body` does not hold itself.

    To be used afterwards, with the answer that the idea's own draws gave.
    """
    return _holds(text, answer) and not _holds(body, answer)


def _holds(text: str, answer: str) -> bool:
    """Return whether a text holds an answer.

    That is a number in digits or words, an option as such ("(B)", "option B"), otherwise the answer itself but for
    blanks and case. A single character is too short to match, and a whole program too long.
    """
    bare = answer.strip()
    if _DIGITS.fullmatch(bare):
        return _plain(bare) in numbers(text) or _plain(bare) in spelled_numbers(text)
    if re.fullmatch(r"[A-J]", bare):
        return bool(
            re.search(rf"\({bare}\)|(?i:\b(?:option|choice|answer|choose|pick|select)(?: is)?:?) \(?{bare}\b", text)
        )
    tokens = re.findall(r"\w+|[^\w\s]", bare)
    if len(bare) < 2 or len(bare) > MAX_ANSWER:
        return False
    edges = (r"(?<![\w.])" if tokens[0].isalnum() else "", r"(?!\w)" if tokens[-1].isalnum() else "")
    return bool(re.search(edges[0] + r"\s*".join(map(re.escape, tokens)) + edges[1], text, re.IGNORECASE))


def solves(body: str, text: str) -> bool:
    """Return whether a rewording gives the result away by signs that the question itself does not have."""
    return (bool(_LEAKS.search(text)) and not _LEAKS.search(body)) or ("\\boxed" in text and "\\boxed" not in body)


# --- what a rewording must keep ---------------------------------------------------------------------------------------

_DIGITS = re.compile(r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_WORDS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty"
)
_SPELT = {word: str(value) for value, word in enumerate(_WORDS.split(), start=2)}  # "one" is mostly no number
_NAMES = re.compile(
    r"`[^`\n]+`|\b[A-Za-z]\w*_\w+\b|\b_\w+\b|\b[a-z]+[A-Z]\w*\b|\b[A-Za-z_]\w*(?=\()|\b[A-Za-z_]\w+(?:\.[A-Za-z_]\w+)+"
)
_OPTION = re.compile(r"(?:\A|(?<=\s))\(?([A-J])[.):]\s+(.+?)(?=\n|\Z|\s\(?[A-J][.):]\s)")


def numbers(text: str) -> Counter[str]:
    """Count each number in digits: 1,200 is 1200, and 2.50 is 2.5."""
    return Counter(_plain(match) for match in _DIGITS.findall(text))


def spelled_numbers(text: str) -> Counter[str]:
    """Count the numbers from two to twenty in words."""
    return Counter(_SPELT[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _SPELT)


def identifiers(text: str) -> Counter[str]:
    """Count each identifier: snake_case, camelCase, dotted, called, or between backticks."""
    return Counter(match.strip("`") for match in _NAMES.findall(text))


def options(text: str) -> Counter[tuple[str, str]]:
    """Count the options of a multiple choice, letter and text; none unless there are an A and a B."""
    pairs = [(letter, " ".join(option.split()).lower().rstrip(".;,")) for letter, option in _OPTION.findall(text)]
    return Counter(pairs) if {"A", "B"} <= {letter for letter, _ in pairs} else Counter()


def loses(body: str, text: str) -> bool:
    """Return whether a rewording of `body` lost or added a number, an identifier or an option.

    A number in words counts as one in digits if that makes the two agree.
    """
    same = numbers(body) == numbers(text) or numbers(body) + spelled_numbers(body) == numbers(text) + spelled_numbers(
        text
    )
    return not (same and identifiers(body) == identifiers(text) and options(body) == options(text))


def _plain(digits: str) -> str:
    """Return digits without separators and trailing zeros."""
    bare = digits.replace(",", "")
    integer, dot, fraction = bare.partition(".")
    fraction = fraction.rstrip("0")
    return f"{integer.lstrip('0') or '0'}{dot if fraction else ''}{fraction}"


# --- what repeats an earlier text -------------------------------------------------------------------------------------


def repeats(texts: Sequence[str], earlier: Sequence[str] = ()) -> tuple[bool, ...]:
    """Return for each text whether it is similar to one of `earlier`, or to an earlier text that is no repeat itself.

    Similar is a cosine of character n-grams above SAME.
    """
    return _repeats(tuple(texts), tuple(earlier)) if texts else ()


@lru_cache(maxsize=512)  # an arm is recomputed after every round from the same texts
def _repeats(texts: tuple[str, ...], earlier: tuple[str, ...]) -> tuple[bool, ...]:
    stripped = [text.strip(" \t\n.!?*\"'") for text in (*earlier, *texts)]
    likeness = np.nan_to_num(cosines(stripped))  # (T, T)
    distinct = list(range(len(earlier)))
    flags = []
    for index in range(len(earlier), len(stripped)):
        is_repeat = any(likeness[index, earlier_index] > SAME for earlier_index in distinct)
        flags.append(is_repeat)
        if not is_repeat:
            distinct.append(index)
    return tuple(flags)
