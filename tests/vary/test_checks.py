from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.measure.texts import cosines
from samplewise.vary.checks import SAME, identifiers, leaks, loses, numbers, options, repeats, solves

LEAKS = [
    r"Add them up to find \boxed{42}.",
    "Use ```python\nprint(1)\n```",
    "The answer is 42.",
    "the answer is B",
    "So the final answer: 7/3",
    "The result would be $12.",
    "Answer: (C)",
    "Then multiply, which gives 24.",
    "Adding the two yields 1,250",
    "First compute 6 * 4 = 24 and go on.",
    "Use 3 + 4 + 5 = 12",
    "def solve(x):",
    "Start here:\n  return sorted(x)",
    "It must be option B because of the units.",
    "Choose D",
    "Rule out (A) first.",
    "B",
    "(C).",
    "**D**",
    "Clearly the answer is **B**",
    "answer: (C), by elimination",
]
FAIR = [
    "Let x be the number of apples and set up an equation for the total cost.",
    "Work backwards from 24: which two numbers could make it?",
    "Use the pigeonhole principle.",
    "Consider that 3 gives 2 cases, and treat both of them separately.",
    "Count the pairs of numbers whose sum is even, then subtract.",
    "Sort the list and use two pointers; return early where the sum is too large.",
    "A parity argument would help.",
    "Look at the answer choices and test the units of each.",
    "Find what equals the difference of both sides.",
    "Reduce modulo 7, since the result is periodic.",
    "I would try a proof by contradiction.",
    "The answer is a fraction, so look for a common denominator.",
    "The result is an integer; the solution is unique.",
    "Compute P(A) and P(B) apart, then use independence.",
    "Remember the choice I would make: symmetry.",
]


@pytest.mark.parametrize("text", LEAKS)
def test_a_text_that_gives_the_result_away_is_refused(text: str) -> None:
    assert leaks(text)


@pytest.mark.parametrize("text", FAIR)
def test_an_approach_is_not(text: str) -> None:
    assert not leaks(text)


def test_a_rewording_solves_where_the_question_did_not() -> None:
    assert solves("How many are 3 and 4?", "3 + 4 = 7. How many is that?")
    assert solves("What is it?", r"Show that it is \boxed{x}")
    assert not solves("Show that 3 + 4 = 7.", "Prove: 3 + 4 = 7.")
    assert not solves("Which is it? (A) one (B) two", "Is it (A) one or (B) two?")


def test_numbers_are_counted_by_value() -> None:
    assert numbers("1,200 and 2.50, 007 and 1,2,3 x2") == Counter(["1200", "2.5", "7", "1", "2", "3", "2"])
    assert numbers("no numbers") == Counter()
    assert numbers("0.0 and 10") == Counter({"0": 1, "10": 1})


def test_identifiers() -> None:
    text = "Write `has close` with sort_by, fromList, os.path and f(x); e.g. not this. Nor This."
    assert identifiers(text) == Counter(["has close", "sort_by", "fromList", "os.path", "f"])


@pytest.mark.parametrize(
    "text",
    [
        "Which?\nA. a cat\nB. the dog.\nC. none",
        "Which? (A) a cat (B) the  dog (C) none",
        "Which?\nA) A cat\nB) The dog\nC) None",
    ],
)
def test_options_in_their_notations(text: str) -> None:
    assert options(text) == Counter([("A", "a cat"), ("B", "the dog"), ("C", "none")])


def test_initials_are_no_options() -> None:
    assert options("J. K. Rowling met C. S. Lewis.") == Counter()


BODY = "Anna buys 3 pens for 1,200 yen and two rulers. What does `total_cost` return?"


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("What does `total_cost` return if Anna pays 1200 yen for 3 pens, and buys two rulers as well?", False),
        ("Anna got 3 pens for 1200 yen and 2 rulers. What does total_cost return?", False),  # "two" in digits
        ("Anna got three pens for 1,200 yen and two rulers. What does total_cost return?", False),  # 3 in words
        ("Anna got pens for 1200 yen and two rulers. What does total_cost return?", True),
        ("Anna got 3 pens for 1200 yen and 5 rulers. What does total_cost return?", True),
        ("Anna got 3 pens for 1200 yen, 400 each, and two rulers. What does total_cost return?", True),
        ("Anna got 3 pens for 1200 yen and two rulers. What does the function return?", True),
        ("Anna got 3 pens for 1200 yen and two rulers. What do total_cost and total_cost return?", True),
    ],
)
def test_what_a_rewording_must_keep(text: str, lost: bool) -> None:
    assert loses(BODY, text) is lost


def test_an_option_must_come_through() -> None:
    body = "Which is a fruit?\nA. plum\nB. oak\nC. elm"
    assert not loses(body, "Find the fruit:\n(A) plum\n(B) oak\n(C) elm")
    assert loses(body, "Find the fruit:\n(A) plum\n(B) oak")
    assert loses(body, "Find the fruit:\n(A) plum\n(B) elm\n(C) oak")


@given(st.text(max_size=200))
def test_a_text_keeps_what_is_in_itself(text: str) -> None:
    assert not loses(text, text)
    assert not solves(text, text)


def test_repeats_are_told_from_the_first_on() -> None:
    idea = "Work backwards from the target and look for two factors that make it."
    other = "Draw a diagram of the situation and read the relations off it."
    assert repeats([]) == ()
    assert repeats([idea, other, idea.upper(), other + "!"]) == (False, False, True, True)
    assert repeats([idea], [other]) == (False,)
    near = "Work backwards from the target, and look for two factors which make it."
    assert 0.7 < cosines([idea, near])[0, 1] < SAME
    assert repeats([idea, near]) == (False, False)  # another wording, by the rule that is published with the figures
    assert repeats([idea, other], [idea]) == (True, False)
    assert repeats(["", ""]) == (False, False)  # nothing is like nothing


@pytest.mark.parametrize(
    "text",
    [
        " " * 20_000,
        "\n" * 20_000,
        "1," * 10_000,
        "(A" * 10_000,
        "a_" * 10_000,
        "A. " * 7_000,
        "a." * 10_000,
        "=" * 20_000,
        "1+" * 10_000,
        "answer is " * 2_000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """Patterns that look back and forth over blanks were quadratic. The bound is a hundred times what it takes."""
    started = time.process_time()
    leaks(text)
    solves(text, text)
    loses(text, text + "1")
    assert time.process_time() - started < 2.0
