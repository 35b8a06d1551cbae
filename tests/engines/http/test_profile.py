"""What is known of an endpoint, as JSON and back; what refusals add to it; and when it repeats itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.engines.http import refusals
from samplewise.engines.http.profile import Profile
from samplewise.engines.http.repeats import Repeats
from samplewise.errors import Unsupported
from samplewise.types import Generate, Message, Sampling

MESSAGES = (Message("user", "hi"),)
ASK = Generate(MESSAGES)
NOTHING = Profile()
SENT = {"model": "m", "messages": [], "max_tokens": 9, "temperature": 1, "top_k": -1, "seed": 3, "n": 4, "stop": ["x"]}
known = st.none() | st.booleans()


@given(known, known, known, st.none() | st.integers(0, 20), st.sampled_from([None, "max_tokens"]), st.lists(st.text()))
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
    profile = Profile().noting("a").noting("b").noting("a").refusing("top_k").refusing("top_k")
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
        return refusals.learned(field, ASK, SENT, profile, "no")

    assert learn("max_tokens").profile.max_tokens_field == "max_completion_tokens"
    assert learn("max_tokens").again
    assert not learn("max_tokens", Profile(max_tokens_field="max_tokens")).again, "the value is wrong, not the name"
    assert learn("temperature").profile.temperature is False
    assert learn("top_k").profile.refused == ("top_k",)
    assert learn("seed").profile.seed is False
    assert learn("logprobs").profile.logprobs is False
    assert learn("stop").profile.refused == ("stop",)
    assert not learn("user").again


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
        refusals.learned(field, ask, sent, Profile(), "no")


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
    assert refusals.room_left(message) == room


def test_an_endpoint_that_repeats_itself_is_found_out() -> None:
    nan = float("nan")
    repeats = Repeats()
    for text in ("a", "b", "a", "b"):
        repeats.add(MESSAGES, 1.0, text, 30, nan)
    assert not repeats.frozen, "half of them agree, not most"
    repeats.add(MESSAGES, 1.0, "a", 30, nan)
    assert repeats.frozen
    assert "3 of 5 draws" in repeats.note


@pytest.mark.parametrize(
    ("temperature", "num_tokens", "logp_sum"), [(0.0, 30, -50.0), (1.0, 5, -50.0), (1.0, 30, -0.1)]
)
def test_texts_that_agree_by_chance_do_not_count(temperature: float, num_tokens: int, logp_sum: float) -> None:
    repeats = Repeats()
    for _ in range(20):
        repeats.add(MESSAGES, temperature, "a", num_tokens, logp_sum)
    assert not repeats.frozen
    assert repeats.note == ""
