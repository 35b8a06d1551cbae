"""Recorded draws in the shapes that other tools write."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest

from samplewise.core.errors import BadInput, UnknownName
from samplewise.core.types import Message, Problem, Question
from samplewise.recorded import Recording, load_recording
from samplewise.tasks.recorded import recorded_task


def written(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(recording: Recording) -> list[list[str]]:
    return [[draw.completion.text for draw in draws] for draws in recording.draws]


def test_a_question_a_line(tmp_path: Path) -> None:
    row = {"id": 7, "problem": "1 + 1?", "answer": 2, "completions": ["2", "3"], "scores": [[0.1, 0.9], [0.2, 0.3]]}
    row |= {"completion_tokens": [11, 12], "correct": [True, False]}
    found = load_recording(written(tmp_path / "a.jsonl", row))
    assert found.problems == (Problem(Question("7", (Message("user", "1 + 1?"),)), "2"),)
    assert texts(found) == [["2", "3"]]
    first, second = found.draws[0]
    assert (first.scores, second.scores) == ({"score": 0.9}, {"score": 0.3}), "of step scores the last counts"
    assert (first.grade, second.grade) == (1.0, 0.0)
    assert (first.completion.usage.completion_tokens, second.completion.usage.completion_tokens) == (11, 12)


def test_a_draw_a_line(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{i % 2}", "response": f"r{i}"} for i in range(4)]
    found = load_recording(written(tmp_path / "b.jsonl", *rows))
    assert texts(found) == [["r0", "r2"], ["r1", "r3"]]
    assert all(math.isnan(draw.grade) and not draw.scores for draws in found.draws for draw in draws)
    assert found.draws[0][0].completion.usage == (1, 1, 1, 0, 0, 0.0, 0.0), "estimated: four characters a token"


def test_draws_as_objects_and_messages(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "hi"}], "draws": [{"text": "a", "score": 1, "correct": 1}]}
    found = load_recording(written(tmp_path / "c.jsonl", row))
    assert found.problems[0].question.messages == (Message("user", "hi"),)
    assert found.draws[0][0].scores == {"score": 1.0}
    assert found.draws[0][0].grade == 1.0


def test_a_folder_of_seeds(tmp_path: Path) -> None:
    for seed in range(3):
        written(tmp_path / f"output-rs{seed}.jsonl", {"problem": "p", "expected_answer": "4", "generation": f"g{seed}"})
    found = load_recording(str(tmp_path))
    assert texts(found) == [["g0", "g1", "g2"]]
    assert found.problems[0].reference == "4"


def test_ids_without_prompts_need_the_task(tmp_path: Path) -> None:
    path = written(tmp_path / "d.jsonl", *({"task_id": "HumanEval/0", "completion": f"c{i}"} for i in range(2)))
    with pytest.raises(BadInput, match=r"d.jsonl:1: 'HumanEval/0' comes without its prompt.*give task="):
        load_recording(path)
    problem = Problem(Question("HumanEval/0", (Message("user", "def f():"),)), "tests")
    assert load_recording(path, (problem,)).problems == (problem,)
    assert texts(load_recording(path, (problem,))) == [["c0", "c1"]]
    with pytest.raises(BadInput, match="no such problem is in the task"):
        load_recording(path, (problem._replace(question=problem.question._replace(id="other")),))


def test_the_output_of_a_batch(tmp_path: Path) -> None:
    body = {"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}
    path = written(tmp_path / "e.jsonl", {"custom_id": "q1", "response": {"status_code": 200, "body": body}})
    problem = Problem(Question("q1", (Message("user", "hi"),)))
    assert texts(load_recording(path, (problem,))) == [["a", "b"]]


@pytest.mark.parametrize("arguments", [[["1 + 1?", {"until": []}]], {"gen_args_0": {"arg_0": "1 + 1?", "arg_1": {}}}])
def test_the_samples_of_the_harness(tmp_path: Path, arguments: object) -> None:
    row = {"doc_id": 3, "doc": {"question": "no"}, "target": "2", "arguments": arguments, "exact_match": 1.0}
    row |= {"resps": [["2", "3"]], "filtered_resps": ["2"]}
    found = load_recording(written(tmp_path / "samples_gsm8k.jsonl", row))
    assert found.problems == (Problem(Question("3", (Message("user", "1 + 1?"),)), "2"),)
    assert texts(found) == [["2", "3"]]
    likelihoods = {**row, "resps": [[[-1.5, False]], [[-0.5, True]]]}
    with pytest.raises(BadInput, match="a draw is a text"):
        load_recording(written(tmp_path / "samples_arc.jsonl", likelihoods))
    with pytest.raises(BadInput, match="comes without its prompt"):
        load_recording(written(tmp_path / "samples_none.jsonl", {**row, "arguments": []}))


def test_gzip(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "p", "samples": ["a"]}\n\n'))
    assert texts(load_recording(str(path))) == [["a"]]
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadInput, match="cannot be read"):
        load_recording(str(path))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "1: not JSON"),
        ("[1]", "1: expected a JSON object"),
        ('{"prompt": "p"}', "1: no draws; give a list samples"),
        ('{"samples": ["a"]}', "1: no question; give one of prompt"),
        ('{"prompt": "p", "samples": [3]}', "1: a draw is a text; got '3'"),
        ("", "holds no recorded draws"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(BadInput, match=complaint):
        load_recording(str(path))


def test_a_name_that_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean math_qwen_rm_8x"):
        load_recording("math_qwen_8x")


def test_several_accepted_answers_of_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"prompt": "a", "answer": ["42", "forty-two"], "samples": ["42", "forty-two", "43"]}\n')
    task = recorded_task(str(path))
    (problem,) = task.problems
    assert problem.reference == ["42", "forty-two"]
    assert [task.grade(problem, answer).value for answer in ("42", "forty-two", "43", None)] == [1.0, 1.0, 0.0, 0.0]
