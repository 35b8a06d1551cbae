"""Do 95 % intervals hold the truth in 95 % of repeats? Simulated worlds with known truth, all seeds fixed.

In a world every problem has its own success probability, from a Beta, or 0 with some probability; N draws are made and
pass@k is estimated; the truth is the mean over all problems that the world could have given.
4,000 repeats: the standard error of a coverage of .95 is .0034. Of 16,000 repeats with other seeds, unsaturated
worlds held the truth in .950 to .967 (means) and .933 to .959 (differences), saturated ones in .933 to .984. The bounds
here are .92 and .975, so that fresh seeds would break one of the 120 cases with odds of about 1 in 150, most of it from
the cases at .967 and .933. The seeds are fixed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from scipy.special import betaln
from scipy.stats import t

from samplewise.core.keys import Key
from samplewise.measure import mean_intervals, pass_at

NUM_REPEATS = 4_000


class World(NamedTuple):
    """Success probability of a problem: 0 with probability `impossible`, else Beta(a, b)."""

    a: float
    b: float
    impossible: float = 0.0

    def probabilities(self, generator, shape):
        return generator.beta(self.a, self.b, shape) * (generator.random(shape) >= self.impossible)

    def truth(self, k):
        return (1 - self.impossible) * (1 - np.exp(betaln(self.a, self.b + k) - betaln(self.a, self.b)))


WORLDS = {
    "u-shaped": World(0.3, 0.7),
    "hard": World(0.5, 2),
    "hump": World(2, 2),
    "u-shaped, 20 % impossible": World(0.3, 0.7, 0.2),
    "hump, 20 % impossible": World(2, 2, 0.2),
}
SIZES = [(50, 16), (50, 100), (100, 32), (200, 100)]  # problems, draws
SATURATED = 0.97  # where the truth is above, a sample has next to no bad problem


def table(num_draws, k):
    """pass@k for 0 .. num_draws successes: (N + 1,)"""
    return pass_at(np.tri(num_draws + 1, num_draws, -1), [k])[0]


def share_covered(values, truth, support=(0.0, 1.0)):
    ends = np.array([(e.low, e.high) for e in mean_intervals(values, support=support)])
    return float(((ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])).mean())


@pytest.mark.parametrize(("num_problems", "num_draws"), SIZES)
@pytest.mark.parametrize("name", WORLDS)
def test_the_interval_of_a_mean_covers(name, num_problems, num_draws):
    world = WORLDS[name]
    generator = Key(11).fold(name, num_problems).generator()
    successes = generator.binomial(num_draws, world.probabilities(generator, (NUM_REPEATS, num_problems)))
    for k in (1, 4, 16):
        truth = world.truth(k)
        covered = share_covered(table(num_draws, k)[successes], truth)
        assert covered >= 0.92, (k, covered)
        assert covered <= 0.975 or truth > SATURATED, (k, covered)


@pytest.mark.parametrize(("num_problems", "num_draws"), SIZES)
@pytest.mark.parametrize("name", WORLDS)
def test_the_interval_of_a_paired_difference_covers(name, num_problems, num_draws):
    """The second method has the first one's success probability on 70 % of the problems, a fresh one on the others."""
    world, other = WORLDS[name], World(1, 3)
    generator = Key(12).fold(name, num_problems).generator()
    shape = (NUM_REPEATS, num_problems)
    first = world.probabilities(generator, shape)
    second = np.where(generator.random(shape) < 0.7, first, other.probabilities(generator, shape))
    wins, losses = generator.binomial(num_draws, first), generator.binomial(num_draws, second)
    for k in (1, 4, 16):
        values = table(num_draws, k)[wins] - table(num_draws, k)[losses]
        covered = share_covered(values, 0.3 * (world.truth(k) - other.truth(k)), support=(-1.0, 1.0))
        assert covered >= 0.92, (k, covered)
        assert covered <= 0.975 or world.truth(k) > SATURATED, (k, covered)


def test_the_simulation_tells_a_plain_t_interval():
    """The mutant: mean +- t x standard error covers .59 where pass@16 of 16 draws is .982, far below the bound."""
    world = WORLDS["hump"]
    generator = Key(11).generator()
    values = table(16, 16)[generator.binomial(16, world.probabilities(generator, (NUM_REPEATS, 50)))]
    half = t.ppf(0.975, 49) * values.std(axis=1, ddof=1) / 50**0.5
    assert (np.abs(values.mean(axis=1) - world.truth(16)) <= half).mean() < 0.7
    assert share_covered(values, world.truth(16)) >= 0.92


@pytest.mark.parametrize("world", [World(5, 1), World(3, 1)], ids=["very easy", "easy"])
def test_a_saturated_world_is_not_claimed_to_be_free_of_hard_problems(world):
    """pass@16 of 32 draws, truth .9999 and .9990: bare Wilson and Hall intervals cover .2 to .75 here, since the rare
    hard problem is mostly not in the sample. Ours held the truth in .98 or more of 40,000 repeats.
    """
    for num_problems in (20, 50, 200):
        generator = Key(13).fold(num_problems).generator()
        successes = generator.binomial(32, world.probabilities(generator, (NUM_REPEATS, num_problems)))
        assert share_covered(table(32, 16)[successes], world.truth(16)) >= 0.95


def test_values_of_unknown_support_are_covered_though_skewed():
    """Token counts, log-normal: plain t covers .92 of such means at P = 50, Hall's .935 (of 40,000 repeats); at 4,000
    repeats it comes out below .92 with odds of 1e-4."""
    generator = Key(14).generator()
    for num_problems in (50, 200):
        values = np.exp(generator.normal(6, 0.8, (NUM_REPEATS, num_problems)))
        assert 0.92 <= share_covered(values, np.exp(6 + 0.32), support=None) <= 0.97
