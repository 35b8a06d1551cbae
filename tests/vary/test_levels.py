"""The level picker, which sees no labels: in a world where level 3 is best, by hand, and where nothing moves."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tests.support.policy import NUM_ANSWERS, level_world

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.vary.levels import pick_level

WORLDS = {level: level_world(level) for level in range(1, 6)}
LEVELS = [0, *(level for level in WORLDS for _ in range(5))]
JUDGE = (0.8, 0.2)  # rates of right and of wrong responses that pass


def drawn(key: Key, num: int, draws: int) -> tuple[Floats, Floats, Floats]:
    """Answers, arms and judge scores of the five worlds side by side: answer 0 is right, 1 most of the wrong ones."""
    items, generator = WORLDS[1].items(key.fold("items"), num), key.fold("draws").generator()
    direct = WORLDS[1].success(items)[:, :1]
    chance = np.concatenate([direct, *(world.success(items)[:, 1:] for world in WORLDS.values())], axis=1)
    arms = np.repeat(np.arange(len(LEVELS)), draws)
    right = generator.random((num, len(arms))) < chance[:, arms]
    wrong = np.where(generator.random(right.shape) < 0.65, 1, generator.integers(1, NUM_ANSWERS, right.shape))
    passed = generator.random(right.shape) < np.where(right, *JUDGE)
    return np.where(right, 0, wrong), arms, passed.astype(np.float64)


@pytest.mark.slow
def test_the_best_level_is_found() -> None:
    """By a judge that errs in a fifth of its verdicts, 150 questions and 16 draws of each arm."""
    picked = Counter[int | None]()
    for repeat in range(4):
        key = Key(repeat).fold("levels")
        answers, arms, judged = drawn(key, 150, 16)
        found = pick_level(answers, arms, LEVELS, judged, key)
        picked[found.level] += 1
        assert found.reason.startswith("heuristic: ")
        assert [each.level for each in found.readings] == [1, 2, 3, 4, 5]
    assert picked == {3: 4}


def test_by_hand() -> None:
    """Direct says 0 0 0 1 each time, level 2 the same, level 3 always another one."""
    arms = np.repeat([0, 1, 2], 4)
    answers = np.array([[0, 0, 0, 1, 0, 0, 0, 1, 2, 2, 2, 0]] * 12)
    judged = np.where(answers == 2, 0.45, 0.5)
    found = pick_level(answers, arms, [0, 2, 3], judged, Key(0), min_agreement=0.2)
    assert found.level == 3
    two, three = found.readings
    assert two.judged == 1.0
    assert two.agreement == pytest.approx((10 / 16) / (6 / 12)), "of direct's pairs, those with itself are left out"
    assert three.judged == pytest.approx((3 * 0.45 + 0.5) / 4 / 0.5)
    assert three.agreement == pytest.approx((3 / 16) / (6 / 12))
    assert two.divergence.p_value > 0.5
    assert pick_level(answers, arms, [0, 2, 3], judged, Key(0)).level is None, "agrees with direct too seldom"
    low = pick_level(answers, arms, [0, 2, 3], np.where(answers == 2, 0.1, 0.5), Key(0), min_agreement=0.2)
    assert low.level is None
    assert "below a minimum" in low.reason


def test_arms_that_change_nothing_are_not_taken() -> None:
    generator = Key(3).generator()
    answers = generator.integers(0, 4, (40, 12))
    found = pick_level(answers, np.repeat([0, 1, 2], 4), [0, 2, 4], np.full(answers.shape, 0.5), Key(1))
    assert found.level is None
    assert "no level changes the answers" in found.reason


def test_misuse() -> None:
    answers, arms = np.zeros((3, 4), dtype=int), np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="scores in"):
        pick_level(answers, arms, [0, 3], np.full((3, 4), 1.5), Key(0))
    with pytest.raises(ValueError, match="one for each of the 2 arms"):
        pick_level(answers, arms, [0], np.zeros((3, 4)), Key(0))
    with pytest.raises(ValueError, match="no two readable draws"):
        pick_level(np.where(arms == 0, -1, answers), arms, [0, 3], np.zeros((3, 4)), Key(0))
