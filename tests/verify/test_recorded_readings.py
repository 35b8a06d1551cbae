"""Readers against answers that their authors extracted and labeled: published solutions of real models."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

from samplewise.core.files import data_folder
from samplewise.core.types import Question
from samplewise.verify.numbers import as_number, number_text
from samplewise.verify.readers import read_number

pytestmark = pytest.mark.skipif(data_folder() is None, reason="no recorded draws here: set SAMPLEWISE_DATA")

QUESTION = Question("q", ())


def rows(name: str) -> Iterator[Any]:
    folder = data_folder()
    assert folder is not None
    if not (folder / name).is_file():
        pytest.skip(f"no {name} in the data folder")
    with gzip.open(folder / name, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


@pytest.mark.slow
def test_worked_solutions_end_on_their_answer_without_a_mark() -> None:
    """GSM8K's 1,319 solutions without their last line. 30 end on another number than their answer."""
    right = refused = other = 0
    for row in rows("benchmarks/gsm8k_test.jsonl.gz"):
        worked, _, reference = row["answer"].rpartition("####")
        wanted = as_number(reference.strip())
        assert wanted is not None
        answer = read_number(QUESTION, worked.strip())
        right += answer == number_text(wanted)
        refused += answer is None
        other += answer not in (None, number_text(wanted))
        assert read_number(QUESTION, row["answer"]) == number_text(wanted)
    assert (right, refused, other) == (1280, 9, 30)


@pytest.mark.slow
def test_boxed_numbers_are_read_and_other_formulas_refused() -> None:
    """MATH: 800 responses of Qwen2.5-Math and 500 worked solutions.

    Three of 1,137 numbers are refused: two responses never reach their answer, and one ends in a sum.
    """
    pairs = [
        (response, answer)
        for row in rows("recorded/math_qwen_rm_8x/math_cot_100_with_rm_scores.jsonl.gz")
        for response, answer in zip(row["code"], row["pred"], strict=True)
    ]
    pairs += [(row["solution"], row["answer"]) for row in rows("benchmarks/math500.jsonl.gz")]
    numbers = [(response, value) for response, answer in pairs if (value := as_number(answer)) is not None]
    read = [(read_number(QUESTION, response), number_text(value)) for response, value in numbers]
    assert all(answer in (None, wanted) for answer, wanted in read)
    assert (len(read), sum(answer is None for answer, _ in read)) == (1137, 3)
    others = [response for response, answer in pairs if not any(map(str.isdigit, answer)) or "sqrt" in answer]
    assert {read_number(QUESTION, response) for response in others} == {None}


@pytest.mark.slow
def test_extracted_answers_of_126_model_runs_are_read_as_before() -> None:
    """OTIS Mock AIME: whole numbers, as the graders extracted them."""
    num = 0
    for row in rows("recorded/otis_aime_8x/otis_mock_aime_runs.jsonl.gz"):
        for answer in row["answers"]:
            if isinstance(answer, str) and answer.isdecimal():
                assert read_number(QUESTION, answer) == str(int(answer))
                num += 1
    assert num == 37322
