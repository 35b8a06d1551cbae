"""The wire format between `vllm(url)` and `samplewise vllm`: asks and completions as JSON. Pure; docs/vllm.md has it.

A record is an object of its fields. Fields at their default are left out, unknown ones are refused: what an ask says
must not be lost on the way. A number that JSON has no word for is the string "nan", "inf" or "-inf". Prompts are
listed once, and asks name theirs by its index. Both ends say their version, and refuse another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

from samplewise.core.types import (
    Ask,
    Capability,
    Completion,
    Failure,
    Finish,
    Generate,
    Json,
    Likelihood,
    Message,
    RejectionBound,
    Sampling,
    Usage,
)

WIRE = 1  # the version of the format: any change of a record is another one
DESCRIBE_PATH, ANSWER_PATH = "samplewise/describe", "samplewise/answer"  # behind /v1
DONE = "[DONE]"  # the last event of a stream that was not cut
FINISHES: tuple[Finish, ...] = ("stop", "length", "rejected", "error")
SHORTEST = (Message("user", "1"),)  # a prompt whose length shows what the chat template adds
NO_NUMBERS = ("nan", "inf", "-inf")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class DrawSettings(NamedTuple):
    """What a client chooses for all of its draws: arguments of the chat template, and whether plain draws repeat."""

    template: Mapping[str, Json] = {}
    seeded: bool = True


class AnswerRequest(NamedTuple):
    """Asks of one client. `identity` is that of the engine which it believes to ask, `session` tells its groups from
    those of other clients."""

    settings: DrawSettings
    identity: str
    session: str
    asks: tuple[Ask, ...]


class ServerFacts(NamedTuple):
    """What a client must know of the engine behind the route."""

    name: str
    identity: str
    can: frozenset[Capability]
    max_concurrency: int
    prompt_tokens: int  # of the shortest prompt: what the chat template adds
    max_context: int | None = None  # tokens
    default_max_tokens: int | None = None
    digest: str | None = None
    notes: tuple[str, ...] = ()
    runtime: Mapping[str, str] = {}


def wire_refusal(version: Json, who: str) -> str:
    """Return why the other end (`who`) cannot be spoken with, "" if it can."""
    if version == WIRE and not isinstance(version, bool):
        return ""
    return (
        f"{who} speaks version {version!r} of the wire format and this samplewise version {WIRE}: install the same "
        "release of samplewise on both sides"
    )


# --- writing ----------------------------------------------------------------------------------------------------------


def encode_describe(settings: DrawSettings) -> Json:
    return {"wire": WIRE, "settings": _plain(settings)}


def encode_request(request: AnswerRequest) -> Json:
    prompts: dict[tuple[Message, ...], int] = {}
    asks = []
    for ask in request.asks:
        index = prompts.setdefault(ask.messages, len(prompts))
        kind = "generate" if isinstance(ask, Generate) else "likelihood"
        asks.append({"kind": kind, "prompt": index, **_plain(ask._replace(messages=()))})
        asks[-1].pop("messages", None)
    listed = [[[message.role, message.content] for message in prompt] for prompt in prompts]
    head = {"wire": WIRE, "settings": _plain(request.settings)}
    return {**head, "identity": request.identity, "session": request.session, "prompts": listed, "asks": asks}


def encode_facts(facts: ServerFacts) -> Json:
    return {"wire": WIRE, **_plain(facts._replace(can=frozenset())), "can": sorted(facts.can)}


def encode_arrival(position: int, completion: Completion) -> str:
    """Return an event of a stream of completions."""
    return json.dumps({"position": position, "completion": _plain(completion)}, allow_nan=False)


def _plain(value: Any) -> Json:
    """Return records as objects of the fields that are not at their default."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        defaults = getattr(value, "_field_defaults", {})
        fields = zip(value._fields, value, strict=True)
        return {k: _plain(v) for k, v in fields if k not in defaults or (defaults[k] is not v and defaults[k] != v)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [item if type(item) is int or _is_finite(item) else _plain(item) for item in value]  # ids, log-probs
    return value


def _is_finite(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


# --- reading ----------------------------------------------------------------------------------------------------------


class Read(Protocol[T_co]):
    """Reads a JSON value. Raises ValueError in one line where it is another."""

    def __call__(self, value: Json, /) -> T_co: ...


def _whole(value: Json) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(f"needs a whole number, got {_shown(value)}")


def _number(value: Json) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if value in NO_NUMBERS:
        return float(value)
    raise ValueError(f"needs a number, got {_shown(value)}")


def _text(value: Json) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"needs a text, got {_shown(value)}")


def _flag(value: Json) -> bool:
    if isinstance(value, bool):
        return value
    raise ValueError(f"needs true or false, got {_shown(value)}")


def _object(value: Json) -> Mapping[str, Json]:
    if isinstance(value, dict):
        return value
    raise ValueError(f"needs an object, got {_shown(value)}")


def _several(read: Read[T]) -> Read[tuple[T, ...]]:
    def read_all(value: Json) -> tuple[T, ...]:
        if isinstance(value, list):
            return tuple(read(item) for item in value)
        raise ValueError(f"needs a list, got {_shown(value)}")

    return read_all


def _maybe(read: Read[T]) -> Read[T | None]:
    return lambda value: None if value is None else read(value)


def _record(kind: Any, fields: Mapping[str, Read[Any]]) -> Read[Any]:
    """Return what reads a record of a named tuple's fields."""

    def read(value: Json) -> Any:
        values = {}
        for name, item in _object(value).items():
            if name not in fields:
                raise ValueError(f"a {kind.__name__} has no field {name!r}")
            values[name] = _field(name, fields[name], item)
        if missing := [name for name in kind._fields if name not in values and name not in kind._field_defaults]:
            raise ValueError(f"a {kind.__name__} needs the field {missing[0]!r}")
        return kind(**values)

    return read


def _field(name: str, read: Read[T], value: Json) -> T:
    try:
        return read(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _pair(value: Json) -> tuple[str, float]:
    if isinstance(value, list) and len(value) == 2:
        return _text(value[0]), _number(value[1])
    raise ValueError(f"needs a text and a number, got {_shown(value)}")


def _message(value: Json) -> Message:
    if isinstance(value, list) and len(value) == 2:
        return Message(_text(value[0]), _text(value[1]))
    raise ValueError(f"needs a role and a text, got {_shown(value)}")


def _finish(value: Json) -> Finish:
    for finish in FINISHES:
        if finish == value:
            return finish
    raise ValueError(f"needs one of {', '.join(FINISHES)}, got {_shown(value)}")


def _capabilities(value: Json) -> frozenset[Capability]:
    known = {capability.value for capability in Capability}
    return frozenset(Capability(name) for name in _several(_text)(value) if name in known)


def _shown(value: Json) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_WHOLES, _NUMBERS, _TEXTS = _several(_whole), _several(_number), _several(_text)
_SAMPLING = _record(
    Sampling, {"temperature": _number, "top_k": _whole, "top_p": _number, "min_p": _number, "explore": _text}
)
_GENERATE: Mapping[str, Read[Any]] = {
    "prefix": _WHOLES,
    "sampling": _SAMPLING,
    "max_tokens": _whole,
    "stop": _TEXTS,
    "seed": _whole,
    "want": _TEXTS,
    "group": _text,
    "reject_below": _maybe(_record(RejectionBound, {"alpha": _number, "value": _number})),
    "forbid_first": _maybe(_whole),
    "engine": _text,
    "draw": _whole,
    "exponents": _NUMBERS,
    "group_size": _whole,
    "score_first": _TEXTS,
}
_USAGE = _record(Usage, {name: _number if name in ("usd", "seconds") else _whole for name in Usage._fields})
_FAILURE = _record(Failure, {"kind": _text, "message": _text, "retryable": _flag, "retry_after_s": _maybe(_number)})
_COMPLETION: Read[Completion] = _record(
    Completion,
    {
        "text": _text,
        "finish": _finish,
        "usage": _USAGE,
        "tokens": _maybe(_WHOLES),
        "logp": _maybe(_NUMBERS),
        "logq": _maybe(_NUMBERS),
        "logp_sum": _number,
        "failure": _maybe(_FAILURE),
        "top": _maybe(_several(_several(_pair))),
        "logz": _maybe(_several(_NUMBERS)),
        "certainty": _maybe(_NUMBERS),
        "explored": _maybe(_object),
        "reasoning": _text,
        "raw": _maybe(_text),
    },
)
_SETTINGS: Read[DrawSettings] = _record(DrawSettings, {"template": _object, "seeded": _flag})
_FACTS: Read[ServerFacts] = _record(
    ServerFacts,
    {
        "name": _text,
        "identity": _text,
        "can": _capabilities,
        "max_concurrency": _whole,
        "prompt_tokens": _whole,
        "max_context": _maybe(_whole),
        "default_max_tokens": _maybe(_whole),
        "digest": _maybe(_text),
        "notes": _TEXTS,
        "runtime": lambda value: {name: _text(item) for name, item in _object(value).items()},
    },
)
_PROMPTS = _several(_several(_message))


def decode_describe(body: Json) -> DrawSettings:
    """Return the settings of a client that asks what there is. Raises ValueError."""
    return _field("settings", _SETTINGS, _versioned(body).get("settings"))


def decode_request(body: Json) -> AnswerRequest:
    """Return the asks of a client. Raises ValueError."""
    body = _versioned(body)
    prompts = _field("prompts", _PROMPTS, body.get("prompts"))

    def ask(value: Json) -> Ask:
        fields = dict(_object(value))
        index, kind = _field("prompt", _whole, fields.pop("prompt", None)), fields.pop("kind", None)
        if not 0 <= index < len(prompts):
            raise ValueError(f"prompt: there is no prompt {index}")
        if kind not in ("generate", "likelihood"):
            raise ValueError(f"kind: needs generate or likelihood, got {_shown(kind)}")
        if "messages" in fields:
            raise ValueError("messages: prompts are listed by themselves")
        known = _GENERATE if kind == "generate" else {"completion": _WHOLES}
        record = _record(
            Generate if kind == "generate" else Likelihood, {"messages": lambda _: prompts[index], **known}
        )
        read: Ask = record({**fields, "messages": index})
        return read

    return AnswerRequest(
        _field("settings", _SETTINGS, body.get("settings")),
        _field("identity", _text, body.get("identity")),
        _field("session", _text, body.get("session")),
        _field("asks", _several(ask), body.get("asks")),
    )


def decode_facts(body: Json) -> ServerFacts:
    """Return what a server says of itself. Raises ValueError."""
    return _FACTS({name: value for name, value in _object(body).items() if name != "wire"})


def decode_arrival(event: Json) -> tuple[int, Completion]:
    """Return the position and the completion of an event. Raises ValueError."""
    fields = _object(event)
    if "error" in fields:
        raise ValueError(_text(fields["error"]))
    position = _field("position", _whole, fields.get("position"))
    return position, _field("completion", _COMPLETION, fields.get("completion"))


def _versioned(body: Json) -> Mapping[str, Json]:
    fields = _object(body)
    if why := wire_refusal(fields.get("wire"), "the client"):
        raise ValueError(why)
    return fields
