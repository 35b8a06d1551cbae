"""Arithmetic expressions: exact values, and one string for all expressions that differ in order and brackets alone.

Two expressions that have a value get the same canonical string exactly when one becomes the other by

- exchanging or regrouping the operands of sums and of products, where `a - b` counts as `a + (-b)` and `a / b` as
  `a * (1/b)`, so `a - (b - c)` is `a + c - b` and `a / (b / c)` is `a * c / b`;
- carrying a sign: `-(a - b)` is `b - a`, `-a * b` is `-(a * b)`, and `--a` is `a`;
- writing a number in another way: `4.0` is `4`.

Nothing is computed or simplified: `6 * 1`, `6 / 1` and `6` are three strings, as are `(2 - 3) * (4 - 5)` and
`(3 - 2) * (5 - 4)`. Numbers are `fractions.Fraction`; a division by zero has the value None, and brackets that hold
one are kept, so that no regrouping can give it a value.

Cost: at most `MAX_NUMBERS` numbers of `MAX_DIGITS` digits, so tens of microseconds. Parsing is iterative.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

MAX_NUMBERS = 32  # in one expression
MAX_DIGITS = 9  # of one number
MAX_TOKENS = 160  # in one expression, brackets and signs included

OPERATORS = ("+", "-", "*", "/")
_BINDS = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "negate": 3, "keep": 3}


class Expression(NamedTuple):
    """`op` is "number", "negate" or one of + - * /. Build it with `number`, `negate` and `combine`."""

    op: str
    args: tuple[Expression, ...]
    value: Fraction | None  # None: it divides by zero
    numbers: tuple[Fraction, ...]  # (L,) the numbers in it, from left to right


def number(value: Fraction | int) -> Expression:
    """A number of zero or more; a negative one is written with `negate`."""
    if value < 0:
        raise ValueError(f"a number in an expression must be 0 or more, got {value}")
    exact = Fraction(value)
    return Expression("number", (), exact, (exact,))


def negate(inner: Expression) -> Expression:
    if inner.op == "negate":
        return inner.args[0]
    return Expression("negate", (inner,), None if inner.value is None else -inner.value, inner.numbers)


def combine(op: str, left: Expression, right: Expression) -> Expression:
    return Expression(op, (left, right), apply(op, left.value, right.value), left.numbers + right.numbers)


def apply(op: str, left: Fraction | None, right: Fraction | None) -> Fraction | None:
    """The exact result, None for a division by zero."""
    if left is None or right is None:
        return None
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    return left / right if right else None


def parse(tokens: Sequence[str]) -> Expression | None:
    """The expression of numerals, operators, signs and brackets; None where it is not one, or too long.

    `2(3 + 4)` and `(1 + 2)(3 + 4)` are products, but not after a division, where readers differ on what is meant.
    """
    if not 0 < len(tokens) <= MAX_TOKENS:
        return None
    done: list[Expression] = []
    waiting: list[str] = []
    operand_next = True
    for token in tokens:
        if operand_next:
            if token == "(":
                waiting.append(token)
            elif token in ("+", "-"):
                waiting.append("negate" if token == "-" else "keep")
            else:
                read = _numeral(token)
                if read is None or len(done) >= MAX_NUMBERS:
                    return None
                done.append(read)
                operand_next = False
        elif token == ")":
            _reduce(done, waiting, 1)
            if not waiting:
                return None
            waiting.pop()
        elif token == "(":
            _reduce(done, waiting, 3)
            if waiting and waiting[-1] == "/":
                return None
            _reduce(done, waiting, 2)
            waiting += ["*", "("]
            operand_next = True
        elif token in OPERATORS:
            _reduce(done, waiting, _BINDS[token])
            waiting.append(token)
            operand_next = True
        else:
            return None
    if operand_next:
        return None
    _reduce(done, waiting, 1)
    return None if waiting or len(done[0].numbers) > MAX_NUMBERS else done[0]


def _reduce(done: list[Expression], waiting: list[str], binds: int) -> None:
    """Apply the waiting operators that bind at least as tightly as `binds`, back to the last open bracket."""
    while waiting and _BINDS[waiting[-1]] >= binds:
        op = waiting.pop()
        right = done.pop()
        if op == "negate":
            right = negate(right)
        elif op != "keep":
            right = combine(op, done.pop(), right)
        done.append(right)


def is_numeral(token: str) -> bool:
    return token[0] in ".0123456789"


@lru_cache(maxsize=2048)
def _numeral(token: str) -> Expression | None:
    if not is_numeral(token) or len(token.replace(".", "")) > MAX_DIGITS:
        return None
    return number(Fraction(token) if "." in token else int(token))


class _Part(NamedTuple):
    """A term of a sum or a factor of a product. `negative`: subtracted, or divided by."""

    rank: tuple[int, Fraction, str]  # numbers first, the largest first; then the rest by their text
    text: str
    negative: bool


class _Form(NamedTuple):
    negative: bool
    text: str
    is_sum: bool
    rank: tuple[int, Fraction, str]


def canonical(expression: Expression) -> str:
    """The one string of all expressions that differ in order and brackets alone; it parses to one of them."""
    form = _form(expression)
    if not form.negative:
        return form.text
    return f"-({form.text})" if form.is_sum else f"-{form.text}"


def _form(expression: Expression) -> _Form:
    """A sign, and the text of what it stands before."""
    if expression.op == "number":
        text = _decimal(expression.numbers[0])
        return _Form(False, text, False, (0, -expression.numbers[0], text))
    if expression.op in ("*", "/") or (expression.op == "negate" and expression.args[0].op not in ("+", "-")):
        parts: list[_Part] = []
        negative = _factors(expression, False, parts)
        text = _joined(parts, " * ", " / ")
        return _Form(negative, text, False, parts[0].rank if len(parts) == 1 else (1, Fraction(0), text))
    parts = []
    _terms(expression, False, parts)
    negative = all(part.negative for part in parts)
    if negative:
        parts = [part._replace(negative=False) for part in parts]
    text = _joined(parts, " + ", " - ")
    return _Form(negative, text, True, (1, Fraction(0), text))


def _joined(parts: list[_Part], join: str, undo: str) -> str:
    kept = sorted((*part.rank, part.text) for part in parts if not part.negative)
    undone = sorted((*part.rank, part.text) for part in parts if part.negative)
    return join.join(entry[-1] for entry in kept) + "".join(undo + entry[-1] for entry in undone)


def _terms(expression: Expression, negative: bool, into: list[_Part]) -> None:
    if expression.op in ("+", "-"):
        _terms(expression.args[0], negative, into)
        _terms(expression.args[1], negative != (expression.op == "-"), into)
    elif expression.op == "negate":
        _terms(expression.args[0], not negative, into)
    else:
        form = _form(expression)
        into.append(_Part(form.rank, form.text, negative != form.negative))


def _factors(expression: Expression, inverse: bool, into: list[_Part]) -> bool:
    """Collects the factors; returns whether their product is to be negated."""
    if expression.op in ("*", "/"):
        if inverse and expression.value is None:  # turned around, a division by zero would become a product with zero
            form = _form(expression)
            into.append(_Part(form.rank, f"({form.text})", True))
            return form.negative
        left = _factors(expression.args[0], inverse, into)
        right = _factors(expression.args[1], inverse != (expression.op == "/"), into)
        return left != right
    if expression.op == "negate" and expression.args[0].op not in ("+", "-"):
        return not _factors(expression.args[0], inverse, into)
    form = _form(expression)
    into.append(_Part(form.rank, f"({form.text})" if form.is_sum else form.text, inverse))
    return form.negative


def _decimal(value: Fraction) -> str:
    """Every numeral is a terminating decimal, so this is exact."""
    if value.denominator == 1:
        return str(value.numerator)
    return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "f")
