"""The auto reader: the question says what kind of answer is read."""

from __future__ import annotations

import pytest

from samplewise.core.registry import build
from samplewise.core.types import Message, Question
from samplewise.verify.auto import answer_form, read_auto

OPTIONS = ("Which is the capital?\n\nA) Rome\nB) Paris", "Pick one: (A) red, (B) blue")


def asked(text: str, **facts: object) -> Question:
    return Question("q", (Message("system", "Be brief. 1 + 1"), Message("user", text)), facts)


@pytest.mark.parametrize(
    ("question", "responses"),
    [
        (
            "What is 17 * 23?",
            {
                "391": [
                    "17 * 23 = 391.",
                    "391",
                    "The product is 391.",
                    "**391**",
                    "<think>5?</think>\n\n391",
                    "391 apples",
                ],
                "20 to 30": ["20 to 30"],
                "i don't know": ["I don't know."],
            },
        ),
        (
            "How many eggs are left?",
            {"9": ["9", "There are 9 eggs left.", "She uses 7.\n\nSo 16 - 7 = 9", '{"answer": 9, "confidence": 0.8}']},
        ),
        (
            "What is the capital of France?",
            {
                "paris": [
                    "Paris",
                    "**Paris**.",
                    "<think>France, so</think>\n\nParis",
                    "The answer is Paris, which has 2 million people.",
                    '{"answer": "Paris"}',
                ],
                "it has 2 million people": ["It has 2 million people"],
            },
        ),
        (OPTIONS[0], {"B": ["B", "The answer is B.", "Paris", "(B) Paris", "b. Paris"], "berlin": ["Berlin"]}),
        (OPTIONS[1], {"A": ["(A)", "red", "I pick A."]}),
        ("Write a poem", {None: ["<think>A rose", ""], "a rose": ["A rose"]}),
    ],
)
def test_equal_answers_are_one_vote(question: str, responses: dict[str | None, list[str]]) -> None:
    for answer, written in responses.items():
        assert {read_auto(asked(question), response) for response in written} == {answer}


def test_the_question_alone_says_what_is_read() -> None:
    assert answer_form(asked("x", options=["one", "two"])) == ("choice", ("one", "two"))
    assert answer_form(asked(OPTIONS[0])) == ("choice", ("Rome", "Paris"))
    assert answer_form(asked(OPTIONS[1])) == ("choice", ("red", "blue"))
    for question in ("How many?", "Compute 5!", "What's the sum of 3 and 4?", "2 + 2", "In what year did it end?"):
        assert answer_form(asked(question))[0] == "number", question
    for question in ("Name 3 fruits.", "make 24 from 4 6 7 8", "Who was Louis XIV?", "A) is no list", ""):
        assert answer_form(asked(question))[0] == "text", question
    assert answer_form(Question("q", ()))[0] == "text"


def test_readers_are_named_by_specs() -> None:
    question = asked("x")
    for spec, response, answer in (
        ("number", "It is 5.", "5"),
        ("choice", "It is B.", "B"),
        ("text", " It  is ", "It is"),
        ("last_line", "a\nB.", "b"),
        ("auto", "The answer is Yes", "yes"),
        ("maths", r"\boxed{\frac{2}{4}}", "0.5"),
        ('json("a.b")', '{"a": {"b": 42.0}}', "42"),
    ):
        assert build("reader", spec)(question, response) == answer
