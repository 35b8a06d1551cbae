"""The replies of a hostile endpoint, as bytes: bombs, replies without end, keys repeated, control characters."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from samplewise.testing.endpoint.settings import EndpointSettings

MAX_ENDLESS_S = 60.0  # so long "without end" lasts

_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
_JSON = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
_TOKEN = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}, "text": "word "}]}\n\n'


class Endless(NamedTuple):
    """A reply without end: its head, the piece that is sent again and again, and the seconds between two."""

    head: bytes
    piece: bytes
    pause_s: float


ENDLESS: Mapping[str, Endless] = {
    "endless text": Endless(_JSON + b'{"choices": [', b'{"text": "a"}, ' * 4096, 0.0005),
    "endless stream": Endless(_STREAM, _TOKEN * 4, 0.0005),
    "endless line": Endless(_STREAM + b"data: ", b"a" * 65536, 0.0005),
    "endless comments": Endless(_STREAM, b": keep-alive\n\n", 0.02),
}


def whole_reply(attack: str, settings: EndpointSettings) -> bytes | None:
    """Return the bytes of an attack that has an end and draws nothing, or None."""
    key = settings.api_key or ""
    if attack == "429 huge":
        return _reply(429, {"error": {"message": "come back tomorrow"}}, "retry-after: 86400\r\n")
    if attack == "controls":
        return _reply(400, {"error": {"message": "no\x1b[2J\x1b]0;title\x07 \x00 such\r\nmodel \u202e"}})
    if attack == "garbage":
        return b"\x16\x03\x01\x02\x00\x01\x00 not \x1b[31m http\r\n" * 40 + b"\r\n\r\n"
    if attack == "key 400":
        return _reply(400, {"error": {"message": f"the key {key} may not do this"}})
    if attack == "key 200":
        return _reply(200, {"error": {"message": f"the key {key} is tired", "code": 500}})
    if attack == "key redirect":
        return _reply(307, {}, f"location: http://127.0.0.1:9/v1?api_key={key}\r\n")
    if attack in ("gzip bomb", "deflate bomb"):
        encoding = attack.partition(" ")[0]
        return _head(200, len(_bomb(encoding, settings.bomb_mb)), f"content-encoding: {encoding}\r\n") + _bomb(
            encoding, settings.bomb_mb
        )
    return None


@functools.cache
def _bomb(encoding: str, megabytes: int) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | (16 if encoding == "gzip" else 0))
    return b"".join(packer.compress(b" " * (1 << 20)) for _ in range(megabytes)) + packer.flush()


def _reply(status: int, body: object, headers: str = "") -> bytes:
    data = json.dumps(body).encode()
    return _head(status, len(data), headers) + data


def _head(status: int, length: int, headers: str) -> bytes:
    return (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n".encode()
    )
