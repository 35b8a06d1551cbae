"""Requests as the endpoint reads them, and the JSON of its replies. No sockets.

The shapes are those of the OpenAI API, with vLLM's additions: `return_token_ids`, `prompt_logprobs`,
`continue_final_message`, prompts as token ids, and `top_k`, `min_p` beside `top_p`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from samplewise.conformance.endpoint.model import Draw, Model
from samplewise.conformance.endpoint.settings import Settings
from samplewise.types import Json, Message, Sampling

DEFAULT_MAX_TOKENS = {"chat": 1024, "completions": 16}
REASONING = 10  # tokens, a part of max_tokens


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


class Request(NamedTuple):
    """A request for completions, as far as it has an effect."""

    chat: bool
    messages: tuple[Message, ...]
    prompt: tuple[int, ...]  # ids, the prefix not counted
    prefix: tuple[int, ...]
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...]
    num: int
    seed: int | None
    logprobs: int | None  # how many alternatives to list for each token; None: no log-probs at all
    prompt_logprobs: bool
    token_ids: bool
    stream: bool
    include_usage: bool

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt) + len(self.prefix)


def read(body: Json, chat: bool, settings: Settings, model: Model) -> Request:
    """The request that `body` makes. Raises Refused."""
    if not isinstance(body, dict):
        raise Refused(400, "the body is not a JSON object")
    if body.get("model") != settings.model:
        raise Refused(404, f"The model `{body.get('model')}` does not exist.", "model")
    given = {name: value for name, value in body.items() if value is not None}
    for name in settings.refuses:
        if name in given:
            other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}.get(name)
            hint = f" Use '{other}' instead." if other else ""
            raise Refused(400, f"Unsupported parameter: '{name}' is not supported with this model.{hint}", name)
    for name in settings.ignores:
        given.pop(name, None)
    messages, prompt, prefix = _prompt(given, chat, settings, model)
    limits = [_number(given, name, int, 0) for name in ("max_tokens", "max_completion_tokens") if name in given]
    max_tokens = limits[-1] if limits else DEFAULT_MAX_TOKENS["chat" if chat else "completions"]
    room = settings.context - len(prompt) - len(prefix)
    if room < 1 or (limits and max_tokens > room):
        asked = len(prompt) + len(prefix) + (max_tokens if limits else 1)
        raise Refused(
            400, f"This model's maximum context length is {settings.context} tokens, but {asked} were requested."
        )
    logprobs = _logprobs(given, chat)
    if logprobs is not None and logprobs > settings.max_top_logprobs:
        raise Refused(400, f"at most {settings.max_top_logprobs} top log-probs, got {logprobs}", "top_logprobs")
    num = _number(given, "n", int, 1)
    if not 1 <= num <= settings.max_n:
        raise Refused(400, f"n must be 1 to {settings.max_n}, got {num}", "n")
    stop = given.get("stop", ())
    return Request(
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
    )


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
        raise Refused(400, f"{name} is not a number of the right kind: {value!r}", name)
    return value


def _logprobs(given: Mapping[str, Any], chat: bool) -> int | None:
    if not chat:
        return _number(given, "logprobs", int, 0) if "logprobs" in given else None
    return _number(given, "top_logprobs", int, 0) if given.get("logprobs") is True else None


def _prompt(
    given: Mapping[str, Any], chat: bool, settings: Settings, model: Model
) -> tuple[tuple[Message, ...], tuple[int, ...], tuple[int, ...]]:
    """Messages, ids of the prompt, and the response's prefix."""
    if not chat:
        prompt = given.get("prompt")
        if isinstance(prompt, str):
            return (Message("user", prompt),), model.tokenize(prompt), ()
        if "token_ids_in" in settings.refuses + settings.ignores or not isinstance(prompt, list):
            raise Refused(400, "prompt must be a string", "prompt")
        try:
            messages, prefix = model.parse(prompt)
        except (ValueError, TypeError) as error:
            raise Refused(400, f"prompt: {error}", "prompt") from None
        return messages, tuple(prompt[: len(prompt) - len(prefix)]), prefix
    messages = read_messages(given.get("messages"))
    if given.get("continue_final_message") is not True or messages[-1].role != "assistant":
        return messages, model.prompt(messages), ()
    if given.get("add_generation_prompt", True) is True:
        raise Refused(400, "continue_final_message needs add_generation_prompt false", "continue_final_message")
    try:
        prefix = model.letters(messages[-1].content)
    except ValueError:
        raise Refused(400, "the final message is none that this model can begin", "messages") from None
    return messages[:-1], model.prompt(messages[:-1]), prefix


def read_messages(messages: Json) -> tuple[Message, ...]:
    """A chat's messages; content may be a string or parts of text. Raises Refused."""
    try:
        read = tuple(Message(m["role"], content_of(m["content"])) for m in messages)
    except (TypeError, KeyError):
        read = ()
    if not read:
        raise Refused(400, "messages must be a list of objects with role and content", "messages")
    return read


def content_of(content: Json) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)


# --- replies ----------------------------------------------------------------------------------------------------------


def choice(request: Request, index: int, draw: Draw, text: str, reasoning: int, model: Model) -> dict[str, Json]:
    """One choice of a reply."""
    made: dict[str, Json] = {"index": index, "finish_reason": draw.finish, "stop_reason": None}
    if request.chat:
        made["message"] = {"role": "assistant", "content": text}
        if reasoning:
            made["message"]["reasoning_content"] = " ".join(["hmm"] * reasoning)
    else:
        made["text"] = text
    made["logprobs"] = None if request.logprobs is None else logprobs(request, draw, model)
    if request.token_ids:
        made["token_ids"] = list(draw.tokens)
        if not request.chat:
            made["prompt_token_ids"] = [*request.prompt, *request.prefix]
    if request.prompt_logprobs and not request.chat:
        made["prompt_logprobs"] = prompt_logprobs(request, model)
    return made


def logprobs(request: Request, draw: Draw, model: Model) -> dict[str, Json]:
    """Log-probs of a completion, as the two routes spell them."""
    words = [model.spell(token) for token in draw.tokens]
    tops = list(_tops(request, draw.tokens, model)) if request.logprobs else [[] for _ in words]
    if not request.chat:
        starts, place = [], 0
        for word in words:
            starts.append(place)
            place += len(word)
        listed = [dict(top) for top in tops]
        return {"tokens": words, "token_logprobs": list(draw.logp), "top_logprobs": listed, "text_offset": starts}
    return {
        "content": [
            {
                "token": word,
                "logprob": logp,
                "bytes": list(word.encode()),
                "top_logprobs": [{"token": w, "logprob": p, "bytes": list(w.encode())} for w, p in top],
            }
            for word, logp, top in zip(words, draw.logp, tops, strict=True)
        ]
    }


def _tops(request: Request, tokens: Sequence[int], model: Model) -> Iterator[list[tuple[str, float]]]:
    for i in range(len(tokens)):
        row = model.logp(request.messages, (*request.prefix, *tokens[:i]))
        best = sorted(range(len(row)), key=lambda token: -row[token])[: request.logprobs]
        yield [(model.spell(token), row[token]) for token in best]


def prompt_logprobs(request: Request, model: Model) -> list[Json]:
    """For each id of the prompt its log-prob: of the response's prefix as the model has it, of a prompt's word -1, and
    of the first nothing."""
    given = [*request.prompt, *request.prefix]
    found: list[Json] = []
    for place, token in enumerate(given):
        after = place - len(request.prompt)
        logp = -1.0 if after < 0 else model.logp(request.messages, request.prefix[:after])[token]
        found.append({str(token): {"logprob": logp, "rank": 1, "decoded_token": model.spell(token)}})
    return [None, *found[1:]]


def usage_of(request: Request, num_tokens: int, num_reasoning: int) -> dict[str, Json]:
    """The usage of a reply, as it is billed."""
    usage: dict[str, Json] = {
        "prompt_tokens": request.num_prompt_tokens,
        "completion_tokens": num_tokens,
        "total_tokens": request.num_prompt_tokens + num_tokens,
    }
    if num_reasoning:
        usage["completion_tokens_details"] = {"reasoning_tokens": num_reasoning}
    return usage


def reply(request: Request, choices: list[dict[str, Json]], usage: Json, settings: Settings, id: int) -> Json:
    """A whole reply."""
    made: dict[str, Json] = {
        "id": f"{'chatcmpl' if request.chat else 'cmpl'}-{id}",
        "object": "chat.completion" if request.chat else "text_completion",
        "created": 0,
        "model": settings.model,
        "choices": choices,
    }
    if usage is not None:
        made["usage"] = usage
    if request.token_ids and request.chat:
        made["prompt_token_ids"] = [*request.prompt, *request.prefix]
    return made


def chunks(request: Request, whole: Mapping[str, Json], draws: Sequence[Draw]) -> list[Json]:
    """The same reply as the chunks of a stream: for each choice its head, its tokens one by one, and its end."""
    common = {"id": whole["id"], "created": 0, "model": whole["model"]}
    common["object"] = "chat.completion.chunk" if request.chat else "text_completion"
    made: list[Json] = []

    def add(index: int, delta: Json, **more: Json) -> None:
        part = {"delta": delta} if request.chat else {"text": delta.get("content", "")}
        made.append({**common, "choices": [{"index": index, **part, "finish_reason": None, **more}]})

    for number, (made_choice, draw) in enumerate(zip(whole["choices"], draws, strict=False)):
        index = made_choice["index"]
        message = made_choice.get("message") or {"content": made_choice.get("text")}
        ids = {"prompt_token_ids": made_choice["prompt_token_ids"]} if "prompt_token_ids" in made_choice else {}
        add(index, {"role": "assistant", "content": ""}, **ids)
        if number == 0 and "prompt_token_ids" in whole:
            made[-1]["prompt_token_ids"] = whole["prompt_token_ids"]
        if "reasoning_content" in message:
            add(index, {"reasoning_content": message["reasoning_content"]})
        for piece, more in _pieces(message["content"], made_choice, draw):
            add(index, {"content": piece}, **more)
        add(index, {}, **({"finish_reason": made_choice["finish_reason"]}))
    if request.include_usage and "usage" in whole:
        made.append({**common, "choices": [], "usage": whole["usage"]})
    return made


def _pieces(text: str | None, made: Mapping[str, Json], draw: Draw) -> Iterator[tuple[str, dict[str, Json]]]:
    """The text in as many pieces as there are tokens, each with its token's id and log-prob where they are wanted."""
    text, count = text or "", len(draw.tokens)
    for i in range(count):
        more: dict[str, Json] = {}
        if "token_ids" in made:
            more["token_ids"] = [draw.tokens[i]]
        if made.get("logprobs"):
            more["logprobs"] = {key: value[i : i + 1] for key, value in made["logprobs"].items()}
        yield text[len(text) * i // count : len(text) * (i + 1) // count], more
