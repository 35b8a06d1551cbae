"""Turn asks into request bodies. Pure: no sockets, no clock.

A body states the whole distribution that is asked for, neutral values too. Where a field is missing, servers fill in
their own (llama.cpp filters by top-k 40 and top-p 0.95, vLLM applies the model author's recommendations), and the draws
would follow another distribution. A server that refuses a neutral value is not sent it (`Profile.refused`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from samplewise.core.types import Ask, Generate, Json, Likelihood, Message, Sampling
from samplewise.engines.http.dialect.profile import Profile

SEEDS = 1 << 31  # a seed is sent modulo this: servers that keep 32 bits refuse or truncate more
MAX_TEMPLATES = 1000

# Filters and penalties that every draw states and not every server knows: the value that changes nothing.
NEUTRAL: Mapping[str, Json] = {"top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1}

PLAIN = Sampling()
LOGPROBS = frozenset({"logp", "logq", "top"})  # wants that rest on log-probs


class HttpRequest(NamedTuple):
    """A path and a body. `data` is the body as serialized JSON, if it is at hand."""

    path: str
    body: dict[str, Json]
    data: bytes = b""


class DrawOptions(NamedTuple):
    """How an ask is sent. With `prompt_ids`, they and the ask's prefix are the prompt, and the reply continues it."""

    num_draws: int = 1
    prompt_ids: Sequence[int] | None = None
    logprobs: bool = False
    top: int = 0  # likeliest tokens listed per position
    max_tokens: int | None = None  # instead of the ask's
    extra: Mapping[str, Json] | None = None  # the user's fields, sent unchanged


ONE_DRAW = DrawOptions()


class RequestTemplate(NamedTuple):
    """A serialized request with a gap for the seed: a prompt that is drawn from often is serialized once."""

    request: HttpRequest
    head: str  # the body up to the seed; "" if no seed of ours is sent

    def with_seed(self, seed: int) -> HttpRequest:
        """Return the request with this seed."""
        path, body, data = self.request
        return HttpRequest(path, body, data or f"{self.head}{seed % SEEDS}}}".encode())


def request_template(request: HttpRequest, extra: Mapping[str, Json] | None) -> RequestTemplate:
    """Return the template of a request for draws. A seed in `extra` stays as it is."""
    path, body, _ = request
    if "seed" not in body or "seed" in (extra or {}):
        return RequestTemplate(HttpRequest(path, body, json.dumps(body).encode()), "")
    others = {name: value for name, value in body.items() if name != "seed"}
    return RequestTemplate(request, f'{json.dumps(others)[:-1]}, "seed": ')


class TemplateCache:
    """Request templates of one profile; a changed profile clears them. `extra` are the user's fields."""

    def __init__(self, extra: Mapping[str, Json] | None) -> None:
        self._extra = extra
        self._templates: dict[object, RequestTemplate] = {}
        self._profile: Profile | None = None

    def get(self, asks: Sequence[Ask], profile: Profile) -> HttpRequest | None:
        """Return the request for asks that differ in their seeds alone, or None if its template is not cached."""
        if self._profile is not profile:
            self._templates.clear()
            self._profile = profile
            return None
        ask = asks[0]
        template = self._templates.get(_template_key(asks)) if isinstance(ask, Generate) else None
        return None if template is None else template.with_seed(ask.seed)  # type: ignore[union-attr]  # a Generate

    def add(self, asks: Sequence[Ask], request: HttpRequest, seed: int) -> HttpRequest:
        """Cache the request's template, and return the request with its seed."""
        if len(self._templates) >= MAX_TEMPLATES:
            self._templates.clear()
        template = self._templates[_template_key(asks)] = request_template(request, self._extra)
        return template.with_seed(seed)


def _template_key(asks: Sequence[Ask]) -> object:
    """Return what asks share that differ in their seeds alone. It also decides whether they are supported."""
    ask = asks[0]
    if not isinstance(ask, Generate):
        return None
    settings = (ask.sampling, ask.max_tokens, ask.stop, ask.want, ask.reject_below, ask.forbid_first)
    return ask.messages, ask.prefix, settings, len(asks)


def draw_request(ask: Generate, model: str, profile: Profile, options: DrawOptions = ONE_DRAW) -> HttpRequest:
    """Return the request for draws of an ask, in the fields that the profile says the endpoint takes."""
    num_draws, prompt_ids, logprobs, top, max_tokens, extra = options
    body: dict[str, Json] = {"model": model}
    chat = profile.api == "chat" and prompt_ids is None
    if chat:
        body["messages"] = [{"role": m.role, "content": m.content} for m in ask.messages]
    else:
        body["prompt"] = plain_prompt(ask.messages) if prompt_ids is None else [*prompt_ids, *ask.prefix]
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
    if num_draws > 1:
        body["n"] = num_draws
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
    return HttpRequest("chat/completions" if chat else "completions", body)


def streamed(request: HttpRequest, profile: Profile) -> HttpRequest:
    """Return the request that asks for server-sent events."""
    body = {**(json.loads(request.data) if request.data else request.body), "stream": True}
    if "stream_options" not in profile.refused:
        body["stream_options"] = {"include_usage": True}
    return HttpRequest(request.path, body)


def likelihood_request(ask: Likelihood, model: str, prompt_ids: Sequence[int]) -> HttpRequest:
    """Return the request that scores a given response as a part of the prompt. One token is drawn and discarded."""
    prompt = [*prompt_ids, *ask.completion]
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 1, "prompt_logprobs": 0}
    return HttpRequest("completions", body)


def tokenize_request(messages: Sequence[Message], model: str, profile: Profile) -> HttpRequest:
    """Return vLLM's request for a prompt's token ids."""
    if profile.api == "completions":
        return HttpRequest("//tokenize", {"model": model, "prompt": plain_prompt(messages)})
    chat = [{"role": m.role, "content": m.content} for m in messages]
    return HttpRequest("//tokenize", {"model": model, "messages": chat, "add_generation_prompt": True})


def detokenize_request(tokens: Sequence[int], model: str) -> HttpRequest:
    """Return vLLM's request for the text of token ids."""
    return HttpRequest("//detokenize", {"model": model, "tokens": list(tokens)})


def plain_prompt(messages: Sequence[Message]) -> str:
    """Return the prompt for a model without a chat template: the messages' contents, separated by blank lines."""
    return "\n\n".join(m.content for m in messages)


def gives_model_logp(sampling: Sampling, profile: Profile) -> bool:
    """Return whether log-probs of draws at this temperature and filter are the model's own, at temperature 1.

    Some servers give those of the distribution drawn from; the two are the same for plain draws.
    """
    return sampling._replace(explore="") == PLAIN or profile.raw_logprobs is True


def why_no_logp(sampling: Sampling, profile: Profile) -> str:
    """Return why draws come without the model's log-probs, or ""."""
    if profile.logprobs is False:
        return "gives no log-probs"
    if not gives_model_logp(sampling, profile):
        does = "is not known to give" if profile.raw_logprobs is None else "does not give"
        return f"{does} the model's own log-probs except at temperature 1, without filters"
    return "" if profile.logprobs else "is not known to give log-probs"


def why_unsupported(ask: Generate, profile: Profile) -> str:
    """Return why the endpoint cannot draw from the distribution asked for, or ""."""
    if ask.reject_below is not None or ask.forbid_first is not None:
        return "reject a draft early, or forbid a first token"
    if ask.sampling.explore:
        return f"explore by {ask.sampling.explore}: that needs the model's hidden states"
    if ask.sampling == PLAIN and not ask.want:
        return ""
    for name, value in zip(ask.sampling._fields, ask.sampling, strict=True):
        default = ask.sampling._field_defaults[name]
        if value != default and (name in profile.refused or (name == "temperature" and profile.temperature is False)):
            return f"draw with {name} {value:g}: it accepts its default alone"
    if ("logp" in ask.want or "top" in ask.want) and profile.logprobs is False:
        return "give log-probs"
    if not LOGPROBS.isdisjoint(ask.want) and not gives_model_logp(ask.sampling, profile):
        return f"give log-probs for {ask.sampling}: it {why_no_logp(ask.sampling, profile)}"
    if "top" in ask.want and profile.top_logprobs == 0:
        return "give the likeliest tokens"
    if unavailable := sorted({"certainty", "logz"} & set(ask.want)):
        return f"give {unavailable[0]}: that needs the whole distribution over tokens"
    if "tokens" in ask.want and profile.token_ids_out is False:
        return "give token ids"
    return ""
