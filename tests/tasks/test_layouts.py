"""Files as others write them are asked whole, or refused in one line that names the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import BadInput
from samplewise.core.types import Message
from samplewise.tasks.base import Task
from samplewise.tasks.jsonl import jsonl


def load(folder: Path, text: str, name: str = "f.jsonl", **settings: Any) -> Task:
    (folder / name).write_text(text, encoding="utf-8")
    return jsonl(folder / name, **settings)


def test_an_instruction_is_asked_with_its_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Translate to French.", "input": "a dog", "output": "un chien"},
        {"instruction": "Say hello.", "input": "", "output": "hello"},
        {"instruction": "Name a color."},
    ]
    task = load(tmp_path, "\n".join(map(json.dumps, rows)))
    assert [q.messages for q in task.questions] == [
        (Message("user", "Translate to French.\n\na dog"),),
        (Message("user", "Say hello."),),
        (Message("user", "Name a color."),),
    ]
    assert [p.reference for p in task.problems] == ["un chien", "hello", None]


def test_a_batch_file_is_asked(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "1+1?"}]
    row = {
        "custom_id": "r-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": messages},
    }
    task = load(tmp_path, json.dumps(row))
    assert task.questions[0].id == "r-1"
    assert task.questions[0].messages == (Message("system", "be brief"), Message("user", "1+1?"))


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        ({"choices": ["red", "blue"], "answer": 1}, "B"),
        ({"choices": {"text": ["red", "blue"], "label": ["1", "2"]}, "answerKey": "2"}, "B"),
        ({"choices": {"text": ["red", "blue"], "label": ["A", "B"]}, "answerKey": "A"}, "A"),
    ],
)
def test_choices_are_shown_and_answered_by_letter(tmp_path: Path, choices: dict[str, Any], answer: str) -> None:
    task = load(tmp_path, json.dumps({"question": "Which is the sky?", **choices}), read="choice")
    (problem,) = task.problems
    assert problem.question.messages[0].content.startswith("Which is the sky?\n\nOptions:\n")
    assert "red" in problem.question.messages[0].content
    assert problem.reference == answer
    assert task.grade(problem, task.read(problem.question, f"The answer is ({answer}).")).value == 1.0


def test_csv_and_json_lists(tmp_path: Path) -> None:
    csv = '\ufeffid,question,answer,note\na,"one, ""two""\n\nthree",12,x\nb,four,,\n'
    task = load(tmp_path, csv, "f.csv")
    assert [q.id for q in task.questions] == ["a", "b"]
    assert task.questions[0].messages == (Message("user", 'one, "two"\n\nthree'),)
    assert [p.reference for p in task.problems] == ["12", None]
    task = load(tmp_path, json.dumps([{"prompt": "a", "answer": 1}, {"prompt": "b"}], indent=1), "f.json")
    assert [q.id for q in task.questions] == ["1", "2"]
    assert task.problems[0].reference == "1"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "what is it?", "image": "cat.png"}, ":1: image: only text can be asked; leave this row out"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            ":1: image_url: only text can be asked",
        ),
        ({"question": "which?", "choices": ["a"]}, ":1: choices: expected a list of two texts or more"),
        ({"question": "which?", "choices": ["a", "b"], "answer": 2}, ":1: answer: expected the index of a choice"),
        ({"instruction": "x", "input": 3}, ":1: input: expected a text beside the instruction"),
    ],
)
def test_what_cannot_be_asked_is_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(tmp_path, json.dumps(row))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
