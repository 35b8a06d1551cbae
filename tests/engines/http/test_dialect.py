"""Request bodies and replies, exactly; and arbitrary replies, which must never raise anything but ValueError."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.script import completion

from samplewise.core.types import Generate, Likelihood, Message, Sampling
from samplewise.engines.http.dialect import replies, requests
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.dialect.requests import DrawOptions
from samplewise.engines.http.transport.client import error_text
from samplewise.engines.http.transport.stream import StreamAssembler

HELLO = (Message("system", "be brief"), Message("user", "hello"))
ASK = Generate(HELLO, max_tokens=9, seed=5)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def test_a_body_states_the_whole_distribution_neutral_values_too() -> None:
    assert requests.draw_request(ASK, "m", Profile()) == (
        "chat/completions",
        {
            "model": "m",
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
            "max_tokens": 9,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1,
            "seed": 5,
        },
        b"",
    )


def test_a_body_keeps_to_the_profile() -> None:
    profile = Profile(
        max_tokens_field="max_completion_tokens",
        temperature=False,
        seed=False,
        refused=("top_p", "top_k", "min_p", "repetition_penalty", "stop"),
    )
    request = requests.draw_request(
        ASK._replace(stop=("x",)), "m", profile, DrawOptions(3, logprobs=True, extra={"user": "me"})
    )
    assert {name: value for name, value in request.body.items() if name not in ("model", "messages")} == {
        "max_completion_tokens": 9,
        "n": 3,
        "logprobs": True,
        "user": "me",
    }


def test_a_prefix_goes_out_as_token_ids_through_completions() -> None:
    ask = ASK._replace(prefix=(7, 8), want=("tokens",), stop=("end",))
    request = requests.draw_request(ask, "m", Profile(), DrawOptions(prompt_ids=(1, 2, 3), logprobs=True))
    assert request.path == "completions"
    assert request.body["prompt"] == [1, 2, 3, 7, 8]
    assert request.body["logprobs"] == 1
    assert request.body["return_token_ids"] is True
    assert request.body["stop"] == ["end"]
    assert "messages" not in request.body


def test_a_model_without_a_template_is_given_the_contents() -> None:
    assert requests.draw_request(ASK, "m", Profile(api="completions")).body["prompt"] == "be brief\n\nhello"


@given(st.integers(0, 2**53 - 1))
def test_a_template_with_a_seed_is_the_request_with_that_seed(seed: int) -> None:
    plain = requests.draw_request(
        ASK._replace(seed=seed), "m", Profile(), DrawOptions(extra={"user": 'quoted "seed": 1'})
    )
    template = requests.request_template(
        requests.draw_request(ASK, "m", Profile(), DrawOptions(extra={"user": 'quoted "seed": 1'})), None
    )
    assert json.loads(template.with_seed(seed).data) == plain.body
    assert 0 <= plain.body["seed"] < 2**31


def test_a_seed_of_the_user_and_no_seed_stay_as_they_are() -> None:
    fixed = requests.request_template(
        requests.draw_request(ASK, "m", Profile(), DrawOptions(extra={"seed": 1})), {"seed": 1}
    )
    assert json.loads(fixed.with_seed(99).data)["seed"] == 1
    none = requests.request_template(requests.draw_request(ASK, "m", Profile(seed=False)), None)
    assert "seed" not in json.loads(none.with_seed(99).data)


def test_what_the_endpoint_cannot_draw_is_explained() -> None:
    cold = ASK._replace(sampling=Sampling(temperature=0.5))
    assert requests.why_unsupported(cold, Profile()) == ""
    assert "temperature 0.5" in requests.why_unsupported(cold, Profile(temperature=False))
    assert requests.why_unsupported(ASK, Profile(temperature=False, refused=("top_k",))) == ""
    assert "top_k 3" in requests.why_unsupported(ASK._replace(sampling=Sampling(top_k=3)), Profile(refused=("top_k",)))
    assert "log-probs" in requests.why_unsupported(ASK._replace(want=("logp",)), Profile(logprobs=False))
    assert "forbid" in requests.why_unsupported(ASK._replace(forbid_first=3), Profile())


def test_choices_are_read_in_the_order_of_their_indices_and_each_index_once() -> None:
    body = completion("a", "b", "c")
    body["choices"].reverse()
    body["choices"].append({"index": 1, "message": {"content": "B"}, "finish_reason": "stop"})
    parsed = replies.parse_reply(body)
    assert [choice.text for choice in parsed.choices] == ["a", "b", "c"]
    assert parsed.num_listed == 4
    assert parsed.usage == (7, 15, None, None, None)


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "x"}, "x", ""),
        ({"content": None}, "", ""),
        ({"content": None, "reasoning_content": "hm"}, "", "hm"),
        ({"content": "x", "reasoning": "hm"}, "x", "hm"),
        ({"content": [{"type": "text", "text": "x"}, {"type": "image"}, {"type": "text", "text": "y"}]}, "xy", ""),
        ({}, "", ""),
    ],
)
def test_a_message_is_read_in_every_dialect(message: dict[str, Any], text: str, reasoning: str) -> None:
    (choice,) = replies.parse_reply({"choices": [{"message": message, "finish_reason": "stop"}]}).choices
    assert (choice.text, choice.reasoning) == (text, reasoning)


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("content_filter", "length"),
        ("abort", "error"),
        (None, ""),
        ("something new", ""),
        (["stop"], ""),
    ],
)
def test_a_finish_is_read_in_every_dialect(reason: Any, finish: str) -> None:
    (choice,) = replies.parse_reply({"choices": [{"text": "x", "finish_reason": reason}]}).choices
    assert choice.finish == finish


def test_log_probs_and_token_ids_are_read_from_both_apis() -> None:
    chat = {"content": [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1}]}
    for raw in (chat, {"token_logprobs": [-0.5, -1.0]}):
        body = {"choices": [{"text": "ab", "logprobs": raw, "token_ids": [4, 5], "prompt_token_ids": [1, 2]}]}
        parsed = replies.parse_reply(body)
        assert parsed.choices[0].logp == (-0.5, -1.0)
        assert parsed.choices[0].tokens == (4, 5)
        assert parsed.prompt_ids == (1, 2)
    assert (
        replies.parse_reply({"choices": [{"text": "a", "logprobs": {"token_logprobs": [None]}}]}).choices[0].logp
        is None
    )


def test_the_likeliest_tokens_are_read_from_both_apis() -> None:
    chat = {"content": [{"top_logprobs": [{"token": "b", "logprob": -2}, {"token": "a", "logprob": -0.5}]}, {}]}
    for raw in (chat, {"top_logprobs": [{"b": -2.0, "a": -0.5}, None]}):
        (choice,) = replies.parse_reply({"choices": [{"text": "ab", "logprobs": raw}]}).choices
        assert choice.top == ((("a", -0.5), ("b", -2.0)), ())
    request = requests.draw_request(ASK._replace(want=("top",)), "m", Profile(), DrawOptions(top=5))
    assert (request.body["logprobs"], request.body["top_logprobs"]) == (True, 5)
    assert requests.draw_request(ASK, "m", Profile(api="completions"), DrawOptions(top=5)).body["logprobs"] == 5


def test_the_log_probs_of_a_given_text_are_those_of_its_own_tokens() -> None:
    ask = Likelihood(HELLO, (11, 12))
    listed = [None, {"3": {"logprob": -9.0}}, {"11": {"logprob": -1.5}, "9": {"logprob": 0.0}}, {"12": {"logprob": -2}}]
    assert replies.parse_likelihood({"choices": [{"prompt_logprobs": listed}]}, ask) == (-1.5, -2.0)
    assert requests.likelihood_request(ask, "m", (1, 2)).body["prompt"] == [1, 2, 11, 12]
    for bad in ({}, {"choices": []}, {"choices": [{"prompt_logprobs": listed[:1]}]}, {"choices": [{}]}):
        with pytest.raises(ValueError, match="prompt_logprobs"):
            replies.parse_likelihood(bad, ask)


@given(anything, anything, anything)
def test_no_reply_breaks_the_parser(body: Any, choice: Any, usage: Any) -> None:
    """Whatever JSON comes: choices, or ValueError."""
    for reply in (body, {"choices": body}, {"choices": [choice, {"message": choice}], "usage": usage}):
        try:
            parsed = replies.parse_reply(reply)
        except ValueError:
            continue
        assert all(isinstance(c.text, str) and c.finish in ("stop", "length", "error", "") for c in parsed.choices)
        assert all(count is None or count >= 0 for count in parsed.usage)
        assert isinstance(error_text(reply), str)


PAGE = """<!DOCTYPE html>
<html><head><title>502 Bad&nbsp;Gateway</title><style>body { color: red }</style>
<script>if (1 < 2) { alert("<b>") }</script></head>
<body><!-- padding <b>for</b> browsers --><h1>502 Bad Gateway</h1>AT&amp;T</body></html>"""


@pytest.mark.parametrize(
    ("body", "text", "line"),
    [
        ({"error": {"message": "a\n b"}}, "raw", "a b"),
        ({"error": "<b>"}, "raw", "<b>"),
        ({"detail": "a < b"}, "raw", "a < b"),
        (None, " 1 < 2 & 3 > 2\n", "1 < 2 & 3 > 2"),
        (None, PAGE, "502 Bad Gateway 502 Bad Gateway AT&T"),
        (None, PAGE.partition("color")[0], "502 Bad Gateway"),
        (None, "x" * 400, "x" * 297 + "..."),
    ],
)
def test_an_error_message_is_one_line_and_a_page_s_is_its_text(body: Any, text: str, line: str) -> None:
    assert error_text(body, text) == line


def chunks(body: dict[str, Any], sizes: list[int]) -> list[bytes]:
    """A completion as a stream's lines, its texts in pieces of these sizes."""
    lines = [b": ping", b"event: chunk"]
    for choice in body["choices"]:
        rest, index = choice["message"]["content"], choice["index"]
        for size in [*sizes, 10_000]:
            piece, rest = rest[:size], rest[size:]
            delta = {"choices": [{"index": index, "delta": {"content": piece}, "finish_reason": None}]}
            lines.append(b"data: " + json.dumps(delta).encode())
        end = {"choices": [{"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}], "usage": None}
        lines.append(b"data:" + json.dumps(end).encode())
    lines.append(b"data: " + json.dumps({"choices": [], "usage": body["usage"]}).encode())
    return lines


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.lists(st.integers(0, 9), max_size=4))
def test_a_stream_adds_up_to_what_would_have_come_in_one_piece(texts: list[str], sizes: list[int]) -> None:
    body = completion(*texts)
    assembler = StreamAssembler()
    for line in [*chunks(body, sizes), b"data: [DONE]"]:
        assembler.add_line(line)
    assert replies.parse_reply(assembler.body()) == replies.parse_reply(body)


def test_a_stream_that_breaks_off_is_no_reply() -> None:
    lines = chunks(completion("hello"), [2])
    for end in range(len(lines) - 1):  # after the finish it is complete, with or without an end mark
        assembler = StreamAssembler()
        for line in lines[:end]:
            assembler.add_line(line)
        assert assembler.body() is None, end
    assembler.add_line(b"data: {broken")
    assert assembler.body() is None
