"""GSM8K, GSM-Hard and SVAMP, from files of their own making and from the published ones."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import BadInput, SetupError
from samplewise.core.files import data_folder
from samplewise.tasks.arithmetic import gsm8k, gsm_hard, svamp
from samplewise.tasks.base import Task

needs_data = pytest.mark.skipif(
    data_folder() is None or not (data_folder() / "benchmarks").is_dir(),  # type: ignore[operator]
    reason="no published benchmarks: set SAMPLEWISE_DATA",
)
TASKS: tuple[tuple[Callable[..., Task], int], ...] = ((gsm8k, 1319), (gsm_hard, 1319), (svamp, 1000))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    return tmp_path


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


def test_gsm8k(folder: Path) -> None:
    write(
        folder / "gsm8k_test.jsonl.gz",
        {"question": "How many?", "answer": "3 * 400 = <<3*400=1200>>1200\n#### 1,200"},
        {"question": "And now?", "answer": "#### -7"},
    )
    task = gsm8k()
    assert [(problem.question.id, problem.reference) for problem in task.problems] == [
        ("gsm8k/1", "1200"),
        ("gsm8k/2", "-7"),
    ]
    (message,) = task.questions[0].messages
    assert message == (
        "user",
        "How many?\n\nPlease reason step by step, and put your final answer within \\boxed{}.",
    )
    assert task.questions[0].facts == {}
    for response in (r"So \boxed{1200}.", "It makes $1,200.", "#### 1200", "The answer is 1200.00 dollars."):
        assert task.grade(task.problems[0], task.read(task.questions[0], response)).value == 1.0, response
    assert task.grade(task.problems[0], task.read(task.questions[0], r"\boxed{12} or 1200")).value == 0.0
    assert gsm8k(1, prompt="plain").questions[0].messages[0].content == "How many?"
    assert gsm8k(1, prompt="Q: {question}\nA: {x}").questions[0].messages[0].content == "Q: How many?\nA: {x}"
    assert gsm8k(1, prompt="plain").questions[0].id == task.questions[0].id
    with pytest.raises(
        ValueError, match=r"prompt must be one of boxed, plain, or a text with \{question\}; got 'long'"
    ):
        gsm8k(prompt="long")
    write(folder / "gsm8k_test.jsonl.gz", {"question": "How many?", "answer": "1200"})
    with pytest.raises(BadInput, match="row 1 does not fit: the answer has no ####"):
        gsm8k()


def test_gsm_hard_is_graded_within_its_tolerance(folder: Path) -> None:
    write(
        folder / "gsmhardv2.jsonl.gz",
        {"input": "a", "code": "return 1", "target": 14053029.666666666},
        {"input": "b", "code": "", "target": 9284017268534.4},
        {"input": "c", "code": "", "target": -9867630.0},
    )
    task = gsm_hard()
    assert [problem.reference for problem in task.problems] == ["14053029.666666666", "9284017268534.4", "-9867630"]
    assert task.grade(task.problems[0], "14053029.6667").value == 1.0
    assert task.grade(task.problems[0], "14053029.67").value == 0.0
    assert task.grade(task.problems[2], task.read(task.questions[2], r"\boxed{-9,867,630}")).value == 1.0


def test_svamp_has_one_id_for_a_question_wherever_it_comes_from(folder: Path) -> None:
    write(
        folder / "svamp.json.gz",
        {"input": "He has 3. How many?", "target": 3.0},
        {"Body": "She has 4.", "Question": "How many?", "Answer": "4.0"},
        {"input": "She has 4. How many?", "target": 4.0},
    )
    task = svamp()
    ids = [question.id for question in task.questions]
    assert ids[1] + "-2" == ids[2]
    assert [problem.reference for problem in task.problems] == ["3", "4", "4"]
    assert task.questions[1].messages[0].content.startswith("She has 4. How many?\n")


@pytest.mark.parametrize(("make", "num"), TASKS)
def test_nowhere(make: Callable[..., Task], num: int, folder: Path) -> None:
    with pytest.raises(SetupError, match=r"is not here: put .*\.gz into .*benchmarks, or pip install"):
        make()
    with pytest.raises(ValueError, match="limit must be at least 1"):
        make(limit=0)


@needs_data
@pytest.mark.parametrize(("make", "num"), TASKS)
def test_the_published_sets(make: Callable[..., Task], num: int) -> None:
    task = make()
    assert len(task.problems) == num
    assert task.licence == "MIT"
    assert task.source
    assert make(limit=3).problems == task.problems[:3]
    for problem in task.problems:
        question = problem.question
        assert task.grade(problem, problem.reference).value == 1.0
        assert task.grade(problem, task.read(question, rf"So it is \boxed{{{problem.reference}}}.")).value == 1.0
        assert task.grade(problem, str(float(problem.reference) + 1)).value == 0.0
        assert not question.facts


@needs_data
@pytest.mark.slow
def test_the_authors_of_gsm8k_and_we_agree_on_their_own_models() -> None:
    """All 5,276 solutions of four systems, against the labels published with them."""
    folder = data_folder()
    assert folder is not None
    task = gsm8k()
    agreed = total = 0
    with gzip.open(folder / "benchmarks" / "gsm8k_example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as file:
        for line, problem in zip(file, task.problems, strict=True):
            row = json.loads(line)
            for system in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
                answer = task.read(problem.question, row[system]["solution"])
                agreed += (task.grade(problem, answer).value == 1.0) is row[system]["is_correct"]
                total += 1
    assert (agreed, total) == (5276, 5276)
