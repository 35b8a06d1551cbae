"""Universal self-consistency before scripted engines: whole choices by enumeration, and what cannot be read."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

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
from samplewise.select.usc import SIZE, usc
from samplewise.verify import consistent as module
from samplewise.verify.consistent import consistent, listwise, named_response, split_groups

QUESTION = Question("q", (Message("user", "Why?"),))
Say = Callable[[list[str]], str]


def shown(ask: Ask) -> list[str]:
    """The responses of a prompt, in their order."""
    assert isinstance(ask, Generate)
    return re.findall(r"Response \d+:\n(.*)", ask.messages[0].content)


def majority(texts: list[str]) -> str:
    """An engine that sees perfectly which response agrees with most: the first such one."""
    counts = Counter(texts)
    best = max(range(len(texts)), key=lambda i: counts[texts[i]])
    return f"The most consistent response is Response {best + 1}."


def play(
    say: Say, answers: Sequence[str | None], key: Key, size: int = SIZE
) -> tuple[tuple[float, ...], list[list[str]]]:
    """The scores of a pool whose texts are its answers, and the list of every prompt."""
    candidates = tuple(Candidate(answer or "unreadable") for answer in answers)
    judge, replies, prompts = consistent(size=size), (), []
    while asks := judge.next_asks(key, QUESTION, candidates, tuple(answers), replies):
        prompts += [shown(ask) for ask in asks]
        replies = (*replies, tuple(Completion(say(shown(ask)), "stop", Usage(1, 9, 9)) for ask in asks))  # type: ignore[arg-type]
    return judge.rate(key, QUESTION, candidates, tuple(answers), replies), prompts


def chosen(scores: Sequence[float], answers: Sequence[str | None], key: Key, size: int = SIZE) -> str | None:
    selector = usc(size=size)
    name = selector.verifiers[0]
    pool = Pool(tuple(Candidate(a or "", scores={name: s}) for a, s in zip(answers, scores, strict=True)))
    return selector.choose(key, pool, tuple(answers)).answer


# --- the choice -------------------------------------------------------------------------------------------------------


def test_a_perfect_reader_gives_the_plurality_of_every_pool() -> None:
    """All pools of up to five draws over three answers and an unreadable one: the chosen answer is one of the most
    frequent, one prompt shows each readable response once, and nothing is asked where there is nothing to choose."""
    for num in range(1, 6):
        for answers in itertools.product("abc", repeat=num):
            pool: list[str | None] = [*answers, None]
            scores, prompts = play(majority, pool, Key(num))
            counts = Counter(answers)
            assert math.isnan(scores[-1])
            answer = chosen(scores, pool, Key(1))
            assert answer is not None
            assert counts[answer] == max(counts.values())
            assert len(prompts) == (len(counts) > 1)
            assert all(sorted(prompt) == sorted(answers) for prompt in prompts)


def test_an_engine_that_prefers_a_position_prefers_no_response() -> None:
    """Whoever always names the first names each of four equally often: 4,000 keys, chi-square with 3 degrees of
    freedom below 30.7, false alarm 1e-6."""
    answers, counts, num = ["a", "b", "c", "d"], Counter[str | None](), 4000
    for seed in range(num):
        scores, _ = play(lambda texts: "Response 1", answers, Key(seed))
        counts[chosen(scores, answers, Key(0))] += 1
    assert sum((counts[a] - num / 4) ** 2 / (num / 4) for a in answers) < 30.7


@given(st.integers(2, 60), st.integers(2, 16), st.integers(0, 3))
def test_a_long_list_is_split_in_rounds(num: int, size: int, seed: int) -> None:
    answers = [f"{i:02d}" for i in range(num)]
    scores, prompts = play(lambda texts: f"Response {texts.index(max(texts)) + 1}", answers, Key(seed), size)
    assert max(map(len, prompts)) <= size
    assert min(map(len, prompts)) >= 2
    rounds, left, expected = 0, num, 0
    while left > 1:
        groups = split_groups(range(left), size)
        assert max(map(len, groups)) - min(map(len, groups)) <= 1
        assert sorted(itertools.chain(*groups)) == list(range(left))
        expected += sum(len(group) > 1 for group in groups)
        rounds, left = rounds + 1, len(groups)
    assert len(prompts) == expected <= math.ceil(num / (size - 1)) + rounds
    assert scores.index(max(scores)) == num - 1, "the largest wins every group that it is in"
    assert max(scores) == rounds
    assert sorted(scores).count(rounds) == 1


def test_groups_are_drawn_by_the_key() -> None:
    answers = list("abcdefgh")
    first = [play(majority, answers, Key(seed), 4)[1] for seed in (0, 0, 1)]
    assert first[0] == first[1] != first[2]


# --- what cannot be read ----------------------------------------------------------------------------------------------

REPLIES = [
    ("The most consistent response is Response 2.", 1),
    ('"The most consistent response is Response 2", as most say so. Response 1 does not.', 1),
    ("the most consistent response is **Response 3**", 2),
    ("The most consistent answer is: 1", 0),
    ("Response #2", 1),
    ("Response 2 agrees with most. So Response 2.", 1),
    ("3", 2),
    (" (2) ", 1),
    ("Response 4", None),
    ("Response 0", None),
    ("Response 12", None),
    ("Responses agree", None),
    ("Response 1 or Response 2", None),
    ("The most consistent response is Response 1. The most consistent response is Response 2.", None),
    ("2 of them agree", None),
    ("The most consistent response is not Response 2", None),
    ("The most consistent response is Response 2 and Response 3", None),
    ("The most consistent response is **Response 1** or **2**", None),
    ("Response 1-3", None),
    ("Response 3 is not consistent, Response 2 is", 1),
    ("Response 2 agrees more than Response 1", 1),
    ("", None),
]


@pytest.mark.parametrize(("text", "index"), REPLIES, ids=[text[:40] for text, _ in REPLIES])
def test_a_reply_names_one_response_or_none(text: str, index: int | None) -> None:
    assert named_response(Completion(text, "stop", Usage()), 3) == index
    assert named_response(failed(BadRequest("no")), 3) is None


def test_without_a_name_a_vote_decides_and_a_note_says_so() -> None:
    answers: list[str | None] = ["a", "b", "b", "c", None]
    scores, prompts = play(lambda texts: "I cannot say", answers, Key(0))
    assert scores[:4] == (0.0,) * 4
    assert len(prompts) == 1
    assert {chosen(scores, answers, Key(seed)) for seed in range(20)} == {"b"}
    name = usc().verifiers[0]
    pool = Pool(tuple(Candidate(a or "", scores={name: s}) for a, s in zip(answers, scores, strict=True)))
    said = usc().note_on(pool, answers)
    assert said == "no response was named as the most consistent: one of 4 was chosen by a vote"
    differ = Pool(tuple(Candidate(a, scores={name: 0.0}) for a in "abc"))
    assert usc().note_on(differ, list("abc")).endswith("one of 3 was chosen by chance")
    assert {chosen([0.0] * 3, list("abc"), Key(seed)) for seed in range(40)} == set("abc")
    named = Pool(tuple(Candidate(a, scores={name: float(a == "c")}) for a in "abc"))
    assert usc().note_on(named, list("abc")) == ""
    assert usc().choose(Key(0), named, tuple("abc")).position == 2
    assert usc().choose(Key(0), Pool((Candidate("x"),)), (None,)).answer is None


def test_an_early_round_without_a_name_passes_on_the_largest_class() -> None:
    """Six draws in two groups of three: whatever the groups, b goes on from each where it is twice, and a class of its
    group everywhere."""
    answers = ["b", "b", "b", "b", "a", "c"]
    for seed in range(30):
        rounds: list[list[str]] = []

        def say(texts: list[str], rounds: list[list[str]] = rounds) -> str:
            rounds.append(texts)
            return "nothing" if len(rounds) <= 2 else majority(texts)

        scores, _ = play(say, answers, Key(seed), size=3)
        first, second = ({a for a, n in Counter(g).items() if n == max(Counter(g).values())} for g in rounds[:2])
        passed = [answer for answer, score in zip(answers, scores, strict=True) if score >= 1]
        assert any({x, y} == set(passed) for x in first for y in second), f"{passed} of {rounds[:2]}"
        assert len(passed) == 2


# --- in a run ---------------------------------------------------------------------------------------------------------


class Scripted(Toy):
    """The toy, which answers a prompt of ours as `majority` does. `asked` keeps those prompts."""

    def __init__(self, say: Say = majority) -> None:
        super().__init__()
        self._say, self.asked = say, list[Generate]()

    def one(self, ask: Ask) -> Completion:
        if isinstance(ask, Generate) and "most consistent" in ask.messages[0].content:
            self.asked.append(ask)
            return Completion(self._say(shown(ask)), "stop", Usage(1, 70, 8))
        return super().one(ask)


def test_a_run_bills_it_as_a_verifiers_tokens() -> None:
    engine = Scripted()
    result = asyncio.run(
        run_question(
            QUESTION, recipe("repeat(6, max_tokens=2) | usc"), RunContext(engine), Key(3), read=lambda q, text: text
        )
    )
    assert len(engine.asked) == 1
    assert engine.asked[0].max_tokens == module.MAX_TOKENS
    assert "Why?" in engine.asked[0].messages[0].content
    counts = Counter(result.answers)
    assert counts[result.answer] == max(counts.values())
    assert result.bill.judges["consistent"] == Usage(1, 70, 8)
    assert result.spent.requests == 7


def test_arguments_go_to_the_verifier_and_are_checked() -> None:
    assert usc().verifiers == ("consistent",)
    assert usc("strong", size=4).verifiers == ("consistent(strong, size=4)",)
    assert recipe("repeat(4) | usc(strong)").engines == {"strong"}
    assert module.SIZE == SIZE
    with pytest.raises(ValueError, match="size must be a whole number of at least 2"):
        consistent(size=1)


def test_a_listwise_choice_is_of_the_best() -> None:
    """The rounds of universal self-consistency with another question, and another word in the reply."""
    candidates, answers = tuple(map(Candidate, "abc")), ("a", "b", "c")
    judge = listwise("wise")
    (ask,) = judge.next_asks(Key(0), QUESTION, candidates, answers, ())
    assert isinstance(ask, Generate)
    assert (ask.engine, judge.engines, sorted(shown(ask))) == ("wise", {"wise"}, ["a", "b", "c"])
    assert "Which response is the best one?" in ask.messages[0].content
    number = shown(ask).index("b") + 1
    reply = Completion(f"The best response is Response {number}, as response {number % 3 + 1} is not.", "stop")
    assert judge.rate(Key(0), QUESTION, candidates, answers, ((reply,),)) == (0.0, 1.0, 0.0)
    assert recipe("repeat(4) | best(listwise(wise, size=4))").engines == {"wise"}
