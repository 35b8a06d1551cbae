"""What an error reply means, and when it is the end of the run.

A refused key, an account without money, a model or a route that is not there, a server that has been gone for as long
as the patience lasts: each would befall every request that follows, and a run that went on would book all its questions
as unanswered. They are SetupErrors, which end the run in one line. What was drawn by then is in the store, and the same
command goes on from there. All else is the error of one ask, a value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from samplewise.engines.http import refusals, wire
from samplewise.engines.http.client import Client, Reply
from samplewise.errors import (
    AuthError,
    BadRequest,
    ContextOverflow,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    SetupError,
)
from samplewise.types import Json

GOES_ON = "run again to go on: what is in the store is not paid for twice"
NO_KEY = "give api_key=, or set OPENAI_API_KEY"
SHOWN = 8  # models of those that a server lists
OF_THE_PROMPT = re.compile(r"moderat|flagged|polic|safety|content", re.IGNORECASE)  # a 403 that is not about the key


def says(name: str, reply: Reply) -> str:
    """The server's own words, on one line."""
    return f"{name} answered {reply.status}: {wire.error_text(reply.body, reply.text) or 'nothing'}"


def meaning(name: str, reply: Reply) -> EngineError:
    """What an error status means for the asks behind it."""
    status, told = reply.status, says(name, reply)
    if status in (401, 403):
        return AuthError(told, hint=NO_KEY, status=status)
    if status == 413 or refusals.is_overflow(reply.body, reply.text):
        return ContextOverflow(told, status=status)
    if status == 408:
        return EngineTimeout(told, status=status)
    if status >= 500:
        return EngineUnavailable(told, status=status)
    return BadRequest(told, status=status)


def is_out_of_money(reply: Reply) -> bool:
    """Whether the account is used up, for which some answer 429 as if it would pass."""
    error = reply.body.get("error") if isinstance(reply.body, dict) else None
    codes = (error.get("code"), error.get("type")) if isinstance(error, dict) else ()
    return reply.status == 402 or "insufficient_quota" in codes


async def ended(name: str, reply: Reply, client: Client, model: str, api: str, spoke: bool) -> SetupError | None:
    """The end of the run that a reply of an error status is, or None. `spoke`: the endpoint has answered before, so
    that its 403 is about this prompt."""
    status, told = reply.status, says(name, reply)
    if is_out_of_money(reply):
        return SetupError(f"{told} (the account is used up; {GOES_ON})")
    if status == 401 or (status == 403 and not spoke and not OF_THE_PROMPT.search(told)):
        return SetupError(f"{told} ({NO_KEY}; {GOES_ON})")
    if 300 <= status < 400:
        return SetupError(f"{told}: it has moved to {reply.headers.get('location', '')!r}; change base_url")
    if status in (404, 405, 410) and not refusals.is_overflow(reply.body, reply.text):
        return SetupError(f"{told} ({await whereabouts(client, model, api)})")
    return None


async def whereabouts(client: Client, model: str, api: str) -> str:
    """Why a model or a route may not be found: what the server serves. Costs a request that draws nothing."""
    try:
        names = listed((await client.get("models")).body)
    except EngineError:
        names = None
    if names is None:
        if client.shown.endswith(("/completions", "/chat")):
            return f"base_url ends before that: {re.sub(r'(/chat)?(/completions)?$', '', client.shown)!r}"
        return "it lists no models either; does base_url end in /v1, as in http://127.0.0.1:8000/v1?"
    if model in names:
        other = "completions" if api == "chat" else "chat"
        return f'it serves {model!r}, but not by this route; try api="{other}"'
    return f"it serves {shown(names)}"


def listed(body: Json) -> list[str] | None:
    """The names in a list of models, sorted; None where it is none."""
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return None
    return sorted(row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str))


def shown(names: Sequence[str]) -> str:
    """Some of the names."""
    return (", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")) or "no model at all"


class Watch:
    """Since when an endpoint, all its replicas together, has answered nothing. Every time is handed in."""

    def __init__(self, patience_s: float) -> None:
        self.spoke = False  # it has answered at least once
        self._patience_s = patience_s
        self._silent = math.inf  # when the first trouble came that nothing good has followed
        self._in_flight: dict[int, float] = {}  # ticket -> when it was sent

    def sent(self, ticket: int, now: float) -> None:
        self._in_flight[ticket] = now

    def landed(self, ticket: int) -> None:
        self._in_flight.pop(ticket, None)

    def answered(self) -> None:
        self.spoke, self._silent = True, math.inf

    def is_there(self) -> None:
        """It has refused something: nobody is gone who does."""
        self._silent = math.inf

    def troubled(self, now: float) -> None:
        """A request was rejected or lost."""
        self._silent = min(self._silent, now)

    def ended(self, error: EngineError, now: float, resumes: float = -math.inf) -> SetupError | None:
        """The end of the run, where the patience is over. `resumes`: when it may be asked again, as it says.

        What was sent before the trouble began may still be worked on; then nobody is gone."""
        if self._patience_s <= 0:
            return None
        if resumes - now >= self._patience_s:
            return SetupError(f"{error}; it is to be left alone for {resumes - now:.0f} s ({GOES_ON})")
        seconds = max(now, resumes) - self._silent
        if seconds < self._patience_s or any(sent < self._silent for sent in self._in_flight.values()):
            return None
        return SetupError(f"{error}; nothing was answered for {now - self._silent:.0f} s ({GOES_ON})")
