"""The command `serve`: an OpenAI-compatible server whose models are recipes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import signal
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samplewise.core.errors import UsageError
from samplewise.core.spec import parse_spec

from .app import app, say, settings_of
from .completion import complete_engine

if TYPE_CHECKING:
    from aiohttp import web

    from samplewise.serve.app import Service
    from samplewise.serve.log import EventLog
    from samplewise.store.database import Store

    from .config import Config

GC_OBJECTS = 200_000  # that came since the last collection, at which there is another: some 30 MB
CHECKPOINT_S = 30.0  # between two times that the store's journal is put into its file
DEFAULT_PORT = 8484  # not that of vLLM, llama.cpp or Ollama, which it stands in front of


@app.command("serve")
def serve_models(
    context: typer.Context,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            "-e",
            help="tiny, local:PATH, http:MODEL ... or a name of the settings; several, or NAME=ENGINE to name one",
            autocompletion=complete_engine,
        ),
    ] = None,
    preset: Annotated[
        list[str] | None, typer.Option("--preset", help='NAME=RECIPE: fast="repeat(8) | vote" serves fast@MODEL')
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="Keep the draws here: what was paid for is not paid again")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; beyond the loopback it needs --keys")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes any that is free")] = DEFAULT_PORT,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="Certificate, as PEM")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key, as PEM")] = None,
    keys: Annotated[
        Path | None, typer.Option("--keys", help="Keys of clients, with their limits", envvar="SAMPLEWISE_KEYS")
    ] = None,
    new_key: Annotated[
        str | None,
        typer.Option("--new-key", metavar="NAME", help="Print a new key and its entry for the file, and end"),
    ] = None,
    cors: Annotated[
        list[str] | None, typer.Option("--cors", help="An origin whose pages may ask, * for all; default: none")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option("--allow-host", help="A name by which a server without keys may be addressed")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests that run at once")] = 256,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Requests that may wait for that")] = 1024,
    queue_seconds: Annotated[float, typer.Option("--queue-seconds", min=0.0, help="How long they wait")] = 30.0,
    aside: Annotated[
        str,
        typer.Option("--aside", help="Where a recipe cannot honor a field: plain (one plain draw) or refuse (400)"),
    ] = "plain",
    tools: Annotated[
        str,
        typer.Option("--tools", help="Requests with tools: aside (the endpoint's own reply) or vote (over the calls)"),
    ] = "aside",
    plain_below: Annotated[
        int, typer.Option("--plain-below", min=0, help="Requests for fewer tokens get a plain draw: titles, tags")
    ] = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Of a draw where nobody names a limit")] = 2048,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="The longest that a request may draw")] = 600.0,
    quiet_seconds: Annotated[
        float,
        typer.Option(
            "--quiet-seconds",
            min=0.0,
            help="After these a reply that is not streamed is kept alive by newlines; 0: never",
        ),
    ] = 15.0,
    log_requests: Annotated[
        bool, typer.Option("--log/--no-log", help="Write a JSON line for each request to standard error")
    ] = True,
    otel: Annotated[
        bool,
        typer.Option("--otel", help="Send OpenTelemetry spans, as OTEL_EXPORTER_OTLP_ENDPOINT says; needs an extra"),
    ] = False,
    drain_seconds: Annotated[
        float,
        typer.Option(
            "--drain-seconds",
            min=0.0,
            help="That running requests have when the server is stopped; then they end with the best so far",
        ),
    ] = 30.0,
) -> None:
    """Serve recipes as models of an OpenAI-compatible API, in front of any engine."""
    from samplewise.core.checks import check_choice
    from samplewise.serve.app import make_app
    from samplewise.serve.commits import GroupCommit
    from samplewise.serve.jobs import Jobs
    from samplewise.serve.keys import KeyRing
    from samplewise.serve.keys import new_key as make_key
    from samplewise.serve.limits import DayBooks, Gate
    from samplewise.serve.log import EventLog
    from samplewise.serve.names import DEFAULT_PRESETS, names_in, parse_presets, stages_of
    from samplewise.serve.plans import ServeSettings
    from samplewise.serve.upstreams import make_upstream, model_name
    from samplewise.store.database import Store

    try:
        check_choice("--aside", aside, ("plain", "refuse"))
        check_choice("--tools", tools, ("aside", "vote"))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if new_key is not None:
        token, entry = make_key(new_key)
        print(f"# the key, which is stored nowhere: {token}\n# its entry for the file of --keys:\n{entry}", end="")
        return
    ring = None if keys is None else KeyRing.load(keys)
    if ring is None and not _is_loopback(host):
        raise UsageError(f"to listen on {host}, beyond the loopback, the server needs keys: --keys FILE")
    if ring is not None and ring.has_daily_limits and store is None:
        say("without --store a restart forgets what keys have spent today, and their limits of a day begin anew")
    config = settings_of(context)
    presets = {**config.presets, **parse_presets(preset or ())}
    lines = {name: stages_of(line) for name, line in presets.items()}
    settings = ServeSettings(
        presets={name: stages.line for name, stages in lines.items()} or dict(DEFAULT_PRESETS),
        aside="plain" if aside == "plain" else "refuse",
        tools="vote" if tools == "vote" else "aside",
        plain_below=plain_below,
        max_tokens=max_tokens,
        seconds=seconds,
        quiet_s=quiet_seconds or None,
    )
    tls = _tls(tls_cert, tls_key)
    with contextlib.ExitStack() as stack:
        if otel:
            from samplewise.serve.tracing import start_tracing

            stack.callback(start_tracing())
        kept = draws = None
        if store is not None:
            kept = stack.enter_context(Store(store))
            kept.claim()
            draws = GroupCommit(kept)
            stack.callback(draws.commit)
        asked = {name for stages in lines.values() for name in names_in(stages) if name in config.engines}
        upstreams = []
        for name, text in (_named(each, config) for each in engine or ["tiny"]):
            named = name or model_name(parse_spec(text))
            upstreams.append(make_upstream(str(config.engine_for(text, asked)) if asked else text, named))
        books = DayBooks(None if store is None else store.with_name(f"{store.name}.spent.json"))
        gate = Gate(concurrency=concurrency, queue=queue, queue_s=queue_seconds, books=books)
        log = EventLog() if log_requests else None
        served = make_app(
            Jobs(upstreams, settings, draws), keys=ring, gate=gate, log=log, origins=cors or (), hosts=allow_host or ()
        )
        asyncio.run(_serve(served, host, port, tls, drain_seconds, log, kept))


def _named(text: str, config: Config) -> tuple[str | None, str]:
    """Return the name and the spec of an engine given as NAME=SPEC or by its name in the settings, else None and it."""
    name, separator, spec = text.partition("=")
    if separator and name and not set(name) & set("(:,\"' "):
        return name, config.engine_spec(spec)
    if text.strip() in config.engines:
        return text.strip(), config.engine_spec(text)
    return None, config.engine_spec(text)


def begin_tasks_at_once() -> None:
    """Let tasks of the running loop begin at once, where Python can (3.12), rather than a turn of the loop later.

    Of requests that come together, the first one then is on its way before the next one is read.
    """
    if sys.version_info >= (3, 12):
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)


async def _serve(
    served: web.Application,
    host: str,
    port: int,
    context: ssl.SSLContext | None,
    drain_seconds: float,
    log: EventLog | None,
    kept: Store | None,
) -> None:
    """Serve until the process is told to stop; then let running requests end."""
    begin_tasks_at_once()
    from aiohttp import web
    from aiohttp.log import server_logger

    from samplewise.serve.app import SERVICE
    from samplewise.serve.log import NoHttpFilter

    await served[SERVICE].jobs.prepare()
    no_http = NoHttpFilter(log)
    server_logger.addFilter(no_http)
    runner = web.AppRunner(served, handler_cancellation=True, shutdown_timeout=1.0, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=context)
        try:
            await site.start()
        except OSError as error:
            raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
        scheme = "http" if context is None else "https"
        address = runner.addresses[0]
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        say(f"serving {', '.join(served[SERVICE].jobs.upstreams)} at {scheme}://{shown}:{address[1]}/v1")
        beside = [asyncio.create_task(_settle_memory(served[SERVICE]))]
        if kept is not None:
            beside.append(asyncio.create_task(_checkpoint(kept)))
        await _until_stopped()
        for task in beside:
            task.cancel()
        say(f"stopping: no new requests, running ones have {drain_seconds:g} s")
        if not await served[SERVICE].drain(drain_seconds):
            say("the time was up: the requests that still ran were ended with the best that they had")
    finally:
        await runner.cleanup()
        server_logger.removeFilter(no_http)


async def _settle_memory(service: Service) -> None:
    """Take what is there once the engines are open out of the garbage collector's sight.

    A collection that looks at every module and model stops all requests, for 40 ms with the http engine alone. One that
    looks at 256 running requests takes 60 ms, so collections are made rare: requests leave no cycles behind.
    """
    gc.set_threshold(GC_OBJECTS, *gc.get_threshold()[1:])
    gc.collect()
    gc.freeze()
    await service.opened_all()
    gc.collect()
    gc.freeze()


async def _checkpoint(store: Store) -> None:
    """Put the store's journal into its file now and then, in a thread: the disk takes tens of ms for it."""
    from samplewise.loop.threads import in_thread

    store.defer_checkpoints()
    while True:
        await asyncio.sleep(CHECKPOINT_S)
        await in_thread(store.checkpoint)


async def _until_stopped() -> None:
    """Wait for SIGINT or SIGTERM. A second one ends the process as usual."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    for number in numbers:
        loop.remove_signal_handler(number)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _tls(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """Return what TLS needs, None without a certificate. Raises UsageError."""
    if cert is None and key is None:
        return None
    if cert is None:
        raise UsageError("--tls-key needs --tls-cert")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"cannot use the certificate {cert}: {error.strerror or error}") from None
    return context
