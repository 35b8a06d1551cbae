"""Multiple choice: which letter a response chooses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.types import Problem, Question
from samplewise.verify.choice import LETTERS, answer_options, grade_choice, letter_of, lettered, read_choice

OPTIONS = ["Paris", "New York", "12", "A dog", "Rome"]
QUESTION = Question("q", (), {"options": OPTIONS})
OPEN = Question("q", ())


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("The answer is (C)", "C"),
        ("The answer is (C).", "C"),
        ("the answer is: C", "C"),
        ("**C**", "C"),
        ("C.", "C"),
        ("C", "C"),
        ("d", "D"),
        ("option C", "C"),
        ("The best choice is C", "C"),
        ("The answer is **B**.", "B"),
        ("Answer: b", "B"),
        ("Answer: (b) New York", "B"),
        ("Answer: A: Paris", "A"),
        ("**Answer:** B", "B"),
        ("Answer:\n\nC", "C"),
        ("the answer is\n**B)** New York", "B"),
        ("The correct answer is option (E).", "E"),
        ("The correct answer is E, Rome", "E"),
        ("Final answer: **(D) A dog**", "D"),
        ("the answer is choice B", "B"),
        ("The answer is the letter C", "C"),
        (r"\boxed{C}", "C"),
        (r"\boxed{\text{(C)}}", "C"),
        (r"\boxed{\textbf{C}}", "C"),
        (r"the answer is $\boxed{D}$", "D"),
        (r"\boxed{12}", "C"),
        ("The answer is New York.", "B"),
        ("New York", "B"),
        ("The answer is A dog", "D"),  # the text of an option, and no A
        ("Not A. The answer is C since it fits", "C"),
        ("Answer: B\nno, wait\nAnswer: C", "C"),
        ("So C is correct because of it.", "C"),
        ("I'd say B is right", "B"),
        ("I have thought.\nC) 12", "C"),
        ("C\n\nI am confident.", "C"),
        ("Answer: C because it is", "C"),
        ("The answer is A", "A"),
        ("The answer is A.", "A"),
        (r"\boxed{\Delta E \le 1}. **Answer: D**", "D"),
        (r"**Answer: D**, so \boxed{\Delta E \le 1}", "D"),
        ("b. 4", "B"),
        ("I would pick B — a safe choice.", "B"),
        ("I'd go with (C).", "C"),
        ("The answer is not A. It is B.", "B"),
        ("The answer isn't B; it's C.", "C"),
        ("I think it's D.", "D"),
        ("Answer: B. Wait, it's C.", "C"),
        ("Option C is wrong, so option B.", "B"),
        ("Option B is correct, not option C", "B"),
        (r"\boxed{\text{New York}}", "B"),
        (r"\boxed{\frac{24}{2}}", "C"),
        ('{"answer": "B", "why": "A is wrong"}', "B"),
        ("<think>A? The answer is B?</think>\n\nC", "C"),
        (r"Final answer: \( C \)", "C"),
        (r"Final answer: \(\text{C}\)", "C"),
        ("The answer is C, not D.", "C"),
        ("The answer is:\n\\[\nC\n\\]", "C"),
    ],
)
def test_a_choice_is_read(response: str, letter: str) -> None:
    assert read_choice(QUESTION, response) == letter


@pytest.mark.parametrize(
    "response",
    [
        "",
        "A dog barks",
        "A good answer is hard to find",
        "The answer is A good one",
        "The answer is I don't know",
        "I think so",
        "The answer is A or B",
        "The answer is (A) and (C)",
        "The answer is A, B and C",
        "The answer is (F)",  # there is no such option
        "Answer: A-level",
        "Answer: Berlin",
        "Answer:",
        "42",
        "C is not correct.",
        "The answer is not A or C",
        "I pick A dog's life",
        "A. one\nB. two\nC. three",
        "(a) or (b)",
        "Answer: C? No.",
        "(C)? I cannot tell.",
        "The answer is C, not correct",
        "<think>The answer is A",
        "Because of vitamin C in it, they live",
    ],
)
def test_no_choice_is_made_up(response: str) -> None:
    assert read_choice(QUESTION, response) is None


def test_without_options_ten_letters_are_allowed() -> None:
    assert read_choice(OPEN, "The answer is (J)") == "J"
    assert read_choice(OPEN, "The answer is (K)") is None
    assert answer_options(OPEN) == ()
    assert answer_options(Question("q", (), {"options": "AB"})) == ()


@given(
    st.integers(0, 25), st.sampled_from(["The answer is ({})", "**{}**", "{}.", r"\boxed{{{}}}", "Answer: {}", "({})"])
)
def test_every_letter_is_read_if_it_has_an_option(place: int, form: str) -> None:
    question = Question("q", (), {"options": [f"option number {i}" for i in range(26)]})
    assert read_choice(question, form.format(LETTERS[place])) == LETTERS[place]
    fewer = Question("q", (), {"options": [f"option number {i}" for i in range(max(1, place))]})
    assert read_choice(fewer, form.format(LETTERS[place])) == (LETTERS[place] if place == 0 else None)


@given(st.text(max_size=60), st.lists(st.text(max_size=8), max_size=5))
def test_no_text_raises(response: str, options: list[str]) -> None:
    letter = read_choice(Question("q", (), {"options": options}), response)
    assert letter is None or letter in LETTERS[: len(options) or 10]


def test_options_of_one_text_are_told_apart_by_letter_alone() -> None:
    assert letter_of("same", ["same", "same"]) is None
    assert letter_of("B", ["same", "same"]) == "B"
    assert letter_of("b", ["a", "b", "c"]) == "B"
    assert letter_of("B", ["C", "A", "B"]) == "B"  # a letter is a letter, whatever the options say
    assert letter_of("0.50", ["1", "1/2"]) == "B"


def test_grades() -> None:
    problem = Problem(QUESTION, "C")
    assert grade_choice(problem, "C") == (1.0, "equal to the reference")
    assert grade_choice(problem, "(c)").value == 1.0
    assert grade_choice(problem, "12").value == 1.0
    assert grade_choice(problem, "B") == (0.0, "expected C")
    assert grade_choice(problem, None) == (0.0, "no answer")
    assert grade_choice(problem, " ") == (0.0, "no answer")
    assert grade_choice(Problem(QUESTION, "Rome"), "E").value == 1.0
    assert math.isnan(grade_choice(Problem(QUESTION), "C").value)
    assert math.isnan(grade_choice(Problem(QUESTION, "Berlin"), "C").value)


def test_lines_of_a_prompt() -> None:
    assert lettered(["x", "y"]) == "(A) x\n(B) y"


def test_long_texts_take_no_time() -> None:
    for unit in ("A ", "(A) ", "option ", "answer is ", "**", r"\boxed{", "is is ", "the ", "A or "):
        read_choice(QUESTION, unit * (100_000 // len(unit)))
