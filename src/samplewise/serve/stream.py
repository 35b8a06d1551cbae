"""Keep a connection alive while a run decides: server-sent events with comments, and newlines before a JSON body.

A client that hears nothing for its read time-out gives up, and asks again. Comments are ignored by every client that
reads event streams, and white space before a JSON body by every client that reads JSON.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable
from typing import Any

from aiohttp import web

from samplewise.core.types import Json
from samplewise.serve.jobs import Job
from samplewise.serve.live import LiveDraw
from samplewise.serve.replies import (
    Answer,
    error_json,
    headers_of,
    piece_chunk,
    progress_chunk,
    reply_chunks,
    reply_json,
)
from samplewise.serve.wire import RequestError

COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
EVENT_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # a proxy that collects events would undo the heartbeats
}
_to_json = json.JSONEncoder(allow_nan=False).encode
PROGRESS_S = 0.25  # between two looks at how a run gets on


def event(data: Json) -> bytes:
    """Return one event."""
    return b"data: " + json.dumps(data, allow_nan=False, separators=(",", ":")).encode() + b"\n\n"


def early_headers(job: Job) -> dict[str, str]:
    """Return the headers of a reply that begins before its run has ended."""
    return headers_of({"run": job.run.id, "recipe": job.plan.recipe.line, "aside": job.plan.aside})


async def send_whole(
    request: web.Request,
    job: Job,
    task: asyncio.Future[Answer],
    headers: dict[str, str],
    *,
    quiet_s: float | None,
    beat_s: float,
) -> web.StreamResponse:
    """Send a reply as one JSON body. After `quiet_s` of silence a newline goes before it, and every `beat_s` another.

    An error that comes later than that has status 200, as the headers are sent by then. Raises RequestError before, and
    whenever a run is refused a slot: nothing is sent while it waits for one.
    """
    route = job.call.route
    if await is_done(job, task, quiet_s) or await _is_done_in_queue(job, task):
        answer = task.result()
        whole = web.Response(
            body=_to_json(reply_json(answer, route)).encode(),
            content_type="application/json",
            headers={**headers, **headers_of(answer.evidence)},
        )
        job.first_byte = time.monotonic()
        await whole.prepare(request)
        await whole.write_eof()
        job.is_answered = True
        return whole
    response = web.StreamResponse(
        headers={"Content-Type": "application/json; charset=utf-8", **headers, **early_headers(job)}
    )
    await response.prepare(request)
    await response.write(b"\n")
    job.first_byte = time.monotonic()
    while not await is_done(job, task, beat_s):
        await response.write(b"\n")
    try:
        body, is_answer = reply_json(task.result(), route), True
    except RequestError as error:
        job.error = error.code or error.kind
        body, is_answer = error_json(error), False
    await response.write(_to_json(body).encode())
    await response.write_eof()
    job.is_answered = is_answer
    return response


async def send_stream(
    request: web.Request,
    job: Job,
    task: asyncio.Future[Answer],
    headers: dict[str, str],
    *,
    beat_s: float,
) -> web.StreamResponse:
    """Send a reply as server-sent events: a comment at once, then every `beat_s`, and the answer once it is decided.

    What ends a run before it has a free slot, within the first `beat_s`, is raised as RequestError; later errors are
    events of the stream.
    """
    if await _is_done_in_queue(job, task, beat_s):
        task.result()
    response = web.StreamResponse(headers={**EVENT_HEADERS, **headers, **early_headers(job)})
    await response.prepare(request)
    await response.write(COMMENT)
    job.first_byte = time.monotonic()
    is_begun = False
    if job.live is not None:
        is_begun = await _show_live(response, job, job.live, task, beat_s)
    elif job.call.wishes.progress and job.call.route == "chat":
        is_begun = True
        await _show_progress(response, job, task, beat_s)
    while not await is_done(job, task, beat_s):
        await response.write(COMMENT)
    events: Iterable[Json]
    try:
        answer = task.result()
        if job.live is not None:
            answer = answer._replace(choices=tuple(map(job.live.rest, answer.choices)))
        is_answer = True
        events = reply_chunks(answer, job.call.route, include_usage=job.call.include_usage, is_begun=is_begun)
    except RequestError as error:
        job.error = error.code or error.kind
        is_answer = False
        events = [error_json(error)]
    for data in events:
        await response.write(event(data))
    await response.write(DONE)
    await response.write_eof()
    job.is_answered = is_answer
    return response


async def _show_live(
    response: web.StreamResponse, job: Job, live: LiveDraw, task: asyncio.Future[Answer], beat_s: float
) -> bool:
    """Send the pieces of a draw as they come, until the run is done. Return whether there was one."""
    is_begun, spoken = False, time.monotonic()
    arrived = asyncio.ensure_future(live.arrived.wait())
    try:
        while True:
            for piece in live.take():
                chunk = piece_chunk(job.head(), job.call.route, piece.text, piece.is_reasoning, is_first=not is_begun)
                if chunk is not None:
                    usage = {"usage": None} if job.call.include_usage else {}
                    await response.write(event({**chunk, **usage}))
                    is_begun, spoken = True, time.monotonic()
            if task.done():
                return is_begun
            if arrived.done():
                arrived = asyncio.ensure_future(live.arrived.wait())
            left_s = beat_s - (time.monotonic() - spoken)
            waiting: set[asyncio.Future[Any]] = {arrived, task}
            await asyncio.wait(waiting, timeout=max(0.0, left_s), return_when=asyncio.FIRST_COMPLETED)
            if not arrived.done() and not task.done():
                await response.write(COMMENT)
                spoken = time.monotonic()
    finally:
        arrived.cancel()


async def _show_progress(response: web.StreamResponse, job: Job, task: asyncio.Future[Answer], beat_s: float) -> None:
    """Say how many draws have arrived, as reasoning, until the run is done."""
    shown, is_first, spoken = -1, True, time.monotonic()
    while is_first or not task.done():
        if job.num_arrived != shown:
            text = f"{job.num_arrived} draws\n" if not is_first else f"{job.plan.recipe.line}\n"
            await response.write(event(progress_chunk(job.head(), text, is_first=is_first)))
            shown, is_first, spoken = (shown if is_first else job.num_arrived), False, time.monotonic()
        elif time.monotonic() - spoken >= beat_s:
            await response.write(COMMENT)
            spoken = time.monotonic()
        await is_done(job, task, min(PROGRESS_S, beat_s))


async def _is_done_in_queue(job: Job, task: asyncio.Future[Answer], seconds: float | None = None) -> bool:
    """Wait until a run has a slot, at most so long, and return whether it has ended instead or as well."""
    if not job.admitted.is_set() and not task.done():
        admitted = asyncio.ensure_future(job.admitted.wait())
        first: set[asyncio.Future[Any]] = {task, admitted}
        try:
            await asyncio.wait(first, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            admitted.cancel()
    return task.done()


async def is_done(job: Job, task: asyncio.Future[Answer], seconds: float | None) -> bool:
    """Wait for a job's run, at most so long, and return whether it is done. Raises nothing of its own."""
    if not task.done():
        await job.ended.wait(seconds)
    return task.done()
