"""What crosses between program and tests, and what does not."""

from __future__ import annotations

import collections
import contextlib
import decimal
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.verify.sandbox.inside.carry import MAX_ITEMS, Uncarried, pack_value, unpack_value, update

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = plain | st.tuples(plain, plain) | st.fractions() | st.complex_numbers(allow_nan=False)
values = st.recursive(
    keys,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.sets(keys)
        | st.frozensets(keys)
        | st.lists(inner).map(collections.deque)
    ),
    max_leaves=20,
)


def through(value: object) -> Any:
    return unpack_value(json.loads(json.dumps(pack_value(value))))


def shape(value: Any) -> Any:
    """Types all the way down: 1, 1.0 and True are equal, and not the same."""
    if isinstance(value, dict):
        return (dict, [(shape(k), shape(v)) for k, v in value.items()])
    if isinstance(value, list | tuple | collections.deque):
        return (type(value), [shape(item) for item in value])
    return type(value)


@given(values)
def test_plain_values_come_back(value: Any) -> None:
    back = through(value)
    assert back == value
    assert shape(back) == shape(value)


def test_the_rest_of_what_is_carried() -> None:
    for value in (10**5000, -(2**53), decimal.Decimal("1.10"), range(1, 9, 3), bytearray(b"a"), int, type(None), -0.0):
        assert through(value) == value
        assert type(through(value)) is type(value)
    assert math.isnan(through(math.nan))
    assert math.copysign(1, through(-0.0)) == -1
    assert list(through(map(str, [1, 2]))) == ["1", "2"]
    assert list(through({"a": 1}.keys())) == ["a"]
    assert through(re.match("a", "a")) is True
    assert through(collections.Counter("aab")) == {"a": 2, "b": 1}
    assert through("\ud800") == "\ud800"


class Liar(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class LiarList(list[int]):
    def __iter__(self) -> Any:
        return iter([1, 2, 3])

    def __eq__(self, other: object) -> bool:
        return True


class LiarText(str):
    def __str__(self) -> str:
        return "right"

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = str.__hash__


def test_a_subclass_is_what_it_really_holds() -> None:
    assert through(Liar(3)) != 4
    assert type(through(Liar(3))) is int
    assert through(LiarList([7])) == [7]
    assert through(LiarText("wrong")) == "wrong"
    assert through([Liar(3)]) != [4]
    assert through({Liar(3): Liar(4)}) == {3: 4}


def test_what_is_not_carried() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    loop: list[Any] = []
    loop.append(loop)
    for value in (object(), lambda: 1, Liar, deep, loop, (x for x in iter(int, 1)), open):
        with pytest.raises(Uncarried):
            pack_value(value)
    assert MAX_ITEMS == 1_000_000


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_whatever_else_comes_is_a_plain_error(data: Any) -> None:
    """It is the program that sends: nothing but a value or an ordinary exception may come of it."""
    with contextlib.suppress(Exception):
        unpack_value(data)


def test_changes_in_place_are_handed_back() -> None:
    inner = [3, 1, 2]
    old = ([*inner], {"a": [1]}, {1}, collections.deque([1]), bytearray(b"a"), (inner,))
    new = ([1, 2, 3], {"b": 2}, {2, 3}, collections.deque([2]), bytearray(b"bc"), ([9, 9, 9],))
    update(old, new)
    assert old == new
    assert inner == [9, 9, 9]
    grown = [1]
    update([grown], [[1, 2, 3]])
    assert grown == [1, 2, 3]
    update(grown, (1,))  # another type: left alone
    assert grown == [1, 2, 3]
