"""The endpoint's batch API: uploaded files, batches that are worked through in time, results and errors.

Lines are drawn as their time comes, and only then billed: a batch that is cancelled or expires has drawn a part. All
times are arguments, so this part has no clock and no sockets.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from samplewise.core.types import Json
from samplewise.testing.endpoint.protocol import RequestRefused
from samplewise.testing.endpoint.settings import EndpointSettings

Answer = Callable[[str, Json], tuple[int, Json]]  # of a line's url and body: status and body of its reply


class BatchCall(NamedTuple):
    """A request to the batch API: what it asks for, and of which file or batch."""

    route: str  # as in `BATCH_ROUTES`
    name: str = ""


@dataclass(eq=False, slots=True)
class ServedBatch:
    """A batch and its lines."""

    id: str
    request: dict[str, Json]
    lines: list[dict[str, Json]]
    created: float
    number: int
    end: str = ""  # "cancelled", "expired" or "failed"
    results: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def num_done(self) -> int:
        """How many lines have been worked on."""
        return len(self.results) + len(self.errors)


class BatchDesk:
    """Files and batches of one endpoint."""

    def __init__(self, settings: EndpointSettings, answer: Answer) -> None:
        self._settings, self._answer = settings, answer
        self._files: dict[str, bytes] = {}
        self.batches: dict[str, ServedBatch] = {}
        self._num_lines = 0

    def serve(self, call: BatchCall, head: bytes, body: bytes, now: float) -> Json | bytes:
        """Return the reply to a call: JSON, or a file. Raises RequestRefused."""
        for batch in self.batches.values():
            self._advance(batch, now)
        if call.route == "upload":
            return self._upload(head, body)
        if call.route == "create":
            return self._create(_object(body), now)
        if call.route == "list":
            return self._list(call.name, now)
        if call.route == "content":
            if call.name not in self._files:
                raise RequestRefused(404, f"no file {call.name}")
            return self._files[call.name]
        if call.name not in self.batches:
            raise RequestRefused(404, f"no batch {call.name}")
        batch = self.batches[call.name]
        if call.route == "cancel" and not self._is_over(batch, now):
            batch.end = "cancelled"
        return self._state(batch, now)

    def _upload(self, head: bytes, body: bytes) -> Json:
        _, _, boundary = head.partition(b"boundary=")
        parts = body.split(b"--" + boundary.partition(b"\r\n")[0].strip())
        fields = {}
        for part in parts[1:-1]:
            about, _, value = part.partition(b"\r\n\r\n")
            _, _, name = about.partition(b'name="')
            fields[name.partition(b'"')[0]] = value.removesuffix(b"\r\n")
        if fields.get(b"purpose") != b"batch" or b"file" not in fields:
            raise RequestRefused(400, "give a purpose of batch and a file", "purpose")
        file = f"file-{len(self._files)}"
        self._files[file] = fields[b"file"]
        return {"id": file, "object": "file", "purpose": "batch", "bytes": len(fields[b"file"])}

    def _create(self, request: dict[str, Json], now: float) -> Json:
        file = request.get("input_file_id")
        if file not in self._files:
            raise RequestRefused(400, f"no file {file}", "input_file_id")
        if request.get("completion_window") != "24h":
            raise RequestRefused(400, "completion_window must be 24h", "completion_window")
        lines = [json.loads(line) for line in self._files[file].splitlines()]
        ids = {line["custom_id"] for line in lines}
        number = len(self.batches)
        batch = self.batches[f"batch_{number}"] = ServedBatch(f"batch_{number}", request, lines, now, number)
        urls = {line["url"] for line in lines}
        if number < self._settings.num_refused or len(ids) < len(lines) or urls != {request.get("endpoint")}:
            batch.end = "failed"
        return self._state(batch, now)

    def _list(self, after: str, now: float) -> Json:
        listed = self._settings.batch_listed_s
        ids = [name for name, batch in reversed(self.batches.items()) if now >= batch.created + listed]
        start = ids.index(after) + 1 if after in ids else 0
        page = ids[start : start + self._settings.batch_page]
        rows = [self._state(self.batches[name], now) for name in page]
        return {"object": "list", "data": rows, "has_more": start + len(page) < len(ids)}

    def _due(self, batch: ServedBatch, now: float) -> int:
        """Return how many lines should have been worked on by now."""
        batch_s, total = self._settings.batch_s, len(batch.lines)
        return total if now >= batch.created + batch_s else int(total * (now - batch.created) / batch_s)

    def _advance(self, batch: ServedBatch, now: float) -> None:
        limit = self._settings.expires_after if batch.number < self._settings.num_expiring else len(batch.lines)
        while not batch.end and batch.num_done < min(self._due(batch, now), limit):
            line = batch.lines[batch.num_done]
            fault = self._settings.line_faults[self._num_lines : self._num_lines + 1]
            self._num_lines += 1
            if fault and fault[0]:
                body: Json = {"error": {"message": f"a line's {fault[0]}", "type": "server_error"}}
                batch.errors.append(_row(line, int(fault[0]), body))
                continue
            try:
                status, body = self._answer(line["url"], line["body"])
            except RequestRefused as refused:
                error = {"message": refused.message, "param": refused.param, "type": "invalid_request_error"}
                status, body = refused.status, {"error": error}
            (batch.results if status == 200 else batch.errors).append(_row(line, status, body))
        if not batch.end and limit < len(batch.lines) and batch.num_done >= limit:
            error = {"code": "batch_expired", "message": "This request could not be executed before the batch expired."}
            done = batch.num_done
            batch.errors += [json.dumps(_missing(line, error)) for line in batch.lines[done:]]
            batch.end = "expired"

    def _is_over(self, batch: ServedBatch, now: float) -> bool:
        return bool(batch.end) or self._due(batch, now) >= len(batch.lines)

    def _state(self, batch: ServedBatch, now: float) -> Json:
        self._advance(batch, now)
        is_over = self._is_over(batch, now)
        files: dict[str, str | None] = {"output_file_id": None, "error_file_id": None}
        for name, lines in (("output_file_id", batch.results), ("error_file_id", batch.errors)):
            if is_over and lines:
                file = files[name] = f"{batch.id}-{name}"
                self._files[file] = "".join(f"{line}\n" for line in lines).encode()
        errors: Json = None
        if batch.end == "failed":
            errors = {"object": "list", "data": [{"code": "invalid", "message": "the file was refused", "line": 1}]}
        return {
            "id": batch.id,
            "object": "batch",
            "status": batch.end or ("completed" if is_over else "in_progress"),
            "endpoint": batch.request.get("endpoint"),
            "metadata": batch.request.get("metadata"),
            "errors": errors,
            "request_counts": {
                "total": len(batch.lines),
                "completed": len(batch.results),
                "failed": len(batch.errors),
            },
            **files,
        }


def _row(line: dict[str, Json], status: int, body: Json) -> str:
    response = {"status_code": status, "request_id": "", "body": body}
    return json.dumps({"id": f"batch_req_{line['custom_id']}", "custom_id": line["custom_id"], "response": response})


def _missing(line: dict[str, Json], error: Json) -> dict[str, Json]:
    return {"custom_id": line["custom_id"], "response": None, "error": error}


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RequestRefused(400, "the body is not a JSON object")
    return value


def batch_call(method: str, path: str, query: str) -> BatchCall | None:
    """Return which call of the batch API a request is, None for another request."""
    parts = path.removeprefix("/v1/").split("/")
    if path == "/v1/files" and method == "POST":
        return BatchCall("upload")
    if path == "/v1/batches":
        after = next((part[6:] for part in query.split("&") if part.startswith("after=")), "")
        return BatchCall("create") if method == "POST" else BatchCall("list", after)
    if len(parts) == 3 and parts[0] == "files" and parts[2] == "content":
        return BatchCall("content", parts[1])
    if parts[0] == "batches" and len(parts) in (2, 3):
        return BatchCall("state" if len(parts) == 2 else "cancel", parts[1])
    return None
