"""MBPP: both parts, in both layouts, and the published solutions against the hidden tests."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from samplewise.core.errors import BadInput, SetupError
from samplewise.tasks.mbpp import LIMITS, Split, mbpp
from samplewise.verify.code import hidden_program
from samplewise.verify.sandbox import Sandbox

DATA = Path(os.environ.get("SAMPLEWISE_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "benchmarks" / "mbpp_974.jsonl.gz").is_file(), reason="no mbpp_974.jsonl.gz: set SAMPLEWISE_DATA"
)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(DATA))


@needs_data
@pytest.mark.usefixtures("data")
def test_prompts() -> None:
    task = mbpp(limit=2)
    (problem, _) = task.problems
    assert problem.question.id == "mbpp/2"
    assert problem.question.facts == {
        "entry_point": "similar_elements",
        "tests": ["assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))"],
    }
    assert problem.question.messages[0].content == (
        "You are an expert Python programmer, and here is your task: Write a function to find the shared elements from "
        "the given two lists. Your code should pass these tests:\n\n"
        "assert set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))\n\n"
        "Reply with the whole function in one ```python code block."
    )
    assert problem.reference["tests"].count("assert") == 3
    assert mbpp(limit=1, num_public=3).problems[0].question.messages[0].content.count("assert set(") == 3
    assert task.licence == "CC BY 4.0"


@needs_data
@pytest.mark.usefixtures("data")
def test_parts() -> None:
    assert len(mbpp().problems) == 427
    full = mbpp("full")
    assert (full.name, len(full.problems)) == ("mbpp-full", 974)
    test = mbpp("full", part="test")
    assert [test.problems[0].question.id, test.problems[-1].question.id, len(test.problems)] == [
        "mbpp/11",
        "mbpp/510",
        500,
    ]
    levels = {p.question.id: p.reference["level"] for p in full.problems}
    assert sorted(name for name, level in levels.items() if level == "together") == ["mbpp/367", "mbpp/601", "mbpp/927"]
    for problem in full.problems:
        hidden = problem.reference["tests"].splitlines()
        assert hidden[-1] not in problem.question.messages[0].content or len(set(hidden)) < 3


def test_the_layout_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "task_id": 5,
        "prompt": "Write twice.",
        "code": "import math\r\ndef twice(x):\r\n    return 2 * x",
        "test_imports": ["import math"],
        "test_list": ["assert math.isclose(twice(1.5), 3)", "assert twice(2) == 4"],
    }
    file = tmp_path / "mbpp_sanitized_for_code_generation.jsonl"
    monkeypatch.setenv("SAMPLEWISE_DATA", str(tmp_path))
    gz = file.with_suffix(".jsonl.gz")
    gz.write_bytes(gzip.compress(json.dumps(row).encode()))
    (problem,) = mbpp().problems
    assert problem.question.facts == {
        "entry_point": "twice",
        "tests": ["import math\nassert math.isclose(twice(1.5), 3)"],
    }
    assert problem.reference["tests"] == "import math\nassert math.isclose(twice(1.5), 3)\nassert twice(2) == 4"
    for change in ({"test_list": ["assert other(1)"]}, {"code": "this is no python ("}, {"prompt": None}):
        gz.write_bytes(gzip.compress(json.dumps({**row, **change}).encode()))
        with pytest.raises(BadInput, match="row 1"):
            mbpp()


def test_misuse() -> None:
    for wrong, message in (
        ({"split": "all"}, "split must be one of sanitized, full, got 'all'"),
        ({"part": "dev"}, "part must be one of all, test, got 'dev'"),
        ({"num_public": 0}, "num_public must be at least 1"),
        ({"limit": 0}, "limit must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            mbpp(**wrong)  # type: ignore[arg-type]


@pytest.mark.slow
@needs_data
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("split", ["sanitized", "full"])
def test_published_solutions_pass_and_nothing_does_not(split: Split) -> None:
    problems = mbpp(split).problems
    answers = [hidden_program(problem, problem.reference["solution"]) for problem in problems]
    empty = [
        hidden_program(
            p, f"class Node: pass\nclass Pair: pass\ndef {p.question.facts['entry_point']}(*args):\n    pass\n"
        )
        for p in problems[:: 2 if split == "sanitized" else 20]
    ]
    try:
        with Sandbox(isolation="bubblewrap") as sandbox:
            assert {n: v for n, v in sandbox.run_all(answers, LIMITS) if not v.passed} == {}
            assert [v for _, v in sandbox.run_all(empty) if v.passed] == []
    except SetupError as error:
        pytest.skip(str(error))
