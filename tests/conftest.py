"""What every test stands on: no network, and the same examples on every machine however busy it is."""

from __future__ import annotations

import socket

import pytest
from hypothesis import settings

settings.register_profile("samplewise", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("samplewise")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that leaves the machine is an error."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if host not in ("", "127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test connects to {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)
