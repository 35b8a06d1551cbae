"""The five-line use: one question, one answer."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path

from samplewise.engines.base import Engine
from samplewise.events import OnEvent, ignore
from samplewise.keys import Key
from samplewise.recipe import Recipe
from samplewise.recipe import recipe as parse_recipe
from samplewise.run import Budget, Result, run
from samplewise.spec import build
from samplewise.store import Store
from samplewise.types import Json, Message, Question, Reader
from samplewise.verify.readers import auto

DEFAULT_ENGINE = "tiny"
DEFAULT_RECIPE = "repeat(8) | vote"


async def asolve(
    question: str | Sequence[Message] | Question,
    *,
    engine: Engine | str = DEFAULT_ENGINE,
    recipe: Recipe | str = DEFAULT_RECIPE,
    read: Reader | None = None,
    facts: dict[str, Json] | None = None,
    seed: int = 0,
    budget: Budget = Budget(),
    store: Store | str | Path | None = None,
    on_event: OnEvent = ignore,
    cancel: asyncio.Event | None = None,
) -> Result:
    """Answer one question.

    `engine` is an engine or its spec; one that is given as a spec is closed afterwards. `read` turns a response into an
    answer (default: a boxed or "answer:" part, else the last line). `facts` is what a checker may know of the question.
    Costs what the recipe says, at most `budget`. Raises SetupError where something must be changed first; failed
    requests are values in the result.
    """
    asked = _question(question, facts or {})
    parsed = parse_recipe(recipe)
    opened: Engine = build("engine", engine) if isinstance(engine, str) else engine
    kept = Store(store) if isinstance(store, str | Path) else store
    try:
        return await run(
            asked,
            parsed,
            opened,
            Key(seed).fold("run"),
            read=read or auto(),
            budget=budget,
            store=kept,
            on_event=on_event,
            cancel=cancel,
        )
    finally:
        if opened is not engine:
            await opened.close()
        if kept is not None and kept is not store:
            kept.close()


def solve(
    question: str | Sequence[Message] | Question,
    *,
    engine: Engine | str = DEFAULT_ENGINE,
    recipe: Recipe | str = DEFAULT_RECIPE,
    read: Reader | None = None,
    facts: dict[str, Json] | None = None,
    seed: int = 0,
    budget: Budget = Budget(),
    store: Store | str | Path | None = None,
) -> Result:
    """`asolve` for code that is not asynchronous."""
    return asyncio.run(
        asolve(
            question,
            engine=engine,
            recipe=recipe,
            read=read,
            facts=facts,
            seed=seed,
            budget=budget,
            store=store,
        )
    )


def _question(question: str | Sequence[Message] | Question, facts: dict[str, Json]) -> Question:
    if isinstance(question, Question):
        return question
    messages = (Message("user", question),) if isinstance(question, str) else tuple(Message(*m) for m in question)
    digest = hashlib.blake2b(repr(messages).encode(), digest_size=8).hexdigest()
    return Question(digest, messages, facts)
