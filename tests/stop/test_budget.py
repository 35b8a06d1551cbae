"""What a draw is worth, and several rules as one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.core.types import Pool, Stop
from samplewise.recipe import recipe
from samplewise.stop import asc, blend_asc, cap, either, first_of, passed, vote_e
from samplewise.stop.budget import best_fall, expected_fall, fall

from .twins import FREE, PLAIN, QUESTION, asc_exact, fed, scored, stops_after, verdict


def fall_twin(a: int, b: int, votes: int) -> float:
    """P(wrong) now, less its mean after `votes` votes from the Beta-binomial law, the better of the two each time."""
    before = min(asc_exact(a, b), asc_exact(b, a))
    after = 0.0
    for own in range(votes + 1):
        chance = math.comb(votes, own) * math.exp(
            math.lgamma(a + own + 1) + math.lgamma(b + votes - own + 1) - math.lgamma(a + b + votes + 2)
            + math.lgamma(a + b + 2) - math.lgamma(a + 1) - math.lgamma(b + 1)
        )  # fmt: skip
        end = (a + own, b + votes - own)
        after += chance * float(min(asc_exact(*end), asc_exact(*end[::-1])))
    return float(before) - after


@given(st.integers(0, 12), st.integers(0, 12), st.integers(1, 20))
def test_a_fall_is_that_of_the_posterior(a: int, b: int, votes: int) -> None:
    a, b = max(a, b), min(a, b)
    assert fall(a, b, votes) == pytest.approx(fall_twin(a, b, votes), abs=1e-12)


def test_a_draw_is_worth_most_where_the_answer_is_open() -> None:
    assert best_fall(0, 0) == pytest.approx(0.25)
    assert best_fall(1, 1) == pytest.approx(0.1875)
    assert best_fall(2, 1) == pytest.approx(1 / 32)
    assert best_fall(1, 1) > best_fall(2, 2) > best_fall(10, 10) > best_fall(11, 10) > best_fall(14, 10) > 0
    lone = [best_fall(a, 0) for a in range(8)]
    assert lone == sorted(lone, reverse=True)
    assert best_fall(40, 10) < 1e-9


def test_votes_elsewhere_and_draws_that_cannot_be_read_make_a_draw_worth_less() -> None:
    rule = asc()
    assert expected_fall(fed(rule, "ab")) > expected_fall(fed(rule, "abcdef"))
    assert expected_fall(fed(rule, "ab")) > expected_fall(fed(rule, ["a", "b", None, None]))
    assert expected_fall(fed(rule, [None] * 40)) < 0.01  # nothing to read: left in the end


def test_blend_asc_draws_its_floor_and_never_stops_by_itself() -> None:
    rule = blend_asc()
    assert rule.expected_gain is not None
    assert [rule.expected_gain(fed(rule, "a" * n)) == math.inf for n in range(5)] == [True, True, True, False, False]
    assert stops_after(rule, "a" * 50) is None


def test_a_shared_budget_goes_further_by_worth() -> None:
    """400 questions, 8 draws each on average: the same draws of each question, dealt out evenly or by worth. The
    difference in wrong modes is about 10 standard errors, so that a false alarm is out of the question."""
    rng = Key(0).generator()
    laws = [(0.95, 0.05), (0.8, 0.2), (0.6, 0.4), (0.5, 0.3, 0.2)]
    drawn = ["".join("abc"[k] for k in rng.choice(len(laws[i % 4]), 400, p=laws[i % 4])) for i in range(400)]
    rule = blend_asc()
    assert rule.expected_gain is not None
    states = [rule.start(QUESTION) for _ in drawn]
    worths = np.full(len(drawn), math.inf)
    taken = [0] * len(drawn)
    for _ in range(8 * len(drawn)):
        place = int(worths.argmax())
        if taken[place] == 400:
            worths[place] = -1.0
            continue
        states[place] = rule.see(states[place], PLAIN, drawn[place][taken[place]])
        taken[place] += 1
        worths[place] = rule.expected_gain(states[place])
    by_worth = sum(state.leader != "a" for state in states)
    evenly = sum(fed(rule, votes[:8]).leader != "a" for votes in drawn)
    assert min(taken) >= 3
    assert by_worth < 0.8 * evenly


# --- several rules as one ---------------------------------------------------------------------------------------------


def test_either_stops_at_the_first_and_says_which() -> None:
    rule = either("asc", "cap(6)")
    one, two = verdict(rule, "aaaa"), verdict(rule, "ababab")
    assert one is not None
    assert (one.reason, one.evidence["rule"], one.evidence["guarantee"]) == ("settled", "asc", "heuristic")
    assert two == Stop("cap", {"rule": "cap", "guarantee": "exact", "about": "draws", "draws": 6})
    assert stops_after(either("cap(4)", "asc"), "aaaa") == 4
    assert verdict(either("cap(4)", "asc"), "aaaa") == verdict(cap(4), "aaaa")  # the one that is named first
    assert verdict(rule, "abab") is None


def test_either_has_what_its_parts_have() -> None:
    rule = first_of(vote_e(), passed("v"), asc(), cap(30))
    assert (rule.verifiers, rule.guarantee, rule.about) == (("v",), "heuristic", "mode")
    assert (first_of(vote_e(), cap(9)).guarantee, first_of(vote_e(), passed("v")).about) == ("exact", "verifier")
    assert rule.at_least(fed(rule, "aa")) == 1  # the next may pass
    assert first_of(vote_e(), cap(9)).at_least(fed(first_of(vote_e(), cap(9)), "aa")) == 6
    assert rule.expected_gain is not None
    assert rule.expected_gain(fed(rule, "ab")) == expected_fall(fed(asc(), "ab"))
    assert first_of(vote_e(), cap(9)).expected_gain is None
    assert rule.check(Pool((scored(0.2), scored(1.0))), ("a", "b")) is not None


def test_either_is_written_in_a_recipe() -> None:
    made = recipe("repeat(64) | until(either(vote_e(0.05), either(passed(puzzle), cap(9)))) | vote")
    assert made.line == "repeat(64) | until(either(vote_e(0.05), either(passed(puzzle), cap(9)))) | vote"
    assert list(made.verifiers) == ["puzzle"]
    assert made.stop is not None
    assert made.stop.decide(fed(made.stop, "a" * 8), FREE) is not None
