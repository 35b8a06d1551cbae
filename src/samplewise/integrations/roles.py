"""An engine whose draws are made by models of Inspect: the one that it evaluates, and its model roles as helpers.

Inspect sends, retries, limits and logs each draw as it does any other generation.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageUser,
    ContentReasoning,
    GenerateConfig,
    Model,
    ModelOutput,
    ModelUsage,
    get_model,
    model_roles,
)
from inspect_ai.util import LimitExceededError

from samplewise.core.errors import BadRequest, SamplewiseError, UsageError
from samplewise.core.types import Ask, Capability, Completion, Generate, Message, Usage
from samplewise.engines.base import Arrival, Engine, failed, tell_reasoning

MAX_TOKENS = 2048  # of a draw where neither the recipe, the solver nor the model names a limit
MESSAGE_TOKENS = 16  # at most, that a template adds to a message
CLASSES: Mapping[str, type[ChatMessage]] = {
    "system": ChatMessageSystem,
    "developer": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
}
CUT = ("max_tokens", "model_length")
LIMIT_NOTE = "the limit of a sample is reached"


class LimitReached(SamplewiseError):
    """A limit of Inspect ends the sample. `error` is Inspect's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(f"{LIMIT_NOTE}: {error}")
        self.error = error


class InspectEngine(Engine):
    """Models of Inspect by name: the solver under "", helpers and judges by their roles."""

    def __init__(self, model: Model, roles: Mapping[str, Model] = {}, max_tokens: int | None = None) -> None:
        self._model = model
        self._roles = {name: InspectEngine(other) for name, other in roles.items()}
        self.members = frozenset(roles)
        self.name = self.identity = f"inspect({model})"
        self.default_max_tokens = max_tokens or model.config.max_tokens or MAX_TOKENS

    @classmethod
    def of_roles(cls, names: Iterable[str], max_tokens: int | None = None) -> InspectEngine:
        """Return the engine of the model that is evaluated, with the roles of these names. Raises UsageError."""
        known = model_roles()
        for name in sorted(names):
            if name not in known:
                raise UsageError(f"the recipe asks an engine called {name}; give one: --model-role {name}=MODEL")
        return cls(get_model(), {name: get_model(role=name) for name in names}, max_tokens)

    @property
    def can(self) -> frozenset[Capability]:
        return frozenset({Capability.GENERATE})

    def member(self, ask: Ask) -> InspectEngine:
        return self._roles.get(ask.engine, self) if isinstance(ask, Generate) else self

    def worst_case(self, ask: Ask) -> Usage:
        """Return the most that an ask can cost: a token for each byte of its prompt. In USD it is not known."""
        prompt = sum(len(message.content.encode(errors="replace")) + MESSAGE_TOKENS for message in ask.messages)
        most = ask.max_tokens if isinstance(ask, Generate) else 0
        return Usage(requests=1, prompt_tokens=prompt, completion_tokens=most, usd=math.nan)

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        tasks = {asyncio.create_task(self.member(ask)._draw(ask)): position for position, ask in enumerate(asks)}
        waiting = set(tasks)
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in sorted(done, key=tasks.__getitem__):
                    yield Arrival(tasks[task], task.result())
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _draw(self, ask: Ask) -> Completion:
        """Return the completion of one ask. Raises LimitReached."""
        if not isinstance(ask, Generate) or ask.prefix or ask.sampling.explore or ask.sampling.min_p:
            return failed(BadRequest("models of Inspect draw whole responses: no likelihood, prefix, group or min_p"))
        sampling, started = ask.sampling, time.monotonic()
        config = GenerateConfig(
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampling.top_p < 1 else None,
            top_k=sampling.top_k or None,
            max_tokens=ask.max_tokens,
            stop_seqs=list(ask.stop) or None,
            seed=ask.seed,
        )
        messages = [CLASSES[message.role](content=message.content) for message in ask.messages]
        try:
            output = await self._model.generate(messages, config=config)
        except LimitExceededError as error:
            raise LimitReached(error) from error
        except Exception as error:  # after Inspect's own retries
            return failed(BadRequest(f"{self._model}: {type(error).__name__}: {error}"))
        if output.empty or output.error:
            return failed(BadRequest(f"{self._model}: {output.error or 'no response came'}"), usage_of(output))
        usage = usage_of(output)._replace(seconds=time.monotonic() - started)
        finish: Any = "length" if output.stop_reason in CUT else "stop"
        reasoning = _reasoning_of(output)
        return tell_reasoning(Completion(output.completion, finish, usage), ask, reasoning=reasoning)


def usage_of(output: ModelOutput) -> Usage:
    """Return what a generation of Inspect cost. Money is unknown where Inspect knows no price."""
    used = output.usage
    if used is None:
        return Usage(requests=1, usd=math.nan)
    cached = used.input_tokens_cache_read or 0
    return Usage(
        requests=1,
        prompt_tokens=used.input_tokens + cached + (used.input_tokens_cache_write or 0),
        completion_tokens=used.output_tokens,
        cached_tokens=cached,
        reasoning_tokens=used.reasoning_tokens or 0,
        usd=math.nan if used.total_cost is None else used.total_cost,
    )


def model_usage(usage: Usage) -> ModelUsage:
    """Return a cost as Inspect has it: cached tokens apart from the others, money that is not known as None."""
    return ModelUsage(
        input_tokens=usage.prompt_tokens - usage.cached_tokens,
        output_tokens=usage.completion_tokens,
        total_tokens=usage.tokens,
        input_tokens_cache_read=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        total_cost=usage.usd if math.isfinite(usage.usd) else None,
    )


def text_messages(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Return a conversation as text. Raises UsageError where some of it is not."""
    listed = []
    for message in messages:
        parts = [] if isinstance(message.content, str) else message.content
        other = next((part.type for part in parts if part.type not in ("text", "reasoning")), None)
        if other is not None or message.role == "tool":
            raise UsageError(
                f"the solver samplewise/recipe asks about text alone, and the sample holds: {other or 'tool'}"
            )
        listed.append(Message(message.role, message.text))
    return tuple(listed)


def _reasoning_of(output: ModelOutput) -> str:
    content = output.message.content
    parts = [] if isinstance(content, str) else [part for part in content if isinstance(part, ContentReasoning)]
    return "\n\n".join(part.reasoning for part in parts if part.reasoning)
