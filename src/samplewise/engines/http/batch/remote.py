"""The batch API of an endpoint, as OpenAI has it: files, batches, results. It knows nothing of asks.

A batch is a JSONL file of requests that is worked through within 24 hours, at a lower price. Four calls: upload the
file, create the batch, read its state, fetch the results. All but creating a batch can be repeated at no cost, and are,
until nothing was answered for `patience_s`. A create whose reply is lost may have succeeded, or may yet: the batch is
looked for by the name in its metadata until `patience_s` have passed, before it is created again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any, NamedTuple

from samplewise.core.errors import EngineError, SetupError
from samplewise.core.retry import backoff_s
from samplewise.core.types import Json
from samplewise.engines.http.dialect import failures
from samplewise.engines.http.transport.client import Client, Reply, was_sent
from samplewise.engines.http.transport.pace import Clock

WINDOW = "24h"  # the only one that there is
TAG = "samplewise"  # the key of our name in a batch's metadata
LONGEST_PAUSE_S = 30.0  # between two tries of a call
MAX_PAGES = 100  # of the list of batches, 100 each
MAX_RESULT_BYTES = 2 << 30
GAVE_UP = frozenset({502, 504})  # a gateway's statuses: what is behind it may still be at work
ENDS = frozenset({"completed", "expired", "cancelled", "failed"})
UNKNOWN = "is the key that of another project? Without --batch what is missing is drawn, and paid, again"
NOT_KNOWN = "look there for a batch with this name in its metadata, or draw what is missing without --batch"

Call = Callable[[], Coroutine[None, None, Reply]]


class BatchState(NamedTuple):
    """What the endpoint says of a batch. `status` is one of `ENDS` at its end."""

    id: str
    status: str
    num_done: int = 0  # requests, failed ones too
    num_total: int = 0
    files: tuple[str, ...] = ()  # ids of the files with results and errors
    why: str = ""  # it failed

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.status in ENDS


class RemoteBatches:
    """The batches of one endpoint. Raises SetupError where the endpoint is gone, refuses, or has no batch API."""

    def __init__(self, client: Client, patience_s: float, clock: Clock) -> None:
        self._client, self._patience_s, self._clock = client, patience_s, clock

    async def upload(self, name: str, lines: bytes) -> str:
        """Return the id of an uploaded file of requests."""
        boundary = hashlib.blake2b(lines, digest_size=16).hexdigest()
        head = f'--{boundary}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        head += f'--{boundary}\r\ncontent-disposition: form-data; name="file"; filename="samplewise-{name}.jsonl"\r\n'
        data = f"{head}content-type: application/jsonl\r\n\r\n".encode() + lines + f"\r\n--{boundary}--\r\n".encode()
        kind = f"multipart/form-data; boundary={boundary}"
        return _id_of(await self._call("upload a file", lambda: self._client.post("files", data, content_type=kind)))

    async def create(self, name: str, file: str, path: str) -> str:
        """Return the id of the batch with this name, created once. `path` is that of its requests."""
        body = {
            "input_file_id": file,
            "endpoint": f"/v1/{path}",
            "completion_window": WINDOW,
            "metadata": {TAG: name},
        }
        started, num = self._clock(), 0
        while True:
            try:
                reply = await self._client.post("batches", body)
                if reply.status < 300 and isinstance(reply.body, dict) and isinstance(reply.body.get("id"), str):
                    return str(reply.body["id"])
                error: Exception = failures.error_of(self._shown, reply)
                is_unclear, may_be_late = reply.status >= 500 or reply.status < 300, reply.status in GAVE_UP
                if not is_unclear and reply.status != 429:
                    raise self._refused("create a batch", reply)
            except EngineError as raised:
                error, is_unclear = raised, was_sent(raised)
                may_be_late = is_unclear
            await self._pause("create a batch", started, num, error)
            num += 1
            looked_from = self._clock()
            if is_unclear and (batch := await self.find(name, 0.0 if may_be_late else math.inf)) is not None:
                return batch
            started += self._clock() - looked_from

    async def find(self, name: str, asked_s_ago: float = math.inf) -> str | None:
        """Return the id of the batch with this name in its metadata, None if there is none.

        An endpoint may create a batch, or list it, long after it was asked to. So it is looked for again until
        `patience_s` have passed since, of which `asked_s_ago` have by now.

        Raises SetupError where the endpoint does not list its batches: nobody then knows.
        """
        until, num = self._clock() + self._patience_s - asked_s_ago, 0
        while (batch := await self._listed(name)) is None and (left_s := until - self._clock()) > 0:
            await asyncio.sleep(min(left_s, backoff_s(num, longest_s=LONGEST_PAUSE_S)))
            num += 1
        return batch

    async def _listed(self, name: str) -> str | None:
        """Return the id of the batch with this name in the endpoint's list as it is now."""
        after = ""
        for _ in range(MAX_PAGES):
            query = f"batches?limit=100{after}"
            try:
                reply = await self._call("list batches", lambda query=query: self._client.get(query))  # type: ignore[misc]
            except SetupError as error:
                raise SetupError(f"{error}; whether batch {name} was submitted is not known: {NOT_KNOWN}") from None
            body = reply.body if isinstance(reply.body, dict) else {}
            rows = [row for row in body.get("data") or () if isinstance(row, dict)]
            for row in rows:
                if (row.get("metadata") or {}).get(TAG) == name:
                    return str(row["id"])
            if not rows or not body.get("has_more"):
                return None
            after = f"&after={rows[-1].get('id')}"
        return None

    async def state(self, batch: str) -> BatchState:
        """Return the state of a batch. Raises SetupError too if the endpoint does not know it: see `UNKNOWN`."""
        reply = await self._call(f"read batch {batch}", lambda: self._client.get(f"batches/{batch}"), may_miss=True)
        if reply.status == 404:
            raise SetupError(f"{self._shown} does not know batch {batch}, which was submitted before: {UNKNOWN}")
        return _state(batch, reply.body)

    async def cancel(self, batch: str) -> None:
        """Cancel a batch. Tried once: whoever cancels is in a hurry."""
        await self._client.post(f"batches/{batch}/cancel", {})

    async def results(self, state: BatchState) -> dict[str, Json]:
        """Return the results of a batch that is over, by custom id. A file that is gone has none."""
        lines: dict[str, Json] = {}
        for file in state.files:
            path = f"files/{file}/content"
            reply = await self._call("read results", lambda path=path: self._fetch(path), may_miss=True)  # type: ignore[misc]
            if reply.status != 404:
                lines.update(_results(reply.text))
        return lines

    async def _fetch(self, path: str) -> Reply:
        """Return a reply with its whole text; one that broke off counts as a server error."""
        reply = await self._client.download(path, MAX_RESULT_BYTES)
        return reply if reply.text or reply.status >= 300 else reply._replace(status=502, text="the file broke off")

    @property
    def _shown(self) -> str:
        return self._client.shown

    async def _call(self, what: str, call: Call, may_miss: bool = False) -> Reply:
        """Return a reply to a call that can be repeated, made again while it is rejected or lost.

        With `may_miss` a 404 is a reply once the patience is over: what was just made may not be seen at once.
        """
        started, num = self._clock(), 0
        while True:
            try:
                reply = await call()
                if reply.status < 300 and (reply.body is not None or reply.text):
                    return reply
                is_missing = reply.status == 404 and may_miss
                if is_missing and self._clock() - started >= self._patience_s:
                    return reply
                if 300 <= reply.status < 500 and reply.status not in (408, 429) and not is_missing:
                    raise self._refused(what, reply)
                error: Exception = failures.error_of(self._shown, reply)
            except EngineError as raised:
                error = raised
            await self._pause(what, started, num, error)
            num += 1

    async def _pause(self, what: str, started: float, num: int, error: Exception) -> None:
        """Wait before the next try. Raises SetupError once the patience is over."""
        if self._clock() - started >= self._patience_s:
            raise SetupError(f"cannot {what}: {error} ({failures.RESUME})") from None
        await asyncio.sleep(backoff_s(num, longest_s=LONGEST_PAUSE_S))

    def _refused(self, what: str, reply: Reply) -> SetupError:
        message = f"cannot {what}: {failures.describe(self._shown, reply)}"
        if reply.status in (401, 403):
            return SetupError(f"{message} ({failures.NO_KEY}; {failures.RESUME})")
        if reply.status in (404, 405):
            return SetupError(f"{message} (it seems to have no batch API: leave out --batch)")
        return SetupError(f"{message} ({failures.RESUME})")


def _id_of(reply: Reply) -> str:
    name = reply.body.get("id") if isinstance(reply.body, dict) else None
    if isinstance(name, str):
        return name
    raise SetupError("the endpoint gave no id for an uploaded file: it seems to have no batch API; leave out --batch")


def _state(batch: str, body: Json) -> BatchState:
    fields: Mapping[str, Any] = body if isinstance(body, dict) else {}
    counts = fields.get("request_counts")
    counts = counts if isinstance(counts, dict) else {}
    listed = (fields.get("errors") or {}).get("data") if isinstance(fields.get("errors"), dict) else None
    messages = [str(error.get("message")) for error in listed or () if isinstance(error, dict)]
    files = tuple(str(fields[name]) for name in ("output_file_id", "error_file_id") if fields.get(name))
    return BatchState(
        batch,
        str(fields.get("status") or "in_progress"),
        _count(counts.get("completed")) + _count(counts.get("failed")),
        _count(counts.get("total")),
        files,
        "; ".join(messages[:3]),
    )


def _count(value: Json) -> int:
    return value if type(value) is int and value >= 0 else 0


def _results(text: str) -> Iterator[tuple[str, Json]]:
    """Yield the custom id and the result of each line. What is no result is left out."""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("custom_id"), str):
            yield row["custom_id"], row
