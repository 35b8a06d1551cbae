"""Read requests of the OpenAI API, strictly. Pure.

Every field of the API is in the table of `fields.py`: honored here, passed on to the endpoint behind the engine,
ignored because it cannot change an answer, a reason for a recipe to step aside, or refused. Anything else is refused
too, with its name in `param`. A field that is null counts as left out, and a field that is refused may have its neutral
value.

An error of what `openapi.py` describes has no `code`, or says that a field is not known or not supported. What cannot
be described there, as it lies between two fields or in a text, has a code that says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.core.text import as_one_line
from samplewise.core.types import Json, Message
from samplewise.serve.calls import is_about_calls
from samplewise.serve.fields import (
    BUDGET_FIELDS,
    HONORED,
    IGNORED,
    MAX_DEPTH,
    MAX_DRAWS,
    MAX_MESSAGES,
    MAX_NAME,
    MAX_STOP_LENGTH,
    MAX_STOPS,
    MESSAGE_FIELDS,
    OWN_FIELDS,
    PASSED,
    REFUSED,
    RELAYED,
    RELAYED_MESSAGE_FIELDS,
    RELAYED_PARTS,
    RELAYED_ROLES,
    RETURNS,
    ROLES,
    SCHEMAS,
    STREAM_FIELDS,
    Route,
    Schema,
    is_neutral,
)


class RequestError(Exception):
    """A request that is answered with an error.

    `kind` is OpenAI's `type`; `retry` whether the client should try again, None to leave that to the client.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        param: str | None = None,
        code: str | None = None,
        kind: str = "",
        retry: bool | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = as_one_line(message, 2000), status, param, code
        self.kind = kind or _kind(status)
        self.retry, self.retry_after_s = retry, retry_after_s


def _kind(status: int) -> str:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return kinds.get(status, "invalid_request_error" if status < 500 else "server_error")


class RequestLimits(NamedTuple):
    """What a request may use at most, by its own word: tokens, USD, seconds. None is no limit."""

    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None


class Wishes(NamedTuple):
    """The field `samplewise` of a body, and what the headers say of the same."""

    recipe: str | None = None
    draws: int | None = None  # the header X-ITS-Budget
    limits: RequestLimits = RequestLimits()
    returned: frozenset[str] = frozenset()  # of RETURNS
    read: str | None = None  # how an answer is read: "number", "json('total')" ...
    progress: bool = False  # in a stream, as reasoning


class DrawFields(NamedTuple):
    """How each response is to be drawn; None is left to the recipe."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None


class Call(NamedTuple):
    """A request for completions, checked."""

    route: Route
    model: str
    messages: tuple[Message, ...]
    fields: DrawFields = DrawFields()
    n: int = 1
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False
    logprobs: int | None = None  # likeliest tokens listed per position; None: no log-probs at all
    passed: Mapping[str, Json] = {}  # fields for the endpoint
    wishes: Wishes = Wishes()
    relayed: str | None = None  # the first part for which the whole request must go to the endpoint
    is_about_calls: bool = False  # all of those parts are about calls of tools
    raw: Mapping[str, Json] = {}  # then all fields as they came, but those that are null


def parse_body(data: bytes) -> dict[str, Json]:
    """Return a body's JSON object. Raises RequestError."""
    try:
        body = _parse_json(data.decode("utf-8"))
        # what is parsed with the last frames of the stack could not be written again
        if data.count(b"[") + data.count(b"{") > MAX_DEPTH and not _is_shallow(body):
            raise RecursionError
    except UnicodeDecodeError:
        raise RequestError("the body is not UTF-8") from None
    except RecursionError:
        message = f"the body is nested too deeply: it may have {MAX_DEPTH} levels"
        raise RequestError(message, code="nested_too_deeply") from None
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}") from None
    if not isinstance(body, dict):
        raise RequestError("the body must be a JSON object")
    return body


def _is_shallow(value: Json) -> bool:
    """Return whether a value has at most `MAX_DEPTH` levels of arrays and objects."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return True
        level = [each for item in level for each in (item.values() if isinstance(item, dict) else item)]
    return False


def _refuse_constant(name: str) -> Json:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


_parse_json = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite).decode


def parse_call(body: Mapping[str, Json], route: Route, headers: Mapping[str, str] | None = None) -> Call:
    """Return the request that a body and its headers make. `headers` must ignore case. Raises RequestError."""
    given = {name: value for name, value in body.items() if value is not None}
    _check_known(given, route)
    fields = _Fields(given, SCHEMAS[route])
    model = fields.text("model")
    if not model:
        raise RequestError("name a model; GET /v1/models lists them", param="model")
    relayed = [name for name in RELAYED if name in given and not is_neutral(name, given[name])]
    messages = _messages(given.get("messages"), relayed) if route == "chat" else _prompt(given.get("prompt"))
    if relayed and route == "completions":
        raise RequestError(f"{relayed[0]} is for chats", param=relayed[0], code="unsupported_parameter")
    return Call(
        route=route,
        model=model,
        messages=messages,
        fields=DrawFields(
            temperature=fields.number("temperature"),
            top_p=fields.number("top_p"),
            top_k=_top_k(fields.count("top_k")),
            min_p=fields.number("min_p"),
            stop=_stop(given.get("stop")),
            max_tokens=_max_tokens(fields, route),
        ),
        n=fields.count("n") or 1,
        seed=fields.count("seed"),
        stream=fields.flag("stream"),
        include_usage=_include_usage(given),
        logprobs=_logprobs(fields, route),
        passed=_passed(given),
        wishes=_checked_wishes(_wishes(given.get("samplewise"), headers or {}), fields.flag("stream"), route),
        relayed=relayed[0] if relayed else None,
        is_about_calls=bool(relayed) and all(is_about_calls(name) for name in relayed),
        raw=given if relayed else {},
    )


def _passed(given: Mapping[str, Json]) -> dict[str, Json]:
    """Return the fields for the endpoint. Raises RequestError for one that could not be joined with the operator's."""
    passed = {name: given[name] for name in PASSED if name in given and not is_neutral(name, given[name])}
    arguments = passed.get("chat_template_kwargs", {})
    if not isinstance(arguments, dict):
        message = f"chat_template_kwargs must be an object, got {_shown(arguments)}"
        raise RequestError(message, param="chat_template_kwargs")
    return passed


def _check_known(given: Mapping[str, Json], route: Route) -> None:
    """Raise RequestError for a field that is refused or not known."""
    for name, value in given.items():
        if name in HONORED[route] or name in PASSED or name in IGNORED or name in RELAYED:
            continue
        if name in REFUSED:
            if is_neutral(name, value):
                continue
            raise RequestError(f"{name} is not supported: {REFUSED[name]}", param=name, code="unsupported_parameter")
        raise RequestError(f"unknown field: {name}", param=name, code="unknown_parameter")


class _Fields:
    """Fields of an object, within what their schemas allow. Each raises RequestError with the name of the field."""

    def __init__(self, given: Mapping[str, Json], schemas: Mapping[str, Schema], prefix: str = "") -> None:
        self._given, self._schemas, self._prefix = given, schemas, prefix

    def number(self, name: str) -> float | None:
        value, schema = self._given.get(name), self._schemas[name]
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, f"must be a number, got {_shown(value)}")
        above, below = "exclusiveMinimum" in schema, "exclusiveMaximum" in schema
        least = schema["exclusiveMinimum" if above else "minimum"]
        most = schema["exclusiveMaximum" if below else "maximum"]
        is_low = value < least or (above and value == least)
        if is_low or value > most or (below and value == most):
            low, high = "above" if above else "at least", "below" if below else "at most"
            raise self.error(name, f"must be {low} {least:g} and {high} {most:g}, got {_shown(value)}")
        return float(value)

    def count(self, name: str) -> int | None:
        value, schema = self._given.get(name), self._schemas[name]
        if value is None:
            return None
        if isinstance(value, float) and math.isfinite(value) and value.is_integer():
            value = int(value)  # as some clients write whole numbers
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(name, f"must be a whole number, got {_shown(value)}")
        least, most = schema["minimum"], schema["maximum"]
        if not least <= value <= most:
            raise self.error(name, f"must be {least} to {most}, got {_shown(value)}")
        return value

    def flag(self, name: str) -> bool:
        value = self._given.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, f"must be true or false, got {_shown(value)}")
        return value is True

    def text(self, name: str) -> str | None:
        value, most = self._given.get(name), self._schemas[name]["maxLength"]
        if value is None:
            return None
        if not isinstance(value, str):
            raise self.error(name, f"must be a string, got {_shown(value)}")
        if len(value) > most:
            raise self.error(name, f"must have at most {most:,} characters")
        return _checked(value, f"{self._prefix}{name}")

    def error(self, name: str, what: str) -> RequestError:
        return RequestError(f"{self._prefix}{name} {what}", param=f"{self._prefix}{name}")


def _shown(value: Json) -> str:
    try:
        text = json.dumps(value, ensure_ascii=True)
    except ValueError:  # a whole number of thousands of digits
        return "a number that is too long"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _checked(text: str, param: str) -> str:
    """Return a text that can be written as UTF-8. JSON can spell halves of a character, which nothing accepts."""
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"{param} holds half a character (a lone surrogate)"
        raise RequestError(message, param=param, code="invalid_text") from None
    return text


def _max_tokens(fields: _Fields, route: Route) -> int | None:
    newer = fields.count("max_completion_tokens") if route == "chat" else None
    older = fields.count("max_tokens")
    return older if newer is None else newer


def _top_k(value: int | None) -> int | None:
    return 0 if value == -1 else value


def _stop(value: Json) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if listed is None:
        return ()
    if not isinstance(listed, list) or not all(text is None or isinstance(text, str) for text in listed):
        raise RequestError(f"stop must be a string or a list of strings, got {_shown(value)}", param="stop")
    texts = tuple(dict.fromkeys(_checked(text, "stop") for text in listed if text))
    if len(listed) > MAX_STOPS or any(len(text) > MAX_STOP_LENGTH for text in texts):
        raise RequestError(f"stop has at most {MAX_STOPS} texts of {MAX_STOP_LENGTH} characters", param="stop")
    return texts


def _include_usage(given: Mapping[str, Json]) -> bool:
    options = given.get("stream_options")
    if options is None:
        return False
    if given.get("stream") is not True:
        message = "stream_options is for stream: true alone"
        raise RequestError(message, param="stream_options", code="conflicting_parameters")
    if not isinstance(options, dict):
        raise RequestError(f"stream_options must be an object, got {_shown(options)}", param="stream_options")
    for name, value in options.items():
        if name not in STREAM_FIELDS:
            raise RequestError(f"unknown field: stream_options.{name}", param=f"stream_options.{name}")
        if name != "include_usage" and value is not None and value is not False:
            raise RequestError(f"stream_options.{name} is not supported", param=f"stream_options.{name}")
    return _Fields(options, STREAM_FIELDS, "stream_options.").flag("include_usage")


def _logprobs(fields: _Fields, route: Route) -> int | None:
    if route == "completions":
        return fields.count("logprobs")
    listed = fields.count("top_logprobs")
    if not fields.flag("logprobs"):
        if listed:
            message = "top_logprobs needs logprobs: true"
            raise RequestError(message, param="top_logprobs", code="conflicting_parameters")
        return None
    return listed or 0


def _messages(listed: Json, relayed: list[str]) -> tuple[Message, ...]:
    """Return a chat's messages as text. Adds to `relayed` where there is something else in them."""
    if not isinstance(listed, list) or not listed:
        raise RequestError("messages must be a list of at least one message", param="messages")
    if len(listed) > MAX_MESSAGES:
        raise RequestError(f"messages has more than {MAX_MESSAGES:,} messages", param="messages")
    messages = tuple(_message(f"messages[{index}]", message, relayed) for index, message in enumerate(listed))
    if not relayed and not any(message.content.strip() for message in messages):
        raise RequestError("messages hold no text", param="messages", code="empty_prompt")
    return messages


def _message(param: str, message: Json, relayed: list[str]) -> Message:
    if not isinstance(message, dict):
        raise RequestError(f"{param} must be an object with role and content", param=param)
    role = message.get("role")
    if not isinstance(role, str) or role not in (*ROLES, *RELAYED_ROLES):
        raise RequestError(f"{param}.role must be one of {', '.join(ROLES)}, got {_shown(role)}", param=f"{param}.role")
    for name in message:
        if name not in MESSAGE_FIELDS:
            raise RequestError(f"unknown field: {param}.{name}", param=f"{param}.{name}", code="unknown_parameter")
    num = len(relayed)
    relayed += [f"{param}.role"] if role in RELAYED_ROLES else []
    relayed += [f"{param}.{name}" for name in RELAYED_MESSAGE_FIELDS if message.get(name)]
    content = message.get("content")
    if content is None and len(relayed) > num:  # a call of a tool stands alone
        return Message(role, "")
    return Message(role, _checked(_content(f"{param}.content", content, relayed), f"{param}.content"))


def _content(param: str, content: Json, relayed: list[str]) -> str:
    """Return a message's text, given as such or in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise RequestError(f"{param} must be a string, or a list of parts", param=param)
    texts = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            if not isinstance(part.get("text"), str):
                raise RequestError(f"{param}[{index}].text must be a string", param=f"{param}[{index}].text")
            texts.append(part["text"])
        elif isinstance(kind, str) and kind in RELAYED_PARTS:
            relayed.append(f"{param}[{index}]")
        else:
            what = f"no part of a message is of type {_shown(kind)}"
            raise RequestError(f"{param}[{index}]: {what}", param=f"{param}[{index}]", code="unsupported_content")
    return "".join(texts)


def _prompt(prompt: Json) -> tuple[Message, ...]:
    """Return the prompt of a completions request as one message of the user."""
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(isinstance(item, str) for item in prompt):
        raise RequestError("send one prompt a request; several are not supported", param="prompt")
    if isinstance(prompt, list):
        raise RequestError("a prompt of token ids is not supported: send text", param="prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        code = "empty_prompt" if isinstance(prompt, str) else None
        raise RequestError("prompt must be a text that is not empty", param="prompt", code=code)
    return (Message("user", _checked(prompt, "prompt")),)


# --- the field `samplewise`, and headers ------------------------------------------------------------------------------


def _wishes(ours: Json, headers: Mapping[str, str]) -> Wishes:
    """Return what the body's `samplewise` field says, and where it says nothing, the headers."""
    for name in ("X-ITS-Endpoint", "X-ITS-API-Key"):
        if name in headers:
            raise RequestError(f"the header {name} is refused: the operator sets the endpoint and its key", param=name)
    if ours is not None and not isinstance(ours, dict):
        raise RequestError(f"samplewise must be an object, got {_shown(ours)}", param="samplewise")
    given = {name: value for name, value in (ours or {}).items() if value is not None}
    for name in given:
        if name not in OWN_FIELDS:
            raise RequestError(f"unknown field: samplewise.{name}", param=f"samplewise.{name}")
    fields = _Fields(given, OWN_FIELDS, "samplewise.")
    header = headers.get("X-Samplewise-Recipe")
    if header is not None and len(header) > MAX_NAME:
        raise RequestError(f"X-Samplewise-Recipe has more than {MAX_NAME:,} characters", param="X-Samplewise-Recipe")
    recipe = fields.text("recipe") or header or None
    return Wishes(
        recipe=recipe,
        draws=_num_draws(headers.get("X-ITS-Budget")),
        limits=_limits(given.get("budget")),
        returned=_returned(given.get("return")),
        read=fields.text("read"),
        progress=fields.flag("progress"),
    )


def _checked_wishes(wishes: Wishes, is_stream: bool, route: Route) -> Wishes:
    """Return the wishes. Raises RequestError for progress where there is no place to tell it."""
    if wishes.progress and (not is_stream or route != "chat"):
        message = "samplewise.progress is for streams of chats alone"
        raise RequestError(message, param="samplewise.progress", code="conflicting_parameters")
    return wishes


def _num_draws(header: str | None) -> int | None:
    if header is None:
        return None
    if not header.isascii() or not header.isdigit() or not 1 <= int(header[:9]) <= MAX_DRAWS or len(header) > 9:
        raise RequestError(f"X-ITS-Budget must be a number of draws, 1 to {MAX_DRAWS:,}", param="X-ITS-Budget")
    return int(header)


def _limits(budget: Json) -> RequestLimits:
    if budget is None:
        return RequestLimits()
    if not isinstance(budget, dict):
        raise RequestError("samplewise.budget must be an object with tokens, usd or seconds", param="samplewise.budget")
    for name in budget:
        if name not in BUDGET_FIELDS:
            raise RequestError(f"unknown field: samplewise.budget.{name}", param=f"samplewise.budget.{name}")
    fields = _Fields(budget, BUDGET_FIELDS, "samplewise.budget.")
    return RequestLimits(fields.count("tokens"), fields.number("usd"), fields.number("seconds"))


def _returned(listed: Json) -> frozenset[str]:
    if listed is None:
        return frozenset()
    if not isinstance(listed, list) or not all(isinstance(name, str) and name in RETURNS for name in listed):
        raise RequestError(
            f"samplewise.return is a list of {' and '.join(RETURNS)}, got {_shown(listed)}", param="samplewise.return"
        )
    return frozenset(listed)


def read_timeout_s(headers: Mapping[str, str]) -> float | None:
    """Return how many seconds the client waits between two bytes, by its own word; None if it does not say."""
    text = headers.get("x-stainless-read-timeout")
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None
