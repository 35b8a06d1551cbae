"""Shortlists: by hand, against all subsets, and against their chance level."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.measure.coverage import pass_at
from samplewise.measure.shortlist import judge_shortlist, shortlist_at

nan = math.nan


def test_by_hand() -> None:
    scores = [[3, 2, 1, 0], [3, 2, 1, 0], [1, 1, 1, 0], [nan, 0.1, nan, -math.inf]]
    right = [[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
    assert shortlist_at(scores, right, 2).tolist() == pytest.approx([1, 0, 2 / 3, 0])
    assert shortlist_at(scores, right, 3).tolist() == pytest.approx([1, 1, 1, 0.5]), "-inf is a score, nan is none"
    assert shortlist_at(scores, right, 4).tolist() == [1, 1, 1, 1]


def test_the_published_chance_level() -> None:
    """10 of 100 at random, with 1, 3, 10 right ones: .1, .273469, .669524."""
    right = np.array([[1] * num + [0] * (100 - num) for num in (1, 3, 10)])
    found = shortlist_at(np.zeros((3, 100)), right)
    assert found.tolist() == pytest.approx([0.1, 0.273469, 0.669524], abs=1e-6)
    blind = judge_shortlist(np.zeros((3, 100)), right)
    assert blind.success.value == pytest.approx(blind.baseline.value)
    assert blind.skill == pytest.approx(0, abs=1e-12)
    assert judge_shortlist(right, right).skill == pytest.approx(1)
    assert judge_shortlist(-right, right).skill < 0, "a judge that prefers what is wrong is worse than chance"


DRAWS = st.tuples(st.sampled_from([nan, -1.0, 0.0, 2.0]), st.sampled_from([0.0, 1.0, nan]))


@given(st.lists(DRAWS, min_size=1, max_size=7), st.data())
def test_against_every_order_of_ties(draws: list[tuple[float, float]], data: st.DataObject) -> None:
    scores, outcomes = ([list(column)] for column in zip(*draws, strict=True))
    known = [(-math.inf if math.isnan(score) else score, right) for score, right in draws if not math.isnan(right)]
    if not known:
        assert math.isnan(shortlist_at(scores, outcomes, 1)[0])
        return
    size, indices = data.draw(st.integers(1, len(known))), set(range(len(known)))
    lists = [
        kept
        for kept in combinations(indices, size)
        if min(known[i][0] for i in kept) >= max((known[i][0] for i in indices - set(kept)), default=-math.inf)
    ]
    by_hand = np.mean([any(known[i][1] for i in kept) for kept in lists])
    assert shortlist_at(scores, outcomes, size)[0] == pytest.approx(by_hand)


def test_scores_that_are_noise_have_no_skill() -> None:
    generator = Key(1).generator()
    right = (generator.random((400, 40)) < generator.beta(0.5, 3, 400)[:, None]).astype(float)
    noise = judge_shortlist(generator.random((400, 40)), right)
    assert abs(noise.skill) < 0.15, "standard error about .04"
    assert noise.success.value == pytest.approx(noise.baseline.value, abs=4 * noise.success.stderr)
    better = judge_shortlist(right + generator.normal(0, 1, right.shape), right)
    assert 0.5 < better.skill < 1
    assert better.baseline.value == pytest.approx(pass_at(right, [10])[0].mean())


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        shortlist_at([[1, 2]], [[0.5, 1]], 1)
    with pytest.raises(ValueError):
        shortlist_at([[1, 2]], [[0, 1]], 3)
    with pytest.raises(ValueError):
        shortlist_at([[1, 2, 3]], [[0, 1]], 1)
    assert math.isnan(judge_shortlist([[1, 2]], [[0, 0]], 1).skill), "nothing to be gained"
