r"""Mathematical answers: when two are equal, how one is read from a response, and how it is graded.

In this order, and the first that decides is the verdict:

1. an empty answer is equal to nothing, not even to itself;
2. the same normal spelling (`samplewise.verify.maths.normal`): units, dollar signs, `\dfrac` and "x =" do not count;
3. two rational numbers are compared exactly: .333 is not 1/3;
4. structures are compared part by part (`samplewise.verify.maths.forms`): tuples, sets, intervals, unions, matrices;
   a text is equal to the same text, and to nothing else;
5. expressions are compared by the library `math-verify` in a child process with limits on time and memory, in both
   directions (`samplewise.verify.maths.pool`);
6. what exceeds the limits, or hangs, or crashes, is unknown: nan, never wrong. `child_counts()` says how often.

Cost: steps 1 to 4 take tens of microseconds and never reach a child. Step 5 takes milliseconds, and at most two seconds
of processor time. Nothing that a model wrote is evaluated in this process.

`samplewise[eval]` installs `math-verify`. Without it everything but step 5 works, and step 5 raises MissingExtra. A
task calls `require_math_verify()` first, so that nobody pays for answers that cannot be graded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from samplewise.core.types import Grader, Problem, Question, Reader, Score
from samplewise.verify.marks import MAX_TEXT, last_box, marked_answer, without_additions
from samplewise.verify.maths import pool
from samplewise.verify.maths.forms import MathsForm, maths_form
from samplewise.verify.maths.normal import Percent
from samplewise.verify.maths.pool import ChildCounts, child_counts, require_math_verify
from samplewise.verify.named import NamedGrader, NamedReader
from samplewise.verify.numbers import number_text

__all__ = [
    "AnswerGroups",
    "ChildCounts",
    "Percent",
    "canonical_maths",
    "child_counts",
    "equal_maths",
    "grade_maths",
    "group_answers",
    "maths",
    "maths_reader",
    "read_maths",
    "require_math_verify",
]

MAX_CHARS = 200  # of an expression that a child is asked about
MAX_EXPONENT = 10_000
MAX_DIGITS = 40_000  # of a constant, worked out: 9^{9^9} has 370 million
MAX_NESTING = 24  # brackets within brackets, likewise

_INTEGER = re.compile(r"(-?)0*([1-9][0-9]*)", re.ASCII)
_EXPONENT = re.compile(r"\^\{?\s*-?([0-9]{1,})")
_TOKEN = re.compile(r"[0-9]+|\\?[a-zA-Z]+|[\^{}()\[\]]")
# no formula within a formula, so that brackets which never close cost no second look
_MATHS = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\(((?:(?!\\\().)+?)\\\)|\\\[((?:(?!\\\[).)+?)\\\]", re.DOTALL)
_LISTING = re.compile(r"\s*,?\s*\b(?:and|or)\b\s*|\s*,\s*")  # between formulas that are one answer
_RATHER_THAN = re.compile(r",?\s\(?(?:not|rather than|instead of)\s(?=\$|\\[(\[])")


class AnswerGroups(NamedTuple):
    """Classes of equal answers. `labels` (N,) is the class of each in first-seen order, None for an empty answer.

    `num_intransitive` counts answers that are equal to the first of two classes which are not equal to each other. They
    are in the first of the two.
    """

    labels: tuple[int | None, ...]
    num_intransitive: int = 0


# ------------------------------------------------------------------------------------------------------------- equality


def equal_maths(left: str, right: str, *, percent: Percent = "unit") -> bool | None:
    """Return whether two answers are the same mathematics; None if that is beyond the limits. Symmetric."""
    return _equal(maths_form(left, percent), maths_form(right, percent))


def _equal(left: MathsForm, right: MathsForm) -> bool | None:
    if left.kind == "empty" or right.kind == "empty":
        return False
    if left.text == right.text or (left.inner and left.inner == right.inner and left.kind == right.kind):
        return True
    kinds = {left.kind, right.kind}
    if kinds == {"number"}:
        return left.value == right.value
    if "text" in kinds:
        return False
    if kinds <= {"number", "leaf"}:
        first, second = (_INTEGER.fullmatch(form.text) for form in (left, right))
        if first and second:  # one has too many digits for a number
            return first.groups() == second.groups()
        return _ask(left, right)
    if left.kind != right.kind:
        return False
    if left.kind in ("set", "union"):
        return _all([*_membership(left, right), *_membership(right, left)])
    if left.brackets != right.brackets or len(left.items) != len(right.items):
        return False
    return _all([_equal(left_item, right_item) for left_item, right_item in zip(left.items, right.items, strict=True)])


def _membership(first: MathsForm, second: MathsForm) -> list[bool | None]:
    """Return whether each item of the first set is in the second."""
    is_member = []
    for item in first.items:
        verdicts = [_equal(item, candidate) for candidate in second.items]
        is_member.append(True if True in verdicts else None if None in verdicts else False)
    return is_member


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def _ask(left: MathsForm, right: MathsForm) -> bool | None:
    """Compare symbolically. Two equations are also compared whole: y = 2x and 2x - y = 0."""
    verdict = _ask_for(left.inner, right.inner)
    as_equations = verdict is False and "=" in left.text and "=" in right.text
    return _ask_for(left.text, right.text) if as_equations else verdict


def _ask_for(left: str, right: str) -> bool | None:
    first, second = sorted((left, right))  # both orders share a reply
    return pool.ask_equal(first, second) if _may_be_asked(first) and _may_be_asked(second) else None


def _may_be_asked(latex: str) -> bool:
    """Return whether an expression is within the limits for a child."""
    if len(latex) > MAX_CHARS or any(int(digits[:9]) > MAX_EXPONENT for digits in _EXPONENT.findall(latex)):
        return False
    depth = deepest = 0
    for sign in latex:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    return deepest <= MAX_NESTING and _digits(iter(_TOKEN.findall(latex))) <= MAX_DIGITS


def _digits(tokens: Iterator[str]) -> float:
    """Return a bound on the digits of what an expression is when it is worked out, read up to its closing bracket.

    Factors and terms alike add their digits, and one bit for each sign between them; a power multiplies the digits by
    the size of the exponent.
    """
    atoms: list[float] = []
    for token in tokens:
        if token == "^":
            exponent = next(tokens, "")
            size = _digits(tokens) if exponent in ("{", "(", "[") else _numeral_digits(exponent)
            if atoms:
                atoms[-1] *= 10.0 ** min(size, 9.0)
        elif token in ("}", ")", "]"):
            break
        else:
            atoms.append(_digits(tokens) if token in ("{", "(", "[") else _numeral_digits(token))
    return sum(atoms) + math.log10(2.0) * max(len(atoms) - 1, 0)


def _numeral_digits(token: str) -> float:
    return math.log10(max(float(token[:300]), 1.0)) if token.isdecimal() else float(token.isalpha())


def group_answers(answers: Sequence[str | None], *, percent: Percent = "unit") -> AnswerGroups:
    """Group answers into classes, comparing each with the first of every class. Unknown counts as different."""
    firsts: list[str] = []
    labels: list[int | None] = []
    num_intransitive = 0
    for answer in answers:
        if answer is None or maths_form(answer, percent).kind == "empty":
            labels.append(None)
            continue
        indices = [index for index, first in enumerate(firsts) if equal_maths(first, answer, percent=percent)]
        num_intransitive += len(indices) > 1
        labels.append(indices[0] if indices else len(firsts))
        if not indices:
            firsts.append(answer)
    return AnswerGroups(tuple(labels), num_intransitive)


# -------------------------------------------------------------------------------------------------------------- reading


def canonical_maths(answer: str, *, percent: Percent = "unit") -> str | None:
    """Return an answer's canonical spelling, so that equal answers vote together; None for an empty one.

    Numbers are as in `samplewise.verify.readers`, sets are sorted, expressions are in a standard form. It is LaTeX, and
    its own canonical spelling. If the symbolic step fails, it is the normal spelling.
    """
    form = maths_form(answer, percent)
    return None if form.kind == "empty" else _key(form)


@lru_cache(maxsize=50_000)
def _key(form: MathsForm) -> str:
    if form.kind == "number":
        assert form.value is not None
        return number_text(form.value)
    if form.kind == "leaf":
        standard = pool.ask_key(form.inner) if _symbolic(form.inner) else None
        if standard is None:
            return form.inner
        reparsed = maths_form(standard)  # 2^{70} comes back as a number, and is written as one
        return number_text(reparsed.value) if reparsed.value is not None else standard
    if form.kind == "named":
        return f"{form.brackets} = {_key(form.items[0])}"
    keys = [_key(item) for item in form.items]
    if form.kind == "set":
        return ", ".join(sorted(set(keys))) or r"\emptyset"
    if form.kind == "union":
        return r" \cup ".join(sorted(set(keys)))
    if form.kind == "row":
        return f"{form.brackets[0]}{', '.join(keys)}{form.brackets[1]}"
    if form.kind == "matrix":
        width = int(form.brackets.partition("x")[2])
        rows = [" & ".join(keys[start : start + width]) for start in range(0, len(keys), width)]
        return r"\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}"
    return form.inner


def _symbolic(latex: str) -> bool:
    """Return whether a child could write it in another way: a single letter has one spelling."""
    return _may_be_asked(latex) and not (len(latex) == 1 or re.fullmatch(r"-?\\[a-z]+", latex))


def maths(*, percent: Percent = "unit") -> tuple[Reader, Grader]:
    r"""Return the reader and the grader of a task, with its policy for percent signs.

    The reader takes the last `\boxed{}`, otherwise what "answer:", "answer is" or `####` marks; of a sentence the last
    formula in it. Without a mark it takes the last formula of the last line, or the line itself if it is a number.
    """

    def read(question: Question, text: str) -> str | None:
        answer = written_answer(text)
        return None if answer is None else canonical_maths(answer, percent=percent)

    def grade(problem: Problem, answer: str | None) -> Score:
        if problem.reference is None:
            return Score(math.nan, "the question has no reference")
        if answer is None or maths_form(answer, percent).kind == "empty":
            return Score(0.0, "no answer")
        verdict = equal_maths(str(problem.reference), answer, percent=percent)
        if verdict is None:
            return Score(math.nan, "cannot be decided within the limits")
        return Score(1.0, "equal to the reference") if verdict else Score(0.0, f"expected {problem.reference!s:.80}")

    setting = "" if percent == "unit" else f"({percent!r})"
    return NamedReader(f"maths{setting}", 3, read), NamedGrader(f"maths{setting}", 3, grade)


def maths_reader(*, percent: Percent = "unit") -> Reader:
    r"""Read the formula in the last `\boxed{}` or after another mark, in canonical spelling."""
    return maths(percent=percent)[0]


def written_answer(text: str) -> str | None:
    """Return the part of a response that is its answer, as written there, or None."""
    tail = text[-MAX_TEXT:]
    marked = last_box(tail)  # before any other mark: "so our answer is correct" may well follow it
    if marked is None:
        marked = marked_answer(tail)
    if marked is not None:
        return _formula(marked) or None
    line = next((line for line in reversed(tail.splitlines()) if line.strip()), "")
    formulas = _MATHS.findall(line)
    if formulas:
        return "".join(formulas[-1])
    return line if maths_form(line).kind == "number" else None


def _formula(marked: str) -> str:
    """Return the last formula in a sentence, with those that it is listed with, or all of what is no sentence."""
    claim = _RATHER_THAN.split(without_additions(marked), maxsplit=1)[0]
    formulas = list(_MATHS.finditer(claim))
    if not formulas and claim != marked:
        if maths_form(claim).kind == "number":
            return claim
        claim, formulas = marked, list(_MATHS.finditer(marked))
    if not formulas or not re.search("[a-zA-Z]{3,}", _LISTING.sub(" ", _MATHS.sub(" ", claim))):
        return claim if formulas else marked
    first = len(formulas) - 1
    while first and _LISTING.fullmatch(claim, formulas[first - 1].end(), formulas[first].start()):
        first -= 1
    return ", ".join("".join(filter(None, formula.groups())) for formula in formulas[first:])


read_maths, grade_maths = maths()
