"""Parse requests, and build the JSON of replies. No sockets.

The formats are those of the OpenAI API, with vLLM's additions: `return_token_ids`, `prompt_logprobs`,
`continue_final_message`, prompts as token ids, and `top_k`, `min_p` beside `top_p`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from samplewise.core.types import Json, Message, Sampling
from samplewise.testing.endpoint.model import ServedDraw, ServedModel
from samplewise.testing.endpoint.settings import EndpointSettings

DEFAULT_MAX_TOKENS = {"chat": 1024, "completions": 16}


class RequestRefused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


class ServedRequest(NamedTuple):
    """A request for completions: the fields that have an effect."""

    chat: bool
    messages: tuple[Message, ...]
    prompt: tuple[int, ...]  # ids, without the prefix
    prefix: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...]
    num: int
    seed: int | None
    logprobs: int | None  # alternatives listed per token; None: no log-probs at all
    prompt_logprobs: bool
    token_ids: bool
    stream: bool
    include_usage: bool
    logit_bias: tuple[tuple[int, float], ...]  # token ids, and what is added to their logits
    names_by_id: bool  # tokens are named by their ids in lists of log-probs

    @property
    def num_prompt_tokens(self) -> int:
        """Return the tokens of prompt and prefix."""
        return len(self.prompt) + len(self.prefix)


def parse_request(body: Json, chat: bool, settings: EndpointSettings, model: ServedModel) -> ServedRequest:
    """Return the request that a body makes. Raises RequestRefused."""
    if not isinstance(body, dict):
        raise RequestRefused(400, "the body is not a JSON object")
    if body.get("model") != settings.model:
        raise RequestRefused(404, f"The model `{body.get('model')}` does not exist.", "model")
    given = {name: value for name, value in body.items() if value is not None}
    for name in settings.refuses:
        if name in given:
            other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}.get(name)
            hint = f" Use '{other}' instead." if other else ""
            if settings.refusal:
                raise RequestRefused(400, settings.refusal)
            raise RequestRefused(400, f"Unsupported parameter: '{name}' is not supported with this model.{hint}", name)
    for name in settings.ignores:
        given.pop(name, None)
    messages, prompt, prefix = _prompt(given, chat, settings, model)
    limits = [_number(given, name, int, 0) for name in ("max_tokens", "max_completion_tokens") if name in given]
    max_tokens = limits[-1] if limits else DEFAULT_MAX_TOKENS["chat" if chat else "completions"]
    room = settings.context - len(prompt) - len(prefix)
    if room < 1 or (limits and max_tokens > room):
        asked = len(prompt) + len(prefix) + (max_tokens if limits else 1)
        raise RequestRefused(
            400, f"This model's maximum context length is {settings.context} tokens, but {asked} were requested."
        )
    logprobs = _logprobs(given, chat)
    if logprobs is not None and logprobs > settings.max_top_logprobs:
        raise RequestRefused(400, f"at most {settings.max_top_logprobs} top log-probs, got {logprobs}", "top_logprobs")
    num = _number(given, "n", int, 1)
    if not 1 <= num <= settings.max_n:
        raise RequestRefused(400, f"n must be 1 to {settings.max_n}, got {num}", "n")
    stop = given.get("stop", ())
    return ServedRequest(
        chat=chat,
        messages=messages,
        prompt=prompt,
        prefix=prefix,
        sampling=_sampling(given),
        max_tokens=min(max_tokens, room),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        num=num,
        seed=_number(given, "seed", int, 0) if "seed" in given else None,
        logprobs=logprobs,
        prompt_logprobs="prompt_logprobs" in given,
        token_ids=given.get("return_token_ids") is True,
        stream=given.get("stream") is True,
        include_usage=(given.get("stream_options") or {}).get("include_usage") is True,
        logit_bias=_logit_bias(given, model),
        names_by_id=given.get("return_tokens_as_token_ids") is True,
    )


def _logit_bias(given: Mapping[str, Any], model: ServedModel) -> tuple[tuple[int, float], ...]:
    try:
        bias = tuple((int(token), float(value)) for token, value in given.get("logit_bias", {}).items())
    except (AttributeError, TypeError, ValueError):
        bias = ((-1, 0.0),)
    if any(not 0 <= token <= model.eos or not -100 <= value <= 100 for token, value in bias):
        raise RequestRefused(400, "logit_bias must be an object: token ids, and numbers from -100 to 100", "logit_bias")
    return bias


def _sampling(given: Mapping[str, Any]) -> Sampling:
    if given.keys().isdisjoint(Sampling._fields):
        return Sampling()
    return Sampling(
        float(_number(given, "temperature", float, 1.0)),
        max(0, _number(given, "top_k", int, 0)),
        float(_number(given, "top_p", float, 1.0)),
        float(_number(given, "min_p", float, 0.0)),
    )


def _number(given: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    if name not in given:
        return default
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        raise RequestRefused(400, f"{name} is not a number of the right type: {value!r}", name)
    return value


def _logprobs(given: Mapping[str, Any], chat: bool) -> int | None:
    if not chat:
        return _number(given, "logprobs", int, 0) if "logprobs" in given else None
    return _number(given, "top_logprobs", int, 0) if given.get("logprobs") is True else None


def _prompt(
    given: Mapping[str, Any], chat: bool, settings: EndpointSettings, model: ServedModel
) -> tuple[tuple[Message, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the messages, the ids of the prompt, and the response's prefix."""
    if not chat:
        prompt = given.get("prompt")
        if isinstance(prompt, str):
            return (Message("user", prompt),), model.tokenize(prompt), ()
        if "token_ids_in" in settings.refuses + settings.ignores or not isinstance(prompt, list):
            raise RequestRefused(400, "prompt must be a string", "prompt")
        try:
            messages, prefix = model.parse(prompt)
        except (ValueError, TypeError) as error:
            raise RequestRefused(400, f"prompt: {error}", "prompt") from None
        return messages, tuple(prompt[: len(prompt) - len(prefix)]), prefix
    messages = parse_messages(given.get("messages"))
    if given.get("continue_final_message") is not True or messages[-1].role != "assistant":
        return messages, model.prompt(messages), ()
    if given.get("add_generation_prompt", True) is True:
        raise RequestRefused(400, "continue_final_message needs add_generation_prompt false", "continue_final_message")
    try:
        prefix = model.letters(messages[-1].content)
    except ValueError:
        raise RequestRefused(
            400, "the final message is not a beginning that this model can continue", "messages"
        ) from None
    return messages[:-1], model.prompt(messages[:-1]), prefix


def parse_messages(messages: Json) -> tuple[Message, ...]:
    """Return a chat's messages; content may be a string or parts of text. Raises RequestRefused."""
    try:
        parsed = tuple(Message(m["role"], _content(m["content"])) for m in messages)
    except (TypeError, KeyError):
        parsed = ()
    if not parsed:
        raise RequestRefused(400, "messages must be a list of objects with role and content", "messages")
    return parsed


def _content(content: Json) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)


# --- replies ----------------------------------------------------------------------------------------------------------


def choice_body(
    request: ServedRequest,
    index: int,
    draw: ServedDraw,
    text: str | None,
    reasoning: str,
    model: ServedModel,
    sampling: Sampling = Sampling(),
) -> dict[str, Json]:
    """Return one choice of a reply, its log-probs those under `sampling`."""
    body: dict[str, Json] = {"index": index, "finish_reason": draw.finish, "stop_reason": None}
    if request.chat:
        body["message"] = {"role": "assistant", "content": text}
        if reasoning:
            body["message"]["reasoning_content"] = reasoning
    else:
        body["text"] = text
    body["logprobs"] = None if request.logprobs is None else logprobs(request, draw, model, sampling)
    if request.token_ids:
        body["token_ids"] = list(draw.tokens)
        if not request.chat:
            body["prompt_token_ids"] = [*request.prompt, *request.prefix]
    if request.prompt_logprobs and not request.chat:
        body["prompt_logprobs"] = prompt_logprobs(request, model)
    return body


def logprobs(
    request: ServedRequest, draw: ServedDraw, model: ServedModel, sampling: Sampling = Sampling()
) -> dict[str, Json]:
    """Return the log-probs of a completion, in the format of its route: the model's, or those under `sampling`."""
    words = [_name(request, token, model) for token in draw.tokens]
    tops = list(_tops(request, draw.tokens, model, sampling)) if request.logprobs else [[] for _ in words]
    listed_logp = list(draw.logp)
    if sampling != Sampling():
        before = [(*request.prefix, *draw.tokens[:i]) for i in range(len(draw.tokens))]
        rows = [model.logp(request.messages, tokens, sampling) for tokens in before]
        listed_logp = [row[token] for row, token in zip(rows, draw.tokens, strict=True)]
    if not request.chat:
        starts, start = [], 0
        for word in words:
            starts.append(start)
            start += len(word)
        listed = [dict(top) for top in tops]
        return {"tokens": words, "token_logprobs": listed_logp, "top_logprobs": listed, "text_offset": starts}
    return {
        "content": [
            {
                "token": word,
                "logprob": logp,
                "bytes": list(word.encode()),
                "top_logprobs": [{"token": w, "logprob": p, "bytes": list(w.encode())} for w, p in top],
            }
            for word, logp, top in zip(words, listed_logp, tops, strict=True)
        ]
    }


def _tops(
    request: ServedRequest, tokens: Sequence[int], model: ServedModel, sampling: Sampling
) -> Iterator[list[tuple[str, float]]]:
    for i in range(len(tokens)):
        row = model.logp(request.messages, (*request.prefix, *tokens[:i]), sampling)
        possible = [token for token in range(len(row)) if row[token] > -math.inf]
        best = sorted(possible, key=lambda token: -row[token])[: request.logprobs]
        yield [(_name(request, token, model), row[token]) for token in best]


def _name(request: ServedRequest, token: int, model: ServedModel) -> str:
    return f"token_id:{token}" if request.names_by_id else model.spell(token)


def prompt_logprobs(request: ServedRequest, model: ServedModel) -> list[Json]:
    """Return a log-prob for each id sent: the model's for the response's prefix, -1 for a word of the prompt, and none
    for the first id."""
    given = [*request.prompt, *request.prefix]
    entries: list[Json] = []
    for position, token in enumerate(given):
        after = position - len(request.prompt)
        logp = -1.0 if after < 0 else model.logp(request.messages, request.prefix[:after])[token]
        entries.append({str(token): {"logprob": logp, "rank": 1, "decoded_token": model.spell(token)}})
    return [None, *entries[1:]]


def usage_body(request: ServedRequest, num_tokens: int, num_reasoning: int, outside: bool = False) -> dict[str, Json]:
    """Return the usage of a reply, as it is billed; with `outside`, reasoning is in the total alone."""
    usage: dict[str, Json] = {
        "prompt_tokens": request.num_prompt_tokens,
        "completion_tokens": num_tokens - num_reasoning * outside,
        "total_tokens": request.num_prompt_tokens + num_tokens,
    }
    if num_reasoning:
        usage["completion_tokens_details"] = {"reasoning_tokens": num_reasoning}
    return usage


def reply_body(
    request: ServedRequest, choices: list[dict[str, Json]], usage: Json, settings: EndpointSettings, id: int
) -> Json:
    """Return a whole reply."""
    body: dict[str, Json] = {
        "id": f"{'chatcmpl' if request.chat else 'cmpl'}-{id}",
        "object": "chat.completion" if request.chat else "text_completion",
        "created": 0,
        "model": settings.model,
        "choices": choices,
    }
    if usage is not None:
        body["usage"] = usage
    if request.token_ids and request.chat:
        body["prompt_token_ids"] = [*request.prompt, *request.prefix]
    return body


def stream_chunks(request: ServedRequest, whole: Mapping[str, Json], draws: Sequence[ServedDraw]) -> list[Json]:
    """Return a reply as the chunks of a stream: each choice's head, its tokens one by one, and its end."""
    common = {"id": whole["id"], "created": 0, "model": whole["model"]}
    common["object"] = "chat.completion.chunk" if request.chat else "text_completion"
    chunks: list[Json] = []

    def add(index: int, delta: Json, **more: Json) -> None:
        part = {"delta": delta} if request.chat else {"text": delta.get("content", "")}
        chunks.append({**common, "choices": [{"index": index, **part, "finish_reason": None, **more}]})

    for position, (choice, draw) in enumerate(zip(whole["choices"], draws, strict=False)):
        index = choice["index"]
        message = choice.get("message") or {"content": choice.get("text")}
        ids = {"prompt_token_ids": choice["prompt_token_ids"]} if "prompt_token_ids" in choice else {}
        add(index, {"role": "assistant", "content": ""}, **ids)
        if position == 0 and "prompt_token_ids" in whole:
            chunks[-1]["prompt_token_ids"] = whole["prompt_token_ids"]
        if "reasoning_content" in message:
            add(index, {"reasoning_content": message["reasoning_content"]})
        for piece, more in _pieces(message["content"], choice, draw):
            add(index, {"content": piece}, **more)
        error = {"error": choice["error"]} if "error" in choice else {}
        add(index, {}, **({"finish_reason": choice["finish_reason"]}), **error)
    if request.include_usage and "usage" in whole:
        chunks.append({**common, "choices": [], "usage": whole["usage"]})
    return chunks


def _pieces(text: str | None, choice: Mapping[str, Json], draw: ServedDraw) -> Iterator[tuple[str, dict[str, Json]]]:
    """Yield the text in one piece per token, each with its token's id and log-prob if they are wanted."""
    text, count = text or "", len(draw.tokens)
    for i in range(count):
        more: dict[str, Json] = {}
        if "token_ids" in choice:
            more["token_ids"] = [draw.tokens[i]]
        if choice.get("logprobs"):
            more["logprobs"] = {key: value[i : i + 1] for key, value in choice["logprobs"].items()}
        yield text[len(text) * i // count : len(text) * (i + 1) // count], more
