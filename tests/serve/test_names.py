"""Names of models: where a recipe ends and a model's name begins, and what a client's recipe must not do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import SamplewiseError, UsageError
from samplewise.core.registry import BUILT_IN
from samplewise.recipe import from_stages
from samplewise.serve.names import (
    DEFAULT_PRESETS,
    FREE_VERIFIERS,
    ModelName,
    check_free,
    list_models,
    parse_presets,
    split_name,
    stages_of,
)
from samplewise.serve.wire import RequestError

MODELS = ("qwen", "@cf/meta/llama", "claude@2025", "qwen3:4b", "repeat(2)@home")
PRESETS = {"fast": "repeat(8) | vote", "a@b": "repeat(2)"}


@pytest.mark.parametrize("name", MODELS)
def test_a_models_name_is_its_own(name: str) -> None:
    assert split_name(name, MODELS, PRESETS) == ModelName(None, name)


@pytest.mark.parametrize(
    ("name", "recipe", "model"),
    [
        ("fast@qwen", "fast", "qwen"),
        ("fast@@cf/meta/llama", "fast", "@cf/meta/llama"),
        ("fast@claude@2025", "fast", "claude@2025"),
        ("fast@nobody", "fast", "nobody"),
        ("a@b@qwen", "a@b", "qwen"),
        ("repeat(8)@qwen3:4b", "repeat(8)", "qwen3:4b"),
        ("repeat(4) | vote @ qwen", "repeat(4) | vote", "qwen"),
        ("vote(16)@qwen", "vote(16)", "qwen"),
        ("vary(role('x@y')) | repeat(2)@qwen", "vary(role('x@y')) | repeat(2)", "qwen"),
        ("llama@2024", None, "llama@2024"),
        ("@@@", None, "@@@"),
        ("nosuch(3)@qwen", None, "nosuch(3)@qwen"),
        ("fast", None, "fast"),
    ],
)
def test_a_name_is_split_where_a_recipe_ends(name: str, recipe: str | None, model: str) -> None:
    assert split_name(name, MODELS, PRESETS) == ModelName(recipe, model)


def test_a_recipe_alone_is_one_of_the_only_model() -> None:
    assert split_name("fast", ("qwen",), PRESETS) == ModelName("fast", "qwen")
    assert split_name("repeat(2)", ("qwen",), PRESETS) == ModelName("repeat(2)", "qwen")
    assert split_name("other", ("qwen",), PRESETS) == ModelName(None, "other")


@given(st.text(alphabet="aq@()|:4 .", max_size=12))
def test_any_name_is_split_into_itself(name: str) -> None:
    parts = split_name(name, MODELS, PRESETS)
    assert parts.model in name
    assert parts.recipe is None or name.replace(" ", "").startswith(parts.recipe.replace(" ", ""))


@pytest.mark.parametrize(
    ("short", "line"),
    [
        ("vote(16)", "repeat(16) | vote"),
        ("best(8, reward)", "repeat(8) | best(reward)"),
        ("weighted(4, logp)", "repeat(4) | weighted(logp)"),
        ("repeat(3)", "repeat(3) | first"),
        ("power(4.0, 20) | vote", "power(4.0, 20) | vote"),
    ],
)
def test_selectors_with_a_number_are_short_for_a_recipe(short: str, line: str) -> None:
    assert stages_of(short).line == line


@pytest.mark.parametrize(
    "text", ["vote", "vote()", "vote(True)", "best(reward)", "vote('8')", "", "x:y", "repeat:8|vote"]
)
def test_what_is_no_recipe(text: str) -> None:
    with pytest.raises(SamplewiseError):
        from_stages(stages_of(text))


def test_presets() -> None:
    lines = ["fast=repeat(8) | vote", 'slow = "vote(16)"']
    assert parse_presets(lines) == {"fast": "repeat(8) | vote", "slow": "repeat(16) | vote"}
    for preset in DEFAULT_PRESETS.values():
        from_stages(stages_of(preset))
    for wrong in ("fast", "=repeat(8)", "a b=repeat(8)", "a@b=repeat(8)"):
        with pytest.raises(UsageError, match="a preset is NAME"):
            parse_presets([wrong])
    with pytest.raises(UsageError, match="twice"):
        parse_presets(["a=repeat(1)", "a=repeat(2)"])
    with pytest.raises(UsageError):
        parse_presets(["a=nosuch(1)"])


@pytest.mark.parametrize(
    "line",
    [
        "repeat(1024) | vote",
        "repeat(8, max_tokens=100000) | best(reward)",
        "power(4.0, 20, 2, cuts='recent') | vote",
        "vary(role('you may read /etc/passwd'), ladder) | repeat(8) | until(either(lead(4), cap(6))) | vote",
        "repeat(8) | until(optscale(0.95, reward, target=0.95, prior=(1.0, 2.0, 3.0, 4.0))) | best(reward)",
        *(f"repeat(8) | best({verifier})" for verifier in FREE_VERIFIERS),
    ],
)
def test_a_clients_recipe_may_draw_and_choose(line: str) -> None:
    check_free(stages_of(line))


@pytest.mark.parametrize(
    "line",
    [
        "repeat(8) | best(reward_server('http://10.0.0.1'))",
        "repeat(8) | best('reward_server(\"http://10.0.0.1\")')",
        "repeat(8) | best(reward('/home/model'))",
        "repeat(8) | best(reward(model='x'))",
        "repeat(8) | best(recorded('/etc/passwd'))",
        *(f"repeat(8) | best({name})" for name in BUILT_IN["verifier"] if name not in FREE_VERIFIERS),
        "repeat(8) | until(passed(public_tests)) | vote",
        "repeat(8) | until(optscale(0.95, reward, prior='/etc/passwd')) | vote",
        "repeat(8) | until(optscale(0.95, reward, prior='passwd')) | vote",
        "repeat(8) | until(pandora(reward, 0.1, (0.0, 1.0), 'passwd')) | vote",
        "repeat(1025) | vote",
        "repeat(num_samples=100000) | vote",
        "repeat(8, max_tokens=131073) | vote",
        "repeat(8) | until(cap(5000)) | vote",
        "repeat(8, stop=('a/b',)) | vote",
        "repeat(8, explore={'a': 1}) | vote",
    ],
)
def test_a_clients_recipe_reads_no_file_and_reaches_no_server(line: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_free(stages_of(line))
    assert (caught.value.status, caught.value.code) == (403, "recipe_not_allowed")


def test_models_are_listed_with_their_presets() -> None:
    listed = list_models(("a", "b"), ("fast",), 7)
    assert [model["id"] for model in listed["data"]] == ["a", "b", "fast@a", "fast@b"]
    assert listed["object"] == "list"
    assert listed["data"][0] == {"id": "a", "object": "model", "created": 7, "owned_by": "samplewise"}
