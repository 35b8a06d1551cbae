"""What Inspect asks of a model, as a request of our own server: which recipe and engine, and which fields. Pure.

Knows Inspect's words and none of its classes.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.core.errors import BadSpec, UsageError
from samplewise.core.keys import Key
from samplewise.core.registry import factory, names
from samplewise.core.spec import parse_spec
from samplewise.core.types import Json
from samplewise.serve.names import is_recipe, split_name

EXAMPLE = "samplewise/RECIPE@ENGINE, such as samplewise/vote(16)@tiny"
# Inspect's name of a setting -> the field of a request that says the same.
FIELDS: Mapping[str, str] = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_seqs": "stop",
    "seed": "seed",
    "num_choices": "n",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
    "best_of": "best_of",
    "prompt_logprobs": "prompt_logprobs",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "logit_bias": "logit_bias",
    "parallel_tool_calls": "parallel_tool_calls",
    "reasoning_effort": "reasoning_effort",
    "verbosity": "verbosity",
    "modalities": "modalities",
}
# Settings that Inspect acts on itself, or that are about how a request is sent and not about what comes back.
OWN = frozenset(
    {
        "max_retries",
        "timeout",  # the deadline of a request, see the provider
        "attempt_timeout",
        "stream_idle_timeout",
        "max_connections",
        "adaptive_connections",
        "system_message",
        "internal_tools",
        "max_tool_output",
        "cache_prompt",
        "reasoning_history",
        "fail_on_refusal",
        "response_schema",
        "extra_body",
        "cache",
    }
)


class Served(NamedTuple):
    """What a model's name stands for. `recipe` is None for a plain model: one draw."""

    recipe: str | None
    engine: str


def read_name(
    name: str, beside: str | None = None, presets: Mapping[str, str] = {}, base_url: str | None = None
) -> Served:
    """Return the recipe and the engine of a model's name, `RECIPE@ENGINE` or `ENGINE`.

    `beside` is a recipe that is given beside the name. `presets` may be named in place of recipes. `base_url` is that
    of the engine. Raises UsageError.
    """
    within, engine = split_name(name, (), presets)
    if within is not None and beside is not None:
        raise UsageError(f"two recipes: {within} in the model's name, and recipe={beside}; give one")
    if within is None and is_recipe(engine, presets):
        raise UsageError(f"the model samplewise/{name} names no engine; say {EXAMPLE}")
    left, at, _ = engine.partition("@")
    if within is None and at and not _is_engine(left):
        raise UsageError(f"{left!r} is neither a recipe nor a preset; say {EXAMPLE}")
    line = within if within is not None else beside
    return Served(None if line is None else presets.get(line.strip(), line), _at(engine, base_url))


def _is_engine(text: str) -> bool:
    try:
        return parse_spec(text).name in names("engine")
    except BadSpec:
        return False


def _at(engine: str, base_url: str | None) -> str:
    """Return the spec of an engine with the URL of its endpoint. Raises UsageError for an engine that has none."""
    if base_url is None:
        return engine
    spec = parse_spec(engine)
    if "base_url" not in inspect.signature(factory("engine", spec.name, spec.text, spec.column)).parameters:
        raise UsageError(f"{spec.name} is no endpoint, so it takes no base URL; http:MODEL does")
    settings = {**dict(spec.kwargs), "base_url": base_url}
    return str(spec._replace(kwargs=tuple(settings.items())))


def request_body(
    model: str, messages: Json, settings: Mapping[str, Json], *, ours: Mapping[str, Json], tools: Mapping[str, Json]
) -> dict[str, Json]:
    """Return the body of a request, in the words of OpenAI's API.

    `settings` are Inspect's, without those that are not set. `ours` is the field `samplewise`, `tools` what the body
    says of tools. Raises UsageError for a setting that is not honored.
    """
    body: dict[str, Json] = {"model": model, "messages": messages, **tools, "samplewise": dict(ours)}
    for name, value in settings.items():
        if name in FIELDS:
            body[FIELDS[name]] = value
        elif name not in OWN:
            raise UsageError(f"samplewise does not honor the setting {name}; leave it out")
    if (schema := settings.get("response_schema")) is not None:
        format_ = {"name": schema["name"], "schema": schema["json_schema"]}
        format_ |= {name: schema[name] for name in ("description", "strict") if schema.get(name) is not None}
        body["response_format"] = {"type": "json_schema", "json_schema": format_}
    extra = dict(settings.get("extra_body") or {})
    body["samplewise"] |= extra.pop("samplewise", None) or {}
    return body | extra


class Seeds:
    """The seed of each request of an evaluation: of the same one again, another.

    A request is told apart by its epoch and by what it asks, and equal ones by their order. So the same evaluation has
    the same seeds, whatever the order of its samples, and epochs that are run again later draw anew.
    """

    def __init__(self, seed: int) -> None:
        self._key = Key(seed).fold("inspect")
        self._asked: Counter[tuple[int, str]] = Counter()

    def next(self, epoch: int, body: Mapping[str, Json]) -> int:
        """Return the seed of a request, in [0, 2**53)."""
        text = json.dumps(body, sort_keys=True, ensure_ascii=True, default=str)
        digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        number = self._asked[epoch, digest]
        self._asked[epoch, digest] += 1
        return self._key.fold(epoch, digest, number).seed()
