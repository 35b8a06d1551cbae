"""What Inspect's words become, without Inspect: names of models, settings, seeds."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import pytest

from samplewise.core.errors import MissingExtra, UsageError
from samplewise.integrations.request import FIELDS, OWN, Seeds, Served, read_name, request_body
from samplewise.serve.wire import parse_call

HELLO = [{"role": "user", "content": "hi"}]
NAMES = {
    "tiny": Served(None, "tiny"),
    "vote(16)@tiny": Served("vote(16)", "tiny"),
    "repeat(8) | until(lead(3)) | vote@http:Qwen/Qwen3-4B": Served(
        "repeat(8) | until(lead(3)) | vote", "http:Qwen/Qwen3-4B"
    ),
    "fast@qwen": Served("repeat(4) | vote", "qwen"),
    "http:solve@tiny": Served(None, "http:solve@tiny"),
    "vote(2)@http:solve@tiny": Served("vote(2)", "http:solve@tiny"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_recipe_and_an_engine(name: str) -> None:
    assert read_name(name, presets={"fast": "repeat(4) | vote"}) == NAMES[name]


def test_a_recipe_may_be_beside_the_name() -> None:
    assert read_name("tiny", "repeat(4, max_tokens=64) | vote") == Served("repeat(4, max_tokens=64) | vote", "tiny")
    assert read_name("tiny", "fast", {"fast": "repeat(4)"}) == Served("repeat(4)", "tiny")
    with pytest.raises(UsageError, match=r"two recipes: vote\(2\) in the model's name, and recipe=vote\(3\)"):
        read_name("vote(2)@tiny", "vote(3)")


@pytest.mark.parametrize("name", ["vote(16)", "repeat(2) | vote"])
def test_a_recipe_alone_names_no_engine(name: str) -> None:
    with pytest.raises(UsageError, match="names no engine; say samplewise/RECIPE@ENGINE"):
        read_name(name)


def test_a_misspelt_recipe_is_no_part_of_an_engines_name() -> None:
    with pytest.raises(UsageError, match=r"'voet\(16\)' is neither a recipe nor a preset"):
        read_name("voet(16)@tiny")


def test_a_base_url_is_the_engines() -> None:
    served = read_name("vote(2)@http:qwen", base_url="http://127.0.0.1:8000/v1")
    assert served.engine == "http('qwen', base_url='http://127.0.0.1:8000/v1')"
    with pytest.raises(UsageError, match="toy is no endpoint"):
        read_name("vote(2)@toy", base_url="http://127.0.0.1:8000/v1")


SETTINGS: dict[str, Any] = {
    "max_tokens": 64,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 20,
    "stop_seqs": ["\n"],
    "seed": 3,
    "num_choices": 2,
    "logprobs": True,
    "top_logprobs": 2,
    "timeout": 60,
    "max_retries": 2,
}


def test_settings_become_fields_that_the_server_takes() -> None:
    body = request_body("tiny", HELLO, SETTINGS, ours={"recipe": "recipe"}, tools={})
    call = parse_call(body, "chat")
    fields = call.fields
    assert (fields.max_tokens, fields.temperature, fields.top_p, fields.top_k) == (64, 0.5, 0.9, 20)
    assert (fields.stop, call.seed, call.n, call.logprobs, call.wishes.recipe) == (("\n",), 3, 2, 2, "recipe")
    assert call.relayed is None


def test_a_schema_and_further_fields_go_along() -> None:
    schema = {"name": "total", "json_schema": {"type": "object"}, "strict": True, "description": None}
    settings = {"response_schema": schema, "extra_body": {"min_p": 0.1, "samplewise": {"read": "json('total')"}}}
    body = request_body("tiny", HELLO, settings, ours={"recipe": "recipe", "read": None}, tools={})
    call = parse_call(body, "chat")
    assert call.passed["response_format"]["json_schema"] == {
        "name": "total",
        "schema": {"type": "object"},
        "strict": True,
    }
    assert call.fields.min_p == 0.1
    assert (call.wishes.recipe, call.wishes.read) == ("recipe", "json('total')")


def test_calls_of_tools_are_asked_for() -> None:
    tools = {"tools": [{"type": "function", "function": {"name": "add"}}], "tool_choice": "auto"}
    call = parse_call(request_body("m", HELLO, {"parallel_tool_calls": False}, ours={}, tools=tools), "chat")
    assert call.relayed is not None
    assert call.is_about_calls
    assert (
        parse_call(request_body("m", HELLO, {"parallel_tool_calls": False}, ours={}, tools={}), "chat").relayed is None
    )


def test_a_setting_that_would_be_lost_is_refused() -> None:
    with pytest.raises(UsageError, match="does not honor the setting reasoning_tokens"):
        request_body("m", HELLO, {"reasoning_tokens": 100}, ours={}, tools={})
    assert not FIELDS.keys() & OWN


def test_equal_requests_have_different_seeds_that_come_again() -> None:
    """A second epoch that is run by itself, after the first has been logged, must not repeat the first one's draws."""
    asked = [(1, {"q": "a"}), (1, {"q": "a"}), (2, {"q": "a"}), (1, {"q": "b"})]
    first, second = Seeds(0), Seeds(0)
    seeds = [first.next(epoch, body) for epoch, body in asked]
    assert len(set(seeds)) == 4
    assert [second.next(epoch, body) for epoch, body in reversed(asked)][::-1][2:] == seeds[2:]
    assert Seeds(0).next(2, {"q": "a"}) == seeds[2]
    assert Seeds(1).next(1, {"q": "a"}) not in seeds


@pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is not None, reason="Inspect is installed")
def test_without_inspect_one_line_says_what_to_install() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'samplewise\[inspect\]'"):
        importlib.import_module("samplewise.integrations.inspect")
