"""What is done to texts of models and servers: cut at stop strings, made fit for a terminal or a one-line message."""

from __future__ import annotations

import re
from collections.abc import Iterable

# C0 but newline and tab, DEL, C1, line and paragraph separators, marks that turn the writing direction, surrogates
CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return the text with control characters spelled out ("\x1b"), so that a terminal shows and never obeys them.

    Newlines and tabs stay; a carriage return before a newline is dropped.
    """
    if CONTROLS.search(text) is None:
        return text
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def as_one_line(text: str, max_length: int = 300) -> str:
    """Return the text as one printable line of at most `max_length` characters, runs of white space as one blank."""
    line = printable(" ".join(text[: 64 * max_length].split()))
    return line if len(line) <= max_length else line[: max_length - 3] + "..."


def find_stop(text: str, stops: Iterable[str]) -> int:
    """Return the index where the first of the stop strings begins, -1 if `text` holds none."""
    return min((index for stop in stops if (index := text.find(stop)) >= 0), default=-1)


def cut_at_stop(text: str, stops: Iterable[str]) -> str:
    """Return the text before the first stop string, all of it if there is none."""
    index = find_stop(text, stops)
    return text if index < 0 else text[:index]
