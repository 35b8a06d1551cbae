"""Keep credentials out of messages, stores and reports: find them in texts and settings, and hide their values.

A credential is known by the name of its field (`api_key`, `Authorization`, `access_token` and the like; in the text of
a spec also misspelt), or by how it looks ("sk-...", "Bearer ...", a URL's user and password). Pure.
"""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
NUMBERS = frozenset((int, float, bool, type(None)))  # types of values that hold no credential
MIN_SECRET = 8  # characters from which a credential is hidden in the texts of draws too: shorter ones are words
MIN_SHORT = 4  # characters from which it is hidden in errors
NAME = re.compile(
    r"(?:^|_)(?:api|access|secret|private|auth|account|subscription|signing|\w*ai|anthropic)_?key$"
    r"|(?:^|_)(?:api|access|auth|id|bearer|session|refresh|security|hf|github)_?token$"
    r"|secret|passw(?:or)?d|credential|authorization|cookie|^(?:key|token|auth|bearer)$"
)
LOOKS = re.compile(
    r"\b(?:sk|pk|rk|gsk|hf|ghp|xai|nvapi|pplx|csk)[-_][\w-]{8,}"
    r"|(?<=\bBearer )[^\s'\"]+|(?<=\bBasic )[^\s'\"]+|(?<=://)[^\s/'\"@]+(?=@)"
)
PAIR = re.compile(
    r"""(?<![\w-])(?P<name>[\w-]+)['"]?\s*[=:]\s*"""
    r"""(?:"(?P<double>(?:[^"\\]|\\.)*)(?:"|$)|'(?P<single>(?:[^'\\]|\\.)*)(?:'|$)|(?P<bare>[^\s,(){}\[\]'"&]+))"""
)
PLAIN = re.compile(r"[-+]?[\d.]+(?:e[-+]?\d+)?|None|True|False", re.IGNORECASE)  # values that are no credentials


@functools.lru_cache(maxsize=1024)
def names_secret(name: str) -> bool:
    """Return whether a field of this name holds a credential."""
    return NAME.search(name.lower().replace("-", "_")) is not None


def hide_secrets(text: str) -> str:
    """Return a text, such as that of a spec or a URL, with the credentials in it replaced by ***."""
    return mark_hidden(text, 0)[0]


def mark_hidden(text: str, column: int) -> tuple[str, int]:
    """Return the text without credentials, and the column in it that was `column` in the text."""
    parts, start, moved = [], 0, column
    for begin, end in _spans(text):
        parts += [text[start:begin], HIDDEN]
        if column >= end:
            moved += len(HIDDEN) - (end - begin)
        elif column > begin:
            moved += begin - column
        start = end
    return "".join([*parts, text[start:]]), moved


def _spans(text: str) -> list[tuple[int, int]]:
    """Return where the credentials of a text begin and end, in order, without overlaps."""
    spans = [match.span() for match in LOOKS.finditer(text)]
    for match in PAIR.finditer(text):
        group = next(name for name in ("double", "single", "bare") if match[name] is not None)
        begin, end = match.span(group)
        name = match["name"].lower()
        is_meant = names_secret(name) or difflib.SequenceMatcher(None, name, "api_key").ratio() > 0.7
        is_value = begin < end and not (
            group == "bare" and (PLAIN.fullmatch(match[group]) or text[end : end + 1] == "(")
        )
        if is_meant and is_value:
            spans.append((begin, end))
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def hide_fields(value: Any) -> Any:
    """Return JSON-like settings with credentials replaced by ***, known by their field's name or by how they look.

    Without credentials the value is returned as it is.
    """
    if isinstance(value, str):
        return LOOKS.sub(HIDDEN, value)
    if isinstance(value, dict | Mapping):  # a dict is one at a glance
        return {name: item if type(item) in NUMBERS else _hide_field(name, item) for name, item in value.items()}
    return [hide_fields(item) for item in value] if isinstance(value, list | tuple) else value


def _hide_field(name: Any, value: Any) -> Any:
    return HIDDEN if isinstance(value, str) and value and names_secret(str(name)) else hide_fields(value)


def secret_values(settings: Any) -> Iterator[str]:
    """Yield the credentials that `hide_fields` would hide."""
    if isinstance(settings, Mapping):
        for name, item in settings.items():
            if isinstance(item, str) and item and names_secret(str(name)):
                yield item
            else:
                yield from secret_values(item)
    elif isinstance(settings, list | tuple):
        for item in settings:
            yield from secret_values(item)
    elif isinstance(settings, str):
        yield from LOOKS.findall(settings)


class KnownSecrets:
    """Credentials whose values are known, to be hidden wherever a server repeats them.

    In errors all of at least `MIN_SHORT` characters are hidden, in draws those of at least `MIN_SECRET`: a draw may
    well hold a word like "EMPTY", which local servers take for a key.
    """

    def __init__(self, values: Iterable[str]) -> None:
        forms = {form for value in values for form in (value, quote(value, safe=""), json.dumps(value)[1:-1])}
        self._long_forms = tuple(form for form in forms if len(form) >= MIN_SECRET)
        self._long, self._all = _pattern(forms, MIN_SECRET), _pattern(forms, MIN_SHORT)

    def hide(self, text: str) -> str:
        """Return a message without the credentials."""
        return text if self._all is None else self._all.sub(HIDDEN, text)

    def num_shown(self, text: str) -> tuple[int, bool]:
        """Return how many characters of a draw so far hold no credential and begin none, and whether one is in it."""
        match = None if self._long is None else self._long.search(text)
        if match is not None:
            return match.start(), True
        begun = (n for form in self._long_forms for n in range(len(form) - 1, 0, -1) if text.endswith(form[:n]))
        return len(text) - max(begun, default=0), False

    def hide_in(self, body: Any, *, is_error: bool) -> Any:
        """Return the JSON of a reply without the credentials; the same object if it has none."""
        pattern = self._all if is_error else self._long
        return body if pattern is None else _hide_in(body, pattern)


def _hide_in(body: Any, pattern: re.Pattern[str]) -> Any:
    if isinstance(body, str):
        return pattern.sub(HIDDEN, body) if pattern.search(body) else body
    if isinstance(body, dict):
        items = {_hide_in(name, pattern): _hide_in(item, pattern) for name, item in body.items()}
        is_same = all(items.get(name) is item for name, item in body.items())
        return body if is_same else items
    if isinstance(body, list):
        rows = [_hide_in(item, pattern) for item in body]
        return rows if any(new is not old for new, old in zip(rows, body, strict=True)) else body
    return body


def _pattern(forms: Iterable[str], min_length: int) -> re.Pattern[str] | None:
    longest_first = sorted((form for form in forms if len(form) >= min_length), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
