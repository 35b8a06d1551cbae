"""The laws of arms, over every arm that is registered or is to be."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from samplewise.core.keys import Key
from samplewise.core.registry import names
from samplewise.core.types import Completion, Generate, Message, Question
from samplewise.tasks.game24 import puzzle_question
from samplewise.vary.base import Arm, PlainArm, as_arm, vary
from samplewise.vary.compose import compose
from samplewise.vary.concept import concept
from samplewise.vary.idea import idea
from samplewise.vary.levels import LEVELS, family_of, level_of
from samplewise.vary.plan import plan_search
from samplewise.vary.prompts import instruction, irrelevant, jabberwocky, role, ssot, verbatim
from samplewise.vary.puzzles import again, permute, prefer, random_step, remark, step
from samplewise.vary.rephrase import backtranslate, rephrase
from samplewise.vary.temperature import ladder
from samplewise.vary.verbalized import verbalized

SECRET = "canary-7731"
PUZZLE = puzzle_question((4, 6, 7, 8))
PUZZLE = PUZZLE._replace(
    messages=(Message("system", "Be brief."), *PUZZLE.messages, Message("assistant", "8 -")),
    facts={**PUZZLE.facts, "note": SECRET},
)
REPLIES = {  # by a word of the request, what a good helper says
    "first step to": ("8 - 6", "7 + 4", "6 * 4", "8 * 7"),
    "Restate": ("From 4 6 7 8, by whatever route, 24 is wanted.",),
    "Rewrite": ("24 is the goal, and 4 6 7 8 are there.", "You are given 4 6 7 8; reach 24."),
    "Translate the problem": ("4 6 7 8 -> 24",),
    "Translate the ": ("Out of 4 6 7 8 let 24 arise.",),
    "JSON": ('["Try factors.", "Go backwards from the goal.", "Use a near miss."]',),
    "Name one": ("Factorisation.", "Working backwards.", "none"),
    "observations": ("1. All are even but one.\n2. Two are close together.",),
    "": ("Look at factors.", "Work backwards from the goal.", "Combine what is left last.", "Use the odd one early."),
}


class Case(NamedTuple):
    make: Callable[[], Arm | PlainArm]
    keeps_text: bool = True  # the question's own text stands in every variant
    keyed: bool = True  # another key, other variants or requests


CASES = {
    "again": Case(again, keyed=False),
    "backtranslate": Case(lambda: backtranslate(2), keeps_text=False),
    "concept": Case(lambda: concept(3)),
    "idea": Case(lambda: idea(3)),
    "instruction": Case(lambda: instruction(3)),
    "irrelevant": Case(lambda: irrelevant(3)),
    "jabberwocky": Case(lambda: jabberwocky(3)),
    "ladder": Case(ladder, keyed=False),
    "permute": Case(lambda: permute(3), keeps_text=False),
    "plan": Case(lambda: plan_search(3)),
    "prefer": Case(prefer, keyed=False),
    "random_step": Case(lambda: random_step(3)),
    "remark": Case(lambda: remark(3)),
    "rephrase": Case(lambda: rephrase(3), keeps_text=False),
    "role": Case(lambda: role(3)),
    "ssot": Case(lambda: ssot(2, supplied=True)),
    "step": Case(lambda: step(3)),
    "verbalized": Case(lambda: verbalized(3)),
    "verbatim": Case(verbatim, keyed=False),
}
every_arm = pytest.mark.parametrize("name", CASES)


def think(ask: Generate) -> str:
    text = ask.messages[-1].content
    replies = next(replies for word, replies in REPLIES.items() if word in text)
    return replies[ask.seed % len(replies)]


def fail(ask: Generate) -> None:
    return None


def test_every_registered_arm_is_under_these_laws() -> None:
    """`plus` is tested by compositions."""
    from samplewise.core.registry import BUILT_IN

    assert set(BUILT_IN["arm"]) - {"plus"} <= set(CASES)
    assert set(names("arm")) >= set(BUILT_IN["arm"])


@every_arm
def test_its_levels_are_known(name: str, play: Callable[..., Any]) -> None:
    for variant in play(CASES[name].make(), PUZZLE, think).variants:
        assert family_of(variant.arm) in LEVELS
        assert level_of(variant.arm) in range(6)


@every_arm
def test_the_identity_stands_first_byte_for_byte(name: str) -> None:
    mix = vary(CASES[name].make())
    state = mix.init(PUZZLE)
    assert mix.variants(state)[0].messages == PUZZLE.messages
    assert mix.variants(state)[0].arm == "direct"


@every_arm
def test_nothing_but_the_question_is_touched(name: str, play: Callable[..., Any]) -> None:
    case = CASES[name]
    for variant in play(case.make(), PUZZLE, think).variants:
        assert len(variant.messages) == 3
        assert (variant.messages[0], variant.messages[2]) == (PUZZLE.messages[0], PUZZLE.messages[2])
        assert variant.messages[1].role == "user"
        if case.keeps_text:
            assert PUZZLE.messages[1].content in variant.messages[1].content
        else:
            assert variant.messages[1] != PUZZLE.messages[1]
        assert (name == "ladder") == bool(variant.sampling)


@every_arm
def test_ids_are_unique_and_nothing_secret_is_told(name: str, play: Callable[..., Any]) -> None:
    played = play(CASES[name].make(), PUZZLE, think)
    ids = [variant.arm for variant in played.variants]
    assert ids
    assert len(set(ids)) == len(ids)
    assert SECRET not in repr(played)  # facts that no arm has any business with, as a reference would be
    seeds = [(ask.messages, ask.seed) for ask in played.asks]
    assert len(set(seeds)) == len(seeds)


@every_arm
def test_the_key_decides(name: str, play: Callable[..., Any]) -> None:
    case = CASES[name]
    assert play(case.make(), PUZZLE, think, Key(3)) == play(case.make(), PUZZLE, think, Key(3))
    outcomes = {repr(play(case.make(), PUZZLE, think, Key(seed))) for seed in range(8)}
    assert (len(outcomes) > 1) is case.keyed


@every_arm
def test_failed_helpers_leave_the_question(name: str, play: Callable[..., Any]) -> None:
    played = play(CASES[name].make(), PUZZLE, fail)
    if played.asks:
        assert all(variant.messages == PUZZLE.messages for variant in played.variants)
        assert played.counts["fallbacks"] == len(played.variants) >= 1
    else:
        assert played.counts["fallbacks"] == 0


@every_arm
def test_variants_are_valid_whatever_was_heard(name: str) -> None:
    """After every round, with every third request failed; and the same ids until the last word is spoken."""
    arm, key = as_arm(CASES[name].make()), Key(5)
    heard: tuple[tuple[str | None, ...], ...] = ()
    while True:
        made = arm.make(key, PUZZLE, heard)
        ids = [variant.arm for variant in made.variants]
        assert len(set(ids)) == len(ids) >= 1
        plain = sum(variant.messages == PUZZLE.messages and not variant.sampling for variant in made.variants)
        assert made.fallbacks == plain
        assert arm.make(key, PUZZLE, heard) == made
        asks = arm.next_asks(key, PUZZLE, heard)
        if not asks:
            return
        heard = (*heard, tuple(None if place % 3 == 2 else think(each) for place, each in enumerate(asks)))
        assert len(heard) < 20


@every_arm
def test_state_and_counts_are_plain_data(name: str) -> None:
    mix, key = vary(CASES[name].make()), Key(0)
    state, completions = mix.init(PUZZLE), []
    for _ in range(20):
        kept = copy.deepcopy(state)
        after, moved = mix.step(key, state, completions)
        assert state == kept
        json.dumps([after, moved])  # a TypeError where anything in them is not plain
        restored = after._replace(replies=tuple(map(tuple, json.loads(json.dumps(after.replies)))))
        assert mix.variants(restored) == mix.variants(after)
        state = after
        if not moved.asks:
            return
        completions = [Completion(think(each), "stop") for each in moved.asks]
    raise AssertionError("the arm never stops asking")


FIXED: dict[str, Callable[[], Arm | PlainArm]] = {  # arms without a draw: a composition's key goes by its shape
    "role": lambda: role(pick="maths/01"),
    "verbatim": verbatim,
    "prefer": prefer,
    "ladder": ladder,
    "idea": lambda: idea(1),
}


@pytest.mark.parametrize(
    "names_", [("role", "verbatim", "ladder"), ("prefer", "role", "verbatim"), ("verbatim", "ladder", "prefer")]
)
def test_composition_is_associative(names_: tuple[str, str, str], play: Callable[..., Any]) -> None:
    one, two, three = (FIXED[name]() for name in names_)
    left = play(compose(compose(one, two), three), PUZZLE, think)
    right = play(compose(one, compose(two, three)), PUZZLE, think)
    assert left.variants == right.variants
    assert [variant.arm.count("+") for variant in left.variants] == [2] * len(left.variants)


@every_arm
def test_every_arm_can_be_composed(name: str, play: Callable[..., Any]) -> None:
    if name == "ladder":
        return
    for arm in (compose(CASES[name].make(), ladder(0.5)), compose(ladder(0.5), CASES[name].make())):
        for answer in (think, fail):
            played = play(arm, PUZZLE, answer)
            assert played.variants
            assert all(variant.sampling == {"temperature": 0.5} for variant in played.variants)
            assert all("temperature/0.5" in variant.arm for variant in played.variants)


def test_a_mix_of_all_arms_has_no_two_alike(play: Callable[..., Any]) -> None:
    mix = vary(*(case.make() for case in CASES.values()))
    ids = [variant.arm for variant in mix.variants(mix.init(PUZZLE))]
    assert len(set(ids)) == len(ids) > len(CASES)
    assert isinstance(PUZZLE, Question)
