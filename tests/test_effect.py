"""A stored run with arms against one without: the same numbers as by hand, and a verdict."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from samplewise.cli import main
from samplewise.effect import measure_effect
from samplewise.engines.toy import Toy
from samplewise.evaluate import load, run_task
from samplewise.measure import Word, pass_at
from samplewise.recipe import recipe
from samplewise.store import Run, Store
from samplewise.tasks.base import Task
from samplewise.types import Message, Problem, Question, Score

NUM = 30


def task(num: int = NUM) -> Task:
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "abc"[i % 3]) for i in range(num))
    right = lambda problem, answer: Score(float(answer is not None and answer.startswith(str(problem.reference) * 2)))  # noqa: E731
    return Task("words", problems, lambda question, text: text or None, right)


def drawn(store: Store, line: str, problems: Task) -> Run:
    summary = asyncio.run(run_task(problems, recipe(line), Toy(3), store))
    return next(run for run in store.runs() if run.id == summary.run)


def test_gains_are_those_by_hand() -> None:
    with Store(":memory:") as store:
        direct = drawn(store, "repeat(24, max_tokens=3) | vote", task())
        mix = drawn(store, "vary(ladder(0.3, 2.0)) | repeat(12, max_tokens=3) | vote", task())
        found = measure_effect(store, direct, mix, draws=3)
        plain, mixed = (load(store, run.id).graded.grades for run in (direct, mix))
    assert [row.arm for row in found.arms] == ["direct", "temperature/0.3", "temperature/2"]
    assert {row.num_draws for row in found.arms} == {4}
    fails = np.stack([(mixed[:, arm::3] == 0).mean(axis=1) for arm in range(3)])  # one draw of each arm
    by_hand = (1 - fails.prod(axis=0)) - pass_at(plain, [3])[0]
    assert found.findings.at_equal_draws.value == pytest.approx(by_hand.mean())
    assert found.num_draws == 3
    moved = found.transitions
    assert moved.newly_solved == ((mixed[:, :3].max(axis=1) == 1) & (plain[:, :3].max(axis=1) == 0)).sum()
    assert moved.newly_solved + moved.newly_lost + moved.both + moved.neither == NUM
    assert isinstance(found.verdict.word, Word)
    assert not np.isnan(found.findings.selected.value), "both runs chose by vote"


def test_what_cannot_be_compared_is_said() -> None:
    with Store(":memory:") as store:
        direct = drawn(store, "repeat(6, max_tokens=3) | vote", task())
        other = drawn(store, "vary(ladder) | repeat(6, max_tokens=3) | vote", task(5))
        with pytest.raises(ValueError, match="different questions"):
            measure_effect(store, direct, other)
        with pytest.raises(ValueError, match="one arm alone, direct"):
            measure_effect(store, direct, direct)


def test_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["samplewise", "effect", "--store", str(tmp_path / "s.db"), *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return int(left.value.code or 0), *capsys.readouterr()

    with Store(tmp_path / "s.db") as store:
        drawn(store, "repeat(12, max_tokens=3) | vote", task())
    assert "holds no finished run with arms" in call()[2]
    with Store(tmp_path / "s.db") as store:
        drawn(store, "vary(ladder) | repeat(10, max_tokens=3) | vote", task())
    code, said, _ = call("--json", "--smallest-gain", "0.9")
    assert code == 0
    assert "verdict: " in said
    found = json.loads(said.splitlines()[-1])
    assert found["verdict"] in [word.value for word in Word]
    assert len(found["arms"]) == 5
    assert call("--mix", "nonsense")[0] == 3
