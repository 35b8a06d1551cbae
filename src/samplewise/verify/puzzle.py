r"""Puzzles that make a target from numbers: read the expression in a response, and check it exactly. No `eval`.

What is read, in this order:

1. The last explicit answer: after "answer:", "answer is" or inside `\boxed{}`. It may be an expression, with or without
   "= 24" after it, or steps. Words instead of arithmetic ("Answer: none"), or words that retract it ("not possible"),
   are no answer. A bare "Answer: 24" names the target and no expression, so the reader continues.
2. The last statement of the response, with the steps before it: `8 - 6 = 2 , 2 * 12 = 24`, in signs or in words. Other
   text around them ("(left: 2 12)") is ignored.

A statement that uses exactly the puzzle's numbers is read as it is. Otherwise each operand that an earlier step made is
replaced by that step, the latest first, each step used once. Every other operand is left for the check. **A step whose
claim is false is not put in**: its result stays a bare number, and if it is the last step, nothing is read. A claim
holds if it is the exact result, or a decimal that this rounds or truncates to. Steps that end before as many numbers as
the puzzle has are used were cut off: nothing is read.

So what is read is an expression that the text claims. The claimed value after it is ignored, the expression is
evaluated. Equal answers give equal strings: see `samplewise.verify.expression` for the exact equivalence.

Limits: of a text the last `MAX_TEXT` characters are searched for an explicit answer of at most `MAX_LINE`, and the last
`MAX_STEPS` characters for steps. A few milliseconds for any text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Candidate, Json, Problem, Question, Score, Verifier
from samplewise.verify.expression import (
    MAX_NUMBERS,
    OPERATORS,
    Expression,
    canonical,
    combine,
    is_numeral,
    negate,
    parse_tokens,
)
from samplewise.verify.lexing import DIFFERS, EQUALS, is_operation, lex, segments, sides
from samplewise.verify.marks import braced

MAX_TEXT = 100_000  # characters
MAX_LINE = 2_000
MAX_STEPS = 3_000
MAX_STATEMENTS = 48
MAX_MARKERS = 24

_MARKER = re.compile(r"(?i:answer)[\s*_`\"']{0,8}(?P<sign>:|=|is\b)[\s*_`:\"']{0,8}")
_DENIAL = re.compile(
    r"(?i)\b(?:no (?:\w{1,12} )?(?:solution|way|combination|answer)|not possible|impossible|cannot|can't|unable|invalid"
    r"|none)\b"
)


class Puzzle(NamedTuple):
    """The public facts of a question: the numbers given, and the target to make."""

    numbers: tuple[Fraction, ...]  # sorted
    target: Fraction


def facts_of(question: Question) -> Puzzle | None:
    """Return the puzzle in `facts["numbers"]` and `facts["target"]` of a question, or None."""
    return _puzzle(question.facts)


def _puzzle(facts: Mapping[str, Json]) -> Puzzle | None:
    numbers, target = facts.get("numbers"), facts.get("target")
    if not isinstance(numbers, list | tuple) or not numbers or not all(_is_number(n) and n >= 0 for n in numbers):
        return None
    if target is None or not _is_number(target):
        return None
    return Puzzle(_sorted(numbers), _exact(target))


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float | Fraction) and not isinstance(value, bool) and math.isfinite(value)


def _exact(value: int | float | Fraction) -> Fraction:
    return Fraction(str(value)) if isinstance(value, float) else Fraction(value)


def _sorted(numbers: Sequence[int | float | Fraction]) -> tuple[Fraction, ...]:
    return tuple(sorted(_exact(number) for number in numbers))


# ------------------------------------------------------------------------------------------------------------- checking


def is_solution(numbers: Sequence[int], target: int, expression: str) -> bool:
    """Return whether the expression makes the target from exactly these numbers, each used once.

    Allowed are + - * / and brackets, in the notations of `samplewise.verify.lexing`, and signs: for a target of 0 or
    more, signs reach nothing that subtraction cannot. What follows "=" is a claim and is ignored.
    """
    if not numbers or not all(_is_number(n) and n >= 0 for n in numbers):
        raise ValueError(f"a puzzle needs numbers of 0 or more, got {numbers!r}")
    return _verdict(Puzzle(_sorted(numbers), _exact(target)), expression).value == 1.0


def _verdict(puzzle: Puzzle, answer: str) -> Score:
    if len(answer) > MAX_LINE:
        return Score(0.0, "unread")
    tokens = lex(answer)
    parts = sides(tokens)
    return _judge(puzzle, parse_tokens(parts[0]) if parts and DIFFERS not in tokens else None)


def _judge(puzzle: Puzzle, expression: Expression | None) -> Score:
    if expression is None:
        return Score(0.0, "unread")
    if tuple(sorted(expression.numbers)) != puzzle.numbers:
        return Score(0.0, "does not use exactly the given numbers")
    if expression.value is None:
        return Score(0.0, "divides by zero")
    if expression.value != puzzle.target:
        return Score(0.0, f"makes {expression.value}")
    return Score(1.0, f"makes {puzzle.target}")


def puzzle() -> Verifier:
    """Score 1 for a right solution and 0 for anything else; nan only if the question carries no puzzle.

    Exact, and needs no reference. A truncated response is read only if its answer is complete.
    """

    def verify(question: Question, candidate: Candidate) -> Score:
        facts = facts_of(question)
        if facts is None:
            return Score(math.nan, "the question carries no numbers and target")
        answer = _read(facts, _complete_part(candidate.text, facts) if candidate.finish != "stop" else candidate.text)
        return _judge(facts, answer)

    return verify


def grade_puzzle(problem: Problem, answer: str | None) -> Score:
    """Grade a puzzle by the check, with the numbers and target of the problem's question."""
    facts = facts_of(problem.question)
    if facts is None:
        return Score(math.nan, "the question carries no numbers and target")
    return Score(0.0, "no answer") if answer is None else _verdict(facts, answer)


# -------------------------------------------------------------------------------------------------------------- reading


class _Statement(NamedTuple):
    expression: Expression | None  # the left-hand side; None: unreadable
    claim: Expression | None  # the right-hand side: what the text claims that it equals
    decimals: int  # of the claim as written
    denied: bool  # "≠" in it


def read_puzzle(question: Question, text: str) -> str | None:
    """Return the expression that a response answers with, in canonical form, or None."""
    read = _read(facts_of(question), text)
    return None if read is None else canonical(read)


def _read(puzzle: Puzzle | None, text: str) -> Expression | None:
    text = split_reasoning(text).text[-MAX_TEXT:]
    for region, strict in _explicit(text):
        statements, bare = _statements(region)
        if not statements and len(bare) == 1 and not _DENIAL.search(region):
            if puzzle is not None and len(puzzle.numbers) == 1:
                return bare[0]
            if puzzle is None or bare[0].value == puzzle.target:
                continue
            return bare[0]
        if not statements and not strict and not _DENIAL.search(region):
            continue  # "the answer is close": no answer yet
        if not statements or _DENIAL.search(region) or any(s.denied for s in statements):
            return None
        first = statements[0].expression
        if len(statements) == 1 or (first is not None and _stands_alone(first, puzzle)):
            return first
        return _follow(statements, puzzle)
    if _DENIAL.search(_last_line(text)):
        return None
    statements, _ = _statements(text[-MAX_STEPS:])
    return None if any(s.denied for s in statements[-1:]) else _follow(statements, puzzle)


def _explicit(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the explicit answers, last one first, and whether each is surely meant as one (a colon or a box)."""
    end = len(text)
    for _ in range(MAX_MARKERS):
        box = text.rfind("\\boxed{", 0, end)
        word = max(text.rfind(form, 0, end) for form in ("answer", "Answer", "ANSWER"))
        end = max(box, word)
        if end < 0:
            return
        if end == box:
            yield braced(text[box + 7 : box + 7 + MAX_LINE]) or "", True
            continue
        marker = _MARKER.match(text, word)
        if marker is None:
            continue
        line = _first_line(text[marker.end() : marker.end() + MAX_LINE + 1])
        if not any(c.isalnum() for c in line):  # the answer is below
            line = text[marker.end() : marker.end() + MAX_LINE]
        yield line if len(line) <= MAX_LINE else "", marker["sign"] == ":"


def _first_line(text: str) -> str:
    lines = text.splitlines()
    return lines[0] if lines else ""


def _last_line(text: str) -> str:
    return text[-MAX_LINE:].rstrip().rpartition("\n")[2]


def _statements(text: str) -> tuple[list[_Statement], list[Expression]]:
    """Return the statements of a text, and the bare numbers outside of them."""
    statements: list[_Statement] = []
    bare: list[Expression] = []
    for segment in segments(lex(text))[-MAX_STATEMENTS:]:
        statement = _statement(segment)
        if statement is not None:
            statements.append(statement)
        elif any(map(is_numeral, segment)):
            bare += [number for number in (parse_tokens(_calm(side)) for side in sides(segment)) if number is not None]
    return statements, bare


def _statement(segment: list[str]) -> _Statement | None:
    parts = [(side, parse_tokens(side) if is_operation(side) else None) for side in sides(segment)]
    worked = [i for i, (side, read) in enumerate(parts) if is_operation(side) and (not read or len(read.numbers) > 1)]
    if not worked:
        return None
    index = worked[0]
    closed = segment[-1] not in (EQUALS, DIFFERS) and len(parts) > 1
    claimed = _calm(parts[-1 if index < len(parts) - 1 else 0][0]) if closed else []
    decimals = max((len(token.partition(".")[2]) for token in claimed if is_numeral(token)), default=0)
    return _Statement(parts[index][1], parse_tokens(claimed), decimals, DIFFERS in segment)


def _calm(side: list[str]) -> list[str]:
    """Return a side without trailing exclamation marks."""
    while side and side[-1] == "!":
        side = side[:-1]
    return side


def _stands_alone(expression: Expression, puzzle: Puzzle | None) -> bool:
    return puzzle is not None and tuple(sorted(expression.numbers)) == puzzle.numbers


def _follow(statements: Sequence[_Statement], puzzle: Puzzle | None) -> Expression | None:
    """Return the last statement with the steps before it put in, or None."""
    results: dict[str, list[Expression]] = {}
    current: Expression | None = None
    for statement in statements:
        current = statement.expression
        if current is None or _stands_alone(current, puzzle):
            continue
        current = _bind(current, results)
        if statement.claim is None or len(current.numbers) > MAX_NUMBERS or not _holds(statement, current):
            current = None
        else:
            results.setdefault(canonical(statement.claim), []).append(current)
    if current is None or (puzzle is not None and len(current.numbers) < len(puzzle.numbers)):
        return None
    return current


def _bind(expression: Expression, results: dict[str, list[Expression]]) -> Expression:
    """Return the expression with results of earlier steps put in, from left to right; each is used once."""
    literal = len(expression.numbers) == 1 or (expression.op == "/" and len(expression.numbers) == 2)
    if literal and (steps := results.get(canonical(expression))):
        return steps.pop()
    if expression.op == "negate":
        return negate(_bind(expression.args[0], results))
    if expression.op in OPERATORS:
        bound_left = _bind(expression.args[0], results)
        return combine(expression.op, bound_left, _bind(expression.args[1], results))
    return expression


def _holds(statement: _Statement, expression: Expression) -> bool:
    claim = statement.claim and statement.claim.value
    if claim is None or expression.value is None:
        return False
    if statement.decimals == 0 or claim == expression.value:
        return claim == expression.value
    scale = 10**statement.decimals
    cut = Fraction(int(expression.value * scale), scale)
    return claim == cut or abs(expression.value - claim) * scale <= Fraction(1, 2)


def _complete_part(text: str, puzzle: Puzzle) -> str:
    """Return a truncated text without its last line, unless that line reaches a claim or is a box that closes."""
    without_last_line, _, line = text.rstrip("\r").rpartition("\n")
    statements, _ = _statements(line[-MAX_STEPS:])
    complete = bool(statements) and statements[-1].claim is not None
    if statements and line.rstrip(" $.").endswith("}") and "\\boxed{" in line:
        complete = True
    return text if complete or not line.strip() else without_last_line
