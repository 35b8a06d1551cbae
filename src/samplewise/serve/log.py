"""Log lines of the server: one JSON object a line, with the time, the event and its fields.

    {"time": "2026-01-31T12:00:00.000Z", "event": "request", "client": "alice", "model": "fast@qwen", "code": 200, ...}

No prompt, no answer and no credential is logged. Texts of clients are escaped as JSON does, so no line can be forged.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web import RequestPayloadError

from samplewise.core.secrets import hide_fields
from samplewise.core.types import Json
from samplewise.serve.replies import PLAIN_TYPES

MAX_TEXT = 500  # characters of a field
_to_json = json.JSONEncoder(separators=(",", ":")).encode


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


def log_line(event: str, now: datetime, **fields: Json) -> str:
    """Return one line. Unknown numbers are null, credentials are ***, long texts are cut."""
    shown = {name: value if type(value) in PLAIN_TYPES else _field(value) for name, value in fields.items()}
    time = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _to_json({"time": time, "event": event, **hide_fields(shown)})


def _field(value: Json) -> Json:
    if isinstance(value, str):
        return f"{value[:MAX_TEXT]}..." if len(value) > MAX_TEXT else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(name): _field(item) for name, item in value.items()}
    return [_field(item) for item in value] if isinstance(value, list | tuple) else value


class EventLog:
    """Writes log lines to a stream, standard error by default. A stream that is gone ends no request."""

    def __init__(
        self, stream: TextIO | None = None, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._now = now

    def write(self, event: str, **fields: Json) -> None:
        """Write one event."""
        try:
            self._stream.write(log_line(event, self._now(), **fields) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return


class NoHttpFilter(logging.Filter):
    """Lets a line pass in place of a traceback where a client sent bytes that are no HTTP.

    The line says nothing of the bytes, as a key may be among them. Errors of other kinds pass as they are.
    """

    def __init__(self, log: EventLog | None) -> None:
        super().__init__()
        self._log = log

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError | RequestPayloadError):
            return True
        if self._log is not None:
            code = error.code if isinstance(error, HttpProcessingError) else 400
            self._log.write("no_http", code=code, error=type(error.__cause__ or error).__name__)
        return False
