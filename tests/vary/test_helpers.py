"""Arms that ask a helper, with a helper that is a plain function: every rule of reading, refusing, falling back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from samplewise.core.keys import Key
from samplewise.core.types import Capability, Generate, Message, Question
from samplewise.tasks.game24 import puzzle_question as ask_24
from samplewise.vary.base import Arm
from samplewise.vary.compose import compose
from samplewise.vary.concept import concept
from samplewise.vary.helpers import fill_template, helper_names
from samplewise.vary.idea import idea
from samplewise.vary.plan import plan_search
from samplewise.vary.pools.requests import IDEAS
from samplewise.vary.prompts import role
from samplewise.vary.puzzles import step
from samplewise.vary.rephrase import backtranslate, rephrase
from samplewise.vary.verbalized import verbalized

BODY = "Tom buys 3 apples for 12 coins. What does one apple cost?"
RULES = "\n\nPut your final answer within \\boxed{}."
QUESTION = Question("q", (Message("user", BODY + RULES),))
PLAY = Callable[..., Any]
ONES = [  # ideas that are nothing like each other
    "Work backwards from the goal.",
    "Draw a diagram first.",
    "Use proportional reasoning on quantities.",
    "Look for a parity argument.",
    "Try the smallest case by hand.",
    "Name every unknown with its unit.",
    "Search for an invariant.",
    "Compare two extreme scenarios.",
]


def script(*replies: str | None) -> Callable[[Generate], str | None]:
    """A helper that gives these replies in turn."""
    left: Iterator[str | None] = iter(replies)
    return lambda ask: next(left)


def told(text: str) -> str:
    return f"One possible approach, which may or may not be the right one: {text}\n\n{BODY}{RULES}"


def request(ask: Generate) -> str:
    (message,) = ask.messages
    assert message.role == "user"
    return message.content


# --- ideas ------------------------------------------------------------------------------------------------------------


def test_each_idea_is_a_variant_of_its_own_group(play: PLAY) -> None:
    played = play(idea(4), QUESTION, script(*ONES[:4]))
    assert played.texts == [told(text) for text in ONES[:4]]
    assert (
        [v.arm for v in played.variants]
        == [v.group for v in played.variants]
        == [f"idea.single/{i}" for i in range(1, 5)]
    )
    assert played.counts == {"fallbacks": 0, "leaks": 0, "losses": 0, "repeats": 0}
    assert [len(asks) for asks in played.rounds] == [4]


def test_requests_are_the_templates_in_turn_without_rules(play: PLAY) -> None:
    played = play(idea(8), QUESTION, script(*ONES))
    texts = [request(ask) for ask in played.asks]
    assert Counter(texts) == Counter(
        {fill_template(t, tutor="a tutor of mathematics", question=BODY): 2 for t in IDEAS}
    )
    assert all(ask.max_tokens == 120 and ask.sampling.temperature == 1.0 and ask.engine == "" for ask in played.asks)
    assert len({ask.seed for ask in played.asks}) == 8


def test_a_leak_has_one_more_chance(play: PLAY) -> None:
    played = play(idea(3), QUESTION, script(ONES[0], "The answer is 4.", r"\boxed{4}", ONES[1], "12 / 3 = 4, so 4"))
    assert played.texts == [told(ONES[0]), told(ONES[1]), BODY + RULES]
    assert played.counts == {"fallbacks": 1, "leaks": 3, "losses": 0, "repeats": 0}
    assert [v.arm for v in played.variants] == ["idea.single/1", "idea.single/2", "idea.single/3"]
    assert [v.group for v in played.variants] == ["idea.single/1", "idea.single/2", ""]  # the question has no idea
    assert [len(asks) for asks in played.rounds] == [3, 2]
    again = {request(ask) for ask in played.rounds[1]}
    assert again == {request(ask) for ask in played.rounds[0][1:]}  # the same, with other seeds
    assert len({ask.seed for ask in played.asks}) == 5


def test_a_repeat_is_shown_what_there_is(play: PLAY) -> None:
    replies = [ONES[0], ONES[0].upper(), ONES[1], ONES[1] + "!", ONES[2], ONES[0]]
    played = play(idea(4), QUESTION, script(*replies))
    assert [v.arm for v in played.variants] == ["idea.single/1", "idea.single/2", "idea.single/3"]  # one fewer
    assert played.texts == [told(ONES[0]), told(ONES[2]), told(ONES[1])]
    assert played.counts == {"fallbacks": 0, "leaks": 0, "losses": 0, "repeats": 3}
    for ask in played.rounds[1]:
        assert f"yours must be a different one:\n- {ONES[0]}\n- {ONES[1]}\n\nProblem:\n{BODY}" in request(ask)


def test_until_the_second_chance_a_refused_text_is_the_question() -> None:
    heard = ((ONES[0], ONES[0], "The answer is 4.", None),)
    made = idea(4).make(Key(0), QUESTION, heard)
    assert [v.arm for v in made.variants] == [f"idea.single/{i}" for i in range(1, 5)]
    assert [v.messages == QUESTION.messages for v in made.variants] == [False, True, True, True]
    assert made[1:] == (3, 1, 0, 1)
    made = verbalized(3).make(Key(0), QUESTION, ((json.dumps([ONES[0], ONES[0]]),),))
    assert (len(made.variants), *made[1:]) == (3, 2, 0, 0, 1)


def test_failures_and_silence(play: PLAY) -> None:
    played = play(idea(3), QUESTION, script(None, "", ONES[0], "<think>no end"))
    assert played.texts == [BODY + RULES, BODY + RULES, told(ONES[0])]
    assert played.counts["fallbacks"] == 2
    assert [len(asks) for asks in played.rounds] == [3, 1]  # a failed request was tried again by the loop
    played = play(idea(3), QUESTION, lambda ask: None)
    assert played.texts == [BODY + RULES] * 3
    assert played.counts["fallbacks"] == 3


def test_messy_replies_are_read(play: PLAY) -> None:
    replies = [
        f"Sure, here is one:\n\n{ONES[0]}",
        f'```json\n{{"idea": "{ONES[1]}"}}\n```',
        f"<think>4</think>Idea: {ONES[2]}",
    ]
    assert play(idea(3), QUESTION, script(*replies)).texts == [told(text) for text in ONES[:3]]


def test_braces_are_nobodys_places(play: PLAY) -> None:
    question = Question("q", (Message("user", "What is {text} in {tutor}?"),))
    played = play(idea(1), question, script("Look at {question}."))
    assert played.texts[0].endswith("Look at {question}.\n\nWhat is {text} in {tutor}?")
    assert "Problem:\nWhat is {text} in {tutor}?" in request(played.asks[0])


def test_who_thinks(play: PLAY) -> None:
    think = script(*ONES * 4)
    assert {ask.engine for ask in play(idea(2, helper="strong"), QUESTION, think).asks} == {"strong"}
    assert play(idea(1, helper="strong"), QUESTION, think).variants[0].arm == "idea.dual/1"
    diverse = idea(8, helper=("", "strong", "odd"))
    assert play(diverse, QUESTION, script(*ONES)).variants[0].arm == "idea.diverse/1"
    counts: Counter[str] = Counter()
    mixed = 0
    for seed in range(100):
        asks = diverse.next_asks(Key(seed), QUESTION, ())
        counts.update(ask.engine for ask in asks)
        mixed += len({ask.engine for ask in asks}) > 1
    # 800 uniform draws of three: four standard errors are 54, odds of a false alarm 2e-4
    assert mixed > 95  # drawn for each idea: all eight of a question are alike once in 2,187
    assert set(counts) == {"", "strong", "odd"}
    assert all(abs(count - 800 / 3) < 54 for count in counts.values())


@pytest.mark.parametrize("make", [idea, rephrase, backtranslate, verbalized, concept, plan_search, step])
def test_an_arm_says_whom_it_asks(make: Callable[..., Arm], play: PLAY) -> None:
    """A run checks it against the engines that there are, before anything is paid."""
    assert make().engines == make(helper="").engines == frozenset()
    assert make(helper="strong").engines == {"strong"}
    assert make(helper=("", "strong", "odd")).engines == {"strong", "odd"}
    assert make().needs == {Capability.GENERATE}
    played = play(make(2, helper="strong"), ask_24((4, 6, 7, 8)), lambda ask: "1. Red.\n2. Blue.")
    assert {ask.engine for ask in played.asks} == {"strong"}


def test_a_second_chance_goes_to_the_same_helper(play: PLAY) -> None:
    played = play(idea(8, helper=("one", "two")), QUESTION, script(*[r"\boxed{4}"] * 8, *ONES))
    assert [ask.engine for ask in played.rounds[0]] == [ask.engine for ask in played.rounds[1]]


@pytest.mark.parametrize("helper", [(), ("a", "a"), (1,), 3])
def test_no_helper(helper: Any) -> None:
    for make in (idea, rephrase, backtranslate, verbalized, concept, plan_search):
        with pytest.raises((ValueError, TypeError)):
            make(helper=helper)
    assert helper_names("") == ("",)


# --- many at once -----------------------------------------------------------------------------------------------------


def listed(*texts: str, p: float = 0.1) -> str:
    return json.dumps([{"text": text, "probability": p} for text in texts])


def test_ideas_out_of_one_request(play: PLAY) -> None:
    played = play(verbalized(3), QUESTION, script(f"Here you go:\n```json\n{listed(*ONES[:4])}\n```"))
    assert played.texts == [told(text) for text in ONES[:3]]
    assert (
        [v.arm for v in played.variants]
        == [v.group for v in played.variants]
        == [f"verbalized.single/{i}" for i in (1, 2, 3)]
    )
    (ask,) = played.asks
    assert "Give 3 approaches" in request(ask)
    assert ask.max_tokens == 360


def test_missing_ideas_are_asked_for_once(play: PLAY) -> None:
    replies = [listed(ONES[0], ONES[0] + "!", r"\boxed{4}"), listed(ONES[1], ONES[0], "The answer is 4.")]
    played = play(verbalized(4), QUESTION, script(*replies))
    assert played.texts == [told(ONES[0]), told(ONES[1]), BODY + RULES]  # a fallback for the leak, none for the repeat
    assert played.counts == {"fallbacks": 1, "leaks": 2, "losses": 0, "repeats": 2}
    assert "Give 3 approaches" in request(played.asks[1])
    assert f"different one:\n- {ONES[0]}\n\nProblem:" in request(played.asks[1])


def test_lines_count_where_json_never_comes(play: PLAY) -> None:
    plain = f"1. {ONES[0]} (probability: 0.3)\n2. {ONES[1]}"
    played = play(verbalized(2), QUESTION, script(plain, plain))
    assert played.texts == [told(ONES[0]), told(ONES[1])]
    assert len(played.rounds) == 2
    assert play(verbalized(2), QUESTION, script(plain, "Sorry.")).texts == [told(ONES[0]), told(ONES[1])]
    played = play(verbalized(2), QUESTION, script("Sorry.", "I cannot."))
    assert played.texts == [BODY + RULES] * 2
    assert played.counts["fallbacks"] == 2


def test_the_tail_alone(play: PLAY) -> None:
    reply = json.dumps(
        [{"text": ONES[0], "probability": 0.1}, {"text": ONES[1], "probability": 0.05}, {"text": ONES[2]}]
    )
    played = play(verbalized(2, tail=0.1), QUESTION, script(reply))
    assert played.texts == [told(ONES[1]), told(ONES[2])]
    assert played.variants[0].arm == "verbalized.tail.single/1"
    assert "probability below 0.1" in request(played.asks[0])
    likely = json.dumps([{"text": text, "probability": 0.5} for text in ONES[:2]], indent=1)
    played = play(verbalized(2, tail=0.1), QUESTION, script(likely, "Sorry."))  # its JSON is not read as plain lines
    assert (played.texts, played.counts["fallbacks"]) == ([BODY + RULES] * 2, 2)
    for tail in (0, 1, -0.1, 2.0):
        with pytest.raises(ValueError, match="tail"):
            verbalized(tail=tail)


def test_a_helper_that_fails_is_not_asked_again(play: PLAY) -> None:
    for make in (verbalized, concept, plan_search):
        played = play(make(3), QUESTION, lambda ask: None)
        assert len(played.asks) == 1
        assert played.texts == [BODY + RULES] * 3
        assert played.counts["fallbacks"] == 3


# --- one after another ------------------------------------------------------------------------------------------------


def test_concepts_until_there_is_none(play: PLAY) -> None:
    played = play(concept(5), QUESTION, script(ONES[0], ONES[1], "None."))
    assert (
        [v.arm for v in played.variants]
        == [v.group for v in played.variants]
        == ["concept.single/1", "concept.single/2"]
    )
    assert played.texts[1] == f"Use this concept for your solution, and no other: {ONES[1]}\n\n{BODY}{RULES}"
    assert [len(asks) for asks in played.rounds] == [1, 1, 1]
    assert f"Already named:\n- {ONES[0]}\n- {ONES[1]}\n" in request(played.asks[2])
    assert played.counts == {"fallbacks": 0, "leaks": 0, "losses": 0, "repeats": 0}


def test_concepts_end_with_a_repeat_or_enough(play: PLAY) -> None:
    played = play(concept(5), QUESTION, script(ONES[0], ONES[1], ONES[0].lower()))
    assert len(played.variants) == 2
    assert played.counts["repeats"] == 1
    played = play(concept(2), QUESTION, script(ONES[0], ONES[1]))
    assert len(played.variants) == len(played.asks) == 2


def test_a_concept_that_leaks_has_one_more_chance(play: PLAY) -> None:
    played = play(concept(2), QUESTION, script("Division: 12 / 3 = 4", ONES[0], ONES[1]))
    assert played.counts == {"fallbacks": 0, "leaks": 1, "losses": 0, "repeats": 0}
    assert len(played.variants) == 2
    played = play(concept(3), QUESTION, script(ONES[0], r"\boxed{4}", r"\boxed{4}"))
    assert played.counts == {"fallbacks": 2, "leaks": 2, "losses": 0, "repeats": 0}
    assert played.texts[1:] == [BODY + RULES] * 2
    assert len({ask.seed for ask in played.asks}) == 3
    played = play(concept(2), QUESTION, script(r"\boxed{4}", ONES[0], r"\boxed{4}", ONES[1]))  # a chance for each
    assert played.counts == {"fallbacks": 0, "leaks": 2, "losses": 0, "repeats": 0}
    played = play(concept(3), QUESTION, script("none"))
    assert (played.texts, played.counts["fallbacks"]) == ([BODY + RULES], 1)


# --- plans ------------------------------------------------------------------------------------------------------------


def test_plans_are_made_of_one_or_two_observations(play: PLAY) -> None:
    seen = [f"Observation {word} is about {word} things." for word in ("red", "green", "blue")]
    numbered = "\n".join(f"{i}. {text}" for i, text in enumerate(seen, start=1))
    played = play(plan_search(8, observations=3), QUESTION, script(numbered, *ONES[:6]))
    assert [len(asks) for asks in played.rounds] == [1, 6]  # 3 observations have 3 + 3 subsets
    shown = [request(ask).split("Observed:\n")[1].split("\n\nThe plan:")[0] for ask in played.rounds[1]]
    subsets = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
    assert sorted(shown) == sorted("\n".join(f"- {seen[i]}" for i in subset) for subset in subsets)
    assert played.texts[0] == f"A plan that was proposed for what follows: {ONES[0]}\n\n{BODY}{RULES}"
    assert (
        [v.arm for v in played.variants]
        == [v.group for v in played.variants]
        == [f"plan.single/{i}" for i in range(1, 7)]
    )
    assert "Make 3 different observations" in request(played.asks[0])


def test_the_key_draws_the_subsets(play: PLAY) -> None:
    numbered = "1. It is red.\n2. It is blue.\n3. It is green."
    shown = set()
    for seed in range(60):
        played = play(plan_search(1, observations=3), QUESTION, script(numbered, ONES[0]), Key(seed))
        shown.add(request(played.asks[1]).split("Observed:")[1])
    assert len(shown) == 6  # one of them is missed by chance with odds below 2e-4


def test_a_repeated_plan_is_made_again_from_its_own_observations(play: PLAY) -> None:
    numbered = "1. It is red.\n2. It is blue."
    played = play(plan_search(2, observations=2), QUESTION, script(numbered, ONES[0], ONES[0], ONES[1]))
    again = request(played.rounds[2][0])
    assert f"yours must be a different one:\n- {ONES[0]}\n" in again
    assert again.split("Observed:")[1] == request(played.rounds[1][1]).split("Observed:")[1]
    assert len(played.variants) == 2


def test_observations_have_one_more_chance(play: PLAY) -> None:
    played = play(plan_search(1), QUESTION, script("Sorry.", "- It is red.\n- The answer is 4.", ONES[0]))
    assert [len(asks) for asks in played.rounds] == [1, 1, 1]
    assert "It is red" in request(played.asks[2])
    played = play(plan_search(3), QUESTION, script("Sorry.", "Sorry."))
    assert played.texts == [BODY + RULES] * 3
    assert played.counts["fallbacks"] == 3


# --- together ---------------------------------------------------------------------------------------------------------


def test_an_idea_and_a_role_above_it(play: PLAY) -> None:
    played = play(compose(idea(2), role(1)), QUESTION, script(*ONES[:2]))
    assert len(played.asks) == 2
    for variant, text, number in zip(played.variants, ONES, (1, 2), strict=False):
        assert variant.arm.startswith(f"idea.single/{number}+role/maths/")
        assert variant.messages[0].content.endswith(f"\n\n{told(text)}")
        assert variant.group == f"idea.single/{number}"


@pytest.mark.parametrize("make", [idea, rephrase, backtranslate, verbalized, concept, plan_search])
def test_counts_are_refused_where_they_are_none(make: Callable[..., Arm]) -> None:
    for num in (0, -1, 1.5, True, "4"):
        with pytest.raises(ValueError, match="num"):
            make(num)
    with pytest.raises(ValueError, match="max_tokens"):
        make(max_tokens=0)
