"""Answers merged by what they say, before scripted engines, and the vote over them."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import BadRequest
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Candidate, Completion, Generate, Message, Pool, Question, Usage
from samplewise.engines.base import failed
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.recipe import recipe
from samplewise.select.merged import merged
from samplewise.verify.same import same, says_same

QUESTION = Question("q", (Message("user", "Where is it?"),))


def shown(ask: Ask) -> list[str]:
    """The two answers of a prompt."""
    assert isinstance(ask, Generate)
    return re.findall(r"Answer [AB]:\n(.*)", ask.messages[0].content)


def play(answers: Sequence[str | None], size: int = 16, num_rounds: int = 99) -> tuple[tuple[float, ...], list[int]]:
    """The groups of answers, of which those with the same first letter say the same, and how much each round asks."""
    candidates = tuple(Candidate(answer or "unreadable") for answer in answers)
    judge, replies, nums = same(size=size), (), []
    while len(replies) < num_rounds and (
        asks := judge.next_asks(Key(0), QUESTION, candidates, tuple(answers), replies)
    ):
        pairs = [shown(ask) for ask in asks]
        words = ["Yes." if first[0] == second[0] else "No" for first, second in pairs]
        replies = (*replies, tuple(Completion(word, "stop", Usage(1, 9, 1)) for word in words))  # type: ignore[arg-type]
        nums.append(len(asks))
    return judge.rate(Key(0), QUESTION, candidates, tuple(answers), replies), nums


@given(st.lists(st.none() | st.sampled_from(["a", "ab", "ac", "b", "ba", "c"]), max_size=9))
def test_answers_that_say_the_same_are_one_group(answers: list[str | None]) -> None:
    groups, nums = play(answers)
    different = set(answers) - {None}
    letters = {answer[0] for answer in different if answer}
    assert len(nums) <= len(letters)
    assert sum(nums) <= len(different) * (len(different) - 1) / 2
    assert not nums if len(different) < 2 else nums[0] == len(different) - 1
    for answer, group in zip(answers, groups, strict=True):
        assert math.isnan(group) == (answer is None)
        for other, another in zip(answers, groups, strict=True):
            if answer and other:
                assert (group == another) == (answer[0] == other[0])


def test_those_that_are_not_compared_stay_apart() -> None:
    groups, nums = play(["x", "y", "ab", "a", "a"], size=2)
    assert nums == [1], "the most frequent answer and the first of the others"
    assert len(set(groups)) == 4
    groups, nums = play(["ab", "b", "c", "a", "a"], num_rounds=0)
    assert (nums, len(set(groups))) == ([], 4)


@pytest.mark.parametrize(
    ("text", "is_same"),
    [
        ("yes", True),
        (" **Yes**, they do", True),
        ("No.", False),
        ("yesterday", False),
        ("Yes or no", False),
        ("A yes", False),
        ("", False),
    ],
)
def test_a_reply_is_a_yes_or_merges_nothing(text: str, is_same: bool) -> None:
    assert says_same(Completion(text, "stop")) == is_same


def test_a_failed_reply_merges_nothing() -> None:
    assert not says_same(failed(BadRequest("no"))._replace(text="yes"))


def chosen(answers: Sequence[str | None], scores: Sequence[float], seed: int = 0) -> str | None:
    pool = Pool(tuple(Candidate(a or "", scores={"same": s}) for a, s in zip(answers, scores, strict=True)))
    selection = merged().choose(Key(seed), pool, tuple(answers))
    assert selection.position is None or answers[selection.position] == selection.answer
    assert math.isclose(sum(selection.weights), 1.0) or selection.answer is None
    return selection.answer


def test_the_vote_is_over_groups_and_the_wording_the_most_frequent() -> None:
    nan = math.nan
    answers = ("Paris", "in Paris", "in Paris", "Lyon", "Lyon", None)
    assert chosen(answers, (0, 0, 0, 1, 1, nan)) == "in Paris"
    assert chosen(answers, (nan,) * 6) in ("in Paris", "Lyon"), "without scores it is a plain vote"
    assert chosen((None, None), (nan, nan)) is None
    assert {chosen(("a", "b", "c"), (0, 0, 1), i) for i in range(12)} == {"a", "b"}, "not by position"


def test_what_has_nothing_to_vote_on_is_said() -> None:
    pool = Pool((Candidate("", scores={"same": 0.0}), Candidate("", scores={"same": 1.0})))
    assert merged().note_on(pool, ("a", "b")).startswith("2 draws, 2 different answers: nothing to vote on")
    pool = Pool((Candidate("", scores={"same": 0.0}), Candidate("", scores={"same": 0.0})))
    assert merged().note_on(pool, ("a", "b")) == ""


@pytest.mark.parametrize(
    ("selector", "verifier"),
    [(merged(), "same"), (merged("wise"), "same(wise)"), (merged("gpt 5", size=4), "same('gpt 5', size=4)")],
)
def test_the_selector_names_its_verifier(selector: object, verifier: str) -> None:
    assert getattr(selector, "verifiers") == (verifier,)  # noqa: B009
    assert recipe(f"repeat(2) | {'merged' if verifier == 'same' else verifier.replace('same', 'merged')}").verifiers


class Agreeable(Toy):
    """A toy that says yes to every comparison."""

    def one(self, ask: Ask) -> Completion:
        completion = super().one(ask)
        return completion._replace(text="yes") if shown(ask) else completion


def test_a_run_merges_and_pays_for_it() -> None:
    made, key = recipe("repeat(6, max_tokens=4) | merged"), Key(0)
    result = asyncio.run(run_question(QUESTION, made, RunContext(Agreeable()), key, read=lambda _, text: text or None))
    num = len({answer for answer in result.answers if answer is not None})
    assert num > 2
    assert result.spent.requests == 6 + num - 1
    assert result.selection.info["groups"] == 1
