"""Decide what is run for a request: the recipe, on which model, and how the request's fields change its draws.

A recipe comes from the body, else from a header, else from the model's name. The fields of the request decide over what
the recipe says of the same, except that limits of both hold.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

from samplewise.core.errors import EngineError, SamplewiseError, SetupError, StoreError, Unsupported, UsageError
from samplewise.core.registry import build, factory
from samplewise.core.spec import Spec
from samplewise.core.types import Capability, Question, Reader, Usage
from samplewise.loop.threads import in_thread
from samplewise.recipe import Recipe, Stages, from_stages
from samplewise.serve.calls import CallReader
from samplewise.serve.names import DEFAULT_PRESETS, check_free, split_name, stages_of
from samplewise.serve.upstreams import Upstream
from samplewise.serve.wire import Call, DrawFields, RequestError
from samplewise.verify.auto import read_auto

K = TypeVar("K")
T = TypeVar("T")

PLAIN = "plain"  # the recipe label of a model without a strategy
CUSTOM = "custom"  # of a recipe that a client wrote
COMPLETIONS_MAX_TOKENS = 16  # of the older route, by its API
ANY_SAMPLER = Spec("repeat", (1,))
MAX_RECIPES, MAX_FRAMES = 256, 32  # that are kept; a frame may hold a reward model
NEUTRAL_DRAW = DrawFields(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)
DRAW_FIELDS = ("temperature", "top_p", "top_k", "min_p", "stop")
# The argument of each sampler that says how many candidates its pool has.
SIZE_ARGUMENTS: Mapping[str, str] = {
    "repeat": "num_samples",
    "power": "chains",
    "greedy": "chains",
    "tempering": "ladders",
    "smc": "num_particles",
    "sir": "num_samples",
    "adaptive": "num_chains",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """How requests are served.

    `presets` maps names to recipe lines. A request whose fields a recipe cannot honor gets a plain draw
    (`aside="plain"`) or status 400 ("refuse"); so does one that asks for fewer than `plain_below` tokens, such as a
    title for a chat. A request with tools is such a one, unless recipes vote over calls (`tools="vote"`).
    `max_tokens` is the limit of a draw where nobody names one, `seconds` that of a request. `heartbeat_s` is the time
    between two signs of life, `quiet_s` that before the first one of a reply that is not streamed, None for none. An
    unfinished run is remembered for `resume_s`.
    """

    presets: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_PRESETS))
    aside: Literal["plain", "refuse"] = "plain"
    tools: Literal["aside", "vote"] = "aside"
    plain_below: int = 0
    max_tokens: int = 2048
    seconds: float = 600.0
    heartbeat_s: float = 5.0
    quiet_s: float | None = 15.0
    resume_s: float = 600.0


class Plan(NamedTuple):
    """What is run for a request. `aside` names the field for which the recipe stepped aside."""

    upstream: Upstream
    recipe: Recipe
    label: str  # the preset's name, PLAIN or CUSTOM
    read: Reader
    aside: str | None = None
    is_relayed: bool = False  # the endpoint gets the request as it stands, in place of the recipe
    has_calls: bool = False  # the endpoint gets the request as it stands, for each draw of the recipe

    @property
    def verifier(self) -> str | None:
        """The verifier that the selector chooses by."""
        return next(iter(self.recipe.selector.verifiers), None)

    @property
    def size(self) -> int | None:
        """How many draws the recipe makes at most, None if that is not fixed."""
        return pool_size(self.recipe.stages) if self.recipe.sampler.name == "repeat" else None

    @property
    def max_tokens(self) -> int:
        """The limit of a draw, 0 if the sampler has none."""
        return int(dict(self.recipe.stages.sampler.kwargs).get("max_tokens", 0))


class Planner:
    """Makes plans. Keeps the recipes that it has built."""

    def __init__(self, upstreams: Mapping[str, Upstream], settings: ServeSettings) -> None:
        self._upstreams, self._settings = upstreams, settings
        self._recipes: OrderedDict[str, Recipe] = OrderedDict()
        self._frames: OrderedDict[str, asyncio.Future[Recipe]] = OrderedDict()  # with `ANY_SAMPLER`
        self._plans: OrderedDict[object, Plan] = OrderedDict()  # of requests that differ in their prompts alone

    async def prepare(self) -> None:
        """Build the parts of all presets. Raises UsageError for one that cannot be built."""
        for name, line in self._settings.presets.items():
            stages = stages_of(line)
            try:
                await self._frame(stages._replace(sampler=ANY_SAMPLER))
                build("sampler", stages.sampler)
            except SamplewiseError as error:
                raise UsageError(f"the preset {name} cannot be served: {error}") from None

    async def plan(self, call: Call, is_free: bool) -> Plan:
        """Return what is run for a request. `is_free`: it may name a recipe of its own. Raises RequestError."""
        if call.passed or call.relayed is not None or call.logprobs is not None:
            return await self._new_plan(call, is_free)
        wishes = call.wishes
        key = (is_free, call.route, call.model, call.fields, call.n, wishes.recipe, wishes.draws, wishes.read)
        if (known := self._plans.get(key)) is not None:
            self._plans.move_to_end(key)
            return known
        plan = await self._new_plan(call, is_free)
        _keep(self._plans, key, plan, MAX_RECIPES)
        return plan

    async def _new_plan(self, call: Call, is_free: bool) -> Plan:
        upstream, stages, label = self._stages(call, is_free)
        try:
            await upstream.engine.open()
        except SamplewiseError as error:
            raise raised_error(error) from None
        if call.relayed is not None:
            return await self._relayed(call, upstream, stages, label)
        max_tokens = self._max_tokens(call, upstream)
        aside = unhonored_field(call, stages, self._settings.plain_below) if label != PLAIN else None
        if aside is None:
            recipe = await self._recipe(with_request(stages, call, max_tokens))
            aside = None if _keeps_temperature(recipe, call.fields) else "temperature"
        if aside is not None:
            if self._settings.aside == "refuse":
                raise RequestError(f"{stages.line} cannot honor {aside}", param=aside, code="unsupported_parameter")
            label = PLAIN
            recipe = await self._recipe(with_request(plain_stages(call.n), call, max_tokens))
        if call.logprobs is not None:
            check_logprobs(call, recipe, upstream)
        if call.passed and upstream.variants is None:
            name = next(iter(call.passed))
            raise RequestError(
                f"{name} cannot be honored: {upstream.name} is no endpoint that it could be passed on to",
                param=name,
                code="unsupported_parameter",
            )
        return Plan(upstream, recipe, label, _reader(call, label), aside)

    async def _relayed(self, call: Call, upstream: Upstream, stages: Stages, label: str) -> Plan:
        """Return the plan of a request that goes to the endpoint as it stands."""
        what, aside = f"{call.relayed} cannot be honored", call.relayed
        if upstream.relay is None:
            message = f"{what}: {upstream.name} is no endpoint that calls tools or takes anything but text"
            raise RequestError(message, param=call.relayed, code="unsupported_parameter")
        if label != PLAIN and self._settings.tools == "vote" and call.is_about_calls:
            aside = unhonored_field(call, stages, self._settings.plain_below)
            recipe = await self._recipe(with_request(stages, call, self._max_tokens(call, upstream)))
            if aside is None and can_vote_over_calls(recipe):
                return Plan(upstream, recipe, label, _call_reader(call), has_calls=True)
            aside = aside or call.relayed
        if label != PLAIN and self._settings.aside == "refuse":
            message = f"{what} by {stages.line}; ask for {upstream.name} itself"
            raise RequestError(message, param=call.relayed, code="unsupported_parameter")
        recipe = await self._recipe(with_request(plain_stages(call.n), call, self._max_tokens(call, upstream)))
        return Plan(upstream, recipe, PLAIN, read_whole, aside if label != PLAIN else None, is_relayed=True)

    def _stages(self, call: Call, is_free: bool) -> tuple[Upstream, Stages, str]:
        """Return the model, the recipe's stages as they are named, and its label."""
        presets, wishes = self._settings.presets, call.wishes
        name = split_name(call.model, self._upstreams, presets)
        upstream = self._upstreams.get(name.model)
        if upstream is None:
            raise self._no_model(call.model, name.model)
        text = wishes.recipe if wishes.recipe is not None else name.recipe
        param = "samplewise.recipe" if wishes.recipe is not None else "model"
        if text is None:
            label, stages = PLAIN, plain_stages(call.n)
        elif text in presets:
            label, stages = text, stages_of(presets[text])
        else:
            label, stages = CUSTOM, _custom_stages(text, param, is_free)
        if wishes.draws is not None:
            if not is_free:
                raise _not_free("X-ITS-Budget")
            if label == PLAIN:
                label, stages = CUSTOM, stages_of("repeat(1) | vote")
            stages = with_size(stages, wishes.draws)
        return upstream, stages, label

    def _no_model(self, whole: str, model: str) -> RequestError:
        """Return the error for a name without a model. Where a recipe before "@" is the reason, it says why."""
        left, at, right = whole.partition("@")
        hint = ""
        if at and right.strip() in self._upstreams:
            try:
                stages_of(left.strip())
            except SamplewiseError as error:
                hint = f" ({error})"
        return RequestError(
            f"no model is called {model!r}{hint}; there are {', '.join(self._upstreams)}, and RECIPE@MODEL",
            status=404,
            param="model",
            code="model_not_found",
        )

    def _max_tokens(self, call: Call, upstream: Upstream) -> int:
        if call.fields.max_tokens is not None:
            return call.fields.max_tokens
        if call.route == "completions":
            return COMPLETIONS_MAX_TOKENS
        return upstream.engine.default_max_tokens or self._settings.max_tokens

    async def _recipe(self, stages: Stages) -> Recipe:
        """Return the recipe of stages.

        All but the sampler is built once for all requests: a reward model is loaded with it, so also in a thread.
        """
        line = stages.line
        if (known := self._recipes.get(line)) is not None:
            self._recipes.move_to_end(line)
            return known
        try:
            frame = await self._frame(stages._replace(sampler=ANY_SAMPLER))
            sampler = build("sampler", stages.sampler)
        except SamplewiseError as error:
            raise RequestError(str(error), param="model", code="invalid_recipe") from None
        recipe = dataclasses.replace(frame, stages=stages, sampler=sampler)
        _keep(self._recipes, line, recipe, MAX_RECIPES)
        return recipe

    async def _frame(self, stages: Stages) -> Recipe:
        """Return the recipe of stages. Requests that come while it is built wait for the same one."""
        line = stages.line
        building = self._frames.get(line)
        if building is None:
            building = asyncio.ensure_future(in_thread(from_stages, stages))
            _keep(self._frames, line, building, MAX_FRAMES)
        self._frames.move_to_end(line)
        try:
            return await asyncio.shield(building)  # who leaves does not end it for the others
        except SamplewiseError:
            if self._frames.get(line) is building:
                del self._frames[line]
            raise


def _keep(kept: OrderedDict[K, T], key: K, value: T, most: int) -> None:
    """Keep a value, and forget the one that was used longest ago if there are too many."""
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)


def plain_stages(n: int) -> Stages:
    """Return the stages of a plain model: n draws, the first of which is the answer."""
    return Stages(None, Spec("repeat", (n,)), None, Spec("first"))


def pool_size(stages: Stages) -> int | None:
    """Return how many candidates a sampler's pool has, None if that is not known."""
    sampler = stages.sampler
    if sampler.name not in SIZE_ARGUMENTS:
        return None
    position, default = _size_parameter(sampler.name)
    named = dict(sampler.kwargs).get(SIZE_ARGUMENTS[sampler.name], default)
    size = sampler.args[position] if position < len(sampler.args) else named
    return size if isinstance(size, int) else None


@functools.cache
def _size_parameter(name: str) -> tuple[int, Any]:
    """Return the position of the argument that sets the size of a sampler's pool, and its default."""
    parameters = _signature(name).parameters
    return list(parameters).index(SIZE_ARGUMENTS[name]), parameters[SIZE_ARGUMENTS[name]].default


def with_size(stages: Stages, num: int) -> Stages:
    """Return stages whose pool has this many candidates. Raises RequestError where a sampler has no such number."""
    name = SIZE_ARGUMENTS.get(stages.sampler.name)
    if name is None:
        raise RequestError(f"{stages.sampler.name} has no number of candidates to set", param="n")
    position, _ = _size_parameter(stages.sampler.name)
    args, kwargs = stages.sampler.args, dict(stages.sampler.kwargs)
    if position < len(args):
        args = (*args[:position], num, *args[position + 1 :])
    elif position == len(args) and name not in kwargs:
        args = (*args, num)
    else:
        kwargs[name] = num
    return stages._replace(sampler=stages.sampler._replace(args=args, kwargs=tuple(kwargs.items())))


@functools.cache
def _signature(name: str) -> inspect.Signature:
    return inspect.signature(factory("sampler", name))


def unhonored_field(call: Call, stages: Stages, plain_below: int = 0) -> str | None:
    """Return the field for which a recipe must step aside, None if it can honor all of them.

    Only `repeat` draws as the fields say. Other samplers set their own temperatures, as that is what they are. Greedy
    draws are copies of one another, so there is nothing to choose among.
    """
    fields = call.fields
    if fields.max_tokens is not None and fields.max_tokens < plain_below:
        return "max_tokens"
    is_repeat = stages.sampler.name == "repeat"
    if fields.temperature == 0 and not (is_repeat and pool_size(stages) == 1):
        return "temperature"
    if is_repeat:
        return None
    if call.logprobs is not None:
        return "logprobs"
    differing = (name for name in DRAW_FIELDS if getattr(fields, name) not in (None, getattr(NEUTRAL_DRAW, name)))
    return next(differing, None)


def with_request(stages: Stages, call: Call, max_tokens: int) -> Stages:
    """Return the stages with the request's fields: how `repeat` draws, the limit of a draw, at least n candidates.

    `max_tokens` is the limit where the recipe names none; where recipe and request name one, both hold.
    """
    kwargs = dict(stages.sampler.kwargs)
    if stages.sampler.name not in SIZE_ARGUMENTS:  # a plugin's: it may take none of the fields
        if call.fields.max_tokens is not None and "max_tokens" not in _signature(stages.sampler.name).parameters:
            raise RequestError(f"{stages.sampler.name} takes no max_tokens", param="max_tokens")
        if "max_tokens" not in _signature(stages.sampler.name).parameters:
            return stages
    named = kwargs.get("max_tokens")
    if not isinstance(named, int):
        kwargs["max_tokens"] = max_tokens
    elif call.fields.max_tokens is not None:
        kwargs["max_tokens"] = min(named, call.fields.max_tokens)
    if stages.sampler.name == "repeat":
        for name in DRAW_FIELDS:
            if (value := getattr(call.fields, name)) not in (None, ()):
                kwargs[name] = value
    changed = stages._replace(sampler=stages.sampler._replace(kwargs=tuple(kwargs.items())))
    size = pool_size(changed)
    return with_size(changed, call.n) if size is not None and 1 <= size < call.n else changed


def shows_as_drawn(call: Call, plan: Plan) -> bool:
    """Return whether a stream may show a draw while it is drawn: it is the only one, and the answer in any case."""
    recipe = plan.recipe
    is_alone = recipe.sampler.name == "repeat" and plan.size == 1 and recipe.stages.vary is None and recipe.stop is None
    is_plain = not recipe.verifiers and not plan.is_relayed and not plan.has_calls
    return call.stream and call.n == 1 and call.logprobs is None and is_alone and is_plain


def can_vote_over_calls(recipe: Recipe) -> bool:
    """Return whether a recipe decides by answers alone, so that these may be calls of tools."""
    stages = recipe.stages
    counts = stages.selector.name in ("vote", "first") and not recipe.verifiers
    return stages.sampler.name == "repeat" and stages.vary is None and counts and recipe.needs <= {Capability.GENERATE}


def check_logprobs(call: Call, recipe: Recipe, upstream: Upstream) -> None:
    """Raise RequestError where the model's draws come without the log-probs that a request wants."""
    engine = upstream.engine
    if Capability.LOGP not in engine.can:
        raise RequestError(f"{upstream.name} gives no log-probs", param="logprobs", code="unsupported_parameter")
    for sampling in sorted(recipe.samplings):
        if why := engine.why_no_logp(sampling):
            raise RequestError(f"{upstream.name} {why}", param="logprobs", code="unsupported_parameter")
    if call.logprobs and Capability.TOP not in engine.can:
        param = "top_logprobs" if call.route == "chat" else "logprobs"
        raise RequestError(f"{upstream.name} does not list likely tokens", param=param, code="unsupported_parameter")


def _keeps_temperature(recipe: Recipe, fields: DrawFields) -> bool:
    """Return whether the draws have the temperature asked for; arms such as `ladder` set their own."""
    if fields.temperature is None or recipe.stages.vary is None:
        return True
    return all(sampling.temperature == fields.temperature for sampling in recipe.samplings)


def _custom_stages(text: str, param: str, is_free: bool) -> Stages:
    if not is_free:
        raise _not_free(param)
    try:
        stages = stages_of(text)
    except SamplewiseError as error:
        raise RequestError(str(error), param=param, code="invalid_recipe") from None
    check_free(stages)
    return stages


def _not_free(param: str) -> RequestError:
    message = "this key may use plain models and the presets that GET /v1/models lists, not recipes of its own"
    return RequestError(message, status=403, param=param, code="recipe_not_allowed")


def raised_error(error: SamplewiseError, paid: Usage = Usage()) -> RequestError:
    """Return what a client is answered when an engine raised. After tokens were paid it must not just try again."""
    retry = False if paid.tokens else None
    if isinstance(error, Unsupported | UsageError):
        return RequestError(str(error), param="model", code="unsupported_recipe", retry=retry)
    if isinstance(error, EngineError | StoreError):
        return RequestError(str(error), status=503, code="engine_unavailable", retry=retry)
    message = str(error) if isinstance(error, SetupError) else "the run failed"
    return RequestError(message, status=502, code="engine_misconfigured", retry=False)


# --- how an answer is read --------------------------------------------------------------------------------------------


def _reader(call: Call, label: str) -> Reader:
    """Return what reads the answer out of a response. Raises RequestError."""
    if call.wishes.read is not None:
        try:
            reader: Reader = build("reader", call.wishes.read)
        except SamplewiseError as error:
            raise RequestError(str(error), param="samplewise.read", code="invalid_reader") from None
        return reader
    if "response_format" in call.passed:
        return read_canonical_json
    return read_whole if label == PLAIN else read_auto


def _call_reader(call: Call) -> Reader:
    """Return what reads the decision of a reply that may call tools. Raises RequestError."""
    return CallReader(None if call.wishes.read is None else _reader(call, CUSTOM))


def read_canonical_json(question: Question, text: str) -> str | None:
    """Return a JSON text in one canonical form, so that equal objects are one answer; None if it is not JSON."""
    try:
        return json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None


def read_whole(question: Question, text: str) -> str | None:
    """Return the text as it is, None if it is blank: of a plain model nothing is chosen."""
    return text if text.strip() else None
