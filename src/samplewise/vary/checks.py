"""Refusals of what a thinker wrote: it gives the result away, it lost a part of the question, it says nothing new.

All of them are rules about the surface of a text. They refuse some good texts and let some bad ones pass; what was
refused is counted, never hidden.
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
    """Whether an idea gives the result away: a boxed value, a stated result, an option, code, or a worked step."""
    return bool(_LEAKS.search(text) or _LETTER.search(text))


def gives_away(text: str, answer: str, body: str) -> bool:
    """Whether an idea's text holds an answer that the question `body` does not hold itself. To be asked afterwards, of
    the answer that the idea's own draws gave."""
    return _holds(text, answer) and not _holds(body, answer)


def _holds(text: str, answer: str) -> bool:
    """A number in digits or words, an option as such ("(B)", "option B"), else the answer as it is but for blanks and
    case. One sign alone is too little to go by, and a whole program too much."""
    bare = answer.strip()
    if _DIGITS.fullmatch(bare):
        return _plain(bare) in numbers(text) or _plain(bare) in spelt(text)
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
    """Whether a rewording does: the same signs, as far as the question itself has none of them."""
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
    """How often each number stands there in digits: 1,200 is 1200, and 2.50 is 2.5."""
    return Counter(_plain(match) for match in _DIGITS.findall(text))


def spelt(text: str) -> Counter[str]:
    """The numbers from two to twenty that stand there in words."""
    return Counter(_SPELT[word] for word in re.findall(r"[a-z]+", text.lower()) if word in _SPELT)


def names(text: str) -> Counter[str]:
    """How often each identifier stands there: snake_case, camelCase, dotted, called, or between backticks."""
    return Counter(match.strip("`") for match in _NAMES.findall(text))


def options(text: str) -> Counter[tuple[str, str]]:
    """The options of a multiple choice, letter and text; none where there is no A or no B."""
    found = [(letter, " ".join(each.split()).lower().rstrip(".;,")) for letter, each in _OPTION.findall(text)]
    return Counter(found) if {"A", "B"} <= {letter for letter, _ in found} else Counter()


def loses(body: str, text: str) -> bool:
    """Whether a rewording of `body` lost or added a number, an identifier or an option. A number in words counts as
    one in digits where that makes the two agree."""
    same = numbers(body) == numbers(text) or numbers(body) + spelt(body) == numbers(text) + spelt(text)
    return not (same and names(body) == names(text) and options(body) == options(text))


def _plain(digits: str) -> str:
    bare = digits.replace(",", "")
    whole, dot, rest = bare.partition(".")
    rest = rest.rstrip("0")
    return f"{whole.lstrip('0') or '0'}{dot if rest else ''}{rest}"


# --- what was there already -------------------------------------------------------------------------------------------


def repeats(texts: Sequence[str], earlier: Sequence[str] = ()) -> tuple[bool, ...]:
    """Of each text, whether it is like an earlier one that is no repeat itself, by a cosine above SAME of character
    n-grams; or like one of `earlier`."""
    return _repeats(tuple(texts), tuple(earlier)) if texts else ()


@lru_cache(maxsize=512)  # an arm is asked again and again what it made of the same texts
def _repeats(texts: tuple[str, ...], earlier: tuple[str, ...]) -> tuple[bool, ...]:
    every = [text.strip(" \t\n.!?*\"'") for text in (*earlier, *texts)]
    likeness = np.nan_to_num(cosines(every))  # (T, T)
    kept = list(range(len(earlier)))
    found = []
    for place in range(len(earlier), len(every)):
        again = any(likeness[place, other] > SAME for other in kept)
        found.append(again)
        if not again:
            kept.append(place)
    return tuple(found)
