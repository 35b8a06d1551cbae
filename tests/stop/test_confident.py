from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import SetupError
from samplewise.core.types import Candidate
from samplewise.stop import StopRule, asc, deepconf
from samplewise.stop.published import cges, ias, reasc
from samplewise.stop.published.confident import draws_for_success, posterior

from .twins import FREE, PLAIN, QUESTION, fed, scored, stops_after

sure = st.floats(0.05, 0.95)
draws = st.lists(st.tuples(st.sampled_from(["a", "a", "b", "c", None]), sure), max_size=10)


def sees(values: Sequence[float], name: str = "v") -> list[Candidate]:
    return [scored(value, name) for value in values]


@given(st.lists(st.tuples(st.sampled_from("aabc"), sure), min_size=1, max_size=8), st.sampled_from([None, 5]))
def test_cges_is_its_formula(found: list[tuple[str, float]], answers: int | None) -> None:
    """P(a) is proportional to prod c_i over its votes times prod (1 - c_i) / (M - 1) over the others."""
    rule = cges("v", answers=answers)
    state = fed(rule, [answer for answer, _ in found], sees([c for _, c in found]))
    seen = list(dict.fromkeys(answer for answer, _ in found))
    possible = len(seen) + 1 if answers is None else answers
    unseen = [f"unseen {number}" for number in range(possible - len(seen))]
    weights = {
        a: math.prod(c if answer == a else (1 - c) / (possible - 1) for answer, c in found) for a in [*seen, *unseen]
    }
    chances, none = posterior(state, answers)
    total = sum(weights.values())
    assert chances == pytest.approx({a: weights[a] / total for a in seen})
    assert none == pytest.approx(sum(weights[a] for a in unseen) / total)


def test_cges_settles_on_sure_votes_and_says_on_which() -> None:
    rule = cges("v")
    assert stops_after(rule, "a", sees([0.96])) == 1
    assert stops_after(rule, "aa", sees([0.8, 0.9])) == 2
    assert stops_after(rule, "aaaaaa", sees([0.3] * 6)) is None  # more likely wrong than right, each
    stop = rule.verdict(fed(rule, "bbba", sees([0.2, 0.2, 0.2, 0.999])), FREE)
    assert stop is not None
    assert stop.evidence["answer"] == "a"  # outvoted, and surer
    assert stop.evidence["statistic"] + stop.evidence["none_of_these"] <= 1


def test_a_vote_without_a_score_moves_nothing() -> None:
    rule = cges("v")
    assert fed(rule, "ab", [scored(0.7), PLAIN]).log_odds == fed(rule, "a", [scored(0.7)]).log_odds
    assert stops_after(rule, "aaaa") is None
    assert stops_after(ias("v"), "aaaa") is None
    assert stops_after(deepconf(warm_up=2), "aaaa") is None


@pytest.mark.parametrize("score", [1.5, -0.1])
def test_what_is_no_probability_is_an_error_that_says_so(score: float) -> None:
    for rule in (cges("reward"), ias("reward")):
        with pytest.raises(
            SetupError, match=rf"{rule.name} needs chances to be right, 0 to 1, but reward gave {score}"
        ):
            fed(rule, "a", sees([score], "reward"))


def test_reasc_without_scores_or_with_equal_ones_is_asc() -> None:
    for votes in ("aaaa", "aabaaaa", "abbbbb", "ababab"):
        expected = stops_after(asc(), votes)
        assert stops_after(reasc("v"), votes) == expected
        for score in (0.2, 7.0):
            assert stops_after(reasc("v"), votes, sees([score] * len(votes))) == expected


@given(draws, st.floats(0.1, 10))
def test_the_scale_of_the_scores_does_not_matter_to_reasc(found: list[tuple[str | None, float]], scale: float) -> None:
    answers, scores = [answer for answer, _ in found], [score for _, score in found]
    assert stops_after(reasc("v"), answers, sees(scores)) == stops_after(
        reasc("v"), answers, sees([scale * score for score in scores])
    )


def test_reasc_weighs_votes_and_has_a_gate() -> None:
    votes = "abaaa"
    assert stops_after(asc(), votes) is None
    assert stops_after(reasc("v"), votes, sees([1, 0.01, 1, 1, 1])) == 4  # 3.99 against 0.01: the weights sum to 4
    assert stops_after(reasc("v", gate=0.9), "a", sees([0.95])) == 1
    assert stops_after(reasc("v", gate=0.9), "ab", sees([0.5, 0.95])) is None  # the first draw alone
    assert stops_after(reasc("v", gate=0.9), [None], sees([0.95])) is None  # it says nothing
    with pytest.raises(SetupError, match="reasc needs scores of at least 0, but logp gave -1"):
        fed(reasc("logp"), "a", sees([-1], "logp"))


def test_a_vote_without_a_score_is_an_average_one_to_reasc() -> None:
    assert stops_after(reasc("v"), "aaaa", [scored(0.4), PLAIN, scored(0.8), PLAIN]) == 4


LEAST = "deepconf.least"


def test_deepconf_lets_the_surest_vote() -> None:
    rule = deepconf(0.25, warm_up=4)
    confident = sees([1, 2, 3, 9], LEAST)
    state = fed(rule, "bbba", confident)
    assert (state.bar, dict(state.weights)) == (9, {"a": 9})
    assert stops_after(rule, "bbba", confident) == 4
    half = deepconf(0.5, warm_up=4)
    assert stops_after(half, "bbba", confident) is None  # b has 3 of 12
    assert stops_after(half, "bbba" + "b" + "a" * 9, [*confident, *sees([2.9] + [9] * 9, LEAST)]) == 11  # 9 k >= 57
    assert stops_after(half, "bbba" + "a" * 9, [*confident, *sees([2.9] * 9, LEAST)]) is None  # below the bar: paid
    assert [rule.at_least(fed(rule, "b" * n, confident)) for n in range(5)] == [4, 3, 2, 1, 1]


@pytest.mark.parametrize(("keep", "kept"), [(0.1, 2), (0.9, 15), (0.5, 8)])
def test_the_published_warm_up_keeps_so_many(keep: float, kept: int) -> None:
    state = fed(deepconf(keep), "a" * 16, sees([float(i) for i in range(1, 17)], LEAST))
    assert sum(state.weights.values()) == sum(range(17 - kept, 17))


@pytest.mark.parametrize(("chance", "needed"), [(0.5, 7), (0.1, 44), (0.01, 459), (0.0, 46050), (1.0, 1)])
def test_ias_draws_as_many_as_one_success_needs(chance: float, needed: int) -> None:
    assert draws_for_success(chance, 0.99) == needed
    if needed < 500:
        assert stops_after(ias("v"), "a" * 500, sees([chance] * 500)) == needed


def test_ias_takes_a_low_chance_among_those_seen() -> None:
    scores = [0.5, *[0.9] * 9]
    assert stops_after(ias("v"), "a" * 60, sees(scores + [0.9] * 50)) == 7
    assert stops_after(ias("v", quantile=0), "a" * 60, sees([0.1, *[0.9] * 59])) == 44
    assert stops_after(ias("v", quantile=1), "a" * 60, sees([0.1, *[0.9] * 59])) == 2
    stop = ias("v").verdict(fed(ias("v"), "aa", sees([0.95, 0.9])), FREE)
    assert stop is not None
    assert (stop.reason, stop.evidence["threshold"], stop.evidence["chance"]) == ("cap", 2, 0.9)


@given(draws)
def test_none_of_them_stops_earlier_than_it_said(found: list[tuple[str | None, float]]) -> None:
    rules: tuple[StopRule[Any], ...] = (cges("v"), reasc("v", gate=0.9), ias("v"), deepconf(0.5, warm_up=3))
    for rule in rules:
        state = rule.start(QUESTION)
        earliest = rule.at_least(state)
        for place, (answer, score) in enumerate(found, 1):
            state = rule.see(state, Candidate("x", scores={"v": score, LEAST: score}), answer)
            if rule.decide(state, FREE):
                assert place >= earliest
                break
            earliest = max(earliest, place + rule.at_least(state))
