"""Values as SQLite keeps them, and back."""

from __future__ import annotations

import itertools
import json
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Completion, Usage

# The columns that `to_completion` reads, in its order.
COMPLETION_COLUMNS = "text, finish, usage, tokens, logp, logq, logp_sum, top, logz, certainty, explored, reasoning, raw"


def to_blob(code: str, values: Iterable[float] | None) -> bytes | None:
    return None if values is None else array(code, values).tobytes()


def to_table(rows: tuple[tuple[float, ...], ...] | None) -> bytes | None:
    return None if rows is None else to_blob("d", [len(rows[0]), *itertools.chain(*rows)] if rows else [])


def from_table(blob: bytes) -> tuple[tuple[float, ...], ...]:
    width, *numbers = array("d", blob or bytes(8))
    return tuple(zip(*[iter(numbers)] * int(width), strict=True))


def to_text(text: str) -> str | bytes:
    """Text as SQLite takes it. Half of a surrogate pair (a response cut inside an emoji) is no UTF-8: as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")
    return text


def from_text(stored: str | bytes) -> str:
    return stored if isinstance(stored, str) else stored.decode(errors="surrogatepass")


def to_completion(row: Sequence[Any]) -> Completion:
    text, finish, usage, tokens, logp, logq, logp_sum, top, logz, certainty, explored, reasoning, raw = row
    text = from_text(text)
    if reasoning is None:  # stored before reasoning was told apart
        (reasoning, kept, *_), whole = split_reasoning(text), text
        text, raw = kept, whole if tokens is not None and kept != whole else None
    return Completion(
        text=text,
        finish=finish,
        usage=Usage(*json.loads(usage)),
        tokens=None if tokens is None else tuple(array("q", tokens)),
        logp=None if logp is None else tuple(array("d", logp)),
        logq=None if logq is None else tuple(array("d", logq)),
        logp_sum=float("nan") if logp_sum is None else logp_sum,
        top=None if top is None else tuple(tuple((text, logp) for text, logp in token) for token in json.loads(top)),
        logz=None if logz is None else from_table(logz),
        certainty=None if certainty is None else tuple(array("d", certainty)),
        explored=None if explored is None else json.loads(explored),
        reasoning=from_text(reasoning),
        raw=None if raw is None else from_text(raw),
    )
