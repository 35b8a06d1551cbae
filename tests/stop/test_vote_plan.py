"""The plan of a vote against enumeration: sequences, policies, and exact fractions; and the rule that follows it."""

from __future__ import annotations

import functools
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.core.types import Stop
from samplewise.stop import cap as cap_rule
from samplewise.stop import first_of, learned_vote_prior, vote_plan
from samplewise.stop.plan_table import WAVES, PlanTable, plan_table, states_of

from .twins import FREE, PLAIN, QUESTION, fed, verdict

LABELS = "abcx"  # x: something else, which never wins
SETTINGS = [  # price of a round, of a draw, prior
    (Fraction(1, 100), Fraction(1, 200), (Fraction(1, 4), Fraction(1, 4))),
    (Fraction(0), Fraction(1, 500), (Fraction(1), Fraction(1, 2))),
    (Fraction(1, 20), Fraction(1, 1000), (Fraction(1, 10), Fraction(2))),
    (Fraction(1, 50), Fraction(3, 100), (Fraction(3), Fraction(1, 8))),
]


def table_of(setting: tuple[Fraction, Fraction, tuple[Fraction, Fraction]], cap: int) -> PlanTable:
    price_round, price_draw, (a, b) = setting
    return plan_table(float(price_round), float(price_draw), cap, (float(a), float(b)))


def leaders(counts: Sequence[int]) -> list[int | None]:
    """The answers that a vote may give, each alike; None where there is none."""
    most = max(counts)
    return [place for place, count in enumerate(counts) if count == most] if most else [None]


# --- the twin: sequences of labels, nothing sorted, nothing lumped ----------------------------------------------------


class Sequences:
    """Expectimax over all sequences of labels. A policy may look at the whole of the past."""

    def __init__(self, price_round: Fraction, price_draw: Fraction, prior: tuple[Fraction, Fraction], cap: int) -> None:
        self.price_round, self.price_draw, self.cap = price_round, price_draw, cap
        self.weight = dict(zip(LABELS, (prior[0], prior[0], prior[0], prior[1]), strict=True))

    def chance(self, past: str, more: str) -> Fraction:
        chance = Fraction(1)
        for place, label in enumerate(more):
            seen = past + more[:place]
            chance *= (seen.count(label) + self.weight[label]) / (len(seen) + sum(self.weight.values()))
        return chance

    def same(self, past: str) -> Fraction:
        """The probability that the vote now and the vote after `cap` draws give the same answer."""
        now, total = leaders([past.count(label) for label in "abc"]), Fraction(0)
        if len(past) == self.cap:
            return Fraction(1)
        for more in map("".join, itertools.product(LABELS, repeat=self.cap - len(past))):
            then = leaders([(past + more).count(label) for label in "abc"])
            both = Fraction(len(set(now) & set(then)), len(now) * len(then))
            total += self.chance(past, more) * both
        return total

    def sent(self, past: str, size: int) -> Fraction:
        after = ("".join(more) for more in itertools.product(LABELS, repeat=size))
        mean = sum((self.chance(past, more) * self.value(past + more) for more in after), Fraction(0))
        return mean - self.price_round - size * self.price_draw

    def value(self, past: str) -> Fraction:
        sizes = [size for size in WAVES if len(past) + size <= self.cap]
        values = [self.sent(past, size) for size in sizes]
        return max([self.same(past), *values] if past else values)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("cap", [1, 2, 4])
def test_the_value_is_that_of_the_best_policy_over_all_pasts(
    setting: tuple[Fraction, Fraction, tuple[Fraction, Fraction]], cap: int
) -> None:
    twin, table = Sequences(*setting, cap), table_of(setting, cap)
    assert abs(table.value[0][0] - float(twin.value(""))) < 1e-12
    for past in map("".join, itertools.product(LABELS, repeat=cap // 2)):
        place = table.position(Counter(past.replace("x", "")).values())
        assert abs(table.value[len(past)][place] - float(twin.value(past))) < 1e-12
        assert abs(table.same[len(past)][place] - float(twin.same(past))) < 1e-12


def test_no_policy_of_three_draws_is_better() -> None:
    """Every deterministic policy is listed, 170,000 of them, and valued: the best has the value of the table."""
    for setting in SETTINGS[:2]:
        twin = Sequences(*setting, 3)

        def values(past: str, twin: Sequences = twin) -> list[float]:
            """The values of all policies from here on."""
            found = [float(twin.same(past))] if past else []
            for size in (size for size in WAVES if len(past) + size <= 3):
                price = float(twin.price_round + size * twin.price_draw)
                after = ["".join(more) for more in itertools.product(LABELS, repeat=size)]
                chances = [float(twin.chance(past, more)) for more in after]
                if len(past) + size == 3:
                    ends = [float(twin.same(past + more)) for more in after]
                    found.append(float(np.dot(chances, ends)) - price)
                    continue
                parts = [np.array(values(past + more)) * p for p, more in zip(chances, after, strict=True)]
                sums = functools.reduce(lambda one, two: np.add.outer(one, two).ravel(), parts)
                found += (sums - price).tolist()
            return found

        all_values = values("")
        assert len(all_values) > 100_000
        assert abs(max(all_values) - table_of(setting, 3).value[0][0]) < 1e-12
        assert min(all_values) < max(all_values) - 0.01


# --- the twin in fractions: counts by label, for caps of up to 8 ------------------------------------------------------

Policy = Callable[[tuple[int, ...], int], int]  # (counts of a, b, c), draws -> size of the next wave, 0 to stop


class Counts:
    """Values of states (counts of a, b, c, x) in exact fractions, under the best policy or a given one."""

    def __init__(
        self,
        price_round: Fraction,
        price_draw: Fraction,
        prior: tuple[Fraction, Fraction],
        cap: int,
        policy: Policy | None = None,
    ) -> None:
        self.price_round, self.price_draw, self.cap, self.policy = price_round, price_draw, cap, policy
        self.weight = (prior[0], prior[0], prior[0], prior[1])
        self.same = functools.cache(self._same)
        self.share = functools.cache(self._share)
        self.value = functools.cache(self._value)
        self.sent = functools.cache(self._sent)

    def _after(self, counts: tuple[int, ...]) -> list[tuple[Fraction, tuple[int, ...]]]:
        total = sum(counts) + sum(self.weight)
        return [
            ((counts[i] + self.weight[i]) / total, (*counts[:i], counts[i] + 1, *counts[i + 1 :])) for i in range(4)
        ]

    def _share(self, counts: tuple[int, ...], answer: int | None) -> Fraction:
        """The probability that `answer` is the vote's after `cap` draws."""
        if sum(counts) == self.cap:
            then = leaders(counts[:3])
            return Fraction(answer in then, len(then))
        return sum((p * self.share(after, answer) for p, after in self._after(counts)), Fraction(0))

    def _same(self, counts: tuple[int, ...]) -> Fraction:
        now = leaders(counts[:3])
        if sum(counts) == self.cap:
            return Fraction(1)
        return sum((self.share(counts, answer) for answer in now), Fraction(0)) / len(now)

    def _sent(self, counts: tuple[int, ...], left: int) -> Fraction:
        if left == 0:
            return self.value(counts)
        return sum((p * self.sent(after, left - 1) for p, after in self._after(counts)), Fraction(0))

    def wave(self, counts: tuple[int, ...], size: int) -> Fraction:
        return self.sent(counts, size) - self.price_round - size * self.price_draw if size else self.same(counts)

    def _value(self, counts: tuple[int, ...]) -> Fraction:
        draws = sum(counts)
        if self.policy is not None:
            return self.wave(counts, self.policy(counts[:3], draws))
        sizes = [size for size in WAVES if draws + size <= self.cap]
        return max(self.wave(counts, size) for size in ([0, *sizes] if draws else sizes))


def followed(table: PlanTable) -> Policy:
    return lambda counts, draws: table.wave[draws][table.position(counts)]


@pytest.mark.parametrize("setting", SETTINGS)
def test_all_states_of_eight_draws_have_their_exact_value(
    setting: tuple[Fraction, Fraction, tuple[Fraction, Fraction]],
) -> None:
    twin, table = Counts(*setting, 8), table_of(setting, 8)
    plan = Counts(*setting, 8, followed(table))
    states = states_of(8)
    for draws in range(9):
        for place, triple in enumerate(states.counts[: states.num[draws]].tolist()):
            counts = (*triple, draws - sum(triple))
            value = twin.value(counts)
            assert abs(table.value[draws][place] - float(value)) < 1e-12
            assert abs(table.same[draws][place] - float(twin.same(counts))) < 1e-12
            assert abs(float(plan.value(counts) - value)) < 1e-11, "what the table sends has the value it says"


def test_every_other_plan_is_worse() -> None:
    """Mutants of the plan, valued exactly: none reaches it, and each of these loses something."""
    setting = SETTINGS[0]
    table = table_of(setting, 8)
    best = Counts(*setting, 8).value((0, 0, 0, 0))

    def worth(policy: Policy) -> float:
        return float(best - Counts(*setting, 8, policy).value((0, 0, 0, 0)))

    def one_less(counts: tuple[int, ...], draws: int) -> int:
        wave = followed(table)(counts, draws)
        return wave // 2 if draws and wave else wave

    def of(price_round: float, price_draw: float, prior: tuple[float, float] = (0.25, 0.25), cap: int = 8) -> Policy:
        other = plan_table(price_round, price_draw, cap, prior)
        return lambda counts, draws: min(8 - draws, followed(other)(counts, draws)) if draws < 8 else 0

    mutants: dict[str, Policy] = {
        "one at a time": lambda counts, draws: int(draws < 8 and followed(table)(counts, draws) > 0),
        "all at once": lambda counts, draws: 8 - draws,
        "half a wave": one_less,
        "rounds are free": of(0.0, 0.005),
        "draws are free": of(0.01, 0.0),
        "prices the wrong way round": of(0.005, 0.01),
        "another prior": of(0.01, 0.005, (2.0, 0.25)),
        "a longer horizon": of(0.01, 0.005, cap=9),
        "two that agree": lambda counts, draws: 0 if max(counts) >= 2 or draws == 8 else 1 + (draws == 0),
    }
    losses = {name: worth(policy) for name, policy in mutants.items()}
    assert worth(followed(table)) == pytest.approx(0, abs=1e-12)
    assert min(losses.values()) > 1e-5, losses


def test_any_other_wave_at_any_state_is_no_better() -> None:
    setting = SETTINGS[0]
    twin, table, states = Counts(*setting, 7), table_of(setting, 7), states_of(7)
    strictly = 0
    for draws in range(1, 8):
        for place, triple in enumerate(states.counts[: states.num[draws]].tolist()):
            counts = (*triple, draws - sum(triple))
            chosen = table.wave[draws][place]
            for other in (size for size in (0, *WAVES) if draws + size <= 7 and size != chosen):
                gap = twin.wave(counts, chosen) - twin.wave(counts, other)
                assert gap > -Fraction(1, 10**11)
                strictly += gap > Fraction(1, 10**6)
    assert strictly > 100


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_table_of_32_draws_is_made_and_read_quickly() -> None:
    states_of.cache_clear()
    started = time.process_time()
    table = plan_table.__wrapped__(0.01, 0.005, 32)
    assert time.process_time() - started < 5
    counts = [Counter(rng) for rng in np.random.default_rng(0).integers(0, 6, (500, 20)).tolist()]
    started = time.process_time()
    for _ in range(10):
        for each in counts:
            table.wave[20][table.position(each.values())]
    assert (time.process_time() - started) / 5000 < 20e-6


@given(st.floats(0, 0.1), st.floats(0, 0.05), st.floats(0.02, 5), st.floats(0.02, 5), st.sampled_from([1, 5, 12]))
@settings(max_examples=30, deadline=None)
def test_what_every_table_keeps(price_round: float, price_draw: float, a: float, b: float, cap: int) -> None:
    table = plan_table.__wrapped__(price_round, price_draw, cap, (a, b))
    dearer = plan_table.__wrapped__(price_round + 0.01, price_draw, cap, (a, b))
    for draws in range(cap + 1):
        wave = np.frombuffer(table.wave[draws], dtype=np.uint8)
        assert set(wave.tolist()) <= {0, *(size for size in WAVES if draws + size <= cap)}
        assert (table.same[draws] >= -1e-12).all()
        assert (table.same[draws] <= 1 + 1e-12).all()
        assert ((wave == 0) == (table.same[draws] >= table.go_on[draws] - 1e-12)).all() or draws == 0
        assert (dearer.value[draws] <= table.value[draws] + 1e-12).all()
        assert (np.frombuffer(dearer.wave[draws], dtype=np.uint8)[wave == 0] == 0).all() or draws == 0
    assert table.wave[0][0] > 0, "there is no answer without a draw"
    assert table.forecast.draws <= cap + 1e-9
    value = table.forecast.same - price_round * table.forecast.rounds - price_draw * table.forecast.draws
    assert value == pytest.approx(table.value[0][0], abs=1e-10)


def test_an_answer_that_cannot_be_caught_is_sure() -> None:
    table = plan_table(0.0, 0.0, 32)
    place = table.position([17])
    assert (table.same[20][place], table.wave[20][place]) == (pytest.approx(1, abs=1e-12), 0)
    assert table.same[31][table.position([16, 15])] == pytest.approx(1 - 15.25 / 32 / 2), "ties are broken at random"
    assert table.same[32][table.position([16, 16])] == 1, "all draws give the answer that they give"
    assert 0 < table.same[31][0] < table.same[32][0] == 1, "no answer then, no answer now"


# --- the rule ---------------------------------------------------------------------------------------------------------


def waves_of(answers: Sequence[str | None], **more: float) -> tuple[list[int], Stop | None]:
    """The waves that the rule asks for, and its stop."""
    rule = vote_plan(**more)  # type: ignore[arg-type]
    state = rule.start(QUESTION)
    waves: list[int] = []
    seen = 0
    while seen < len(answers):
        waves.append(rule.at_least(state))
        for answer in answers[seen : seen + waves[-1]]:
            assert rule.verdict(state, FREE) is None
            state = rule.see(state, PLAIN, answer)
        seen += waves[-1]
        if stop := rule.verdict(state, FREE):
            return waves, stop
    return waves, None


def test_the_rule_follows_the_table() -> None:
    table = plan_table(0.01, 0.005, 32)
    rng = Key(5).generator()
    for law in ((0.9, 0.1), (0.5, 0.3, 0.2), (0.25,) * 4):
        for _ in range(20):
            answers = ["abcd"[k] for k in rng.choice(len(law), 40, p=law)]
            expected, seen = [table.wave[0][0]], table.wave[0][0]
            while seen < 32 and (more := table.wave[seen][table.position(Counter(answers[:seen]).values())]):
                expected.append(more)
                seen += more
            waves, stop = waves_of(answers)
            assert waves == expected
            assert stop is not None
            assert (stop.evidence["draws"], stop.evidence["rounds"]) == (seen, len(waves))
            assert stop.reason == "cap" or stop.evidence["statistic"] >= stop.evidence["threshold"]


def test_what_the_rule_says_at_its_stop() -> None:
    waves, stop = waves_of("aaaa")
    assert waves == [4]
    assert stop is not None
    same = plan_table(0.01, 0.005, 32).same[4][plan_table(0.01, 0.005, 32).position([4])]
    assert stop.evidence["statistic"] == same
    assert json.loads(json.dumps(stop.evidence)) == stop.evidence
    label = {"rule": "vote_plan", "guarantee": "model-based", "about": "mode"}
    assert stop == Stop(
        "settled",
        {**label, "statistic": same, "threshold": stop.evidence["threshold"], "counts": [4], "votes": 4, "draws": 4,
         "rounds": 1},
    )  # fmt: skip
    assert waves_of("abcdefghabcdefgh", price_round=0.2, price_draw=0.2) == ([1], verdict(vote_plan(0.2, 0.2), "a"))
    gave_up = verdict(vote_plan(0.2, 0.2, prior=(5, 5)), "a")
    assert gave_up is not None
    assert gave_up.reason == "futile", "the leader will hardly stay, and more draws do not pay"
    capped = waves_of("abababab", price_round=0.0, price_draw=0.0, cap=8)[1]
    assert capped is not None
    assert (capped.reason, capped.evidence["draws"]) == ("cap", 8)


def test_a_draw_that_cannot_be_read_is_one_of_the_others() -> None:
    """It is a draw of its wave and of the cap, and no vote."""
    rule = vote_plan()
    assert rule.at_least(fed(rule, [None])) == 3
    table = plan_table(0.01, 0.005, 32)
    state = fed(rule, ["a", None, "a", None])
    assert state.wave_end == 4 + table.wave[4][table.position([2])]
    nothing = waves_of([None] * 40)[1]
    assert nothing is not None, "where nothing can be read the plan ends too"
    assert nothing.evidence["draws"] <= 32


def test_the_last_vote_decides_and_not_the_way_there() -> None:
    """Within a wave the order changes nothing."""
    rule = vote_plan()
    for order in set(itertools.permutations("aabb")):
        assert fed(rule, order).wave_end == fed(rule, "aabb").wave_end
    assert verdict(rule, "aab") is None, "nor does it look before the end of its wave"


def test_beside_another_rule_the_shorter_wave_is_sent() -> None:
    rule = first_of(vote_plan(), cap_rule(3))
    assert rule.at_least(rule.start(QUESTION)) == 3
    assert (stop := verdict(rule, "aba")) is not None
    assert stop.reason == "cap"


def test_the_forecast_is_what_happens_where_the_model_holds() -> None:
    """4,000 questions from the prior. Each mean is within 4.5 standard errors: a false alarm once in 50,000 seeds."""
    prior, num = (0.25, 0.25), 4000
    rng = Key(11).fold("forecast").generator()
    rule, table = vote_plan(0.02, 0.005, 24, prior=prior), plan_table(0.02, 0.005, 24, prior)
    found = []
    for law in rng.dirichlet([*(prior[0],) * 3, prior[1]], size=num):
        drawn = rng.choice(4, 24, p=law).tolist()
        answers = [None if k == 3 else "abc"[k] for k in drawn]  # something else never wins
        state = rule.start(QUESTION)
        while not rule.decide(state, FREE):
            state = rule.see(state, PLAIN, answers[state.votes.draws])
        now, then = ([answers[:n].count(label) for label in "abc"] for n in (state.votes.draws, 24))
        both = set(leaders(now)) & set(leaders(then))
        same = 1.0 if state.votes.draws == 24 else len(both) / len(leaders(now)) / len(leaders(then))
        found.append((same, state.votes.draws, state.rounds))
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(num)
    assert (abs(mean - np.array(table.forecast)) < 4.5 * error).all(), (mean, table.forecast, error)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vote_plan(-0.1), "price_round must be at least 0"),
        (lambda: vote_plan(0.1, -1), "price_draw must be at least 0"),
        (lambda: vote_plan(cap=0), "cap must be a whole number of at least 1"),
        (lambda: vote_plan(cap=129), "cap must be at most 128"),
        (lambda: vote_plan(prior=(0, 1)), "prior must be above 0"),
    ],
)
def test_settings_without_meaning(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# --- the prior of a pilot ---------------------------------------------------------------------------------------------


def log_likelihood(counts: Sequence[Sequence[int]], draws: Sequence[int], a: float, b: float) -> float:
    total = 0.0
    for votes, num in zip(counts, draws, strict=True):
        first = [*sorted(votes, reverse=True), 0, 0, 0][:3]
        total += sum(math.lgamma(a + c) - math.lgamma(a) for c in first)
        total += math.lgamma(b + num - sum(first)) - math.lgamma(b)
        total += math.lgamma(3 * a + b) - math.lgamma(3 * a + b + num)
    return total


def test_a_prior_is_learned_by_maximum_likelihood() -> None:
    rng = Key(3).fold("pilot").generator()
    counts = [rng.multinomial(24, law).tolist() for law in rng.dirichlet([0.4, 0.4, 0.4, 0.15], size=400)]
    votes = [each[:3] for each in counts]
    a, b = learned_vote_prior(votes, [24] * 400)
    assert a == pytest.approx(0.4, rel=0.15)
    assert b == pytest.approx(0.15, rel=0.25)
    best = log_likelihood(votes, [24] * 400, a, b)
    for other in ((a * 1.01, b), (a / 1.01, b), (a, b * 1.01), (a, b / 1.01), (0.25, 0.25)):
        assert log_likelihood(votes, [24] * 400, *other) < best


def test_a_pilot_of_one_kind_has_a_prior_at_the_edge() -> None:
    a, b = learned_vote_prior([[8]] * 5)
    assert b == pytest.approx(0.01)
    assert 0.01 < a < 0.2
    a, b = learned_vote_prior([[1] * 12] * 9)
    assert b > a, "scattered answers are others"
    with pytest.raises(ValueError, match="past questions with votes"):
        learned_vote_prior([])
    with pytest.raises(ValueError, match="at least their votes"):
        learned_vote_prior([[3, 2]], [4])
