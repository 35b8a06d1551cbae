"""Plain values as JSON and back, so that a test can run in another process than the program that it tests.

Only data crosses: numbers, texts, bytes, None, lists, tuples, sets, dicts, deques, exact fractions and decimals,
ranges, and names of built-in types. What a subclass adds, such as its `__eq__`, is dropped. An iterator becomes an
iterator over its items, and a match of a regular expression `True`. Anything else, such as an
object of the program's own class, is `Uncarried`.

    1 "a" None True -> themselves       every other value -> [tag, content]
"""

from __future__ import annotations

import builtins
import collections
import decimal
import fractions
import itertools
import re
from collections.abc import Iterator
from types import NoneType
from typing import Any

MAX_ITEMS = 1_000_000  # of one iterator; an endless one must end somewhere
_SMALL = 1 << 53
_SEQUENCES: tuple[tuple[str, type], ...] = (
    ("list", list),
    ("tuple", tuple),
    ("set", set),
    ("frozenset", frozenset),
    ("deque", collections.deque),
)
ITERATORS: tuple[type, ...] = (Iterator, type({}.keys()), type({}.values()), type({}.items()))
_MAKE: dict[str, type] = dict(_SEQUENCES)
BUILT_IN_TYPES: dict[str, type] = {name: t for name, t in vars(builtins).items() if isinstance(t, type)}
_NAME_OF = {t: name for name, t in BUILT_IN_TYPES.items() if not issubclass(t, BaseException)} | {NoneType: "NoneType"}


class Uncarried(Exception):
    """A value that is not plain data."""


def pack_value(value: object) -> Any:
    """Return what json.dumps can write. Raises Uncarried."""
    try:
        return _pack(value)
    except RecursionError:
        raise Uncarried("a value that is nested too deeply") from None


def _pack(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, str):
        return value if kind is str else str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if -_SMALL < number < _SMALL else ["int", hex(number)]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", [float.hex(value.real), float.hex(value.imag)]]
    if isinstance(value, bytes | bytearray):
        return ["bytes" if isinstance(value, bytes) else "bytearray", bytes(value).hex()]
    if isinstance(value, dict):
        return ["dict", [[_pack(k), _pack(v)] for k, v in dict.items(value)]]
    for tag, base in _SEQUENCES:
        if isinstance(value, base):
            return [tag, [_pack(item) for item in base.__iter__(value)]]  # type: ignore[attr-defined]
    if kind is fractions.Fraction:
        return ["Fraction", [hex(value.numerator), hex(value.denominator)]]
    if kind is decimal.Decimal:
        return ["Decimal", str(value)]
    if kind is range:
        return ["range", [hex(value.start), hex(value.stop), hex(value.step)]]
    if isinstance(value, type) and value in _NAME_OF:
        return ["type", _NAME_OF[value]]
    if kind is re.Match:
        return True  # tests ask whether there is one
    if isinstance(value, ITERATORS):
        iterator: Any = value
        items = list(itertools.islice(iterator, MAX_ITEMS + 1))
        if len(items) > MAX_ITEMS:
            raise Uncarried(f"an iterator of more than {MAX_ITEMS:,} items")
        return ["iterator", [_pack(item) for item in items]]
    raise Uncarried(f"a value of type {kind.__name__}, which is not plain data")


def unpack_value(data: Any) -> Any:
    """Return the value again. Raises ValueError, TypeError or another plain exception on what `pack_value` never
    returns."""
    if not isinstance(data, list):
        if isinstance(data, float | dict):
            raise ValueError("not a packed value")
        return data
    tag, content = data
    if tag in _MAKE:
        return _MAKE[tag]([unpack_value(item) for item in content])
    match tag:
        case "int":
            return int(content, 16)
        case "float":
            return float.fromhex(content)
        case "complex":
            return complex(*map(float.fromhex, content))
        case "bytes":
            return bytes.fromhex(content)
        case "bytearray":
            return bytearray.fromhex(content)
        case "dict":
            return {unpack_value(k): unpack_value(v) for k, v in content}
        case "Fraction":
            return fractions.Fraction(*(int(part, 16) for part in content))
        case "Decimal":
            return decimal.Decimal(content)
        case "range":
            return range(*(int(part, 16) for part in content))
        case "type":
            return NoneType if content == "NoneType" else BUILT_IN_TYPES[content]
        case "iterator":
            return iter([unpack_value(item) for item in content])
    raise ValueError(f"not a packed value: {str(tag)[:40]!r}")


def update(old: Any, new: Any) -> None:
    """Update a container that was passed as an argument to the content it has after the call on the other side."""
    if type(old) is not type(new):
        return
    if isinstance(old, list):
        if len(old) == len(new):  # keep the inner containers, which the test may hold as well
            for index, item in enumerate(new):
                if isinstance(item, list | dict | set) and type(old[index]) is type(item):
                    update(old[index], item)
                else:
                    old[index] = item
        else:
            old[:] = new
    elif isinstance(old, dict | set):
        old.clear()
        old.update(new)
    elif isinstance(old, collections.deque | bytearray):
        old.clear()
        old.extend(new)
    elif isinstance(old, tuple):
        for original, updated in zip(old, new, strict=False):
            update(original, updated)
