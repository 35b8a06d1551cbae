"""The routes of the server, as an `aiohttp.web` application.

A handler checks the request, starts its run as a task of its own, and tells the client how long it takes: by comments
in a stream, by newlines before a JSON body. If the client leaves, the handler is cancelled, and with it the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

from aiohttp import web

from samplewise.core.errors import EngineError, SamplewiseError
from samplewise.serve.jobs import AccessPolicy, Allowance, Job, Jobs
from samplewise.serve.names import list_models, model_json, split_name
from samplewise.serve.replies import (
    Answer,
    error_headers,
    error_json,
    header_text,
    headers_of,
    progress_chunk,
    reply_chunks,
    reply_json,
)
from samplewise.serve.stream import EventStream, SlowJson, is_done
from samplewise.serve.wire import Call, RequestError, Route, parse_body, parse_call, read_timeout_s

MAX_BODY = 8 << 20  # bytes
CANCEL_S = 0.7  # that a run has to end by itself when its client has left, before its task is cancelled
LEAST_BEAT_S = 0.1  # between two signs of life, whatever the client's read time-out
OPEN_AGAIN_S = 5.0  # between two tries to open an engine
PROGRESS_S = 0.25
MAX_RECENT = 50
DRAIN_TICK_S = 0.05
ACCEPTED_HEADERS = "Authorization, Content-Type, X-Samplewise-Recipe, X-ITS-Budget"
EXPOSED_HEADERS = "X-Samplewise-Run, X-Samplewise-Recipe, X-Samplewise-Stop, X-Samplewise-Aside"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class KeyTable(Protocol):
    """The keys of the clients."""

    def policy_of(self, token: str | None) -> AccessPolicy | None: ...


class Admission(Protocol):
    """Who may run now. Entering raises an error with `status`, `retry_after_s` and the like where nobody may."""

    def enter(self, policy: AccessPolicy) -> AbstractAsyncContextManager[Allowance | None]: ...


class Counters(Protocol):
    """What the server counts."""

    def observe_request(self, recipe: str, model: str, code: int, seconds: float, first_byte_s: float) -> None: ...

    def add_tokens(self, kind: str, num: int) -> None: ...

    def set_in_flight(self, num: int) -> None: ...

    def render(self) -> str: ...


class Everybody(NamedTuple):
    """The policy of everybody, where the server has no keys and listens on the loopback alone."""

    name: str = "local"
    recipes: str = "free"


class Answered(NamedTuple):
    """A request that was answered, for people who watch the server."""

    time: float  # seconds since 1970
    run: str
    model: str
    label: str  # the preset's name, "plain" or "custom"
    recipe: str
    answer: str | None
    votes: dict[str, int]
    draws: int
    stop: str
    tokens: int
    seconds: float


class Service:
    """The handlers, and what they share."""

    def __init__(
        self,
        jobs: Jobs,
        *,
        keys: KeyTable | None = None,
        gate: Admission | None = None,
        metrics: Counters | None = None,
        cors: Collection[str] = (),
    ) -> None:
        self.jobs, self.keys, self.gate, self.metrics = jobs, keys, gate, metrics
        self.live: set[Job] = set()
        self.recent: deque[Answered] = deque(maxlen=MAX_RECENT)
        self.is_draining = False
        self.num_open = 0  # requests for completions that are not answered yet
        self.opened: set[str] = set()  # names of the models whose engines are open
        self._cors = frozenset(cors)
        self._created = int(time.time())
        self._opening: asyncio.Task[None] | None = None

    # --- engines ------------------------------------------------------------------------------------------------------

    async def open(self, app: web.Application) -> None:
        """Begin to open the engines, which may take long, or succeed at a later try."""
        self._opening = asyncio.create_task(self._open_all())

    async def _open_all(self) -> None:
        upstreams = self.jobs.upstreams
        while len(self.opened) < len(upstreams):
            for name, upstream in upstreams.items():
                with contextlib.suppress(SamplewiseError):
                    await upstream.engine.open()
                    self.opened.add(name)
            if len(self.opened) < len(upstreams):
                await asyncio.sleep(OPEN_AGAIN_S)

    async def close(self, app: web.Application) -> None:
        """Close the engines."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self.jobs.close_engines()

    async def drain(self, seconds: float) -> None:
        """Refuse new requests from now on, and wait for running ones, at most so many seconds."""
        self.is_draining = True
        until = time.monotonic() + seconds
        while self.num_open and time.monotonic() < until:
            await asyncio.sleep(DRAIN_TICK_S)

    # --- who asks -----------------------------------------------------------------------------------------------------

    def policy_of(self, request: web.Request) -> AccessPolicy:
        """Return what the sender of a request may do. Raises RequestError."""
        if self.keys is None:
            self._check_is_local(request)
            return Everybody()
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        policy = self.keys.policy_of(token.strip() if scheme.lower() == "bearer" else None)
        if policy is None:
            raise RequestError(
                "this key is not known; send Authorization: Bearer KEY", status=401, code="invalid_api_key"
            )
        return policy

    def _check_is_local(self, request: web.Request) -> None:
        """Raise RequestError for what a page of another site may have sent by way of the user's browser."""
        origin = request.headers.get("Origin")
        if origin is not None and not self._allows(origin) and urlsplit(origin).netloc != request.host:
            raise RequestError("requests from pages of another origin need --cors ORIGIN", status=403, code="origin")
        if not is_local(request.host):
            message = f"a server without keys answers to names of the loopback alone, not to {request.host!r}"
            raise RequestError(message, status=403, code="host")

    def _allows(self, origin: str) -> bool:
        return "*" in self._cors or origin in self._cors

    # --- completions --------------------------------------------------------------------------------------------------

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer POST /v1/chat/completions."""
        return await self._complete(request, "chat")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Answer POST /v1/completions."""
        return await self._complete(request, "completions")

    async def _complete(self, request: web.Request, route: Route) -> web.StreamResponse:
        started, code = time.monotonic(), 500
        job: Job | None = None
        self.num_open += 1
        try:
            policy = self.policy_of(request)
            if self.is_draining:
                raise shutting_down()
            body = await read_body(request)
            call = parse_call(parse_body(body), route, request.headers)
            deadline = started + self._seconds(call, read_timeout_s(request.headers))
            job = await self.jobs.start(call, body, policy, deadline)
            response = await self._run(request, job)
            code = response.status
            return response
        except RequestError as error:
            code = error.status
            raise
        except (asyncio.CancelledError, ConnectionError):
            code = 499  # the client has left
            raise
        finally:
            self.num_open -= 1
            self._observe(job, code, time.monotonic() - started)

    def _seconds(self, call: Call, read_s: float | None) -> float:
        """Return how long a run may draw: less than the client waits, where nothing keeps it waiting."""
        settings = self.jobs.settings
        seconds = min(settings.seconds, call.wishes.limits.seconds or math.inf)
        has_beats = call.stream or (settings.quiet_s is not None and read_s is not None and read_s > settings.quiet_s)
        if read_s is not None and not has_beats:
            seconds = min(seconds, read_s - min(max(0.5, read_s / 10), read_s / 2))
        return seconds

    async def _run(self, request: web.Request, job: Job) -> web.StreamResponse:
        """Run a job and send its answer. Where this ends early, so does the run."""
        task = asyncio.create_task(self._answer(job))
        read_s = read_timeout_s(request.headers)
        beat_s = self.jobs.settings.heartbeat_s
        beat_s = beat_s if read_s is None else max(LEAST_BEAT_S, min(beat_s, read_s / 2))
        try:
            send = self._send_stream if job.call.stream else self._send_whole
            response = await send(request, job, task, beat_s)
            job.is_answered = response.status == 200
            return response
        finally:
            await self._end(job, task)

    async def _answer(self, job: Job) -> Answer:
        entered = contextlib.nullcontext(None) if self.gate is None else self.gate.enter(job.policy)
        try:
            async with entered as allowance:
                self.live.add(job)
                self._count_live()
                job.admitted.set()
                try:
                    return await self.jobs.answer(job, allowance)
                finally:
                    self.live.discard(job)
                    self._count_live()
        except SamplewiseError as error:
            if (status := getattr(error, "status", None)) is None or isinstance(error, EngineError):
                raise
            raise RequestError(
                str(error),
                status=status,
                code=getattr(error, "code", None),
                retry=getattr(error, "should_retry", None),
                retry_after_s=getattr(error, "retry_after_s", None),
            ) from None

    async def _end(self, job: Job, task: asyncio.Task[Answer]) -> None:
        """See a run to its end: one that nobody waits for any more is cancelled."""
        if not task.done() and job.admitted.is_set():
            job.cancel.set()
            await asyncio.wait({task}, timeout=CANCEL_S)
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CANCEL_S)
        if task.done() and not task.cancelled():
            task.exception()
        self.jobs.close(job)

    async def _send_whole(
        self, request: web.Request, job: Job, task: asyncio.Task[Answer], beat_s: float
    ) -> web.StreamResponse:
        if await is_done(task, self.jobs.settings.quiet_s):
            answer = task.result()
            headers = {**self._cors_headers(request), **headers_of(answer.evidence)}
            response = web.json_response(reply_json(answer, job.call.route), headers=headers)
            await response.prepare(request)
            await response.write_eof()
            return response
        slow = await SlowJson.begin(request, self._early_headers(request, job))
        await slow.wait(task, beat_s)
        try:
            body = reply_json(task.result(), job.call.route)
        except RequestError as error:
            body = error_json(error)
        return await slow.end(body)

    async def _send_stream(
        self, request: web.Request, job: Job, task: asyncio.Task[Answer], beat_s: float
    ) -> web.StreamResponse:
        admitted = asyncio.ensure_future(job.admitted.wait())
        try:
            await asyncio.wait({task, admitted}, timeout=beat_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            admitted.cancel()
        if task.done():
            task.result()  # what is refused before a run begins keeps its status
        stream = await EventStream.begin(request, self._early_headers(request, job))
        call = job.call
        is_begun = call.wishes.progress and call.route == "chat"
        if is_begun:
            await self._show_progress(stream, job, task, beat_s)
        else:
            await stream.wait(task, beat_s)
        try:
            answer = task.result()
        except RequestError as error:
            await stream.send(error_json(error))
        else:
            await stream.send_all(reply_chunks(answer, call.route, include_usage=call.include_usage, is_begun=is_begun))
        return await stream.end()

    async def _show_progress(self, stream: EventStream, job: Job, task: asyncio.Task[Answer], beat_s: float) -> None:
        """Say how many draws have arrived, as reasoning, until the run is done."""
        shown = -1
        spoken = time.monotonic()
        while not task.done():
            if job.num_arrived != shown:
                text = f"{job.num_arrived} draws\n" if job.num_arrived else f"{job.plan.recipe.line}\n"
                await stream.send(progress_chunk(job.head(), text, is_first=shown < 0))
                shown, spoken = job.num_arrived, time.monotonic()
            elif time.monotonic() - spoken >= beat_s:
                await stream.comment()
                spoken = time.monotonic()
            await is_done(task, min(PROGRESS_S, beat_s))
        if shown < 0:
            await stream.send(progress_chunk(job.head(), f"{job.plan.recipe.line}\n", is_first=True))

    def _early_headers(self, request: web.Request, job: Job) -> dict[str, str]:
        """Return the headers of a reply that begins before its run has ended."""
        plan = job.plan
        evidence = {"run": job.run.id, "recipe": plan.recipe.line, "aside": plan.aside}
        return {**self._cors_headers(request), **headers_of(evidence)}

    # --- other routes -------------------------------------------------------------------------------------------------

    async def models(self, request: web.Request) -> web.StreamResponse:
        """Answer GET /v1/models."""
        self.policy_of(request)
        listed = list_models(self.jobs.upstreams, self.jobs.settings.presets, self._created)
        return web.json_response(listed, headers=self._cors_headers(request))

    async def model(self, request: web.Request) -> web.StreamResponse:
        """Answer GET /v1/models/{id}."""
        policy = self.policy_of(request)
        name, presets = request.match_info["id"], self.jobs.settings.presets
        parts = split_name(name, self.jobs.upstreams, presets)
        is_known = parts.model in self.jobs.upstreams and (
            parts.recipe is None or parts.recipe in presets or policy.recipes == "free"
        )
        if not is_known:
            raise RequestError(f"no model is called {name!r}", status=404, param="model", code="model_not_found")
        return web.json_response(model_json(name, self._created), headers=self._cors_headers(request))

    async def health(self, request: web.Request) -> web.StreamResponse:
        """Answer GET /health: the process is there."""
        return web.json_response({"status": "ok"})

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """Answer GET /ready: requests would be answered."""
        is_open = len(self.opened) == len(self.jobs.upstreams)
        word = "draining" if self.is_draining else "ready" if is_open else "opening the engines"
        return web.json_response({"status": word}, status=200 if word == "ready" else 503)

    async def show_metrics(self, request: web.Request) -> web.StreamResponse:
        """Answer GET /metrics."""
        self.policy_of(request)
        if self.metrics is None:
            raise RequestError("this server counts nothing", status=404)
        return web.Response(text=self.metrics.render(), content_type="text/plain", charset="utf-8")

    async def preflight(self, request: web.Request) -> web.StreamResponse:
        """Answer OPTIONS: whether pages of another origin may ask."""
        headers = self._cors_headers(request)
        if not headers:
            raise RequestError("requests from pages of another origin need --cors ORIGIN", status=403, code="origin")
        allowed = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": ACCEPTED_HEADERS}
        return web.Response(status=204, headers={**headers, **allowed, "Access-Control-Max-Age": "600"})

    def _cors_headers(self, request: web.Request) -> dict[str, str]:
        origin = request.headers.get("Origin")
        if origin is None or not self._allows(origin):
            return {}
        headers = {"Access-Control-Allow-Origin": header_text(origin), "Vary": "Origin"}
        return {**headers, "Access-Control-Expose-Headers": EXPOSED_HEADERS}

    # --- errors and counts --------------------------------------------------------------------------------------------

    @web.middleware
    async def as_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer every error with OpenAI's JSON, and never with a traceback."""
        try:
            return await handler(request)
        except RequestError as raised:
            error = raised
        except web.HTTPException as raised:
            if raised.status < 400:
                raise
            error = RequestError(raised.reason, status=raised.status)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as raised:
            request.app.logger.error("%s %s failed", request.method, request.path, exc_info=raised)
            error = RequestError("the server failed; its log says why", status=500, retry=False)
        headers = {**self._cors_headers(request), **error_headers(error)}
        return web.json_response(error_json(error), status=error.status, headers=headers)

    def _count_live(self) -> None:
        if self.metrics is not None:
            self.metrics.set_in_flight(len(self.live))

    def _observe(self, job: Job | None, code: int, seconds: float) -> None:
        """Count a request that has ended."""
        label, model = ("", "") if job is None else (job.plan.label, job.plan.upstream.name)
        if self.metrics is not None:
            self.metrics.observe_request(label, model, code, seconds, seconds)
        if job is None or job.result is None:
            return
        result = job.result
        if self.metrics is not None:
            self.metrics.add_tokens("prompt", result.paid.prompt_tokens)
            self.metrics.add_tokens("completion", result.paid.completion_tokens)
        self.recent.append(
            Answered(
                time.time(),
                job.run.id,
                job.plan.upstream.name,
                label,
                job.plan.recipe.line,
                result.answer,
                result.votes,
                len(result.pool.candidates),
                result.stop.reason,
                result.paid.tokens,
                seconds,
            )
        )


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)


def make_app(
    jobs: Jobs,
    *,
    keys: KeyTable | None = None,
    gate: Admission | None = None,
    metrics: Counters | None = None,
    cors: Collection[str] = (),
) -> web.Application:
    """Return the server as an application; serve it with `handler_cancellation=True`, or nobody who leaves is noticed.

    Its engines are opened when it starts and closed when it ends. Without `keys` it answers to the loopback alone.
    """
    service = Service(jobs, keys=keys, gate=gate, metrics=metrics, cors=cors)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[service.as_json])
    app[SERVICE] = service
    app.router.add_post("/v1/chat/completions", service.chat)
    app.router.add_post("/v1/completions", service.completions)
    app.router.add_get("/v1/models", service.models)
    app.router.add_get("/v1/models/{id:.+}", service.model)
    app.router.add_get("/health", service.health)
    app.router.add_get("/ready", service.ready)
    app.router.add_get("/metrics", service.show_metrics)
    app.router.add_route("OPTIONS", "/v1/{path:.*}", service.preflight)
    app.router.add_route("*", "/{path:.*}", no_route)
    app.on_startup.append(service.open)
    app.on_cleanup.append(service.close)
    return app


async def no_route(request: web.Request) -> web.StreamResponse:
    """Answer what is no route of the server."""
    served = "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, /health, /ready, /metrics"
    raise RequestError(f"no such route: {request.method} {request.path}; there are {served}", status=404)


async def read_body(request: web.Request) -> bytes:
    """Return a request's body. Raises RequestError."""
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise RequestError("send the body uncompressed", status=415)
    if "Origin" in request.headers and request.content_type != "application/json":
        raise RequestError("send Content-Type: application/json", status=415)
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise RequestError(f"a body has at most {MAX_BODY >> 20} MB", status=413) from None
    except web.RequestPayloadError:
        raise RequestError("the body broke off") from None


def is_local(host: str) -> bool:
    """Return whether a Host header names the loopback."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def shutting_down() -> RequestError:
    """Return what a request is answered while the server shuts down."""
    return RequestError("the server is shutting down", status=503, code="shutting_down", retry_after_s=1.0)
