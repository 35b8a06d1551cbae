"""What `samplewise vllm` puts into vLLM's server: the route, and the engines behind it.

vLLM finds it by the entry point `samplewise` of the group `vllm.endpoint_plugins`, and attaches it inside its own
middleware, so that the server's API key guards the route too. In a server that was launched otherwise it does nothing.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.routing import Route

from samplewise import models
from samplewise.core.errors import BadRequest
from samplewise.core.types import Json
from samplewise.models.loading import CheckpointText, load_checkpoint_text

from .clients import EngineClient, ServedClient
from .engine import Vllm
from .route import SamplewiseRoute
from .wire import ANSWER_PATH, DESCRIBE_PATH, DrawSettings

LAUNCHED = "samplewise"  # the name, among vLLM's arguments, of what `samplewise vllm` has found out
MAX_ENGINES = 64  # by clients' settings


class Launched(NamedTuple):
    """How the server was launched, as its processes need it."""

    model: str
    options: Mapping[str, Json]  # of vLLM's engine, other than their defaults
    template: Mapping[str, Json]  # arguments of the chat template that the server was given
    takes_templates: bool  # from clients


class ServedVllm(Vllm):
    """The engine over the server's own vLLM, for clients with one choice of settings."""

    def __init__(
        self, client: EngineClient, launched: Launched, text: CheckpointText, template: Mapping[str, Json], seeded: bool
    ) -> None:
        super().__init__(launched.model, launched.options, seeded=seeded, template=template, text=text)
        self._served = client

    def _start(self) -> EngineClient:
        return self._served

    def _where(self) -> str:
        return "behind vLLM's server"


class ServedEngines:
    """An engine for each choice of settings that clients have made. They share vLLM and the tokenizer."""

    def __init__(self, client: EngineClient, launched: Launched) -> None:
        models.owns_process = False
        self._client, self._launched = client, launched
        self._text = load_checkpoint_text(launched.model)
        self._engines: OrderedDict[str, Vllm] = OrderedDict()

    async def __call__(self, settings: DrawSettings, /) -> Vllm:
        """Return the engine for these settings. Raises SetupError, and BadRequest for what a client may not choose."""
        if "chat_template" in settings.template and not self._launched.takes_templates:
            raise BadRequest(
                "this server takes no chat templates from clients: start it with --trust-request-chat-template"
            )
        key = json.dumps(settings, sort_keys=True)
        if key not in self._engines:
            template = {**self._launched.template, **settings.template}
            engine = ServedVllm(self._client, self._launched, self._text, template, settings.seeded)
            await engine.open()
            self._engines[key] = engine
            if len(self._engines) > MAX_ENGINES:
                self._engines.popitem(last=False)
        self._engines.move_to_end(key)
        return self._engines[key]


class SamplewisePlugin:
    """The endpoint plugin. vLLM makes it, and calls its methods in this order."""

    name = "samplewise"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._engines: ServedEngines | None = None

    def attach_router(self, app: Any) -> None:
        if getattr(app.state.args, LAUNCHED, None) is None:
            return
        route = SamplewiseRoute(self._engine_of)
        for path in (DESCRIBE_PATH, ANSWER_PATH):
            app.router.routes.append(Route(f"/v1/{path}", endpoint=route, methods=["POST"]))

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        launched: Launched | None = getattr(args, LAUNCHED, None)
        if launched is not None:
            self._engines = ServedEngines(ServedClient(engine_client), launched)
            await self._engines(DrawSettings())  # what is wrong with it shows now

    async def _engine_of(self, settings: DrawSettings) -> Vllm:
        assert self._engines is not None, "vLLM calls init_state before it serves"
        return await self._engines(settings)
