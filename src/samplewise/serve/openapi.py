"""Describe the API of a server as OpenAPI 3.1: the routes, and every field by the table of `fields.py`. Pure.

Requests are described as strictly as JSON Schema can: what it rejects is answered with 400. Of what it accepts some is
refused all the same, as a rule lies between two fields, or as the model cannot do it; such an error has a `code`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from samplewise.core.types import Json
from samplewise.serve.fields import (
    BOTH,
    BUDGET_FIELDS,
    FIELDS,
    MAX_DRAWS,
    MAX_NAME,
    MESSAGE_FIELDS,
    OWN_FIELDS,
    RELAYED_MESSAGE_FIELDS,
    RELAYED_ROLES,
    ROLES,
    STREAM_FIELDS,
    Field,
    Route,
    Schema,
)

NULL: Schema = {"type": "null"}
FALSY: list[Json] = [None, False, 0, "", [], {}]  # values with which a field of a message says nothing
REPLIES: Mapping[Route, tuple[str, str]] = {
    "chat": ("ChatReply", "ChatChunk"),
    "completions": ("TextReply", "TextChunk"),
}
PATHS: Mapping[Route, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
HEADERS: Mapping[str, str] = {
    "X-Samplewise-Run": "the run's name",
    "X-Samplewise-Recipe": "the recipe that was run",
    "X-Samplewise-Stop": "why it stopped; not in a stream",
    "X-Samplewise-Draws": "how many draws it was decided from; not in a stream",
    "X-Samplewise-Tokens": "what the run cost; not in a stream",
    "X-Samplewise-Agreement": "the share of draws that gave the answer, where there was a vote",
    "X-Samplewise-Aside": "the field for which the recipe stepped aside",
}
STATUSES: Mapping[str, str] = {
    "400": "a field is wrong, unknown or not supported: param names it",
    "401": "no such key",
    "403": "the key may not use this recipe, or a page of another origin asked",
    "404": "no such model",
    "413": "the body is too large",
    "415": "the body is compressed, or not application/json from a page of another origin",
    "422": "the endpoint behind the server cannot process the request",
    "429": "a limit of the key or the queue: Retry-After says how long",
    "502": "the endpoint behind the server failed",
    "503": "the server is shutting down, or its model is not there yet",
    "504": "no response came in time",
}
COMPLETION_STATUSES = tuple(STATUSES)


def describe_api(
    models: Collection[str], presets: Mapping[str, str], version: str, *, has_keys: bool
) -> dict[str, Json]:
    """Return the description of a server with these models and presets."""
    names = [*models, *(f"{preset}@{model}" for model in models for preset in presets)]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "samplewise serve",
            "version": version,
            "description": "An OpenAI-compatible API whose models are recipes: many draws, one good answer.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": _paths(),
        "components": {
            "schemas": _schemas(names, presets),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}] if has_keys else [],
    }


# --- routes -----------------------------------------------------------------------------------------------------------


def _paths() -> dict[str, Json]:
    page = _content("text/html", {"type": "string"})
    alive: dict[str, Json] = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}
    id_parameter = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    return {
        **{PATHS[route]: {"post": _completions(route)} for route in BOTH},
        "/v1/models": {"get": _get("listModels", "the plain models, then each with every preset", _ref("Models"))},
        "/v1/models/{id}": {
            "get": {**_get("findModel", "one model", _ref("Model"), "404"), "parameters": [id_parameter]}
        },
        "/health": {"get": {**_get("health", "the process is there", alive), "security": []}},
        "/ready": {
            "get": {
                "operationId": "ready",
                "summary": "requests would be answered",
                "security": [],
                "responses": {
                    "200": {"description": "they would", "content": _content("application/json", alive)},
                    "503": {"description": "not yet, or no longer", "content": _content("application/json", alive)},
                },
            }
        },
        "/metrics": {"get": _get("metrics", "Prometheus text", {"type": "string"}, kind="text/plain")},
        "/openapi.json": {"get": _get("describe", "this description", {"type": "object", "required": ["openapi"]})},
        "/": {
            "get": {
                "operationId": "page",
                "summary": "a page with what is served and what the key's requests came to",
                "responses": {
                    "200": {"description": "the page", "content": page},
                    "401": {
                        "description": "the browser is asked for a key",
                        "content": _content("text/plain", {"type": "string"}),
                    },
                    "403": _error("403"),
                },
            }
        },
    }


def _get(name: str, summary: str, schema: Schema, *statuses: str, kind: str = "application/json") -> dict[str, Json]:
    responses = {"200": {"description": summary, "content": _content(kind, schema)}}
    errors = {status: _error(status) for status in ("401", "403", *statuses)}
    return {"operationId": name, "summary": summary, "responses": {**responses, **errors}}


def _completions(route: Route) -> dict[str, Json]:
    whole, chunk = REPLIES[route]
    request = "ChatRequest" if route == "chat" else "TextRequest"
    # without a type, as tools differ in whether a stream is one text or a list of events
    stream = {"description": f"Server-sent events: comments, data that is a {chunk} or an Error, and [DONE]."}
    headers = {name: {"description": about, "schema": {"type": "string"}} for name, about in HEADERS.items()}
    return {
        "operationId": "createChatCompletion" if route == "chat" else "createCompletion",
        "summary": "Answer a conversation" if route == "chat" else "Continue a text",
        "parameters": [
            {
                "name": "X-Samplewise-Recipe",
                "in": "header",
                "description": "the recipe, where the body names none",
                "schema": {"type": "string", "maxLength": MAX_NAME},
            },
            {
                "name": "X-ITS-Budget",
                "in": "header",
                "description": "how many draws, for keys that may choose recipes",
                "schema": {"type": "integer", "minimum": 1, "maximum": MAX_DRAWS},
            },
        ],
        "requestBody": {"required": True, "content": _content("application/json", _ref(request))},
        "responses": {
            "200": {
                "description": "The answer; an Error where a run failed after its reply had begun.",
                "headers": headers,
                "content": {
                    **_content("application/json", {"anyOf": [_ref(whole), _ref("Error")]}),
                    **_content("text/event-stream", stream),
                },
            },
            **{status: _error(status) for status in COMPLETION_STATUSES},
        },
    }


def _error(status: str) -> dict[str, Json]:
    headers: dict[str, Json] = {
        "x-should-retry": {"description": "whether to try again", "schema": {"enum": ["true", "false"]}},
        "Retry-After": {"description": "in how many seconds", "schema": {"type": "integer", "minimum": 1}},
    }
    if status == "401":
        headers = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
    return {
        "description": STATUSES[status],
        "headers": headers,
        "content": _content("application/json", _ref("Error")),
    }


def _content(kind: str, schema: Schema) -> dict[str, Json]:
    return {kind: {"schema": schema}}


def _ref(name: str) -> dict[str, Json]:
    return {"$ref": f"#/components/schemas/{name}"}


# --- requests ---------------------------------------------------------------------------------------------------------


def or_null(schema: Schema) -> Schema:
    """Return the schema of the same or null."""
    if not schema:
        return schema
    if set(schema) == {"enum"}:
        return {"enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, NULL]}


def _schemas(names: list[str], presets: Mapping[str, str]) -> dict[str, Json]:
    return {
        "ChatRequest": _request("chat", names),
        "TextRequest": _request("completions", names),
        "Message": _message(),
        "Wishes": _object(
            {**OWN_FIELDS, "recipe": _or_one_of(list(presets), OWN_FIELDS["recipe"]), "budget": _ref("Budget")}
        ),
        "Budget": _object(BUDGET_FIELDS),
        "StreamOptions": _object(STREAM_FIELDS),
        **_reply_schemas(),
    }


def _or_one_of(known: list[str], schema: Schema) -> Schema:
    return {"anyOf": [{"enum": known}, schema]} if known else schema


def _object(properties: Mapping[str, Schema]) -> dict[str, Json]:
    """Return the schema of an object of these fields alone, each of which may be null."""
    listed = {name: or_null(schema) for name, schema in properties.items()}
    return {"type": "object", "properties": listed, "additionalProperties": False}


def _request(route: Route, names: list[str]) -> dict[str, Json]:
    text = "messages" if route == "chat" else "prompt"
    own: dict[str, Schema] = {
        "model": _or_one_of(names, next(field.schema for field in FIELDS if field.name == "model")),
        "samplewise": _ref("Wishes"),
        "stream_options": _ref("StreamOptions"),
    }
    properties: dict[str, Json] = {}
    for field in FIELDS:
        if (schema := _field(field, route)) is None:
            continue
        schema = own.get(field.name, schema)
        if field.name == "messages":
            schema = {**schema, "items": _ref("Message")}
        is_required = field.name in ("model", text)
        what = {
            "description": f"{field.use}: {field.about}" if field.about else field.use,
            "x-samplewise-use": field.use,
        }
        properties[field.name] = {**(schema if is_required else or_null(schema)), **what}
    # a field that is null counts as left out, whatever its name
    return {"type": "object", "required": ["model", text], "properties": properties, "additionalProperties": NULL}


def _field(field: Field, route: Route) -> Schema | None:
    """Return the schema of what a route accepts in a field, None where it does not know the field."""
    is_refused = field.use == "refused" or (field.use == "relayed" and route != "chat")
    if is_refused:
        return {"enum": [*field.neutral]} if field.neutral else {"enum": [None]}
    return field.schema if route in field.routes else None


def _message() -> dict[str, Json]:
    """Return the schema of a message: it has a text, or something else that stands in its place."""
    roles = {
        "properties": {"role": {"enum": list(ROLES)}, "content": MESSAGE_FIELDS["content"]},
        "required": ["content"],
    }
    speaks = [{"required": [name], "properties": {name: {"not": {"enum": FALSY}}}} for name in RELAYED_MESSAGE_FIELDS]
    properties = {name: schema if name == "role" else or_null(schema) for name, schema in MESSAGE_FIELDS.items()}
    return {
        "type": "object",
        "required": ["role"],
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [roles, {"properties": {"role": {"enum": list(RELAYED_ROLES)}}}, *speaks],
    }


# --- replies ----------------------------------------------------------------------------------------------------------


def _whole(properties: Mapping[str, Json], optional: Collection[str] = (), *, more: bool = False) -> dict[str, Json]:
    """Return the schema of an object with these fields, all but the optional ones required."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "required": required, "properties": dict(properties), "additionalProperties": more}


def _list(items: Schema) -> dict[str, Json]:
    return {"type": "array", "items": items}


def _reply_schemas() -> dict[str, Json]:
    text, count = {"type": "string"}, {"type": "integer", "minimum": 0}
    maybe_text, maybe_number, maybe_object = (or_null({"type": kind}) for kind in ("string", "number", "object"))
    cost = _whole({"requests": count, "tokens": count, "usd": maybe_number, "seconds": maybe_number})
    stop = _whole({"reason": text, "evidence": {"type": "object"}})
    evidence = {
        **{"run": text, "recipe": text, "draws": count, "failed": count, "answer": maybe_text},
        **{"agreement": or_null({"type": "number", "minimum": 0, "maximum": 1}), "stop": stop},
        **{"spent": _ref("Cost"), "paid": _ref("Cost")},
    }
    extra = {
        **{"unanswered": count, "tied": count, "score": maybe_number, "votes": {"type": "object"}},
        **{"candidates": _list({"type": "object"}), "aside": text, "resumed": {"type": "boolean"}},
        **{"missing_choices": count, "relayed": {"type": "boolean"}},
    }
    usage = {
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "total_tokens"), count),
        "prompt_tokens_details": _whole({"cached_tokens": count}),
        "completion_tokens_details": _whole({"reasoning_tokens": count}),
    }
    message = {
        **{"role": {"const": "assistant"}, "content": maybe_text, "refusal": maybe_text},
        **{"reasoning_content": text, "tool_calls": _list({"type": "object"})},
    }
    chat_choice = {
        **{"index": count, "message": _whole(message, ("reasoning_content", "tool_calls"), more=True)},
        **{"logprobs": maybe_object, "finish_reason": text},
    }
    text_choice = {"index": count, "text": text, "logprobs": maybe_object, "finish_reason": text}
    delta = {"type": "object", "properties": {"role": {"const": "assistant"}, "content": text}}
    error = _whole({"message": text, "type": text, "param": maybe_text, "code": maybe_text})
    model = {"id": text, "object": {"const": "model"}, "created": count, "owned_by": text}

    def head(kind: str, choice: Json, least: int, **more: Json) -> dict[str, Json]:
        choices = {"type": "array", "items": choice, "minItems": least}
        return {
            **{"id": text, "object": {"const": kind}, "created": count, "model": text, "system_fingerprint": NULL},
            **{"choices": choices, **more},
        }

    both = {"usage": _ref("Usage"), "samplewise": _ref("Evidence")}
    in_stream = {"usage": or_null(_ref("Usage")), "samplewise": _ref("Evidence")}
    return {
        "Cost": cost,
        "Evidence": _whole({**evidence, **extra}, tuple(extra)),
        "Usage": _whole(usage),
        "ChatReply": _whole(head("chat.completion", _whole(chat_choice), 1, **both)),
        "TextReply": _whole(head("text_completion", _whole(text_choice), 1, **both)),
        "ChatChunk": _whole(
            head(
                "chat.completion.chunk",
                _whole({"index": count, "delta": delta, "logprobs": maybe_object, "finish_reason": maybe_text}),
                0,
                **in_stream,
            ),
            tuple(in_stream),
        ),
        "TextChunk": _whole(
            head("text_completion", _whole({**text_choice, "finish_reason": maybe_text}), 0, **in_stream),
            tuple(in_stream),
        ),
        "Error": _whole({"error": error}),
        "Model": _whole(model),
        "Models": _whole({"object": {"const": "list"}, "data": _list(_ref("Model"))}),
    }
