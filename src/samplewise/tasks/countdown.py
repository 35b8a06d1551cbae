"""An exact solver: which targets can be made from numbers with + - * / and brackets, each number used once.

It splits the numbers into two groups in every way, and combines every value of one group with every value of the other,
in rationals. The values of a group are cached, so that all 1,820 puzzles of four numbers up to 13 share their pairs and
triples. The last operation is worked backwards from the target: one look-up for each value of the smaller group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache

from samplewise.verify.expression import Expression, apply_operator, canonical, combine, number_expression

MAX_SOLVED = 6  # numbers; the work grows about thirtyfold with each
MAX_LISTED = 5

_LAST: tuple[Callable[[Fraction, Fraction], tuple[str, bool, Fraction] | None], ...] = (
    lambda target, x: ("+", False, target - x),
    lambda target, x: ("-", False, x - target),  # x - y
    lambda target, x: ("-", True, target + x),  # y - x
    lambda target, x: ("*", False, target / x) if x else None,
    lambda target, x: ("/", False, x / target) if x and target else None,  # x / y
    lambda target, x: ("/", True, target * x) if x else None,  # y / x
)


def solve_numbers(numbers: Sequence[int], target: int) -> str | None:
    """Return one solution in canonical form, or None."""
    chosen, goal = _checked(numbers, MAX_SOLVED), Fraction(target)
    if len(chosen) == 1:
        return canonical(number_expression(chosen[0])) if goal == chosen[0] else None
    for left, right in _splits(chosen):
        small, large = _values(left), _values(right)
        if len(small) > len(large):
            small, large = large, small
        for x, expression in small.items():
            if not x and not goal:  # zero times anything is zero
                return canonical(combine("*", expression, next(iter(large.values()))))
            for last in _LAST:
                step = last(goal, x)
                if step is None or step[2] not in large:
                    continue
                op, turned, y = step
                pair = (large[y], expression) if turned else (expression, large[y])
                if apply_operator(op, pair[0].value, pair[1].value) == goal:
                    return canonical(combine(op, *pair))
    return None


def solutions(numbers: Sequence[int], target: int) -> frozenset[str]:
    """Return every solution in canonical form: as many as there are really different ones."""
    chosen, goal = _checked(numbers, MAX_LISTED), Fraction(target)
    if len(chosen) == 1:
        return frozenset({canonical(number_expression(chosen[0]))} if goal == chosen[0] else set())
    return frozenset(
        canonical(combine(op, a, b))
        for left, right in _splits(chosen)
        for x in _expressions(left)
        for y in _expressions(right)
        for op, a, b in _pairs(x, y)
        if apply_operator(op, a.value, b.value) == goal
    )


def _checked(numbers: Sequence[int], max_numbers: int) -> tuple[int, ...]:
    if not 1 <= len(numbers) <= max_numbers:
        raise ValueError(f"from 1 to {max_numbers} numbers can be searched, got {len(numbers)}")
    if any(n < 0 for n in numbers):
        raise ValueError(f"numbers must be 0 or more, got {list(numbers)}")
    return tuple(sorted(numbers))


def _splits(numbers: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield every way to split sorted numbers into two groups; equal ways once, and the order of the groups does not
    count."""
    yielded = set()
    for mask in range(1, 2 ** (len(numbers) - 1)):  # the last number is always on the right
        left = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
        right = tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)
        if (left, right) not in yielded and (right, left) not in yielded:
            yielded.add((left, right))
            yield left, right


def _pairs(x: Expression, y: Expression) -> tuple[tuple[str, Expression, Expression], ...]:
    return ("+", x, y), ("-", x, y), ("-", y, x), ("*", x, y), ("/", x, y), ("/", y, x)


@lru_cache(maxsize=4096)
def _values(numbers: tuple[int, ...]) -> dict[Fraction, Expression]:
    """Return each value that uses all the numbers, with the first expression found for it."""
    if len(numbers) == 1:
        return {Fraction(numbers[0]): number_expression(numbers[0])}
    expressions: dict[Fraction, Expression] = {}
    for left, right in _splits(numbers):
        for x in _values(left).values():
            for y in _values(right).values():
                for op, a, b in _pairs(x, y):
                    value = apply_operator(op, a.value, b.value)
                    if value is not None and value not in expressions:
                        expressions[value] = combine(op, a, b)
    return expressions


@lru_cache(maxsize=256)
def _expressions(numbers: tuple[int, ...]) -> tuple[Expression, ...]:
    """Return every expression that uses all the numbers and has a value, one for each canonical form."""
    if len(numbers) == 1:
        return (number_expression(numbers[0]),)
    expressions: dict[str, Expression] = {}
    for left, right in _splits(numbers):
        for x in _expressions(left):
            for y in _expressions(right):
                for op, a, b in _pairs(x, y):
                    if apply_operator(op, a.value, b.value) is not None:
                        expression = combine(op, a, b)
                        expressions.setdefault(canonical(expression), expression)
    return tuple(expressions.values())
