"""Names of models: a plain one, `RECIPE@MODEL`, or a preset of the operator as `PRESET@MODEL`. Pure.

A name is split at the first "@" whose left part is a preset or parses as a recipe; a name without one is a model's as
it stands, so `@cf/meta/llama` and `claude@2025` stay what they are. `vote(16)@qwen` is short for
`repeat(16) | vote@qwen`, and so for every selector.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from samplewise.core.errors import SamplewiseError, UsageError
from samplewise.core.registry import kinds_of
from samplewise.core.spec import Spec, parse_spec
from samplewise.core.types import Json
from samplewise.recipe import Stages, parse_stages
from samplewise.serve.fields import MAX_DRAWS
from samplewise.serve.wire import RequestError

PRESET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
DEFAULT_PRESETS: Mapping[str, str] = {"vote8": "repeat(8) | vote"}
# In a recipe that a client wrote: the verifiers that read no file, reach no other server and run no program.
FREE_VERIFIERS = (
    "consistent",
    "deepconf",
    "judge",
    "knockout",
    "likelihood",
    "listwise",
    "logp",
    "pivot",
    "puzzle",
    "reward",
    "same",
    "self_certainty",
)
MAX_SPLITS = 16  # of the "@" in a name that are tried
LARGE = {"max_tokens": 131_072, "budget_tokens": 10**9}  # arguments that may be larger
WORD = re.compile(r"[A-Za-z_]{1,32}")


class ModelName(NamedTuple):
    """A name in its parts. `recipe` is None for a plain model."""

    recipe: str | None
    model: str


def split_name(name: str, models: Collection[str], presets: Collection[str]) -> ModelName:
    """Return the parts of a model's name.

    A preset or a recipe alone is one of the only model, if there is just one.
    """
    if name in models:
        return ModelName(None, name)
    index = -1
    for _ in range(MAX_SPLITS):
        index = name.find("@", index + 1)
        if index < 0:
            break
        if is_recipe(name[:index].strip(), presets):
            return ModelName(name[:index].strip(), name[index + 1 :].strip())
    if len(models) == 1 and is_recipe(name.strip(), presets):
        return ModelName(name.strip(), next(iter(models)))
    return ModelName(None, name)


def is_recipe(text: str, presets: Collection[str]) -> bool:
    """Return whether a text is a preset's name, or parses as a recipe."""
    if text in presets:
        return True
    try:
        stages_of(text)
    except SamplewiseError:
        return False
    return True


def stages_of(text: str) -> Stages:
    """Return the stages of a recipe line, or of the short form `vote(16)`. Raises BadSpec or UnknownName."""
    if "|" not in text:
        spec = parse_spec(text) if ":" not in text else None
        if spec is not None and "sampler" not in kinds_of(spec.name) and "selector" in kinds_of(spec.name):
            num, *others = spec.args or (None,)
            if isinstance(num, int) and not isinstance(num, bool):
                return Stages(None, Spec("repeat", (num,)), None, spec._replace(args=tuple(others)))
    return parse_stages(text)


def names_in(value: Json) -> Iterator[str]:
    """Yield every bare name and text in a recipe's stages, among them those of the engines that it asks."""
    if isinstance(value, Spec):
        if not value.args and not value.kwargs:
            yield value.name
        value = (*value.args, *(each for _, each in value.kwargs))
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from names_in(each)


def parse_presets(lines: Collection[str]) -> dict[str, str]:
    """Return presets by name, from lines such as `fast=repeat(8) | vote`. Raises UsageError."""
    presets: dict[str, str] = {}
    for line in lines:
        name, separator, recipe = (part.strip() for part in line.partition("="))
        if not separator or not PRESET_NAME.fullmatch(name):
            raise UsageError(f'a preset is NAME="RECIPE", such as fast="repeat(8) | vote"; got {line!r}')
        if name in presets:
            raise UsageError(f"the preset {name} is given twice")
        presets[name] = stages_of(recipe.strip("\"'")).line
    return presets


def check_free(stages: Stages) -> None:
    """Raise RequestError if a recipe that a client wrote does what only an operator may allow."""
    for stage, spec in zip(Stages._fields, stages, strict=True):
        if spec is not None:
            for problem in _problems(spec, is_prompt=stage == "vary"):
                raise RequestError(
                    f"a recipe in a request {problem}; the operator may allow it as a preset",
                    status=403,
                    param="model",
                    code="recipe_not_allowed",
                )


def _problems(value: Json, *, is_prompt: bool, name: str = "") -> Iterator[str]:
    """Yield what is not allowed in a part of a recipe. A text may name a file, but in `vary` it is a prompt."""
    if isinstance(value, Spec):
        if "verifier" in kinds_of(value.name) and value.name not in FREE_VERIFIERS:
            yield f"must not use {value.name}"
        if value.name == "reward" and (value.args or value.kwargs):
            yield "must not name a reward model"
        for each in value.args:
            yield from _problems(each, is_prompt=is_prompt)
        for key, each in value.kwargs:
            yield from _problems(each, is_prompt=is_prompt, name=key)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _problems(each, is_prompt=is_prompt, name=name)
    elif isinstance(value, dict):
        yield "must not hold a dictionary"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) > LARGE.get(name, MAX_DRAWS):
            yield f"must not hold a number above {LARGE.get(name, MAX_DRAWS):,}"
    elif isinstance(value, str) and not is_prompt and (name in ("", "prior") or not WORD.fullmatch(value)):
        yield f"must not hold the text {value[:40]!r}"


def list_models(models: Collection[str], presets: Collection[str], created: int) -> dict[str, Json]:
    """Return the body of /v1/models: the plain models, then each with every preset."""
    names = [*models, *(f"{preset}@{model}" for model in models for preset in presets)]
    return {"object": "list", "data": [model_json(name, created) for name in names]}


def model_json(name: str, created: int) -> dict[str, Json]:
    """Return one model as /v1/models lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "samplewise"}
