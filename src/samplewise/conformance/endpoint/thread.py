"""The endpoint in a thread of its own, for code that is not asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from samplewise.conformance.endpoint.server import Endpoint
from samplewise.conformance.endpoint.settings import Settings

START_S = 10.0


@contextlib.contextmanager
def serving(settings: Settings | None = None) -> Iterator[Endpoint]:
    """Serve at `endpoint.url` as long as the block lasts. The tally may be read once requests have been answered."""
    endpoint, ready, ended = Endpoint(settings), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with endpoint:
            ready.set()
            await ended.wait()

    def go() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            loop.close()
            ready.set()

    thread = threading.Thread(target=go, name="endpoint", daemon=True)
    thread.start()
    ready.wait(START_S)
    try:
        yield endpoint
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(START_S)
