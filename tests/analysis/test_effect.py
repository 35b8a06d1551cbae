"""A stored run with arms against one without: the same numbers as by hand, and a verdict."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from samplewise.analysis.effect import EffectRuns, allocate_draws, find_leaks, measure_effect
from samplewise.cli import main
from samplewise.core.errors import BadRequest
from samplewise.core.types import (
    Ask,
    Capability,
    Completion,
    Generate,
    Message,
    Problem,
    Question,
    Score,
    Selection,
    Usage,
)
from samplewise.engines.base import Arrival, Engine, failed
from samplewise.engines.team import Team
from samplewise.engines.toy import Toy
from samplewise.measure import Word, pass_at
from samplewise.recipe import recipe
from samplewise.runs.arrays import load_outcomes
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.records import Run
from samplewise.tasks.base import Task
from samplewise.vary.allocate import allocate_greedily, expected_failure, fit_betas
from samplewise.vary.checks import gives_away

NUM = 30


def task(num: int = NUM) -> Task:
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "abc"[i % 3]) for i in range(num))
    right = lambda problem, answer: Score(float(answer is not None and answer.startswith(str(problem.reference) * 2)))  # noqa: E731
    return Task("words", problems, lambda question, text: text or None, right)


def drawn(store: Store, line: str, problems: Task, engine: Engine | None = None, seed: int = 0) -> Run:
    summary = asyncio.run(run_task(problems, recipe(line), engine or Toy(3), store, seed=seed))
    return next(run for run in store.runs() if run.id == summary.run)


def test_gains_are_those_by_hand() -> None:
    with Store(":memory:") as store:
        direct = drawn(store, "repeat(24, max_tokens=3) | vote", task())
        mix = drawn(store, "vary(ladder(0.3, 2.0)) | repeat(12, max_tokens=3) | vote", task())
        found = measure_effect(store, EffectRuns(direct, mix), draws=3)
        plain, mixed = (load_outcomes(store, run.id).graded.grades for run in (direct, mix))
    assert [row.arm for row in found.arms] == ["direct", "temperature/0.3", "temperature/2"]
    assert {row.num_draws for row in found.arms} == {4}
    fails = np.stack([(mixed[:, arm::3] == 0).mean(axis=1) for arm in range(3)])  # one draw of each arm
    by_hand = (1 - fails.prod(axis=0)) - pass_at(plain, [3])[0]
    assert found.findings.at_equal_draws.gain.value == pytest.approx(by_hand.mean())
    assert found.num_draws == 3
    moved = found.transitions
    assert moved.newly_solved == ((mixed[:, :3].max(axis=1) == 1) & (plain[:, :3].max(axis=1) == 0)).sum()
    assert moved.newly_solved + moved.newly_lost + moved.both + moved.neither == NUM
    assert isinstance(found.verdict.word, Word)
    assert found.findings.allocation == "round-robin"
    assert not np.isnan(found.findings.selected.value), "both runs chose by vote"


def test_asks_that_failed_are_paid_before_the_draws_that_are_compared() -> None:
    """Of eight direct asks the first and the third fail: three draws took the tokens of five asks."""

    class Failing(Toy):
        async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
            lost = {i for i, ask in enumerate(asks) if isinstance(ask, Generate) and ask.draw in (0, 2)}
            for i in lost:
                yield Arrival(i, failed(BadRequest("lost"), Usage(1, 100, 0)))
            kept = [i for i in range(len(asks)) if i not in lost]
            async for position, completion in super().answer([asks[i] for i in kept]):
                yield Arrival(kept[position], completion)

    with Store(":memory:") as store:
        direct = drawn(store, "repeat(8, max_tokens=3) | vote", task(), Failing(3))
        mix = drawn(store, "vary(ladder(0.3, 2.0)) | repeat(6, max_tokens=3) | vote", task())
        found = measure_effect(store, EffectRuns(direct, mix), draws=3)
        records = list(store.records(direct.id))
    used = [[cost.tokens for cost in record.bill.draws] for record in records if record.bill is not None]
    assert all(costs[0] == costs[2] == 100 for costs in used)
    by_draws = {num: np.mean([sum(costs[: num + 2]) for costs in used]) for num in (2, 3, 4, 5)}
    by_draws[1] = np.mean([sum(costs[:2]) for costs in used])
    assert found.direct_tokens == pytest.approx(by_draws[max(1, found.direct_draws)])


def test_a_shorter_ladder_is_compared_at_its_own_draws() -> None:
    with Store(":memory:") as store:
        direct = drawn(store, "repeat(24, max_tokens=3) | vote", task())
        mix = drawn(store, "vary(ladder(0.3, 2.0)) | repeat(12, max_tokens=3) | vote", task())
        ladder = drawn(store, "vary(ladder(0.5, 0.8)) | repeat(3, max_tokens=3) | vote", task())
        found = measure_effect(store, EffectRuns(direct, mix, ladder))
        mixed, rungs = (load_outcomes(store, run.id).graded.grades for run in (mix, ladder))
    fails = np.stack([(mixed[:, arm::3] == 0).mean(axis=1) for arm in range(3)])
    by_hand = (1 - fails.prod(axis=0)) - rungs.max(axis=1)
    assert found.num_draws == 3
    assert found.findings.over_ladder.gain.value == pytest.approx(by_hand.mean())


def test_what_cannot_be_compared_is_said() -> None:
    with Store(":memory:") as store:
        direct = drawn(store, "repeat(6, max_tokens=3) | vote", task())
        other = drawn(store, "vary(ladder) | repeat(6, max_tokens=3) | vote", task(5))
        with pytest.raises(ValueError, match="different questions"):
            measure_effect(store, EffectRuns(direct, other))
        with pytest.raises(ValueError, match="one arm alone, direct"):
            measure_effect(store, EffectRuns(direct, direct))


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


# --- plans ------------------------------------------------------------------------------------------------------------


def test_a_plan_is_the_greedy_one_and_runs_as_it_is_printed() -> None:
    line = "vary(ladder(0.3, 2.0)) | repeat(12, max_tokens=3) | vote"
    with Store(":memory:") as store:
        pilot = drawn(store, line, task())
        allocated = allocate_draws(store, pilot, 8)
        grades = load_outcomes(store, pilot.id).graded.grades
        won = np.stack([grades[:, arm::3].sum(axis=1) for arm in range(3)], axis=1).astype(int)
        made = np.full(won.shape, 4)
        posterior = fit_betas(won, made).after(won, made)
        plan = allocate_greedily(posterior, 8)
        assert [arm.arm for arm in allocated.arms] == ["direct", "temperature/0.3", "temperature/2"]
        assert tuple(arm.draws for arm in allocated.arms) == plan.counts
        assert [arm.accuracy for arm in allocated.arms] == pytest.approx((won.sum(axis=0) / made.sum(axis=0)).tolist())
        assert allocated.coverage == pytest.approx(1 - plan.failure)
        assert allocated.in_turn == pytest.approx(1 - expected_failure(posterior, (3, 3, 2)))
        assert allocated.coverage >= allocated.in_turn
        assert not allocated.enough, "120 graded draws an arm"
        quota = ", ".join(map(str, plan.counts))
        share = f"quota({quota})"
        assert allocated.recipe == f"vary(ladder(0.3, 2.0), share={share}) | repeat(8, max_tokens=3) | vote"
        followed = drawn(store, allocated.recipe, task(), seed=1)
        for record in store.records(followed.id):
            arms = [candidate.arm for candidate in record.pool.candidates]
            assert [arms.count(arm.arm) for arm in allocated.arms] == list(plan.counts)
        with pytest.raises(ValueError, match="shares its draws by a rule of its own"):
            allocate_draws(store, followed, 8)
        with pytest.raises(ValueError, match="has no arms"):
            allocate_draws(store, drawn(store, "repeat(2, max_tokens=3) | vote", task()), 8)
        with pytest.raises(ValueError, match="one arm alone"):
            allocate_draws(store, drawn(store, "vary(ladder) | repeat(1, max_tokens=3) | vote", task()), 8)


def test_members_of_a_pool_are_one_place_in_the_mix() -> None:
    with Store(":memory:") as store:
        allocated = allocate_draws(store, drawn(store, "vary(role(1, domain='maths')) | repeat(4) | vote", task()), 6)
    assert [arm.arm for arm in allocated.arms] == ["direct", "role/maths/..."]
    assert sum(arm.draws for arm in allocated.arms) == 6


def test_a_question_with_failed_draws_is_left_out() -> None:
    """Its draws' places in the mix cannot be told: the arm that failed first would take another's."""
    with Store(":memory:") as store:
        pilot = drawn(store, "vary(ladder(0.3, 2.0)) | repeat(6, max_tokens=3) | vote", task(12))
        for number, record in enumerate(list(store.records(pilot.id))):
            if number < 3:
                pool = record.pool._replace(candidates=record.pool.candidates[1:], num_failed=1)
                cut = record._replace(pool=pool, answers=record.answers[1:], grades=record.grades[1:])
                store.save(pilot.id, cut, "vote", Selection(None, None), 0.0)
        allocated = allocate_draws(store, pilot, 4)
    assert (allocated.num_questions, allocated.num_left_out) == (9, 3)
    assert [arm.num_graded for arm in allocated.arms] == [18, 18, 18]


def test_a_plan_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s.db"
    with Store(path) as store:
        drawn(store, "vary(ladder(0.2, 0.4, 0.6, 0.8, 1.5, 2.0)) | repeat(14, max_tokens=3) | best(likelihood)", task())
    monkeypatch.setattr(sys, "argv", ["samplewise", "effect", "--store", str(path), "--plan", "100", "--json"])
    with pytest.raises(SystemExit) as left:
        main()
    said = capsys.readouterr().out
    assert left.value.code in (0, None), said
    *_, line, last = said.splitlines()
    found = json.loads(last)
    assert found["recipe"] == line
    assert recipe(line).line == line
    assert line.startswith("vary(ladder(0.2, 0.4, 0.6, 0.8, 1.5, 2.0), share=quota(")
    assert line.endswith(") | repeat(100, max_tokens=3) | best(likelihood)")
    assert sum(arm["draws"] for arm in found["arms"]) == 100
    assert "gains nothing over round-robin" in said


# --- ideas that give the answer away ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "body", "given"),
    [
        ("Notice that 1,200 comes up", "1200", "How many?", True),
        ("Notice that 1,200 comes up", "1200", "Of 1200 apples, how many?", False),
        ("Look at seventeen of them", "17", "How many?", True),
        ("Look at 117 of them", "17", "How many?", False),
        ("The half, 1 / 2, is natural", "1/2", "What share?", True),
        ("See chapter 11/2", "1/2", "What share?", False),
        ("A good start is to compare", "A", "Which?", False),
        ("Look at option (B) first", "B", "Which?", True),
        ("Think of Lake  Geneva", "lake geneva", "Where?", True),
        ("Think of x", "x", "What?", False),
    ],
)
def test_what_gives_an_answer_away(text: str, answer: str, body: str, given: bool) -> None:
    assert gives_away(text, answer, body) is given


class Suggestible(Engine):
    """Thinks of 17 by one seed in two, and answers with what it is told; else 5."""

    identity = name = "suggestible"
    can = frozenset({Capability.GENERATE})

    def __init__(self, name: str = "suggestible") -> None:
        self.identity = self.name = name
        self.told = 0

    def worst_case(self, ask: Ask) -> Usage:
        return Usage(1, 1, 1)

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            assert isinstance(ask, Generate)
            prompt = ask.messages[-1].content
            if "Problem:" in prompt:
                text = "Draw a picture of it first" if ask.seed % 2 else "See why 17 would be natural"
                self.told += not ask.seed % 2
            else:
                text = "17" if "17" in prompt else "5"
            yield Arrival(position, Completion(text, "stop", Usage(1, 1, 1)))


FEW = 16  # questions: the 17th would hold the answer itself


@pytest.mark.parametrize("team", [False, True])
def test_leaks_are_found_in_what_the_store_holds(team: bool) -> None:
    """Each question's idea is its own, so as many leak as the helper told. Nobody is asked again."""
    helper = Suggestible("wise")
    engine: Engine = Team({"": Suggestible(), "wise": helper}) if team else helper
    line = f"vary(idea(1{', helper=' + repr('wise') if team else ''}), ladder(0.5)) | repeat(9) | vote"
    with Store(":memory:") as store:
        if team:  # the same requests, answered by somebody else: not this run's
            drawn(store, line, task(FEW), Team({"": Suggestible(), "wise": Toy(3)}))
        mix = drawn(store, line, task(FEW), engine)
        told = helper.told
        (found,) = find_leaks(store, mix)
        assert found.arm == ("idea.dual/1" if team else "idea.single/1")
        assert 0 < told < FEW
        assert (found.num_ideas, found.num_leaks, found.num_draws) == (FEW, told, 3 * told)
        assert helper.told == told
        direct = drawn(store, "repeat(20) | vote", task(FEW), engine)
        assert measure_effect(store, EffectRuns(direct, mix)).leaks == (found,)
        assert find_leaks(store, direct) == ()
        shared = drawn(store, line.replace("ladder(0.5)", "share=quota(2, 4)"), task(FEW), engine)
        assert find_leaks(store, shared)[0][1:3] == (FEW, told), "the same idea, of which the pattern has four"
        assert measure_effect(store, EffectRuns(direct, shared)).findings.allocation == "quota(2, 4)"
        assert find_leaks(store, mix._replace(recipe="vary(backwards) | repeat(9) | vote")) == (), "nobody can play it"
