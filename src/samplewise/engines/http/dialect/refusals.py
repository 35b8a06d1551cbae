"""Learn from a server's refusals. Pure: replies and profiles in, profiles out.

A 400 that names a field of the request says that this server, or this model, does not take the field. That is learned
once: from then on the field is left out, or sent by its other name. Where leaving it out would change the distribution
that is drawn from, the ask is Unsupported.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.core.errors import Unsupported
from samplewise.core.types import Generate, Json
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.dialect.requests import NEUTRAL
from samplewise.engines.http.transport.client import error_text

REJECTED = (429, 503, 529)  # statuses of requests that were not worked on
REFUSALS = (400, 404, 422, 501)  # statuses that may be about a field
NEEDED = frozenset({"model", "messages", "prompt", "n", "stream"})  # n has a rule of its own
FEWER_TOP = 5  # likeliest tokens that are asked for where the usual number is refused
OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
OVERFLOW = re.compile(
    r"context[ _]length|context[ _]window|context[ _]size|maximum context|max_model_len|too many tokens"
    r"|prompt is too long|input is too long|string_above_max_length"
    r"|max_tokens must be at least 1, got 0",  # what vLLM says where the prompt fills the context
    re.IGNORECASE,
)
CONTEXT = re.compile(r"context (?:length|window|size)\D{0,20}?(\d+)", re.IGNORECASE)
PROMPT = re.compile(
    r"(\d+)(?: tokens)? (?:in|from) the (?:messages|prompt|input)|has (\d+) input tokens|(\d+) input tokens",
    re.IGNORECASE,
)
MOST = re.compile(  # choices
    r"(?:greater than|larger than|more than|exceeds?|at most|up to|less than or equal to|no more than|only|<=|\bto"
    r"|max\w*(?: of| is|:)?) ?(\d+)\b|(?:must be|=) ?(1)\b",
    re.IGNORECASE,
)
NOT_AT_ALL = re.compile(
    r"not (?:be )?support|unsupported|unknown|unrecogni|unexpected|not permitted|not allowed", re.IGNORECASE
)
FOLLOWING = (  # a field's name where it is one
    "=|>|<|:|must|is not|isn't|is un|cannot|can't|may not|can only|should|greater|parameter|argument|option|field"
)
# words of a refusal, and other fields that it lists before this one
LISTED = (
    r"(?:support(?:s|ed|ing)?|accept(?:s|ed)?|allow(?:s|ed)?|unknown|unexpected|unrecognized|invalid|parameters?|"
    r"arguments?|fields?|options?)\b:?\s+(?:[\w'\"`]+(?:\s*,\s*|\s+and\s+|\s+or\s+))*"
)


class Refusal(NamedTuple):
    """What a refusal changes: the profile from now on, and whether to send the request again."""

    profile: Profile
    retry: bool


def is_rejected(status: int, body: Json) -> bool:
    """Return whether the request was not worked on. Some proxies say so with status 200."""
    if status >= 300 or not isinstance(body, dict) or "error" not in body:
        return status in REJECTED
    code = body["error"].get("code") if isinstance(body["error"], dict) and not body.get("choices") else None
    return str(code) in ("429", "503", "529", "rate_limit_exceeded")


def is_overflow(body: Json, text: str) -> bool:
    """Return whether the request was too long for the model's context."""
    code = body["error"].get("code") if isinstance(body, dict) and isinstance(body.get("error"), dict) else None
    return code == "context_length_exceeded" or OVERFLOW.search(error_text(body, text, 2000)) is not None


def tokens_left(message: str) -> int | None:
    """Return how many new tokens would fit, if the message gives the lengths of context and prompt."""
    context, prompt = CONTEXT.search(message), PROMPT.search(message)
    if context is None or prompt is None:
        return None
    num_prompt = next(int(group) for group in prompt.groups() if group is not None)
    return max(int(context[1]) - num_prompt, 0)


def refused_field(body: Json, text: str, sent: Mapping[str, Json]) -> str | None:
    """Return the field of the request that the server refuses, or None.

    A field that occurs only in the advice ("use B instead"), or that a request must have, is not meant.
    """
    fields = [name for name in sent if name not in NEEDED or name == "n"]
    error = body.get("error") if isinstance(body, dict) else None
    param = error.get("param") if isinstance(error, dict) else None
    if isinstance(param, str) and (last := re.split(r"[.\[]", param.removeprefix("body."))[0]) in fields:
        return last
    message = error_text(body, text, 2000)
    starts = {name: match.start() for name in fields if (match := _mention(name, message))}
    return min(starts, key=lambda name: starts[name]) if starts else None


def max_choices(message: str, num_sent: int) -> int | None:
    """Return how many choices a refusal of `num_sent` allows, if it says so: 1 where `n` is not supported at all."""
    if match := MOST.search(message):
        most = next(int(group) for group in match.groups() if group is not None)
        return most if 1 <= most < num_sent else None
    return 1 if NOT_AT_ALL.search(message) else None


def _mention(field: str, message: str) -> re.Match[str] | None:
    """Find where the message names the field.

    Fields that are ordinary words must stand in quotes, be compared, or stand among what is not supported.
    """
    if field in ("n", "stop", "seed", "user"):
        named = rf"['\"`]{field}['\"`]|\b{field}\s*(?:{FOLLOWING})|{LISTED}{field}(?=\s*(?:[,.;)]|and\b|or\b|$))"
        return re.search(named, message, re.IGNORECASE if field != "n" else 0)
    return re.search(rf"(?<![\w.]){field}(?!\w)", message)


def learn_refusal(field: str, ask: Generate, sent: Mapping[str, Json], profile: Profile, message: str) -> Refusal:
    """Return what follows from the refusal of a field other than `n`.

    Raises Unsupported if the ask cannot be drawn without the field.
    """
    value = sent.get(field)
    if field in OTHER_NAME:
        if profile.max_tokens_field is not None:  # it took this name before, or takes neither: the value is wrong
            return Refusal(profile, False)
        note = f"takes {OTHER_NAME[field]} instead of {field}"
        other = "max_completion_tokens" if field == "max_tokens" else "max_tokens"
        return Refusal(profile._replace(max_tokens_field=other).with_note(note), True)  # type: ignore[arg-type]
    if field == "temperature":
        if value != 1:
            raise _unsupported(field, value, message)
        return Refusal(profile._replace(temperature=False).with_note("refuses any temperature but its default"), True)
    if field in NEUTRAL:
        if value != NEUTRAL[field]:
            raise _unsupported(field, value, message)
        return Refusal(profile.with_refused(field), True)
    if field == "seed":
        return Refusal(profile._replace(seed=False).with_note("refuses seed: draws cannot be repeated"), True)
    if field == "top_logprobs":
        if not isinstance(value, int) or value <= FEWER_TOP:
            raise _unsupported(field, value, message)
        return Refusal(profile._replace(top_logprobs=FEWER_TOP), True)
    if field == "logprobs":
        if "logp" in ask.want or "top" in ask.want:
            raise _unsupported("logprobs", value, message)
        return Refusal(profile._replace(logprobs=False).with_note("refuses logprobs"), True)
    if field == "return_token_ids":
        if "tokens" in ask.want:
            raise _unsupported(field, value, message)
        return Refusal(profile._replace(token_ids_out=False).with_note("gives no token ids"), True)
    if field == "stop":
        note = "refuses stop: texts are cut after they arrive, so tokens after the stop string are paid for"
        return Refusal(profile.with_refused("stop").with_note(note), True)
    if field in ("stream_options", "return_tokens_as_token_ids"):
        return Refusal(profile.with_refused(field), True)
    return Refusal(profile, False)


def _unsupported(field: str, value: Json, message: str) -> Unsupported:
    return Unsupported(f"the endpoint refuses {field}={value}, which the recipe needs: {message}")
