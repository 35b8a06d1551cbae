"""The readers of short answers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplewise.core.types import Question
from samplewise.verify.exact import grade_exact, number_grader
from samplewise.verify.marks import marked_answer
from samplewise.verify.named import identity_of
from samplewise.verify.numbers import as_number, normal_form, number_text
from samplewise.verify.readers import json_reader, last_line, marked_text, read_number, text

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
    assert {normal_form(answer) for answer in same} == {form}


@pytest.mark.parametrize(
    "answer",
    ["50%", "5 kg", "1,00", "1,0000", "1.2.3", "1/0", "", "-", "$", "1e500", "1/2/3", "3 4", "10-4", "９"],
)
def test_these_are_not_numbers(answer: str) -> None:
    assert as_number(answer) is None


def test_a_third_is_not_its_decimals() -> None:
    assert normal_form("0.333") != normal_form("1/3")
    assert number_text(Fraction(1, 3)) == "1/3"
    assert number_text(Fraction(-12345, 1000)) == "-12.345"


@settings(max_examples=100, deadline=None)
@given(st.fractions(max_denominator=10**6))
def test_a_number_and_its_form_are_one(value: Fraction) -> None:
    assert as_number(number_text(value)) == value
    assert normal_form(number_text(value)) == number_text(value)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text("0123456789,.-+/$e*` answerANSWER:is\\boxed{}#\n", max_size=80)))
def test_no_text_raises_and_forms_are_stable(response: str) -> None:
    for read in (text, last_line, marked_text, read_number, json_reader("a")):
        answer = read(QUESTION, response)
        assert answer is None or answer.strip()
    number = read_number(QUESTION, response)
    assert number is None or read_number(QUESTION, number) == number


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("It is 5 and then 7.", "7"),
        ("That makes 10 - 4 = 6 apples.", "6"),
        ("10-4", None),  # a range, or a sum without its result
        ("from 10 to -4", None),
        ("it is -4", "-4"),
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
    assert read_number(QUESTION, response) == number


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
        ("The answer is Paris, as it is the capital.", "paris", None),
        ("The answer is St. Louis. It is in Missouri.", "st. louis", None),
        ('{"answer": "Paris", "confidence": 0.9}', "paris", None),
        ("<think>France, so</think>\n\nParis", "paris", None),
        ("Answer: Rome. Wait, no.", None, None),
        ("Answer:", None, None),
        ("", None, None),
    ],
)
def test_marked_answers(response: str, plain: str | None, number: str | None) -> None:
    assert marked_text(QUESTION, response) == plain
    assert read_number(QUESTION, response) == number


@pytest.mark.parametrize(
    ("response", "number"),
    [
        ("The answer is 18 because she sells 9 eggs at $2 each.", "18"),
        ("Answer: 391, as 17 * 23 = 340 + 51.", "391"),
        ("The answer is 17 * 23 = 391", "391"),
        ("<think>perhaps the answer is 5. No.</think>\n72", "72"),
        ("<think>so the answer is 5, wait", None),
        ("The answer is 340?\nNo.\n</think>\n391", "391"),
        ("The answer is 12:00", None),
        ("The answer is 3 × 10^5", "300000"),
        ("The answer is 1 234", "1234"),
        ("The answer is 1.234,56", "1234.56"),
        ("The answer is 20 to 30", None),
        ("The answer is sqrt(2)", None),
        ("The answer is 3 hours and 20 minutes", None),
        ('{"answer": 42, "confidence": 0.9}', "42"),
        ('```json\n{"confidence": 0.9, "answer": 42}\n```', "42"),
        ('So:\n{"steps": [1, 2], "result": {"final_answer": "42 eggs"}}', "42"),
        ('{"answer": 42, "confid', "42"),
        ('{"answer": null, "count": 3}', None),
        ("The answer is not 5 but 7.", "7"),
        ("The answer is not 5. It is 7.", "7"),
        ("The answer isn't 5; it's 7", "7"),
        ("The answer is not 5.", None),
        ("Answer: 5\nWait, that's wrong. It should be 7.", "7"),
        ("Answer: 18. Wait, let me check: 9 * 2 = 18. Yes.", "18"),
        ("The answer is 5. Wait, no.", None),
        ("Answer: 8, no: 7", "7"),
        ("Answer: She sells 9 eggs at $2 each, so she makes $18.", "18"),
        ("Answer: She sells 9 eggs at $2 each.", None),
        ("The answer is 5 apples and 3 oranges.", None),
        ("The answer is 5, not 7.", "5"),
        ("If the answer is 5, we fail. It is 7.", "7"),
        (r"\boxed{18}. So our answer is correct.", "18"),
        (r"\boxed{3\sqrt{13}}", None),
        (r"\boxed{6 - 5i}", None),
        ("<answer>391</answer>", "391"),
        ("The answer is twenty-three, because 20 + 3 is that.", "23"),
        ("The answer is one of them", None),
        ("The answer is two hundred and five.", "205"),
        ("391\nConfidence: 95%", "391"),
        ("The total is 18 (9 eggs at $2 each).", "18"),
        ("Answer: - 3", "-3"),
        (r"\boxed{- 3}", "-3"),
        ("The change is 5 - 8 = - 3", "-3"),
        ("The profit is x = - $3", "-3"),
        ("Answer:\n- 3 apples", "3"),  # a bullet
        ("- 3 apples", "3"),
        (r"\boxed{\frac{-1}{2}}", "-0.5"),
        ("The answer is minus 5.", "-5"),
        ("The answer is negative 5 degrees.", "-5"),
        ("It is 10 minus 5.", None),
        ("It is her age minus 5.", None),
        ("3 apples plus 5 pears is 8", "8"),
        ("10 minus 5 is 5", "5"),
        ("Answer: –5", "-5"),  # a dash
        ("The answer is 3–5", None),
        ("The answer is -(5).", "-5"),
        ("The answer is ≥ 5.", None),
        ("x ≤ 5", None),
        ("The answer is 0.(3).", None),
        ("The answer is 0.3\u0305.", None),
        (r"\boxed{0.\overline{3}}", None),
        ("The answer is …5", "5"),
        ("The answer is x = 1, y = 2.", None),
        ("The answer is (a) 1 (b) 2.", None),
        ("The answer is 41.5, which rounds up to 42.", "42"),
        ("The answer is 41.56, rounded to 2 decimal places.", "41.56"),
        ("So she has $5 and 25 cents.", None),
        (r"\boxed{7!}", None),
        ("The answer is $7!$.", None),
        ("The answer is 7!", "7"),
        ("The answer is:\n\\[\n42\n\\]", "42"),
        ("The answer is:\n$$\n48 + 24\n= 72\n$$", "72"),
        ("The answer is:\n\\[\n42", "42"),
    ],
)
def test_the_number_that_is_meant_is_read(response: str, number: str | None) -> None:
    assert read_number(QUESTION, response) == number


@pytest.mark.parametrize(
    ("path", "response", "answer"),
    [
        ("total", '{"total": "1,000.0", "answer": 3}', "1000"),
        ("total", 'First {"total": 1} then\n```json\n{"total": 2}\n```', "2"),
        ("a.b.1", '{"a": {"b": [1, "New  York."]}}', "new york"),
        ("a", '{"a": {"z": 1.0, "y": ["B", null, true]}}', "{'y': ['b', null, true], 'z': 1}"),
        ("a", '{"a": {"y": ["b", null, true], "z": 1}}', "{'y': ['b', null, true], 'z': 1}"),
        ("a", '{"a": true}', "true"),
        ("a", '{"a": null}', None),
        ("a", '{"b": 1}', None),
        ("a", '{"a": NaN}', "nan"),
        ("a", '{"a": 1', None),
        ("0.a", '[{"a": 5}]', "5"),
        ("a", '<think>{"a": 1}</think>{"a": 2}', "2"),
        ("", '{"b": 2, "a": 1}', "{'a': 1, 'b': 2}"),
    ],
)
def test_a_field_of_json(path: str, response: str, answer: str | None) -> None:
    assert json_reader(path)(QUESTION, response) == answer


def test_a_path_has_names() -> None:
    with pytest.raises(ValueError, match=r"path must be names between dots, got 'a\.\.b'"):
        json_reader("a..b")


def test_a_number_of_json_is_never_worked_out() -> None:
    assert json_reader("a")(QUESTION, '{"a": 1e999999999}') == "1e999999999"
    assert json_reader("a")(QUESTION, '{"a": ' + "[" * 10**6 + "]" * 10**6 + "}") is None


def test_parts_say_their_version() -> None:
    assert identity_of(read_number) == "number/3"
    assert identity_of(json_reader("a.b")) == "json('a.b')/1"
    assert identity_of(grade_exact) == "exact/1"
    assert identity_of(number_grader(0.001)) == "number(0.001)/1"
    assert identity_of(test_parts_say_their_version).endswith("test_readers.test_parts_say_their_version")  # type: ignore[arg-type]


def test_text_and_last_line() -> None:
    assert text(QUESTION, "  A\n  b ") == "A b"
    assert text(QUESTION, " \n ") is None
    assert last_line(QUESTION, "one\n**Two.**\n\n```\n") == "two"
    assert last_line(QUESTION, "\n") is None
    assert marked_answer("nothing here") is None


def test_long_texts_take_no_time() -> None:
    for unit in ("1,000,", "answer: ", "\\boxed{", "\\frac{", "9", "9" * 50 + " ", "\n", "-", "1/"):
        long = unit * (100_000 // len(unit))
        for read in (text, last_line, marked_text, read_number, json_reader("a")):
            read(QUESTION, long)
    assert read_number(QUESTION, "9" * 5000) is None
