"""Values as SQLite keeps them, and back."""

from __future__ import annotations

import itertools
import json
import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Completion, Usage

PACKED = b"\xff"  # begins a packed text; no UTF-8 does, nor what `to_text` makes of half a surrogate pair
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
    """Return a stored text, whether it is kept as text, as bytes, or packed. Raises ValueError where it is damaged."""
    if isinstance(stored, str):
        return stored
    if stored[:1] == PACKED:
        try:
            stored = zlib.decompress(stored[1:])
        except zlib.error as error:
            raise ValueError(f"a packed text: {error}") from error
    return stored.decode(errors="surrogatepass")


def packed(stored: str | bytes | None) -> str | bytes | None:
    """Return a stored text in its packed form, or as it is where that is no shorter."""
    if stored is None or (isinstance(stored, bytes) and stored[:1] == PACKED):
        return stored
    plain = stored.encode() if isinstance(stored, str) else stored
    small = PACKED + zlib.compress(plain)
    return small if len(small) < len(plain) else stored


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
        top=None
        if top is None
        else tuple(tuple((text, logp) for text, logp in token) for token in json.loads(from_text(top))),
        logz=None if logz is None else from_table(logz),
        certainty=None if certainty is None else tuple(array("d", certainty)),
        explored=None if explored is None else json.loads(explored),
        reasoning=from_text(reasoning),
        raw=None if raw is None else from_text(raw),
    )
