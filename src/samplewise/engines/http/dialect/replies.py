"""Parse replies into choices. Pure. Choices may come in any order, text in parts or null, reasoning by any name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple, TypeGuard

from samplewise.core.types import Json, Likelihood
from samplewise.engines.http.transport.client import error_text

FINISHES = {
    **dict.fromkeys(("stop", "eos", "stop_sequence", "end_turn", "tool_calls", "function_call"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "content_filter"), "length"),  # cut before its own end
    **dict.fromkeys(("error", "abort", "aborted", "cancelled"), "error"),
}

MAX_DEPTH = 8  # of parts within parts
THOUGHTS = ("thinking", "reasoning", "reasoning_text", "redacted_thinking")  # types of parts
TOKEN_ID = re.compile(r"token_id:(\d+)")  # what stands for a token's text where ids are asked for
MIN_LOGP, MAX_LOGP = -1e6, 1e-2  # nats: what lies beyond is no log-probability

Top = tuple[tuple[tuple[str, float], ...], ...]  # (T, k) texts and log-probs (nats) of the likeliest tokens


class ReplyChoice(NamedTuple):
    """One draw of a reply. Arrays (T,) cover what was drawn; None if not given."""

    text: str
    finish: str  # "stop", "length", "error", or "" if the server does not say
    reasoning: str = ""  # not a part of the text
    tokens: tuple[int, ...] | None = None
    logp: tuple[float, ...] | None = None  # nats
    error: str = ""
    top: Top | None = None


class ReportedUsage(NamedTuple):
    """The token counts that the server reports for the whole reply. None if absent or not a count."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    total: int | None = None


class ParsedReply(NamedTuple):
    """A reply's choices and counts."""

    choices: tuple[ReplyChoice, ...]
    num_listed: int  # choices in the reply, with those that repeat an index
    usage: ReportedUsage = ReportedUsage()
    prompt_ids: tuple[int, ...] | None = None  # token ids of the prompt, template included


def parse_reply(body: Json) -> ParsedReply:
    """Return a reply's choices in the order of their indices. Raises ValueError if it is not a completion.

    Of choices that share an index the first is kept, whatever they say: keeping different ones would favor rare texts.
    """
    listed = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(listed, list):
        raise ValueError("the reply has no choices")
    choices: dict[int, ReplyChoice] = {}
    ids: Json = body.get("prompt_token_ids")
    for position, raw in enumerate(listed):
        if isinstance(raw, dict):
            index = raw.get("index")
            if (index := index if type(index) is int else position) not in choices:
                choices[index] = _choice(raw)
            ids = ids or raw.get("prompt_token_ids")
    return ParsedReply(
        tuple(choices.values()) if len(choices) < 2 else tuple(choices[index] for index in sorted(choices)),
        len(listed),
        reported_usage(body),
        _ids(ids) if ids else None,
    )


def parse_likelihood(body: Json, ask: Likelihood) -> tuple[float, ...]:
    """Return the log-probs (T,) in nats of the ask's token ids. Raises ValueError if the reply has none."""
    try:
        choice = body["choices"][0]
        listed = choice.get("prompt_logprobs") or body.get("prompt_logprobs")
        if not ask.completion:
            return ()
        tail = listed[len(listed) - len(ask.completion) :]
        logp = [entry[str(token)]["logprob"] for entry, token in zip(tail, ask.completion, strict=True)]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        raise ValueError("the reply has no prompt_logprobs") from None
    if not all(is_logp(value) for value in logp):
        raise ValueError("the reply's prompt_logprobs are not log-probabilities")
    return tuple(map(float, logp))


def token_id(name: str) -> int | None:
    """Return the token id that a name in a list of log-probs stands for, or None if it is a token's text."""
    match = TOKEN_ID.fullmatch(name)
    return int(match[1]) if match else None


def parse_text(body: Json) -> str:
    """Return the text in a reply to a detokenize request. Raises ValueError if there is none."""
    text = body.get("prompt") if isinstance(body, dict) else None
    if isinstance(text, str):
        return text
    raise ValueError("the reply has no text")


def parse_token_ids(body: Json) -> tuple[int, ...]:
    """Return the token ids in a reply to a tokenize request. Raises ValueError if there are none."""
    if ids := _ids(body.get("tokens") if isinstance(body, dict) else None):
        return ids
    raise ValueError("the reply has no tokens")


def reported_usage(body: Json) -> ReportedUsage:
    """Return the token counts in a reply."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return ReportedUsage()
    of_prompt, of_completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return ReportedUsage(
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(of_prompt.get("cached_tokens")) if isinstance(of_prompt, dict) else None,
        _count(of_completion.get("reasoning_tokens")) if isinstance(of_completion, dict) else None,
        _count(usage.get("total_tokens")),
    )


def _choice(raw: Mapping[str, Json]) -> ReplyChoice:
    message = raw.get("message")
    if not isinstance(message, dict):
        message = {"content": raw.get("text"), "reasoning": raw.get("reasoning")}
    get = raw.get
    text, thoughts = message.get("content"), thoughts_of(message)
    finish, ids, logprobs, error = get("finish_reason"), get("token_ids"), get("logprobs"), get("error")
    return ReplyChoice(
        text if isinstance(text, str) else _joined(text),
        "error" if error else FINISHES.get(finish, "") if isinstance(finish, str) else "",
        thoughts,
        _ids(ids) if ids is not None else None,
        _logp(logprobs) if logprobs is not None else None,
        error_text(raw) if error else "",
        _top(logprobs) if logprobs is not None else None,
    )


def thoughts_of(message: Mapping[str, Json]) -> str:
    """Return the reasoning of a message: from a field of its own, else from parts of the content."""
    if reasoning := message.get("reasoning") or message.get("reasoning_content"):
        return _joined(reasoning)
    listed = message.get("reasoning_details")
    if not listed and isinstance(message.get("content"), list):
        listed = [part for part in message["content"] if isinstance(part, dict) and part.get("type") in THOUGHTS]
    if not isinstance(listed, list):
        return ""
    names = ("text", "summary", "thinking", "reasoning")
    parts = (next((part[name] for name in names if part.get(name)), "") for part in listed if isinstance(part, dict))
    return "".join(map(_joined, parts))


def _joined(content: Json, depth: int = 0) -> str:
    """Return content as text, whether it came as a string, in parts, or not at all. Parts that reason are left out."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict) and depth < MAX_DEPTH:
        return _joined(content.get("text"), depth + 1)
    if isinstance(content, list) and depth < MAX_DEPTH:
        return "".join(
            _joined(part, depth + 1)
            for part in content
            if not (isinstance(part, dict) and part.get("type") in THOUGHTS)
        )
    return ""


def _ids(raw: Json) -> tuple[int, ...] | None:
    return tuple(raw) if isinstance(raw, list) and all(type(token) is int for token in raw) else None


def _logp(raw: Json) -> tuple[float, ...] | None:
    """Return the log-probs of a choice, in the format of chat or of completions."""
    if not isinstance(raw, dict):
        return None
    values = raw.get("token_logprobs")
    if isinstance(raw.get("content"), list):
        values = [entry.get("logprob") if isinstance(entry, dict) else None for entry in raw["content"]]
    if not isinstance(values, list) or not all(is_logp(value) for value in values):
        return None
    return tuple(float(value) for value in values)


def is_logp(value: Json) -> TypeGuard[int | float]:
    """Return whether the value can be a token's log-probability in nats: a number that is not far above 0, or absurd.

    A little above 0 it may be by rounding.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and MIN_LOGP <= value <= MAX_LOGP


def _top(raw: Json) -> Top | None:
    """Return the likeliest tokens per position, likeliest first, in the format of chat or of completions."""
    if not isinstance(raw, dict):
        return None
    positions: Json = raw.get("top_logprobs")
    if isinstance(raw.get("content"), list):
        positions = [entry.get("top_logprobs") if isinstance(entry, dict) else None for entry in raw["content"]]
    if not isinstance(positions, list) or not any(positions):
        return None
    return tuple(_likeliest(listed) for listed in positions)


def _likeliest(listed: Json) -> tuple[tuple[str, float], ...]:
    if isinstance(listed, list):
        pairs = [(entry.get("token"), entry.get("logprob")) for entry in listed if isinstance(entry, dict)]
    else:
        pairs = list(listed.items()) if isinstance(listed, dict) else []
    valid = [(t, float(v)) for t, v in pairs if isinstance(t, str) and is_logp(v)]
    return tuple(sorted(valid, key=lambda pair: -pair[1]))


def _count(value: Json) -> int | None:
    return value if type(value) is int and value >= 0 else None
