"""The whole shipped sampler by enumeration: pilots, starts, every step, the pool. Exact to 1e-12.

At alpha 1 and temperature 1 a chain begins in its target, so it must end in it, whatever the number of steps. At any
alpha every step must be one and the same kernel, which leaves the target as it is: a kernel that knew where its chain
began would pass a test of one step from a given response, and leave the target all the same.

The responses have different lengths, and the horizon cuts some.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.support.ensembles import ladder_table, particle_masses
from tests.support.forking import ForkedChoices, Tree
from tests.support.kernels import power_target
from tests.support.runs import WHOLE_KERNELS, joint, name_of, of_candidate, whole_chain, whole_matrix, whole_run

from samplewise.core.numerics import Floats, log_normalise
from samplewise.core.types import Sampling
from samplewise.samplers.base import Sampler, Variant
from samplewise.samplers.power.importance import SirSettings, sir_sampler
from samplewise.samplers.power.ladder import LadderSettings, ladder_sampler
from samplewise.samplers.power.smc import SmcSettings, smc_sampler

EXACT = 1e-12
HORIZON = 3
AT_ONE = [name for name in WHOLE_KERNELS if name != "entropy"]  # entropies need alpha above 1


def model_of(vocab: int = 1) -> Tree:
    """Four responses, of 1, 2, 3 and 3 tokens, the last cut by the horizon; with two letters it is fifteen."""
    return Tree(vocab, seed=6)


def names_of(model: Tree, horizon: int = HORIZON) -> list[str]:
    return [name_of(model, tokens) for tokens in model.responses(horizon)]


def target_of(model: Tree, alpha: float, shift: float = 0.0, horizon: int = HORIZON) -> Floats:
    return np.exp(log_normalise(power_target(model, model.responses(horizon), alpha, shift)))


def matrix_of(model: Tree, alpha: float, steps: int, **settings: Any) -> Floats:
    return whole_matrix(whole_chain(alpha, steps, HORIZON, **settings), model, HORIZON)


def stationary(matrix: Floats) -> Floats:
    """Return the distribution (S,) that many steps end in."""
    rows = np.vstack([matrix.T - np.eye(len(matrix)), np.ones((1, len(matrix)))])
    return np.asarray(np.linalg.lstsq(rows, np.append(np.zeros(len(matrix)), 1.0), rcond=None)[0])


def starts_of(model: Tree, tau: float, horizon: int = HORIZON) -> Floats:
    """Return the distribution (S,) of a whole draw at a temperature."""
    return np.exp([math.fsum(model.logq(tokens, Sampling(tau))) for tokens in model.responses(horizon)])


# --- alpha 1: the whole run is the model's own distribution -----------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernel", AT_ONE)
def test_at_alpha_one_a_run_ends_where_it_began(kernel: str, steps: int) -> None:
    """In p itself. Cuts that went by the chain's own start were off by .04 to .2 here after one step."""
    model = model_of()
    ends = of_candidate(whole_run(whole_chain(1.0, steps, HORIZON, **WHOLE_KERNELS[kernel]), model), names_of(model))
    np.testing.assert_allclose(ends, target_of(model, 1.0), atol=EXACT, rtol=0)


@pytest.mark.parametrize("cuts", ["uniform", "recent"])
def test_at_alpha_one_with_two_letters(cuts: str) -> None:
    model = model_of(2)
    ends = of_candidate(whole_run(whole_chain(1.0, 1, HORIZON, cuts=cuts), model), names_of(model))
    np.testing.assert_allclose(ends, target_of(model, 1.0), atol=EXACT, rtol=0)


@pytest.mark.parametrize(
    "settings",
    [
        {"chains": 2},
        {"starts": 3},
        {"starts": 3, "cuts": "recent"},
        {"blocks": 3},
        {"blocks": 2, "cuts": "recent", "block_steps": 1},
        {"length_preference": "auto"},
        {"budget_tokens": 7},
        {"budget_tokens": 10, "cuts": "recent", "length_preference": "auto"},
    ],
    ids=str,
)
def test_at_alpha_one_starts_blocks_and_budgets_have_no_say(settings: dict[str, Any]) -> None:
    """Neither the other starts, nor growing horizons, nor pilots and the number of steps that they forecast."""
    model = model_of()
    run = whole_run(whole_chain(1.0, 1, HORIZON, **settings), model)
    for index in range(settings.get("chains", 1)):
        np.testing.assert_allclose(of_candidate(run, names_of(model), index), target_of(model, 1.0), atol=EXACT, rtol=0)


def test_chains_do_not_know_of_each_other() -> None:
    """Two chains from given starts: the joint distribution is the product of what each has alone."""
    model, alone = model_of(), matrix_of(model_of(), 2.0, 1)
    responses, names = model.responses(HORIZON), names_of(model_of())
    for (i, one), (j, other) in itertools.product(enumerate(responses), repeat=2):
        ends = joint(whole_run(whole_chain(2.0, 1, HORIZON, chains=2), model, starts=[one, other]))
        expected = {(a, b): alone[i, s] * alone[j, t] for s, a in enumerate(names) for t, b in enumerate(names)}
        assert all(abs(ends.get(pair, 0.0) - mass) < EXACT for pair, mass in expected.items())


def test_every_arm_has_its_own_target() -> None:
    """Chains of an arm that draws at another temperature still aim at p^alpha."""
    model, arms = model_of(), (Variant("direct", ()), Variant("warm", (), {"temperature": 1.0}))
    starts = model.responses(HORIZON)
    target = target_of(model, 2.0)
    after = np.zeros(len(starts))
    for start, mass in zip(starts, target, strict=True):
        run = whole_run(whole_chain(2.0, 1, HORIZON, chains=2), model, variants=arms, starts=[starts[0], start])
        after += mass * of_candidate(run, names_of(model), 1)
    np.testing.assert_allclose(after, target, atol=EXACT, rtol=0)


# --- any alpha: every step is one kernel, and the target is its own ---------------------------------------------------


@pytest.mark.parametrize(
    ("alpha", "kernel"), [*itertools.product([1.0], AT_ONE), *itertools.product([2.0], WHOLE_KERNELS)]
)
def test_every_step_is_one_kernel_which_leaves_the_target_as_it_is(alpha: float, kernel: str) -> None:
    settings, model = WHOLE_KERNELS[kernel], model_of()
    one, two = (matrix_of(model, alpha, steps, **settings) for steps in (1, 2))
    target = target_of(model, alpha)
    flow = target[:, None] * one
    assert np.abs(target @ one - target).max() < EXACT
    assert np.abs(flow - flow.T).max() < EXACT
    assert np.abs(two - one @ one).max() < EXACT  # the second step does not know the start
    assert np.sort(np.abs(np.linalg.eigvals(one)))[-2] < 1.0 - 1e-6


@pytest.mark.parametrize("kernel", ["uniform", "recent", "entropy", "multiple try"])
def test_a_run_is_its_starts_and_then_that_kernel(kernel: str) -> None:
    settings, model = WHOLE_KERNELS[kernel], model_of()
    one = matrix_of(model, 2.0, 1, **settings)
    ends = of_candidate(whole_run(whole_chain(2.0, 2, HORIZON, **settings), model), names_of(model))
    np.testing.assert_allclose(ends, starts_of(model, 0.5) @ one @ one, atol=EXACT, rtol=0)


@pytest.mark.parametrize("shift", [-0.4, 0.4])
@pytest.mark.parametrize("cuts", ["uniform", "recent", "entropy"])
def test_a_preference_for_length_is_part_of_the_target(cuts: str, shift: float) -> None:
    model = model_of()
    target = target_of(model, 2.0, shift)
    after = target @ matrix_of(model, 2.0, 2, cuts=cuts, length_preference=shift)
    np.testing.assert_allclose(after, target, atol=EXACT, rtol=0)


# --- ladders ----------------------------------------------------------------------------------------------------------


def ladder(rounds: int, alphas: Sequence[float], cuts: str, tau: float | None, horizon: int = 2) -> Any:
    def sampler(choices: ForkedChoices) -> Sampler[Any]:
        return ladder_sampler(
            LadderSettings(
                alphas=tuple(alphas),
                rounds=rounds,
                max_tokens=horizon,
                cuts=cuts,  # type: ignore[arg-type]
                temperature=tau,
                keep="all",
                make_choices=choices,
            )
        )

    return sampler


@pytest.mark.parametrize(
    ("cuts", "tau"),
    [
        ("uniform", None),
        pytest.param("uniform", 1.0, marks=pytest.mark.slow),
        pytest.param("recent", None, marks=pytest.mark.slow),
        pytest.param("recent", 1.0, marks=pytest.mark.slow),
    ],
)
def test_a_ladder_leaves_the_product_of_its_targets_as_it_is(cuts: str, tau: float | None) -> None:
    """From its starts on: a round from all pairs of starts, and a run from the ladder's own. Responses of one token and
    of two, some of them cut."""
    model, alphas = model_of(), (1.0, 2.0)
    table = ladder_table(ladder(1, alphas, cuts, tau), model, 2, 2)
    assert table.invariance(model, alphas) < EXACT
    taus = (tau, tau) if tau is not None else tuple(1.0 / alpha for alpha in alphas)
    begun = np.outer(starts_of(model, taus[0], 2), starts_of(model, taus[1], 2)).ravel()
    expected = dict(
        zip(itertools.product(names_of(model, 2), repeat=2), begun @ table.matrix @ table.matrix, strict=True)
    )
    for names, mass in joint(whole_run(ladder(2, alphas, cuts, tau), model)).items():
        assert expected[names[::-1]] == pytest.approx(mass, abs=EXACT)


# --- the space --------------------------------------------------------------------------------------------------------


def test_ended_and_cut_responses_are_one_space() -> None:
    """At alpha 1 they have all of the probability between them, whatever the horizon."""
    for horizon in (1, 2, 3, 5):
        model = model_of(2)
        responses = model.responses(horizon)
        assert math.fsum(math.exp(math.fsum(model.logp(tokens))) for tokens in responses) == pytest.approx(1.0)
        assert all(model.ended(tokens) or len(tokens) == horizon for tokens in responses)
        assert any(not model.ended(tokens) for tokens in responses)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 4.0])
def test_a_horizon_favors_what_it_cuts(alpha: float) -> None:
    """A cut response counts p^alpha of its tokens, its continuations together at most that: so a nearer horizon takes
    probability from those that ended, and leaves their ratios as they are. At alpha 1 it takes none."""
    model = model_of(2)
    near, far = (
        dict(zip(model.responses(horizon), target_of(model, alpha, horizon=horizon), strict=True)) for horizon in (3, 6)
    )
    ratios = [far[tokens] / mass for tokens, mass in near.items() if model.ended(tokens)]
    np.testing.assert_allclose(ratios, ratios[0])
    assert ratios[0] == pytest.approx(1.0) if alpha == 1.0 else ratios[0] > 1.001


def padded_chain(model: Tree, alpha: float) -> Floats:
    """The transition matrix (S, S) of the textbook chain over responses padded to the horizon, written out.

    A state has `HORIZON` tokens, all after a stop token certain. A step cuts at a position that is uniform over all of
    them, whatever the state, and redraws the rest from p. A cut in the padding redraws certain tokens: the step stays.
    """
    responses = model.responses(HORIZON)
    matrix = np.zeros((len(responses), len(responses)))
    for i, one in enumerate(responses):
        for cut in range(HORIZON):
            if cut >= len(one):
                matrix[i, i] += 1 / HORIZON
                continue
            for j, other in enumerate(responses):
                if other[:cut] != one[:cut] or len(other) <= cut:
                    continue
                there, back = (math.fsum(model.logp(tokens)[cut:]) for tokens in (other, one))
                accepted = min(1.0, math.exp((alpha - 1.0) * (there - back)))
                matrix[i, j] += math.exp(there) * accepted / HORIZON
                matrix[i, i] += math.exp(there) * (1.0 - accepted) / HORIZON
    return matrix


def mass_at_the_horizon(model: Tree, distribution: Floats) -> float:
    return math.fsum(
        mass for tokens, mass in zip(model.responses(HORIZON), distribution, strict=True) if not model.ended(tokens)
    )


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize("kernel", ["padded", *AT_ONE, "sir", "smc", "tempering"])
def test_every_kernel_has_the_target_of_padded_responses(kernel: str, alpha: float) -> None:
    """One space for all: responses of 1, 2 and 3 tokens, of which the horizon cuts one, weighed alike by every kernel
    and by the textbook chain over padded responses. What a chain is run for, and what weights are unbiased for."""
    model = model_of()
    responses = model.responses(HORIZON)
    assert sorted(len(tokens) for tokens in responses) == [1, 2, 3, 3]
    target = target_of(model, alpha)
    assert 0.01 < mass_at_the_horizon(model, target) < 0.99
    if kernel in ("sir", "smc"):
        make: Any = {
            "sir": lambda choices: sir_sampler(
                SirSettings(num_samples=2, alpha=alpha, max_tokens=HORIZON, make_choices=choices)
            ),
            "smc": lambda choices: smc_sampler(
                SmcSettings(num_particles=2, alpha=alpha, max_tokens=HORIZON, block=1, make_choices=choices)
            ),
        }[kernel]
        masses = particle_masses(make, model)
        found = np.array([masses[name] for name in names_of(model)])
        assert set(masses) == set(names_of(model))  # nothing outside the space
        found = found / found.sum()
    elif kernel == "tempering":
        table = ladder_table(ladder(1, (alpha, alpha + 1.0), "uniform", None, HORIZON), model, HORIZON, 2)
        found = stationary(table.matrix).reshape(len(responses), len(responses)).sum(axis=1)
    else:
        matrix = (
            padded_chain(model, alpha) if kernel == "padded" else matrix_of(model, alpha, 1, **WHOLE_KERNELS[kernel])
        )
        found = stationary(matrix)
    np.testing.assert_allclose(found, target, atol=1e-10, rtol=0)


def test_giving_back_what_has_ended_is_another_distribution() -> None:
    """The truncation bias: a run that returns a response once it has ended, and moves those alone that the horizon cut,
    is far from the target that the whole kernel has, from the kernel's own stationary distribution on."""
    model = model_of()
    matrix, target = matrix_of(model, 2.0, 1), target_of(model, 2.0)
    stopped = np.array(
        [
            np.eye(len(target))[i] if model.ended(tokens) else matrix[i]
            for i, tokens in enumerate(model.responses(HORIZON))
        ]
    )
    np.testing.assert_allclose(target @ matrix, target, atol=EXACT, rtol=0)
    after = target @ np.linalg.matrix_power(stopped, 10)
    assert mass_at_the_horizon(model, after) < 0.5 * mass_at_the_horizon(model, target)
