"""What a thinker's reply says, without what models put around it: thoughts, a friendly opening, labels, quotes, fences.

Nothing is judged here (see `checks.py`). Every function takes any text at all, and reads `MAX_REPLY` characters of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from samplewise.types import Json

MAX_REPLY = 20_000  # characters
MAX_STARTS = 32  # places at which JSON is looked for


class Item(NamedTuple):
    """One text of a list, and the probability that the thinker states for it; nan where it states none."""

    text: str
    probability: float = math.nan


_PROSE_FENCE = re.compile(r"\A```(?:text|markdown|md|json|plaintext)?[ \t]*\n(.*?)\n?```\Z", re.DOTALL)
_OPENING = re.compile(
    r"\A(?:sure|certainly|of course|okay|ok|here(?:'s| is| are)|absolutely)\b[^\n]{0,160}[:!.]\s*\n+", re.I
)
_LABEL = re.compile(
    r"\A[*_#\s]*(?:(?:my |your |the |one |another |new |key |possible )?"
    r"(?:idea|approach|suggestion|insight|concept|plan|way|hint"
    r"|(?:rephrased|rewritten|restated|translated|new)? ?(?:problem|question|wording|version|text|translation)))"
    r"[*_]*\s*:[*_]*\s*",
    re.I,
)
_MARK = re.compile(r"^[ \t>]*(?:[*_]{0,2}\(?\d{1,2}[.):][*_]{0,2}|[-*•–])[ \t]+(?=\S)")
_STATED = re.compile(r" ?[(\[,;–-]{0,2} ?\b(?:probability|prob|p)\s*[:=≈]?\s*(\d*\.?\d+)\s*(%?)\s*[)\]]?\.?\s*\Z", re.I)
_QUOTES = {'"': '"', "“": "”", "'": "'", "«": "»"}
_TEXT_KEYS = ("text", "idea", "approach", "suggestion", "concept", "plan", "observation", "response", "question")
_PROBABILITY_KEYS = ("probability", "prob", "p")


def without_thoughts(reply: str) -> str:
    """The reply behind its last `</think>`; nothing where the thinking never ends."""
    before, mark, after = reply[-MAX_REPLY:].rpartition("</think>")
    text = after if mark else before or after
    return "" if text.lstrip().startswith("<think>") else text.strip()


def one(reply: str) -> str:
    """The one text of a reply, "" where there is none. A fence of prose is taken off, a fence of code stays."""
    text = without_thoughts(reply)
    listed = items(text)
    if listed and text.lstrip("`json \n").startswith(("{", "[")):
        return listed[0].text
    text = _OPENING.sub("", text).strip()
    if fence := _PROSE_FENCE.match(text):
        text = fence[1].strip()
    text = _LABEL.sub("", text, count=1).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def items(reply: str) -> tuple[Item, ...]:
    """The texts of a reply that holds JSON: the first list of texts, or of objects with a text. () where none is."""
    for value in _values(without_thoughts(reply)):
        if found := tuple(_items(value)):
            return found
    return ()


def lines(reply: str) -> tuple[Item, ...]:
    """The texts of a list in plain words: its numbered or bulleted lines, with what continues them. Where no line is
    marked, all lines, if there are two or more: a single one is no list, and often an apology."""
    text = without_thoughts(reply)
    rows = text.split("\n")
    if any(_MARK.match(row) for row in rows):
        found: list[str] = []
        open_item = False
        for row in rows:
            if _MARK.match(row):
                found.append(_MARK.sub("", row).strip())
                open_item = True
            elif not row.strip():
                open_item = False
            elif open_item:
                found[-1] += " " + row.strip()
    else:
        found = [row for row in _OPENING.sub("", text).split("\n") if row.strip("` \t")]
        found = found if len(found) > 1 else []
    return tuple(item for row in found if (item := _stated(row)).text)


def is_none(text: str) -> bool:
    """Whether a thinker says that it has nothing more to name; in any case of letters, with any stops."""
    bare = " ".join(re.sub(r"[^a-z ]", "", text.lower()).split())
    return bool(re.match(r"none\b|there (?:is|are) no (?:other|more)\b|no (?:new|other|more) concepts?\b", bare))


def _stated(row: str) -> Item:
    row = " ".join(row.split())
    match = _STATED.search(row)
    text = _LABEL.sub("", row[: match.start()] if match else row, count=1).strip(' *_"“”')
    return Item(text, _share(match[1] + match[2]) if match else math.nan)


def _values(text: str) -> Iterator[Json]:
    """Every JSON value that begins with a bracket, from the first one on."""
    decoder = json.JSONDecoder()
    start = 0
    for _ in range(MAX_STARTS):
        match = re.compile(r"[\[{]").search(text, start)
        if match is None:
            return
        try:
            value, start = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            start = match.start() + 1
        else:
            yield value


def _items(value: Json) -> Iterator[Item]:
    if isinstance(value, dict):
        text = next((value[k] for k in _TEXT_KEYS if isinstance(value.get(k), str)), None)
        if text is not None:
            stated = next((value[k] for k in _PROBABILITY_KEYS if k in value), math.nan)
            yield from (Item(each, _share(stated)) for each in (text.strip(),) if each)
            return
        inner = next((each for each in value.values() if isinstance(each, list)), [])
        yield from _items(inner)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, str) and each.strip():
                yield Item(each.strip())
            elif isinstance(each, dict):
                yield from _items(each)


def _share(value: Json) -> float:
    """A stated probability, "30%" or 0.3; nan where it is none."""
    try:
        text = str(value).strip()
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return math.nan
    return share if 0 <= share <= 1 else math.nan
