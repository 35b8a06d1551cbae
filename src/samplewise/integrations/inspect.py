"""Recipes in Inspect: a model, `samplewise/RECIPE@ENGINE`, and a solver, `samplewise/recipe`.

    inspect eval task.py --model "samplewise/vote(16)@tiny"
    inspect eval task.py --model openai/gpt-5-mini --solver samplewise/recipe -S recipe="repeat(8) | vote"

Inspect finds both by an entry point. The model is a recipe over one of our engines: each of its generations is a run,
as `samplewise serve` makes it, and the usage that it reports is that of the whole run. The solver makes the draws of a
recipe with the model that Inspect evaluates, whichever that is, and its helpers and judges are Inspect's model roles.

Both put what a run decided into the output's metadata, as `samplewise`: recipe, draws, votes, agreement, why it
stopped, what it cost.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Literal, NamedTuple

from samplewise.core.errors import MissingExtra, SamplewiseError, UsageError

try:
    from inspect_ai._util.error import PrerequisiteError
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessage,
        ChatMessageAssistant,
        ContentReasoning,
        ContentText,
        GenerateConfig,
        ModelAPI,
        ModelOutput,
        get_model,
        messages_to_openai,
        model_output_from_openai,
        modelapi,
    )
    from inspect_ai.solver import Generate, Solver, TaskState, solver
    from inspect_ai.tool import ToolChoice, ToolInfo
except ImportError:
    raise MissingExtra("the part of Inspect that runs recipes", "inspect") from None

from samplewise.api import asolve
from samplewise.cli.config import load_config
from samplewise.core.keys import Key
from samplewise.core.types import Json, Question
from samplewise.engines.base import MAX_CONCURRENCY
from samplewise.integrations.request import Seeds, read_name, request_body
from samplewise.integrations.roles import InspectEngine, LimitReached, model_usage, text_messages
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.recipe import recipe as parse_recipe
from samplewise.serve.jobs import Jobs
from samplewise.serve.keys import Policy
from samplewise.serve.names import stages_of
from samplewise.serve.plans import ServeSettings
from samplewise.serve.replies import evidence_of, ranked_positions, reply_json
from samplewise.serve.upstreams import make_upstream
from samplewise.serve.wire import RequestError, parse_call
from samplewise.store.database import Store

DEFAULT_RECIPE = "repeat(8) | vote"
PRESET, POLICY = "recipe", Policy("inspect", recipes="free")
NO_SETTINGS = GenerateConfig()
LONGEST_S = 86_400.0  # of a generation for which Inspect sets no timeout


@modelapi(name="samplewise")
class SamplewiseAPI(ModelAPI):
    """A recipe over an engine, as a model of Inspect.

    The name is `RECIPE@ENGINE`, or `ENGINE` for a plain model or with `recipe` beside it. Engines and presets of
    samplewise.toml may be named. A comma ends a name on Inspect's command line, so a line that has one is a preset, or
    is given as -M recipe=... . `read` says how answers are read, `seed` fixes all runs, and `store` keeps their draws:
    the same evaluation again costs nothing. `budget_tokens` and `budget_usd` limit one generation. `tools` "vote" votes
    over calls of tools, "aside" passes requests with tools on to the endpoint as they are.
    """

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig = NO_SETTINGS,
        *,
        recipe: str | list[str] | None = None,
        read: str | list[str] | None = None,
        store: str | None = None,
        seed: int = 0,
        budget_tokens: int | None = None,
        budget_usd: float | None = None,
        tools: Literal["aside", "vote"] = "aside",
        **unknown: Any,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config)
        try:
            if unknown:
                raise UsageError(f"samplewise/{model_name} takes no argument {next(iter(unknown))}")
            if tools not in ("aside", "vote"):
                raise UsageError(f"tools must be aside or vote, got {tools!r}")
            settings = load_config(None)
            self._recipe, engine = read_name(model_name, _whole(recipe), settings.presets, base_url)
            self._engine = settings.engine_spec(engine)
            presets = {} if self._recipe is None else {PRESET: stages_of(self._recipe).line}
            self._settings = ServeSettings(presets=presets, tools=tools)
            make_upstream(self._engine)  # built now, so that a mistake is said before anything is asked
        except SamplewiseError as error:
            raise PrerequisiteError(str(error)) from error
        budget = {"tokens": budget_tokens, "usd": budget_usd}
        self._wishes: dict[str, Json] = {
            "return": ["votes"],
            "read": _whole(read),
            "budget": {name: value for name, value in budget.items() if value is not None},
        }
        self._store, self._seeds = store, Seeds(seed)
        self._running: _Running | None = None

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Run the recipe on a conversation. Raises RuntimeError where no answer came."""
        jobs = self._jobs()
        ours = self._wishes | ({} if self._recipe is None else {"recipe": PRESET})
        settings = config.model_dump(exclude_none=True)
        messages = await messages_to_openai(input)
        body = request_body(next(iter(jobs.upstreams)), messages, settings, ours=ours, tools=_tools(tools, tool_choice))
        deadline = time.monotonic() + (config.timeout or LONGEST_S)
        try:
            call = parse_call(body, "chat")
            if call.seed is None:
                call = call._replace(seed=self._seeds.next(_epoch(), body))
            job = await jobs.start(call, b"", POLICY, deadline)
            answer = await jobs.answer(job)
        except RequestError as error:
            if error.code == "context_length_exceeded":
                return ModelOutput.from_content(self.model_name, str(error), "model_length", str(error))
            raise RuntimeError(f"samplewise/{self.model_name}: {error}") from error
        output = await model_output_from_openai(reply_json(answer, "chat"))
        output.model = self.model_name
        output.metadata = {"samplewise": dict(answer.evidence)}
        output.usage = model_usage(answer.usage)
        return output

    async def aclose(self) -> None:
        """Close the engine and the store; a later generation opens them again."""
        running, self._running = self._running, None
        if running is not None:
            if running.loop is asyncio.get_running_loop():
                await running.jobs.close_engines()
            if self._store is not None:
                _give_back(self._store)

    def max_connections(self) -> int:
        """Return how many generations may run at once. The engine limits its own requests."""
        return MAX_CONCURRENCY

    def connection_key(self) -> str:
        """Return what tells models apart whose generations are limited together."""
        return self._engine

    def _jobs(self) -> Jobs:
        """Return what runs requests in this event loop."""
        loop = asyncio.get_running_loop()
        if self._running is None or self._running.loop is not loop:
            if self._running is not None and self._store is not None:
                _give_back(self._store)
            store = None if self._store is None else _lend(self._store)
            self._running = _Running(loop, Jobs([make_upstream(self._engine)], self._settings, store))
        return self._running.jobs


def _whole(value: str | list[str] | None) -> str | None:
    """Return a text that Inspect's command line may have cut at its commas."""
    return value if isinstance(value, str | None) else ",".join(map(str, value))


class _Running(NamedTuple):
    """What runs requests, and the event loop in which it does."""

    loop: asyncio.AbstractEventLoop
    jobs: Jobs


# Open stores by path, with the number of models that draw into each: those of one evaluation share their draws.
_stores: dict[str, tuple[Store, int]] = {}


def _lend(path: str) -> Store:
    """Return the store, opened and claimed by the first who asks. Raises StoreError."""
    store, num = _stores.get(path, (None, 0))
    if store is None:
        store = Store(path)
        store.claim()
    _stores[path] = (store, num + 1)
    return store


def _give_back(path: str) -> None:
    """Close the store when nobody draws into it any more."""
    store, num = _stores.pop(path)
    if num > 1:
        _stores[path] = (store, num - 1)
    else:
        store.close()


def _tools(tools: list[ToolInfo], choice: ToolChoice) -> dict[str, Json]:
    """Return what a request's body says of tools."""
    if not tools:
        return {}
    listed = [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters.model_dump(exclude_none=True),
            },
        }
        for tool in tools
    ]
    if isinstance(choice, str):
        return {"tools": listed, "tool_choice": "required" if choice == "any" else choice}
    return {"tools": listed, "tool_choice": {"type": "function", "function": {"name": choice.name}}}


def _epoch() -> int:
    """Return the epoch of the sample that generates, 0 outside of an evaluation."""
    try:
        from inspect_ai.log._samples import sample_active
    except ImportError:  # it has no public name
        return 0
    sample = sample_active()
    return 0 if sample is None else int(sample.epoch)


@solver(name="recipe")
def samplewise_solver(
    recipe: str | list[str] = DEFAULT_RECIPE,
    *,
    engine: str | None = None,
    read: str | list[str] | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
    budget_tokens: int | None = None,
    budget_seconds: float | None = None,
) -> Solver:
    """Answer with a recipe, in place of Inspect's `generate`.

    The draws are made with the model that Inspect evaluates; a helper or judge that the recipe names is the model role
    of that name. With `engine` they are made with an engine of ours, as the model `samplewise/ENGINE` would. `recipe`
    may be a preset of samplewise.toml. `max_tokens` limits each draw, `budget_tokens` and `budget_seconds` one sample.

    Costs what the recipe says. Raises PrerequisiteError for a recipe that cannot be read.
    """
    try:
        settings = load_config(None)
        line = settings.recipe_line(_whole(recipe) or DEFAULT_RECIPE)
        parsed = parse_recipe(stages_of(line).line)
    except SamplewiseError as error:
        raise PrerequisiteError(str(error)) from error
    reader = _whole(read)
    budget = Budget(tokens=budget_tokens, seconds=budget_seconds)

    async def with_engine(state: TaskState) -> ModelOutput:
        wishes = {"recipe": line, "read": reader, "seed": seed, "budget_tokens": budget_tokens}
        model = get_model(
            f"samplewise/{engine}", **{name: value for name, value in wishes.items() if value is not None}
        )
        limits = GenerateConfig(
            max_tokens=max_tokens, timeout=None if budget_seconds is None else math.ceil(budget_seconds)
        )
        return await model.generate(state.messages, config=limits)

    async def with_model(state: TaskState) -> ModelOutput:
        asked = InspectEngine.of_roles(parsed.engines, max_tokens)
        question = Question(f"{state.sample_id}", text_messages(state.messages))
        entropy = Key(seed).fold("inspect", state.epoch).seed()
        try:
            result = await asolve(question, engine=asked, recipe=parsed, read=reader, seed=entropy, budget=budget)
        except LimitReached as reached:
            raise reached.error from None
        return _output(result, asked.name, parsed.line)

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if state.tools:
            raise UsageError(
                "the solver samplewise/recipe calls no tools; the model samplewise/RECIPE@ENGINE passes them on"
            )
        state.output = await (with_model(state) if engine is None else with_engine(state))
        state.messages.append(state.output.message)
        return state

    return solve


def _output(result: Result, model: str, line: str) -> ModelOutput:
    """Return what a run decided, as the output of a generation. Raises RuntimeError where there is no draw."""
    if not result.pool.candidates:
        raise RuntimeError(f"{line}: no draw was answered; {result.pool.num_failed} failed, {result.stop.reason}")
    (position,) = ranked_positions(result.pool, result.answers, result.selection, 1)
    shown = result.pool.candidates[position]
    text = ContentText(text=shown.text)
    content = [ContentReasoning(reasoning=shown.reasoning), text] if shown.reasoning else shown.text
    is_cut = shown.finish == "length" or result.stop.reason == "budget"
    choice = ChatCompletionChoice(
        message=ChatMessageAssistant(content=content, source="generate", model=model),
        stop_reason="max_tokens" if is_cut else "stop",
    )
    usage = result.bill.total
    evidence = evidence_of(result, run="", recipe=line, usage=usage, paid=result.paid, returned=frozenset({"votes"}))
    del evidence["run"]  # it has none: Inspect keeps it
    return ModelOutput(model=model, choices=[choice], usage=model_usage(usage), metadata={"samplewise": evidence})
