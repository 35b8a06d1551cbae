"""Puzzles that the clients' scripts ask, and whether an answer solves one. Without any package: each client runs it."""

import re
from fractions import Fraction

PUZZLES = ["1 2 3 4", "4 4 4 4"]
SIGNS = {"plus": "+", "minus": "-", "times": "*", "over": "/", "divided by": "/", "is": "="}
NUMBER = r"\d+(?:/\d+)?"
STEP = re.compile(rf"({NUMBER})\s*([-+*/])\s*({NUMBER})\s*=\s*({NUMBER})")


def is_24(text: str, numbers: str) -> bool:
    """Return whether a text makes 24 in steps such as "4 * 3 = 12 , 12 * 2 = 24", of these numbers, each used once."""
    text = re.sub(r"\(.*?\)", "", text)  # "( left 2 12 )"
    for word, sign in SIGNS.items():
        text = re.sub(rf"\b{word}\b", sign, text)
    left = [Fraction(number) for number in numbers.split()]
    for first, operator, second, claimed in STEP.findall(text):
        a, b = Fraction(first), Fraction(second)
        try:
            left.remove(a)
            left.remove(b)
            result = {"+": a + b, "-": a - b, "*": a * b}[operator] if operator != "/" else a / b
        except (ValueError, ZeroDivisionError):
            return False
        if result != Fraction(claimed):
            return False
        left.append(result)
    return left == [24]
