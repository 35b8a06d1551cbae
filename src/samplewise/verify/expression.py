"""Arithmetic expressions: exact values, and one string for all expressions that differ only in order and brackets.

Two expressions that have a value get the same canonical string exactly if one becomes the other by

- exchanging or regrouping the operands of sums and of products, where `a - b` counts as `a + (-b)` and `a / b` as
  `a * (1/b)`, so `a - (b - c)` is `a + c - b` and `a / (b / c)` is `a * c / b`;
- moving a sign: `-(a - b)` is `b - a`, `-a * b` is `-(a * b)`, and `--a` is `a`;
- writing a number in another way: `4.0` is `4`.

Nothing is computed or simplified: `6 * 1`, `6 / 1` and `6` are three strings, and so are `(2 - 3) * (4 - 5)` and `(3 -
2) * (5 - 4)`. Numbers are `fractions.Fraction`. A division by zero has the value None, and brackets that hold one are
kept, so that no regrouping can give it a value.

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
    """A node: `op` is "number", "negate" or one of + - * /. Build it with `number_expression`, `negate` and
    `combine`."""

    op: str
    args: tuple[Expression, ...]
    value: Fraction | None  # None: it divides by zero
    numbers: tuple[Fraction, ...]  # (L,) the numbers in it, from left to right


def number_expression(value: Fraction | int) -> Expression:
    """Return the expression of a number of zero or more; write a negative one with `negate`."""
    if value < 0:
        raise ValueError(f"a number in an expression must be 0 or more, got {value}")
    exact = Fraction(value)
    return Expression("number", (), exact, (exact,))


def negate(inner: Expression) -> Expression:
    """Return the expression with its sign changed."""
    if inner.op == "negate":
        return inner.args[0]
    return Expression("negate", (inner,), None if inner.value is None else -inner.value, inner.numbers)


def combine(op: str, left: Expression, right: Expression) -> Expression:
    """Return the expression of two operands."""
    return Expression(op, (left, right), apply_operator(op, left.value, right.value), left.numbers + right.numbers)


def apply_operator(op: str, left: Fraction | None, right: Fraction | None) -> Fraction | None:
    """Return the exact result, None for a division by zero."""
    if left is None or right is None:
        return None
    if op == "+":
        return left + right
    if op == "-":
        return left - right
    if op == "*":
        return left * right
    return left / right if right else None


def parse_tokens(tokens: Sequence[str]) -> Expression | None:
    """Return the expression of numerals, operators, signs and brackets; None if it is none, or too long.

    `2(3 + 4)` and `(1 + 2)(3 + 4)` are products, but not after a division, where readers differ on the meaning.
    """
    if not 0 < len(tokens) <= MAX_TOKENS:
        return None
    operands: list[Expression] = []
    operators: list[str] = []
    operand_next = True
    for token in tokens:
        if operand_next:
            if token == "(":
                operators.append(token)
            elif token in ("+", "-"):
                operators.append("negate" if token == "-" else "keep")
            else:
                operand = _numeral(token)
                if operand is None or len(operands) >= MAX_NUMBERS:
                    return None
                operands.append(operand)
                operand_next = False
        elif token == ")":
            _reduce(operands, operators, 1)
            if not operators:
                return None
            operators.pop()
        elif token == "(":
            _reduce(operands, operators, 3)
            if operators and operators[-1] == "/":
                return None
            _reduce(operands, operators, 2)
            operators += ["*", "("]
            operand_next = True
        elif token in OPERATORS:
            _reduce(operands, operators, _BINDS[token])
            operators.append(token)
            operand_next = True
        else:
            return None
    if operand_next:
        return None
    _reduce(operands, operators, 1)
    return None if operators or len(operands[0].numbers) > MAX_NUMBERS else operands[0]


def _reduce(operands: list[Expression], operators: list[str], binds: int) -> None:
    """Apply the waiting operators that bind at least as tightly as `binds`, back to the last open bracket."""
    while operators and _BINDS[operators[-1]] >= binds:
        op = operators.pop()
        right = operands.pop()
        if op == "negate":
            right = negate(right)
        elif op != "keep":
            right = combine(op, operands.pop(), right)
        operands.append(right)


def is_numeral(token: str) -> bool:
    """Return whether a token is a number."""
    return token[0] in ".0123456789"


@lru_cache(maxsize=2048)
def _numeral(token: str) -> Expression | None:
    if not is_numeral(token) or len(token.replace(".", "")) > MAX_DIGITS:
        return None
    return number_expression(Fraction(token) if "." in token else int(token))


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
    """Return the one string of all expressions that differ only in order and brackets; it parses to one of them."""
    form = _form(expression)
    if not form.negative:
        return form.text
    return f"-({form.text})" if form.is_sum else f"-{form.text}"


def _form(expression: Expression) -> _Form:
    """Return a sign, and the text that it stands before."""
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
    plain = sorted((*part.rank, part.text) for part in parts if not part.negative)
    inverted = sorted((*part.rank, part.text) for part in parts if part.negative)
    return join.join(entry[-1] for entry in plain) + "".join(undo + entry[-1] for entry in inverted)


def _terms(expression: Expression, negative: bool, parts: list[_Part]) -> None:
    if expression.op in ("+", "-"):
        _terms(expression.args[0], negative, parts)
        _terms(expression.args[1], negative != (expression.op == "-"), parts)
    elif expression.op == "negate":
        _terms(expression.args[0], not negative, parts)
    else:
        form = _form(expression)
        parts.append(_Part(form.rank, form.text, negative != form.negative))


def _factors(expression: Expression, inverse: bool, parts: list[_Part]) -> bool:
    """Collect the factors, and return whether their product is to be negated."""
    if expression.op in ("*", "/"):
        if inverse and expression.value is None:  # turned around, a division by zero would become a product with zero
            form = _form(expression)
            parts.append(_Part(form.rank, f"({form.text})", True))
            return form.negative
        left_negative = _factors(expression.args[0], inverse, parts)
        right_negative = _factors(expression.args[1], inverse != (expression.op == "/"), parts)
        return left_negative != right_negative
    if expression.op == "negate" and expression.args[0].op not in ("+", "-"):
        return not _factors(expression.args[0], inverse, parts)
    form = _form(expression)
    parts.append(_Part(form.rank, f"({form.text})" if form.is_sum else form.text, inverse))
    return form.negative


def _decimal(value: Fraction) -> str:
    """Return a numeral as text; exact, because every numeral is a terminating decimal."""
    if value.denominator == 1:
        return str(value.numerator)
    return format((Decimal(value.numerator) / Decimal(value.denominator)).normalize(), "f")
