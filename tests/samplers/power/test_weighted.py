"""Weights and particles: unbiased to the last digit by enumeration, and what their pools say."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.ensembles import Prompts, arm_pools, particle_masses, target_masses
from tests.support.forking import ForkedChoices, Tree
from tests.support.kernels import power_target, total_variation

from samplewise.core.keys import Key
from samplewise.core.numerics import log_normalise
from samplewise.core.types import Candidate, Completion, Message, Pool, Question, Sampling, Usage
from samplewise.engines.toy import Toy
from samplewise.samplers.base import Variant
from samplewise.samplers.power import sir, smc
from samplewise.samplers.power.importance import SirSettings, drawn_first, sir_sampler, weight_info
from samplewise.samplers.power.random_choices import KeyChoices
from samplewise.samplers.power.resample import ETA, SCHEMES, effective_sample_size, resample
from samplewise.samplers.power.smc import SmcSettings, smc_sampler
from samplewise.select.votes import first
from samplewise.testing import LAWS, Case, check_sampler
from samplewise.vary import ladder

ARMS = (Variant("direct", (Message("user", "spell a word"),)),)
TOY = Toy(2, seed=3)
WEIGHTS = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=4).filter(lambda weights: max(weights) > 1e-3)


# --- resampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights=WEIGHTS, num=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_resampling_keeps_every_mean(scheme: Any, weights: list[float], num: int) -> None:
    """Every outcome is taken: the mean of an offspring's weight from each parent is the parent's share."""
    forks = ForkedChoices()
    found = np.zeros(len(weights))
    for probability, offspring in forks.outcomes(lambda: resample(scheme, weights, num, forks)):
        assert len(offspring.parents) == len(offspring.weights) == num
        for parent, weight in zip(offspring.parents, offspring.weights, strict=True):
            found[parent] += probability * weight / num
    np.testing.assert_allclose(found, np.array(weights) / len(weights), atol=1e-9 * max(weights))


@given(weights=WEIGHTS, num=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_systematic_rounds_each_share_up_or_down(weights: list[float], num: int) -> None:
    forks = ForkedChoices()
    shares = num * np.array(weights) / sum(weights)
    for probability, offspring in forks.outcomes(lambda: resample("systematic", weights, num, forks)):
        counts = np.bincount(offspring.parents, minlength=len(weights))
        if probability > 1e-9:  # a stretch of rounding's width is no outcome
            assert (np.abs(counts - shares) < 1 + 1e-6).all()


@given(weights=WEIGHTS, num=st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_chopthin_bounds_the_ratio_of_weights(weights: list[float], num: int) -> None:
    forks = ForkedChoices()
    for probability, offspring in forks.outcomes(lambda: resample("chopthin", weights, num, forks)):
        if probability > 1e-9:
            assert max(offspring.weights) <= ETA * min(offspring.weights) * (1 + 1e-6)


def test_chopthin_keeps_more_lines_than_systematic() -> None:
    weights = [100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    kept = {
        scheme: sum(len(set(resample(scheme, weights, 8, KeyChoices(Key(i))).parents)) for i in range(50))  # type: ignore[arg-type]
        for scheme in ("systematic", "chopthin")
    }
    assert kept["chopthin"] > kept["systematic"]


def test_effective_sample_size() -> None:
    assert effective_sample_size([2.0, 2.0, 2.0]) == pytest.approx(3.0)
    assert effective_sample_size([1.0, 0.0]) == 1.0
    assert effective_sample_size([]) == 0.0


# --- particles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more",
    [
        {"scheme": "systematic"},
        {"scheme": "residual"},
        {"scheme": "chopthin"},
        {"temperature": 0.7},
        {"ramp": 2},
        {"ramp": 5},
        {"ramp": 2, "scheme": "chopthin", "length_preference": 0.3},
        {"block": 2},
        {"threshold": 0.0},
    ],
    ids=str,
)
def test_the_normalizer_is_unbiased_for_every_response(more: dict[str, Any]) -> None:
    """Every run of two particles and three tokens, every resampling. The ramp was wrong here once: where resampling
    left ended particles alone, the rest of the rise was forgotten."""
    model = Tree(2 if more == {"scheme": "systematic"} else 1, seed=5, scale=1.5)
    given_ = {"block": 1, "threshold": 1.0, **more}
    found = particle_masses(
        lambda choices: smc_sampler(
            SmcSettings(num_particles=2, alpha=3.0, max_tokens=3, make_choices=choices, **given_)
        ),
        model,
    )
    truth = target_masses(model, 3, 3.0, float(more.get("length_preference", 0.0)))
    for text, mass in truth.items():
        assert found[text] == pytest.approx(mass, abs=1e-12)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
@pytest.mark.parametrize(
    "more",
    [{}, {"temperature": 1.0}, {"temperatures": (0.5, 1.0)}, {"wave": 1}, {"length_preference": 0.3}],
    ids=str,
)
def test_importance_weights_are_unbiased_for_every_response(more: dict[str, Any], alpha: float) -> None:
    """Those that ended and those that the horizon cut: every run of two draws of one to three tokens."""
    model = Tree(1, seed=6)
    found = particle_masses(
        lambda choices: sir_sampler(
            SirSettings(num_samples=2, alpha=alpha, max_tokens=3, make_choices=choices, **more)
        ),
        model,
    )
    truth = target_masses(model, 3, alpha, float(more.get("length_preference", 0.0)))
    assert {len(tokens) for tokens in model.responses(3)} == {1, 2, 3}
    assert found == pytest.approx(truth, abs=1e-12)


# --- arms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda choices: smc_sampler(
            SmcSettings(num_particles=5, alpha=2.0, block=1, max_tokens=2, threshold=1.0, make_choices=choices)
        ),
        lambda choices: smc_sampler(
            SmcSettings(
                num_particles=4,
                alpha=2.0,
                block=1,
                max_tokens=2,
                threshold=1.0,
                scheme="chopthin",
                make_choices=choices,
            )
        ),
        lambda choices: sir_sampler(SirSettings(num_samples=3, alpha=2.0, max_tokens=2, make_choices=choices)),
    ],
    ids=["smc", "chopthin", "sir"],
)
def test_every_arm_keeps_its_draws_and_has_its_own_target(make: Any) -> None:
    """Two prompts that the model answers otherwise, one arm surer than the other: no run trades particles of one for
    those of the other, and the weights of each arm alone are unbiased for its own p^alpha. So those of the pool are for
    n_a / N p_a^alpha."""
    prompts = Prompts({"direct": Tree(1, seed=6), "sure": Tree(1, seed=2, scale=2.0)})
    means: dict[tuple[str, str], float] = {}
    for probability, pool in arm_pools(make, prompts):
        num = len(pool.candidates)
        for arm, count in zip(prompts.models, ((num + 1) // 2, num // 2), strict=True):
            of_arm = [candidate for candidate in pool.candidates if candidate.arm == arm]
            assert len(of_arm) == count
            for candidate in of_arm:
                name = f"{candidate.text}{'.' if candidate.finish == 'stop' else ''}"
                weight = probability * math.exp(candidate.log_weight) / count
                means[arm, name] = means.get((arm, name), 0.0) + weight
    truth = {
        (arm, name): mass
        for arm, model in prompts.models.items()
        for name, mass in target_masses(model, 2, 2.0).items()
    }
    assert means == pytest.approx(truth, abs=1e-12)


def test_sweeps_approach_the_target() -> None:
    """With one particle the kept run is an independent Metropolis-Hastings chain on whole responses: exactly that."""
    model = Tree(2, seed=5, scale=1.0)
    responses = model.responses(2)
    logq = np.array([math.fsum(model.logq(tokens, Sampling(1.0))) for tokens in responses])
    target = np.array(power_target(model, responses, 2.0))
    weight = target - logq
    matrix = np.exp(logq)[None, :] * np.minimum(1.0, np.exp(weight[None, :] - weight[:, None]))
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    expected = np.exp(logq) @ np.linalg.matrix_power(matrix, 2)

    forks = ForkedChoices()
    sampler = smc_sampler(
        SmcSettings(num_particles=1, alpha=2.0, block=2, max_tokens=2, temperature=1.0, sweeps=3, make_choices=forks)
    )
    found: dict[str, float] = {}
    for text, mass in particle_masses(lambda choices: sampler, model, forks).items():
        found[text] = found.get(text, 0.0) + mass
    names = [f"{model.text(tokens)}{'.' if model.ended(tokens) else ''}" for tokens in responses]
    np.testing.assert_allclose([found[name] for name in names], expected, atol=1e-12)
    distribution = np.exp(log_normalise(target))
    assert total_variation(expected, distribution) < total_variation(np.exp(logq), distribution)
    assert not sampler.weighted


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: smc(8, 2.0, max_tokens=4, block=1),
        lambda: smc(8, 2.0, max_tokens=4, block=2, ramp=3, scheme="chopthin"),
        lambda: sir(8, 2.0, max_tokens=4),
        lambda: sir(8, 2.0, max_tokens=4, temperatures=(0.5, 1.0)),
        lambda: sir(8, 2.0, max_tokens=4, temperature=1.0),
    ],
)
def test_weighted_pools_hit_the_target_on_the_toy_model(make: Any) -> None:
    """The one law that needs a target; test_conformance checks the others on samplers like these."""
    question = Question("conformance", ARMS[0].messages)
    case = Case(make, question, TOY, (ladder(0.5, 1.5),), Key(7), log_target=lambda tokens, logp: 2.0 * logp)
    LAWS["draws follow their distribution"](case)


@pytest.mark.slow
def test_a_length_preference_is_part_of_the_target() -> None:
    check_sampler(
        lambda: sir(8, 2.0, max_tokens=3, length_preference=0.5),
        log_target=lambda tokens, logp: 2.0 * logp + 0.5 * len(tokens),
    )


def ended(sampler: Any, key: Key, fails: frozenset[int] = frozenset()) -> tuple[Pool, list[Any]]:
    """The pool of a whole run in which the asks of these numbers fail, and its trace."""
    state, step = sampler.step(key, sampler.init(ARMS), ())
    trace, asked = [step.info], 0
    while step.asks:
        answers = []
        for ask in step.asks:
            answers.append(Completion("", "error", Usage(1)) if asked in fails else TOY.one(ask))
            asked += 1
        state, step = sampler.step(key, state, answers)
        trace.append(step.info)
    return sampler.pool(state), trace


def test_a_particle_that_fails_is_dropped_and_counted() -> None:
    pool, _ = ended(smc(4, 2.0, max_tokens=3, block=1, threshold=0.0), Key(0), frozenset({1, 6}))
    assert pool.num_failed == 2
    assert len(pool.candidates) == 2
    none, _ = ended(smc(2, 2.0, max_tokens=3, block=1), Key(0), frozenset(range(9)))
    assert none == Pool((), 2)


def test_the_pool_adds_up_to_the_normalizer_in_the_trace() -> None:
    pool, trace = ended(smc(6, 3.0, max_tokens=5, block=1, threshold=0.9), Key(2))
    log_z = math.log(math.fsum(math.exp(c.log_weight) for c in pool.candidates) / len(pool.candidates))
    assert trace[-1]["log_z"] == pytest.approx(log_z)
    assert any(info["resampled"] for info in trace if info)
    assert all(info["ess"] <= 6 + 1e-9 for info in trace if info)


def test_weights_of_a_mixture_are_over_its_density() -> None:
    """Each draw's weight against p^alpha over the mean of the two laws, from the model itself."""
    pool, _ = ended(sir(10, 2.0, max_tokens=4, temperatures=(0.5, 1.0)), Key(1))
    distributions = [TOY.enumerate(ARMS[0].messages, 4, Sampling(tau)) for tau in (0.5, 1.0)]
    by_text = {(TOY.text(tokens), tokens[-1] == TOY.eos): tokens for tokens in distributions[0]}
    for candidate in pool.candidates:
        tokens = by_text[candidate.text, candidate.finish == "stop"]
        density = math.log(0.5 * math.exp(distributions[0][tokens]) + 0.5 * math.exp(distributions[1][tokens]))
        assert candidate.log_weight == pytest.approx(2.0 * distributions[1][tokens] - density)


def test_the_one_that_stands_first_is_drawn_by_weight() -> None:
    """Over 4,000 keys; a share of .9 is off by more than .03 with probability 1e-9."""
    two = (Candidate("a", log_weight=math.log(0.1)), Candidate("b", log_weight=math.log(0.9)))
    firsts = [drawn_first(two, KeyChoices(Key(i)).gumbels(2))[0].text for i in range(4000)]
    assert firsts.count("b") / 4000 == pytest.approx(0.9, abs=0.03)
    assert drawn_first((), ()) == ()


@pytest.mark.parametrize("unreadable", [(0,), (0, 2), (1,), ()])
def test_first_chooses_by_weight_among_what_can_be_read(unreadable: tuple[int, ...]) -> None:
    """Exactly: over which candidate the sampler drew, by weight, and the one number of the selector's key, whose line
    is cut where the choice changes."""
    weights = [0.1, 0.2, 0.3, 0.4]
    candidates = tuple(Candidate(str(i), log_weight=math.log(w) - 3.0) for i, w in enumerate(weights))
    chosen = dict.fromkeys("0123", 0.0)
    for drawn in range(4):
        noise = [math.inf if i == drawn else 0.0 for i in range(4)]
        pool = Pool(drawn_first(candidates, noise))
        answers = tuple(None if int(c.text) in unreadable else c.text for c in pool.candidates)
        for answer, share in shares_of(lambda key, pool=pool, answers=answers: first().choose(key, pool, answers)):
            chosen[answer] += weights[drawn] * share
    readable = math.fsum(w for i, w in enumerate(weights) if i not in unreadable)
    expected = {str(i): 0.0 if i in unreadable else w / readable for i, w in enumerate(weights)}
    assert chosen == pytest.approx(expected, abs=1e-12)


def shares_of(choose: Any) -> list[tuple[str, float]]:
    """Return each answer with the part of [0, 1) in which a key's number must be for it, to the last digit."""

    def at(number: float) -> str:
        rng = SimpleNamespace(random=lambda: number)
        return str(choose(SimpleNamespace(generator=lambda: rng)).answer)

    found, low = [], 0.0
    while low < 1.0:
        answer, inside, outside = at(low), low, 1.0
        if at(math.nextafter(1.0, 0.0)) != answer:
            while (middle := 0.5 * (inside + outside)) not in (inside, outside):
                inside, outside = (middle, outside) if at(middle) == answer else (inside, middle)
        found.append((answer, outside - low))
        low = outside
    return found


def test_first_takes_exchangeable_draws_in_order() -> None:
    pool = Pool((Candidate("a"), Candidate("b"), Candidate("c")))
    assert all(first().choose(Key(i), pool, (None, "b", "c")).answer == "b" for i in range(20))
    assert first().choose(Key(0), pool, (None, None, None)).answer is None
    weightless = Pool(tuple(Candidate(text, log_weight=-math.inf) for text in "abc"))
    assert {first().choose(Key(i), weightless, (None, "b", "c")).answer for i in range(20)} == {"b", "c"}


@pytest.mark.slow
def test_more_draws_come_nearer_to_the_target() -> None:
    """The distribution of the draw that comes first, over 500 runs each; at N = 1 it is q."""
    alpha = 4.0
    target = TOY.enumerate(ARMS[0].messages, 2)
    distribution = np.exp(log_normalise([alpha * logp for logp in target.values()]))
    names = [(TOY.text(tokens), tokens[-1] == TOY.eos) for tokens in target]
    off = []
    for num in (1, 16):
        counts = dict.fromkeys(names, 0)
        for i in range(500):
            first = ended(sir(num, alpha, max_tokens=2, temperature=1.0), Key(i))[0].candidates[0]
            counts[first.text, first.finish == "stop"] += 1
        off.append(total_variation(np.array(list(counts.values())) / 500, distribution))
    assert off[1] < 0.5 * off[0]


def test_the_info_of_weights() -> None:
    info = weight_info([math.log(3.0), math.log(1.0)])
    assert info.ess == pytest.approx(16 / 10)
    assert info.log_z == pytest.approx(math.log(2.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: sir(0),
        lambda: sir(4, alpha=math.nan),
        lambda: sir(4, temperature=0.0),
        lambda: sir(4, temperatures=(0.5, 1.0), top_k=3),
        lambda: sir(4, wave=0),
        lambda: smc(0),
        lambda: smc(4, alpha=0.5),
        lambda: smc(4, block=0),
        lambda: smc(4, threshold=1.5),
        lambda: smc(4, scheme="none"),  # type: ignore[arg-type]
        lambda: smc(4, ramp=-1),
        lambda: smc(4, sweeps=0),
    ],
)
def test_settings_out_of_range_are_misuse(make: Any) -> None:
    with pytest.raises(ValueError):
        make()
