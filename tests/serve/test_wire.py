"""Requests: every field of the API is honored, passed on, ignored or refused, and nothing else comes through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from samplewise.core.types import Message
from samplewise.serve import fields as table
from samplewise.serve import wire
from samplewise.serve.wire import Call, DrawFields, RequestError, RequestLimits, Wishes, parse_body, parse_call

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PROMPTED: dict[str, Any] = {"model": "m", "prompt": "hi"}
ONE = (Message("user", "hi"),)


def call(headers: dict[str, str] | None = None, route: table.Route = "chat", **fields: Any) -> Call:
    body = {**(ASKED if route == "chat" else PROMPTED), **fields}
    return parse_call(body, route, CIMultiDict(headers or {}))


def refused(headers: dict[str, str] | None = None, route: table.Route = "chat", **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call(headers, route, **fields)
    error = caught.value
    assert "\n" not in error.message
    return error


def test_a_bare_request_has_the_apis_defaults() -> None:
    assert call() == Call("chat", "m", ONE)
    assert call(route="completions") == Call("completions", "m", ONE)
    assert call(route="completions", prompt=["hi"]) == Call("completions", "m", ONE)


def test_every_honored_field_arrives() -> None:
    parsed = call(
        n=3,
        max_tokens=7,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.25,
        top_k=-1,
        min_p=0.125,
        stop=["a", None, "", "b", "a"],
        seed=-5,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        top_logprobs=4,
        samplewise={
            "recipe": "repeat(2)",
            "budget": {"tokens": 10, "usd": 0.5, "seconds": 2},
            "return": ["votes", "candidates"],
            "read": "number",
            "progress": True,
        },
    )
    assert parsed == Call(
        "chat",
        "m",
        ONE,
        DrawFields(0.5, 0.25, 0, 0.125, ("a", "b"), 9),
        n=3,
        seed=-5,
        stream=True,
        include_usage=True,
        logprobs=4,
        wishes=Wishes(
            "repeat(2)", None, RequestLimits(10, 0.5, 2.0), frozenset({"votes", "candidates"}), "number", True
        ),
    )


def test_null_is_left_out() -> None:
    names = (*table.HONORED["chat"], *table.PASSED, *table.IGNORED, *table.RELAYED, *table.REFUSED)
    assert call(**{name: None for name in names if name not in ASKED}) == call()


def test_the_lists_do_not_overlap() -> None:
    lists = [set(table.HONORED["chat"]) | set(table.HONORED["completions"]), set(table.PASSED), set(table.IGNORED)]
    lists += [set(table.RELAYED), set(table.REFUSED)]
    assert sum(map(len, lists)) == len(set().union(*lists))
    assert set(table.NEUTRAL) <= lists[1] | lists[3] | lists[4]


@pytest.mark.parametrize("name", list(table.PASSED))
def test_what_is_passed_on_is_unchanged(name: str) -> None:
    value = {"type": "json_schema", "json_schema": {"a": [1, None]}}
    assert call(**{name: value}).passed == {name: value}


@pytest.mark.parametrize("name", table.IGNORED)
def test_what_is_ignored_has_no_effect(name: str) -> None:
    assert call(**{name: {"any": ["thing"]}}) == call()


@pytest.mark.parametrize("name", list(table.REFUSED))
def test_what_is_refused_is_named(name: str) -> None:
    error = refused(**{name: {"any": ["thing"]}})
    assert (error.status, error.param, error.kind) == (400, name, "invalid_request_error")
    assert error.code == "unsupported_parameter"


@pytest.mark.parametrize("name", table.RELAYED)
def test_what_no_recipe_can_choose_among_goes_to_the_endpoint(name: str) -> None:
    parsed = call(**{name: {"any": ["thing"]}}, n=2)
    assert parsed.relayed == name
    assert parsed.raw == {**ASKED, name: {"any": ["thing"]}, "n": 2}
    assert refused(route="completions", **{name: {"any": ["thing"]}}).param == name


@pytest.mark.parametrize(
    ("message", "relayed", "text"),
    [
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages[0].role", "x"),
        ({"role": "assistant", "content": "x", "tool_calls": [{}]}, "messages[0].tool_calls", "x"),
        ({"role": "assistant", "content": None, "tool_calls": [{}]}, "messages[0].tool_calls", ""),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls", ""),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]},
            "messages[0].content[1]",
            "a",
        ),
        ({"role": "assistant", "content": "x", "tool_calls": [], "audio": None}, None, "x"),
    ],
)
def test_messages_with_more_than_text(message: dict[str, Any], relayed: str | None, text: str) -> None:
    parsed = call(messages=[message])
    assert (parsed.relayed, parsed.messages[0].content) == (relayed, text)
    assert parsed.raw == ({} if relayed is None else {"model": "m", "messages": [message]})


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in table.NEUTRAL.items() for v in values])
def test_neutral_values_change_nothing(name: str, value: Any) -> None:
    assert call(**{name: value}) == call()


def test_true_is_no_number_one() -> None:
    """In Python they are equal: `best_of` 1 is neutral, and true is not a number."""
    assert refused(best_of=True).param == "best_of"
    assert refused(echo=0).param == "echo"
    assert call(frequency_penalty=0.0) == call()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"colour": 1}, "colour"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"model": 3}, "model"),
        ({"model": "x" * 2001}, "model"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": "2"}, "n"),
        ({"n": 10**400}, "n"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"min_p": 1}, "min_p"),
        ({"top_k": -2}, "top_k"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 131_073}, "max_completion_tokens"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a", 3]}, "stop"),
        ({"stop": [str(i) for i in range(17)]}, "stop"),
        ({"stop": "x" * 1001}, "stop"),
        ({"seed": 1 << 64}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "messages[0].colour"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": []}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": "a\ud800"}]}, "messages[0].content"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
        ({"samplewise": []}, "samplewise"),
        ({"samplewise": {"x": 1}}, "samplewise.x"),
        ({"samplewise": {"recipe": 1}}, "samplewise.recipe"),
        ({"samplewise": {"budget": 1}}, "samplewise.budget"),
        ({"samplewise": {"budget": {"x": 1}}}, "samplewise.budget.x"),
        ({"samplewise": {"budget": {"tokens": 0}}}, "samplewise.budget.tokens"),
        ({"samplewise": {"budget": {"seconds": 0}}}, "samplewise.budget.seconds"),
        ({"samplewise": {"return": "votes"}}, "samplewise.return"),
        ({"samplewise": {"progress": True}}, "samplewise.progress"),
        ({"samplewise": {"return": [["votes"]]}}, "samplewise.return"),
    ],
)
def test_what_does_not_fit_is_named(fields: dict[str, Any], param: str) -> None:
    assert refused(**fields).param == param


@pytest.mark.parametrize("prompt", [None, "", " ", 3, [], ["a", "b"], [1, 2], [[1, 2]], [[[1]]], [None]])
def test_prompts_are_one_text(prompt: Any) -> None:
    assert refused(route="completions", prompt=prompt).param == "prompt"


def test_each_route_has_its_own_fields() -> None:
    assert refused(prompt="x").param == "prompt"
    assert refused(route="completions", messages=[]).param == "messages"
    assert refused(route="completions", max_completion_tokens=3).param == "max_completion_tokens"
    assert call(route="completions", logprobs=3).logprobs == 3
    assert refused(route="completions", logprobs=True).param == "logprobs"


def test_options_of_streams_may_say_no() -> None:
    for name in ("include_obfuscation", "continuous_usage_stats"):
        assert call(stream=True, stream_options={name: False, "include_usage": True}).include_usage
        assert refused(stream=True, stream_options={name: 0}).param == f"stream_options.{name}"
    assert not call(stream=True, stream_options={"include_usage": None}).include_usage


def test_entries_of_stop_are_counted_as_they_stand() -> None:
    assert call(stop=["a"] * 16).fields.stop == ("a",)
    assert refused(stop=["a"] * 17).param == "stop"
    assert refused(stop=[None] * 17).param == "stop"


def test_limits_of_numbers_are_inclusive() -> None:
    assert call(n=128, temperature=0, top_p=1, min_p=0, top_k=0).fields == DrawFields(0.0, 1.0, 0, 0.0)
    assert call(temperature=2, n=2.0).n == 2
    assert call(max_tokens=131_072).fields.max_tokens == 131_072
    assert call(logprobs=True).logprobs == 0
    assert call(logprobs=False).logprobs is None


def test_a_message_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": parts},
        {"role": "assistant", "content": "c", "reasoning_content": "x", "tool_calls": [], "refusal": None},
        {"role": "user", "content": "d", "name": "me"},
    ]
    parsed = call(messages=messages).messages
    assert parsed == (Message("developer", "ab"), Message("assistant", "c"), Message("user", "d"))


def test_the_body_goes_before_the_headers() -> None:
    headers = {"x-samplewise-recipe": "repeat(3)", "x-its-budget": "5"}
    assert call(headers).wishes == Wishes("repeat(3)", 5)
    assert call(headers, samplewise={"recipe": "repeat(4)"}).wishes == Wishes("repeat(4)", 5)


@pytest.mark.parametrize("value", ["0", "-1", "many", "", "1.0", "9" * 400, "١", "1025"])
def test_a_budget_of_draws_is_a_number(value: str) -> None:
    assert refused({"X-ITS-Budget": value}).param == "X-ITS-Budget"


@pytest.mark.parametrize("name", ["X-ITS-Endpoint", "x-its-api-key"])
def test_no_header_sets_the_endpoint(name: str) -> None:
    assert refused({name: "http://elsewhere"}).status == 400


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"\xff",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b"[" * 100_000,
        b"1" * 5000,
        b'"\\ud800"',
    ],
)
def test_a_body_is_a_json_object(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_body(data)
    assert caught.value.status == 400


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}")])
def test_a_body_is_not_nested_too_deeply(opened: str, closed: str) -> None:
    """What lies deeper can be parsed, but neither shown nor sent on."""

    def nested(depth: int) -> bytes:
        return f'{{"a": {opened * depth}1{closed * depth}, "b": {"[{}," * 2}1{"]" * 2}}}'.encode()

    assert parse_body(nested(table.MAX_DEPTH - 1))
    for depth in (table.MAX_DEPTH, 500, 900, 5000):
        with pytest.raises(RequestError) as caught:
            parse_body(nested(depth))
        assert caught.value.code == "nested_too_deeply"
    assert parse_body(b'{"a": [' + b"[]," * 1000 + b"{}]}")  # many are not deep


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("600", 600.0), ("1.5", 1.5), ("0", None), ("-1", None), ("nan", None), ("inf", None), ("soon", None), ("", None)],
)
def test_the_clients_patience(value: str, seconds: float | None) -> None:
    assert wire.read_timeout_s(CIMultiDict({"X-Stainless-Read-Timeout": value})) == seconds
    assert wire.read_timeout_s({}) is None


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
)
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
NAMES = sorted({*table.HONORED["chat"], *table.HONORED["completions"], *table.PASSED, *table.IGNORED})
NAMES += sorted({*table.RELAYED, *table.REFUSED})
PARTS = st.fixed_dictionaries({}, optional=dict.fromkeys(("role", "content", "type", "text", "tokens", "x"), JSON))
BODIES = st.dictionaries(st.sampled_from(NAMES), JSON | PARTS | st.lists(PARTS, max_size=3), max_size=6)


@given(BODIES, st.sampled_from(["chat", "completions"]), st.booleans())
def test_any_body_is_a_call_or_an_error(body: dict[str, Any], route: Any, whole: bool) -> None:
    """What comes through is within the limits, and every error has one line and a status below 500."""
    body = {**(ASKED if route == "chat" else PROMPTED), **body} if whole else body
    body = parse_body(json.dumps(body).encode())
    try:
        parsed = parse_call(body, route, {})
    except RequestError as raised:
        error = raised
        parsed = None
    if parsed is None:
        assert error.status == 400
        assert error.message
        assert "\n" not in error.message
        return
    fields = parsed.fields
    assert 1 <= parsed.n <= table.MAX_N
    assert fields.temperature is None or 0 <= fields.temperature <= 2
    assert fields.top_p is None or 0 < fields.top_p <= 1
    assert fields.max_tokens is None or 1 <= fields.max_tokens <= table.MAX_TOKENS
    assert parsed.relayed or any(message.content.strip() for message in parsed.messages)
    assert set(parsed.passed) <= set(table.PASSED)
