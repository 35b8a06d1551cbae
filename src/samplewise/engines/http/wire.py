"""Asks to request bodies, replies to choices. Pure: no sockets, no clock.

A body says the whole law that is asked for, its neutral values too: where a field is missing, servers put in their own
(llama.cpp cuts by top-k 40 and top-p 0.95, vLLM takes what the model's makers recommend), and the draws would follow
another law than the one that was asked for. A server that refuses a neutral value is sent none (`Profile.refused`).

A reply is read whatever its dialect: choices in any order, text in parts or null, reasoning under either name.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from samplewise.engines.http.profile import Profile
from samplewise.types import Generate, Json, Likelihood, Message, Sampling

SEEDS = 1 << 31  # a seed is sent modulo this: more is refused or cut off by servers that keep 32 bits

# What every law has and not every server knows: the value that changes nothing.
NEUTRAL: Mapping[str, Json] = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}

PLAIN = Sampling()

FINISHES = {
    **dict.fromkeys(("stop", "eos", "stop_sequence", "end_turn", "tool_calls", "function_call"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "content_filter"), "length"),  # cut before its own end
    **dict.fromkeys(("error", "abort", "aborted", "cancelled"), "error"),
}


class Request(NamedTuple):
    """What to post where. `data` is the body as JSON, where that is at hand already."""

    path: str
    body: dict[str, Json]
    data: bytes = b""


class Form(NamedTuple):
    """A request as JSON but for its seed: a prompt that is drawn from often is serialised once."""

    request: Request
    head: str  # the body up to the seed, or all of it where none is sent

    def filled(self, seed: int) -> Request:
        path, body, data = self.request
        return Request(path, body, data or f"{self.head}{seed % SEEDS}}}".encode())


def form(request: Request, extra: Mapping[str, Json] | None) -> Form:
    """The form of a request for draws. A seed in `extra` stays as it is."""
    path, body, _ = request
    if "seed" not in body or "seed" in (extra or {}):
        return Form(Request(path, body, json.dumps(body).encode()), "")
    others = {name: value for name, value in body.items() if name != "seed"}
    return Form(request, f'{json.dumps(others)[:-1]}, "seed": ')


Top = tuple[tuple[tuple[str, float], ...], ...]  # (T, k) likeliest tokens' texts and log-probs (nats)


class Choice(NamedTuple):
    """One draw of a reply. Arrays (T,) cover what was drawn; None: not given."""

    text: str
    finish: str  # "stop", "length", "error", or "" where the server does not say
    reasoning: str = ""  # hidden thoughts, no part of the text
    tokens: tuple[int, ...] | None = None
    logp: tuple[float, ...] | None = None  # nats
    error: str = ""
    top: Top | None = None


class Counts(NamedTuple):
    """What the server says it billed, for the whole reply. None: it does not say, or says nonsense."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None


class Reading(NamedTuple):
    """A reply as read."""

    choices: tuple[Choice, ...]
    num_listed: int  # choices in the reply, those that repeat an index too
    counts: Counts = Counts()
    prompt_ids: tuple[int, ...] | None = None  # token ids of the prompt, template included


# --- asks -> bodies ---------------------------------------------------------------------------------------------------


def generate(
    ask: Generate,
    model: str,
    profile: Profile,
    *,
    num: int = 1,
    prompt_ids: Sequence[int] | None = None,
    logprobs: bool = False,
    top: int = 0,
    max_tokens: int | None = None,
    extra: Mapping[str, Json] | None = None,
) -> Request:
    """The request for `num` draws of an ask. With `prompt_ids` they and the ask's prefix are the prompt, and what comes
    back follows the prefix. `extra` are fields that go upstream as they are."""
    body: dict[str, Json] = {"model": model}
    chat = profile.api == "chat" and prompt_ids is None
    if chat:
        body["messages"] = [{"role": m.role, "content": m.content} for m in ask.messages]
    else:
        body["prompt"] = plain(ask.messages) if prompt_ids is None else [*prompt_ids, *ask.prefix]
    field = profile.max_tokens_field if chat else "max_tokens"
    body[field or "max_tokens"] = ask.max_tokens if max_tokens is None else max_tokens
    temperature, top_k, top_p, min_p = ask.sampling[:4]
    refused = profile.refused
    if profile.temperature is not False:
        body["temperature"] = temperature
    if "top_p" not in refused:
        body["top_p"] = top_p
    if "top_k" not in refused:
        body["top_k"] = top_k or -1
    if "min_p" not in refused:
        body["min_p"] = min_p
    if "repetition_penalty" not in refused:
        body["repetition_penalty"] = 1
    if profile.seed is not False:
        body["seed"] = ask.seed % SEEDS
    if num > 1:
        body["n"] = num
    if ask.stop and "stop" not in refused:
        body["stop"] = list(ask.stop)
    if chat and (logprobs or top):
        body["logprobs"] = True
        if top:
            body["top_logprobs"] = top
    elif logprobs or top:
        body["logprobs"] = max(top, 1)
    if "tokens" in ask.want and profile.token_ids_out is not False:
        body["return_token_ids"] = True
    if extra:
        body.update(extra)
    return Request("chat/completions" if chat else "completions", body)


def likelihood(ask: Likelihood, model: str, prompt_ids: Sequence[int]) -> Request:
    """The request that scores a given response: it is a part of the prompt, and one token is drawn and thrown away."""
    prompt = [*prompt_ids, *ask.completion]
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 1, "prompt_logprobs": 0}
    return Request("completions", body)


def tokenize(messages: Sequence[Message], model: str, profile: Profile) -> Request:
    """The request for a prompt's token ids, as vLLM has it."""
    if profile.api == "completions":
        return Request("//tokenize", {"model": model, "prompt": plain(messages)})
    listed = [{"role": m.role, "content": m.content} for m in messages]
    return Request("//tokenize", {"model": model, "messages": listed, "add_generation_prompt": True})


def plain(messages: Sequence[Message]) -> str:
    """Messages as the prompt of a model without a chat template: their contents, a blank line between them."""
    return "\n\n".join(m.content for m in messages)


def unsupported(ask: Generate, profile: Profile) -> str:
    """Why the endpoint cannot draw from the law that is asked for, or ""."""
    if ask.floor is not None or ask.forbid_first is not None:
        return "give up early, or forbid a first token"
    if ask.sampling.explore:
        return f"explore by {ask.sampling.explore}: that takes the model's own states"
    if ask.sampling == PLAIN and not ask.want:
        return ""
    for name, value in zip(ask.sampling._fields, ask.sampling, strict=True):
        default = ask.sampling._field_defaults[name]
        if value != default and (name in profile.refused or (name == "temperature" and profile.temperature is False)):
            return f"draw with {name} {value:g}: it accepts no value but its own"
    if ("logp" in ask.want or "top" in ask.want) and profile.logprobs is False:
        return "give log-probs"
    if "top" in ask.want and profile.top_logprobs == 0:
        return "give the likeliest tokens"
    if unseen := sorted({"certainty", "logz"} & set(ask.want)):
        return f"give {unseen[0]}: it would have to show the whole law"
    if "tokens" in ask.want and profile.token_ids_out is False:
        return "give token ids"
    return ""


# --- replies -> choices -----------------------------------------------------------------------------------------------


def read(body: Json) -> Reading:
    """The choices of a reply, in the order of their indices. Raises ValueError where it is no completion.

    Of those that share an index the first is kept, whatever they say: to keep those that differ would favour rare ones.
    """
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list):
        raise ValueError("the reply has no choices")
    found: dict[int, Choice] = {}
    ids: Json = body.get("prompt_token_ids")
    for position, raw in enumerate(choices):
        if isinstance(raw, dict):
            index = raw.get("index")
            if (index := index if type(index) is int else position) not in found:
                found[index] = _choice(raw)
            ids = ids or raw.get("prompt_token_ids")
    usage = body.get("usage")
    return Reading(
        tuple(found.values()) if len(found) < 2 else tuple(found[index] for index in sorted(found)),
        len(choices),
        _counts(usage) if isinstance(usage, dict) else Counts(),
        _ids(ids) if ids else None,
    )


def read_likelihood(body: Json, ask: Likelihood) -> tuple[float, ...]:
    """Log-probabilities (T,) in nats of the ask's token ids. Raises ValueError where the reply has none."""
    try:
        choice = body["choices"][0]
        listed = choice.get("prompt_logprobs") or body.get("prompt_logprobs")
        if not ask.completion:
            return ()
        tail = listed[len(listed) - len(ask.completion) :]
        found = tuple(float(at[str(token)]["logprob"]) for at, token in zip(tail, ask.completion, strict=True))
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ValueError("the reply has no prompt_logprobs") from None
    if not all(math.isfinite(value) for value in found):
        raise ValueError("the reply's prompt_logprobs are no numbers")
    return found


def read_ids(body: Json) -> tuple[int, ...]:
    """The token ids of a reply to `tokenize`. Raises ValueError where there are none."""
    if ids := _ids(body.get("tokens") if isinstance(body, dict) else None):
        return ids
    raise ValueError("the reply has no tokens")


def _choice(raw: Mapping[str, Json]) -> Choice:
    message = raw.get("message")
    if not isinstance(message, dict):
        message = {"content": raw.get("text"), "reasoning": raw.get("reasoning")}
    get = raw.get
    text, reasoning = message.get("content"), message.get("reasoning") or message.get("reasoning_content")
    finish, ids, logprobs, error = get("finish_reason"), get("token_ids"), get("logprobs"), get("error")
    return Choice(
        text if isinstance(text, str) else _joined(text),
        "error" if error else FINISHES.get(finish, "") if isinstance(finish, str) else "",
        _joined(reasoning) if reasoning else "",
        _ids(ids) if ids is not None else None,
        _logp(logprobs) if logprobs is not None else None,
        error_text(raw) if error else "",
        _top(logprobs) if logprobs is not None else None,
    )


def _joined(content: Json) -> str:
    """Text, whether it came as such, in parts, or not at all."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def _ids(raw: Json) -> tuple[int, ...] | None:
    return tuple(raw) if isinstance(raw, list) and all(type(token) is int for token in raw) else None


def _logp(raw: Json) -> tuple[float, ...] | None:
    """The log-probabilities of a choice, chat's or completions'."""
    if not isinstance(raw, dict):
        return None
    values = raw.get("token_logprobs")
    if isinstance(raw.get("content"), list):
        values = [at.get("logprob") if isinstance(at, dict) else None for at in raw["content"]]
    if not isinstance(values, list) or not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
        return None
    return tuple(float(v) for v in values)


def _top(raw: Json) -> Top | None:
    """The likeliest tokens at each place, likeliest first, in chat's form or that of completions."""
    if not isinstance(raw, dict):
        return None
    places: Json = raw.get("top_logprobs")
    if isinstance(raw.get("content"), list):
        places = [at.get("top_logprobs") if isinstance(at, dict) else None for at in raw["content"]]
    if not isinstance(places, list) or not any(places):
        return None
    return tuple(_likeliest(place) for place in places)


def _likeliest(place: Json) -> tuple[tuple[str, float], ...]:
    if isinstance(place, list):
        pairs = [(at.get("token"), at.get("logprob")) for at in place if isinstance(at, dict)]
    else:
        pairs = list(place.items()) if isinstance(place, dict) else []
    fine = [(t, float(v)) for t, v in pairs if isinstance(t, str) and isinstance(v, int | float) and math.isfinite(v)]
    return tuple(sorted(fine, key=lambda pair: -pair[1]))


def _counts(usage: dict[str, Json]) -> Counts:
    of_prompt, of_completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return Counts(
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        _count(of_prompt.get("cached_tokens")) if isinstance(of_prompt, dict) else None,
        _count(of_completion.get("reasoning_tokens")) if isinstance(of_completion, dict) else None,
    )


def _count(value: Json) -> int | None:
    return value if type(value) is int and value >= 0 else None


MARKUP = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)|<!--.*?-->|<[^>]*>", re.IGNORECASE | re.DOTALL)


def error_text(body: Json, text: str = "", most: int = 300) -> str:
    """The server's own message, on one line; of a web page its words."""
    error = body.get("error") if isinstance(body, dict) else None
    found: Json = error.get("message") if isinstance(error, dict) else error
    if not isinstance(found, str) and isinstance(body, dict):
        found = next((body[name] for name in ("message", "detail", "msg") if body.get(name)), None)
    if not isinstance(found, str):
        found = str(found) if found else html.unescape(MARKUP.sub(" ", text)) if text.lstrip()[:1] == "<" else text
    line = " ".join(found.split())
    return line if len(line) <= most else line[: most - 3] + "..."
