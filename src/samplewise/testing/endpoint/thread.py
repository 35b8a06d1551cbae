"""Run the endpoint in a thread, for code that is not asynchronous."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

from samplewise.testing.endpoint.server import Endpoint
from samplewise.testing.endpoint.settings import EndpointSettings

START_S = 10.0


@contextlib.contextmanager
def serving(settings: EndpointSettings | None = None) -> Iterator[Endpoint]:
    """Serve at `endpoint.url` while the block runs. Read the tally once requests have been answered."""
    endpoint, ready, ended = Endpoint(settings), threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with endpoint:
            ready.set()
            await ended.wait()

    def run_loop() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            loop.close()
            ready.set()

    thread = threading.Thread(target=run_loop, name="endpoint", daemon=True)
    thread.start()
    ready.wait(START_S)
    try:
        yield endpoint
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(START_S)
