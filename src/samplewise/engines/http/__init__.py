"""The engine for any endpoint that speaks the OpenAI protocol: vLLM, SGLang, llama.cpp, Ollama, hosted ones.

Groups, and the engine above them; a module imports only from groups to its left:

    transport <- dialect <- billing, probe, memory, jobs <- batch <- exchange <- drafts <- engine

`transport` sends JSON to one or more base URLs, `dialect` knows requests and replies, `billing` what a reply cost,
`probe` what an endpoint supports, `memory` what replies have shown of the model. `batch` collects requests into
batches, where that is wanted, and finds them again. `exchange` turns asks into requests
and replies into completions. `drafts` makes several requests of an ask that the protocol has no words for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from samplewise.core.checks import check_choice, check_count, check_number
from samplewise.core.errors import SetupError
from samplewise.core.secrets import secret_values
from samplewise.core.types import Json

if TYPE_CHECKING:
    from samplewise.engines.http.dialect.profile import Profile
    from samplewise.engines.http.engine import HttpEngine


def http(
    model: str | None = None,
    *,
    base_url: str | Sequence[str] | None = None,
    api_key: str | None = None,
    api: Literal["chat", "completions"] = "chat",
    n: Literal["auto", "never"] = "auto",
    max_n: int = 64,
    max_concurrency: int = 256,
    timeout_s: float = 600.0,
    connect_timeout_s: float = 10.0,
    patience_s: float = 120.0,
    stream: bool = False,
    idle_timeout_s: float = 120.0,
    price: Sequence[float] | None = None,
    prices: str | None = None,
    probe: Literal["auto", "fresh", "never"] | Profile = "auto",
    extra: Mapping[str, Json] | None = None,
    reasoning_effort: str | None = None,
    enable_thinking: bool | None = None,
    headers: Mapping[str, str] | None = None,
    identity: str | None = None,
    batch: bool = False,
    batch_factor: float | None = None,
    batch_poll_s: float = 60.0,
) -> HttpEngine:
    """Return an engine for an OpenAI-compatible endpoint: http("qwen", base_url="http://127.0.0.1:8000/v1").

    `model` may be omitted if the endpoint serves exactly one. `base_url` (default: OPENAI_BASE_URL) may name several
    replicas, separated by commas; `api_key` is OPENAI_API_KEY by default. `api` "completions" is for models without a
    chat template. `n` "auto" asks for up to `max_n` draws per request where that is supported; "never" makes one
    request per draw, with its own seed. At most `max_concurrency` requests are in flight per replica, fewer while it is
    overloaded. Rejected requests (429, 503, refused connections) are retried for `patience_s`; if nothing at all is
    answered for that long, the run ends. `stream` keeps long answers alive through proxies; `idle_timeout_s` then
    replaces `timeout_s`.

    `price` is (input, cached input, output) in USD per million tokens; `prices` is a JSON or TOML table of them
    (default: SAMPLEWISE_PRICES). `probe` "fresh" ignores what is known of the endpoint; "never" learns it from the
    run's own requests. `extra` are fields for every request, such as {"top_a": 0.1}. `reasoning_effort` is
    one of them, and `enable_thinking` goes to the chat template, as vLLM and SGLang have it. `identity` names the
    endpoint in the store, instead of its first URL.

    With `batch` draws go by the batch API (files and batches, as OpenAI has them): those of a step of all questions are
    one batch, done within 24 hours, at `batch_factor` of the price (default: as `core/prices.toml` knows it, else 1).
    Its state is read every `batch_poll_s` at most. It needs a store, in which a killed run finds its batches again.

    Raises SetupError if no endpoint is given, BadInput if the price table cannot be read.
    """
    from samplewise.core.prices import parse_price, read_prices
    from samplewise.engines.http.dialect.profile import Profile
    from samplewise.engines.http.engine import HttpEngine
    from samplewise.engines.http.exchange import HttpSettings
    from samplewise.engines.http.transport.client import Client

    check_choice("api", api, ("chat", "completions"))
    check_choice("n", n, ("auto", "never"))
    if not isinstance(probe, Profile):
        check_choice("probe", probe, ("auto", "fresh", "never"))
    elif probe.api != api:
        raise ValueError(f"the profile is for api={probe.api!r}, not {api!r}")
    check_count("max_n", max_n)
    check_count("max_concurrency", max_concurrency)
    check_number("timeout_s", timeout_s, 0.0, above=True)
    check_number("connect_timeout_s", connect_timeout_s, 0.0, above=True)
    check_number("idle_timeout_s", idle_timeout_s, 0.0, above=True)
    check_number("patience_s", patience_s, 0.0)
    check_number("batch_poll_s", batch_poll_s, 0.0, above=True)
    if batch_factor is not None:
        check_number("batch_factor", batch_factor, 0.0)
    urls = _urls(base_url if base_url is not None else os.environ.get("OPENAI_BASE_URL", ""))
    key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY")
    if batch and (stream or len(urls) > 1):
        raise ValueError("batch=True takes one base_url, and no stream=True")
    table = prices if prices is not None else os.environ.get("SAMPLEWISE_PRICES")
    try:
        import aiohttp  # noqa: F401
    except ImportError as error:
        raise SetupError("the http engine needs aiohttp: pip install aiohttp") from error
    clients = [
        Client(
            url,
            api_key=key or None,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            headers=tuple((headers or {}).items()),
            secrets=tuple(secret_values(extra)),
        )
        for url in urls
    ]
    settings = HttpSettings(
        api=api,
        probe=probe,
        max_n=max_n if n == "auto" else 1,
        max_concurrency=max_concurrency,
        patience_s=patience_s,
        stream=stream,
        idle_timeout_s=idle_timeout_s,
        extra=_fields(extra or {}, reasoning_effort, enable_thinking) or None,
        prices=read_prices(table) if table else {},
        price=parse_price(price, "price") if price is not None else None,
        identity=identity,
        batch=batch,
        batch_factor=batch_factor,
        batch_poll_s=batch_poll_s,
    )
    return HttpEngine(model, clients, settings)


def _fields(extra: Mapping[str, Json], reasoning_effort: str | None, enable_thinking: bool | None) -> dict[str, Json]:
    """Return the fields of every request."""
    fields = dict(extra)
    if reasoning_effort is not None:
        fields["reasoning_effort"] = reasoning_effort
    if enable_thinking is not None:
        fields["chat_template_kwargs"] = {**fields.get("chat_template_kwargs", {}), "enable_thinking": enable_thinking}
    return fields


def _urls(base_url: str | Sequence[str]) -> list[str]:
    """Return the distinct base URLs, in order. Raises SetupError if there is none."""
    parts = base_url.split(",") if isinstance(base_url, str) else list(base_url)
    urls = list(dict.fromkeys(url.strip().rstrip("/") for url in parts if url.strip()))
    if not urls:
        raise SetupError('no endpoint given: pass base_url="http://127.0.0.1:8000/v1", or set OPENAI_BASE_URL')
    return urls
