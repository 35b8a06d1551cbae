"""The door: groups do not touch each other, the batch's order means nothing, and what is wrong is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from samplewise.core.errors import SetupError
from samplewise.explore.base import EngineStep, Head, Layout
from samplewise.explore.controls import frozen_distiller, hot, noise, zero
from samplewise.explore.explorer import Explorer
from samplewise.explore.settings import arithmetic, css, esamp, lss

POLICIES = [
    esamp(1.0, width=16, rate=4e-3),
    esamp(1.0, learner="ridge", compensate="entropy"),
    esamp(0.5, width=8, forking=0.5),
    frozen_distiller(0.5),
    noise(0.5),
    zero(0.5),
    css(),
    css(width=8, centre=True),
    lss(),
    lss(width=8, centre=True),
    lss(lag=True),
    hot(1.25),
    arithmetic(),
]
policies = pytest.mark.parametrize("settings", POLICIES, ids=str)


@policies
def test_a_group_draws_the_same_alone_and_beside_others_and_in_any_order(exact: Any, settings: Any) -> None:
    beside = exact.decode([3, 5, 8], 6, settings, seed=1, length=7)
    alone = exact.decode([5], 6, settings, seed=1, names=[1], length=7)
    mixed = exact.decode([3, 5, 8], 6, settings, seed=1, shuffle=4, length=7)
    assert torch.equal(beside.tokens[1], alone.tokens[0])
    assert torch.equal(beside.tokens, mixed.tokens)
    torch.testing.assert_close(beside.logq, mixed.logq, rtol=0, atol=1e-5)
    assert {report.problem for report in beside.reports} == {""}
    other = exact.decode([3, 5, 8], 6, settings, seed=2, length=7)
    assert not torch.equal(beside.tokens, other.tokens)


@pytest.mark.parametrize("settings", [esamp(0.0), zero(0.0), lss(0.0)], ids=str)
def test_no_strength_draws_the_tokens_of_plain_sampling(exact: Any, settings: Any) -> None:
    """P1, bit for bit."""
    plain = exact.decode([0, 1], 6, None, seed=3)
    found = exact.decode([0, 1], 6, settings, seed=3)
    assert torch.equal(plain.tokens, found.tokens)
    assert torch.equal(plain.logq, found.logq)


def test_waves_meet_what_earlier_ones_drew(exact: Any) -> None:
    """One sample after another: the memory alone keeps them apart, without any order within a step."""
    lag = exact.decode([0, 1, 2, 3], 8, lss(lag=True), seed=3, wave=1)
    plain = exact.decode([0, 1, 2, 3], 8, None, seed=3)
    waves, together = (exact.scores([0, 1, 2, 3], found.tokens).coverage.mean() for found in (lag, plain))
    assert waves > together
    assert all(report.numbers["guided"] > 0 for report in lag.reports)


HEAD = Head(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)))


def step(numbers: list[int], samples: list[int], at: int = 0, seed: int = 0) -> EngineStep:
    generator = torch.Generator().manual_seed(seed + at)
    deep, shallow = (torch.randn(len(numbers), 5, generator=generator) for _ in range(2))
    logits = deep @ HEAD.weight.T
    log_probs, heat = logits.double().log_softmax(-1), torch.ones(len(numbers))
    return EngineStep(
        np.array(numbers), np.array(samples), np.full(len(numbers), at), heat, logits, log_probs, deep, shallow, False
    )


def test_policies_and_plain_rows_in_one_batch_are_told_apart() -> None:
    explorer = Explorer(HEAD)
    a, b = explorer.open("a", zero(1.0), 1), explorer.open("b", hot(2.0), 2)
    advices = explorer.advise(step([b, -1, a, b, -1], [0, 0, 0, 1, 0]))
    assert sorted(row for advice in advices for row in advice.rows.tolist()) == [0, 2, 3]
    log_probs = step([b, -1, a, b, -1], [0, 0, 0, 1, 0]).log_probs
    for advice in advices:
        heat = 2.0 if len(advice.rows) == 2 else 0.5
        torch.testing.assert_close(advice.log_probs, (log_probs[advice.rows] / heat).log_softmax(-1), rtol=0, atol=1e-5)
    explorer.took(torch.zeros(5, dtype=torch.int64))
    assert not explorer.shallow
    assert explorer.close(a, 1).problem == ""
    assert explorer.close(b, 1).problem == "exploration saw 2 tokens of a group for which 1 were drawn"
    assert len(explorer) == 0
    assert not explorer._policies


def test_closing_a_group_leaves_the_others_as_they_are() -> None:
    """Places of later groups move up: with the wrong one, b would go on with c's learner."""
    found = []
    for closing in (False, True):
        explorer = Explorer(HEAD)
        numbers = [explorer.open(name, esamp(1.0, width=4), seed) for seed, name in enumerate("abc")]
        for at in range(3):
            explorer.advise(step([numbers[0], numbers[1], numbers[2], numbers[2]], [0, 0, 0, 1], at))
            explorer.took(torch.zeros(4, dtype=torch.int64))
        if closing:
            explorer.leave(numbers[0])
            explorer.close(numbers[0], 3)
        (advice,) = explorer.advise(step([numbers[1], numbers[2], numbers[2]], [0, 0, 1], 3))
        found.append(advice.log_probs)
        explorer.took(torch.zeros(3, dtype=torch.int64))
        assert explorer.close(numbers[2], 8).problem == ""
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


def test_a_group_that_begins_again_begins_anew() -> None:
    explorer, distributions = Explorer(HEAD), []
    for _ in range(2):
        number = explorer.open("a", esamp(1.0, width=4), 5)
        for at in range(3):
            (advice,) = explorer.advise(step([number, number], [0, 1], at))
            explorer.took(torch.zeros(2, dtype=torch.int64))
        distributions.append(advice.log_probs)
        explorer.close(number, 6)
    assert torch.equal(distributions[0], distributions[1])


def test_misuse_is_said() -> None:
    explorer = Explorer(HEAD, max_groups=2)
    a = explorer.open("a", lss(), 1)
    assert explorer.open("a", lss(), 1) == a
    with pytest.raises(ValueError, match=r"group 'a' explores by lss, and an ask of it by lss\(strength=8.0\)"):
        explorer.open("a", lss(8.0), 1)
    explorer.open("b", esamp(), 1)
    assert explorer.shallow
    with pytest.raises(SetupError, match="2 groups explore at once and each has draws in flight"):
        explorer.open("c", lss(), 1)
    explorer.leave(a)
    with pytest.raises(SetupError):
        explorer.open("c", lss(), 1)
    explorer.leave(a)
    explorer.open("c", lss(), 1)  # the idle group has gone
    assert len(explorer) == 2
    explorer.advise(step([1], [0]))
    with pytest.raises(ValueError, match="between two steps"):
        explorer.advise(step([1], [0]))
    with pytest.raises(ValueError, match="1 rows were advised and 2 tokens were drawn"):
        explorer.took(torch.zeros(2, dtype=torch.int64))
    explorer.drop()
    explorer.advise(step([1], [0], 1))
    explorer.took(torch.zeros(1, dtype=torch.int64))
    assert "saw 1 of the 2 tokens" in explorer.close(1, 2).problem


def test_esamp_without_the_first_blocks_states_is_an_error() -> None:
    explorer = Explorer(HEAD)
    number = explorer.open("a", esamp(), 1)
    with pytest.raises(ValueError, match="needs the states after the first block"):
        explorer.advise(step([number], [0])._replace(shallow=None))


def test_a_head_that_does_not_fit_is_refused_before_a_token() -> None:
    explorer = Explorer(Head(2 * HEAD.weight))
    number = explorer.open("a", lss(), 1)
    with pytest.raises(SetupError, match="cannot explore with this model"):
        explorer.advise(step([number], [0]))


def test_a_layout_pads_and_flattens_back() -> None:
    group, sample = np.array([2, 0, 2, 0, 0]), np.array([1, 0, 0, 2, 1])
    layout = Layout(group, sample, torch.device("cpu"))
    x = torch.arange(5.0)[:, None]
    assert layout.live.tolist() == [0, 2]
    assert layout.pad(x)[..., 0].tolist() == [[1.0, 4.0, 3.0], [2.0, 0.0, 2.0]]
    assert layout.mask.tolist() == [[True, True, True], [True, True, False]]
    assert torch.equal(layout.flat(layout.pad(x)), x)
    straight = Layout(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), torch.device("cpu"))
    assert straight.straight
    assert torch.equal(straight.flat(straight.pad(x[:4])), x[:4])
