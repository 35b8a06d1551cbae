"""The worlds that stop rules are held against are what they say."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tests.support.worlds import (
    ANSWER_DISTRIBUTIONS,
    ScoreWorld,
    auc_of,
    exact_first_pass,
    follow,
    judged,
    matched_beta,
    score_worlds,
)

from samplewise.core.keys import Key
from samplewise.stop import cap
from samplewise.tasks.base import data_folder


@pytest.mark.parametrize("world", score_worlds().values(), ids=lambda world: world.name)
def test_a_world_knows_its_chances(world: ScoreWorld) -> None:
    """The share of scores at the target or above, within 4 standard errors at a fixed key."""
    drawn = world.play(Key(51), 2000, 10)
    share, chance = (drawn.scores >= world.target).mean(axis=1), drawn.probability
    assert ((drawn.scores >= 0) & (drawn.scores <= 1)).all()
    error = math.sqrt(float(np.mean(chance * (1 - chance))) / drawn.scores.size)
    assert abs(share.mean() - chance.mean()) <= 4 * error
    again = world.play(Key(51), 2000, 10)
    assert (again.scores == drawn.scores).all()


def test_the_published_chances() -> None:
    chances = {name: float(world.play(Key(0), 1, 1).probability[0]) for name, world in score_worlds().items()}
    for name, chance in (("TN(.9,.1)", 0.178), ("TN(.8,.1)", 0.045), ("TN(.6,.12)", 0.018), ("Beta(12,1.2)", 0.068)):
        assert chances[name] == pytest.approx(chance, abs=6e-4)
    assert chances["bounded .93"] == 0


def test_a_verifier_of_known_quality() -> None:
    assert auc_of(1.0) == pytest.approx(0.5)
    rng = Key(52).generator()
    right = rng.random(3000) < 0.4
    scores = judged(right, 0.8, rng)
    pairs = (scores[right][:, None] > scores[~right]).mean()
    assert pairs == pytest.approx(0.8, abs=0.03)
    with pytest.raises(ValueError, match="auc"):
        judged(right, 0.4, rng)


def test_following_a_rule() -> None:
    found = follow(cap(2), np.array([[0.1, 0.9, 1.0], [0.5, 0.2, 0.0]]))
    assert (found.draws.tolist(), found.best.tolist(), found.reasons) == ([2, 2], [0.9, 0.5], ("cap", "cap"))
    assert found.attained(0.9) == 0.5
    assert exact_first_pass(0.1, 64).draws == pytest.approx((1 - 0.9**64) / 0.1)
    assert exact_first_pass(0.0, 64) == (0.0, 64.0)
    assert all(sum(distribution) == pytest.approx(1) for distribution in ANSWER_DISTRIBUTIONS)


@pytest.mark.skipif(data_folder() is None, reason="the reference folder is not here")
def test_worlds_of_a_real_verifier() -> None:
    """All 5,001 pairs of mean and spread are Beta laws; a few are drawn from."""
    folder = data_folder()
    assert folder is not None
    pairs = []
    for part in ("train", "val"):
        table = json.loads((folder / "optscale_reference" / f"train_predictor__{part}_mu_sigma_dict.json").read_text())
        pairs += [(each["mean"], each["std"]) for each in table.values()]
    assert len(pairs) == 5001
    sizes = np.array([mean * (1 - mean) / sd**2 - 1 for mean, sd in pairs])
    assert (sizes > 0).all()
    assert np.quantile(sizes, [0.05, 0.5, 0.95]) == pytest.approx([4.5, 12.2, 42.9], abs=0.06)
    drawn = matched_beta(*pairs[7])(Key(53).generator(), (200, 50), 0.9)
    assert drawn.scores.mean() == pytest.approx(pairs[7][0], abs=4 * pairs[7][1] / 100)
