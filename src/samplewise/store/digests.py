"""The names of draws: a digest of the ask and of the identity of the engine that answers it."""

from __future__ import annotations

import functools
import hashlib
import json
from typing import Any

from samplewise.core.types import Ask, Generate

WIRE_NAMES = {"reject_below": "floor"}  # fields renamed since the first stores, by the name that digests are made of

_NO_DEFAULT = object()
_to_json = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode


def digest_of(identity: str, ask: Ask) -> bytes:
    """Return 16 bytes that name a draw, equal for equal asks.

    Fields at their default are left out, nested ones too, so that a field added later changes no digest.
    """
    return digest_of_text(identity, ask_json(ask))


def digest_of_text(identity: str, text: str) -> bytes:
    """Return `digest_of` of the ask whose canonical text this is."""
    return hashlib.blake2b(f"{identity}\n{text}".encode(errors="surrogatepass"), digest_size=16).digest()


def ask_json(ask: Ask) -> str:
    """Return the canonical text of an ask: its kind and every field that is not at its default.

    `draw` is left out, as the seed tells draws apart, and `engine`, as the identity says more.
    """
    kind = "generate" if isinstance(ask, Generate) else "likelihood"
    fields = _canonical(ask)
    if isinstance(ask, Generate):
        fields.pop("draw", None)
        fields.pop("engine", None)
    return _to_json({"ask": kind, **fields})


@functools.cache
def _columns(kind: type) -> tuple[tuple[str, Any], ...] | None:
    """Return the fields of a named tuple, each with its default or a value that equals none; None for other types."""
    names = getattr(kind, "_fields", None)
    defaults = getattr(kind, "_field_defaults", {})
    return None if names is None else tuple((WIRE_NAMES.get(k, k), defaults.get(k, _NO_DEFAULT)) for k in names)


def _canonical(value: Any) -> Any:
    """Return equal values as equal text: a named tuple as the fields that are not at their default, 2.0 as 2."""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple) and (columns := _columns(type(value))) is not None:
        return {name: _canonical(v) for (name, default), v in zip(columns, value, strict=True) if v != default}
    if isinstance(value, tuple | list):
        return [v if type(v) is int else _canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
