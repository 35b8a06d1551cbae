"""Any endpoint that speaks the OpenAI protocol: vLLM, SGLang, llama.cpp, Ollama, hosted ones."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from samplewise.errors import SetupError
from samplewise.types import Json

if TYPE_CHECKING:
    from samplewise.engines.http.engine import Http
    from samplewise.engines.http.profile import Profile


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
    headers: Mapping[str, str] | None = None,
    identity: str | None = None,
) -> Http:
    """An engine for any endpoint that speaks the OpenAI protocol: http("qwen", base_url="http://127.0.0.1:8000/v1").

    `model` may be left out where the endpoint serves one. `base_url` (default: OPENAI_BASE_URL) may name several
    replicas, with commas between them; `api_key` is OPENAI_API_KEY by default. `api` "completions" is for models
    without a chat template. `n` "auto" asks for up to `max_n` draws by one request where that is honoured; "never"
    makes one request for each, with its own seed. At most `max_concurrency` requests are in flight per replica, as many
    as it bears. Rejected ones (429, 503, nobody there) are sent again for `patience_s`; where nothing at all is
    answered for so long, the run ends. `stream` keeps long answers alive through proxies; then `idle_timeout_s` counts
    instead of `timeout_s`.

    `price` is (input, cached input, output) in USD per million tokens; `prices` a JSON or TOML table of them (default:
    SAMPLEWISE_PRICES). `probe` "never" finds out what the endpoint honours as it goes. `extra` are fields for every
    request, such as {"reasoning_effort": "low"}. `identity` names the endpoint in the store, instead of its first URL.

    Raises SetupError where it is not said which endpoint, BadInput for a price table that cannot be read.
    """
    from samplewise.engines.http import prices as tables
    from samplewise.engines.http.client import Client
    from samplewise.engines.http.engine import Http
    from samplewise.engines.http.exchange import Settings
    from samplewise.engines.http.profile import Profile

    _check(api in ("chat", "completions"), f'api must be "chat" or "completions", got {api!r}')
    _check(n in ("auto", "never"), f'n must be "auto" or "never", got {n!r}')
    _check(
        isinstance(probe, Profile) or probe in ("auto", "fresh", "never"),
        f'probe must be "auto", "fresh" or "never", got {probe!r}',
    )
    for name, value in (("max_n", max_n), ("max_concurrency", max_concurrency)):
        _check(isinstance(value, int) and value >= 1, f"{name} must be a whole number of at least 1, got {value!r}")
    seconds = {"timeout_s": timeout_s, "connect_timeout_s": connect_timeout_s, "idle_timeout_s": idle_timeout_s}
    for name, limit in seconds.items():
        _check(limit > 0, f"{name} must be above 0, got {limit!r}")
    _check(patience_s >= 0, f"patience_s must be 0 or more, got {patience_s!r}")
    _check(
        not isinstance(probe, Profile) or probe.api == api,
        f"the profile is of api {getattr(probe, 'api', '')!r}, not {api!r}",
    )
    urls = _urls(base_url if base_url is not None else os.environ.get("OPENAI_BASE_URL", ""))
    key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY")
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
        )
        for url in urls
    ]
    return Http(
        model,
        clients,
        api=api,
        probe=probe,
        together=n == "auto" and max_n > 1,
        max_concurrency=max_concurrency,
        prices=tables.load(table) if table else {},
        price=tables.checked(tuple(price), "price") if price is not None else None,
        identity=identity,
        settings=Settings(patience_s, max_n, stream, idle_timeout_s, dict(extra) if extra else None),
    )


def _urls(given: str | Sequence[str]) -> list[str]:
    """Distinct base URLs, in order. Raises SetupError where there is none."""
    parts = given.split(",") if isinstance(given, str) else list(given)
    urls = list(dict.fromkeys(url.strip().rstrip("/") for url in parts if url.strip()))
    if not urls:
        raise SetupError('which endpoint? give base_url="http://127.0.0.1:8000/v1", or set OPENAI_BASE_URL')
    return urls


def _check(fine: bool, message: str) -> None:
    if not fine:
        raise ValueError(message)
