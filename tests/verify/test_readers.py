"""The readers of short answers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplewise.types import Question
from samplewise.verify.readers import as_number, auto, last_line, last_number, marked_answer, normal, number_text, text

QUESTION = Question("q", ())


@pytest.mark.parametrize(
    ("same", "form"),
    [
        (
            ("1000", "1,000", "1000.0", "+1000", "$1,000", "$1000.", "1e3", "**1000**", "1{,}000", "`1000`"),
            "1000",
        ),
        (("0.5", ".5", "0.50", "1/2", "2/4", r"\frac{1}{2}", r"$\dfrac{1}{2}$", "5e-1"), "0.5"),
        (("-0.25", "-1/4", "−0.25", "-.25"), "-0.25"),
        (("1/3", "2/6", r"\frac{2}{6}"), "1/3"),
        (("1.8", "9/5", r"1\frac{4}{5}", r"1 \frac{4}{5}"), "1.8"),
        (("-1.5", r"-1\frac{1}{2}"), "-1.5"),
        (("0", "-0", "0.0", "0/7"), "0"),
        (("Paris", "paris", " PARIS. ", "**Paris**", '"Paris"', "Paris\n"), "paris"),
        (("New  York", "new york"), "new york"),
        (("12345678901234567890",), "12345678901234567890"),
    ],
)
def test_equal_answers_have_one_form(same: tuple[str, ...], form: str) -> None:
    assert {normal(answer) for answer in same} == {form}


@pytest.mark.parametrize(
    "answer",
    ["50%", "5 kg", "1,00", "1,0000", "1.2.3", "1/0", "", "-", "$", "1e500", "1/2/3", "3 4", "10-4", "９"],
)
def test_these_are_not_numbers(answer: str) -> None:
    assert as_number(answer) is None


def test_a_third_is_not_its_decimals() -> None:
    assert normal("0.333") != normal("1/3")
    assert number_text(Fraction(1, 3)) == "1/3"
    assert number_text(Fraction(-12345, 1000)) == "-12.345"


@settings(max_examples=100, deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_a_number_and_its_form_are_one(value: Fraction) -> None:
    assert as_number(number_text(value)) == value
    assert normal(number_text(value)) == number_text(value)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text("0123456789,.-+/$e*` answerANSWER:is\\boxed{}#\n", max_size=80)))
def test_no_text_raises_and_forms_are_stable(response: str) -> None:
    for read in (text, last_line, last_number, auto(), auto(numeric=True)):
        answer = read(QUESTION, response)
        assert answer is None or answer.strip()
        assert answer is None or read is text or read(QUESTION, answer) is not None


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("It is 5 and then 7.", "7"),
        ("That makes 10 - 4 = 6 apples.", "6"),
        ("10-4", "4"),
        ("from 10 to -4", "-4"),
        ("costs $1,234.50!", "1234.5"),
        ("about 50% of it", "50"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("x2 and A4", None),
        ("no number", None),
        ("", None),
    ],
)
def test_last_number(response: str, number: str | None) -> None:
    assert last_number(QUESTION, response) == number


@pytest.mark.parametrize(
    ("response", "plain", "number"),
    [
        (r"So \boxed{42}.", "42", "42"),
        (r"So \boxed{\frac{1}{2}} it is", "0.5", "0.5"),
        (r"\boxed{1} no, \boxed{2}", "2", "2"),
        (r"\boxed{1} but \boxed{2", "1", "1"),
        ("Answer: 7\nno\nAnswer: 8", "8", "8"),
        ("**Answer:** Paris", "paris", None),
        ("**Answer**: Paris.", "paris", None),
        ("The answer is Paris.\nI am sure.", "paris", None),
        ("Final answer:\n\n**12 apples**", "12 apples", "12"),
        ("Answer: \\boxed{9}", "9", "9"),
        ("6 * 7 = 42\n#### 42", "42", "42"),
        ("the answers are 3", "the answers are 3", "3"),
        ("I count 3, 4 and 5", "i count 3, 4 and 5", "5"),
        ("Answer:", None, None),
        ("", None, None),
    ],
)
def test_auto(response: str, plain: str | None, number: str | None) -> None:
    assert auto()(QUESTION, response) == plain
    assert auto(numeric=True)(QUESTION, response) == number


def test_text_and_last_line() -> None:
    assert text(QUESTION, "  A\n  b ") == "A b"
    assert text(QUESTION, " \n ") is None
    assert last_line(QUESTION, "one\n**Two.**\n\n```\n") == "two"
    assert last_line(QUESTION, "\n") is None
    assert marked_answer("nothing here") is None


def test_long_texts_take_no_time() -> None:
    for unit in ("1,000,", "answer: ", "\\boxed{", "\\frac{", "9", "9" * 50 + " ", "\n", "-", "1/"):
        long = unit * (100_000 // len(unit))
        for read in (text, last_line, last_number, auto(), auto(numeric=True)):
            read(QUESTION, long)
    assert last_number(QUESTION, "9" * 5000) is None
