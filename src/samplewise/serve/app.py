"""The routes of the server, as an `aiohttp.web` application.

A handler checks the request, starts its run as a task of its own, and tells the client how long it takes: by comments
in a stream, by newlines before a JSON body. If the client leaves, the handler is cancelled, and with it the run.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from urllib.parse import urlsplit

from aiohttp import web

from samplewise import __version__
from samplewise.core.errors import SamplewiseError
from samplewise.serve.jobs import Job, Jobs
from samplewise.serve.keys import OPEN, KeyRing, Policy, token_of
from samplewise.serve.limits import Busy, Gate
from samplewise.serve.metrics import METRICS_TYPE
from samplewise.serve.names import list_models, model_json, split_name
from samplewise.serve.page import PAGE_HEADERS, LiveRequest, ServedName, content_policy
from samplewise.serve.replies import Answer, error_headers, error_json, header_text
from samplewise.serve.stream import send_stream, send_whole
from samplewise.serve.watch import EndedRequest, Watch
from samplewise.serve.wire import Call, RequestError, Route, parse_body, parse_call, read_timeout_s

MAX_BODY = 8 << 20  # bytes
CANCEL_S = 0.7  # that a run has to end by itself when its client has left, before its task is cancelled
LEAST_BEAT_S = 0.1  # between two signs of life, whatever the client's read time-out
OPEN_AGAIN_S = 5.0  # between two tries to open an engine
CLIENT_LEFT = 499  # the status that such a request is counted under
ACCEPTED_HEADERS = "Authorization, Content-Type, X-Samplewise-Recipe, X-ITS-Budget"
EXPOSED_HEADERS = "X-Samplewise-Run, X-Samplewise-Recipe, X-Samplewise-Stop, X-Samplewise-Aside, Retry-After"
ROUTES = "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, /health, /ready, /metrics and /"

LOGGER = logging.getLogger("samplewise.serve")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service:
    """The handlers, and what they share. `keys` is None where the server listens on the loopback alone."""

    def __init__(
        self,
        jobs: Jobs,
        *,
        keys: KeyRing | None = None,
        gate: Gate | None = None,
        watch: Watch | None = None,
        cors: Collection[str] = (),
    ) -> None:
        self.jobs, self.keys = jobs, keys
        self.gate, self.watch = gate or Gate(), watch or Watch()
        self.live: set[Job] = set()  # that have a slot
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
                try:
                    await upstream.engine.open()
                    self.opened.add(name)
                except SamplewiseError as error:
                    LOGGER.warning("%s is not open yet: %s", name, error)
            if len(self.opened) < len(upstreams):
                await asyncio.sleep(OPEN_AGAIN_S)

    async def close(self, app: web.Application) -> None:
        """Close the engines."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self.jobs.close_engines()

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests from now on, and wait for running ones, at most so long. Return whether all ended."""
        self.gate.drain()
        return await self.gate.drained(seconds)

    # --- who asks -----------------------------------------------------------------------------------------------------

    def policy_of(self, request: web.Request, *, is_page: bool = False) -> Policy:
        """Return what the sender of a request may do. Raises RequestError."""
        if self.keys is None:
            self._check_is_local(request)
            return OPEN
        policy = self.keys.policy_of(token_of(request.headers, is_page=is_page))
        if policy is None:
            message = "this key is not known; send Authorization: Bearer KEY"
            raise RequestError(message, status=401, code="invalid_api_key")
        return policy

    def _check_is_local(self, request: web.Request) -> None:
        """Raise RequestError for what a page of another site may have sent by way of the user's browser.

        Such a request carries an `Origin`, or, where a name was made to point at this computer, that name as its host.
        """
        origin = request.headers.get("Origin")
        if origin is not None and not self._allows(origin) and _netloc(origin) != request.host:
            raise RequestError("pages of another origin need --cors ORIGIN", status=403, code="foreign_origin")
        if not is_local(request.host):
            message = f"a server without keys answers to names of the loopback alone, not to {request.host[:100]!r}"
            raise RequestError(message, status=403, code="foreign_host")

    def _allows(self, origin: str) -> bool:
        return "*" in self._cors or origin in self._cors

    def _cors_headers(self, request: web.Request) -> dict[str, str]:
        """Return the headers that let a browser show a reply to a page of another origin, where that is allowed."""
        origin = request.headers.get("Origin")
        if origin is None or not self._allows(origin):
            return {}
        headers = {"Access-Control-Allow-Origin": header_text(origin), "Vary": "Origin"}
        return {**headers, "Access-Control-Expose-Headers": EXPOSED_HEADERS}

    # --- completions --------------------------------------------------------------------------------------------------

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer POST /v1/chat/completions."""
        return await self._complete(request, "chat")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Answer POST /v1/completions."""
        return await self._complete(request, "completions")

    async def _complete(self, request: web.Request, route: Route) -> web.StreamResponse:
        started, status, message = time.monotonic(), 500, ""
        job: Job | None = None
        policy: Policy | None = None
        try:
            policy = self.policy_of(request)
            if self.gate.is_draining:
                raise RequestError("the server is shutting down", status=503, code="shutting_down", retry_after_s=1.0)
            body = await read_body(request)
            call = parse_call(parse_body(body), route, request.headers)
            deadline = started + self._seconds(call, read_timeout_s(request.headers))
            choosing = [request.headers.get(name) for name in ("X-Samplewise-Recipe", "X-ITS-Budget")]
            job = await self.jobs.start(call, body, policy, deadline, headers=choosing)
            response = await self._run(request, job)
            status = response.status
            return response
        except RequestError as error:
            status, message = error.status, error.message
            raise
        except (asyncio.CancelledError, ConnectionError):
            status = CLIENT_LEFT
            raise
        finally:
            client, seconds = "" if policy is None else policy.name, time.monotonic() - started
            self._observe(EndedRequest(client, route, status, seconds, error=message), job, started)

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
        settings, read_s = self.jobs.settings, read_timeout_s(request.headers)
        beat_s = settings.heartbeat_s
        beat_s = beat_s if read_s is None else max(LEAST_BEAT_S, min(beat_s, read_s / 2))
        try:
            if job.call.stream:
                return await send_stream(request, job, task, self._cors_headers(request), beat_s=beat_s)
            return await send_whole(
                request, job, task, self._cors_headers(request), quiet_s=settings.quiet_s, beat_s=beat_s
            )
        finally:
            await self._end(job, task)

    async def _answer(self, job: Job) -> Answer:
        """Wait for a free slot, and run a job in it. Raises RequestError."""
        try:
            async with self.gate.enter(job.policy) as ticket:
                self.live.add(job)
                job.admitted.set()
                return await self.jobs.answer(job, ticket)
        except Busy as busy:
            raise RequestError(
                str(busy),
                status=busy.status,
                code=busy.code,
                retry=busy.should_retry,
                retry_after_s=busy.retry_after_s,
            ) from None
        except RequestError:
            raise
        except Exception as raised:
            raise self._failed(f"run {job.run.id}", raised) from None
        finally:
            self.live.discard(job)

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
        word = "draining" if self.gate.is_draining else "ready" if is_open else "opening the engines"
        return web.json_response({"status": word}, status=200 if word == "ready" else 503)

    async def show_metrics(self, request: web.Request) -> web.StreamResponse:
        """Answer GET /metrics."""
        self.policy_of(request)
        metrics = self.watch.metrics
        metrics.set_in_flight(self.gate.in_flight)
        metrics.set_queue(self.gate.num_queued)
        return web.Response(body=metrics.render().encode(), headers={"Content-Type": METRICS_TYPE})

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Answer GET / with the page that people look at."""
        try:
            policy = self.policy_of(request, is_page=True)
        except RequestError as error:
            if error.status != 401:
                raise
            ask = {"WWW-Authenticate": 'Basic realm="samplewise: a key as the password", charset="UTF-8"'}
            return web.Response(status=401, text="This page needs a key, as the password.", headers=ask)
        live = [
            LiveRequest(job.call.model, datetime.fromtimestamp(job.created, UTC), job.num_arrived)
            for job in self.live
            if job.policy.name == policy.name
        ]
        models, presets = self.jobs.upstreams, self.jobs.settings.presets
        names = [ServedName(model, "") for model in models]
        names += [ServedName(f"{preset}@{model}", line) for model in models for preset, line in presets.items()]
        text = self.watch.page(policy.name, names, live, self.gate.num_queued, __version__)
        headers = {**PAGE_HEADERS, "Content-Security-Policy": content_policy()}
        return web.Response(body=text.encode(), headers=headers)

    async def preflight(self, request: web.Request) -> web.StreamResponse:
        """Answer OPTIONS: whether pages of another origin may ask."""
        headers = self._cors_headers(request)
        if not headers:
            raise RequestError("pages of other origins need --cors ORIGIN", status=403, code="foreign_origin")
        allowed = {"Access-Control-Allow-Methods": "GET, POST", "Access-Control-Allow-Headers": ACCEPTED_HEADERS}
        return web.Response(status=204, headers={**headers, **allowed, "Access-Control-Max-Age": "600"})

    async def no_route(self, request: web.Request) -> web.StreamResponse:
        """Answer what is no route of the server."""
        self.policy_of(request)
        raise RequestError(f"no such route: {request.method} {request.path}; there are {ROUTES}", status=404)

    # --- errors and counts --------------------------------------------------------------------------------------------

    @web.middleware
    async def errors_as_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
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
            error = self._failed(f"{request.method} {request.path}", raised)
        headers = {**self._cors_headers(request), **error_headers(error)}
        return web.json_response(error_json(error), status=error.status, headers=headers)

    def _failed(self, what: str, raised: Exception) -> RequestError:
        """Log an error that nobody foresaw, and return what the client is told of it."""
        LOGGER.error("%s failed", what, exc_info=raised)
        return RequestError("the server failed; its log says why", status=500, code="internal_error", retry=False)

    def _observe(self, ended: EndedRequest, job: Job | None, started: float) -> None:
        """Note a request that has ended, and what its run was, if it came to one."""
        if job is not None:
            ended = ended._replace(
                first_byte_s=job.began - started,
                run=job.run.id,
                name=job.call.model,
                label=job.plan.label,
                model=job.plan.upstream.name,
                fixed=job.plan.size,
                paid=job.paid,
                result=job.result,
                error=ended.error or job.error,
            )
        self.watch.ended(ended)


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)


def make_app(
    jobs: Jobs,
    *,
    keys: KeyRing | None = None,
    gate: Gate | None = None,
    watch: Watch | None = None,
    cors: Collection[str] = (),
) -> web.Application:
    """Return the server as an application; serve it with `handler_cancellation=True`, or nobody who leaves is noticed.

    Its engines are opened when it starts and closed when it ends. Without `keys` it trusts whoever reaches it, and
    must listen on the loopback alone. `cors` are the origins whose pages may ask, "*" for all.
    """
    service = Service(jobs, keys=keys, gate=gate, watch=watch, cors=cors)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[service.errors_as_json])
    app[SERVICE] = service
    app.router.add_post("/v1/chat/completions", service.chat)
    app.router.add_post("/v1/completions", service.completions)
    app.router.add_get("/v1/models", service.models)
    app.router.add_get("/v1/models/{id:.+}", service.model)
    app.router.add_get("/health", service.health)
    app.router.add_get("/ready", service.ready)
    app.router.add_get("/metrics", service.show_metrics)
    app.router.add_get("/", service.page)
    app.router.add_route("OPTIONS", "/v1/{path:.*}", service.preflight)
    app.router.add_route("*", "/{path:.*}", service.no_route)
    app.on_startup.append(service.open)
    app.on_cleanup.append(service.close)
    return app


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
    name = host.partition("]")[0][1:] if host.startswith("[") else host.partition(":")[0]
    try:
        return name.lower() == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _netloc(origin: str) -> str:
    """Return host and port of an origin, "" if it has none, as "null" has."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
