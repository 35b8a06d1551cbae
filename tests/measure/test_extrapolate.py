"""pass@k beyond the draws: a published fit, known distributions, edges where nothing can be fitted, and intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import betabinom

from samplewise.core.files import data_folder
from samplewise.core.keys import Key
from samplewise.measure import majority_at, pass_at
from samplewise.measure.extrapolate import DROP, PassModel, _covered, _LikelihoodGrid, _Mixture, majority_beyond


def outcomes(share, a, b, num_problems, num_draws, key):
    generator = key.generator()
    probability = np.where(generator.random(num_problems) < share, 0.0, generator.beta(a, b, num_problems))
    return (generator.random((num_problems, num_draws)) < probability[:, None]).astype(float)


def test_recorded_game24_has_the_known_fit():
    """GPT-4's 100 chains of thought on each of 100 puzzles, without the zero part."""
    if (folder := data_folder()) is None:
        pytest.skip("the recorded draws are not at hand")
    from samplewise.recorded import load_recording

    assert folder.is_dir()
    graded = np.array([[draw.grade for draw in row] for row in load_recording("game24_gpt4_100x/cot").draws])
    model = PassModel(graded, blind=False)
    assert (model.spread.a, model.spread.b) == pytest.approx((0.2155, 5.1283), abs=1e-3)
    assert [round(model.modelled(k), 3) for k in (10, 50, 100)] == [0.217, 0.410, 0.487]
    assert model.at([100])[0].value == pytest.approx(0.49)
    early = PassModel(graded[:, :20]).at([100])[0]  # a fifth of the draws foretells the rest
    assert early.low < 0.49 < early.high


def test_coverage_of_a_beta_by_quadrature():
    from scipy.integrate import quad
    from scipy.stats import beta

    for a, b, k in itertools.product((0.3, 2.0), (0.7, 5.0), (1, 3, 40)):
        by_hand = quad(lambda p: beta.pdf(p, a, b) * (1 - (1 - p) ** k), 0, 1, limit=200)[0]  # noqa: B023
        assert float(_covered(np.array(a), np.array(b), k)) == pytest.approx(by_hand, abs=1e-6)


def test_the_likelihood_is_that_of_scipy():
    solved, made = np.array([0, 0, 3, 5, 1]), np.array([5, 8, 5, 5, 8])
    grid = _LikelihoodGrid(solved, made, True)
    mean, precision, share = 0.3, 1.1, -0.4
    total, m, z = math.exp(precision), 1 / (1 + math.exp(-mean)), 1 / (1 + math.exp(-share))
    probabilities = (1 - z) * betabinom.pmf(solved, made, m * total, (1 - m) * total) + z * (solved == 0)
    constant = sum(math.log(math.comb(n, s)) for s, n in zip(solved, made, strict=True))
    found = grid._log_likelihood(np.array(mean), np.array(precision), np.array([share]))
    assert float(found[0]) == pytest.approx(np.log(probabilities).sum() - constant)


def test_the_top_is_the_top():
    """No place among 300 around it is better, and its value is what it says."""
    grid = _LikelihoodGrid(outcomes(0.3, 0.8, 1.5, 200, 40, Key(1)).sum(axis=1).astype(int), np.full(200, 40), True)
    fit = grid.fit
    assert fit.blind == pytest.approx(0.3, abs=0.12)  # three standard errors of the share alone
    mean, precision = math.log(fit.a / fit.b), math.log(fit.a + fit.b)
    share = math.log(fit.blind / (1 - fit.blind))
    steps = Key(2).generator().normal(0, 0.1, (300, 3)) + np.array([mean, precision, share])
    around = [float(grid._log_likelihood(m, p, np.array([z]))[0]) for m, p, z in steps]
    assert max(around) <= fit.log_likelihood + 1e-6


def test_within_the_draws_nothing_is_modelled():
    drawn = outcomes(0.1, 0.5, 1.0, 50, 16, Key(3))
    model = PassModel(drawn)
    assert [e.value for e in model.at([1, 5, 16])] == pytest.approx(pass_at(drawn, [1, 5, 16]).mean(axis=1).tolist())
    values = model.values(range(1, 200)).tolist()
    assert (np.diff(values) >= -1e-12).all()
    assert values[-1] <= model.ceiling.value + 1e-12
    assert [e.value for e in model.at([3, 16, 17, 150])] == [values[k - 1] for k in (3, 16, 17, 150)]
    far = model.at([400])[0]
    assert far.low <= far.value <= far.high
    assert math.isnan(far.stderr)


def test_how_many_draws_are_needed_is_the_least_that_reaches():
    model = PassModel(outcomes(0.0, 0.6, 3.0, 80, 16, Key(4)), blind=False)
    for coverage in (0.3, 0.6, 0.8):
        needed = model.needed(coverage)
        at = int(needed.draws)
        assert model.at([at])[0].value >= coverage
        assert at == 1 or model.at([at - 1])[0].value < coverage
        assert needed.low <= needed.draws <= needed.high
    blind = PassModel(outcomes(0.4, 3.0, 3.0, 200, 32, Key(5)))
    assert blind.ceiling.value == pytest.approx(0.6, abs=0.1)
    assert blind.ceiling.high == pytest.approx(1.0), "no pilot can rule out probabilities of one in a million"
    assert blind.at([64])[0].high < 0.8
    assert blind.needed(0.9).draws == math.inf
    assert blind.needed(0.9).low > 64
    assert blind.needed(0.9).high == math.inf
    with pytest.raises(ValueError, match="coverage must be"):
        model.needed(0.0)


def test_where_nothing_is_solved_the_upper_end_says_what_may_hide():
    model = PassModel(np.zeros((20, 10)))
    near, far = model.at([10, 1000])
    assert (near.value, far.value, far.low) == (0.0, 0.0, 0.0)
    # every problem with the probability p: none of 200 draws right with probability .025
    p = 1 - 0.025 ** (1 / 200)
    assert far.high == pytest.approx(1 - (1 - p) ** 1000)
    assert near.high <= 1 - 0.025 ** (1 / 20) + 0.05
    assert model.ceiling.high == 1.0
    assert model.needed(0.5).draws == math.inf
    assert "no draw is right" in model.note


def test_where_all_is_solved_the_lower_end_is_that_of_the_problems():
    model = PassModel(np.ones((20, 4)))
    assert model.at([4, 50])[1][:3] == pytest.approx((1.0, 0.025 ** (1 / 20), 1.0))
    assert model.needed(0.99).draws == 1


def test_one_draw_each_gives_bounds_alone():
    drawn = np.array([[1.0]] * 3 + [[0.0]] * 7)
    model = PassModel(drawn)
    assert model.at([1])[0].value == pytest.approx(0.3)
    found = model.at([10])[0]
    assert math.isnan(found.value)
    assert found.low < 0.3 < 1 - 0.7**10 < found.high
    assert "one draw a problem" in model.note
    assert math.isnan(model.modelled(10))


def test_ragged_empty_and_wrong():
    drawn = outcomes(0.2, 1.0, 2.0, 40, 12, Key(6))
    drawn[0], drawn[1, 8:] = np.nan, np.nan
    model = PassModel(drawn)
    assert (model.num_problems, model.num_draws) == (39, 8)
    nothing = PassModel(np.full((3, 4), np.nan))
    assert math.isnan(nothing.at([2])[0].value)
    assert nothing.note == "nothing was drawn"
    with pytest.raises(ValueError, match="ks must be"):
        model.at([0])
    with pytest.raises(ValueError, match="0 or 1"):
        PassModel([[0.5, 1.0]]).at([1])


def test_ends_are_those_of_a_search_over_distributions():
    """On three probabilities the likelihood can be searched everywhere: a fine grid gives the same ends."""
    mixture = _Mixture(np.array([0, 1, 2, 2]), np.full(4, 2))
    mixture._probabilities = np.array([0.0, 0.5, 1.0])
    likelihood = np.array([[1, 0.25, 0], [0, 0.25, 0], [0, 0.25, 1]])
    mixture._likelihood = likelihood / likelihood.max(axis=1, keepdims=True)
    mixture._times = np.array([1.0, 1.0, 2.0])
    grid = np.linspace(0.0005, 0.9995, 1000)
    half, one = np.meshgrid(grid, grid)
    weights = np.stack([1 - half - one, half, one], axis=-1)[half + one < 1]
    likely = mixture._log_likelihood(weights)
    mixture._top = float(likely.max())
    mixture._weights = weights[likely.argmax()][None]
    inside = weights[likely >= mixture._top - DROP]
    for k in (1, 3, math.inf):
        covered = inside @ np.array([0.0, 1 - 0.5**k, 1.0])
        ends = mixture.ends([k])
        assert float(ends.low[0]) == pytest.approx(covered.min(), abs=0.01)
        assert float(ends.high[0]) == pytest.approx(covered.max(), abs=0.01)


def test_the_ends_hold_the_shape_that_the_model_cannot():
    """Half of the problems easy and half nearly hopeless, which no Beta is: the model's value is .15 too low."""
    generator = Key(12).generator()
    probability = np.where(generator.random(200) < 0.5, 0.8, 0.03)
    drawn = (generator.random((200, 16)) < probability[:, None]).astype(float)
    truth = float(1 - (0.5 * 0.2**200 + 0.5 * 0.97**200))
    found = PassModel(drawn).at([200])[0]
    assert found.value < truth - 0.1
    assert found.low < truth <= found.high


def cover(distribution, k, repeats):
    truth = float((1 - (1 - distribution(Key(0).generator(), 400_000)) ** k).mean())
    hits = 0
    for key in Key(1).split(repeats):
        generator = key.generator()
        drawn = generator.random((100, 16)) < distribution(generator, 100)[:, None]
        found = PassModel(drawn.astype(float)).at([k])[0]
        hits += found.low <= truth <= found.high
    return hits


@pytest.mark.slow
@pytest.mark.parametrize(
    "distribution",
    [
        lambda g, num: g.beta(0.5, 2.0, num),
        lambda g, num: np.where(g.random(num) < 0.3, 0.0, g.beta(0.8, 1.5, num)),
        lambda g, num: np.where(g.random(num) < 0.5, g.beta(8, 2, num), g.beta(1, 20, num)),
    ],
)
def test_intervals_cover(distribution):
    """100 problems of 16 draws foretelling pass@64: fewer than 45 of 50 has odds of .04 at a true .95; fixed seeds."""
    assert cover(distribution, 64, 50) >= 45


def test_votes_beyond_by_enumeration():
    """Three draws with replacement from a, a, b, unread: every sequence of positions is enumerated."""
    answers, right = np.array([[0, 0, 1, -1]]), np.array([[1.0, 1.0, 0.0, 0.0]])
    total = 0.0
    for positions in itertools.product(range(4), repeat=3):
        votes = [sum(answers[0][p] == code for p in positions) for code in (0, 1)]
        total += 1.0 if votes[0] > votes[1] else 0.5 if votes[0] == votes[1] > 0 else 0.0
    found = majority_beyond(answers, right, [3, math.inf], Key(7), num_resamples=40_000)
    assert found[0, 0] == pytest.approx(total / 64, abs=0.01)  # four standard errors
    assert found[1, 0] == 1.0
    tied = majority_beyond([[0, 1]], [[1.0, 0.0]], [math.inf], Key(8))
    assert tied[0, 0] == 0.5
    assert math.isnan(majority_beyond([[0]], [[math.nan]], [5], Key(9))[0, 0])
    assert majority_beyond([[-1, -1]], [[0.0, 0.0]], [5], Key(9))[0, 0] == 0.0


def test_the_plug_in_leans_to_the_leader():
    """Why it is not to be trusted: from a few draws, a question that is nearly a tie is taken for decided."""
    generator = Key(10).generator()
    answers = (generator.random((400, 5)) < 0.5).astype(int)
    guess = majority_beyond(answers, answers == 0, [101], Key(11), num_resamples=50)[0]
    assert 0.45 < guess.mean() < 0.55
    assert np.abs(guess - 0.5).mean() > 0.4  # the truth is .5 for every question
    assert majority_at(answers, answers == 0, [5])[0].mean() == pytest.approx(guess.mean(), abs=0.05)
