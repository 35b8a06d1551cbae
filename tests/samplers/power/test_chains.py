"""Chain samplers through the toy engine: what they ask, what they do with completions, what the trace says."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from samplewise import solve
from samplewise.core.errors import UsageError
from samplewise.core.keys import Key
from samplewise.core.numerics import log_normalise, ratio_cannot_rise
from samplewise.core.types import Completion, Generate, Message, Sampling, Usage
from samplewise.engines.toy import Toy
from samplewise.samplers.base import Sampler, Variant
from samplewise.samplers.infos import read_trace
from samplewise.samplers.power import chain_notes, greedy, power, sir, smc, summarize_chains
from samplewise.samplers.power.chains import Chain, ChainsState
from samplewise.samplers.power.cuts import CutKind
from samplewise.samplers.power.kernel import Kernel, expected_tokens
from samplewise.samplers.power.response import DrawnResponse, continuation_of, splice

MESSAGES = (Message("user", "spell a word"),)
ARMS = (Variant("direct", MESSAGES),)


TOY = Toy(3, seed=2, scale=1.5)


class Run:
    """A whole run, with what was asked and answered."""

    def __init__(self, sampler: Sampler[Any], key: Key, engine: Toy = TOY, arms: tuple[Variant, ...] = ARMS) -> None:
        self.asks: list[Generate] = []
        self.completions: list[Completion] = []
        self.trace: list[Any] = []
        self.state = sampler.init(arms)
        answers: tuple[Completion, ...] = ()
        while True:
            self.state, step = sampler.step(key, self.state, answers)
            self.trace.append(step.info)
            if not step.asks:
                break
            answers = tuple(engine.one(ask) for ask in step.asks)
            self.asks += [ask for ask in step.asks if isinstance(ask, Generate)]
            self.completions += answers
        self.pool = sampler.pool(self.state)
        self.moves = read_trace(self.trace).moves
        self.tokens = sum(completion.usage.completion_tokens for completion in self.completions)


# --- the distribution of long runs ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"cuts": "recent", "temperature": 0.7}, {"move": "isir"}], ids=str)
def test_chains_that_begin_in_the_target_stay_in_it(settings: dict[str, Any]) -> None:
    """Chi-square of where 500 chains are after 20 steps, from exact draws of p^2, with random choices and seeds of
    a key. A sound sampler fails one of its four parts at a fresh key with probability 4e-4; the key is fixed. Twenty
    steps show what one would hide; the exact tests see small defects."""
    num, alpha, horizon, key = 500, 2.0, 3, Key(11)
    logp = TOY.enumerate(MESSAGES, horizon)
    responses = list(logp)
    distribution = np.exp(log_normalise([alpha * logp[r] for r in responses]))
    begun = key.generator().choice(len(responses), size=num, p=distribution)
    taus = settings.get("temperatures") or (settings.get("temperature", 1.0 / alpha),)
    made = {i: response_of(responses[i], taus) for i in set(begun.tolist())}
    sampler = power(alpha, 20, num, max_tokens=horizon, **settings)
    chains = tuple(Chain(made[i]) for i in begun.tolist())
    state, answers = ChainsState(ARMS, chains, "steps", 0.0, 20), ()
    while True:
        state, step = sampler.step(key, state, answers)
        if not step.asks:
            break
        answers = tuple(TOY.one(ask) for ask in step.asks)
    ends = [chain.response.tokens for chain in state.chains if chain.response is not None]
    for name, of in {
        "response": lambda r: r,
        "length": len,
        "ended": lambda r: r[-1] == TOY.eos,
        "first": lambda r: r[0],
    }.items():
        assert p_value(Counter(map(of, ends)), responses, distribution * num, of) > 1e-4, name


def p_value(counts: Counter[Any], responses: list[Any], expected: Any, of: Any) -> float:
    """Return the probability of a chi-square as large, cells below 5 expected pooled."""
    from scipy.special import chdtrc

    means: dict[Any, float] = {}
    for response, mean in zip(responses, expected.tolist(), strict=True):
        means[of(response)] = means.get(of(response), 0.0) + mean
    assert set(counts) <= set(means), "a response that the model cannot give"
    cells = [(mean, counts[cell]) for cell, mean in means.items() if mean >= 5.0]
    rare = [(mean, counts[cell]) for cell, mean in means.items() if mean < 5.0]
    if rare:
        cells.append((sum(mean for mean, _ in rare), sum(count for _, count in rare)))
    statistic = sum((count - mean) ** 2 / mean for mean, count in cells)
    return float(chdtrc(max(1, len(cells) - 1), statistic))


def response_of(tokens: tuple[int, ...], taus: tuple[float, ...]) -> DrawnResponse:
    rows = [TOY.next_logp(MESSAGES, tokens[:i]) for i in range(len(tokens))]
    logp = tuple(float(row[t]) for row, t in zip(rows, tokens, strict=True))
    logq = tuple(
        tuple(lp / tau - float(np.log(np.exp(row / tau).sum())) for row, lp in zip(rows, logp, strict=True))
        for tau in taus
    )
    return DrawnResponse(tokens, logp, logq, TOY.text(tokens), tokens[-1] == TOY.eos)


# --- savings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cuts": "recent"},
        {"cuts": "entropy"},
        {"length_preference": 0.5},
        {"length_preference": -0.5},
        {"temperature": 0.6},
        {"move": "isir", "tries": 3},
        {"move": "isir", "tries": 2, "cuts": "recent", "length_preference": 0.3},
    ],
    ids=str,
)
def test_giving_up_early_decides_as_going_on_does(settings: dict[str, Any]) -> None:
    """On the same random numbers, the race of i-SIR included: the same responses after every step, for fewer tokens."""
    bills = []
    ends = []
    for early in (True, False):
        runs = [Run(power(3.0, 15, 4, max_tokens=8, early=early, **settings), Key(k)) for k in range(6)]
        bills.append(sum(run.tokens for run in runs))
        ends.append([[(move.logp, move.length) for move in run.moves] for run in runs])
    assert ends[0] == ends[1]
    assert bills[0] < bills[1]


def test_tokens_are_counted_as_the_engine_drew_them() -> None:
    run = Run(power(4.0, 20, 3, max_tokens=8), Key(3))
    starts = sum(completion.usage.completion_tokens for completion in run.completions[:3])
    assert sum(move.tokens for move in run.moves) == run.tokens - starts
    assert run.state.tokens == run.tokens
    report = summarize_chains(run.trace)
    assert report.tokens == run.tokens - starts
    assert report.steps == 60 == len(run.moves)


def test_a_step_that_changes_nothing_asks_for_nothing() -> None:
    sure = Toy(2, seed=1, scale=60.0)  # every token is as good as certain
    run = Run(power(4.0, 50, 2, max_tokens=6), Key(0), sure)
    assert len(run.asks) == 2
    assert {move.outcome for move in run.moves} <= {"same", "behind"}
    assert summarize_chains(run.trace).free == 100


def test_a_proposal_departs_from_the_response_and_never_repeats_the_token() -> None:
    run = Run(power(2.0, 30, 1, max_tokens=6, early=False), Key(5))
    asked = [(ask, c) for ask, c in zip(run.asks[1:], run.completions[1:], strict=True)]
    assert asked
    for ask, completion in asked:
        assert ask.forbid_first is not None
        assert completion.tokens is not None
        assert completion.tokens[0] != ask.forbid_first
        assert ask.max_tokens == 6 - len(ask.prefix)


def test_the_ratio_in_the_trace_is_that_of_the_records() -> None:
    """Recomputed from the model to 1e-6, for accepted steps: both responses are known."""
    alpha, run = 2.0, Run(power(2.0, 40, 1, max_tokens=6, temperature=0.8), Key(8))
    before: tuple[int, ...] | None = None
    state, sampler = ChainsState(ARMS, (Chain(),)), power(2.0, 40, 1, max_tokens=6, temperature=0.8)
    answers: tuple[Completion, ...] = ()
    seen = 0
    while True:
        state, step = sampler.step(Key(8), state, answers)
        response = state.chains[0].response
        moves = [move for move in read_trace([step.info]).moves if move.outcome == "accepted"]
        if before is not None and response is not None and len(moves) == 1:
            start = moves[0].position
            pair = [response_of(tokens, (0.8,)) for tokens in (response.tokens, before)]
            sums = [
                math.fsum(alpha * p - q for p, q in zip(r.logp[start:], r.logq[0][start:], strict=True)) for r in pair
            ]
            cuts = math.log(len(before) / len(response.tokens))  # of the two responses' cut probabilities
            assert moves[0].log_ratio == pytest.approx(sums[0] - sums[1] + cuts, abs=1e-6)
            seen += 1
        before = None if response is None else response.tokens
        if not step.asks:
            break
        answers = tuple(TOY.one(ask) for ask in step.asks)
    assert seen > 3
    assert [c.text for c in run.pool.candidates] == [c.text for c in sampler.pool(state).candidates]


# --- what else is asked -----------------------------------------------------------------------------------------------


def test_the_text_is_that_of_the_whole_response() -> None:
    for key in range(5):
        run = Run(power(2.0, 20, 2, max_tokens=6), Key(key))
        for candidate, chain in zip(run.pool.candidates, run.state.chains, strict=True):
            assert chain.response is not None
            assert candidate.text == TOY.text(chain.response.tokens)
            assert candidate.num_tokens == len(chain.response.tokens)
            assert candidate.logp_sum == pytest.approx(math.fsum(response_of(chain.response.tokens, (0.5,)).logp))


def test_a_failed_step_leaves_the_record_as_it_was_and_is_counted() -> None:
    sampler = power(1.5, 5, 1, max_tokens=6)
    state, step = sampler.step(Key(1), sampler.init(ARMS), ())
    state, step = sampler.step(Key(1), state, [TOY.one(ask) for ask in step.asks])
    kept = state.chains[0].response
    assert step.asks
    state, step = sampler.step(Key(1), state, [Completion("", "error", Usage(1))])
    assert read_trace([step.info]).moves[0].outcome == "failed"
    assert state.chains[0].response == kept
    assert sampler.pool(state).num_failed == 1


def test_a_chain_whose_start_failed_is_not_in_the_pool() -> None:
    sampler = power(4.0, 5, 3, max_tokens=6)
    state, step = sampler.step(Key(1), sampler.init(ARMS), ())
    answers = [TOY.one(ask) for ask in step.asks]
    answers[1] = Completion("", "error", Usage(1))
    state, _ = sampler.step(Key(1), state, answers)
    assert (len(sampler.pool(state).candidates), sampler.pool(state).num_failed) == (2, 1)


def test_a_run_goes_on_from_json_as_if_it_had_not_stopped() -> None:
    sampler = power(2.0, 10, 2, max_tokens=6)
    state, step = sampler.step(Key(4), sampler.init(ARMS), ())
    for _ in range(3):
        state, step = sampler.step(Key(4), state, [TOY.one(ask) for ask in step.asks])
    again = json.loads(json.dumps(state))
    assert again == json.loads(json.dumps(state))
    one = sampler.step(Key(4), state, [TOY.one(ask) for ask in step.asks])
    other = power(2.0, 10, 2, max_tokens=6).step(Key(4), state, [TOY.one(ask) for ask in step.asks])
    assert repr(one) == repr(other)


def test_blocks_grow_to_the_horizon_and_end_there() -> None:
    run = Run(power(2.0, 6, 2, max_tokens=8, blocks=4, block_steps=2), Key(2))
    assert run.asks[0].max_tokens == 2
    assert {move.stage for move in run.moves} == {0, 1, 2, 3}
    last = [move for move in run.moves if move.stage == 3]
    assert len(last) == 12
    assert all(c.finish == "stop" or c.num_tokens == 8 for c in run.pool.candidates)
    assert all(len(ask.prefix) + ask.max_tokens in (2, 4, 6, 8) for ask in run.asks)


def test_lambda_offsets_the_surprisal_of_the_pilots() -> None:
    run = Run(power(3.0, 2, 1, max_tokens=6, length_preference="auto"), Key(6))
    assert [ask.sampling.temperature for ask in run.asks[:2]] == [1.0, 1.0]
    logp = [value for completion in run.completions[:2] for value in completion.logp or ()]
    assert run.state.length_preference == pytest.approx(2.0 * -sum(logp) / len(logp))
    preferences = [info["target"]["length_preference"] for info in run.trace if info and "target" in info]
    assert preferences == [None, run.state.length_preference]


def test_a_budget_is_turned_into_steps_before_the_chain_begins() -> None:
    spent = [Run(power(2.0, 1, 2, max_tokens=8, budget_tokens=400), Key(k)) for k in range(8)]
    assert all(run.state.num_steps > 5 for run in spent)
    assert all(len(run.moves) == 2 * run.state.num_steps for run in spent)
    assert 100 < sum(run.tokens for run in spent) / len(spent) < 500  # early rejection is not in the forecast


@pytest.mark.parametrize("cuts", ["uniform", "recent", "entropy"])
def test_the_forecast_is_the_mean_over_cuts_and_jumps(cuts: CutKind) -> None:
    """Against the sum over every cut and position, written out."""
    response = response_of((0, 1, 2, 0), (0.5,))
    kernel = Kernel(2.0, 6, cuts, Sampling(0.5), (0.5,), (1.0,))
    entropies = [-(2.0 * p - q) for p, q in zip(response.logp, response.logq[0], strict=True)]
    weights = {"uniform": [1.0] * 4, "recent": [1.0, 2.0, 3.0, 4.0], "entropy": [0.05 + h for h in entropies]}[cuts]
    masses = [weight / sum(weights) for weight in weights]
    stay = [math.exp(q) for q in response.logq[0]]
    total = 0.0
    for cut in range(4):
        for position in range(cut, 4):
            total += masses[cut] * math.prod(stay[cut:position]) * (1 - stay[position]) * (4 - position)
    assert expected_tokens(kernel, response) == pytest.approx(total)
    plain = kernel._replace(jump=False)
    assert expected_tokens(plain, response) == pytest.approx(sum(masses[c] * (4 - c) for c in range(4)))


def test_chains_take_their_arms_prompts_and_temperatures() -> None:
    arms = (ARMS[0], Variant("cold", MESSAGES, {"temperature": 0.2}), Variant("rude", (Message("user", "spell, now"),)))
    run = Run(power(2.0, 10, 3, max_tokens=6), Key(3), arms=arms)
    assert [c.arm for c in run.pool.candidates] == ["direct", "cold", "rude"]
    assert {(a.messages[0].content, a.sampling.temperature) for a in run.asks} == {
        ("spell a word", 0.5),
        ("spell a word", 0.2),
        ("spell, now", 0.5),
    }
    cold = [ask for ask in run.asks if ask.sampling.temperature == 0.2]
    assert all(ask.reject_below is None for ask in cold)  # 1 / 0.2 is above alpha: a token can add to the ratio


def test_starts_are_drawn_by_weight_from_the_chains_own_arm() -> None:
    arms = (ARMS[0], Variant("rude", (Message("user", "spell, now"),)))
    run = Run(power(4.0, 1, 2, max_tokens=4, starts=20), Key(3), arms=arms)
    assert len([ask for ask in run.asks if not ask.prefix and ask.forbid_first is None]) == 20
    assert [ask.messages for ask in run.asks[:2]] == [arm.messages for arm in arms]


def test_an_allocation_that_deals_arms_in_turn_is_dealing_in_turn() -> None:
    """A chain chose among the starts of its own turn alone, one of five here, and smc never resampled."""
    arms = (ARMS[0], Variant("rude", (Message("user", "spell, now"),)))
    for sampler in (power(4.0, 1, 2, max_tokens=4, starts=20), smc(10, 4.0, block=1, max_tokens=4, temperature=1.0)):
        plain, allocated = Run(sampler, Key(3), arms=arms), Run(sampler, Key(3), arms=arms * 5)
        assert allocated.pool == plain.pool
        assert allocated.trace == plain.trace
    assert any(block.resampled for block in read_trace(allocated.trace).blocks)


def test_entropy_cuts_refuse_an_arm_at_another_temperature() -> None:
    """Its terms follow from the tokens drawn, so the chain drew from no stated distribution."""
    line = "vary(ladder(0.6)) | power(4, 3, 2, cuts='entropy', max_tokens=4)"
    with pytest.raises(
        UsageError, match=r"and temperature/0\.6 sets 0\.6: give cuts=\"uniform\", or leave the arm out"
    ):
        solve("spell a word", engine=TOY, recipe=line)
    solve("spell a word", engine=TOY, recipe=line.replace("0.6", "0.25"))


def test_a_stop_rule_sees_whole_responses_of_smc() -> None:
    """Particles of one block agreed, so the rule ended the question with the beginnings of its answers."""
    line = "smc(4, 4, block=1, max_tokens=6){} | vote"
    plain, ruled = (solve("spell a word", engine=TOY, recipe=line.format(rule)) for rule in ("", " | until(cap(2))"))
    assert ruled.pool == plain.pool
    assert ruled.stop.reason == "cap"


def test_one_temperature_in_a_list_is_the_temperature() -> None:
    """It was passed over, and draws were made at 1 / alpha."""
    for make in (
        lambda **given: sir(2, 4.0, max_tokens=4, **given),
        lambda **given: power(4.0, 3, max_tokens=4, **given),
    ):
        listed = Run(make(temperatures=(0.5,)), Key(1))
        assert listed.asks == Run(make(temperature=0.5), Key(1)).asks
        assert {ask.sampling.temperature for ask in listed.asks} == {0.5}
        with pytest.raises(ValueError, match="give either temperature or temperatures"):
            make(temperature=0.5, temperatures=(0.5, 1.0))
    with pytest.raises(ValueError, match="alpha=0 needs a temperature"):
        sir(2, 0.0)


def test_a_mixture_and_plain_pilots_keep_their_temperatures_whatever_an_arm_sets() -> None:
    """Starts came from the arm's temperature and were weighed as draws at the mixture's first."""
    arms = (ARMS[0], Variant("cold", MESSAGES, {"temperature": 0.2}))
    mixed = Run(power(4.0, 2, 2, temperatures=(0.5, 1.0), starts=6, max_tokens=4), Key(1), arms=arms)
    assert {ask.sampling.temperature for ask in mixed.asks[:6]} == {0.5}
    assert {ask.sampling.temperature for ask in mixed.asks} <= {0.5, 1.0}
    plain = Run(power(4.0, 1, 2, length_preference="auto", max_tokens=4), Key(1), arms=arms)
    assert [ask.sampling.temperature for ask in plain.asks[:4]] == [1.0, 1.0, 0.25, 0.2]


def test_climbing_never_goes_down() -> None:
    run = Run(greedy(30, 2, max_tokens=6), Key(0))
    for chain in range(2):
        climbed = [move.logp for move in run.moves if move.chain == chain]
        assert all(high >= low - 1e-12 for low, high in itertools.pairwise(climbed))


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.5},
        {"alpha": math.nan},
        {"alpha": "4"},
        {"steps": 0},
        {"chains": 0},
        {"max_tokens": 1.5},
        {"temperature": 0.0},
        {"cuts": "last"},
        {"move": "swap"},
        {"tries": 2},
        {"move": "mtm", "tries": 0},
        {"length_preference": "long"},
        {"length_preference": math.inf},
        {"temperatures": (0.5, 1.0), "top_k": 3},
        {"temperatures": (0.0,)},
        {"cuts": "entropy", "temperature": 1.0},
        {"cuts": "entropy", "alpha": 1.0},
        {"blocks": 0},
        {"blocks": 9, "max_tokens": 8},
        {"budget_tokens": 0},
        {"budget_tokens": 10, "blocks": 2},
        {"starts": 1, "chains": 2},
        {"starts": 3, "blocks": 2},
        {"top_p": 0.0},
    ],
    ids=str,
)
def test_settings_out_of_range_are_misuse(settings: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        power(**settings)


def test_where_a_ratio_can_only_fall() -> None:
    assert ratio_cannot_rise(4.0, 0.25)
    assert ratio_cannot_rise(4.0, 1.0)
    assert ratio_cannot_rise(2.35, 1 / 2.35)
    assert not ratio_cannot_rise(4.0, 0.2)
    assert not ratio_cannot_rise(4.0, 1.5)
    assert not ratio_cannot_rise(math.inf, 0.5)


def test_what_is_no_complete_response_is_refused() -> None:
    cut = Completion("ab", "rejected", Usage(1), (0, 1), (-1.0, -1.0), (-1.0, -1.0))
    continuation = continuation_of(cut, (1.0,))
    assert continuation is not None
    with pytest.raises(ValueError, match="no complete response"):
        splice(None, 0, cut, continuation, 4)
    with pytest.raises(ValueError, match="no complete response"):
        splice(None, 0, cut._replace(finish="stop"), continuation, 1)
    assert continuation_of(cut._replace(logq=None), (1.0,)) is None
    assert continuation_of(cut._replace(logp=(-1.0, math.nan)), (1.0,)) is None


def test_the_report_has_acceptance_savings_and_mixing() -> None:
    run = Run(power(1.5, 40, 3, max_tokens=8), Key(9))
    report = summarize_chains(run.trace)
    differing = [move for move in run.moves if move.outcome in ("accepted", "rejected", "aborted")]
    accepted = sum(move.outcome == "accepted" for move in differing)
    assert report.acceptance == pytest.approx(accepted / len(differing))
    assert report.saved.jump > 0
    assert report.r_hat is not None
    assert report.frozen == ()
    assert summarize_chains(json.loads(json.dumps(run.trace))) == report
    assert not any("frozen" in note for note in chain_notes(report))
