"""The fields of a request, in one table: what each may hold, and what becomes of it. Pure.

`wire.py` reads requests by this table, and `openapi.py` describes the API by it, so that the two cannot differ. Schemas
are JSON Schema (2020-12). A field that is null counts as left out, everywhere, so no schema speaks of null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from samplewise.core.types import Json

Route = Literal["chat", "completions"]
# What becomes of a field: it is honored by samplewise itself; sent with every draw to the endpoint behind the engine,
# unchanged, and refused where the engine has none; ignored, as it cannot change an answer; what a recipe steps aside
# for, so that the endpoint gets the whole request, where there is one; or refused.
Use = Literal["honored", "passed", "ignored", "relayed", "refused"]
Schema = Mapping[str, Json]

BOTH: tuple[Route, ...] = ("chat", "completions")
MAX_N = 128  # choices of one reply
MAX_TOKENS = 131_072  # of one draw
MAX_STOPS, MAX_STOP_LENGTH = 16, 1000
MAX_MESSAGES = 10_000
MAX_DEPTH = 128  # of arrays and objects in a body
MAX_TOP = 20  # likeliest tokens listed per position
MAX_NAME = 2000  # characters of a model's name, which may hold a recipe
MAX_READER = 200  # characters of what reads an answer
MAX_DRAWS = 1024  # that a recipe in a request, or the header X-ITS-Budget, may name
ROLES = ("system", "developer", "user", "assistant")
RELAYED_ROLES = ("tool", "function")
RELAYED_PARTS = ("image_url", "input_audio", "file", "refusal", "video_url", "audio_url")  # types of content
RETURNS = ("candidates", "votes")

ANYTHING: Schema = {}
FLAG: Schema = {"type": "boolean"}


def number_schema(**bounds: float) -> Schema:
    """Return the schema of a number within bounds, which are named as in JSON Schema."""
    return {"type": "number", **bounds}


def count_schema(least: int, most: int) -> Schema:
    """Return the schema of a whole number from `least` to `most`."""
    return {"type": "integer", "minimum": least, "maximum": most}


def text_schema(most: int, least: int = 0) -> Schema:
    """Return the schema of a text of so many characters."""
    return {"type": "string", "maxLength": most, **({"minLength": least} if least else {})}


class Field(NamedTuple):
    """A field of a request. A value in `neutral` changes nothing: the field then counts as left out.

    `about` says what the field does; of a refused one, why it is refused.
    """

    name: str
    use: Use
    schema: Schema = ANYTHING
    routes: tuple[Route, ...] = BOTH
    neutral: tuple[Json, ...] = ()
    about: str = ""


STOP_TEXT = text_schema(MAX_STOP_LENGTH)
PART: Schema = {
    "type": "object",
    "required": ["type"],
    "anyOf": [
        {"properties": {"type": {"const": "text"}, "text": {"type": "string"}}, "required": ["text"]},
        {"properties": {"type": {"enum": list(RELAYED_PARTS)}}},
    ],
}
# The fields of a message; an assistant's own reasoning, refusals and annotations come back with a conversation, and are
# left out, as templates do.
MESSAGE_FIELDS: Mapping[str, Schema] = {
    "role": {"enum": [*ROLES, *RELAYED_ROLES]},
    "content": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": PART}]},
    **dict.fromkeys(
        ("name", "refusal", "annotations", "reasoning", "reasoning_content", "samplewise"),
        ANYTHING,
    ),
    **dict.fromkeys(("audio", "tool_calls", "function_call", "tool_call_id"), ANYTHING),
}
RELAYED_MESSAGE_FIELDS = ("audio", "tool_calls", "function_call", "tool_call_id")
BUDGET_FIELDS: Mapping[str, Schema] = {
    "tokens": count_schema(1, 10**12),
    "usd": number_schema(exclusiveMinimum=0.0, maximum=1e6),
    "seconds": number_schema(exclusiveMinimum=0.0, maximum=86_400.0),
}
OWN_FIELDS: Mapping[str, Schema] = {
    "recipe": text_schema(MAX_NAME),
    "budget": {"type": "object"},  # of BUDGET_FIELDS
    "return": {"type": "array", "items": {"enum": list(RETURNS)}},
    "read": text_schema(MAX_READER),
    "progress": FLAG,
}
STREAM_FIELDS: Mapping[str, Schema] = {
    "include_usage": FLAG,
    "include_obfuscation": {"enum": [False]},
    "continuous_usage_stats": {"enum": [False]},
}

_CHAT: tuple[Route, ...] = ("chat",)
_OLDER: tuple[Route, ...] = ("completions",)
FIELDS: tuple[Field, ...] = (
    Field("model", "honored", text_schema(MAX_NAME, 1), about="a model, PRESET@MODEL or RECIPE@MODEL"),
    Field(
        "messages",
        "honored",
        {"type": "array", "minItems": 1, "maxItems": MAX_MESSAGES},
        _CHAT,
        about="the conversation; some of it must be text that is not blank",
    ),
    Field(
        "prompt",
        "honored",
        {
            "anyOf": [
                text_schema(8 << 20, 1),
                {"type": "array", "items": text_schema(8 << 20, 1), "minItems": 1, "maxItems": 1},
            ]
        },
        _OLDER,
        about="one text that is not blank",
    ),
    Field(
        "n",
        "honored",
        count_schema(1, MAX_N),
        about="the n best different answers of one pool, then further candidates",
    ),
    Field(
        "max_tokens", "honored", count_schema(1, MAX_TOKENS), about="the limit of each draw, beside the recipe's own"
    ),
    Field(
        "max_completion_tokens", "honored", count_schema(1, MAX_TOKENS), _CHAT, about="takes precedence over max_tokens"
    ),
    Field("temperature", "honored", number_schema(minimum=0.0, maximum=2.0), about="of each draw"),
    Field("top_p", "honored", number_schema(exclusiveMinimum=0.0, maximum=1.0), about="of each draw"),
    Field("top_k", "honored", count_schema(-1, 1_000_000), about="of each draw; -1 and 0 are off"),
    Field("min_p", "honored", number_schema(minimum=0.0, exclusiveMaximum=1.0), about="of each draw"),
    Field(
        "stop",
        "honored",
        {
            "anyOf": [
                STOP_TEXT,
                {"type": "array", "items": {"anyOf": [STOP_TEXT, {"type": "null"}]}, "maxItems": MAX_STOPS},
            ]
        },
        about="texts that end a draw; null and empty ones are left out",
    ),
    Field("seed", "honored", count_schema(-(1 << 63), (1 << 64) - 1), about="fixes the whole run"),
    Field("stream", "honored", FLAG, about="answer with server-sent events"),
    Field("stream_options", "honored", {"type": "object"}, about="with stream: true alone"),
    Field("logprobs", "honored", FLAG, _CHAT, about="log-probs of the chosen draw, null where they are not known"),
    Field(
        "logprobs",
        "honored",
        count_schema(0, MAX_TOP),
        _OLDER,
        about="likeliest tokens to list; log-probs are null where unknown",
    ),
    Field("top_logprobs", "honored", count_schema(0, MAX_TOP), _CHAT, about="with logprobs: true alone"),
    Field("samplewise", "honored", {"type": "object"}, about="what is run, within which limits, and what is returned"),
    # --- passed on ---
    Field("response_format", "passed", neutral=({"type": "text"},), about="equal JSON objects are one answer"),
    Field("frequency_penalty", "passed", neutral=(0,)),
    Field("presence_penalty", "passed", neutral=(0,)),
    Field("logit_bias", "passed", neutral=({},)),
    Field("reasoning_effort", "passed"),
    Field("verbosity", "passed"),
    Field("repetition_penalty", "passed", neutral=(1,)),
    Field("chat_template_kwargs", "passed", {"type": "object"}, neutral=({},)),
    Field("structured_outputs", "passed"),
    Field("guided_json", "passed"),
    Field("guided_regex", "passed"),
    Field("guided_choice", "passed"),
    Field("guided_grammar", "passed"),
    Field("thinking", "passed"),
    Field("enable_thinking", "passed"),
    Field("min_tokens", "passed", neutral=(0,)),
    # --- ignored: about accounts, caches and records of the service that they were made for ---
    Field("user", "ignored"),
    Field("safety_identifier", "ignored"),
    Field("metadata", "ignored"),
    Field("store", "ignored"),
    Field("service_tier", "ignored"),
    Field("prompt_cache_key", "ignored"),
    Field("prompt_cache_retention", "ignored"),
    Field("request_id", "ignored"),
    # --- what a recipe cannot choose among ---
    Field("tools", "relayed", neutral=([],)),
    Field("tool_choice", "relayed", neutral=("none", "auto")),
    Field("parallel_tool_calls", "relayed", neutral=(True, False)),
    Field("functions", "relayed", neutral=([],)),
    Field("function_call", "relayed", neutral=("none", "auto")),
    Field("audio", "relayed"),
    Field("modalities", "relayed", neutral=(["text"],)),
    Field("prediction", "relayed"),
    Field("web_search_options", "relayed"),
    # --- refused ---
    Field("moderation", "refused", about="there is no moderation"),
    Field(
        "echo",
        "refused",
        neutral=(False,),
        about="a prompt is not repeated; score a given text with the endpoint itself",
    ),
    Field("suffix", "refused", neutral=("",), about="a text is continued at its end alone"),
    Field(
        "best_of",
        "refused",
        neutral=(1,),
        about="a recipe chooses: set model to, say, 'repeat(8) | best(likelihood)@MODEL'",
    ),
    Field("prompt_logprobs", "refused", about="a prompt is not scored; use the endpoint itself"),
    Field("return_token_ids", "refused", neutral=(False,), about="token ids are not returned"),
    Field("ignore_eos", "refused", neutral=(False,), about="a response ends where the model ends it"),
    Field("continue_final_message", "refused", neutral=(False,), about="a response is not continued"),
    Field("add_generation_prompt", "refused", neutral=(True,), about="a response is not continued"),
    Field("use_beam_search", "refused", neutral=(False,), about="a recipe draws: there is no beam search"),
)


def _names(use: Use, route: Route | None = None) -> tuple[str, ...]:
    names = (field.name for field in FIELDS if field.use == use and (route is None or route in field.routes))
    return tuple(dict.fromkeys(names))


HONORED: Mapping[Route, tuple[str, ...]] = {route: _names("honored", route) for route in BOTH}
PASSED, IGNORED, RELAYED = _names("passed"), _names("ignored"), _names("relayed")
REFUSED: Mapping[str, str] = {field.name: field.about for field in FIELDS if field.use == "refused"}
NEUTRAL: Mapping[str, tuple[Json, ...]] = {field.name: field.neutral for field in FIELDS if field.neutral}
SCHEMAS: Mapping[Route, Mapping[str, Schema]] = {
    route: {field.name: field.schema for field in FIELDS if route in field.routes} for route in BOTH
}


def join_fields(own: Mapping[str, Json], given: Mapping[str, Json]) -> dict[str, Json]:
    """Return an operator's fields for an endpoint with those of a request, which take precedence.

    Arguments of the chat template do so one by one.
    """
    joined = {**own, **given}
    name = "chat_template_kwargs"
    if isinstance(own.get(name), dict) and name in given:
        joined[name] = {**own[name], **given[name]}
    return joined


def is_neutral(name: str, value: Json) -> bool:
    """Return whether a field of this value changes nothing. True is no 1, which Python thinks equal."""
    listed = NEUTRAL.get(name, ())
    return any(value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in listed)
