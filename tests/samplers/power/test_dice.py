"""A key's dice, and the fork that stands for them."""

from __future__ import annotations

import math

import pytest

from samplewise.conformance.forking import Forks
from samplewise.keys import Key
from samplewise.samplers.power.dice import KeyDice


def test_a_choice_falls_on_each_by_its_mass() -> None:
    """Over 6,000 keys; off by more than .03 with odds of 1e-6. What has no mass is never chosen."""
    picks = [KeyDice(Key(i)).choose([1.0, 0.0, 3.0, 0.0]) for i in range(6000)]
    assert set(picks) == {0, 2}
    assert picks.count(2) / 6000 == pytest.approx(0.75, abs=0.03)
    assert sum(KeyDice(Key(i)).happens(0.3) for i in range(6000)) / 6000 == pytest.approx(0.3, abs=0.03)


def test_the_winner_is_drawn_by_weight() -> None:
    logs = [math.log(0.2), math.log(0.8)]
    wins = 0
    for i in range(6000):
        dice = KeyDice(Key(i))
        wins += dice.winner(logs, dice.gumbels(2))
    assert wins / 6000 == pytest.approx(0.8, abs=0.03)


def test_the_same_key_rolls_the_same() -> None:
    one, other = KeyDice(Key(3, (1,))), KeyDice(Key(3, (1,)))
    assert one.log_uniform() == other.log_uniform() <= 0.0
    assert one.log_uniform() != KeyDice(Key(3, (1,))).log_uniform()  # the second number of a stream is another


def test_forks_take_every_way_once_with_its_odds() -> None:
    forks = Forks()
    found: dict[tuple[int, bool], float] = {}
    for odds, way in forks.outcomes(lambda: (forks.choose([1.0, 2.0, 0.0]), forks.happens(0.25))):
        assert way not in found
        found[way] = odds
    assert found == pytest.approx({(0, True): 1 / 12, (0, False): 1 / 4, (1, True): 1 / 6, (1, False): 1 / 2})


def test_a_uniform_number_is_cut_by_what_it_is_compared_with() -> None:
    """log u <= log .5, then log u + 1 < log .25 + 1: the second is sure where the first failed."""
    forks = Forks()

    def play() -> tuple[bool, bool]:
        u = forks.log_uniform()
        return u <= math.log(0.5), math.log(0.25) + 1.0 > u + 1.0

    found = {way: odds for odds, way in forks.outcomes(play)}
    assert found == pytest.approx({(True, True): 0.25, (True, False): 0.25, (False, False): 0.5})


def test_a_number_drawn_in_one_play_can_be_compared_in_the_next() -> None:
    forks = Forks()
    ((_, u),) = forks.outcomes(forks.log_uniform)
    for _ in range(2):
        assert sorted(odds for odds, _ in forks.outcomes(lambda: u < math.log(0.3))) == pytest.approx([0.3, 0.7])
