"""AQuA and MMLU-Pro, from files of their own making and from the published ones."""

from __future__ import annotations

import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import BadInput, SetupError
from samplewise.core.files import data_folder
from samplewise.tasks.multiple import MMLU_PRO, aqua, mmlu_pro
from samplewise.verify.choice import answer_options

needs_data = pytest.mark.skipif(
    data_folder() is None or not (data_folder() / "benchmarks").is_dir(),  # type: ignore[operator]
    reason="no published benchmarks: set SAMPLEWISE_DATA",
)
HUB_ROW = {"question": "Who? ", "options": ["A)Ann", "B)Bob", "C)(1)", "D)D", "E)None of these"], "correct": "B"}
FILE_ROW = {"input": "Who? Answer Choices:(a) Ann(b) Bob(c) (1)(d) D(e) None of these", "target": "(b)"}
PRO_ROW = {"question_id": 70, "question": "Who?", "options": ["Ann", "Bob", "Cy"], "answer": "C", "category": "law"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    return tmp_path


def write(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


def test_aqua_is_the_same_from_file_and_hub(folder: Path) -> None:
    write(folder / "aqua.jsonl.gz", FILE_ROW)
    (of_file,) = aqua().problems
    write(folder / "aqua.jsonl.gz", HUB_ROW)
    (of_hub,) = aqua().problems
    assert of_file == of_hub
    assert of_file.reference == "B"
    assert answer_options(of_file.question) == ("Ann", "Bob", "(1)", "D", "None of these")
    assert of_file.question.messages[0].content == (
        "Who?\n\nOptions:\n(A) Ann\n(B) Bob\n(C) (1)\n(D) D\n(E) None of these\n\n"
        'Think step by step and then finish your answer with "The answer is (X)" where X is the letter of the correct '
        "option."
    )
    for row in ({"input": "Who?", "target": "(a)"}, {**FILE_ROW, "target": "(f)"}, {**HUB_ROW, "correct": ""}):
        write(folder / "aqua.jsonl.gz", row)
        with pytest.raises(BadInput, match="row 1 does not fit"):
            aqua()


def test_mmlu_pro_says_which_questions_it_asks(folder: Path) -> None:
    with pytest.raises(SetupError, match=r"mmlu_pro is not here: put mmlu_pro_test\.jsonl\.gz into"):
        mmlu_pro()
    with pytest.raises(SetupError, match="mmlu_pro-sample is not here"):
        mmlu_pro(split="sample")
    write(folder / MMLU_PRO["sample"].file, PRO_ROW)
    assert mmlu_pro().name == "mmlu_pro-sample"
    write(folder / "benchmarks" / MMLU_PRO["test"].file, PRO_ROW, {**PRO_ROW, "question_id": 71})
    assert (mmlu_pro().name, len(mmlu_pro().problems)) == ("mmlu_pro", 2)
    assert len(mmlu_pro(split="sample").problems) == 1
    (problem,) = mmlu_pro(1).problems
    assert problem.question.id == "mmlu_pro/70"
    assert problem.reference == "C"
    assert problem.question.facts == {"options": ["Ann", "Bob", "Cy"], "category": "law"}
    with pytest.raises(ValueError, match="split must be one of test, sample, got 'dev'"):
        mmlu_pro(split="dev")  # type: ignore[arg-type]
    letter = mmlu_pro(1, prompt="letter").questions[0].messages[0].content
    assert letter.endswith("Answer with the letter of the correct option alone.")


def test_reading_and_grading_go_together(folder: Path) -> None:
    write(folder / "aqua.jsonl.gz", FILE_ROW)
    task = aqua()
    (problem,) = task.problems
    for response in ("The answer is (B).", "**B**", "Bob", r"\boxed{\text{B}}", "So option B"):
        assert task.grade(problem, task.read(problem.question, response)).value == 1.0, response
    for response in ("The answer is (A).", "Ann", "A man", "", "The answer is (A) or (B)"):
        assert task.grade(problem, task.read(problem.question, response)).value == 0.0, response


@needs_data
def test_the_published_sets() -> None:
    assert len(aqua().problems) == 254
    assert aqua().licence == "Apache-2.0"
    sample = mmlu_pro(split="sample")
    assert len(sample.problems) == 280
    assert set(Counter(question.facts["category"] for question in sample.questions).values()) == {20}
    for task in (aqua(), sample):
        for problem in task.problems:
            for form in ("The answer is ({})", "**{}**", "{}.", "Answer: {}"):
                response = form.format(problem.reference)
                assert task.read(problem.question, response) == problem.reference
            options = answer_options(problem.question)
            assert sum(task.grade(problem, "ABCDEFGHIJ"[place]).value for place in range(len(options))) == 1.0
