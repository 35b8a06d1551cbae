"""pass@k and maj@k of a stored run are the means over all subsets of its draws."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from samplewise.core.errors import StoreError
from samplewise.core.types import Selection
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.runs.passk import pass_table
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.records import Run
from samplewise.tasks.jsonl import jsonl


def run_toy(store: Store, folder: Path, line: str, *, graded: bool = True) -> Run:
    rows = [{"question": f"say {letter}", **({"answer": letter} if graded else {})} for letter in "abca"]
    (folder / "f.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asyncio.run(run_task(jsonl(folder / "f.jsonl"), recipe(line), Toy(3), store))
    return store.runs()[-1]


def majority(answers: tuple[str | None, ...], grades: tuple[float, ...]) -> float:
    grade = dict(zip(answers, grades, strict=True))
    count = Counter(answer for answer in answers if answer is not None)
    tied = [answer for answer, num in count.items() if num == max(count.values())]
    return sum(grade[answer] for answer in tied) / len(tied) if tied else 0.0


def test_every_k_is_the_mean_over_all_subsets(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        run = run_toy(store, tmp_path, "repeat(6, max_tokens=2) | vote")
        table = pass_table(store, run)
        records = list(store.records(run.id))
    assert [row.k for row in table.rows] == [1, 2, 4, 6]
    assert table.notes == ()
    for row in table.rows:
        passed, voted = [], []
        for record in records:
            subsets = list(combinations(range(6), row.k))
            passed.append(sum(max(record.grades[i] for i in subset) for subset in subsets) / len(subsets))
            votes = [
                majority(tuple(record.answers[i] for i in subset), tuple(record.grades[i] for i in subset))
                for subset in subsets
            ]
            voted.append(sum(votes) / len(votes))
        assert row.pass_at.value == pytest.approx(sum(passed) / 4, abs=1e-12)
        assert row.majority_at.value == pytest.approx(sum(voted) / 4, abs=1e-12)
        assert row.pass_at.low <= row.pass_at.value <= row.pass_at.high
        assert row.num_questions == 4


def test_what_a_reader_must_know_is_said(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        run = run_toy(store, tmp_path, "repeat(6, max_tokens=2) | until(lead(2)) | vote")
        notes = pass_table(store, run).notes
        assert notes[0].startswith("this run stopped by lead: how many draws a question has depends on what they were")
        assert any("graded draws: left out of the rows above their number" in note for note in notes)
        chains = run_toy(store, tmp_path, "power(2, 2, 2, max_tokens=2) | first")
        assert pass_table(store, chains).notes[0].startswith("draws of power depend on one another")


def test_a_run_without_references_has_no_figure(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        run = run_toy(store, tmp_path, "repeat(4, max_tokens=2) | vote", graded=False)
        with pytest.raises(StoreError, match=r"has no graded draw: pass@k needs questions with a reference"):
            pass_table(store, run)


def test_a_grade_in_part_is_right_for_neither(tmp_path: Path) -> None:
    """pass@k took it for wrong and maj@k for half right, so a vote could be above the best of its own draws."""
    with Store(tmp_path / "s.db") as store:
        run = run_toy(store, tmp_path, "repeat(4, max_tokens=2) | vote")
        for record in list(store.records(run.id)):
            partly = record._replace(grades=(0.5,) * len(record.grades))
            store.save(run.id, partly, "vote", Selection(None, None, ()), 0.5)
        table = pass_table(store, run)
    assert [(row.pass_at.value, row.majority_at.value) for row in table.rows] == [(0.0, 0.0)] * 3


def test_k_draws_of_a_mix_are_those_that_its_arms_are_dealt(tmp_path: Path) -> None:
    """One arm is always right and one never: two draws in turn hold one of each, so pass@2 is 1 (any two: 5/6)."""
    with Store(tmp_path / "s.db") as store:
        run = run_toy(store, tmp_path, "vary(ladder(0.5)) | repeat(4, max_tokens=2) | first")
        for record in list(store.records(run.id)):
            arms = ("direct", "other", "direct", "other")
            candidates = tuple(c._replace(arm=a) for c, a in zip(record.pool.candidates, arms, strict=True))
            mixed = record._replace(pool=record.pool._replace(candidates=candidates), grades=(1.0, 0.0, 1.0, 0.0))
            store.save(run.id, mixed, "first", Selection(None, None, ()), 0.0)
        table = pass_table(store, run)
    assert [(row.k, row.pass_at.value) for row in table.rows] == [(1, 1.0), (2, 1.0), (4, 1.0)]
