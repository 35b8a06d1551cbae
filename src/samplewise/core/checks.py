"""Checks of arguments. Each returns the value if it fits; otherwise raises ValueError naming the argument."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, Union, get_args, get_origin

from samplewise.core.types import Json, Sampling

MOST = 10_000_000  # of a count: what is counted is made one by one, and more would not end in a day
LARGEST = 1e12  # of a setting: products and powers of a few such numbers do not overflow
FINEST = 1e-12  # of a fraction, and of what it lacks to 1: their inverses and logs are finite
SHOWN = 60  # characters of a value in a message

# What plain data must be to be an instance of a class. Other classes are the business of the part that takes them.
PLAIN: Mapping[type, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (int, float),
    str: (str,),
    Path: (str,),
    NoneType: (NoneType,),
    tuple: (tuple, list),
    list: (tuple, list),
    Sequence: (tuple, list),
    Iterable: (tuple, list),
    Collection: (tuple, list),
    dict: (dict,),
    Mapping: (dict,),
}
LISTS = (tuple, list, Sequence, Iterable, Collection)
WORDS: Mapping[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Path: "a path",
    NoneType: "None",
    dict: "a dictionary",
    Mapping: "a dictionary",
    **dict.fromkeys(LISTS, "a list"),
}
PLURALS: Mapping[Any, str] = {int: "whole numbers", float: "numbers", str: "texts", bool: "truth values"}


def check_count(name: str, value: int, least: int = 1, most: int = MOST) -> int:
    """Return `value` if it is a whole number of at least `least` and at most `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if value > most:
        raise ValueError(f"{name} must be at most {most:,}, got {value}")
    return value


def check_number(
    name: str, value: float, least: float = -LARGEST, most: float = LARGEST, *, above: bool = False
) -> float:
    """Return `value` as a float if it is finite and in [least, most], or in (least, most] with `above`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if value < least or (above and value == least) or value > most:
        low = f"above {least:g}" if above else f"at least {least:g}"
        raise ValueError(
            f"{name} must be {low}{'' if most == LARGEST and value <= most else f' and at most {most:g}'}, got {value}"
        )
    return float(value)


def check_fraction(name: str, value: float) -> float:
    """Return `value` if it is between 0 and 1, both excluded, and no nearer to them than `FINEST`."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, both excluded, got {value}")
    if not FINEST <= value <= 1 - FINEST:
        raise ValueError(f"{name} must be at least {FINEST:g} away from 0 and from 1, got {value}")
    return value


def check_choice(name: str, value: str, choices: Collection[str]) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def check_sampling(sampling: Sampling) -> Sampling:
    """Return `sampling` if temperature, top-k, top-p and min-p are in their ranges."""
    if not 0.0 <= sampling.temperature < math.inf:
        raise ValueError(f"temperature must be 0 or more, got {sampling.temperature}")
    if not isinstance(sampling.top_k, int) or sampling.top_k < 0:
        raise ValueError(f"top_k must be a whole number, 0 (off) or more, got {sampling.top_k!r}")
    if not 0.0 < sampling.top_p <= 1.0:
        raise ValueError(f"top_p must be in (0, 1], got {sampling.top_p}")
    if not 0.0 <= sampling.min_p < 1.0:
        raise ValueError(f"min_p must be in [0, 1), got {sampling.min_p}")
    return sampling


def check_declared(name: str, value: Json, declared: Any) -> Json:
    """Return `value`, plain data of a spec, if it is what the annotation `declared` says of the argument `name`.

    A whole number is no fraction and no bool, a number is finite, a text is no list of texts. A class of which plain
    data cannot be an instance, and no annotation at all, are left to the part. Raises ValueError.
    """
    if not _is_declared(value, declared):
        shown = repr(value) if len(repr(value)) <= SHOWN else f"{repr(value)[:SHOWN]}..."
        is_large = isinstance(value, int | float) and _is_declared(0.5, declared)
        limit = f" of at most {LARGEST:g}" if is_large and not isinstance(value, bool) else ""
        raise ValueError(f"{name} must be {_in_words(declared)}{limit}, got {shown}")
    return value


def _is_declared(value: Any, declared: Any) -> bool:
    declared = _unwrapped(declared)
    origin, args = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):
        return any(_is_declared(value, each) for each in args)
    if origin is Literal:
        return any(type(value) is type(each) and value == each for each in args)
    kind: Any = origin or declared
    if not isinstance(kind, type) or kind not in PLAIN:
        return True
    is_plain: bool = isinstance(value, PLAIN[kind])
    if not is_plain or (isinstance(value, bool) and kind is not bool):
        return False
    if kind is float:
        return bool(-LARGEST <= value <= LARGEST)
    if isinstance(value, Mapping) and args:
        return all(_is_declared(k, args[0]) and _is_declared(v, args[1]) for k, v in value.items())
    if not isinstance(value, str) and kind in LISTS and args:
        if kind is tuple and args[-1] is not Ellipsis:
            return len(value) == len(args) and all(_is_declared(*pair) for pair in zip(value, args, strict=True))
        return all(_is_declared(item, args[0]) for item in value)
    return True


def _in_words(declared: Any) -> str:
    """Return what an annotation allows: "a whole number or None"."""
    declared = _unwrapped(declared)
    origin, args = get_origin(declared), get_args(declared)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_in_words, args)))
    if origin is Literal:
        return " or ".join(map(str, args)) if len(args) < 3 else f"one of {', '.join(map(str, args))}"
    kind = origin or declared
    if kind in LISTS and args:
        inner = _unwrapped(args[0])
        length = "" if kind is not tuple or args[-1] is Ellipsis else f"{len(args)} "
        return f"a list of {length}{PLURALS.get(inner, 'lists' if get_origin(inner) in LISTS else 'values')}"
    return WORDS.get(kind, getattr(kind, "__name__", str(kind)))


def _unwrapped(declared: Any) -> Any:
    """Return an annotation without its names and notes: Annotated[int, ...] as int, an alias as what it stands for."""
    while True:
        if get_origin(declared) is Annotated:
            declared = get_args(declared)[0]
        elif isinstance(declared, NewType):
            declared = declared.__supertype__
        elif hasattr(declared, "__value__"):  # `type Name = ...`
            declared = declared.__value__
        else:
            return declared
