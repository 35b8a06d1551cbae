"""Puzzles that the clients' scripts ask, and whether an answer solves one. Without any package: each client runs it."""

import re
from fractions import Fraction

PUZZLES = ["4 6 7 8", "2 2 6 12", "1 2 3 4"]


def is_24(text: str, numbers: str) -> bool:
    """Return whether a text is an expression of exactly these numbers that makes 24, perhaps with "= 24" after it."""
    expression = text.strip().partition("=")[0]
    if not re.fullmatch(r"[\d+\-*/() ]+", expression):
        return False
    if sorted(re.findall(r"\d+", expression)) != sorted(numbers.split()):
        return False
    try:
        return value(expression) == 24
    except (IndexError, ValueError, ZeroDivisionError):
        return False


def value(expression: str) -> Fraction:
    """Return what an expression of numbers, + - * / and parentheses makes."""
    tokens = re.findall(r"\d+|[-+*/()]", expression)

    def total() -> Fraction:
        left = product()
        while tokens and tokens[0] in "+-":
            operator, right = tokens.pop(0), product()
            left = left + right if operator == "+" else left - right
        return left

    def product() -> Fraction:
        left = factor()
        while tokens and tokens[0] in "*/":
            operator, right = tokens.pop(0), factor()
            left = left * right if operator == "*" else left / right
        return left

    def factor() -> Fraction:
        token = tokens.pop(0)
        if token != "(":
            return Fraction(token)
        inner = total()
        if tokens.pop(0) != ")":
            raise ValueError(expression)
        return inner

    result = total()
    if tokens:
        raise ValueError(expression)
    return result
