"""The names of draws: a digest of the ask and of the identity of the engine that answers it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from samplewise.core.types import Ask, Generate

WIRE_NAMES = {"reject_below": "floor"}  # fields renamed since the first stores, by the name that digests are made of


def digest_of(identity: str, ask: Ask) -> bytes:
    """Return 16 bytes that name a draw, equal for equal asks.

    Fields at their default are left out, nested ones too, so that a field added later changes no digest.
    """
    return hashlib.blake2b(f"{identity}\n{ask_json(ask)}".encode(errors="surrogatepass"), digest_size=16).digest()


def ask_json(ask: Ask) -> str:
    """Return the canonical text of an ask: its kind and every field that is not at its default.

    `draw` is left out, as the seed tells draws apart, and `engine`, as the identity says more.
    """
    kind = "generate" if isinstance(ask, Generate) else "likelihood"
    plain = ask._replace(draw=0, engine="") if isinstance(ask, Generate) else ask
    return json.dumps({"ask": kind, **_canonical(plain)}, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _canonical(value: Any) -> Any:
    """Return equal values as equal text: a named tuple as the fields that are not at their default, 2.0 as 2."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        defaults = getattr(value, "_field_defaults", {})
        fields = zip(value._fields, value, strict=True)
        return {WIRE_NAMES.get(k, k): _canonical(v) for k, v in fields if k not in defaults or defaults[k] != v}
    if isinstance(value, tuple | list):
        return [v if type(v) is int else _canonical(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
