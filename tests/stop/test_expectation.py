"""E-values by their definition: enumerated over every sequence of votes, their mean is at most 1 where the hypothesis
that they speak against is true."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.registry import build
from samplewise.stop.certified import Race, pair_of, see_race
from samplewise.stop.tables import log_e1, log_e2
from samplewise.stop.votes import Votes, count_vote

from .twins import PLAIN, fed, means, pair_twin, stops_after, verdict

UNIFORM = {labels: (1 / labels,) * labels for labels in (2, 3, 4)}
SKEWED = [(0.6, 0.4), (0.5, 0.3, 0.2), (0.4, 0.4, 0.2), (0.4, 0.3, 0.2, 0.1)]
LENGTH = 8


def race(state: Race, label: str) -> Race:
    return see_race(state, PLAIN, label)


def tallied(state: Votes, label: str) -> Votes:
    return count_vote(state, PLAIN, label)


def against(k: str) -> Callable[[Race], float]:
    return lambda state: math.exp(log_e1(*pair_of(state, k)))


@given(st.text(alphabet="abcd", max_size=14), st.sampled_from("abcde"))
def test_pairs_are_those_of_the_definition(votes: str, k: str) -> None:
    """`e` never turns up: its pair is that of the answers not seen yet."""
    state = Race()
    for vote in votes:
        state = race(state, vote)
    assert pair_of(state, k) == pair_twin(votes, k)


@pytest.mark.parametrize("labels", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_vote_e_is_exactly_fair_where_all_answers_are_alike(labels: int) -> None:
    assert means(UNIFORM[labels], LENGTH, Race(), race, against("a")) == pytest.approx([1.0] * LENGTH, abs=1e-12)


@pytest.mark.parametrize("law", [pytest.param(law, marks=[pytest.mark.slow] * (len(law) == 4)) for law in SKEWED])
def test_vote_e_is_never_in_favour_against_a_mode(law: tuple[float, ...]) -> None:
    for label, p in zip("abcd", law, strict=False):
        found = means(law, LENGTH, Race(), race, against(label))
        if p == max(law):
            assert max(found) <= 1 + 1e-12
        else:
            assert found[-1] > 1  # and gains against what is no mode, else it would certify nothing


@pytest.mark.parametrize(("labels", "first", "last"), [(2, 1.25, 1.498), (3, 1.333, 1.939)])
def test_the_current_leader_would_not_be_fair(labels: int, first: float, last: float) -> None:
    """The mutant looks at who leads after the vote, which the vote itself decides. The published anchors, where a tie
    goes to the answer that was seen first."""

    def value(votes: str) -> float:
        ahead = behind = 0
        for place, vote in enumerate(votes, 1):
            others = [each for each in votes[:place] if each != "a"]
            if others:
                ahead += vote == max(dict.fromkeys(others), key=others.count)
                behind += vote == "a"
        return math.exp(log_e1(ahead, behind))

    found = means(UNIFORM[labels], LENGTH, "", lambda votes, label: votes + label, value)
    assert (round(found[0], 3), round(found[-1], 3)) == (first, last)
    assert found == sorted(found)


@pytest.mark.parametrize("law", [*(UNIFORM[labels] for labels in (2, 3)), *SKEWED[:3]])
def test_a_named_answer_is_never_in_favour_against_a_rival_as_frequent(law: tuple[float, ...]) -> None:
    for target, p in zip("abc", law, strict=False):
        for rival, q in zip("abc", law, strict=False):
            if p <= q and target != rival:

                def value(state: Votes, target: str = target, rival: str = rival) -> float:
                    return math.exp(log_e1(state.counts.get(target, 0), state.counts.get(rival, 0)))

                assert max(means(law, LENGTH, Votes(), tallied, value)) <= 1 + 1e-12


@pytest.mark.parametrize("law", [UNIFORM[2], UNIFORM[3], SKEWED[2]])
def test_the_two_sided_value_is_fair_between_two_alike(law: tuple[float, ...]) -> None:
    found = means(law, LENGTH, Votes(), tallied, lambda s: math.exp(log_e2(s.counts.get("a", 0), s.counts.get("b", 0))))
    assert found == pytest.approx([1.0] * LENGTH, abs=1e-12)


@pytest.mark.parametrize("law", [*(UNIFORM[labels] for labels in (2, 3)), *SKEWED[:3]])
def test_the_honest_ratio_is_never_in_favour_of_what_is_not_ahead(law: tuple[float, ...]) -> None:
    """Of the pair that the first votes named, later votes alone count: else the naming would favour the first."""
    rule = build("stop", "sprt(0.7)")
    for label, p in zip("abc", law, strict=False):
        for other, q in zip("abc", law, strict=False):
            if p <= q and label != other:

                def value(votes: str, label: str = label, other: str = other) -> float:
                    state = fed(rule, votes)
                    if state.pair is None or set(state.pair) != {label, other}:
                        return 1.0
                    a, b = (state.one, state.other) if state.pair[0] == label else (state.other, state.one)
                    return float(1.4**a * 0.6**b)

                found = means(law, 6, "", lambda votes, each: votes + each, value)
                assert max(found) <= 1 + 1e-12


def test_ppr_pays_for_its_rivals() -> None:
    """Without the union bound, the mutant stops after 8 equal votes whatever the number of possible answers."""
    needed = {labels: stops_after(build("stop", f"ppr_1v1({labels})"), "a" * 30) for labels in (2, 4, 11)}
    assert needed == {2: 8, 4: 10, 11: 12}  # e2(a, 0) = 2^a / (a + 1) against 20, 60 and 200
    assert stops_after(build("stop", "vote_e"), "a" * 30) == 8  # needs none
    assert stops_after(build("stop", 'certify("a")'), "a" * 30) == 7


def test_ppr_does_not_speak_of_more_answers_than_it_was_told() -> None:
    rule = build("stop", "ppr_1v1(2)")
    assert verdict(rule, "a" * 20 + "b")
    assert verdict(rule, "a" * 20 + "bc") is None


def test_vote_e_says_the_least_of_its_values() -> None:
    stop = verdict(build("stop", "vote_e"), "aab" + "a" * 12)
    assert stop is not None
    pairs = [pair_twin("aab" + "a" * 12, k) for k in "bz"]
    assert stop.evidence["statistic"] == pytest.approx(min(math.exp(log_e1(*pair)) for pair in pairs))
    assert (stop.evidence["threshold"], stop.evidence["counts"]) == (20.0, [14, 1])


def test_certify_never_stops_for_another_answer() -> None:
    rule = build("stop", 'certify("b")')
    assert stops_after(rule, "a" * 200) is None
    assert stops_after(rule, "b" * 200) == 7
    stop = verdict(rule, "b" * 7)
    assert stop is not None
    assert stop.evidence["answer"] == "b"


def test_mmc_counts_for_whoever_leads_and_never_starts_anew() -> None:
    """As released: votes for a leader that has been overtaken since still count for the new one."""
    state = fed(build("stop", "mmc"), "aaabbbbc" + "b")
    # a then leads: a a | b b b go to the runner-up | b takes the lead | c is of the rest | b
    assert (state.leader, state.runner_up, state.rest) == (2 + 1, 2 + 1, 1 + 1)


def test_the_published_test_is_a_lead_of_three() -> None:
    sprt, lead = build("stop", "sprt"), build("stop", "lead(3)")
    for votes in ("aaa", "abaa" + "a", "ababababaaa", "abcabcabcccbc", "aabbcc" * 20 + "aaa"):
        assert stops_after(sprt, votes) == stops_after(lead, votes)
    tied = verdict(sprt, "ab" * 632)
    assert tied is not None
    assert tied.reason == "futile"
    assert stops_after(sprt, "ab" * 632) == 1264


@given(st.text(alphabet="abc", max_size=60))
def test_the_published_test_is_a_lead_of_three_on_any_votes(votes: str) -> None:
    assert stops_after(build("stop", "sprt"), votes) == stops_after(build("stop", "lead(3)"), votes)


def test_the_honest_test_gives_up_between_two_alike() -> None:
    stop = verdict(build("stop", "sprt(0.6)"), "ab" + "ab" * 73)
    assert stop is None
    stop = verdict(build("stop", "sprt(0.6)"), "ab" + "ab" * 74)  # .96^74 is below .05
    assert stop is not None
    assert (stop.reason, stop.evidence["pair"]) == ("futile", [74, 74])


def test_the_honest_test_is_settled_only_by_who_leads_all_votes() -> None:
    named = build("stop", 'sprt(0.7, pair=("a", "b"))')
    assert stops_after(named, "a" * 20) == 9  # 1.4^9 is above 20
    assert stops_after(named, "c" * 30 + "a" * 20) is None
    assert stops_after(named, "c" * 15 + "a" * 20) == 15 + 16
