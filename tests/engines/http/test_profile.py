"""Profiles as JSON and back, what refusals add to them, and endpoints that repeat themselves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import Unsupported
from samplewise.core.types import Generate, Message, Sampling
from samplewise.engines.http.dialect import refusals
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.probe.evidence import DrawnText, RepeatDetector

MESSAGES = (Message("user", "hi"),)
ASK = Generate(MESSAGES)
NOTHING = Profile()
SENT = {"model": "m", "messages": [], "max_tokens": 9, "temperature": 1, "top_k": -1, "seed": 3, "n": 4, "stop": ["x"]}
tristate = st.none() | st.booleans()


@given(
    tristate,
    tristate,
    tristate,
    st.none() | st.integers(0, 20),
    st.sampled_from([None, "max_tokens"]),
    st.lists(st.text()),
)
def test_a_profile_survives_json(n: Any, seed: Any, usage: Any, top: Any, field: Any, notes: list[str]) -> None:
    profile = Profile("completions", n, seed, top_logprobs=top, usage=usage, max_tokens_field=field, notes=tuple(notes))
    assert Profile.from_json(profile.to_json()) == profile
    assert Profile.from_json({**profile.to_json(), "a later field": 1}) == profile


@pytest.mark.parametrize(
    "bad", [[], {"n": 1}, {"api": "x"}, {"top_logprobs": -1}, {"notes": "x"}, {"notes": [1]}, {"max_tokens_field": "x"}]
)
def test_what_is_no_profile_is_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="profile"):
        Profile.from_json(bad)


def test_a_note_and_a_refused_field_are_kept_once() -> None:
    profile = Profile().with_note("a").with_note("b").with_note("a").with_refused("top_k").with_refused("top_k")
    assert profile.notes == ("a", "b")
    assert profile.refused == ("top_k",)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"error": {"message": "no", "param": "temperature"}}, "temperature"),
        ({"error": {"message": "Unrecognized request argument supplied: top_k"}}, "top_k"),
        ({"error": {"message": "'max_tokens' is not supported. Use 'max_completion_tokens' instead."}}, "max_tokens"),
        ({"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}, "seed"),
        ({"message": "'n' must be 1"}, "n"),
        ({"error": {"message": "n is not supported"}}, "n"),
        ({"error": {"message": "I cannot stop seeding n users"}}, None),
        ({"error": {"message": "the model is loading", "param": "model"}}, None),
        ({}, None),
    ],
)
def test_the_field_that_a_server_means_is_found(body: Any, field: str | None) -> None:
    assert refusals.refused_field(body, "", SENT) == field


def test_a_field_is_left_out_or_goes_by_its_other_name() -> None:
    def learn(field: str, profile: Profile = NOTHING) -> refusals.Refusal:
        return refusals.learn_refusal(field, ASK, SENT, profile, "no")

    assert learn("max_tokens").profile.max_tokens_field == "max_completion_tokens"
    assert learn("max_tokens").retry
    assert not learn("max_tokens", Profile(max_tokens_field="max_tokens")).retry, "the value is wrong, not the name"
    assert learn("temperature").profile.temperature is False
    assert learn("top_k").profile.refused == ("top_k",)
    assert learn("seed").profile.seed is False
    assert learn("logprobs").profile.logprobs is False
    assert learn("stop").profile.refused == ("stop",)
    assert not learn("user").retry


@pytest.mark.parametrize(
    ("field", "ask", "sent"),
    [
        ("temperature", ASK._replace(sampling=Sampling(0.5)), {"temperature": 0.5}),
        ("top_k", ASK._replace(sampling=Sampling(top_k=3)), {"top_k": 3}),
        ("logprobs", ASK._replace(want=("logp",)), {"logprobs": True}),
        ("return_token_ids", ASK._replace(want=("tokens",)), {"return_token_ids": True}),
    ],
)
def test_what_the_recipe_asks_for_is_never_dropped(field: str, ask: Generate, sent: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=field):
        refusals.learn_refusal(field, ask, sent, Profile(), "no")


@pytest.mark.parametrize(
    ("message", "room"),
    [
        (
            "This model's maximum context length is 256 tokens. However, you requested 320 tokens "
            "(20 in the messages, 300 in the completion). Please reduce the length.",
            236,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 300. This model's maximum context length is 256 "
            "tokens and your request has 20 input tokens (300 > 256 - 20).",
            236,
        ),
        ("This model's maximum context length is 256 tokens, you have 300 input tokens", 0),
        ("the prompt is too long", None),
    ],
)
def test_the_room_that_is_left_is_read(message: str, room: int | None) -> None:
    assert refusals.is_overflow({"error": {"message": message}}, "")
    assert refusals.tokens_left(message) == room


nan = float("nan")
A, B, C, D = ("the answer of seven words is " + letter for letter in "abcd")


def watched(*replies: str | tuple[str, ...], **fields: Any) -> RepeatDetector:
    """Return the detector after replies, each a text or several."""
    repeats = RepeatDetector()
    drawn = {"reasoning": "", "num_tokens": 30, "logp_sum": nan} | fields
    for texts in replies:
        repeats.add(
            MESSAGES, 1.0, [DrawnText(text, **drawn) for text in ([texts] if isinstance(texts, str) else texts)]
        )
    return repeats


def test_an_endpoint_that_repeats_itself_is_found_out() -> None:
    assert not watched(A, B, A, B).frozen, "two that agree may be a coincidence"
    repeats = watched(A, B, A, B, A)
    assert repeats.frozen
    assert "3 of 5 draws" in repeats.notes[0]
    assert not watched(A, A, A, B, C, D, *"efg").notes


def test_choices_of_one_request_that_are_alike_are_told_from_a_frozen_seed() -> None:
    alike = watched((A, A), (B, B), (C, C))
    assert (alike.alike, alike.frozen) == (True, False)
    assert 'n="never"' in alike.notes[0]
    assert not watched((A, A), (B, C), (D, A)).notes
    both = watched((A, A, A, A), (A, A, A, A))
    assert both.frozen


def test_the_same_list_for_every_request_is_found_out() -> None:
    repeats = watched((A, B, C), (A, B, C))
    assert (repeats.frozen, repeats.alike) == (True, False)
    assert 'the same list of draws: try n="never"' in repeats.notes[0]


def test_short_answers_that_agree_after_different_reasoning_are_no_repetition() -> None:
    """Eight draws of 391, each after 120 other tokens of reasoning; nor are equal texts after different reasoning."""
    repeats = RepeatDetector()
    for index in range(8):
        repeats.add(MESSAGES, 1.0, [DrawnText("391", f"so {index}", 123, nan)])
        repeats.add(MESSAGES, 1.0, [DrawnText("391", "", 120 + index, nan)])  # reasoning that is not shown
        repeats.add(MESSAGES, 1.0, [DrawnText(A, f"so {index}", 150, nan)])
        repeats.add(MESSAGES, 1.0, [DrawnText(B, "", 150 + index, nan)])
    assert not repeats.notes


@pytest.mark.parametrize(
    ("temperature", "text", "num_tokens", "logp_sum"),
    [(0.0, A, 30, -50.0), (1.0, A, 5, -50.0), (1.0, A, 30, -0.1), (1.0, "a", 30, nan)],
)
def test_texts_that_agree_by_chance_do_not_count(
    temperature: float, text: str, num_tokens: int, logp_sum: float
) -> None:
    repeats = RepeatDetector()
    for _ in range(20):
        repeats.add(MESSAGES, temperature, [DrawnText(text, "", num_tokens, logp_sum)] * 2)
    assert not repeats.notes
