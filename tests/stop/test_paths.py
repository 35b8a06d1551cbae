"""Rules over whole paths of votes: closed forms, the published simulations at a smaller size, and an adversary who
looks after every vote."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.stop.base import StopRule
from samplewise.stop.certified import pair_of
from samplewise.stop.tables import boundary_at, log_e1
from samplewise.stop.votes import Votes

from .twins import FREE, PLAIN, QUESTION, fed, stops_after

LABELS = "abcdefghijkl"


def paths(law: Sequence[float], runs: int, length: int, seed: int = 0) -> list[str]:
    drawn = Key(seed).fold("paths", runs, length).generator().choice(len(law), size=(runs, length), p=np.array(law))
    return ["".join(LABELS[k] for k in row) for row in drawn.tolist()]


# --- closed forms -----------------------------------------------------------------------------------------------------


def esc_mean(law: Sequence[float], window: int, windows: int) -> float:
    """Mean votes of early-stopping self-consistency with a cap of so many windows."""
    p = sum(each**window for each in law)
    stopping = sum(i * p * (1 - p) ** (i - 1) for i in range(1, windows))
    return window * (stopping + windows * (1 - p) ** (windows - 1))


def enumerated_mean(rule: StopRule[Any], law: Sequence[float], length: int) -> float:
    """Exact mean of the draws until the rule stops, or `length`."""

    def walk(state: Any, depth: int) -> float:
        if depth == length or (depth and rule.decide(state, FREE)):
            return 0.0
        return 1.0 + sum(
            p * walk(rule.see(state, PLAIN, label), depth + 1) for label, p in zip(LABELS, law, strict=False)
        )

    return walk(rule.start(QUESTION), 0)


@pytest.mark.parametrize("law", [(0.7, 0.3), (0.5, 0.3, 0.2)])
@pytest.mark.parametrize(("window", "windows"), [(2, 4), (4, 2), (3, 2)])
def test_windows_stop_as_often_as_the_closed_form_says(law: tuple[float, ...], window: int, windows: int) -> None:
    rule = build("stop", f"esc({window})")
    assert enumerated_mean(rule, law, window * windows) == pytest.approx(esc_mean(law, window, windows), abs=1e-12)


def test_overlapping_windows_would_not() -> None:
    """The mutant looks at the last w votes after every vote: it stops earlier."""

    def sliding(votes: str) -> int | None:
        return next((n for n in range(2, len(votes) + 1) if len(set(votes[n - 2 : n])) == 1), None)

    law, length = (0.7, 0.3), 8
    mean = 0.0
    for found in itertools.product("ab", repeat=length):
        chance = math.prod(law[LABELS.index(each)] for each in found)
        mean += chance * (sliding("".join(found)) or length)
    assert mean < esc_mean(law, 2, 4) - 0.3
    assert sliding("abbaa") == 3
    assert stops_after(build("stop", "esc(2)"), "abbaa") is None
    assert stops_after(build("stop", "esc(2)"), ["a", None, "b", "b", None, "b"]) == 6  # windows of votes, not of draws


@pytest.mark.parametrize("p", [0.6, 0.75])
@pytest.mark.parametrize("spec", ["lead(3)", "sprt"])
def test_a_lead_of_three_is_a_gamblers_ruin(spec: str, p: float) -> None:
    """Wald's closed forms: wrong 1 / (1 + (p/q)^3), votes 3 (1 - 2 wrong) / (p - q). The tally of two answers is the
    whole state of the rule, so all paths of 400 votes are walked by their counts; the rest has less than 1e-5."""
    rule, mass = build("stop", spec), {(0, 0): 1.0}
    votes = wrong = 0.0
    for num in range(1, 401):
        after: dict[tuple[int, int], float] = {}
        for (a, b), chance in mass.items():
            for end, step in (((a + 1, b), p), ((a, b + 1), 1 - p)):
                after[end] = after.get(end, 0.0) + chance * step
        mass = {}
        for (a, b), chance in after.items():
            ahead = "a" if a >= b else "b"
            tally = Votes(a + b, a + b, {"a": a, "b": b}, ahead, max(a, b), min(a, b))
            if rule.decide(tally, FREE):
                votes, wrong = votes + num * chance, wrong + chance * (ahead == "b")
            else:
                mass[a, b] = chance
    expected = 1 / (1 + (p / (1 - p)) ** 3)
    assert wrong == pytest.approx(expected, abs=1e-9)
    assert votes == pytest.approx(3 * (1 - 2 * expected) / (2 * p - 1), abs=1e-6)


# --- the published simulations ----------------------------------------------------------------------------------------

PLAIN_LAW, CLEAR, CLOSE = (0.7, 0.1, 0.1, 0.1), (0.5, 0.3, 0.2), (0.4, 0.3, 0.3)
ALIKE, MANY = (0.26, 0.25, 0.25, 0.24), (0.12, *(0.08,) * 11)
PUBLISHED = [  # law, rule, mean votes (400 at most), wrong of all runs; 600 runs each
    (PLAIN_LAW, "asc", 10.1, 0.0),
    (PLAIN_LAW, "asc(0.99)", 17.0, 0.0),
    (PLAIN_LAW, "esc", 29.9, 0.0),
    (PLAIN_LAW, "sprt", 5.8, 0.005),
    (PLAIN_LAW, "ppr_1v1(4)", 29.7, 0.0),
    (PLAIN_LAW, "vote_e", 21.7, 0.0),
    (CLEAR, "asc", 49.4, 0.025),
    (CLEAR, "asc(0.99)", 98.3, 0.002),
    (CLEAR, "esc", 141.0, 0.015),
    (CLEAR, "lead(3)", 11.4, 0.178),
    (CLEAR, "ppr_1v1(3)", 209.0, 0.0),
    (CLEAR, "vote_e", 168.0, 0.0),
    (CLOSE, "asc", 172.0, 0.058),
    (CLOSE, "lead(3)", 14.5, 0.392),
    (CLOSE, "asc(0.99)", 295.0, 0.012),
    (CLOSE, "esc", 230.0, 0.085),
    (CLOSE, "ppr_1v1(3)", 391.0, 0.0),
    (CLOSE, "vote_e", 374.0, 0.0),
    (ALIKE, "asc", 328.0, 0.155),
    (ALIKE, "asc(0.99)", 392.0, 0.018),
    (ALIKE, "esc", 343.0, 0.162),
    (ALIKE, "sprt", 22.0, 0.705),
    (MANY, "asc", 364.0, 0.018),
    (MANY, "esc", 397.0, 0.005),
    (MANY, "lead(3)", 73.3, 0.613),
]


@functools.cache
def simulated(law: tuple[float, ...], runs: int) -> list[str]:
    return paths(law, runs, 400)


@pytest.mark.parametrize(("law", "spec", "mean", "wrong"), PUBLISHED)
def test_rules_need_as_many_votes_as_was_measured(law: tuple[float, ...], spec: str, mean: float, wrong: float) -> None:
    """Within 4.5 standard errors of both simulations together: a false alarm in 5,000 runs of this table."""
    rule, runs = build("stop", spec), 200
    found, mistakes = [], 0
    for votes in simulated(law, runs):
        num = stops_after(rule, votes)
        found.append(num or 400)
        mistakes += num is not None and fed(build("stop", "asc"), votes[:num]).leader != "a"
    error = np.std(found) * math.sqrt(1 / runs + 1 / 600)
    assert abs(np.mean(found) - mean) <= 4.5 * error + 0.05
    chance = (mistakes + 600 * wrong + 1) / (runs + 602)
    assert abs(mistakes / runs - wrong) <= 4.5 * math.sqrt(chance * (1 - chance) * (1 / runs + 1 / 600))


# --- looking as often as one likes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("law", "published"),
    [((0.51, 0.49), 0.058), ((0.34, 0.33, 0.33), 0.061), ((0.109, *(0.099,) * 9), 0.022)],
)
def test_the_true_mode_is_rarely_rejected_on_any_path(law: tuple[float, ...], published: float) -> None:
    """300 paths of 200 votes at .10: rejecting the true mode is what every wrong certificate needs, whatever the
    adversary does. At most .10 + 3 standard errors, and about as often as measured with 2,000 runs (4.5 errors)."""
    boundary, runs = boundary_at(log_e1, math.log(10)), 300
    rule, rejected = build("stop", "vote_e(0.1)"), 0
    for votes in paths(law, runs, 200):
        state = rule.start(QUESTION)
        for vote in votes:
            state = rule.see(state, PLAIN, vote)
            ahead, behind = pair_of(state, "a")
            if ahead >= boundary(behind):
                rejected += 1
                break
    assert rejected / runs <= 0.10 + 3 * math.sqrt(0.1 * 0.9 / runs)
    assert abs(rejected / runs - published) <= 4.5 * math.sqrt(published * (1 - published) * (1 / runs + 1 / 2000))


def key_of(state: Any) -> Any:
    """What tells two states of a race apart: mappings by their items, the first answer by its name."""
    votes = state.votes
    tallies = (tuple(sorted(votes.counts.items())), next(iter(votes.counts), None), tuple(sorted(state.extra.items())))
    return (*tallies, votes.leader, votes.runner_up, state.led, state.alone)


@pytest.mark.parametrize(("num_modes", "num_votes"), [(2, 60), (3, 14)])
def test_one_of_several_modes_is_certified_no_more_often_than_is_said(num_modes: int, num_votes: int) -> None:
    """Exactly, over all paths of votes that are equally frequent, at .2: at most m / (m - 1) times .2."""
    rule = build("stop", "vote_e(0.2)")
    states, settled = {None: (rule.start(QUESTION), 1.0)}, 0.0
    for _ in range(num_votes):
        following: dict[Any, tuple[Any, float]] = {}
        for state, probability in states.values():
            for vote in "abc"[:num_modes]:
                after = rule.see(state, PLAIN, vote)
                if rule.decide(after, FREE):
                    settled += probability / num_modes
                else:
                    key = key_of(after)
                    following[key] = (after, following.get(key, (None, 0.0))[1] + probability / num_modes)
        states = following
    assert settled <= num_modes / (num_modes - 1) * 0.2
    assert settled > 0.2 / 10


@pytest.mark.parametrize(
    ("spec", "most", "least"),
    [
        ("vote_e(0.1)", 0.1, 0.0),
        ('certify("b", 0.1)', 0.1, 0.0),
        ("ppr_1v1(2, 0.1)", 0.1, 0.0),
        ("sprt(0.6, error=0.1)", 0.1, 0.0),
        ("asc(0.9)", 1.0, 0.3),
    ],
)
def test_an_adversary_stops_at_the_worst_time(spec: str, most: float, least: float) -> None:
    """He stops whenever the rule says so with the wrong answer in front, and goes on otherwise. Against asc, whose
    nominal error is the same .10, he wins more than three times as often as that on a close question."""
    rule, runs, wrong = build("stop", spec), 300, 0
    for votes in paths((0.51, 0.49), runs, 200, seed=1):
        state = rule.start(QUESTION)
        leader = leaders(votes)
        for place, vote in enumerate(votes):
            state = rule.see(state, PLAIN, vote)
            if leader[place] == "b" and (stop := rule.decide(state, FREE)) and stop.reason == "settled":
                wrong += 1
                break
    assert least <= wrong / runs <= most + 3 * math.sqrt(0.1 * 0.9 / runs)


def leaders(votes: str) -> list[str | None]:
    """The leader after every vote."""
    rule = build("stop", "lead(1)")
    state, found = rule.start(QUESTION), []
    for vote in votes:
        state = rule.see(state, PLAIN, vote)
        found.append(state.leader)
    return found


def test_the_order_of_arrival_would_bias_every_rule() -> None:
    """The mutant: 64 draws are in flight, the wrong answer (40 %) is a short one, and votes are counted as they arrive.
    In the order of the asks asc(.99) is wrong in a few paths of 200, as they arrive in all of them."""
    rule, in_order, arrived = build("stop", "asc(0.99)"), 0, 0
    for votes in paths((0.6, 0.4), 200, 64, seed=2):
        for found, by_arrival in ((votes, False), (sorted(votes, reverse=True), True)):
            num = stops_after(rule, found)
            wrong = num is not None and found[num - 1] == "b" and list(found[:num]).count("b") > num / 2
            in_order, arrived = in_order + (wrong and not by_arrival), arrived + (wrong and by_arrival)
    assert in_order <= 12
    assert arrived == 200
