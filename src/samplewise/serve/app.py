"""The routes of the server, as an `aiohttp.web` application.

A handler checks the request, starts its run as a task of its own, and tells the client how long it takes: by comments
in a stream, by newlines before a JSON body. If the client leaves, the handler is cancelled, and with it the run.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from functools import partial

from aiohttp import web

from samplewise import __version__
from samplewise.core.errors import SamplewiseError
from samplewise.core.types import Json
from samplewise.serve.fields import Route
from samplewise.serve.jobs import Job, Jobs
from samplewise.serve.keys import OPEN, KeyRing, Policy, token_of
from samplewise.serve.limits import Busy, Gate
from samplewise.serve.log import EventLog
from samplewise.serve.metrics import CONTENT_TYPE, Metrics
from samplewise.serve.names import list_models, model_json, split_name
from samplewise.serve.openapi import describe_api
from samplewise.serve.origin import cors_headers, foreign_origin
from samplewise.serve.page import HEADERS, Board, ServedName, ShownAnswer, content_policy, render_page
from samplewise.serve.replies import Answer, error_headers, error_json
from samplewise.serve.stream import send_stream, send_whole
from samplewise.serve.tracing import RequestSpan, find_tracing
from samplewise.serve.wire import Call, RequestError, parse_body, parse_call, read_timeout_s

MAX_BODY = 8 << 20  # bytes
CANCEL_S = 0.7  # that a handler waits for a run to end by itself when its client has left
LAST_S = 10.0  # after which its task is cancelled
STOPPED_S = 5.0  # that runs have to choose among their draws when the server stops
LEAST_BEAT_S = 0.1  # between two signs of life, whatever the client's read time-out
OPEN_AGAIN_S = 5.0  # between two tries to open an engine
CLIENT_LEFT = 499  # the status that such a request is counted under
ROUTES = (
    "POST /v1/chat/completions, POST /v1/completions, GET /v1/models, /openapi.json, /health, /ready, /metrics and /"
)

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
        log: EventLog | None = None,
        origins: Collection[str] = (),
        hosts: Collection[str] = (),
    ) -> None:
        self.jobs, self.keys = jobs, keys
        self.gate = gate if gate is not None else Gate()
        self.metrics, self.board = Metrics(), Board()
        self._running: set[Job] = set()
        self.opened: set[str] = set()  # names of the models whose engines are open
        self._log, self._origins, self._hosts = log, frozenset(origins), frozenset(hosts)
        self._created = int(time.time())
        self._opening: asyncio.Task[None] | None = None
        self._tracing = find_tracing()

    # --- engines ------------------------------------------------------------------------------------------------------

    async def open(self, app: web.Application) -> None:
        """Begin to open the engines, which may take long, or succeed at a later try."""
        self._opening = asyncio.create_task(self._open_all())

    async def opened_all(self) -> None:
        """Wait until all engines are open."""
        if self._opening is not None:
            await asyncio.shield(self._opening)

    async def _open_all(self) -> None:
        upstreams = self.jobs.upstreams
        reasons: dict[str, str] = {}  # why a model's engine is not open
        while len(self.opened) < len(upstreams):
            for name, upstream in upstreams.items():
                if name in self.opened:
                    continue
                try:
                    await upstream.engine.open()
                    self.opened.add(name)
                except SamplewiseError as error:
                    if reasons.get(name) != str(error):
                        self._write("not_open", model=name, error=str(error))
                    reasons[name] = str(error)
            if len(self.opened) < len(upstreams):
                await asyncio.sleep(OPEN_AGAIN_S)

    async def close(self, app: web.Application) -> None:
        """Close the engines."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self.jobs.close_engines()

    async def drain(self, seconds: float) -> bool:
        """Refuse new requests from now on, and wait for running ones. Return whether all ended within so many seconds.

        Those that did not are answered with the best that they have by then.
        """
        self.gate.drain()
        if await self.gate.drained(seconds):
            return True
        for job in self._running:
            job.stop()
        await self.gate.drained(STOPPED_S)
        return False

    # --- who asks -----------------------------------------------------------------------------------------------------

    def policy_of(self, request: web.Request) -> Policy:
        """Return what the sender of a request may do. Raises RequestError."""
        is_open = self.keys is None
        if why := foreign_origin(request.headers, is_open=is_open, origins=self._origins, hosts=self._hosts):
            raise RequestError(why, status=403, code="foreign_origin")
        policy = OPEN if self.keys is None else self.keys.policy_of(token_of(request.headers))
        if policy is None:
            message = "no such key; send Authorization: Bearer KEY"
            raise RequestError(message, status=401, code="invalid_api_key")
        return policy

    def _cors(self, request: web.Request) -> dict[str, str]:
        return cors_headers(request.headers.get("Origin"), self._origins)

    # --- completions --------------------------------------------------------------------------------------------------

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """Answer POST /v1/chat/completions."""
        return await self._complete(request, "chat")

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """Answer POST /v1/completions."""
        return await self._complete(request, "completions")

    async def _complete(self, request: web.Request, route: Route) -> web.StreamResponse:
        started, status, why = time.monotonic(), 500, "failed"
        job: Job | None = None
        policy: Policy | None = None
        span = None if self._tracing is None else self._tracing.begin(route, request.headers)
        try:
            policy = self.policy_of(request)
            body = await read_body(request)
            call = parse_call(parse_body(body), route, request.headers)
            read_s = read_timeout_s(request.headers)
            deadline = started + self._seconds(call, policy, read_s)
            choosing = (request.headers.get("X-Samplewise-Recipe"), request.headers.get("X-ITS-Budget"))
            job = await self.jobs.start(call, body, policy, deadline, headers=choosing)
            job.span = span
            if read_s is not None and not call.stream:  # nothing is sent before there is a slot
                job.slot_by = min(deadline, started + _in_time_for(read_s))
            response = await self._run(request, job, read_s)
            status, why = response.status, job.error
            return response
        except RequestError as error:
            status, why = error.status, error.code or error.kind
            raise
        except (asyncio.CancelledError, ConnectionError):
            status, why = CLIENT_LEFT, "client_left"
            raise
        finally:
            self._observe(route, policy, job, status, why, started, span)

    def _seconds(self, call: Call, policy: Policy, read_s: float | None) -> float:
        """Return how long a run may draw: less than the client waits, where nothing keeps it waiting."""
        settings = self.jobs.settings
        seconds = min(settings.seconds, policy.seconds_per_request or math.inf, call.wishes.limits.seconds or math.inf)
        has_beats = call.stream or (settings.quiet_s is not None and read_s is not None and read_s > settings.quiet_s)
        if read_s is not None and not has_beats:
            seconds = min(seconds, _in_time_for(read_s))
        return seconds

    async def _run(self, request: web.Request, job: Job, read_s: float | None) -> web.StreamResponse:
        """Run a job and send its answer. Where this ends early, so does the run."""
        task = asyncio.create_task(job.ended.after(self._answer(job)))
        task.add_done_callback(_take_note)
        task.add_done_callback(job.ended.ring)  # a task may be cancelled before it begins
        settings = self.jobs.settings
        beat_s = settings.heartbeat_s
        beat_s = beat_s if read_s is None else max(LEAST_BEAT_S, min(beat_s, read_s / 2))
        try:
            if job.call.stream:
                return await send_stream(request, job, task, self._cors(request), beat_s=beat_s)
            return await send_whole(request, job, task, self._cors(request), quiet_s=settings.quiet_s, beat_s=beat_s)
        finally:
            await self._end(job, task)

    async def _answer(self, job: Job) -> Answer:
        """Wait for a free slot, and run a job in it. Raises RequestError."""
        try:
            async with self.gate.enter(job.policy, job.slot_by - time.monotonic()) as ticket:
                job.admitted.set()
                self.board.begin(job.policy.name, job.run.id, job.call.model, datetime.now(UTC))
                job.on_arrival = partial(self.board.progress, job.policy.name, job.run.id)  # no cycle with the job
                self._running.add(job)
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
            self._running.discard(job)

    async def _end(self, job: Job, task: asyncio.Task[Answer]) -> None:
        """See a run to its end: one that nobody waits for any more is cancelled.

        What it has in flight is given up at once. Its task is cancelled only if it has not ended long after that, as
        its books are then not complete.
        """
        try:
            if not task.done() and job.admitted.is_set():
                job.cancel.set()
                await asyncio.wait({task}, timeout=CANCEL_S)
        finally:
            if not task.done():
                wait_s = LAST_S if job.admitted.is_set() else 0.0
                asyncio.get_running_loop().call_later(wait_s, task.cancel)
            self.jobs.close(job)

    # --- other routes -------------------------------------------------------------------------------------------------

    async def models(self, request: web.Request) -> web.StreamResponse:
        """Answer GET /v1/models."""
        self.policy_of(request)
        listed = list_models(self.jobs.upstreams, self.jobs.settings.presets, self._created)
        return web.json_response(listed, headers=self._cors(request))

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
        return web.json_response(model_json(name, self._created), headers=self._cors(request))

    async def describe(self, request: web.Request) -> web.StreamResponse:
        """Answer GET /openapi.json: the API with every field, as OpenAPI 3.1."""
        self.policy_of(request)
        models, presets = self.jobs.upstreams, self.jobs.settings.presets
        described = describe_api(models, presets, __version__, has_keys=self.keys is not None)
        return web.json_response(described, headers=self._cors(request))

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
        self.metrics.set_in_flight(self.gate.in_flight)
        self.metrics.set_queue(self.gate.num_queued)
        return web.Response(body=self.metrics.render().encode(), headers={"Content-Type": CONTENT_TYPE})

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Answer GET /: the page for the key that asks."""
        try:
            policy = self.policy_of(request)
        except RequestError as error:
            if error.status != 401:
                raise
            # a browser then asks for the key, as the password of any name
            challenge = {"WWW-Authenticate": 'Basic realm="samplewise", charset="UTF-8"'}
            return web.Response(text="give a key of the server as the password", status=401, headers=challenge)
        names = [ServedName(name, "") for name in self.jobs.upstreams]
        names += [
            ServedName(f"{preset}@{name}", line)
            for name in self.jobs.upstreams
            for preset, line in self.jobs.settings.presets.items()
        ]
        html = render_page(
            names,
            self.board.activity(policy.name),
            datetime.now(UTC),
            engine=", ".join(upstream.engine.name for upstream in self.jobs.upstreams.values()),
            version=__version__,
            queued=self.gate.num_queued,
        )
        return web.Response(body=html.encode(), headers={**HEADERS, "Content-Security-Policy": content_policy()})

    async def preflight(self, request: web.Request) -> web.StreamResponse:
        """Answer OPTIONS: whether pages of another origin may ask."""
        headers = self._cors(request)
        if not headers:
            raise RequestError("pages of other origins need --cors ORIGIN", status=403, code="foreign_origin")
        return web.Response(status=204, headers={**headers, "Access-Control-Max-Age": "600"})

    async def no_route(self, request: web.Request) -> web.StreamResponse:
        """Answer what is no route of the server, or one with another method."""
        self.policy_of(request)
        methods: set[str] = set()
        for resource in request.app.router.resources():
            methods |= (await resource.resolve(request))[1]
        methods -= {"*", "OPTIONS"}
        if methods:
            error = RequestError(f"{request.path} takes {' and '.join(sorted(methods))} alone", status=405)
            allowed = {"Allow": ", ".join(sorted(methods))}
            return web.json_response(error_json(error), status=405, headers={**self._cors(request), **allowed})
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
        headers = {**self._cors(request), **error_headers(error)}
        return web.json_response(error_json(error), status=error.status, headers=headers)

    def _failed(self, what: str, raised: Exception) -> RequestError:
        """Log an error that nobody foresaw, and return what the client is told of it."""
        LOGGER.error("%s failed", what, exc_info=raised)
        self._write("failed", what=what, error=f"{type(raised).__name__}: {raised}")
        return RequestError("the server failed; its log says why", status=500, code="internal_error", retry=False)

    def _write(self, name: str, **fields: object) -> None:
        if self._log is not None:
            self._log.write(name, **fields)

    def _observe(
        self,
        route: Route,
        policy: Policy | None,
        job: Job | None,
        status: int,
        why: str,
        started: float,
        span: RequestSpan | None,
    ) -> None:
        """Count a request that has ended, end its span, and write it to the log."""
        seconds = round(time.monotonic() - started, 4)
        key = "" if policy is None else policy.name
        fields: dict[str, Json] = {"client": key, "route": route, "code": status, "why": why, "seconds": seconds}
        if job is None:
            self.metrics.observe_request("", "", status, seconds)
        else:
            fields |= self._observe_job(job, key, status, started, seconds)
        if span is not None:
            span.end(fields, why)
        self._write("request", **fields)

    def _observe_job(self, job: Job, key: str, status: int, started: float, seconds: float) -> dict[str, Json]:
        """Count a run, show it on the page, and return what is to be logged of it."""
        plan, result, metrics, paid = job.plan, job.result, self.metrics, job.paid
        first_byte_s = round(job.first_byte - started, 4)
        metrics.observe_request(plan.label, plan.upstream.name, status, seconds, first_byte_s)
        metrics.add_tokens("prompt", paid.prompt_tokens)
        metrics.add_tokens("completion", paid.completion_tokens)
        num = None if result is None else len(result.pool.candidates)
        saved, shown = job.saved, None
        if result is not None and num is not None:
            metrics.observe_draws(num)
            metrics.add_saved(saved)
        if job.is_answered:  # one that the endpoint itself answered has no result
            shown = ShownAnswer(
                when=datetime.now(UTC),
                model=job.call.model,
                answer="" if result is None else result.answer or "",
                votes={} if result is None else result.votes,
                num_draws=job.call.n if num is None else num,
                tokens=paid.tokens,
                saved=saved,
                stop="relayed" if result is None else result.stop.reason,
            )
        if job.admitted.is_set():
            self.board.end(key, job.run.id, shown, paid.tokens)
        return {
            "model": plan.upstream.name,
            "recipe": plan.label,
            "run": job.run.id,
            "resumed": job.run.is_resumed,
            "aside": plan.aside,
            "first_byte": first_byte_s,
            "draws": num,
            "stop": None if result is None else result.stop.reason,
            "tokens": paid.tokens,
            "tokens_in": paid.prompt_tokens,
            "tokens_out": paid.completion_tokens,
            "usd": paid.usd,
            "saved": saved,
        }


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)


def make_app(
    jobs: Jobs,
    *,
    keys: KeyRing | None = None,
    gate: Gate | None = None,
    log: EventLog | None = None,
    origins: Collection[str] = (),
    hosts: Collection[str] = (),
) -> web.Application:
    """Return the server as an application; serve it with `handler_cancellation=True`, or nobody who leaves is noticed.

    Its engines are opened when it starts and closed when it ends. Without `keys` it trusts whoever reaches it, and
    must listen on the loopback alone. `origins` are those whose pages may ask, `hosts` names that it goes by.
    """
    service = Service(jobs, keys=keys, gate=gate, log=log, origins=origins, hosts=hosts)
    app = web.Application(client_max_size=MAX_BODY, middlewares=[service.errors_as_json])
    app[SERVICE] = service
    app.router.add_post("/v1/chat/completions", service.chat)
    app.router.add_post("/v1/completions", service.completions)
    app.router.add_get("/v1/models", service.models)
    app.router.add_get("/v1/models/{id:.+}", service.model)
    app.router.add_get("/openapi.json", service.describe)
    app.router.add_get("/health", service.health)
    app.router.add_get("/ready", service.ready)
    app.router.add_get("/metrics", service.show_metrics)
    app.router.add_get("/", service.page)
    app.router.add_route("OPTIONS", "/v1/{path:.*}", service.preflight)
    app.router.add_route("*", "/{path:.*}", service.no_route)
    app.on_startup.append(service.open)
    app.on_cleanup.append(service.close)
    return app


def _in_time_for(read_s: float) -> float:
    """Return after how many seconds a client that waits so long for a byte should have its answer."""
    return read_s - min(max(0.5, read_s / 10), read_s / 2)


def _take_note(task: asyncio.Task[Answer]) -> None:
    """Take note of how a task ended, so that no error counts as overlooked when nobody waits for it any more."""
    if not task.cancelled():
        task.exception()


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
