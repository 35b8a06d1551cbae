"""What `samplewise vllm` hands to vLLM's server, and that server's application with our route, without a model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import vllm.envs
from tests.vllm.serve import installed

from samplewise.core.errors import BadRequest, SetupError
from samplewise.core.registry import build
from samplewise.engines.toy import Toy
from samplewise.engines.vllm import wire
from samplewise.engines.vllm.engine import PROCESSOR, WORKER
from samplewise.engines.vllm.launch import Launch, allow_plugin, prepare_launch

from .conftest import Run

pytestmark = [
    *(pytest.mark.vllm, pytest.mark.slow),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
ROUTE = f"/v1/{wire.DESCRIBE_PATH}"


@pytest.fixture
def launched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Launch]:
    for name in ("VLLM_PLUGINS", "VLLM_WORKER_MULTIPROC_METHOD", "VLLM_API_KEY"):
        monkeypatch.setenv(name, "x")  # so that it is as it was after the test
        monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(installed(tmp_path).rpartition(os.pathsep)[2])
    if forget := getattr(vllm.envs, "disable_envs_cache", None):  # an engine of this process has filled it
        forget()
    return lambda *words: prepare_launch(words)


def test_the_server_is_as_the_engine_in_process_is(launched: Callable[..., Launch]) -> None:
    """Its worker and processor, its defaults, its identity; and the loopback."""
    from vllm import AsyncEngineArgs

    args = launched("tiny", "--max-model-len", "256", "--port", "8001", "--served-model-name", "a", "b").args
    engine = build("engine", "vllm('tiny', max_model_len=256)")
    assert (args.host, args.port, args.served_model_name) == ("127.0.0.1", 8001, ["a", "b"])
    given = AsyncEngineArgs.from_cli_args(args)
    for name, value in engine._options.items():
        if name not in ("disable_log_stats", "seed"):
            assert getattr(given, name) == value, name
    assert (given.worker_cls, given.logits_processors) == (WORKER, [PROCESSOR])
    assert dict(args.samplewise.options) == {"max_model_len": 256}
    assert launched("tiny").args.served_model_name == ["tiny"]
    assert launched("tiny", "--host", "0.0.0.0").args.host == "0.0.0.0"
    assert launched("tiny", "--async-scheduling").args.async_scheduling is True
    assert "samplewise" in os.environ["VLLM_PLUGINS"].split(",")


def test_options_that_change_draws_are_in_the_identity(launched: Callable[..., Launch], engine: Any, run: Run) -> None:
    """As in process: the same options, the same name in the store."""
    from samplewise.engines.vllm.plugin import ServedEngines

    words = ("--max-model-len", "256", "--enforce-eager", "--default-chat-template-kwargs", '{"tools": null}')
    started = launched("tiny", *words, "--hf-overrides", '{"rope_theta": 20000}').args.samplewise
    served = run(ServedEngines(engine._client, started)(wire.DrawSettings({"enable_thinking": False})))
    alike = "vllm('tiny', hf_overrides={'rope_theta': 20000}, template={'tools': None}, enable_thinking=False)"
    assert served.identity == build("engine", alike).identity
    plain = ServedEngines(engine._client, launched("tiny", *words[:3]).args.samplewise)
    assert run(plain(wire.DrawSettings())).identity == engine.identity
    assert run(plain(wire.DrawSettings())) is run(plain(wire.DrawSettings({}, True)))
    with pytest.raises(BadRequest, match="takes no chat templates from clients"):
        run(plain(wire.DrawSettings({"chat_template": "{{ 1 }}"})))
    trusting = launched("tiny", "--trust-request-chat-template", "--chat-template", "{{ messages[0].content }}").args
    engines = ServedEngines(engine._client, trusting.samplewise)
    own = run(engines(wire.DrawSettings()))
    assert own._language.has_template
    assert '"chat_template": "{{ messages[0].content }}"' in own.identity
    assert run(engines(wire.DrawSettings({"chat_template": "{{ messages[0].content }}."}))).identity != own.identity


def test_options_that_leave_no_guided_draws_leave_plain_ones(launched: Callable[..., Launch]) -> None:
    args = launched("tiny", "--tensor-parallel-size", "2").args
    assert args.worker_cls == "auto"
    assert not args.logits_processors


def test_what_leaves_no_room_for_the_route_is_refused(
    launched: Callable[..., Launch], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SetupError, match="leave out --headless"):
        launched("tiny", "--headless")
    with pytest.raises(SetupError, match="leave out logprobs_mode"):
        launched("tiny", "--logprobs-mode", "processed_logprobs")
    with pytest.raises(SetupError, match="there is no model folder"):
        launched("./nowhere")
    with pytest.raises(SystemExit):
        launched("tiny", "--no-such-option")
    monkeypatch.setenv("VLLM_USE_RUST_FRONTEND", "1")
    with pytest.raises(SetupError, match="unset VLLM_USE_RUST_FRONTEND"):
        launched("tiny")


def test_other_plugins_are_loaded_as_before(launched: Callable[..., Launch]) -> None:
    environment: dict[str, str] = {}
    allow_plugin(environment)
    assert environment["VLLM_PLUGINS"].split(",") == ["lora_filesystem_resolver", "lora_hf_hub_resolver", "samplewise"]
    environment = {"VLLM_PLUGINS": "mine"}
    allow_plugin(environment)
    allow_plugin(environment)
    assert environment == {"VLLM_PLUGINS": "mine,samplewise"}


def test_the_api_key_guards_the_route(launched: Callable[..., Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    """In vLLM's own application, made as its server makes it."""
    from starlette.testclient import TestClient
    from vllm.entrypoints.launchers.app import build_app

    from samplewise.engines.vllm.plugin import SamplewisePlugin

    async def engine_of(self: Any, settings: wire.DrawSettings) -> Toy:
        return Toy()

    monkeypatch.setattr(SamplewisePlugin, "_engine_of", engine_of)
    app = build_app(launched("tiny", "--api-key", "a secret key").args, ("generate",))
    client = TestClient(app, raise_server_exceptions=False)
    body = wire.encode_describe(wire.DrawSettings())
    assert client.post(ROUTE, json=body).status_code == 401
    assert client.post(ROUTE, json=body, headers={"Authorization": "Bearer another"}).status_code == 401
    reply = client.post(ROUTE, json=body, headers={"Authorization": "Bearer a secret key"})
    assert (reply.status_code, reply.json()["name"]) == (200, Toy().name)
    assert client.get("/v1/models").status_code == 401


def test_a_server_that_was_started_otherwise_has_no_route(launched: Callable[..., Launch]) -> None:
    from vllm.entrypoints.launchers.app import build_app

    args = launched("tiny").args
    assert ROUTE in {getattr(route, "path", "") for route in build_app(args, ("generate",)).routes}
    assert ROUTE not in {getattr(route, "path", "") for route in build_app(args, ("embed",)).routes}
    del args.samplewise
    assert ROUTE not in {getattr(route, "path", "") for route in build_app(args, ("generate",)).routes}


def test_without_its_entry_point_the_command_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samplewise.engines.vllm.launch.entry_points", lambda **_: ())
    with pytest.raises(SetupError, match="install samplewise beside vLLM"):
        prepare_launch(["tiny"])


def test_every_engine_argument_that_is_named_is_one_of_vllm() -> None:
    """What is left out of identities, or changed, must not be a name that vLLM no longer has."""
    from vllm import AsyncEngineArgs

    from samplewise.engines.vllm.launch import CHANGED, SERVER_ONLY

    assert {*CHANGED, *SERVER_ONLY} <= {field.name for field in dataclasses.fields(AsyncEngineArgs)}
