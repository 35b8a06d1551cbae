"""MATH-500 and other real answers, through the mathematical grader."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import SetupError
from samplewise.core.files import data_folder
from samplewise.tasks.arithmetic import gsm8k, gsm_hard, svamp
from samplewise.tasks.math500 import math500
from samplewise.verify.maths import canonical_maths, child_counts, equal_maths

pytest.importorskip("math_verify", reason="maths grading needs samplewise[eval]")
needs_data = pytest.mark.skipif(
    data_folder() is None or not (data_folder() / "benchmarks").is_dir(),  # type: ignore[operator]
    reason="no published benchmarks: set SAMPLEWISE_DATA",
)


def recorded(name: str) -> Iterator[Any]:
    folder = data_folder()
    assert folder is not None
    with gzip.open(folder / name, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def test_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SetupError, match=r"math500 is not here: put math500\.jsonl\.gz into"):
        math500()
    row = {
        "problem": "Why?",
        "solution": r"\boxed{\frac12}",
        "answer": r"\frac{1}{2}",
        "subject": "Algebra",
        "level": 2,
    }
    (tmp_path / "math500.jsonl.gz").write_bytes(
        gzip.compress(json.dumps({**row, "unique_id": "test/algebra/7.json"}).encode())
    )
    task = math500(prompt="plain")
    (problem,) = task.problems
    assert problem.question == ("math500/algebra/7", (("user", "Why?"),), {"subject": "Algebra", "level": 2})
    assert task.grade(problem, task.read(problem.question, row["solution"])).value == 1.0
    assert "frac" not in str(problem.question)


@needs_data
@pytest.mark.slow
def test_every_reference_is_read_from_its_own_solution_and_is_right() -> None:
    task = math500()
    assert len(task.problems) == 500
    right = 0
    for row, problem in zip(recorded("benchmarks/math500.jsonl.gz"), task.problems, strict=True):
        answer = task.read(problem.question, row["solution"])
        right += task.grade(problem, answer).value == 1.0
        assert canonical_maths(answer) == answer  # canonical spellings stay as they are
    assert right == 500


@needs_data
def test_the_grader_agrees_with_the_labels_of_recorded_answers() -> None:
    """800 answers. The one disagreement is the label's: 10000 against the reference 10{,}000 was called wrong."""
    disagreements = []
    for row in recorded("recorded/math_qwen_rm_8x/math_cot_100_with_rm_scores.jsonl.gz"):
        for answer, label in zip(row["pred"], row["score"], strict=True):
            if equal_maths(row["gt"], answer) is not label:
                disagreements.append((row["gt"], answer, label))
    assert disagreements == [("10{,}000", "10000", False)]


@needs_data
@pytest.mark.slow
def test_equality_is_reflexive_and_symmetric_on_every_reference() -> None:
    """And no two different references of the neighbourhood are equal in one direction alone."""
    references = [str(problem.reference) for make in (math500, gsm8k, gsm_hard, svamp) for problem in make().problems]
    references += [row["gt"] for row in recorded("recorded/math_qwen_rm_8x/math_cot_100_with_rm_scores.jsonl.gz")]
    before = child_counts()
    for reference in references:
        assert equal_maths(reference, reference) is True, reference
        canonical = canonical_maths(reference)
        assert canonical is not None
        assert equal_maths(reference, canonical) is True, (reference, canonical)
        assert equal_maths(canonical, reference) is True, (reference, canonical)
        assert canonical_maths(canonical) == canonical, (reference, canonical)
    formulas = sorted({reference for reference in references if not reference.lstrip("-").replace(".", "").isdigit()})
    for left, right in pairwise(formulas):
        assert equal_maths(left, right) is equal_maths(right, left), (left, right)
    assert (child_counts().hung, child_counts().crashed) == (before.hung, before.crashed)


@needs_data
@pytest.mark.parametrize(
    "edit",
    [
        lambda text: f"$ {text} $",
        lambda text: rf"\boxed{{{text}}}",
        lambda text: text.replace(r"\frac", r"\dfrac").replace(r"\dfrac{", r"\dfrac {"),
        lambda text: text.replace(r"\left", "").replace(r"\right", ""),
        lambda text: text.replace("+", " + ").replace("-", " - ").replace("=", " = "),
        lambda text: f"**{text}**",
    ],
    ids=["dollars", "boxed", "dfrac", "left", "spaces", "emphasis"],
)
def test_edits_change_no_reference(edit) -> None:  # type: ignore[no-untyped-def]
    task = math500()
    for problem in task.problems:
        edited = edit(problem.reference)
        assert task.grade(problem, edited).value == 1.0, edited
        assert canonical_maths(edited) == canonical_maths(problem.reference), edited


@needs_data
def test_the_answer_to_another_problem_is_wrong() -> None:
    """Each reference as the answer to the problem before: right only where the two have one key."""
    task = math500(120)
    for problem, other in pairwise(task.problems):
        right = canonical_maths(problem.reference) == canonical_maths(other.reference)
        assert task.grade(problem, other.reference).value == float(right), (problem.reference, other.reference)
