"""Read a helper's reply without what models put around it: thoughts, a friendly opening, labels, quotes, fences.

Nothing is judged here (see `checks.py`). Every function takes any text, and reads `MAX_REPLY` characters of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Json

MAX_REPLY = 20_000  # characters
MAX_STARTS = 32  # positions at which JSON is searched for


class Item(NamedTuple):
    """One text of a list, and the probability that the helper states for it; nan if it states none."""

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
    """Return the reply without its reasoning; "" if that never ends."""
    return split_reasoning(reply).text[-MAX_REPLY:].strip()


def single_text(reply: str) -> str:
    """Return the one text of a reply, "" if there is none. Fences around prose are removed, fences around code stay."""
    text = without_thoughts(reply)
    listed = json_items(text)
    if listed and text.lstrip("`json \n").startswith(("{", "[")):
        return listed[0].text
    text = _OPENING.sub("", text).strip()
    if fence := _PROSE_FENCE.match(text):
        text = fence[1].strip()
    text = _LABEL.sub("", text, count=1).strip()
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def json_items(reply: str) -> tuple[Item, ...]:
    """Return the texts of a reply that holds JSON: the first list of texts, or of objects with a text; () if there
    is none."""
    for value in _values(without_thoughts(reply)):
        if items := tuple(_items(value)):
            return items
    return ()


def list_items(reply: str) -> tuple[Item, ...]:
    """Return the texts of a list in plain words: its numbered or bulleted lines, with their continuation lines.

    If no line is marked, return all lines, provided that there are two or more: a single line is no list, and often an
    apology.
    """
    text = without_thoughts(reply)
    rows = text.split("\n")
    if any(_MARK.match(row) for row in rows):
        lines: list[str] = []
        open_item = False
        for row in rows:
            if _MARK.match(row):
                lines.append(_MARK.sub("", row).strip())
                open_item = True
            elif not row.strip():
                open_item = False
            elif open_item:
                lines[-1] += " " + row.strip()
    else:
        lines = [row for row in _OPENING.sub("", text).split("\n") if row.strip("` \t")]
        lines = lines if len(lines) > 1 else []
    return tuple(item for row in lines if (item := _stated(row)).text)


def is_none(text: str) -> bool:
    """Return whether a helper says that it has nothing more to name. Case and punctuation do not count."""
    bare = " ".join(re.sub(r"[^a-z ]", "", text.lower()).split())
    return bool(re.match(r"none\b|there (?:is|are) no (?:other|more)\b|no (?:new|other|more) concepts?\b", bare))


def _stated(row: str) -> Item:
    row = " ".join(row.split())
    match = _STATED.search(row)
    text = _LABEL.sub("", row[: match.start()] if match else row, count=1).strip(' *_"“”')
    return Item(text, _share(match[1] + match[2]) if match else math.nan)


def _values(text: str) -> Iterator[Json]:
    """Yield every JSON value that begins with a bracket, in order."""
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
            yield from (Item(item, _share(stated)) for item in (text.strip(),) if item)
            return
        inner = next((item for item in value.values() if isinstance(item, list)), [])
        yield from _items(inner)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, str) and item.strip():
                yield Item(item.strip())
            elif isinstance(item, dict):
                yield from _items(item)


def _share(value: Json) -> float:
    """Read a stated probability, "30%" or 0.3; nan if it is none."""
    try:
        text = str(value).strip()
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return math.nan
    return share if 0 <= share <= 1 else math.nan
