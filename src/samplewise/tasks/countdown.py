"""An exact solver: which targets can be made from numbers with + - * / and brackets, each number used once.

Splits the numbers into two groups in every way, and combines every value of one group with every value of the other,
in rationals. The values of a group are remembered, so that all 1,820 puzzles of four numbers up to 13 share their pairs
and triples. The last operation is worked backwards from the target: one look-up for each value of the smaller group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache

from samplewise.verify.expression import Expression, apply, canonical, combine, number

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


def solve(numbers: Sequence[int], target: int) -> str | None:
    """One solution in canonical form, None where there is none."""
    chosen, goal = _checked(numbers, MAX_SOLVED), Fraction(target)
    if len(chosen) == 1:
        return canonical(number(chosen[0])) if goal == chosen[0] else None
    for left, right in _splits(chosen):
        ours, theirs = _values(left), _values(right)
        if len(ours) > len(theirs):
            ours, theirs = theirs, ours
        for x, expression in ours.items():
            if not x and not goal:  # zero times whatever
                return canonical(combine("*", expression, next(iter(theirs.values()))))
            for last in _LAST:
                found = last(goal, x)
                if found is None or found[2] not in theirs:
                    continue
                op, turned, y = found
                pair = (theirs[y], expression) if turned else (expression, theirs[y])
                if apply(op, pair[0].value, pair[1].value) == goal:
                    return canonical(combine(op, *pair))
    return None


def solutions(numbers: Sequence[int], target: int) -> frozenset[str]:
    """Every solution in canonical form: as many as there are really different ones."""
    chosen, goal = _checked(numbers, MAX_LISTED), Fraction(target)
    if len(chosen) == 1:
        return frozenset({canonical(number(chosen[0]))} if goal == chosen[0] else set())
    return frozenset(
        canonical(combine(op, a, b))
        for left, right in _splits(chosen)
        for x in _expressions(left)
        for y in _expressions(right)
        for op, a, b in _pairs(x, y)
        if apply(op, a.value, b.value) == goal
    )


def _checked(numbers: Sequence[int], most: int) -> tuple[int, ...]:
    if not 1 <= len(numbers) <= most:
        raise ValueError(f"from 1 to {most} numbers can be searched, got {len(numbers)}")
    if any(n < 0 for n in numbers):
        raise ValueError(f"numbers must be 0 or more, got {list(numbers)}")
    return tuple(sorted(numbers))


def _splits(numbers: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every way to split sorted numbers into two groups; equal ways once, and the groups' order does not count."""
    seen = set()
    for mask in range(1, 2 ** (len(numbers) - 1)):  # the last number is always on the right
        left = tuple(n for i, n in enumerate(numbers) if mask >> i & 1)
        right = tuple(n for i, n in enumerate(numbers) if not mask >> i & 1)
        if (left, right) not in seen and (right, left) not in seen:
            seen.add((left, right))
            yield left, right


def _pairs(x: Expression, y: Expression) -> tuple[tuple[str, Expression, Expression], ...]:
    return ("+", x, y), ("-", x, y), ("-", y, x), ("*", x, y), ("/", x, y), ("/", y, x)


@lru_cache(maxsize=4096)
def _values(numbers: tuple[int, ...]) -> dict[Fraction, Expression]:
    """Each value that uses all the numbers, with the first expression found for it."""
    if len(numbers) == 1:
        return {Fraction(numbers[0]): number(numbers[0])}
    found: dict[Fraction, Expression] = {}
    for left, right in _splits(numbers):
        for x in _values(left).values():
            for y in _values(right).values():
                for op, a, b in _pairs(x, y):
                    value = apply(op, a.value, b.value)
                    if value is not None and value not in found:
                        found[value] = combine(op, a, b)
    return found


@lru_cache(maxsize=256)
def _expressions(numbers: tuple[int, ...]) -> tuple[Expression, ...]:
    """Every expression that uses all the numbers and has a value, one for each canonical form."""
    if len(numbers) == 1:
        return (number(numbers[0]),)
    found: dict[str, Expression] = {}
    for left, right in _splits(numbers):
        for x in _expressions(left):
            for y in _expressions(right):
                for op, a, b in _pairs(x, y):
                    if apply(op, a.value, b.value) is not None:
                        made = combine(op, a, b)
                        found.setdefault(canonical(made), made)
    return tuple(found.values())
