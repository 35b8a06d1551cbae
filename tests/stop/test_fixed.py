from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.types import Candidate, Pool, Question, Stop, Usage
from samplewise.stop import cap, lead, passed
from samplewise.stop.votes import count_vote, no_votes

QUESTION = Question("q", ())

answers = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=12).map(tuple)


def pool(num: int, scores: list[float] | None = None) -> Pool:
    return Pool(tuple(Candidate("x", scores={} if scores is None else {"v": scores[i]}) for i in range(num)))


def settled(margin: int, needed: int, votes: int, draws: int) -> Stop:
    said = {"rule": "lead", "guarantee": "heuristic", "about": "mode"}
    return Stop("settled", {**said, "lead": margin, "needed": needed, "votes": votes, "draws": draws})


def test_lead_counts_the_margin() -> None:
    check = lead(2).check
    for votes, margin in [
        ("aa", 2),
        ("aab", None),
        ("aaab", 2),
        ("ab", None),
        ("a", None),
        ("", None),
        ("aaabb", None),
    ]:
        stop = check(pool(len(votes)), tuple(votes), Usage())
        assert stop == (None if margin is None else settled(margin, 2, len(votes), len(votes)))


def test_unreadable_candidates_do_not_vote() -> None:
    assert lead(1).check(pool(3), (None, None, None), Usage()) is None
    assert lead(2).check(pool(4), (None, "a", None, "a"), Usage()) == settled(2, 2, 2, 4)


@given(answers, st.integers(1, 5), st.permutations(range(12)))
def test_lead_looks_at_counts_alone(found: tuple[str | None, ...], margin: int, order: list[int]) -> None:
    shuffled = tuple(found[i] for i in order if i < len(found))
    renamed = tuple(None if a is None else f"<{a}>" for a in found)
    rule = lead(margin)
    first, second, third = (rule.check(pool(len(found)), a, Usage()) for a in (found, shuffled, renamed))
    assert first == second == third


@given(answers, st.integers(1, 5))
def test_lead_is_monotone_in_its_margin(found: tuple[str | None, ...], margin: int) -> None:
    if lead(margin + 1).check(pool(len(found)), found, Usage()):
        assert lead(margin).check(pool(len(found)), found, Usage())


@pytest.mark.parametrize("margin", [0, -1])
def test_a_margin_of_nothing_is_misuse(margin: int) -> None:
    with pytest.raises(ValueError, match="margin must be at least 1"):
        lead(margin)


def test_passed_stops_at_the_first_pass() -> None:
    check = passed("v").check
    assert check(pool(0), (), Usage()) is None
    assert check(pool(2, [0.0, 0.5]), ("a", "b"), Usage()) is None
    assert check(pool(3, [0.0, 1.0, 0.0]), ("a",) * 3, Usage()) == Stop(
        "success",
        {"rule": "passed", "guarantee": "exact", "about": "verifier", "needed": 1.0, "best": 1.0, "draws": 3},
    )
    assert passed("v", score=0.5).check(pool(1, [0.5]), ("a",), Usage())
    assert passed("w").check(pool(1, [1.0]), ("a",), Usage()) is None  # scored by another verifier


@pytest.mark.parametrize("scores", [[math.nan, 1.0], [1.0, math.nan], [math.nan, 1.0, math.nan]])
def test_an_unscored_candidate_hides_no_pass(scores: list[float]) -> None:
    """max() keeps a nan that it meets first, so one unscored candidate in front kept the rule from ever stopping."""
    assert passed("v").check(pool(len(scores), scores), ("a",) * len(scores), Usage())


def test_nothing_scored_is_no_pass() -> None:
    assert passed("v", score=-math.inf).check(pool(2), ("a", "b"), Usage()) is not None  # everything passes -inf
    assert passed("v").check(pool(2, [math.nan, math.nan]), ("a", "b"), Usage()) is None


def test_rules_say_what_they_look_at() -> None:
    assert passed("v").verifiers == ("v",)
    assert lead(2).verifiers == ()
    assert (passed("v").guarantee, lead(2).guarantee) == ("exact", "heuristic")


def test_a_cap_is_a_cap() -> None:
    assert cap(3).check(pool(2), ("a", None), Usage()) is None
    stop = cap(3).check(pool(3), ("a", None, "a"), Usage())
    assert stop == Stop("cap", {"rule": "cap", "guarantee": "exact", "about": "draws", "draws": 3})
    with pytest.raises(ValueError, match="draws must be at least 1"):
        cap(0)


@given(answers)
def test_no_rule_stops_before_it_said_it_could(found: tuple[str | None, ...]) -> None:
    for rule in (lead(3), cap(5)):
        state = rule.start(QUESTION)
        earliest = rule.at_least(state)
        for place, answer in enumerate(found, 1):
            state = rule.see(state, Candidate("x"), answer)
            if rule.decide(state, Usage()):
                assert place >= earliest
                break
            earliest = max(earliest, place + rule.at_least(state))


@given(answers)
def test_a_tally_is_that_of_a_counter(found: tuple[str | None, ...]) -> None:
    """The leader is the first to have reached its count."""
    state = no_votes(QUESTION)
    for answer in found:
        state = count_vote(state, Candidate("x"), answer)
    counts = Counter(a for a in found if a is not None)
    ranked = sorted(counts.values(), reverse=True)
    assert (state.draws, state.votes) == (len(found), sum(ranked))
    assert dict(state.counts) == counts
    assert (state.first, state.second) == ((*ranked, 0, 0)[0], (*ranked, 0, 0)[1])
    reached = [a for i, a in enumerate(found) if a is not None and found[: i + 1].count(a) == state.first]
    assert state.leader == (reached[0] if reached else None)
