"""The question in other words, by a helper that is a plain function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from samplewise.core.keys import Key
from samplewise.core.types import Generate, Message, Question
from samplewise.vary.helpers import reply_limit
from samplewise.vary.pools.requests import PIVOTS, REPHRASINGS
from samplewise.vary.rephrase import backtranslate, rephrase

BODY = "Tom buys 3 apples for 12 coins. What does one apple cost?"
RULES = "\n\nPut your final answer within \\boxed{}."
QUESTION = Question("q", (Message("user", BODY + RULES),))
PLAY = Callable[..., Any]
WORDINGS = [
    "For 12 coins Tom gets 3 apples; how much is a single apple?",
    "Find the price of an apple, given that Tom paid 12 coins and received 3 of them.",
    "Three apples? Indeed: 3 were bought by Tom at 12 coins altogether. State each one's price.",
]


def script(*replies: str | None) -> Callable[[Generate], str | None]:
    """A helper that gives these replies in turn."""
    left: Iterator[str | None] = iter(replies)
    return lambda ask: next(left)


def request(ask: Generate) -> str:
    return ask.messages[0].content


def test_a_rewording_replaces_the_question_and_keeps_its_rules(play: PLAY) -> None:
    played = play(rephrase(2), QUESTION, script(WORDINGS[0], f"Rephrased question: {WORDINGS[1]}"))
    assert played.texts == [WORDINGS[0] + RULES, WORDINGS[1] + RULES]
    assert [v.arm for v in played.variants] == ["rephrase.single/1", "rephrase.single/2"]
    assert all(request(ask).endswith(f"Problem:\n{BODY}") for ask in played.asks)
    assert len({request(ask) for ask in play(rephrase(6), QUESTION, lambda ask: "").rounds[0]}) == len(REPHRASINGS)


def test_a_rewording_that_loses_something_is_refused(play: PLAY) -> None:
    lossy = "Tom buys apples for 12 coins. How much is each?"
    played = play(rephrase(3), QUESTION, script(lossy, lossy, WORDINGS[0], WORDINGS[1], lossy))
    assert played.texts == [WORDINGS[1] + RULES, BODY + RULES, WORDINGS[0] + RULES]
    assert played.counts == {"fallbacks": 1, "leaks": 0, "losses": 3, "repeats": 0}


def test_the_question_itself_is_no_rewording(play: PLAY) -> None:
    played = play(rephrase(2), QUESTION, script(BODY, WORDINGS[0], BODY.upper()))
    assert [v.arm for v in played.variants] == ["rephrase.single/2"]
    assert played.counts["repeats"] == 2
    played = play(rephrase(2), QUESTION, lambda ask: BODY)  # nothing else ever: the question stays
    assert [(v.arm, v.messages) for v in played.variants] == [("rephrase.single/1", QUESTION.messages)]
    assert played.counts == {"fallbacks": 1, "leaks": 0, "losses": 0, "repeats": 4}


def test_a_rewording_that_solves_is_refused(play: PLAY) -> None:
    solved = f"{WORDINGS[0]} The answer is 4."
    played = play(rephrase(1), QUESTION, script(solved, WORDINGS[1]))
    assert played.counts["leaks"] == 1
    assert played.texts == [WORDINGS[1] + RULES]


def test_there_and_back(play: PLAY) -> None:
    def think(ask: Generate) -> str | None:
        text = request(ask)
        language = next(name for name in PIVOTS if f" {name}" in text)
        if text.startswith("Translate the problem below"):
            return None if language == PIVOTS[0] else f"[{language}] 3 12"
        assert text.endswith(f"Text:\n[{language}] 3 12")
        return WORDINGS[PIVOTS.index(language) % 3]

    played = play(backtranslate(3), QUESTION, think, Key(1))
    assert len(played.rounds[0]) == 3
    assert len({text.split("into ")[1].split(".")[0] for text in map(request, played.rounds[0])}) == 3
    for seed in range(10):
        played = play(backtranslate(6), QUESTION, think, Key(seed))
        assert [len(asks) for asks in played.rounds][:2] == [6, 5]  # what did not come cannot go back
        assert played.counts["fallbacks"] == 1
        kept = [text for text in played.texts if text != BODY + RULES]
        assert sorted(kept) == sorted(text + RULES for text in WORDINGS)  # of two by the same words one stays
        assert played.counts["repeats"] == 4
    with pytest.raises(ValueError, match="at most 6"):
        backtranslate(7)


def test_requests_have_room_for_what_they_ask(play: PLAY) -> None:
    """A flat limit that suits long questions made the worst case of short ones so dear that budgets refused them."""
    assert reply_limit("x" * 400) == 264
    for arm in (rephrase(1), backtranslate(1)):
        assert {ask.max_tokens for ask in play(arm, QUESTION, lambda ask: "x").asks} == {reply_limit(BODY)}
    assert {ask.max_tokens for ask in play(rephrase(1, max_tokens=9), QUESTION, lambda ask: "x").asks} == {9}
