"""A vote over groups of programs, and what is said where a vote rests on nothing."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Pool, Selection
from samplewise.select import Selector, best, first, vote, weighted
from samplewise.select.arms import arm_vote, log_pool, only
from samplewise.select.behaviour import behaviour
from samplewise.select.learned import dawid_skene, learned
from samplewise.select.sharpened import sharpened

NAN = math.nan


def pool_of(groups: list[float], logp: list[float] | None = None, log_weights: list[float] | None = None) -> Pool:
    logs, weights = logp or [NAN] * len(groups), log_weights or [0.0] * len(groups)
    rows = zip(groups, logs, weights, strict=True)
    return Pool(
        tuple(
            Candidate(f"program {i}", logp_sum=p, scores={"outputs": g}, log_weight=w)
            for i, (g, p, w) in enumerate(rows)
        )
    )


KEY = Key(0)


def choose(pool: Pool, key: Key = KEY) -> Selection:
    return behaviour().choose(key, pool, tuple(c.text for c in pool.candidates))


def test_the_likeliest_of_the_largest_group() -> None:
    """Programs 1, 3 and 4 do the same; 3 is the likeliest of them, though 0 is likelier still."""
    found = choose(pool_of([0, 1, 2, 1, 1], [-1.0, -9.0, -2.0, -3.0, -5.0]))
    assert (found.answer, found.position) == ("program 3", 3)
    assert found.weights == pytest.approx((0.2,) * 5)
    assert (found.info["groups"], found.info["members"], found.info["tied"]) == (3, 3, 1)
    assert choose(pool_of([0, 1, 2, 1, 1])).position == 1, "the first, where draws have no log-probability"
    assert choose(pool_of([0, 1, 1], [-1.0, NAN, -9.0])).position == 2, "an unknown one is not the likeliest"


def test_what_does_not_run_has_no_vote() -> None:
    assert choose(pool_of([NAN, NAN, NAN, 0])).position == 3
    assert choose(pool_of([NAN, NAN, NAN], [-5.0, -1.0, -2.0])).position == 1, "the likeliest, if none runs"
    unread = behaviour().choose(Key(0), pool_of([0, 0, 1]), (None, None, "c"))
    assert (unread.answer, unread.position) == ("c", 2)
    assert behaviour().choose(Key(0), pool_of([0]), (None,))[:2] == (None, None)


def test_a_tie_of_groups_is_drawn_evenly() -> None:
    """Groups of two and two: each wins half of 400 keys, within a bound that alarms falsely with probability 1e-5."""
    pool = pool_of([7, 0, 0, 7], [-9.0, -1.0, -2.0, -8.0])
    wins = Counter(choose(pool, Key(i)).position for i in range(400))
    assert set(wins) == {1, 3}
    assert abs(wins[1] - 200) < 4.5 * 10


def test_a_weighted_pool_votes_with_its_weights() -> None:
    assert choose(pool_of([0, 1, 1], log_weights=[math.log(3.0), 0.0, 0.0])).position == 0


def test_it_names_the_verifier_that_it_looks_at() -> None:
    assert behaviour().verifiers == ("outputs",)
    assert behaviour(4).verifiers == ("outputs(4)",)


# --- no vote ----------------------------------------------------------------------------------------------------------

COUNT = {
    **{"vote": vote(), "only": only(), "arm_vote": arm_vote(), "log_pool": log_pool()},
    **{"fallback": log_pool(fallback=True), "dawid_skene": dawid_skene(), "learned": learned()},
}


def note(selector: Selector, *answers: str | None) -> str:
    """Return what a selector says of draws that all have a score."""
    drawn = tuple(Candidate(str(answer), scores={"v": 0.5}) for answer in answers)
    return selector.note_on(Pool(drawn), answers)


def test_a_vote_over_texts_that_all_differ_is_none() -> None:
    for selector in COUNT.values():
        line = note(selector, "a", "b", None, "c")
        assert line == "3 draws, 3 different answers: nothing to vote on; use best(...)"
        assert note(selector, "a", "b", "a") == ""
        assert note(selector, "a") == note(selector) == note(selector, None, None) == note(selector, "a", None) == ""


def test_who_does_not_count_answers_has_no_such_note() -> None:
    for selector in (best("v"), weighted("v"), first(), sharpened()):
        assert note(selector, "a", "b", "c") == ""


def test_behaviour_says_where_it_rests_on_nothing() -> None:
    answers = ("a", "b", "c")
    assert behaviour().note_on(pool_of([0, 0, 1]), answers) == ""
    assert behaviour().note_on(pool_of([0, NAN, NAN]), answers) == "", "one group, though alone: the others do nothing"
    different = behaviour().note_on(pool_of([0, 1, 2]), answers)
    assert different == "3 programs do 3 different things: nothing to vote on; use best(...)"
    none = behaviour().note_on(pool_of([NAN, NAN, NAN]), answers)
    assert none == "3 programs, and none returns anything on shared inputs: the likeliest was taken"
