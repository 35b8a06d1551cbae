"""Decide what an error reply means, and when it must end the run.

A refused key, an account without money, an unknown model or route, a server that has been gone for `patience_s`: every
later request would fail the same way, and a run that went on would record all its questions as unanswered. Such errors
are SetupErrors, which end the run with one line. Completions up to then are in the store, and the same command resumes
from there. Every other error is the failure of one ask, a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from samplewise.core.errors import (
    AuthError,
    BadRequest,
    ContextOverflow,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    SetupError,
)
from samplewise.core.types import Json
from samplewise.engines.http.dialect.refusals import is_overflow
from samplewise.engines.http.transport.client import Client, Reply

RESUME = "run again to resume: what is in the store is not paid for twice"
NO_KEY = "give api_key=, or set OPENAI_API_KEY"
MAX_SHOWN = 8  # models of a server's list
ABOUT_PROMPT = re.compile(r"moderat|flagged|polic|safety|content", re.IGNORECASE)  # a 403 that is not about the key


def describe(name: str, reply: Reply) -> str:
    """Return the status and the server's own message, on one line."""
    return f"{name} answered {reply.status}: {reply.message or 'nothing'}"


def error_of(name: str, reply: Reply) -> EngineError:
    """Return the error that an error status means for the asks of the request."""
    status, message = reply.status, describe(name, reply)
    if status in (401, 403):
        return AuthError(message, hint=NO_KEY, status=status)
    if status == 413 or is_overflow(reply.body, reply.text):
        return ContextOverflow(message, status=status)
    if status == 408:
        return EngineTimeout(message, status=status)
    if status >= 500:
        return EngineUnavailable(message, status=status)
    return BadRequest(message, status=status)


def is_out_of_money(reply: Reply) -> bool:
    """Return whether the account is used up. Some servers answer 429 for that, as if it would pass."""
    error = reply.body.get("error") if isinstance(reply.body, dict) else None
    codes = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
    return reply.status == 402 or "insufficient_quota" in codes


async def fatal_error(
    name: str, reply: Reply, client: Client, model: str, api: str, has_answered: bool
) -> SetupError | None:
    """Return the error that must end the run after an error reply, or None.

    `has_answered`: the endpoint has answered before, so its 403 is about this prompt.
    """
    status, message = reply.status, describe(name, reply)
    if is_out_of_money(reply):
        return SetupError(f"{message} (the account is used up; {RESUME})")
    if status == 401 or (status == 403 and not has_answered and not ABOUT_PROMPT.search(message)):
        return SetupError(f"{message} ({NO_KEY}; {RESUME})")
    if 300 <= status < 400:
        return SetupError(f"{message}: it has moved to {reply.headers.get('location', '')!r}; change base_url")
    if status in (404, 405, 410) and not is_overflow(reply.body, reply.text):
        return SetupError(f"{message} ({await explain_not_found(client, model, api)})")
    return None


async def explain_not_found(client: Client, model: str, api: str) -> str:
    """Return why a model or a route may not be found: what the server serves. Costs one request that draws nothing."""
    try:
        names = model_names((await client.get("models")).body)
    except EngineError:
        names = None
    if names is None:
        if client.shown.endswith(("/completions", "/chat")):
            return f"set base_url to {re.sub(r'(/chat)?(/completions)?$', '', client.shown)!r}"
        return "it lists no models either; does base_url end in /v1, as in http://127.0.0.1:8000/v1?"
    if model in names:
        other = "completions" if api == "chat" else "chat"
        return f'it serves {model!r}, but not by this route; try api="{other}"'
    return f"it serves {format_names(names)}"


def model_names(body: Json) -> list[str] | None:
    """Return the names in a list of models, sorted; None if the body is not such a list."""
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return None
    return sorted(row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str))


def format_names(names: Sequence[str]) -> str:
    """Return the first few names as text."""
    return (", ".join(names[:MAX_SHOWN]) + (", ..." if len(names) > MAX_SHOWN else "")) or "no models"


class OutageWatch:
    """Track since when an endpoint, all its replicas together, has answered nothing. All times are arguments."""

    def __init__(self, patience_s: float) -> None:
        self.has_answered = False  # at least once
        self._patience_s = patience_s
        self._silent_since = math.inf  # the first trouble that no answer has followed
        self._in_flight: dict[int, float] = {}  # ticket -> when it was sent

    def record_sent(self, ticket: int, now: float) -> None:
        """Record that a request was sent."""
        self._in_flight[ticket] = now

    def record_done(self, ticket: int) -> None:
        """Record that a request has ended, however it did."""
        self._in_flight.pop(ticket, None)

    def record_answer(self) -> None:
        """Record an answer."""
        self.has_answered, self._silent_since = True, math.inf

    def record_refusal(self) -> None:
        """Record a refusal: the server is there."""
        self._silent_since = math.inf

    def record_trouble(self, now: float) -> None:
        """Record that a request was rejected or lost."""
        self._silent_since = min(self._silent_since, now)

    def fatal_error(self, error: EngineError, now: float, resumes_at: float = -math.inf) -> SetupError | None:
        """Return the error that must end the run, if nothing was answered for `patience_s`; otherwise None.

        `resumes_at`: when the endpoint may be asked again by its own word. A request that was sent before the trouble
        began may still be worked on, so while one is in flight the endpoint does not count as gone.
        """
        if self._patience_s <= 0:
            return None
        if resumes_at - now >= self._patience_s:
            return SetupError(f"{error}; it asks for a pause of {resumes_at - now:.0f} s ({RESUME})")
        seconds = max(now, resumes_at) - self._silent_since
        if seconds < self._patience_s or any(sent < self._silent_since for sent in self._in_flight.values()):
            return None
        return SetupError(f"{error}; nothing was answered for {now - self._silent_since:.0f} s ({RESUME})")
