"""A spec is the text of a call, `repeat(64, temperature=0.8)`: the one way to name a part, on every surface.

    spec  = name | name "(" [args] ")" | name ":" text
    args  = literals, names of other parts, and nested specs; positional first, then keyword=
            a + b is short for plus(a, b)

Parse with Python's own grammar and evaluate nothing: anything but literals, names and calls is refused, with the column
marked. `name:text` is short for name("text") and suits a path or a model's name: `local:Qwen/Qwen3-0.6B`. What a name
stands for is in `samplewise.core.registry`.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import warnings
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.core.errors import BadSpec
from samplewise.core.types import Json

MAX_DEPTH = 16  # of parts within parts; Python's own limit is a RecursionError


# Words of stored recipe lines that have changed. A key that ends in "=" is the name of an argument.
RENAMED: Mapping[str, str] = {"law=": "distribution=", "share": "vote_share", "thinker=": "helper="}


def modern(line: str) -> str:
    """Return a stored recipe line in today's words. Quoted text stays as it is."""
    return _reword(line, RENAMED)


def wire(line: str) -> str:
    """Return a recipe line in the words of the first stores, which the ids of runs are made of."""
    return _reword(line, {new: old for old, new in RENAMED.items()})


def _reword(line: str, words: Mapping[str, str]) -> str:
    quoted = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
    return re.sub(rf"{quoted}|\w+=?", lambda word: words.get(word[0], word[0]), line)


class Spec(NamedTuple):
    """A parsed call. `column` is that of its name in the text that it was parsed from."""

    name: str
    args: tuple[Json, ...] = ()
    kwargs: tuple[tuple[str, Json], ...] = ()
    text: str = ""
    column: int = 0

    def __str__(self) -> str:
        """Return the canonical text: parsing it gives an equal call."""
        parts = [*map(_render, self.args), *(f"{k}={_render(v)}" for k, v in self.kwargs)]
        return f"{self.name}({', '.join(parts)})" if parts else self.name


def _render(value: Json) -> str:
    return str(value) if isinstance(value, Spec) else repr(value)


def parse_spec(text: str) -> Spec:
    """Return the spec that `text` spells. Raises BadSpec with the column marked."""
    name, colon, rest = text.partition(":")
    if colon and name.strip().isidentifier() and not keyword.iskeyword(name.strip()) and "\n" not in text:
        return Spec(name.strip(), (rest.strip(),), (), text, len(name) - len(name.lstrip()))
    return _spec(parse_expression(text), text)


def parse_expression(text: str) -> ast.expr:
    """Return a one-line expression as Python reads it. Raises BadSpec."""
    if not text.strip():
        raise BadSpec("empty: give a name such as repeat(8)", text)
    if "\n" in text:
        raise BadSpec("a spec is one line", text)
    try:
        with warnings.catch_warnings(action="ignore"):  # a path such as "C:\data" is no reason to warn
            return ast.parse(text.lstrip(), mode="eval").body
    except SyntaxError as error:
        # msg and offset are Python's own; ours only adds what a spec may hold
        indent = len(text) - len(text.lstrip())
        column = min(max((error.offset or 1) - 1, 0), len(text.lstrip())) + indent
        raise BadSpec(f"cannot be read ({error.msg})", text, column) from None
    except (ValueError, RecursionError, MemoryError):
        raise BadSpec("cannot be read", text) from None


def column_of(node: ast.AST, text: str) -> int:
    """Return the column of `node` in `text`, in characters."""
    indent = len(text) - len(text.lstrip())
    offset = getattr(node, "col_offset", 0)
    return indent + len(text.lstrip().encode()[:offset].decode(errors="replace"))


def parse_node(node: ast.expr, text: str) -> Spec:
    """Return the spec at one node of a parsed expression. Raises BadSpec."""
    return _spec(node, text)


def _spec(node: ast.expr, text: str, depth: int = 0) -> Spec:
    if depth > MAX_DEPTH:
        raise BadSpec("nested too deeply", text, column_of(node, text))
    if isinstance(node, ast.Name):
        return Spec(node.id, (), (), text, column_of(node, text))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        for arg in node.args:
            if isinstance(arg, ast.Starred):
                raise BadSpec("* cannot be used here", text, column_of(arg, text))
        args = tuple(_value(arg, text, depth) for arg in node.args)
        kwargs: dict[str, Json] = {}
        for named in node.keywords:
            if named.arg is None:
                raise BadSpec("** cannot be used here", text, column_of(named.value, text))
            if named.arg in kwargs:  # Python itself tells when it compiles, which is never done here
                raise BadSpec(f"{named.arg} is given twice", text, column_of(named, text))
            kwargs[named.arg] = _value(named.value, text, depth)
        return Spec(node.func.id, args, tuple(kwargs.items()), text, column_of(node, text))
    raise BadSpec("expected a name or a call such as repeat(8)", text, column_of(node, text))


def _value(node: ast.expr, text: str, depth: int) -> Json:
    if isinstance(node, ast.Name | ast.Call):
        return _spec(node, text, depth + 1)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):  # one part after another
        parts = (_value(node.left, text, depth + 1), _value(node.right, text, depth + 1))
        if all(isinstance(part, Spec) for part in parts):
            return Spec("plus", parts, (), text, column_of(node, text))
    try:
        return _literal(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise BadSpec("expected a number, a string or a name", text, column_of(node, text)) from None


def _literal(value: object) -> Json:
    """Return the value with its lists as tuples. Raises ValueError where its text would not give it back."""
    if isinstance(value, list | tuple):
        return tuple(_literal(item) for item in value)
    if isinstance(value, dict):
        return {_literal(k): _literal(v) for k, v in value.items()}
    if value is None or isinstance(value, bool | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and abs(value) < 1 << 64:
        return value
    raise ValueError(f"{type(value).__name__} is no value of a spec")
