"""Arms in the bundled model's language."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import UsageError
from samplewise.core.keys import Key
from samplewise.core.types import Generate, Message, Question
from samplewise.tasks.game24 import puzzle_question
from samplewise.vary.base import Arm, as_arm, vary
from samplewise.vary.compose import compose
from samplewise.vary.puzzles import (
    CAP,
    again,
    permute,
    prefer,
    puzzle_of,
    random_step,
    read_step,
    remark,
    step,
    steps_of,
)

QUESTION = puzzle_question((4, 6, 7, 8))
PLAIN = "make 24 from 4 6 7 8"


def texts(arm: object, question: Question = QUESTION, key: Key = Key(0)) -> dict[str, str]:  # noqa: B008
    assert callable(arm) or isinstance(arm, Arm)
    return {v.arm: v.messages[-1].content for v in as_arm(arm).make(key, question, ()).variants}


def test_hints_stand_behind_the_puzzle() -> None:
    assert texts(prefer()) == {
        "prefer/plus": f"{PLAIN} . prefer +",
        "prefer/minus": f"{PLAIN} . prefer -",
        "prefer/times": f"{PLAIN} . prefer *",
        "prefer/over": f"{PLAIN} . prefer /",
    }
    assert texts(prefer("*")) == {"prefer/times": f"{PLAIN} . prefer *"}
    assert texts(again()) == {"again": f"{PLAIN} . {PLAIN}"}
    found = texts(remark(12))
    assert found["remark/01"] == f"{PLAIN} . note the river is cold today"
    assert set(found) == {f"remark/{place:02}" for place in range(1, 13)}


def test_an_order_of_the_numbers_is_another_one() -> None:
    seen = set()
    for seed in range(60):
        found = list(texts(permute(4), key=Key(seed)).values())
        assert len(set(found)) == 4
        assert all(Counter(text.split()) == Counter(PLAIN.split()) for text in found)
        seen |= set(found)
    assert PLAIN not in seen
    assert len(seen) == 23


def test_fewer_orders_give_fewer_variants() -> None:
    assert set(texts(permute(4), puzzle_question((1, 1, 1, 8))).values()) == {
        "make 24 from 1 1 8 1",
        "make 24 from 1 8 1 1",
        "make 24 from 8 1 1 1",
    }
    only = as_arm(permute(4)).make(Key(0), puzzle_question((6, 6, 6, 6)), ())
    assert (only.fallbacks, only.variants[0].messages) == (1, puzzle_question((6, 6, 6, 6)).messages)


def test_a_composition_keeps_the_order_and_the_hint() -> None:
    both = compose(permute(2), prefer("*"))
    for arm, text in texts(both).items():
        assert arm in ("permute/1+prefer/times", "permute/2+prefer/times")
        assert text.endswith(" . prefer *")
        assert text != f"{PLAIN} . prefer *"
    turned = texts(compose(again(), permute(1)))["again+permute/1"]
    one, other = turned.split(" . ")
    assert one == other != PLAIN


@given(st.lists(st.integers(0, 120), min_size=2, max_size=5))
def test_first_steps_are_all_that_the_numbers_allow(numbers: list[int]) -> None:
    brute = set()
    for place, one in enumerate(numbers):
        for other in numbers[:place] + numbers[place + 1 :]:
            for sign, value in {
                "+": Fraction(one + other),
                "-": Fraction(one - other),
                "*": Fraction(one * other),
                "/": Fraction(one, other) if other else Fraction(-1),
            }.items():
                fits = value.denominator == 1 and 0 <= value <= CAP
                if fits and (one >= other or sign not in "+*") and not (sign == "/" and one < other):
                    brute.add(f"{one} {sign} {other}")
    found = steps_of(numbers)
    assert len(set(found)) == len(found)
    assert set(found) == brute


def test_a_random_step_is_one_of_them() -> None:
    seen = {text for seed in range(200) for text in texts(random_step(4), key=Key(seed)).values()}
    assert seen == {f"{PLAIN} . start with {each}" for each in steps_of((4, 6, 7, 8))}
    assert all(len(texts(random_step(4), key=Key(seed))) == 4 for seed in range(20))
    assert len(texts(random_step(50))) == len(steps_of((4, 6, 7, 8)))


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("8 - 6", "8 - 6"),
        ("6 * 8 = 48 , 2", "8 * 6"),
        ("4+6", "6 + 4"),
        ("start with 8 / 4", "8 / 4"),
        ("6 - 8", "6 - 8"),  # impossible, which is for the judge to say
        ("eight minus six", ""),
        ("", ""),
        ("1.5 - 6", ""),
        ("99999 - 6", ""),
    ],
)
def test_reading_a_step(reply: str, text: str) -> None:
    assert read_step(reply) == text


def test_the_helper_names_first_steps(play: Callable[..., object]) -> None:
    replies = iter(["8 - 6", "6 - 8", "9 * 6", "6 + 4", "8 - 6", None, "4 + 6", "7 + 4", "8 / 4"])

    def think(asked: Generate) -> str | None:
        assert asked.messages == (Message("user", f"first step to {PLAIN}"),)
        assert (asked.engine, asked.max_tokens, asked.sampling.temperature) == ("", 8, 1.0)
        return next(replies)

    played = play(step(6), QUESTION, think)
    # 2 and 3 are impossible, 5 repeats 1, 6 fails; second chances for 2, 3 and 5
    assert {v.arm: v.messages[-1].content for v in played.variants} == {
        "step.single/1": f"{PLAIN} . start with 8 - 6",
        "step.single/3": f"{PLAIN} . start with 7 + 4",
        "step.single/4": f"{PLAIN} . start with 6 + 4",
        "step.single/5": f"{PLAIN} . start with 8 / 4",
        "step.single/6": PLAIN,
    }
    assert played.counts == {"fallbacks": 1, "leaks": 0, "losses": 2, "repeats": 2}
    assert [len(asks) for asks in played.rounds] == [6, 3]
    assert len({ask.seed for ask in played.asks}) == 9


def test_a_step_after_a_permutation_asks_in_its_order(play: Callable[..., object]) -> None:
    asked = []

    def think(ask: Generate) -> str:
        asked.append(ask.messages[0].content)
        return "8 - 6"

    played = play(compose(permute(1), step(1)), QUESTION, think)
    assert asked[0].removeprefix("first step to ") == played.texts[0].partition(" . ")[0] != PLAIN


ARMS = [
    (permute, "rephrase"),
    (step, "idea"),
    (random_step, "idea"),
    (prefer, "instruction"),
    (remark, "irrelevant"),
    (again, "verbatim"),
]


@pytest.mark.parametrize(("make", "instead"), ARMS)
def test_a_question_that_is_no_puzzle_is_told_what_suits_it(
    make: Callable[[], object], instead: str, play: Callable[..., object]
) -> None:
    plain = Question("q7", (Message("user", "How many?"),))
    with pytest.raises(UsageError, match=rf"arm \w+ is for puzzles .*'q7' has none; {instead} suits any question"):
        play(make(), plain, lambda asked: "8 - 6")
    full = puzzle_question((4, 6, 7, 8), prompt="full")
    with pytest.raises(UsageError, match=rf"does not say 'make 24 from 4 6 7 8'; {instead} suits any prompt"):
        play(make(), full, lambda asked: "8 - 6")


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"numbers": [4.5, 6], "target": 24},
        {"numbers": [], "target": 24},
        {"numbers": "46", "target": 24},
        {"numbers": [4, 6, 7, 8]},
        {"numbers": [4, 6, 7, 8], "target": True},
        {"numbers": [4, 6, 7, 9], "target": 24},
    ],
)
def test_facts_that_are_no_puzzle(facts: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        puzzle_of(QUESTION._replace(facts=facts), "step", "idea")


def test_misuse() -> None:
    for make in (lambda: permute(0), lambda: step(0), lambda: random_step(True), lambda: remark(13)):
        with pytest.raises(ValueError, match="num"):
            make()
    with pytest.raises(ValueError, match="out of"):
        prefer("^")
    with pytest.raises(ValueError, match="twice"):
        prefer("*", "*")
    with pytest.raises(UsageError, match="at most 6 numbers"):
        texts(permute(), puzzle_question((1, 2, 3, 4, 5, 6, 7)))


@pytest.mark.slow
def test_the_bundled_model_is_such_a_helper() -> None:
    """Of 160 first steps by the model itself nearly all are possible. Its card says 99 % are well formed; at 97 % the
    odds of fewer than 90 % by chance are below 1e-4."""
    pytest.importorskip("torch")
    from samplewise.core.registry import build
    from samplewise.loop.context import RunContext
    from samplewise.loop.drive import run_question
    from samplewise.loop.result import Result
    from samplewise.recipe import Recipe, recipe
    from samplewise.tasks.game24 import game24

    task = game24("dev", limit=40)
    line = recipe("repeat(1, max_tokens=8)")
    mixed = Recipe("vary(step(4)) | repeat(1)", vary(step(4)), line.sampler, None, line.selector, {})
    engine = build("engine", "tiny")

    async def results() -> list[Result]:
        try:
            return await asyncio.gather(
                *(run_question(q, mixed, RunContext(engine), Key(1), read=task.read) for q in task.questions)
            )
        finally:
            await engine.close()

    told = [entry for result in asyncio.run(results()) for info in result.trace for entry in info["vary"]]
    assert sum(entry["losses"] for entry in told) <= 16
    assert sum(entry["fallbacks"] for entry in told) <= 4
