"""Rounds and seconds of stop rules on stored draws."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.bill import CostSplit
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Candidate, Message, Pool, Problem, Question, Selection, Stop, Usage
from samplewise.recipe import recipe
from samplewise.runs.bills import bill_run
from samplewise.runs.orders import StoredPool, replay_pools, replay_rule, stored_pools
from samplewise.select.votes import vote
from samplewise.store.database import Store
from samplewise.store.records import Record, Run

QUESTION = Question("q", (Message("user", "spell a word"),))
found = st.lists(st.sampled_from("aaabbc"), min_size=1, max_size=24)


def pool(answers: Sequence[str], seconds: Sequence[float] = ()) -> StoredPool:
    num = len(answers)
    candidates = tuple(Candidate(answer) for answer in answers)
    return StoredPool(QUESTION, candidates, tuple(answers), (1.0,) * num, (1.0,) * num, seconds=tuple(seconds))


def rounds_of(rule: str, answers: Sequence[str]) -> tuple[int, int]:
    replay = replay_rule(build("stop", rule), pool(answers), range(len(answers)))
    return replay.draws, replay.rounds(replay.draws)


@given(found, st.integers(1, 6))
def test_rounds_by_kind_of_rule(answers: list[str], window: int) -> None:
    num = len(answers)
    assert rounds_of(f"cap({num + 5})", answers) == (num, 1), "a fixed number of draws is one round"
    draws, rounds = rounds_of(f"esc({window})", answers)
    assert rounds == math.ceil(draws / window)
    draws, rounds = rounds_of("blend_asc", answers)
    assert rounds == draws == num, "it may be asked after any draw"
    draws, rounds = rounds_of("agreement", answers)
    assert rounds == max(1, draws - 1), "two draws, and then one at a time"
    for rule in ("asc(0.95)", "lead(2)", "vote_plan", "vote_e(0.1)"):
        draws, rounds = rounds_of(rule, answers)
        assert 1 <= rounds <= draws


def test_rounds_by_hand() -> None:
    assert rounds_of("asc(0.95)", "aaaa") == (4, 1)
    assert rounds_of("asc(0.95)", "abaaaaa") == (7, 2), "after a, b, a, a it is known that three more are needed"
    assert rounds_of("lead(2)", "abaa") == (4, 2)
    assert rounds_of("agreement", "abcc") == (4, 3)
    assert rounds_of("vote_plan", "aaaa") == (4, 1)


def test_a_cap_cuts_the_last_wave() -> None:
    """With caps of 1 to 8 on one order: as many rounds as were begun."""
    one = pool("abababab")
    rule = build("stop", "esc(3)")
    found = replay_pools([rule], vote(), [one], Key(0), caps=range(1, 9), num_orders=5)
    for each in found:
        assert (each.rounds == np.ceil(each.draws / 3)).all()
        assert np.isnan(each.seconds).all(), "nobody knows how long these took"


def test_a_wave_takes_as_long_as_its_slowest_draw() -> None:
    one = pool("abaaaaa", (1.0, 5.0, 2.0, 3.0, 7.0, 11.0, 4.0))
    replay = replay_rule(build("stop", "asc(0.95)"), one, range(7))
    assert replay.waves == (0, 4)
    assert one.duration(range(7), replay.waves) == 5 + 11
    assert one.duration([6, 5], [0, 1]) == 4 + 11
    fixed = replay_pools([build("stop", "cap(9)")], vote(), [one], Key(0), caps=[7], num_orders=3)[0]
    assert (fixed.seconds == 11).all()
    single = replay_pools([build("stop", "blend_asc")], vote(), [one], Key(0), caps=[7], num_orders=3)[0]
    assert single.seconds == pytest.approx(33)
    assert one.first(2).seconds == (1.0, 5.0)


@pytest.mark.parametrize("timed", [True, False])
def test_a_stored_run_knows_its_seconds_where_the_engine_said(timed: bool) -> None:
    store = Store(":memory:")
    line = "repeat(4) | vote"
    run = Run("run", line, "made up", "nobody", 0, {"engine": {"name": "nobody"}}, 0.0, None)
    store.start_run(run)
    draws = tuple(Usage(1, 3, 5, seconds=0.5 * i if timed else 0.0) for i in range(1, 5))
    answers = ("a", "b", "a")
    record = Record(
        Problem(QUESTION, "a"),
        0,
        Pool(tuple(Candidate(answer) for answer in answers), 1),
        answers,
        (1.0, 0.0, 1.0),
        Usage(4, 12, 20),
        Stop("finished"),
        CostSplit(draws=draws, failed=(1,)),
    )
    store.save(run.id, record, "vote", Selection("a", 0), 1.0)
    store.end_run(run.id)
    (stored,) = stored_pools(store, run.id, bill_run(store, run, recipe(line)))
    assert stored.seconds == ((0.5, 1.5, 2.0) if timed else ())
