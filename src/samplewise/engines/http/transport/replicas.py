"""Choose which of several replicas a request goes to.

All requests of one prompt go to one replica, so that its prefix cache serves them all. The replica is chosen by
rendezvous hashing: adding or removing a replica moves only that replica's prompts. A replica that is paused after an
overload signal is skipped; one that is far more loaded than another spills to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from samplewise.core.types import Message
from samplewise.engines.http.transport.client import Client
from samplewise.engines.http.transport.pace import RequestGate

SPILL = 16  # requests above twice the least loaded replica's load at which a prompt leaves its own replica
MAX_SERVER_ERRORS = 3  # in a row, from which a replica is paused
MAX_PROMPTS = 10_000  # whose preference order is cached


@dataclass(eq=False, slots=True)
class Replica:
    """One base URL with its own adaptive concurrency."""

    client: Client
    gate: RequestGate
    num_server_errors: int = 0  # in a row

    @property
    def resumes_at(self) -> float:
        """Return the time before which no request is sent."""
        return self.gate.pace.resumes_at

    def record_success(self) -> None:
        """Record a good reply."""
        self.num_server_errors = 0
        self.gate.pace.record_success(self.gate.in_flight)

    def record_server_error(self, sent: float, now: float) -> None:
        """Record a server error. One may be due to the request; several in a row are due to the replica."""
        self.num_server_errors += 1
        if self.num_server_errors >= MAX_SERVER_ERRORS:
            self.gate.pace.record_overload(sent, now)


class Router:
    """The replicas, and each prompt's order of preference among them."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = tuple(replicas)
        self._orders: dict[tuple[Message, ...], tuple[Replica, ...]] = {}

    def choose(self, messages: tuple[Message, ...], now: float) -> Replica:
        """Return the prompt's own replica unless it is paused or overloaded; if all are paused, the first to resume."""
        if len(self.replicas) == 1:
            return self.replicas[0]
        active = [replica for replica in self._preference(messages) if replica.resumes_at <= now]
        if not active:
            return min(self.replicas, key=lambda replica: replica.resumes_at)
        least = min(active, key=lambda replica: replica.gate.load)
        return least if active[0].gate.load > 2 * least.gate.load + SPILL else active[0]

    def capacity(self, now: float) -> int:
        """Return how many requests may be in flight at once on the replicas that are not paused."""
        return sum(int(replica.gate.pace.limit) for replica in self.replicas if replica.resumes_at <= now)

    def _preference(self, messages: tuple[Message, ...]) -> tuple[Replica, ...]:
        order = self._orders.get(messages)
        if order is None:
            text = repr(messages).encode()

            def rank(replica: Replica) -> bytes:
                key = hashlib.blake2b(replica.client.shown.encode(), digest_size=32).digest()
                return hashlib.blake2b(text, digest_size=8, key=key).digest()

            order = tuple(sorted(self.replicas, key=rank, reverse=True))
            if len(self._orders) >= MAX_PROMPTS:
                self._orders.clear()
            self._orders[messages] = order
        return order
