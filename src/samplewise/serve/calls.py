"""Vote over calls of tools: what a reply decides to do, as a text that is equal for equal decisions. Pure.

A decision is the functions that are called, with their arguments. Order of keys, white space, 1 or 1.0, ids of calls
and the order of calls made at once do not matter. A reply that calls nothing decides just that, whatever its words: all
such replies are one answer, unless the request says how to read them. A reply whose arguments are no JSON, or that was
cut off, decides nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from samplewise.core.types import Json, Question, Reader

NO_CALL = "no call"
# The fields and parts of messages that are about calls of tools. Whatever else a recipe steps aside for, it still does.
CALL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})
CALL_PARTS = ("role", "tool_calls", "function_call", "tool_call_id")


def is_about_calls(name: str) -> bool:
    """Return whether what a recipe cannot read is a call of a tool: a field's name, or a place such as
    messages[2].tool_calls."""
    return name in CALL_FIELDS or name.rpartition("].")[2] in CALL_PARTS


def canonical_json(text: str) -> str:
    """Return a JSON text in one form: sorted keys, no white space, whole numbers without a fraction.

    Raises ValueError if it is not JSON.
    """
    try:
        value = json.loads(text, parse_float=_number, parse_constant=_refuse)
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _number(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return int(value) if value.is_integer() else value


def _refuse(name: str) -> Json:
    raise ValueError(f"{name} is no number of JSON")


def decision_of(choice: Mapping[str, Json]) -> str | None:
    """Return what the choice of a reply decides to call, `NO_CALL` for a text alone, None if nothing is decided."""
    message = choice.get("message")
    if not isinstance(message, dict) or choice.get("finish_reason") == "length":
        return None
    calls = message.get("tool_calls")
    listed = list(calls) if isinstance(calls, list) else []
    if isinstance(message.get("function_call"), dict):  # the older form
        listed.append({"type": "function", "function": message["function_call"]})
    if not listed:
        text = message.get("content")
        return NO_CALL if isinstance(text, str) and text.strip() else None
    try:
        return f"[{','.join(sorted(_canonical_call(call) for call in listed))}]"
    except ValueError:
        return None


def _canonical_call(call: Json) -> str:
    """Return one call as JSON. Raises ValueError if it cannot be made out."""
    kind = call.get("type") or "function" if isinstance(call, dict) else None
    if kind == "custom" and isinstance(call.get("custom"), dict):  # its input is any text
        named, arguments = call["custom"], json.dumps(call["custom"].get("input"), ensure_ascii=False)
    elif kind == "function" and isinstance(call.get("function"), dict):
        named = call["function"]
        given = named.get("arguments")
        given = json.dumps(given) if isinstance(given, dict) else given  # as some servers send them
        if given is not None and not isinstance(given, str):
            raise ValueError("arguments are a text")
        arguments = canonical_json(given) if given and given.strip() else "{}"
    else:
        raise ValueError("no call of a function")
    name = named.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("a call names its function")
    return f'{{"name":{json.dumps(name, ensure_ascii=False)},"arguments":{arguments}}}'


class CallReader:
    """Reads what a reply decides, from its choice as JSON text. `of_text` reads the text of one that calls nothing."""

    def __init__(self, of_text: Reader | None = None) -> None:
        self._of_text = of_text

    def __call__(self, question: Question, text: str) -> str | None:
        """Return the decision, None if there is none."""
        choice = drawn_choice(text)
        decision = decision_of(choice)
        if decision != NO_CALL or self._of_text is None:
            return decision
        return self._of_text(question, choice["message"]["content"])


def drawn_choice(text: str) -> dict[str, Json]:
    """Return the choice of a chat reply that a draw holds as its text; an empty one if it holds none."""
    try:
        choice = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return choice if isinstance(choice, dict) else {}
