"""Weights and particles: unbiased to the last digit by enumeration, and what their pools say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplewise.conformance import check_sampler
from samplewise.conformance.ensembles import particle_masses, target_masses
from samplewise.conformance.forking import Forks, Tree
from samplewise.conformance.kernels import power_target, total_variation
from samplewise.engines.toy import Toy
from samplewise.keys import Key
from samplewise.numerics import log_normalise
from samplewise.samplers.base import Variant
from samplewise.samplers.power import sir, smc
from samplewise.samplers.power.dice import KeyDice
from samplewise.samplers.power.importance import drawn_first, weights_told
from samplewise.samplers.power.particles import _smc
from samplewise.samplers.power.resample import ETA, SCHEMES, effective, resample
from samplewise.types import Candidate, Completion, Message, Pool, Sampling, Usage

ARMS = (Variant("direct", (Message("user", "spell a word"),)),)
TOY = Toy(2, seed=3)
WEIGHTS = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=4).filter(lambda weights: max(weights) > 1e-3)


# --- resampling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@given(weights=WEIGHTS, num=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_resampling_keeps_every_mean(scheme: Any, weights: list[float], num: int) -> None:
    """Every outcome is taken: the mean of an offspring's weight from each parent is the parent's share."""
    forks = Forks()
    found = np.zeros(len(weights))
    for odds, made in forks.outcomes(lambda: resample(scheme, weights, num, forks)):
        assert len(made.parents) == len(made.weights) == num
        for parent, weight in zip(made.parents, made.weights, strict=True):
            found[parent] += odds * weight / num
    np.testing.assert_allclose(found, np.array(weights) / len(weights), atol=1e-9 * max(weights))


@given(weights=WEIGHTS, num=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_systematic_rounds_each_share_up_or_down(weights: list[float], num: int) -> None:
    forks = Forks()
    shares = num * np.array(weights) / sum(weights)
    for odds, made in forks.outcomes(lambda: resample("systematic", weights, num, forks)):
        counts = np.bincount(made.parents, minlength=len(weights))
        if odds > 1e-9:  # a stretch of rounding's width is no outcome
            assert (np.abs(counts - shares) < 1 + 1e-6).all()


@given(weights=WEIGHTS, num=st.integers(2, 5))
@settings(max_examples=25, deadline=None)
def test_chopthin_bounds_the_ratio_of_weights(weights: list[float], num: int) -> None:
    forks = Forks()
    for odds, made in forks.outcomes(lambda: resample("chopthin", weights, num, forks)):
        if odds > 1e-9:
            assert max(made.weights) <= ETA * min(made.weights) * (1 + 1e-6)


def test_chopthin_keeps_more_lines_than_systematic() -> None:
    weights = [100.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    kept = {
        scheme: sum(len(set(resample(scheme, weights, 8, KeyDice(Key(i))).parents)) for i in range(50))  # type: ignore[arg-type]
        for scheme in ("systematic", "chopthin")
    }
    assert kept["chopthin"] > kept["systematic"]


def test_effective_number() -> None:
    assert effective([2.0, 2.0, 2.0]) == pytest.approx(3.0)
    assert effective([1.0, 0.0]) == 1.0
    assert effective([]) == 0.0


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
def test_the_evidence_is_unbiased_for_every_response(more: dict[str, Any]) -> None:
    """Every run of two particles and three tokens, every resampling. The ramp was wrong here once: where resampling
    left ended particles alone, the rest of the rise was forgotten."""
    model = Tree(2 if more == {"scheme": "systematic"} else 1, seed=5, scale=1.5)
    given_ = {"block": 1, "threshold": 1.0, **more}
    found = particle_masses(lambda roll: _smc(2, 3.0, max_tokens=3, roll=roll, **given_), model)
    truth = target_masses(model, 3, 3.0, float(more.get("length_preference", 0.0)))
    for text, mass in truth.items():
        assert found[text] == pytest.approx(mass, abs=1e-12)


def test_sweeps_go_towards_the_law() -> None:
    """With one particle the kept run is an independent Metropolis-Hastings chain on whole responses: exactly that."""
    model = Tree(2, seed=5, scale=1.0)
    records = model.records(2)
    logq = np.array([math.fsum(model.logq(record, Sampling(1.0))) for record in records])
    target = np.array(power_target(model, records, 2.0))
    weight = target - logq
    matrix = np.exp(logq)[None, :] * np.minimum(1.0, np.exp(weight[None, :] - weight[:, None]))
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, 1.0 - matrix.sum(axis=1))
    expected = np.exp(logq) @ np.linalg.matrix_power(matrix, 2)

    forks = Forks()
    made = _smc(1, 2.0, block=2, max_tokens=2, temperature=1.0, sweeps=3, roll=forks)
    found: dict[str, float] = {}
    for text, mass in particle_masses(lambda roll: made, model, forks).items():
        found[text] = found.get(text, 0.0) + mass
    names = [f"{model.text(record)}{'.' if model.ended(record) else ''}" for record in records]
    np.testing.assert_allclose([found[name] for name in names], expected, atol=1e-12)
    law = np.exp(log_normalise(target))
    assert total_variation(expected, law) < total_variation(np.exp(logq), law)
    assert not made.weighted


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
def test_weighted_pools_hit_the_law_of_the_toy_model(make: Any) -> None:
    check_sampler(make, log_target=lambda tokens, logp: 2.0 * logp)


@pytest.mark.slow
def test_a_length_preference_is_part_of_the_law() -> None:
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


def test_the_pool_adds_up_to_the_evidence_that_is_told() -> None:
    pool, trace = ended(smc(6, 3.0, max_tokens=5, block=1, threshold=0.9), Key(2))
    log_z = math.log(math.fsum(math.exp(c.log_weight) for c in pool.candidates) / len(pool.candidates))
    assert trace[-1]["log_z"] == pytest.approx(log_z)
    assert any(info["resampled"] for info in trace if info)
    assert all(info["ess"] <= 6 + 1e-9 for info in trace if info)


def test_weights_of_a_mixture_are_over_its_density() -> None:
    """Each draw's weight against p^alpha over the mean of the two laws, from the model itself."""
    pool, _ = ended(sir(10, 2.0, max_tokens=4, temperatures=(0.5, 1.0)), Key(1))
    laws = [TOY.enumerate(ARMS[0].messages, 4, Sampling(tau)) for tau in (0.5, 1.0)]
    by_text = {(TOY.text(tokens), tokens[-1] == TOY.eos): tokens for tokens in laws[0]}
    for candidate in pool.candidates:
        tokens = by_text[candidate.text, candidate.finish == "stop"]
        density = math.log(0.5 * math.exp(laws[0][tokens]) + 0.5 * math.exp(laws[1][tokens]))
        assert candidate.log_weight == pytest.approx(2.0 * laws[1][tokens] - density)


def test_the_one_that_stands_first_is_drawn_by_weight() -> None:
    """Over 4,000 keys; a share of .9 is off by more than .03 with odds of 1e-9."""
    two = (Candidate("a", log_weight=math.log(0.1)), Candidate("b", log_weight=math.log(0.9)))
    firsts = [drawn_first(two, KeyDice(Key(i)).gumbels(2))[0].text for i in range(4000)]
    assert firsts.count("b") / 4000 == pytest.approx(0.9, abs=0.03)
    assert drawn_first((), ()) == ()


@pytest.mark.slow
def test_more_draws_come_nearer_to_the_law() -> None:
    """The law of the draw that stands first, over 500 runs each; at N = 1 it is q."""
    alpha = 4.0
    target = TOY.enumerate(ARMS[0].messages, 2)
    law = np.exp(log_normalise([alpha * logp for logp in target.values()]))
    names = [(TOY.text(tokens), tokens[-1] == TOY.eos) for tokens in target]
    off = []
    for num in (1, 16):
        counts = dict.fromkeys(names, 0)
        for i in range(500):
            first = ended(sir(num, alpha, max_tokens=2, temperature=1.0), Key(i))[0].candidates[0]
            counts[first.text, first.finish == "stop"] += 1
        off.append(total_variation(np.array(list(counts.values())) / 500, law))
    assert off[1] < 0.5 * off[0]


def test_what_is_told_of_weights() -> None:
    told = weights_told([math.log(3.0), math.log(1.0)])
    assert told["ess"] == pytest.approx(16 / 10)
    assert told["log_z"] == pytest.approx(math.log(2.0))


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
