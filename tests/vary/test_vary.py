from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise import solve
from samplewise.core.errors import UsageError
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Completion, Message, Question, Sampling
from samplewise.engines.toy import Toy
from samplewise.samplers.base import Step, Variant, direct
from samplewise.vary import Arm, ladder, vary

QUESTION = Question("q", (Message("user", "spell a word"),))


def variants(*arms: Arm) -> tuple[Variant, ...]:
    mix = vary(*arms)
    state = mix.init(QUESTION)
    after, step = mix.step(Key(0), state, ())
    assert step == Step()  # rewriting costs nothing
    assert mix.variants(after) == mix.variants(state)
    return mix.variants(state)


def test_without_arms_it_is_the_question() -> None:
    assert variants() == (direct(QUESTION),) == (Variant("direct", QUESTION.messages),)


def test_the_identity_comes_first_and_arms_follow_in_turn() -> None:
    def shout(question: Question) -> tuple[Variant, ...]:
        return (Variant("shout", (Message("user", question.messages[0].content.upper()),)),)

    found = variants(shout, ladder(0.5, 2))
    assert [v.arm for v in found] == ["direct", "shout", "temperature/0.5", "temperature/2"]
    assert found[0].messages == QUESTION.messages
    assert found[1].messages[0].content == "SPELL A WORD"


def test_the_ladder_changes_the_temperature_alone() -> None:
    rungs = variants(ladder())[1:]
    assert [v.sampling for v in rungs] == [{"temperature": t} for t in (0.4, 0.6, 0.8, 1.2)]
    assert all(v.messages == QUESTION.messages for v in rungs)
    assert rungs[0].sampled(Sampling(1.0, 7, 0.9, 0.1)) == Sampling(0.4, 7, 0.9, 0.1)


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=5, unique_by=lambda t: f"{t:g}"))
def test_arm_ids_are_all_different(temperatures: list[float]) -> None:
    ids = [v.arm for v in variants(ladder(*temperatures))]
    assert len(set(ids)) == len(ids) == 1 + len(temperatures)


@pytest.mark.parametrize("arms", [(ladder(), ladder(0.4)), (ladder(0.5, 0.5),), (ladder(1), ladder(1.0000001))])
def test_twin_arms_are_refused(arms: tuple[Arm, ...]) -> None:
    """Draws are seeded by arm and index: twins would make the same draws and pay for them twice. A recipe can say it,
    so it is a usage error: it was a ValueError, which reached the command line as a traceback."""
    with pytest.raises(UsageError, match="is in the mix twice"):
        variants(*arms)


@pytest.mark.parametrize(
    "line",
    [
        "vary(idea(2), ladder(0.5, 0.5)) | repeat(2)",
        "vary(idea(2) + ladder(0.5) + ladder(0.7)) | repeat(2)",
        "vary(idea(2) + ladder(0.5)) | power(4, 2, cuts='entropy')",
    ],
)
def test_arms_that_do_not_go_together_are_refused_before_helpers_are_paid(line: str) -> None:
    class Unasked(Toy):
        def one(self, ask: Ask) -> Completion:
            raise AssertionError("asked")

    with pytest.raises(UsageError, match=r"in the mix twice|both set temperature|entropy cuts need"):
        solve("spell a word", engine=Unasked(), recipe=line)


@pytest.mark.parametrize("temperature", [0, 0.0, -1, float("inf"), float("nan")])
def test_rungs_out_of_range_are_misuse(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        ladder(temperature)
