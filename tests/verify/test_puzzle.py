"""The puzzle checker, reader and verifier against written-out cases."""

from __future__ import annotations

import math

import pytest

from samplewise.core.types import Candidate, Message, Problem, Question, Score
from samplewise.verify.expression import canonical, parse_tokens
from samplewise.verify.lexing import lex
from samplewise.verify.puzzle import grade_puzzle, is_solution, puzzle, read_puzzle


def ask(*numbers: int, target: int = 24) -> Question:
    return Question("q", (Message("user", "make it"),), {"numbers": list(numbers), "target": target})


def canon(text: str) -> str:
    expression = parse_tokens(lex(text))
    assert expression is not None, text
    return canonical(expression)


def verdict(question: Question, text: str, finish: str = "stop") -> Score:
    return puzzle()(question, Candidate(text, finish))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ the check


@pytest.mark.parametrize(
    ("numbers", "expression", "right"),
    [
        ((3, 3, 8, 8), "8/(3-8/3)", True),
        ((3, 3, 8, 8), "8 ÷ (3 − 8 ÷ 3) = 24", True),
        ((3, 3, 8, 8), r"\frac{8}{3 - \frac{8}{3}}", True),
        ((6, 4, 1, 1), "4*6", False),  # unused numbers
        ((6, 4, 1, 1), "4*6*1/1", True),
        ((1, 2, 2), "12*2", False),  # joined digits
        ((12, 2), "12*2", True),
        ((12, 2), "1 2 * 2", False),
        ((4, 6), "4*6*1", False),  # a number that is not there
        ((4, 6), "4*6*4/4", False),  # used twice
        ((4, 6), "4*6 = 25", True),  # the claim is not looked at
        ((4, 5), "4*5 = 24", False),  # nor believed
        ((2, 3, 3), "2**3*3", False),
        ((2, 3, 3), "2^3*3", False),
        ((2, 3, 3), "2³*3", False),
        ((4,), "4!", False),
        ((24,), "24", True),
        ((9, 8), "sqrt(9)*8", False),
        ((9, 8), r"\sqrt{9} * 8", False),
        ((48, 2), "48/2", True),
        ((49, 2), "49//2", False),
        ((49, 25), "49%25", False),
        ((3, 27), "-3 + 27", True),
        ((3, 27), "-(3 - 27)", True),
        ((4, 6), "4.0 * 6", True),
        ((4, 6), "4(6)", True),
        ((0, 5, 24), "24 + 0 * 5", True),
        ((0, 5, 24), "24 / (0 / 5)", False),
        ((0, 5, 24), "5 / (24 / 0)", False),
        ((4, 6), "", False),
        ((4, 6), "=", False),
        ((4, 6), "24 = 4 * 6", False),
        ((4, 6), "(4 * 6", False),
        ((4, 6), "4 * 6)", False),
        ((4, 6), "4 * 6 != 24", False),
        ((4, 6), "__import__('os')", False),
        ((4, 6), "９*９", False),
        ((4, 6), "４＊６", True),
        ((4, 6), "٤ * 6", False),
    ],
)
def test_check(numbers: tuple[int, ...], expression: str, right: bool) -> None:
    assert is_solution(numbers, 24, expression) is right


def test_check_refuses_a_puzzle_that_is_none() -> None:
    with pytest.raises(ValueError, match="0 or more"):
        is_solution([], 24, "24")
    with pytest.raises(ValueError, match="0 or more"):
        is_solution([-4, 6], 24, "4 * 6")


# ----------------------------------------------------------------------------------------------------------- the reader


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("10 - 6 = 4 , 5 - 4 = 1 , 4 * 1 = 4", "4 * (5 - (10 - 6))"),  # which 4 is which does not matter for the value
        ("10 - 6 = 4 , 5 * 4 = 20", None),
        ("10 - 4 = 6 ( left 5 6 6 ) , 6 - 5 = 1 ( left 1 6 ) , 1 * 6 = 6 ( left 6 )", "6 * (10 - 4 - 5)"),
        ("10 minus 4 is 6 , then 6 minus 5 is 1 , then 1 times 6 is 6", "6 * (10 - 4 - 5)"),
        ("Steps:\n10 - 4 = 6 (left: 5 6 6)\n6 - 5 = 1 (left: 1 6)\n6 * 1 = 6 (left: 6)\nAnswer: None", None),
        ("10 - 4 = 6 , 6 - 5 = 1 , 1 *", None),  # cut off
        ("10 - 4 = 6 , 6 - 5 = 1 , 1 * 6 =", None),
        ("10 - 4 = 6 , 6 - 5 = 1 , 1 * 6", None),
        ("10 - 4 = 6 , 6 - 5 = 1", None),
        ("10 - 4 = 6 , 6 - 5 = 1 , 1 * 6 = 24", None),  # a false last step
        ("10 - 4 = 5 , 6 * 5 = 30 , 30 - 5 = 25", None),  # a false first one: 6 * 5 - 5 leaves numbers unused
        ("4 + 5 + 6 + 10", "10 + 6 + 5 + 4"),
        ("4 + 5", None),
        ("Answer: 4 + 5", "5 + 4"),  # called the answer, so it is one, and wrong
        ("Answer: 24", None),
        ("Answer: 25", "25"),
        ("Answer: (10 - 6) * (5 - 4) * 4 ≠ 24", None),
        ("Answer: (10 - 6) * (5 - 4) * 4 != 24", None),
        ("Answer: (10 - 6) * 4 + 5 = 21 (not possible to obtain 24)", None),
        ("10 - 6 = 4\n4 + 5 = 9\n4 + 9 = 13\nNo solution found.", None),
        ("Answer: There is no way to obtain 24 with these numbers.", None),
        ("The answer is close. 4 + 5 + 6 + 10 = 25", "10 + 6 + 5 + 4"),
        ("Answer: (10 - 6) * 5 + 4 = 24\n\nCheck: 10 - 6 = 4, 4 * 5 = 20, 20 + 4 = 24.", "(10 - 6) * 5 + 4"),
        ("Answer: (10 - 6) * 5 + 4 = 4 * 5 + 4 = 24", "(10 - 6) * 5 + 4"),
        ("Answer: (10 - 6) * 5 + 4 = 24, because 10 - 6 = 4", "(10 - 6) * 5 + 4"),
        ("Answer: 10 - 6 = 4, 4 * 5 = 20, 20 + 4 = 24", "(10 - 6) * 5 + 4"),
        ("1. 10 - 6 = 4\n2. 4 * 5 = 20\n3. 20 + 4 = 24!", "(10 - 6) * 5 + 4"),
        ("- 10 - 6 = **4**\n- **4** * 5 = 20\n- 20 + 4 = **24**", "(10 - 6) * 5 + 4"),
        ("Step 1: 10 - 6 = 4 → Step 2: 4 * 5 = 20 → Step 3: 20 + 4 = 24", "(10 - 6) * 5 + 4"),
        (r"\begin{align} 10 - 6 &= 4 \\ 4 \times 5 &= 20 \\ 20 + 4 &= 24 \end{align}", "(10 - 6) * 5 + 4"),
        ("(10 - 6 = 4), (4 * 5 = 20), so (20 + 4 = 24).", "(10 - 6) * 5 + 4"),
        ("(10 - 6)(5 - 4) * 1", None),
        ("Answer: 6 / 2(10 - 5)", None),  # ambiguous
        ("Answer: ((10 - 6) * 5 + 4 = 24", None),
        ("Answer: 5^2 - 4 + 6", None),
        ("Answer: 5² - 1", None),
        ("Answer: 4! + 0", None),
        ("Answer: 5 * (10 - 6) + 4%", None),
        ("Answer: sqrt(4) * 10 + 5", None),
        ("answer", None),
        ("Answer:", None),
        ("", None),
        ("I do not know.", None),
        ("24", None),
    ],
)
def test_read(text: str, answer: str | None) -> None:
    wanted = canon(answer) if answer is not None else None
    assert read_puzzle(ask(4, 5, 6, 10), text) == wanted


def test_rounded_claims_hold_and_wrong_ones_do_not() -> None:
    question = ask(3, 3, 8, 8)
    right = canon("8 / (3 - 8 / 3)")
    for text in ("8 / 3 = 2.67, 3 - 2.67 = 0.33, 8 / 0.33 = 24", "8 / 3 ≈ 2.6666\n3 - 2.6666 = 0.333\n8 / 0.333 = 24"):
        assert read_puzzle(question, text) == right
    assert read_puzzle(question, "8 / 3 = 2.7, 3 - 2.7 = 0.4, 8 / 0.4 = 24") is None
    assert read_puzzle(question, "8 / 3 = 3, 3 - 3 = 0, 8 + 0 = 8") is None


def test_without_facts_the_reader_still_reads() -> None:
    question = Question("q", (Message("user", "hi"),))
    assert read_puzzle(question, "Answer: 6 * 4 = 24") == "6 * 4"
    assert read_puzzle(question, "2 * 12 = 24 , 24 + 1 = 25") == "1 + 12 * 2"


# --------------------------------------------------------------------------------------------------------- the verifier


def test_unknown_is_nan_and_unread_is_wrong() -> None:
    assert math.isnan(verdict(Question("q", (), {}), "6 * 4 = 24").value)
    for facts in (
        {"numbers": [], "target": 24},
        {"numbers": [4, "6"], "target": 24},
        {"numbers": [4, 6]},
        {"numbers": 4},
    ):
        assert math.isnan(verdict(Question("q", (), facts), "6 * 4 = 24").value)
    assert math.isnan(grade_puzzle(Problem(Question("q", ())), "6 * 4").value)
    assert verdict(ask(4, 6), "I give up") == Score(0.0, "unread")
    assert verdict(ask(4, 6), "4 * 6 = 24") == Score(1.0, "makes 24")
    assert verdict(ask(4, 6), "4 + 6 = 10") == Score(0.0, "makes 10")
    assert grade_puzzle(Problem(ask(4, 6)), None) == Score(0.0, "no answer")
    assert grade_puzzle(Problem(ask(4, 6)), "6 * 4").value == 1.0
    assert verdict(ask(4, 5, target=9), "4 plus 5 is 9").value == 1.0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("4 * 2 = 8 , 8 * 3 = 24", True),
        ("4 * 2 = 8 , 8 * 3 = 2", False),
        ("4 * 2 = 8 , 8 * 3 =", False),
        ("4 * 2 = 8 , 8 * 3", False),
        ("Answer: 4 * 2 * 3 = 24", True),
        ("Answer: 4 * 2 * 3 =", False),  # the reader would take it; what comes after a cut is not known
        ("Answer: 4 * 2 * 3", False),
        ("Answer: 4 * 2 * 3\n", True),
        ("Answer: 4 * 2 * 3\nLet me ch", True),
        (r"\boxed{4 * 2 * 3}", True),
        (r"\boxed{4 * 2 * 3", False),
    ],
)
def test_a_cut_response_counts_only_where_it_is_complete(text: str, right: bool) -> None:
    assert (verdict(ask(2, 3, 4), text, "length").value == 1.0) is right
