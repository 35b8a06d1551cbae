"""A server as a process of its own, for tests with real clients."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_S, STOP_S = 120.0, 20.0
ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost):\d+")


@contextlib.contextmanager
def running(log: Path, *options: str, stop: signal.Signals = signal.SIGTERM) -> Iterator[str]:
    """Run `samplewise serve` with these options on a free port, and yield its base URL, which ends with /v1.

    Raises RuntimeError with the log's end if the server does not start.
    """
    command = [sys.executable, "-m", "samplewise", "serve", "--port", "0", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    with (
        log.open("wb") as written,
        subprocess.Popen(command, stdout=written, stderr=written, env=environment) as server,
    ):
        try:
            yield f"{_address(server, log)}/v1"
        finally:
            server.send_signal(stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(STOP_S)
            server.kill()


def _address(server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        match = ADDRESS.search(log.read_text(errors="replace"))
        if match is not None:
            return match[0]
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-4000:]}")
