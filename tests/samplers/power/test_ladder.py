"""Ladders: the joint distribution of all rungs, by enumeration; and the adaptive power beside them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from tests.support.ensembles import ladder_table
from tests.support.forking import Tree

from samplewise.core.keys import Key
from samplewise.core.types import Completion, Message, Pool, Usage
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.samplers.base import Variant
from samplewise.samplers.infos import read_trace
from samplewise.samplers.power import adaptive, summarize_chains, tempering
from samplewise.samplers.power.adaptive import agreement_gain, answer_of
from samplewise.samplers.power.ladder import PPT_LADDERS, LadderSettings, ladder_sampler, swap_log_probability
from samplewise.samplers.power.response import DrawnResponse

ARMS = (Variant("direct", (Message("user", "spell a word"),)),)
TOY = Toy(3, seed=2, scale=1.5)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("vocab", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_round_leaves_the_product_of_the_targets_as_it_is(vocab: int, own: bool) -> None:
    """Each rung at its own temperature, or all at one."""
    model = Tree(vocab, seed=6, scale=1.5)
    horizon = 3 if vocab == 1 else 2
    joint = ladder_table(
        lambda choices: ladder_sampler(
            LadderSettings(
                alphas=(2.0, 4.0),
                rounds=1,
                max_tokens=horizon,
                temperature=None if own else 0.5,
                keep="all",
                make_choices=choices,
            )
        ),
        model,
        horizon,
        2,
    )
    assert joint.invariance(model, (2.0, 4.0)) < 1e-12
    assert np.abs(joint.matrix.sum(axis=1) - 1.0).max() < 1e-12
    moduli = np.sort(np.abs(np.linalg.eigvals(joint.matrix)))
    assert moduli[-2] < 1.0 - 1e-6


def test_a_swap_is_in_detailed_balance() -> None:
    """p(x)^a p(y)^b times the probability of the swap, against the same with x and y in each other's places."""
    one, other = (DrawnResponse((0,), (lp,), ((lp,),), "a", True) for lp in (-1.0, -3.0))
    low, high = 2.0, 4.0
    for x, y in ((one, other), (other, one)):
        there = low * x.logp[0] + high * y.logp[0] + min(0.0, swap_log_probability(low, high, x, y))
        back = low * y.logp[0] + high * x.logp[0] + min(0.0, swap_log_probability(low, high, y, x))
        assert there == pytest.approx(back)
    assert swap_log_probability(low, high, one, other) > 0  # the likelier response belongs to the higher power


def run(sampler: Any, key: Key, engine: Toy = TOY, fails: frozenset[int] = frozenset()) -> tuple[Pool, list[Any], Any]:
    state, step = sampler.step(key, sampler.init(ARMS), ())
    trace, asked = [step.info], 0
    while step.asks:
        answers = []
        for ask in step.asks:
            answers.append(Completion("", "error", Usage(1)) if asked in fails else engine.one(ask))
            asked += 1
        state, step = sampler.step(key, state, answers)
        trace.append(step.info)
    return sampler.pool(state), trace, state


def test_every_rung_steps_in_every_round_and_all_ask_together() -> None:
    pool, trace, state = run(tempering((1.5, 2.0, 3.0), 12, 2, max_tokens=6), Key(1))
    infos = read_trace(trace)
    assert len(infos.moves) == 12 * 6
    assert len(infos.swaps) == 12 * 2 * 2
    assert len(pool.candidates) == 2
    assert sorted(state.walkers) == list(range(6))
    report = summarize_chains(trace)
    assert len(report.swap_rates) == 2
    assert report.round_trips >= 0


def test_all_rungs_come_with_the_highest_power_first() -> None:
    pool, _, state = run(tempering((1.5, 3.0), 6, 1, max_tokens=6, keep="all"), Key(2))
    assert [c.logp_sum for c in pool.candidates] == [math.fsum(r.logp) for r in reversed(state.responses)]


def test_the_highest_power_has_the_likeliest_responses() -> None:
    """Means over 60 ladders: about six standard errors apart."""
    ends = [run(tempering((1.0, 4.0), 10, 1, max_tokens=5, keep="all"), Key(k))[0].candidates for k in range(60)]
    assert np.mean([high.logp_sum for high, _ in ends]) > np.mean([low.logp_sum for _, low in ends])


def test_a_rung_whose_start_failed_begins_where_another_does() -> None:
    pool, _, state = run(tempering((1.5, 3.0), 3, 1, max_tokens=5), Key(0), fails=frozenset({1}))
    assert (len(pool.candidates), pool.num_failed) == (1, 1)
    assert all(response is not None for response in state.responses)
    assert run(tempering((1.5, 3.0), 3, 1, max_tokens=5), Key(0), fails=frozenset({0, 1}))[0] == Pool((), 2)


@pytest.mark.parametrize("name", PPT_LADDERS)
def test_a_published_ladder_goes_by_its_name(name: str) -> None:
    """In a recipe too, and it is the ladder of its rungs, to the token."""
    sampler = recipe(f"tempering('{name}', 2, max_tokens=5)").sampler
    named, rungs = (run(made, Key(3)) for made in (sampler, tempering(PPT_LADDERS[name], 2, max_tokens=5)))
    assert named == rungs
    assert named[1][0] == {"alphas": list(PPT_LADDERS[name])}


def test_an_unknown_ladder_is_told_which_there_are() -> None:
    with pytest.raises(ValueError, match="no ladder is called 'ppt'; give powers, or one of qwen3-math500, "):
        tempering("ppt")


@pytest.mark.parametrize(
    "settings",
    [
        {"alphas": (2.0,)},
        {"alphas": (3.0, 2.0)},
        {"alphas": (0.5, 2.0)},
        {"alphas": "qwen3"},
        {"rounds": 0},
        {"cuts": "entropy"},
        {"keep": "some"},
        {"top_k": 3},
        {"temperature": 0.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_misuse(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        tempering(**settings)


# --- the adaptive power -----------------------------------------------------------------------------------------------


def test_the_gain_is_the_covariance_of_agreement_and_likelihood() -> None:
    assert agreement_gain(["1", "1", "2"], [-1.0, -1.0, -4.0]) > 0
    assert agreement_gain(["1", "1", "2"], [-4.0, -4.0, -1.0]) < 0
    assert agreement_gain(["1", "1"], [-1.0, -2.0]) == 0.0
    assert agreement_gain(["1", "2"], [-1.0, -1.0]) == 0.0
    assert agreement_gain(["1"], [-1.0]) == 0.0
    # v = .5, .5, 0; z of (0, 0, -3) = (1, 1, -2) / sqrt 2: the mean of v z is 1 / (3 sqrt 2).
    assert agreement_gain(["a", "a", "b"], [0.0, 0.0, -3.0]) == pytest.approx(1 / (3 * math.sqrt(2)))


@pytest.mark.parametrize(
    ("text", "answers", "answer"),
    [
        ("so 3 + 4 = 1,007.", "number", "1007"),
        ("it is -2.5\n", "number", "-2.5"),
        ("no number\nhere ", "number", "here"),
        ("one\n\ntwo \n", "line", "two"),
        (" a\nb ", "text", "a\nb"),
        ("", "line", ""),
    ],
)
def test_what_counts_as_an_answer(text: str, answers: Any, answer: str) -> None:
    assert answer_of(text, answers) == answer


def test_it_stops_where_all_agree() -> None:
    sure = Toy(2, seed=1, scale=60.0)
    pool, trace, state = run(adaptive(4, 3, 5, answers="text", max_tokens=4), Key(0), sure)
    assert read_trace(trace).rounds[-1].ended == "agreed"
    assert state.round == 0
    assert len(pool.candidates) == 4


def test_it_falls_back_to_the_plain_draws_where_likely_responses_do_not_agree() -> None:
    seen = set()
    for key in range(30):
        pool, trace, state = run(adaptive(4, 3, 5, answers="text", max_tokens=4), Key(key))
        rounds = read_trace(trace).rounds
        ended = rounds[-1].ended
        seen.add(ended)
        assert all(info.adaptive for info in rounds)
        if ended == "sharpening does not help":
            assert rounds[-1].gain <= 0
            assert rounds[-2].gain <= 0
            plain = [chain.response for chain in state.plain]
            assert [c.logp_sum for c in pool.candidates] == [math.fsum(r.logp) for r in plain if r is not None]
            assert state.alpha == 1.0
        alphas = [info.alpha for info in rounds]
        assert alphas[0] == 1.0
        assert all(1.0 <= alpha <= 4.0 for alpha in alphas)
    assert "sharpening does not help" in seen
    assert "rounds" in seen


@pytest.mark.parametrize("settings", [{"alpha": 0.5}, {"cap": 0.5}, {"rate": -1.0}, {"answers": "all"}, {"rounds": 0}])
def test_adaptive_settings_out_of_range_are_misuse(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        adaptive(**settings)
