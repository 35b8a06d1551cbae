"""Read the body of a reply piece by piece, decompressed here, so that no reply can fill the memory.

A few kilobytes of gzip can hold gigabytes. The HTTP library would decompress a whole chunk at once; here at most
`PIECE` bytes are decompressed at a time, and the reader stops when it has had enough.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp

ENCODINGS = "gzip, deflate"  # that are asked for
PIECE = 1 << 16  # bytes decompressed at a time


class BadEncoding(Exception):
    """A body that is not in the encoding that its header names, or in one that was not asked for."""


async def body_pieces(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body, decompressed. Raises BadEncoding, and what aiohttp raises."""
    encoding = encoding_of(response)
    if not encoding:
        async for chunk in response.content.iter_any():
            yield chunk
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadEncoding(f"the reply is encoded as {encoding!r}, which was not asked for")
    inflater = Inflater(encoding)
    async for chunk in response.content.iter_any():
        for piece in inflater.add(chunk):
            yield piece


def encoding_of(response: aiohttp.ClientResponse) -> str:
    """Return how a body is encoded, by its header; "" if it is not."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


class Inflater:
    """Decompress gzip or deflate, at most `PIECE` bytes at a time."""

    def __init__(self, encoding: str) -> None:
        self._is_deflate = encoding == "deflate"
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS if self._is_deflate else zlib.MAX_WBITS | 16)
        self._is_first = True

    def add(self, chunk: bytes) -> Iterator[bytes]:
        """Yield what a chunk decompresses to. Raises BadEncoding."""
        while chunk:
            if self._zlib.eof:  # what follows is another member of a gzip file, or nothing that counts
                if self._is_deflate or not chunk.startswith(b"\x1f\x8b"):
                    return
                self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)
            try:
                piece = self._zlib.decompress(chunk, PIECE)
            except zlib.error as error:
                if not (self._is_deflate and self._is_first):
                    raise BadEncoding(f"the reply is not in the encoding that it names: {error}") from None
                self._zlib, self._is_first = zlib.decompressobj(-zlib.MAX_WBITS), False  # without the zlib header
                continue
            self._is_first = False
            chunk = self._zlib.unconsumed_tail or self._zlib.unused_data
            if piece:
                yield piece
