"""The random choices of a key, and the fork that stands for them."""

from __future__ import annotations

import math

import pytest
from tests.support.forking import ForkedChoices

from samplewise.core.keys import Key
from samplewise.samplers.power.random_choices import KeyChoices


def test_a_choice_falls_on_each_by_its_mass() -> None:
    """Over 6,000 keys; off by more than .03 with probability 1e-6. What has no mass is never chosen."""
    picks = [KeyChoices(Key(i)).choose([1.0, 0.0, 3.0, 0.0]) for i in range(6000)]
    assert set(picks) == {0, 2}
    assert picks.count(2) / 6000 == pytest.approx(0.75, abs=0.03)
    assert sum(KeyChoices(Key(i)).happens(0.3) for i in range(6000)) / 6000 == pytest.approx(0.3, abs=0.03)


def test_the_winner_is_drawn_by_weight() -> None:
    logs = [math.log(0.2), math.log(0.8)]
    wins = 0
    for i in range(6000):
        choices = KeyChoices(Key(i))
        wins += choices.winner(logs, choices.gumbels(2))
    assert wins / 6000 == pytest.approx(0.8, abs=0.03)


def test_the_same_key_makes_the_same_choices() -> None:
    one, other = KeyChoices(Key(3, (1,))), KeyChoices(Key(3, (1,)))
    assert one.log_uniform() == other.log_uniform() <= 0.0
    assert one.log_uniform() != KeyChoices(Key(3, (1,))).log_uniform()  # the second number of a stream is another


def test_forks_take_every_way_once_with_its_probability() -> None:
    forks = ForkedChoices()
    found: dict[tuple[int, bool], float] = {}
    for probability, way in forks.outcomes(lambda: (forks.choose([1.0, 2.0, 0.0]), forks.happens(0.25))):
        assert way not in found
        found[way] = probability
    assert found == pytest.approx({(0, True): 1 / 12, (0, False): 1 / 4, (1, True): 1 / 6, (1, False): 1 / 2})


def test_a_uniform_number_is_cut_by_what_it_is_compared_with() -> None:
    """log u <= log .5, then log u + 1 < log .25 + 1: the second is sure where the first failed."""
    forks = ForkedChoices()

    def play() -> tuple[bool, bool]:
        u = forks.log_uniform()
        return u <= math.log(0.5), math.log(0.25) + 1.0 > u + 1.0

    found = {way: probability for probability, way in forks.outcomes(play)}
    assert found == pytest.approx({(True, True): 0.25, (True, False): 0.25, (False, False): 0.5})


def test_a_number_drawn_in_one_play_can_be_compared_in_the_next() -> None:
    forks = ForkedChoices()
    ((_, u),) = forks.outcomes(forks.log_uniform)
    for _ in range(2):
        assert sorted(probability for probability, _ in forks.outcomes(lambda: u < math.log(0.3))) == pytest.approx(
            [0.3, 0.7]
        )
