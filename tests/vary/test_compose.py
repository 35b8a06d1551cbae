"""Arms that ask, arms one after another, and how draws are shared."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import UsageError
from samplewise.core.keys import Key
from samplewise.core.types import Completion, Generate, Message, Question
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.recipe import recipe
from samplewise.samplers.base import Variant, direct
from samplewise.vary.base import Arm, ArmResult, HelperTexts, Vary, as_arm, vary
from samplewise.vary.compose import compose
from samplewise.vary.share import iid, spread

QUESTION = Question("q", (Message("user", "hi"),))
KEY = Key(5)


def suffix(word: str, num: int = 1) -> Arm:
    """`num` variants with a word behind the question."""

    def plain(question: Question) -> tuple[Variant, ...]:
        text = question.messages[0].content
        return tuple(Variant(f"{word}{i}", (Message("user", f"{text} {word}{i}"),)) for i in range(num))

    return as_arm(plain)


def helper(name: str, rounds: int, num: int = 2) -> Arm:
    """Asks `num` things in each of some rounds, and says back all that it heard."""

    def next_asks(key: Key, question: Question, heard: HelperTexts) -> tuple[Generate, ...]:
        if len(heard) == rounds:
            return ()
        return tuple(Generate(question.messages, seed=key.fold(len(heard), i).seed()) for i in range(num))

    def make(key: Key, question: Question, heard: HelperTexts) -> ArmResult:
        said = "/".join(str(text) for texts in heard for text in texts)
        return ArmResult(
            (Variant(name, (Message("user", f"{question.messages[0].content} [{said}]"),)),), fallbacks=len(heard)
        )

    return Arm(name, make, next_asks)


def play(mix: Vary, say=lambda ask: ask.messages[0].content.upper()) -> tuple[list[int], tuple[Variant, ...], object]:
    """Step a mix to its end with a scripted helper: asks by round, variants, the last info."""
    state, sizes, completions = mix.init(QUESTION), [], ()
    assert mix.variants(state)
    while True:
        state, step = mix.step(KEY, state, completions)
        assert mix.variants(state)[0] == direct(QUESTION)
        if not step.asks:
            return sizes, mix.variants(state), step.info
        sizes.append(len(step.asks))
        said = [say(ask) for ask in step.asks]
        completions = tuple(Completion(text or "", "error" if text is None else "stop") for text in said)


def test_helpers_talk_side_by_side_and_each_hears_its_own() -> None:
    sizes, found, info = play(vary(helper("a", 2), suffix("s"), helper("b", 3, num=1)))
    assert sizes == [3, 3, 1]
    assert [v.arm for v in found] == ["direct", "a", "s0", "b"]
    assert found[1].messages[0].content == "hi [HI/HI/HI/HI]"
    assert found[3].messages[0].content == "hi [HI/HI/HI]"
    assert info == {
        "vary": [
            {"arm": "a", "fallbacks": 2, "leaks": 0, "losses": 0, "repeats": 0},
            {"arm": "b", "fallbacks": 3, "leaks": 0, "losses": 0, "repeats": 0},
        ]
    }


def test_a_failed_request_is_none() -> None:
    _, found, _ = play(vary(helper("a", 1)), say=lambda ask: None)
    assert found[1].messages[0].content == "hi [None/None]"


def test_every_ask_of_a_talk_is_another() -> None:
    mix, seen = vary(helper("a", 2), helper("b", 2)), []
    play(mix, say=lambda ask: seen.append(ask) or "x")
    assert len(set(seen)) == len(seen) == 8


def test_the_second_arm_varies_what_the_first_made() -> None:
    sizes, found, _ = play(vary(compose(suffix("s", 2), helper("t", 1))))
    assert sizes == [4]
    assert [(v.arm, v.messages[0].content) for v in found[1:]] == [
        ("s0+t", "hi s0 [HI S0/HI S0]"),
        ("s1+t", "hi s1 [HI S1/HI S1]"),
    ]
    sizes, found, _ = play(vary(compose(helper("t", 2), compose(helper("u", 1), suffix("s")))))
    assert sizes == [2, 2, 2]
    assert found[1].messages[0].content == "hi [HI/HI/HI/HI] [HI [HI/HI/HI/HI]/HI [HI/HI/HI/HI]] s0"


@given(st.lists(st.sampled_from(["s", "t", "2"]), min_size=3, max_size=3))
def test_composition_is_associative(kinds: list[str]) -> None:
    a, b, c = ({"s": suffix("s"), "t": helper("t", 1), "2": suffix("z", 2)}[kind] for kind in kinds)
    left, right = (play(vary(arm)) for arm in (compose(compose(a, b), c), compose(a, compose(b, c))))
    assert left[:2] == right[:2]


def test_sampling_overrides_merge_or_clash() -> None:
    def at(**sampling: float) -> Arm:
        return as_arm(lambda question: (Variant("/".join(sampling), question.messages, sampling),))

    _, found, _ = play(vary(compose(at(temperature=0.5), at(top_p=0.9))))
    assert found[1].sampling == {"temperature": 0.5, "top_p": 0.9}
    with pytest.raises(UsageError, match="both set temperature"):
        play(vary(compose(at(temperature=0.5), at(temperature=0.6))))


def test_in_a_recipe() -> None:
    line = recipe("vary(ladder(0.5), share=quota(2, 6)) | repeat(8) | vote")
    assert line.line == "vary(ladder(0.5), share=quota(2, 6)) | repeat(8) | vote"
    state = line.vary.init(QUESTION)
    assert Counter(v.arm for v in line.vary.variants(state)) == {"direct": 2, "temperature/0.5": 6}
    clash = recipe("vary(ladder(0.5) + ladder(0.6)) | repeat(8)").vary
    with pytest.raises(UsageError, match="both set temperature"):
        clash.variants(clash.init(QUESTION))
    with pytest.raises(UsageError, match="how draws are allocated"):
        recipe("vary(ladder, turns=3) | repeat(8)")
    short = recipe("vary(ladder(0.5), share=quota(2, 6, 1)) | repeat(8) | vote").vary
    assert Counter(v.arm for v in short.variants(short.init(QUESTION))) == {"direct": 2, "temperature/0.5": 6}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(lambda draws: draws[0] > 0))
def test_a_quota_is_met_and_dealt_out_evenly(draws: list[int]) -> None:
    pattern, total = spread(tuple(draws)), sum(draws)
    assert pattern[0] == 0
    assert [pattern.count(place) for place in range(len(draws))] == draws
    for upto in range(1, total + 1):
        for place, num in enumerate(draws):
            assert abs(pattern[:upto].count(place) - num * upto / total) <= 1.5, "half a draw, and the one put first"


def test_iid_begins_with_the_question_and_favours_nobody() -> None:
    variants = tuple(Variant(str(i), QUESTION.messages) for i in range(4))
    pattern = iid()(KEY, variants)
    assert pattern[0].arm == "0"
    counts = Counter(v.arm for v in pattern)
    assert set(counts) == set("0123")
    assert all(abs(n - 1024) < 5.5 * 28 for n in counts.values()), "within 5.5 standard deviations: odds of 1e-7"
    assert iid()(KEY, variants) == pattern != iid()(Key(6), variants)


def test_a_run_pays_for_thoughts_as_for_draws() -> None:
    import asyncio

    plain = recipe("repeat(6, max_tokens=3) | vote")
    line = type(plain)(plain.line, vary(helper("t", 2)), plain.sampler, None, plain.selector, {})
    result = asyncio.run(
        run_question(QUESTION, line, RunContext(Toy(3)), KEY, read=lambda question, text: text or None)
    )
    assert result.spent.requests == 4 + 6
    assert Counter(c.arm for c in result.pool.candidates) == {"direct": 3, "t": 3}
    assert result.trace[0]["vary"][0]["arm"] == "t"


def test_a_thought_that_does_not_fit_leaves_the_direct_draws() -> None:
    import asyncio

    from samplewise.loop.ledger import Budget

    greedy = Arm(
        "greedy", helper("t", 1).make, lambda key, question, heard: (Generate(question.messages, max_tokens=999),)
    )
    plain = recipe("repeat(6, max_tokens=3) | vote")
    line = type(plain)(plain.line, vary(greedy), plain.sampler, None, plain.selector, {})
    read = lambda question, text: text or None  # noqa: E731
    result = asyncio.run(run_question(QUESTION, line, RunContext(Toy(3), budget=Budget(tokens=24)), KEY, read=read))
    assert len(result.pool.candidates) == 6
    assert result.spent.tokens <= 24
