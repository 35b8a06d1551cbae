"""Answer one question: `solve`, and `asolve` for asynchronous code."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from samplewise.core.errors import UsageError
from samplewise.core.events import OnEvent, ignore
from samplewise.core.registry import build
from samplewise.core.types import Json, Message, Question, Reader
from samplewise.engines.base import Engine
from samplewise.loop.context import RunContext
from samplewise.loop.drive import check_questions, run_question
from samplewise.loop.keys import run_key
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.recipe import Recipe
from samplewise.recipe import recipe as parse_recipe
from samplewise.store.database import Store
from samplewise.verify.auto import read_auto

DEFAULT_ENGINE = "tiny"
DEFAULT_RECIPE = "repeat(8) | vote"
ROLES = ("system", "developer", "user", "assistant")
Asked = str | Sequence[Message | Mapping[str, Any]] | Question  # what a question may be given as
T = TypeVar("T")


async def asolve(
    question: Asked,
    *,
    engine: Engine | str = DEFAULT_ENGINE,
    recipe: Recipe | str = DEFAULT_RECIPE,
    read: Reader | str | None = None,
    facts: dict[str, Json] | None = None,
    seed: int = 0,
    budget: Budget = Budget(),
    store: Store | str | Path | None = None,
    on_event: OnEvent = ignore,
    cancel: asyncio.Event | None = None,
) -> Result:
    """Answer one question.

    `question` is a string, a list of messages (`Message`s, or dictionaries as OpenAI's API has them), or a `Question`.
    `engine` is an engine or its spec; one given as a spec is closed afterwards. `read` turns a response into an answer:
    a function, or a reader's spec such as "number" or "json('total')". By default the question says what is read: the
    letter of an option, a number, or a text. `facts` is what a checker may know of the question.

    Costs what the recipe says, at most `budget`. Raises SetupError where something must be changed first, UsageError
    for messages that cannot be read and for a judge that cannot score answers to this question; failed requests are
    values in the result.
    """
    as_question = make_question(question, facts or {})
    parsed = parse_recipe(recipe)
    check_questions(parsed, [as_question])
    opened: Engine = build("engine", engine) if isinstance(engine, str) else engine
    kept = Store(store) if isinstance(store, str | Path) else store
    try:
        await opened.open()
        return await run_question(
            as_question,
            parsed.with_max_tokens(opened.default_max_tokens),
            RunContext(opened, budget=budget, store=kept, on_event=on_event, cancel=cancel),
            run_key(seed),
            read=build("reader", read) if isinstance(read, str) else read or read_auto,
        )
    finally:
        if opened is not engine:
            await opened.close()
        if kept is not None and kept is not store:
            kept.close()


def solve(
    question: Asked,
    *,
    engine: Engine | str = DEFAULT_ENGINE,
    recipe: Recipe | str = DEFAULT_RECIPE,
    read: Reader | str | None = None,
    facts: dict[str, Json] | None = None,
    seed: int = 0,
    budget: Budget = Budget(),
    store: Store | str | Path | None = None,
) -> Result:
    """Answer one question, from code that is not asynchronous: `asolve`, run to its end.

    Works in a notebook too: where an event loop runs already, the work is done in a thread of its own. An open `Store`
    belongs to the thread that opened it, so there give its path. An engine of an endpoint may be given to call after
    call; calls at the same time, from several threads, need one each.
    """
    work = functools.partial(
        asolve,
        question,
        engine=engine,
        recipe=recipe,
        read=read,
        facts=facts,
        seed=seed,
        budget=budget,
        store=store,
    )
    if not _loop_runs():
        return asyncio.run(work())
    if isinstance(store, Store):
        raise UsageError("an event loop runs here, so solve works in a thread: give the store's path, or await asolve")
    return _run_in_thread(work)


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_in_thread(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end in a thread of its own. Raises what it raised."""
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(asyncio.run(work()))
        except BaseException as error:  # is raised in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=target, name="samplewise-solve", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def make_question(question: Asked, facts: dict[str, Json] | None = None) -> Question:
    """Return what was asked as a `Question`, its id made of its text. Raises UsageError."""
    if isinstance(question, Question):
        return question
    if isinstance(question, str):
        messages: tuple[Message, ...] = (Message("user", question),)
    elif isinstance(question, Sequence) and question:
        messages = tuple(_message(index, message) for index, message in enumerate(question))
    else:
        raise UsageError(f"a question is a string, a list of messages or a Question, got {question!r}")
    if not any(message.content.strip() for message in messages):
        raise UsageError("the question is empty; write what is to be asked")
    digest = hashlib.blake2b(repr(messages).encode(), digest_size=8).hexdigest()
    return Question(digest, messages, facts or {})


def _message(index: int, message: object) -> Message:
    """Return one message, checked. Content is a string, or a list of text parts as OpenAI's API has them."""
    if isinstance(message, Mapping):
        if unknown := sorted(set(message) - {"role", "content", "name"}):
            raise UsageError(f"message {index} has a field that is not supported: {unknown[0]}")
        role, content = message.get("role"), message.get("content")
    elif isinstance(message, tuple) and len(message) == 2:
        role, content = message
    else:
        raise UsageError(f"message {index} is neither a Message nor a dictionary with role and content: {message!r}")
    if role not in ROLES:
        raise UsageError(f"message {index} has the role {role!r}; a role is one of {', '.join(ROLES)}")
    if isinstance(content, list | tuple):
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise UsageError(f"message {index} holds a part that is not text; only text parts are supported")
        content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise UsageError(f"message {index} has no text: content must be a string, got {content!r}")
    return Message(role, content)
