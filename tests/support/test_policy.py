"""The synthetic policy: its texts follow the law it states, through the ordinary loop."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re

import numpy as np
import pytest
from scipy.stats import chi2
from tests.support.policy import LEVELS, Policy, leaning, level_world, recognise, standard_world

from samplewise.core.keys import Key
from samplewise.core.types import Generate, Likelihood, Message, Question
from samplewise.engines.base import Engine
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.measure.gain import even_allocation, fidelity, two_factor_gain
from samplewise.measure.powers import counts_by_arm
from samplewise.recipe import recipe
from samplewise.vary.base import vary


def read(question: Question, text: str) -> str | None:
    return text.rpartition("Answer: ")[2] or None


def asked(text: str, seed: int, **more) -> Generate:
    return Generate((Message("user", text),), seed=Key(seed).seed(), **more)


def answers(policy: Policy, text: str, num: int) -> list[str]:
    return [policy.one(asked(text, seed)).text.rpartition("Answer: ")[2] for seed in range(num)]


def test_the_world_is_the_stated_one():
    world = standard_world()
    assert [arm.name for arm in world.arms][::7] == ["direct", "irrelevant"]
    assert all(math.isclose(sum(arm.modes), 1) for arm in world.arms)
    assert math.isclose(sum(world.mode_law), 1)
    items, weights = world.grid()
    assert weights.sum() == pytest.approx(1)
    assert weights @ items.ease == pytest.approx(0.8 / 2.8)
    assert weights @ items.ease**2 == pytest.approx(0.8 * 1.8 / (2.8 * 3.8))


def test_exact_coverage_by_simulation_and_as_published():
    """Published pass@N from finite samples: direct .312 / .506 / .681, in turn .304 / .606 / .811."""
    world = standard_world()
    success = world.success(world.items(Key(0), 200_000))
    for num_draws, direct, mixed in ((8, 0.312, 0.304), (32, 0.506, 0.606), (100, 0.681, 0.811)):
        only, even = np.array([num_draws] + [0] * 7), even_allocation(num_draws, 8)
        for allocation, published in ((only, direct), (even, mixed)):
            covered = 1 - np.prod((1 - success) ** allocation, axis=1)
            assert 1 - world.failure(allocation) == pytest.approx(covered.mean(), abs=0.004)
            assert 1 - world.failure(allocation) == pytest.approx(published, abs=0.012)


def test_level_3_is_best_and_level_5_is_direct_again():
    at = {level: 1 - level_world(level).failure(even_allocation(32, 6)) for level in LEVELS}
    assert max(at, key=lambda level: at[level]) == 3
    assert at[5] == pytest.approx(1 - level_world(5).failure([32, 0, 0, 0, 0, 0]))
    assert at[1] < at[5] < at[4]


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("arm", [0, 3, 7])
def test_answers_follow_their_law(own, arm):
    """Chi-square of 1,000 answers over ten digits: below its 1e-5 point."""
    policy = Policy(standard_world(own_attractors=own), 30, seed=2)
    question = int(np.argmax(policy.items.ease))
    law = policy.answer_distributions()[question, arm]
    assert law.sum() == pytest.approx(1)
    name = policy.world.arms[arm].name
    counts = np.bincount([int(a) for a in answers(policy, f"[arm {name}] [question {question}]", 1_000)], minlength=10)
    assert ((counts - 1_000 * law) ** 2 / (1_000 * law)).sum() < chi2.isf(1e-5, 9)


def test_answer_distributions_know_the_right_answer_and_the_attractors():
    for own in (False, True):
        policy = Policy(standard_world(own_attractors=own), 50)
        laws, rows = policy.answer_distributions(), np.arange(50)
        assert laws[rows, :, policy.right] == pytest.approx(policy.world.success(policy.items))
        assert (policy.attractors != policy.right[:, None]).all()
        assert (policy.attractors == policy.attractors[:, :1]).all() is np.bool_(not own)


def test_a_draw_follows_from_its_ask_alone():
    one, other = Policy(standard_world(), 5), Policy(standard_world(), 5)
    ask = asked("[question 3]", 9)
    one.one(asked("[question 3]", 8))
    assert one.one(ask) == other.one(ask)
    assert one.identity == other.identity != Policy(standard_world(), 5, leak=0.1).identity
    assert Policy(standard_world(), 5, seed=1).items.ease[0] != one.items.ease[0]


def test_it_is_an_engine():
    engine: Engine = Policy(standard_world(), 2)
    assert engine.worst_case(asked("two words", 0, max_tokens=7)).tokens == 9
    cut = Policy(standard_world(), 2).one(asked("[question 0]", 0, max_tokens=1))
    assert (cut.finish, cut.text, cut.usage.completion_tokens) == ("length", "Method", 1)


def test_through_the_loop_the_estimates_meet_the_truth():
    """Text in, text out: 24 questions, 8 draws of each of 8 arms and 8 of direct, read, graded. 4 standard errors."""
    policy = Policy(standard_world(), 24, seed=5)

    def drawn(arms, num):
        line = dataclasses.replace(recipe(f"repeat({num}) | vote"), vary=vary(*arms))
        rows = []
        for problem in policy.problems:
            result = asyncio.run(
                run_question(problem.question, line, RunContext(policy), Key(1).fold(len(arms)), read=read)
            )
            rows.append([float(answer == problem.reference) for answer in result.answers])
        return np.array(rows)

    mix = counts_by_arm(drawn(policy.arms, 64), np.arange(64) % 8, 8)
    direct = counts_by_arm(drawn((), 8), np.zeros(8, dtype=int), 1)
    success = policy.world.success(policy.items)
    error = np.sqrt((success * (1 - success)).sum(axis=0) / 8) / 24
    assert (np.abs((1 - mix.rates).mean(axis=0) - success.mean(axis=0)) < 4 * error).all()
    gain = two_factor_gain(mix, direct, [1] * 8, Key(0))
    truth = np.prod(1 - success, axis=1).mean() / ((1 - success[:, 0]) ** 8).mean()
    assert gain.total.low - 0.1 < truth < gain.total.high + 0.1
    assert fidelity(mix, direct, 8, Key(0)).worst == 7  # the irrelevant arm


def test_a_judge_errs_as_stated():
    policy = Policy(standard_world(), 3, judge=(0.8, 0.1))
    right, wrong = int(policy.right[1]), int(policy.attractors[1, 0])
    accepted = [
        np.mean([policy.one(asked(f"[task judge] [question 1] Answer: {a}", s)).text == "yes" for s in range(1_000)])
        for a in (right, wrong)
    ]
    assert accepted == pytest.approx([0.8, 0.1], abs=4 * 0.4 / 1_000**0.5)


def test_ideas_lean_to_their_mode_and_hang_together():
    """Two draws of one idea have the stated correlation, at an unchanged chance of success."""
    policy = Policy(standard_world(), 20, seed=2, correlation=0.5)
    question = int(np.argmax(policy.items.ease))
    mode = int(policy.items.modes[question]) or 1
    pairs = []
    for number in range(600):
        text = f"[idea {mode}:{number}] [question {question}]"
        texts = [policy.one(asked(text, 2 * number + i)).text for i in (0, 1)]
        pairs.append([text.endswith(f"{policy.right[question]}") for text in texts])
    pairs = np.array(pairs, dtype=float)
    chance = policy.items.ease[question] * 0.9 * leaning(mode)[policy.items.modes[question]]
    assert pairs.mean() == pytest.approx(chance, abs=4 * (chance * (1 - chance) / 600) ** 0.5)
    assert np.corrcoef(pairs.T)[0, 1] == pytest.approx(0.5, abs=0.2)


def test_helpers_answer_fail_and_leak():
    policy = Policy(standard_world(), 2, leak=0.3, refusal=0.2)
    ideas = [policy.one(asked("[task idea] [question 1]", seed)) for seed in range(500)]
    kept = [c.text for c in ideas if c.finish != "error"]
    assert 1 - len(kept) / 500 == pytest.approx(0.2, abs=0.08)
    leaked = [text for text in kept if "[answer" in text]
    assert len(leaked) / len(kept) == pytest.approx(0.3, abs=0.1)
    wrong = str(policy.attractors[1, 0])
    assert set(answers(policy, f"{leaked[0]} [question 1]", 20)) == {wrong}
    assert all(recognise(text).idea for text in kept)
    again = policy.one(asked("[task rephrase] [question 1]", 0)).text
    assert recognise(again) == ("answer", 1, "direct", "", "")


def test_misuse_is_told():
    policy = Policy(standard_world(), 2)
    for ask, message in (
        (asked("no tag", 0), r"must hold \[question 0\]"),
        (asked("[question 7]", 0), r"to \[question 1\]"),
        (asked("[question 1] [arm nobody]", 0), "no arm is called 'nobody'; known: direct"),
        (Likelihood((Message("user", "[question 1]"),), (1,)), "knows no likelihoods"),
    ):
        failure = policy.one(ask).failure
        assert failure is not None
        assert re.search(message, failure.message)
    with pytest.raises(ValueError, match="leak must be in"):
        Policy(standard_world(), 2, leak=1.5)
