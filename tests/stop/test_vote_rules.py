"""What every rule over votes keeps, whatever it does."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplewise.core.registry import build
from samplewise.core.types import Pool, Usage
from samplewise.recipe import recipe
from samplewise.stop.base import StopRule
from samplewise.stop.votes import Votes, count_vote, no_votes

from .twins import FREE, PLAIN, QUESTION, VOTE_RULES, fed, stops_after, verdict

few = settings(max_examples=25)  # of each of some twenty rules
each_rule = pytest.mark.parametrize("spec", VOTE_RULES)
votes = st.lists(st.sampled_from("aaabbc"), max_size=24).map(tuple)
draws = st.lists(st.sampled_from(["a", "a", "a", "b", "b", "c", None]), max_size=24).map(tuple)

# rules that look at counts alone; the others know what came first, and say so
OF_COUNTS = (
    "asc",
    "asc(0.99)",
    "asc_dirichlet",
    "bayes_factor",
    "entropy",
    "lead(3)",
    "ppr_1v1(4)",
    "sprt",
    "vote_share",
)
NAMED = ('certify("a")', 'sprt(0.7, pair=("a", "b"))')  # rules that name an answer


@each_rule
@few
@given(found=draws)
def test_other_names_for_the_answers_change_nothing(spec: str, found: tuple[str | None, ...]) -> None:
    rule = build("stop", spec)
    other: StopRule[Votes] = build("stop", spec.replace('"a"', '"<a>"').replace('"b"', '"<b>"'))
    renamed = tuple(None if answer is None else f"<{answer}>" for answer in found)
    one, two = verdict(rule, found), verdict(other, renamed)
    assert one == two if spec not in NAMED else (one is None) == (two is None)


@pytest.mark.parametrize("spec", OF_COUNTS)
@few
@given(found=draws, order=st.permutations(range(24)))
def test_the_order_within_a_wave_changes_nothing(spec: str, found: tuple[str | None, ...], order: list[int]) -> None:
    rule = build("stop", spec)
    assert verdict(rule, found) == verdict(rule, tuple(found[i] for i in order if i < len(found)))


@each_rule
@few
@given(found=draws)
def test_what_cannot_be_read_is_paid_for_and_is_no_vote(spec: str, found: tuple[str | None, ...]) -> None:
    rule = build("stop", spec)
    if spec.startswith(("either", "vote_plan")):  # their cap counts draws
        return
    readable = tuple(answer for answer in found if answer is not None)
    one, two = verdict(rule, found), verdict(rule, readable)
    assert (one is None) == (two is None)
    if one and two:
        assert (one.evidence["draws"], two.evidence["draws"]) == (len(found), len(readable))
        assert {**one.evidence, "draws": 0} == {**two.evidence, "draws": 0}


def test_counting_the_unreadable_as_a_vote_is_seen() -> None:
    """The mutant takes None for an answer like any other, and pays for twice as many draws."""
    rule = build("stop", "asc")
    mixed: Sequence[str | None] = ("a", None, "a", None, "a", "a", None, *"aaaaa")
    assert stops_after(rule, mixed) == 6
    assert stops_after(rule, ["unread" if answer is None else answer for answer in mixed]) == 12


@given(draws, st.integers(1, 4))
def test_agreement_is_a_run_of_equal_votes(found: tuple[str | None, ...], n: int) -> None:
    read = [(place, answer) for place, answer in enumerate(found, 1) if answer is not None]
    runs = (read[end - n : end] for end in range(n, len(read) + 1))
    ends = [run[-1][0] for run in runs if len({answer for _, answer in run}) == 1]
    assert stops_after(build("stop", f"agreement({n})"), found) == (ends[0] if ends else None)


@each_rule
@few
@given(found=draws)
def test_no_rule_stops_earlier_than_it_said(spec: str, found: tuple[str | None, ...]) -> None:
    rule = build("stop", spec)
    state = rule.start(QUESTION)
    earliest = rule.at_least(state)
    for place, answer in enumerate(found, 1):
        state = rule.see(state, PLAIN, answer)
        if rule.decide(state, FREE):
            assert place >= earliest
            return
        more = rule.at_least(state)
        assert more >= 1
        earliest = max(earliest, place + more)


@pytest.mark.parametrize(
    ("spec", "found", "more"),
    [
        ("asc", "", 4),
        ("asc", "aa", 2),
        ("asc", "aab", 4),
        ("asc(0.99)", "", 6),
        ("vote_share", "", 2),
        ("vote_share", "ab", 3),
        ("vote_share(1.0)", "ab", 1 << 31),
        ("entropy", "a", 1),
        ("agreement", "", 2),
        ("agreement", "aba", 1),
        ("agreement(4)", "baa", 2),
        ("vote_plan", "", 4),
        ("vote_plan", "aba", 1),
        ("vote_plan", "abaa", 4),
        ("esc", "", 5),
        ("esc", "aa", 3),
        ("esc", "ab", 8),
        ("esc", "aabbb", 5),
        ("vote_e", "", 8),
        ("vote_e", "aa", 6),
        ("vote_e(0.1)", "", 6),
        ('certify("a")', "", 7),
        ('certify("b")', "a", 10),
        ("ppr_1v1(2)", "", 8),
        ("mmc(0.05)", "", 8),
        ("sprt", "a", 2),
        ("sprt", "ab", 3),
        ("sprt(0.7)", "", 11),
        ("either(asc, cap(3))", "a", 2),
    ],
)
def test_at_least_is_what_the_best_case_needs(spec: str, found: str, more: int) -> None:
    rule = build("stop", spec)
    assert rule.at_least(fed(rule, found)) == more


@each_rule
@few
@given(found=draws)
def test_a_pool_cut_anywhere_has_its_decision(spec: str, found: tuple[str | None, ...]) -> None:
    """The verdict on a pool is that of the fold, nothing is kept between two calls, and money changes nothing."""
    rule = build("stop", spec)
    pool = Pool((PLAIN,) * len(found))
    stop = rule.check(pool, found)
    assert stop == verdict(rule, found) == rule.check(pool, found, Usage(requests=9, completion_tokens=10**6))
    assert verdict(build("stop", spec), found) == stop


@each_rule
@few
@given(found=draws)
def test_evidence_is_plain_and_says_what_it_rests_on(spec: str, found: tuple[str | None, ...]) -> None:
    rule = build("stop", spec)
    if stop := verdict(rule, found):
        said = stop.evidence
        assert json.loads(json.dumps(said, allow_nan=False)) == said
        assert {"rule", "guarantee", "about"} <= set(said)
        if said["rule"] in ("cap", "lead"):
            return
        assert sum(said["counts"]) == said["votes"] <= said["draws"] == len(found)
        if stop.reason == "settled" and said["rule"] != "entropy":
            assert said["statistic"] >= said["threshold"] - 1e-9


def test_every_rule_says_what_it_guarantees() -> None:
    table = {
        "anytime-valid": ('certify("a")', "ppr_1v1(3)", "sprt(0.6)", "vote_e"),
        "model-based": ("asc_dirichlet", "vote_plan", "bayes_factor", "bayes_l3(((0.6, 0.4),))", "cges(v)", "ias(v)"),
        "heuristic": (
            "agreement",
            "asc",
            "vote_share",
            "entropy",
            "esc",
            "sprt",
            "mmc",
            "reasc(v)",
            "deepconf",
            "blend_asc",
            "lead(2)",
        ),
    }
    for guarantee, specs in table.items():
        assert {build("stop", spec).guarantee for spec in specs} == {guarantee}
    assert {build("stop", spec).about for spec in ("cges(v)", "ias(v)")} == {"truth"}
    assert {build("stop", spec).about for specs in table.values() for spec in specs[:2]} >= {"mode"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("agreement(0)", "n must be a whole number of at least 1"),
        ("vote_plan(cap=500)", "cap must be at most 128"),
        ("asc(1)", "confidence must be between 0 and 1"),
        ("vote_share(0)", "level must be more than 0"),
        ("entropy(1)", "level must be at least 0"),
        ("esc(0)", "window must be at least 1"),
        ("vote_e(0)", "error must be between 0 and 1"),
        ("ppr_1v1(1)", "labels must be at least 2"),
        ("certify(7)", "answer must be a text"),
        ("sprt(0.5)", "q1 must be more than 1/2"),
        ('sprt(pair=("a", "b"))', "pair needs q1"),
        ('sprt(0.6, pair=("a", "a"))', "two different answers"),
        ("bayes_factor(0)", "factor must be more than 0"),
        ("bayes_l3(())", "at least one distribution"),
        ("bayes_l3(((0.3, 0.7),))", "from the largest down"),
        ("blend_asc(-1)", "floor must be at least 0"),
        ("deepconf(0)", "keep must be between 0 and 1"),
        ("ias(v, quantile=2)", "quantile must be at least 0"),
        ("cges(v, answers=1)", "answers must be at least 2"),
        ("either(asc)", "either takes two rules or more"),
        ("either(asc, 3)", "rules must be a text"),
    ],
)
def test_a_setting_without_meaning_is_one_clear_line(spec: str, message: str) -> None:
    with pytest.raises(Exception, match=message):
        recipe(f"repeat(8) | until({spec}) | vote")


@given(draws)
def test_the_runner_up_is_the_first_of_the_others_to_have_reached_its_count(found: tuple[str | None, ...]) -> None:
    state = no_votes(QUESTION)
    for place, answer in enumerate(found, 1):
        state = count_vote(state, PLAIN, answer)
        others = [each for each in found[:place] if each is not None and each != state.leader]
        most = max((others.count(each) for each in others), default=0)
        reached = [each for i, each in enumerate(others) if others[: i + 1].count(each) == most]
        assert state.second == most
        assert state.runner_up == (reached[0] if reached else None)
