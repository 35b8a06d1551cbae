"""The models that are served: their names, and engines that pass fields on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.serve.serving import serving
from tests.support.script import Script, completion, reply

from samplewise.core.errors import SamplewiseError
from samplewise.core.spec import parse_spec
from samplewise.serve.upstreams import MAX_VARIANTS, EngineVariants, make_upstream, model_name

SPEC = 'http("m", base_url="http://127.0.0.1:9/v1", probe="never", extra={"top_a": 1, "verbosity": "low"})'


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("tiny", "tiny"),
        ("toy(4)", "toy"),
        ("http:qwen3:4b", "qwen3:4b"),
        ("http", "http"),
        ("http(base_url='http://127.0.0.1/v1')", "http"),
        ("local:Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
    ],
)
def test_a_model_is_called_as_its_engine_calls_it(spec: str, name: str) -> None:
    assert model_name(parse_spec(spec)) == name


def test_a_folder_gives_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "my-model").mkdir()
    assert model_name(parse_spec(f"local:{tmp_path / 'my-model'}")) == "my-model"


def test_what_an_engine_can_pass_on() -> None:
    plain = make_upstream("toy")
    assert (plain.name, plain.variants, plain.relay) == ("toy", None, None)
    served = make_upstream(SPEC, "named")
    assert served.name == "named"
    assert served.variants is not None
    assert served.relay is not None
    texts = make_upstream('http("m", base_url="http://127.0.0.1:9/v1", probe="never", api="completions")')
    assert texts.relay is None
    with pytest.raises(SamplewiseError):
        make_upstream("nosuch")


def test_fields_are_added_to_the_operators_own() -> None:
    async def go() -> None:
        served = make_upstream(SPEC)
        async with served.lend({}) as engine:
            assert engine is served.engine
        async with served.lend({"verbosity": "high", "response_format": {"type": "json_object"}}) as engine:
            assert engine.identity.endswith(
                '?{"response_format": {"type": "json_object"}, "top_a": 1, "verbosity": "high"}'
            )
            async with served.lend({"response_format": {"type": "json_object"}, "verbosity": "high"}) as same:
                assert same is engine
            async with served.lend({"verbosity": "high"}) as other:
                assert other is not engine
        await served.close()

    asyncio.run(go())


def test_fields_of_a_request_go_before_the_operators_own_whatever_their_way() -> None:
    """Drawn or relayed, with or without tools."""
    script = Script(lambda seen: reply(completion("yes")))
    tools = [{"type": "function", "function": {"name": "f"}}]
    wishes = {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": True, "b": 2}}

    async def go() -> None:
        async with script.serving() as url:
            spec = f'http("m", base_url="{url}", probe="never", reasoning_effort="low", enable_thinking=False, '
            async with serving(f'{spec} extra={{"chat_template_kwargs": {{"a": 1, "b": 1}}}})', tools="vote") as served:
                for more in ({}, {"tools": tools}, {"tools": tools, "model": "vote4@toy"}):
                    assert (await served.post(**wishes, **more)).status == 200
                assert (await served.post(chat_template_kwargs={"c": 3})).status == 200
                assert (await served.post()).status == 200
        *wished, other, bare = script.bodies
        assert len(wished) == 6
        for body in wished:
            assert body["reasoning_effort"] == "high"
            assert body["chat_template_kwargs"] == {"a": 1, "b": 2, "enable_thinking": True}
        assert other["reasoning_effort"] == bare["reasoning_effort"] == "low"
        assert other["chat_template_kwargs"] == {"a": 1, "b": 1, "enable_thinking": False, "c": 3}
        assert bare["chat_template_kwargs"] == {"a": 1, "b": 1, "enable_thinking": False}

    asyncio.run(go())


def test_an_endpoint_is_probed_once_whatever_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what was found cannot be kept on disk, as in a container without a home."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    script = Script(lambda seen: reply(completion("yes")))

    async def go() -> None:
        async with script.serving() as url, serving(f'http("m", base_url="{url}")') as served:
            assert (await served.post()).status == 200
            num = len(script.seen)
            assert num > 1
            for name in "ab":
                assert (await served.post(response_format={"type": "json_schema", "name": name})).status == 200
            assert len(script.seen) == num + 2

    asyncio.run(go())


def test_idle_engines_are_few_and_used_ones_stay() -> None:
    async def go() -> None:
        variants = EngineVariants(parse_spec(SPEC))
        async with variants.lend({"seed": -1}) as used:
            for num in range(MAX_VARIANTS + 5):
                async with variants.lend({"seed": num}):
                    pass
            assert len(variants._engines) == MAX_VARIANTS
            async with variants.lend({"seed": -1}) as again:
                assert again is used
        await variants.close()
        assert not variants._engines

    asyncio.run(go())
