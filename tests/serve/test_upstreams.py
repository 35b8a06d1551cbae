"""The models that are served: their names, and engines that pass fields on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

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
