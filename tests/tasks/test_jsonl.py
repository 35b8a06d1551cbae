"""A user's own file: every row is read as meant, or refused with its line and what to do."""

from __future__ import annotations

import gzip
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import BadInput
from samplewise.core.types import Message, Problem, Question, Score
from samplewise.tasks.base import Task
from samplewise.tasks.jsonl import jsonl
from samplewise.verify.named import NamedGrader, accept_any


def load(folder: Path, *rows: Any, **settings: Any) -> Task:
    path = folder / "mine.jsonl"
    lines = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    path.write_bytes(b"\n".join(lines))
    return jsonl(path, **settings)


def graded(task: Task, response: str, index: int = 0) -> float:
    problem = task.problems[index]
    return task.grade(problem, task.read(problem.question, response)).value


def test_rows_are_read_as_meant(tmp_path: Path) -> None:
    task = load(
        tmp_path,
        b'\xef\xbb\xbf{"prompt": "one", "answer": 1}\r',
        "",
        {"question": "two", "target": 2.5, "other": "ignored"},
        {
            "problem": "drei ä",
            "expected_answer": "III",
            "id": "c",
            "metadata": {"solution": "hidden"},
            "facts": {"n": [3]},
        },
        {"input": "four", "answer": None, "id": 77},
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            ]
        },
        "   ",
    )
    assert task.name == "mine"
    assert [q.id for q in task.questions] == ["1", "3", "c", "77", "6"]
    assert [p.reference for p in task.problems] == ["1", "2.5", "III", None, None]
    assert task.questions[0].messages == (Message("user", "one"),)
    assert task.questions[2].messages == (Message("user", "drei ä"),)
    assert task.questions[2].facts == {"n": [3]}
    assert "hidden" not in repr(task.problems)
    assert task.questions[4].messages == (Message("system", "be brief"), Message("user", "a\nb"))
    assert task.description == "5 questions, 3 with a reference."


def test_gzip_limit_and_name(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "a"}\n' * 5 + b"broken"))
    task = jsonl(str(path), limit=5)
    assert (task.name, len(task.problems)) == ("many", 5)
    assert jsonl(path, limit=2, name="few").name == "few"
    with pytest.raises(BadInput, match=r"many\.jsonl\.gz:6: not JSON"):
        jsonl(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("nope", "not JSON: Expecting value at column 1; write one object a line"),
        ('{"prompt": "a"', "not JSON: Expecting ',' delimiter at column 15"),
        ("[" * 10**6, "its JSON is nested too deeply"),
        ('{"prompt": "a", "answer": NaN}', "NaN is not a JSON number; write null"),
        ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
        ("[1]", 'expected a JSON object, got a list; write {"prompt": ...}'),
        ('"text"', "expected a JSON object, got a string"),
        ('{"prompt": "a', "not JSON: Unterminated string starting at column 12"),
        ({}, "no question; give one of prompt, question, problem, input, messages"),
        ({" Question ": "a", "b;c": 1}, 'input, messages; this row has " Question ", "b;c"'),
        ({"prompt": "a", "input": "b"}, "prompt and input both ask the question; keep one of them"),
        (
            {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
            "prompt and messages both ask the question; keep one of them",
        ),
        ({"prompt": "a", "answer": 1, "target": 1}, "answer and target both give the answer; keep one of them"),
        ({"prompt": " "}, "prompt: expected a text; got an empty one"),
        ({"prompt": 3}, "prompt: expected a text; got 3"),
        ({"prompt": ["a"]}, "prompt: expected a text; got a list"),
        ({"prompt": "a", "answer": ""}, "leave the field out where the answer is not known; got an empty one"),
        ({"prompt": "a", "answer": True}, "answer: expected a text, a number or a list of them; leave the field out"),
        ({"prompt": "a", "answer": []}, "answer: expected a text, a number or a list of them"),
        ({"prompt": "a", "answer": ["x", ""]}, "answer: expected a text, a number or a list of them"),
        ({"prompt": "a", "answer": ["x", ["y"]]}, "answer: expected a text, a number or a list of them"),
        ({"prompt": "a", "answer": ["x", None]}, "answer: expected a text, a number or a list of them"),
        ({"prompt": "a", "id": 1.5}, "id: expected a text or a whole number; got 1.5"),
        ({"prompt": "a", "facts": [1]}, "facts: expected an object; got a list"),
        ({"messages": []}, "messages: expected a list of objects"),
        ({"messages": "hi"}, "messages: expected a list of objects"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: expected a text or a list"),
        (
            {"messages": [{"role": "tool", "content": "a"}]},
            "messages.0.role: expected system, developer, user or assistant",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "image_url: only text can be asked; leave this row out",
        ),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(tmp_path, {"prompt": "fine"}, row)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'mine.jsonl'}:2: ")
    assert message in said
    assert "\n" not in said
    assert len(said) < 300 + len(str(tmp_path))


def test_ids_must_differ(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mine\.jsonl:3: id 'a' is already the id of line 1; make them differ"):
        load(tmp_path, {"prompt": "x", "id": "a"}, {"prompt": "y"}, {"prompt": "z", "id": "a"})
    with pytest.raises(BadInput, match=r":2: id '2' is already the id of line 1"):
        load(tmp_path, {"prompt": "x", "id": 2}, {"prompt": "y"})  # the second has its line number


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no such file"):
        jsonl(tmp_path / "none.jsonl")
    with pytest.raises(BadInput, match="cannot be read: Is a directory"):
        jsonl(tmp_path)
    with pytest.raises(BadInput, match="holds no questions"):
        load(tmp_path, "", "  ")
    with pytest.raises(BadInput, match=r":2: byte 13 is not UTF-8; save the file as UTF-8"):
        load(tmp_path, {"prompt": "x"}, b'{"prompt": "\xff"}')
    whole = gzip.compress(b'{"prompt": "a"}\n' * 1000)
    for content in (b"plain text", whole[:-20], whole[:30] + b"\xff" * 30):
        (tmp_path / "bad.jsonl.gz").write_bytes(content)
        with pytest.raises(BadInput, match="cannot be read"):
            jsonl(tmp_path / "bad.jsonl.gz")
    for settings, message in (({"read": "words"}, "read must be one of"), ({"limit": 0}, "limit must be at least 1")):
        with pytest.raises(ValueError, match=message):
            load(tmp_path, {"prompt": "x"}, **settings)


def test_number_answers_are_compared_exactly(tmp_path: Path) -> None:
    task = load(tmp_path, {"prompt": "a", "answer": "1,000"}, {"prompt": "b", "answer": 0.5}, {"prompt": "c"})
    for response in ("It is 1000.", "Answer: $1,000.00", r"\boxed{1000.0}", "5 + 995 = 1e3"):
        assert graded(task, response) == 1.0, response
    for response in ("It is 1001.", "", "none", "Answer: unknown, 1000 perhaps not"):
        assert (graded(task, response) == 1.0) is (response.startswith("Answer")), response
    assert graded(task, "The answer is 1/2", 1) == 1.0
    assert math.isnan(graded(task, "7", 2))
    assert math.isnan(graded(task, "", 2))


def test_text_answers(tmp_path: Path) -> None:
    task = load(tmp_path, {"prompt": "a", "answer": "New York"}, {"prompt": "b", "answer": "7"})
    assert graded(task, "The answer is **new  york**.") == 1.0
    assert graded(task, "New York") == 1.0
    assert graded(task, "It is New York") == 0.0  # no mark, so the whole response is the answer
    assert graded(task, "") == 0.0
    assert graded(task, "Answer: 7.0", 1) == 1.0
    line = load(tmp_path, {"prompt": "a", "answer": "New York"}, read="last_line")
    assert graded(line, "Let me see.\nNew York.") == 1.0
    exact = load(tmp_path, {"prompt": "a", "answer": "New  York"}, read="text")
    assert graded(exact, " New York\n") == 1.0
    assert graded(exact, "new york") == 0.0


def test_a_worked_reference_gives_its_last_number(tmp_path: Path) -> None:
    task = load(tmp_path, {"question": "a", "answer": "She has 3 + 4 = 7.\n#### 7"})
    assert graded(task, "So 7") == 1.0
    assert graded(task, "So 8") == 0.0


def test_number_reading_wants_number_references(tmp_path: Path) -> None:
    assert graded(load(tmp_path, {"prompt": "a", "answer": 7}, read="number"), "Answer: 8, no: 7") == 1.0
    with pytest.raises(BadInput, match=r":2: reference 'Paris' is not a number; use another read than 'number'"):
        load(tmp_path, {"prompt": "a", "answer": 7}, {"prompt": "b", "answer": "Paris"}, read="number")


def test_mathematical_answers(tmp_path: Path) -> None:
    pytest.importorskip("math_verify", reason="maths grading needs samplewise[eval]")
    task = load(
        tmp_path,
        {"prompt": "a", "answer": r"\frac{1}{2}"},
        {"prompt": "b", "answer": r"So it is \boxed{\{1, 2\}}"},
        {"prompt": "c"},
        read="maths",
    )
    for response in (r"\boxed{0.5}", "The answer is $1/2$.", r"#### \dfrac12"):
        assert graded(task, response) == 1.0, response
    assert graded(task, r"\boxed{0.6}") == 0.0
    assert graded(task, r"\boxed{2, 1}", 1) == 1.0
    assert graded(task, r"\boxed{(1, 2)}", 1) == 0.0
    assert math.isnan(graded(task, r"\boxed{1}", 2))


def test_choices(tmp_path: Path) -> None:
    options = {"options": ["Ann", "Bob", "Cy"]}
    task = load(
        tmp_path,
        {"prompt": "a", "answer": "B", "facts": options},
        {"prompt": "b", "answer": "Cy", "facts": options},
        {"prompt": "c", "answer": "(d)"},
        {"prompt": "d"},
        read="choice",
    )
    assert graded(task, "The answer is (B).") == 1.0
    assert graded(task, "Bob") == 1.0
    assert graded(task, "A man") == 0.0
    assert graded(task, "**C**", 1) == 1.0
    assert graded(task, "D.", 2) == 1.0
    assert math.isnan(graded(task, "D.", 3))
    with pytest.raises(BadInput, match=r":1: reference 'Dan' is no option; give its letter, or the options in facts"):
        load(tmp_path, {"prompt": "a", "answer": "Dan", "facts": options}, read="choice")


def test_any_of_several_accepted_answers_is_right(tmp_path: Path) -> None:
    task = load(
        tmp_path, {"question": "six times seven", "answer": ["42", "forty-two"]}, {"question": "b", "answer": "x"}
    )
    assert task.problems[0].reference == ["42", "forty-two"]
    assert graded(task, r"So \boxed{42}") == graded(task, "The answer is forty-two") == 1.0
    assert graded(task, r"So \boxed{43}") == graded(task, "") == 0.0
    assert graded(task, "x", 1) == 1.0
    score = task.grade(task.problems[0], "43")
    assert score.reason == "expected any of '42', 'forty-two'"
    numbers = load(tmp_path, {"question": "a", "answer": ["1,000", 2.5]}, {"question": "b", "answer": 3})
    assert numbers.problems[0].reference == ["1,000", "2.5"]
    assert [graded(numbers, f"so it is {text}") for text in ("1000", "5/2", "3")] == [1.0, 1.0, 0.0]
    maths = load(tmp_path, {"question": "a", "answer": [r"\sqrt{2}", "0.5"]}, read="maths")
    assert [graded(maths, rf"\boxed{{{text}}}") for text in (r"\sqrt{2}", r"\frac12", "2")] == [1.0, 1.0, 0.0]
    text = load(tmp_path, {"question": "a", "answer": ["ja", "yes"]}, read="text")
    assert [graded(text, each) for each in ("ja", "yes", "no")] == [1.0, 1.0, 0.0]
    choice = {"question": "a", "answer": ["A", "three"], "facts": {"options": ["one", "two", "three"]}}
    letters = load(tmp_path, choice, read="choice")
    assert [graded(letters, f"The answer is ({letter})") for letter in "ABC"] == [1.0, 0.0, 1.0]
    listed = load(tmp_path, {"question": "a", "choices": ["one", "two", "three"], "answer": [0, 2]}, read="choice")
    assert listed.problems[0].reference == ["A", "C"]


def test_every_accepted_answer_must_fit_the_reader(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"mine\.jsonl:1: reference 'forty-two' is not a number"):
        load(tmp_path, {"question": "a", "answer": ["42", "forty-two"]}, read="number")
    with pytest.raises(BadInput, match=r"mine\.jsonl:1: reference 'D' is no option"):
        load(tmp_path, {"question": "a", "answer": ["A", "D"], "facts": {"options": ["x", "y"]}}, read="choice")


def test_what_cannot_be_compared_is_unknown_beside_another_that_is_wrong(tmp_path: Path) -> None:
    def grade(problem: Problem, answer: str | None) -> Score:
        values = {"right": 1.0, "unknown": math.nan, "wrong": 0.0}
        return Score(values[problem.reference])

    grader = accept_any(NamedGrader("g", 3, grade))
    assert (grader.name, grader.version) == ("g", 3)
    question = Question("q", ())
    assert grader(Problem(question, ["wrong", "unknown", "right"]), "x").value == 1.0
    assert math.isnan(grader(Problem(question, ["wrong", "unknown"]), "x").value)
    assert grader(Problem(question, "wrong"), "x").value == 0.0


def test_fields_that_are_not_asked_are_said_once(tmp_path: Path) -> None:
    rows = [{"question": f"q{i}", "answer": "1", "context": "c", "metadata": {}, "level": i} for i in range(5)]
    path = tmp_path / "mine.jsonl"
    assert load(tmp_path, *rows, {"question": "b", "hint": "h"}).notes == (
        f"{path}: fields context, level, hint not asked; what belongs to the question must stand in its text",
    )
    assert load(tmp_path, {"question": "b", "answer": "1", "id": "a", "facts": {}, "metadata": {}}).notes == ()
    many = load(tmp_path, {"question": "b", **{f"f{i}": i for i in range(12)}, "\x1b": 0}).notes
    assert many[0].startswith(f"{path}: fields f0, f1, f2, f3, f4, f5, f6, f7 and 5 more not asked; ")
    batch = {"custom_id": "a", "body": {"model": "m", "instructions": "be brief", "input": "hi"}, "method": "POST"}
    assert "fields body.model, body.instructions not asked" in load(tmp_path, batch).notes[0]
    alpaca = load(tmp_path, {"instruction": "add", "input": "1 and 2", "output": "3"})
    assert alpaca.notes == ()


def test_a_file_of_numbers_and_texts_reads_each_as_its_reference_is(tmp_path: Path) -> None:
    """One text among the references made every answer a text: "17 + 5 = 22" was no 22, without a word."""
    rows = [("17 + 5?", "22"), ("The capital of France?", "Paris"), ("6 times 7?", ["42", "42.0"]), ("Why?", None)]
    lines = [json.dumps({"question": q} | ({} if a is None else {"answer": a})) for q, a in rows]
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines))
    task = jsonl(tmp_path / "mixed.jsonl")
    texts = ("17 + 5 = 22.", "The answer is Paris.", "6 × 7 = 42", "Because 3 is less than 4.")
    answers = [task.read(problem.question, text) for problem, text in zip(task.problems, texts, strict=True)]
    assert answers == ["22", "paris", "42", "because 3 is less than 4"]
    grades = [task.grade(problem, answer).value for problem, answer in zip(task.problems, answers, strict=True)]
    assert grades[:3] == [1.0, 1.0, 1.0]
    assert math.isnan(grades[3])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_files_name_that_is_not_utf_8_is_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"x\xff.jsonl")
    path.write_text('{"prompt": "a"}\n')
    task = jsonl(path)
    assert task.name == r"x\udcff"
    assert task.source == rf"{tmp_path}/x\udcff.jsonl"
