"""The models that are served: an engine each, under the name by which clients know it.

Fields of a request that the endpoint behind an engine is to see, such as `response_format`, need an engine that sends
them with every draw. Such variants are made of the engine's own spec, and kept for the next request with these fields.
"""

from __future__ import annotations

import contextlib
import inspect
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samplewise.core.errors import UsageError
from samplewise.core.registry import build, factory
from samplewise.core.spec import Spec, parse_spec
from samplewise.core.types import Json
from samplewise.engines.base import Engine
from samplewise.loop.context import Trial
from samplewise.serve.fields import join_fields
from samplewise.serve.relay import HasEndpoint, Relay

MAX_VARIANTS = 32  # idle ones that are kept
FIELD_SETTINGS = ("extra", "reasoning_effort", "enable_thinking")  # of an engine's spec: fields of every request


class EngineVariants:
    """Engines that differ from the one of a spec in the fields that they send, which its factory takes as `extra`.

    `behind` is that one where it has an endpoint: what it knows of it, no other has to find out.
    """

    def __init__(self, spec: Spec, behind: HasEndpoint | None = None) -> None:
        self._spec, self._behind = spec, behind
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._num_lent: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def lend(self, fields: Mapping[str, Json]) -> AsyncIterator[Engine]:
        """Give the engine that sends these fields beside its own. Raises what the factory raises."""
        key = json.dumps(fields, sort_keys=True)
        if key not in self._engines:
            self._engines[key] = build("engine", self._spec_with(fields))
        self._engines.move_to_end(key)
        self._num_lent[key] = self._num_lent.get(key, 0) + 1
        try:
            yield self._engines[key]
        finally:
            self._num_lent[key] -= 1
            await self._close_idle()

    def _spec_with(self, fields: Mapping[str, Json]) -> Spec:
        settings = {name: value for name, value in self._spec.kwargs if name not in FIELD_SETTINGS}
        settings["extra"] = join_fields(_own_fields(self._spec), fields)
        if self._behind is not None:
            settings["probe"] = self._behind.profile
        return self._spec._replace(kwargs=tuple(settings.items()))

    async def _close_idle(self) -> None:
        """Close the engines that were used longest ago, if there are many and nobody uses them."""
        for key in list(self._engines):
            if len(self._engines) <= MAX_VARIANTS:
                return
            if not self._num_lent[key]:
                del self._num_lent[key]
                await self._engines.pop(key).close()

    async def close(self) -> None:
        """Close all of them."""
        while self._engines:
            _, engine = self._engines.popitem()
            await engine.close()


@dataclass(frozen=True, slots=True)
class Upstream:
    """An engine under the name by which clients know its model.

    `variants` is None where fields cannot be passed on to an endpoint, `relay` where whole requests cannot.
    """

    name: str
    engine: Engine
    variants: EngineVariants | None = None
    relay: Relay | None = None
    trial: Trial = field(default_factory=Trial)

    def lend(self, fields: Mapping[str, Json]) -> contextlib.AbstractAsyncContextManager[Engine]:
        """Give the engine for a request that passes these fields on."""
        if not fields or self.variants is None:
            return contextlib.nullcontext(self.engine)
        return self.variants.lend(fields)

    async def close(self) -> None:
        """Close the engine and its variants."""
        if self.variants is not None:
            await self.variants.close()
        await self.engine.close()


def make_upstream(text: str, name: str | None = None) -> Upstream:
    """Return the engine that a spec names, with the name of its model unless another is given.

    Raises UnknownName, BadSpec and what the factory raises.
    """
    spec = parse_spec(text)
    engine: Engine = build("engine", spec)
    if engine.is_batched:
        raise UsageError("a server answers at once, and a batch takes up to a day: give the engine without batch=True")
    parameters = inspect.signature(factory("engine", spec.name)).parameters
    behind = engine if isinstance(engine, HasEndpoint) and "probe" in parameters else None
    variants = EngineVariants(spec, behind) if "extra" in parameters else None
    is_chat = isinstance(engine, HasEndpoint) and (engine.findings() or {}).get("api") == "chat"
    relay = Relay(engine, _own_fields(spec)) if is_chat else None
    return Upstream(name or model_name(spec), engine, variants, relay)


def _own_fields(spec: Spec) -> dict[str, Json]:
    """Return the fields that an engine for an endpoint adds to every request, by its spec."""
    settings = dict(spec.kwargs)
    fields = dict(settings.get("extra") or {})
    if (effort := settings.get("reasoning_effort")) is not None:
        fields["reasoning_effort"] = effort
    if (thinking := settings.get("enable_thinking")) is not None:
        fields["chat_template_kwargs"] = {**fields.get("chat_template_kwargs", {}), "enable_thinking": thinking}
    return fields


def model_name(spec: Spec) -> str:
    """Return the model's name in an engine's spec, or the engine's where it names none: http:qwen is qwen."""
    named = next((value for value in spec.args if isinstance(value, str) and value), None)
    if named is None or "://" in named:  # a server's URL names no model
        return spec.name
    return Path(named).name or spec.name if Path(named).exists() else named
