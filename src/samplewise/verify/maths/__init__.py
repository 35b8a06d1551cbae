r"""Mathematical answers: when two are equal, how one is read out of a response, and how it is graded.

In this order, and the first that decides is the verdict:

1. an empty answer is equal to nothing, itself included;
2. the same normal spelling (`samplewise.verify.maths.normal`): units, dollar signs, `\dfrac` and "x =" do not count;
3. two rational numbers are equal if they are exactly: .333 is not 1/3;
4. structures are compared part by part (`samplewise.verify.maths.forms`): tuples, sets, intervals, unions, matrices;
   a text is equal to the same text, and to nothing else;
5. expressions are compared by the library `math-verify` in a child process with limits on time and memory, in both
   directions (`samplewise.verify.maths.pool`);
6. what is beyond the limits, or hangs, or crashes, is unknown: nan, never wrong. `counts()` says how often.

Cost: steps 1 to 4 take tens of microseconds and never reach a child; step 5 takes milliseconds, and at most two
seconds of processor time. Nothing that a model wrote is evaluated in this process.

`samplewise[eval]` installs `math-verify`; without it everything but step 5 works, and step 5 is MissingExtra. A task
calls `require()` first, so that nobody pays for answers that cannot be graded.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from samplewise.types import Grader, Problem, Question, Reader, Score
from samplewise.verify.maths import pool
from samplewise.verify.maths.forms import Form, form
from samplewise.verify.maths.normal import Percent
from samplewise.verify.maths.pool import Counts, counts, require
from samplewise.verify.readers import MAX_TEXT, last_box, marked_answer, number_text

__all__ = [
    "Counts",
    "Groups",
    "Percent",
    "counts",
    "equal",
    "grade_maths",
    "group",
    "key",
    "maths",
    "read_maths",
    "require",
]

MAX_CHARS = 200  # of an expression that a child is asked about
MAX_EXPONENT = 10_000
MAX_NESTING = 24  # brackets within brackets, likewise

_EXPONENT = re.compile(r"\^\{?\s*-?([0-9]{1,})")
_MATHS = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


class Groups(NamedTuple):
    """Answers put into classes. `labels` (N,): the class of each in first-seen order, None for an empty answer.

    `num_intransitive` counts answers that are equal to the first of two classes which are not equal to each other;
    they are in the first of them.
    """

    labels: tuple[int | None, ...]
    num_intransitive: int = 0


# ------------------------------------------------------------------------------------------------------------- equality


def equal(left: str, right: str, *, percent: Percent = "unit") -> bool | None:
    """Whether two answers are the same mathematics; None where that is beyond the limits. Symmetric."""
    return _equal(form(left, percent), form(right, percent))


def _equal(left: Form, right: Form) -> bool | None:
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
        return _ask(left, right)
    if left.kind != right.kind:
        return False
    if left.kind in ("set", "union"):
        return _all([*_found_in(left, right), *_found_in(right, left)])
    if left.brackets != right.brackets or len(left.items) != len(right.items):
        return False
    return _all([_equal(ours, theirs) for ours, theirs in zip(left.items, right.items, strict=True)])


def _found_in(some: Form, others: Form) -> list[bool | None]:
    """For each item of one set whether it is in the other."""
    found = []
    for item in some.items:
        verdicts = [_equal(item, other) for other in others.items]
        found.append(True if True in verdicts else None if None in verdicts else False)
    return found


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    return False if False in verdicts else None if None in verdicts else True


def _ask(left: Form, right: Form) -> bool | None:
    """The symbolic step. Two equations are also compared whole: y = 2x and 2x - y = 0."""
    verdict = _ask_for(left.inner, right.inner)
    whole = verdict is False and "=" in left.text and "=" in right.text
    return _ask_for(left.text, right.text) if whole else verdict


def _ask_for(left: str, right: str) -> bool | None:
    first, second = sorted((left, right))  # both orders share a reply
    return pool.equal(first, second) if _may_be_asked(first) and _may_be_asked(second) else None


def _may_be_asked(latex: str) -> bool:
    """Whether an expression is within the limits of what a child is asked."""
    if len(latex) > MAX_CHARS or any(int(digits[:9]) > MAX_EXPONENT for digits in _EXPONENT.findall(latex)):
        return False
    depth = deepest = 0
    for sign in latex:
        depth += (sign in "([{") - (sign in ")]}")
        deepest = max(deepest, depth)
    return deepest <= MAX_NESTING


def group(answers: Sequence[str | None], *, percent: Percent = "unit") -> Groups:
    """Classes of equal answers, each answer compared with the first of every class. Unknown counts as different."""
    firsts: list[str] = []
    labels: list[int | None] = []
    num_intransitive = 0
    for answer in answers:
        if answer is None or form(answer, percent).kind == "empty":
            labels.append(None)
            continue
        places = [place for place, first in enumerate(firsts) if equal(first, answer, percent=percent)]
        num_intransitive += len(places) > 1
        labels.append(places[0] if places else len(firsts))
        if not places:
            firsts.append(answer)
    return Groups(tuple(labels), num_intransitive)


# -------------------------------------------------------------------------------------------------------------- reading


def key(answer: str, *, percent: Percent = "unit") -> str | None:
    """An answer's canonical spelling, so that answers that are equal vote together; None for an empty one.

    Numbers are as in `samplewise.verify.readers`, sets are sorted, expressions are brought into a standard form. It is
    LaTeX, and its own canonical spelling. Where the symbolic step fails it is the normal spelling.
    """
    found = form(answer, percent)
    return None if found.kind == "empty" else _key(found)


@lru_cache(maxsize=50_000)
def _key(found: Form) -> str:
    if found.kind == "number":
        assert found.value is not None
        return number_text(found.value)
    if found.kind == "leaf":
        standard = pool.key(found.inner) if _symbolic(found.inner) else None
        if standard is None:
            return found.inner
        again = form(standard)  # 2^{70} comes back as a number, and is written as one
        return number_text(again.value) if again.value is not None else standard
    if found.kind == "named":
        return f"{found.brackets} = {_key(found.items[0])}"
    keys = [_key(item) for item in found.items]
    if found.kind == "set":
        return ", ".join(sorted(set(keys))) or r"\emptyset"
    if found.kind == "union":
        return r" \cup ".join(sorted(set(keys)))
    if found.kind == "row":
        return f"{found.brackets[0]}{', '.join(keys)}{found.brackets[1]}"
    if found.kind == "matrix":
        width = int(found.brackets.partition("x")[2])
        rows = [" & ".join(keys[start : start + width]) for start in range(0, len(keys), width)]
        return r"\begin{pmatrix} " + r" \\ ".join(rows) + r" \end{pmatrix}"
    return found.inner


def _symbolic(latex: str) -> bool:
    """Whether a child would write it in another way: a letter alone is what it is."""
    return _may_be_asked(latex) and not (len(latex) == 1 or re.fullmatch(r"-?\\[a-z]+", latex))


def maths(*, percent: Percent = "unit") -> tuple[Reader, Grader]:
    r"""The reader and the grader of a task, with its policy for percent signs.

    Read is the last `\boxed{}`, else what "answer:", "answer is" or `####` marks; of a sentence the last formula in it.
    Without a mark it is the last formula of the last line, or the line itself if it is a number.
    """

    def read(question: Question, text: str) -> str | None:
        answer = written_answer(text)
        return None if answer is None else key(answer, percent=percent)

    def grade(problem: Problem, answer: str | None) -> Score:
        if problem.reference is None:
            return Score(math.nan, "the question has no reference")
        if answer is None or form(answer, percent).kind == "empty":
            return Score(0.0, "no answer")
        verdict = equal(str(problem.reference), answer, percent=percent)
        if verdict is None:
            return Score(math.nan, "cannot be decided within the limits")
        return Score(1.0, "equal to the reference") if verdict else Score(0.0, f"expected {problem.reference!s:.80}")

    return read, grade


def written_answer(text: str) -> str | None:
    """The part of a response that is its answer, as it is written there; None where there is none."""
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
    return line if form(line).kind == "number" else None


def _formula(marked: str) -> str:
    """Of a sentence the last formula in it, else all of it."""
    formulas = _MATHS.findall(marked)
    outside = _MATHS.sub(" ", marked)
    return "".join(formulas[-1]) if formulas and re.search("[a-zA-Z]{3,}", outside) else marked


read_maths, grade_maths = maths()
