from __future__ import annotations

import inspect
import re

import pytest

from samplewise.core import errors
from samplewise.core.errors import (
    BadSpec,
    EngineError,
    MissingExtra,
    RateLimited,
    SamplewiseError,
    SetupError,
    StoreError,
    UnknownName,
    UsageError,
)

CLASSES = {name: c for name, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, SamplewiseError)}


def drawn_tree() -> dict[str, str]:
    """Class -> parent, as the module's docstring draws it."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)", line)
        if found and found[2] in CLASSES:
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            if depth:
                parents[found[2]] = above[depth - 1]
    return parents


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    real = {name: c.__bases__[0].__name__ for name, c in CLASSES.items() if c is not SamplewiseError}
    assert drawn_tree() == real


@pytest.mark.parametrize("cls", CLASSES.values())
def test_every_class_says_when_it_happens(cls: type[SamplewiseError]) -> None:
    assert cls.__doc__


@pytest.mark.parametrize("cls", CLASSES.values())
def test_exit_codes(cls: type[SamplewiseError]) -> None:
    expected = 2 if issubclass(cls, UsageError) else 4 if issubclass(cls, EngineError) else 3
    assert cls.exit_code == expected


def test_what_may_be_tried_again() -> None:
    retryable = {name for name, c in CLASSES.items() if issubclass(c, EngineError) and c.retryable}
    assert retryable == {"EngineTimeout", "EngineUnavailable", "RateLimited"}


def test_an_unknown_name_has_the_nearest_ones() -> None:
    error = UnknownName("sampler", "repaet", ["power", "repeat"], "repaet(8)", 0)
    assert str(error) == "no sampler is called 'repaet'; did you mean repeat?\n  repaet(8)\n  ^"
    assert error.near == ("repeat",)
    assert str(UnknownName("task", "zzz", [])) == "no task is called 'zzz'; known: none"
    assert str(UnknownName("task", "zzz", ["b", "a"])) == "no task is called 'zzz'; known: a, b"


def test_a_bad_spec_marks_the_place() -> None:
    assert str(BadSpec("expected a name", "repeat(8) | 3", 12)) == "expected a name\n  repeat(8) | 3\n              ^"
    assert str(BadSpec("empty", "")) == "empty"


def test_messages_say_what_to_do() -> None:
    assert str(MissingExtra("the local engine", "local")).endswith("pip install 'samplewise[local]'")
    assert str(RateLimited("slow down", hint="try later", status=429)) == "slow down (try later)"
    assert RateLimited("slow down", status=429).status == 429


def test_one_root() -> None:
    assert issubclass(SetupError, SamplewiseError)
    assert issubclass(StoreError, SamplewiseError)
    assert not issubclass(SamplewiseError, ValueError)  # misuse is no business of this tree
