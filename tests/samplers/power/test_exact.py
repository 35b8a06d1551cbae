"""The distribution of the shipped code by enumeration: exact transition matrices, to 1e-12, on small models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.support.forking import ForkedChoices, Tree
from tests.support.kernels import TransitionTable, power_target, response_of, total_variation, transitions

from samplewise.core.numerics import Floats, log_softmax
from samplewise.core.types import Sampling
from samplewise.samplers.base import Sampler
from samplewise.samplers.power import power
from samplewise.samplers.power.chains import ChainSettings, ChainsState, chain_sampler

EXACT = 1e-12
PLAIN = {"jump": False, "early": False}


def table(model: Tree, horizon: int, alpha: float = 4.0, **settings: Any) -> TransitionTable:
    """Return the table of one step of `power(alpha, ...)`."""
    tau = settings.get("temperature") or 1.0 / alpha
    filters = {name: settings[name] for name in ("top_k", "top_p", "min_p") if name in settings}

    def make(choices: ForkedChoices) -> Sampler[ChainsState]:
        return chain_sampler(ChainSettings(alpha=alpha, steps=1, max_tokens=horizon, make_choices=choices, **settings))

    return transitions(make, model, horizon, sampling=Sampling(tau, **filters))


def check(found: TransitionTable, target: list[float]) -> None:
    """What must hold of any kernel."""
    assert found.invariance(target) < EXACT
    assert found.detailed_balance(target) < EXACT
    assert np.abs(found.matrix.sum(axis=1) - 1.0).max() < EXACT
    assert found.lost.max() == 0.0
    gap = found.gap()
    assert gap > 1e-6
    distribution, start = found.target(target), np.full(len(target), 1.0 / len(target))
    after = start @ np.linalg.matrix_power(found.matrix, math.ceil(20 / gap))
    assert total_variation(after, distribution) < 1e-6


PROPOSALS: dict[str, dict[str, Any]] = {
    "at 1 / alpha": {},
    "warmer": {"temperature": 0.5},
    "at temperature 1": {"temperature": 1.0},
    "colder than 1 / alpha": {"temperature": 0.2},
    "a mixture": {"temperatures": (0.25, 0.5, 1.0)},
    "top-k": {"top_k": 2},
    "top-k, warm": {"top_k": 2, "temperature": 1.0},
    "top-p": {"top_p": 0.95, "temperature": 1.0},
    "min-p": {"min_p": 0.2, "temperature": 1.0},
}


@pytest.mark.parametrize(("cuts", "shift"), [("uniform", 0.0), ("uniform", -0.3), ("recent", 0.4), ("entropy", 0.0)])
@pytest.mark.parametrize("proposal", PROPOSALS)
def test_one_step_of_a_chain_leaves_the_target_as_it_is(proposal: str, cuts: str, shift: float) -> None:
    settings = PROPOSALS[proposal]
    if cuts == "entropy" and ("temperature" in settings or "temperatures" in settings):
        with pytest.raises(ValueError, match="entropy cuts need"):
            power(4.0, 1, 1, cuts="entropy", **settings)
        return
    model = Tree(2, seed=3, scale=1.5)
    found = table(model, 3, cuts=cuts, length_preference=shift, **settings)
    check(found, power_target(model, found.responses, 4.0, shift))


@pytest.mark.parametrize("cuts", ["uniform", "recent"])
@pytest.mark.parametrize("jump", [False, True])
@pytest.mark.parametrize("move", ["mtm", "isir"])
def test_several_tries_leave_the_target_as_it_is(move: str, jump: bool, cuts: str) -> None:
    """Without a race: its noise is not split. That the race decides alike is in test_chains."""
    model = Tree(2, seed=4, scale=1.5)
    for settings in ({}, {"temperature": 1.0}, {"length_preference": 0.5}, {"tries": 1}):
        found = table(model, 2, 2.0, move=move, jump=jump, early=False, cuts=cuts, **settings)
        check(found, power_target(model, found.responses, 2.0, float(settings.get("length_preference", 0.0))))


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "horizon"), [(0, 5), (1, 4), (2, 4), (3, 4)])
def test_on_four_models_with_five_tokens_and_four(seed: int, horizon: int) -> None:
    """63 and 31 responses; the plain kernel and the accelerated one are one matrix."""
    model = Tree(2, seed=seed, scale=1.0 + 0.5 * seed)
    fast, plain = table(model, horizon), table(model, horizon, **PLAIN)
    target = power_target(model, fast.responses, 4.0)
    assert len(fast.responses) == 2 ** (horizon + 1) - 1
    check(fast, target)
    assert np.abs(fast.matrix - plain.matrix).max() < EXACT
    assert fast.expected_tokens(target) < 0.6 * plain.expected_tokens(target)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.5}, {"cuts": "recent"}, {"length_preference": 0.3}])
def test_what_saves_tokens_changes_no_probability(settings: dict[str, Any]) -> None:
    model = Tree(2, seed=5, scale=1.5)
    tables = {
        (jump, early): table(model, 3, jump=jump, early=early, **settings)
        for jump in (False, True)
        for early in (False, True)
    }
    plain = tables[False, False]
    target = power_target(model, plain.responses, 4.0, float(settings.get("length_preference", 0.0)))
    costs = {which: found.expected_tokens(target) for which, found in tables.items()}
    for found in tables.values():
        assert np.abs(found.matrix - plain.matrix).max() < EXACT
    assert costs[True, True] < min(costs[True, False], costs[False, True])
    assert max(costs[True, False], costs[False, True]) < costs[False, False]


def test_a_bound_that_does_not_look_ahead_decides_alike() -> None:
    model = Tree(2, seed=5, scale=1.5)
    tables = [
        transitions(
            lambda choices: chain_sampler(ChainSettings(alpha=4.0, steps=1, max_tokens=3, make_choices=choices)),
            model,
            3,
            sampling=Sampling(0.25),
            tight=tight,
        )
        for tight in (True, False)
    ]
    assert np.abs(tables[0].matrix - tables[1].matrix).max() < EXACT
    assert (tables[0].tokens <= tables[1].tokens + EXACT).all()


def test_responses_grow_as_well_as_shrink() -> None:
    model = Tree(2, seed=6)
    found = table(model, 3)
    sizes = np.array([len(tokens) for tokens in found.responses])
    longer = found.matrix * (sizes[None, :] > sizes[:, None])
    assert (longer.sum(axis=1)[sizes < 3] > 0).all()


@pytest.mark.parametrize("tau", [0.25, 0.5, 1.0])
def test_filters_restrict_the_target_too(tau: float) -> None:
    model = Tree(3, seed=2, scale=1.5)
    found = table(model, 3, top_k=2, temperature=tau)
    everything = power_target(model, model.responses(3), 4.0)
    kept = power_target(model, found.responses, 4.0)
    lost = 1.0 - math.fsum(map(math.exp, kept)) / math.fsum(map(math.exp, everything))
    assert len(found.responses) < len(everything)
    assert 0.0 < lost < 0.2
    check(found, kept)


def test_alpha_one_at_temperature_one_rejects_by_length_alone() -> None:
    """The ratio is that of the cut probabilities, L / L'. So what stays is a redraw of the same response, or a longer
    one rejected."""
    model = Tree(2, seed=7)
    found = table(model, 3, 1.0, jump=False, early=False)
    target = power_target(model, found.responses, 1.0)
    check(found, target)
    for i, one in enumerate(found.responses):
        for j, other in enumerate(found.responses):
            if i == j:
                continue
            shared = next(t for t, (mine, its) in enumerate(zip(one, other, strict=False)) if mine != its)
            proposed = sum(math.exp(math.fsum(model.logp(other)[cut:])) for cut in range(shared + 1)) / len(one)
            expected = proposed * min(1.0, len(one) / len(other))
            assert found.matrix[i, j] == pytest.approx(expected, abs=1e-12)


def test_the_target_does_not_depend_on_the_proposal() -> None:
    model = Tree(2, seed=8)
    distributions = [table(model, 3, 1.0, temperature=tau).stationary() for tau in (0.6, 1.0, 1.5)]
    for distribution in distributions[1:]:
        np.testing.assert_allclose(distribution, distributions[0], atol=1e-10)


class TwoTokens(Tree):
    """p(aa) = 0, p(ab) = .40, p(ba) = p(bb) = .25, normalised by .9; nothing ends before two tokens."""

    def _draw_logp(self, tokens: tuple[int, ...]) -> Floats:
        after: dict[tuple[int, ...], list[float]] = {(): [0.4, 0.5, 0.0], (0,): [0.0, 1.0, 0.0], (1,): [0.5, 0.5, 0.0]}
        with np.errstate(divide="ignore"):
            return log_softmax(np.log(after[tokens]))


def test_power_is_not_temperature() -> None:
    """The preference of the first token flips: a to b is .160 to .125 under power, .160 to .250 under temperature."""
    model = TwoTokens(2)
    found = table(model, 2, 2.0)
    distribution = dict(zip(found.responses, found.stationary(), strict=True))
    first = {token: sum(mass for tokens, mass in distribution.items() if tokens[0] == token) for token in (0, 1)}
    assert first[0] / first[1] == pytest.approx(0.160 / 0.125, abs=1e-9)
    tempered = np.exp(model.draw_log_probs((), Sampling(0.5)))
    assert tempered[0] / tempered[1] == pytest.approx(0.160 / 0.250)


def test_every_stop_token_ends_a_response_and_has_its_own_probability() -> None:
    model = Tree(2, stops=2, seed=9)
    found = table(model, 3)
    assert {tokens[-1] for tokens in found.responses if len(tokens) < 3} == {2, 3}
    assert {(2,), (3,)} <= set(found.responses)  # a stop at the first index_of
    assert any(len(tokens) == 3 and model.ended(tokens) for tokens in found.responses)  # and at the horizon
    check(found, power_target(model, found.responses, 4.0))


class Renamed(Tree):
    """The same model with its letters called otherwise."""

    names = (1, 0, 2)

    def _draw_logp(self, tokens: tuple[int, ...]) -> Floats:
        row = super()._draw_logp(tuple(self.names[token] for token in tokens))
        return row[list(self.names)]


def test_what_tokens_are_called_changes_nothing() -> None:
    plain, renamed = table(Tree(2, seed=10), 3), table(Renamed(2, seed=10), 3)
    index_of = {tokens: i for i, tokens in enumerate(renamed.responses)}
    order = [index_of[tuple(Renamed.names[token] for token in tokens)] for tokens in plain.responses]
    np.testing.assert_allclose(renamed.matrix[np.ix_(order, order)], plain.matrix, atol=EXACT)


def test_growing_horizons_end_in_the_target_only_with_the_last_stage() -> None:
    """Blocks only supply a start. Returning a response because it ended in an early block is the published mistake."""
    model = Tree(2, seed=2, scale=1.5)
    early, last = table(model, 2), table(model, 3)
    begun = early.stationary()
    index_of = {tokens: i for i, tokens in enumerate(last.responses)}
    grown, ended = np.zeros(len(last.responses)), np.zeros(len(last.responses))
    for tokens, mass in zip(early.responses, begun, strict=True):
        if model.ended(tokens):
            ended[index_of[tokens]] += mass
            continue
        for longer in last.responses:
            if longer[:2] == tokens:
                grown[index_of[longer]] += mass * math.exp(math.fsum(model.logq(longer, Sampling(0.25))[2:]))
    distribution = last.target(power_target(model, last.responses, 4.0))
    many = np.linalg.matrix_power(last.matrix, math.ceil(20 / last.gap()))
    assert total_variation((grown + ended) @ many, distribution) < 1e-6
    unfinished = grown @ many  # what was unended goes on, what had ended was returned
    assert total_variation(ended + unfinished, distribution) > 0.01


def test_a_part_of_a_response_is_no_state() -> None:
    model = Tree(2, seed=1)
    response = response_of(model, (0, 1), [Sampling(0.25)])
    assert not response.ended
    assert response.tokens not in model.responses(3)
