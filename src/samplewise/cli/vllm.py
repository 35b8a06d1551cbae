"""The command `vllm`: vLLM's server with samplewise's draws in it, and a route that speaks the whole ask."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from .app import app, say


@app.command("vllm", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve_vllm(
    arguments: Annotated[
        list[str], typer.Argument(metavar="MODEL [OPTIONS OF vllm serve]", help="As for `vllm serve`")
    ],
) -> None:
    """Serve a model by vLLM, with samplewise's draws in it, for engines vllm('http://HOST:PORT').

    This is `vllm serve` with our worker and one route more, /v1/samplewise/, guarded by --api-key as the others are.
    Arguments are those of `vllm serve`; it listens on the loopback unless --host says otherwise.
    """
    from samplewise.engines.vllm.launch import prepare_launch

    launch = prepare_launch(arguments)
    host, port = launch.args.host, launch.args.port
    if launch.args.uds is None:
        scheme = "https" if launch.args.ssl_certfile else "http"
        shown = f"[{host}]" if ":" in host else host
        say(f"vLLM will serve {launch.model}; as an engine: --engine \"vllm('{scheme}://{shown}:{port}')\"")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # vLLM ends its processes before it ends
    try:
        launch.run()
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
