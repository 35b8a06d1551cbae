"""What a server's refusal teaches. Pure: replies and profiles in, profiles out.

A 400 that names a field of the request says that this server, or this model, does not take it. It is learned once:
the field is left out, or goes by its other name, from then on. What cannot be left out without drawing from another law
than the one that was asked for is Unsupported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.engines.http.profile import Profile
from samplewise.engines.http.wire import NEUTRAL, error_text
from samplewise.errors import Unsupported
from samplewise.types import Generate, Json

REJECTED = (429, 503, 529)  # statuses of requests that were not worked on
REFUSALS = (400, 404, 422, 501)  # statuses that may be about a field
NEEDED = frozenset({"model", "messages", "prompt", "n", "stream"})  # n has a rule of its own
FEWER_TOP = 5  # likeliest tokens that are asked for where the usual number is refused
OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
OVERFLOW = re.compile(
    r"context[ _]length|context[ _]window|context[ _]size|maximum context|max_model_len|too many tokens"
    r"|prompt is too long|input is too long|string_above_max_length",
    re.IGNORECASE,
)
CONTEXT = re.compile(r"context (?:length|window|size)\D{0,20}?(\d+)", re.IGNORECASE)
PROMPT = re.compile(
    r"(\d+)(?: tokens)? (?:in|from) the (?:messages|prompt|input)|has (\d+) input tokens|(\d+) input tokens",
    re.IGNORECASE,
)


class Refusal(NamedTuple):
    """What to do about it: the profile from now on, and whether to send again."""

    profile: Profile
    again: bool


def is_rejected(status: int, body: Json) -> bool:
    """Whether the request was not worked on. Some proxies say so with status 200."""
    if status >= 300 or not isinstance(body, dict) or "error" not in body:
        return status in REJECTED
    code = body["error"].get("code") if isinstance(body["error"], dict) and not body.get("choices") else None
    return str(code) in ("429", "503", "529", "rate_limit_exceeded")


def is_overflow(body: Json, text: str) -> bool:
    """Whether the request was too long for the model's context."""
    code = body["error"].get("code") if isinstance(body, dict) and isinstance(body.get("error"), dict) else None
    return code == "context_length_exceeded" or OVERFLOW.search(error_text(body, text, most=2000)) is not None


def room_left(message: str) -> int | None:
    """How many new tokens would fit, where the message says how long context and prompt are."""
    context, prompt = CONTEXT.search(message), PROMPT.search(message)
    if context is None or prompt is None:
        return None
    taken = next(int(group) for group in prompt.groups() if group is not None)
    return max(int(context[1]) - taken, 0)


def refused_field(body: Json, text: str, sent: Mapping[str, Json]) -> str | None:
    """The field of the request that the server names, or None. One that only occurs in the advice ("use B instead") or
    that nothing can be done about is not meant."""
    fields = [name for name in sent if name not in NEEDED or name == "n"]
    error = body.get("error") if isinstance(body, dict) else None
    named = error.get("param") if isinstance(error, dict) else None
    if isinstance(named, str) and (last := re.split(r"[.\[]", named.removeprefix("body."))[0]) in fields:
        return last
    message = error_text(body, text, most=2000)
    places = {name: found.start() for name in fields if (found := _names(name, message))}
    return min(places, key=lambda name: places[name]) if places else None


def _names(field: str, message: str) -> re.Match[str] | None:
    """Where the message names the field. Names that are ordinary letters and words must stand in quotes."""
    if field in ("n", "stop", "seed", "user"):
        return re.search(rf"""(?:['"`]{field}['"`]|\b{field}\s*(?:=|>|<|must|is not|parameter))""", message)
    return re.search(rf"(?<![\w.]){field}(?!\w)", message)


def learned(field: str, ask: Generate, sent: Mapping[str, Json], profile: Profile, message: str) -> Refusal:
    """What follows from the refusal of a field other than `n`. Raises Unsupported where the ask cannot be drawn without
    it."""
    value = sent.get(field)
    if field in OTHER_NAME:
        if profile.max_tokens_field is not None:  # it took this name before, or takes neither: the value is wrong
            return Refusal(profile, False)
        note = f"takes {OTHER_NAME[field]} instead of {field}"
        other = "max_completion_tokens" if field == "max_tokens" else "max_tokens"
        return Refusal(profile._replace(max_tokens_field=other).noting(note), True)  # type: ignore[arg-type]
    if field == "temperature":
        if value != 1:
            raise _refuses(field, value, message)
        return Refusal(profile._replace(temperature=False).noting("refuses temperature: its own is the only one"), True)
    if field in NEUTRAL:
        if value != NEUTRAL[field]:
            raise _refuses(field, value, message)
        return Refusal(profile.refusing(field), True)
    if field == "seed":
        return Refusal(profile._replace(seed=False).noting("refuses seed: draws cannot be repeated"), True)
    if field == "top_logprobs":
        if not isinstance(value, int) or value <= FEWER_TOP:
            raise _refuses(field, value, message)
        return Refusal(profile._replace(top_logprobs=FEWER_TOP), True)
    if field == "logprobs":
        if "logp" in ask.want or "top" in ask.want:
            raise _refuses("logprobs", value, message)
        return Refusal(profile._replace(logprobs=False).noting("refuses logprobs"), True)
    if field == "return_token_ids":
        if "tokens" in ask.want:
            raise _refuses(field, value, message)
        return Refusal(profile._replace(token_ids_out=False).noting("gives no token ids"), True)
    if field == "stop":
        note = "refuses stop: responses are cut here, what follows the stop string is paid for"
        return Refusal(profile.refusing("stop").noting(note), True)
    if field == "stream_options":
        return Refusal(profile.refusing(field), True)
    return Refusal(profile, False)


def _refuses(field: str, value: Json, message: str) -> Unsupported:
    return Unsupported(f"the endpoint refuses {field}={value}, which the recipe asks for: {message}")
