"""Which of several replicas a request goes to.

All requests of one prompt go to one replica, so that its cached prompt serves them all: the one whose digest with the
prompt is highest (rendezvous hashing), so that a replica that goes or comes moves only its own prompts. One that
complains or cannot be reached is passed over while its pause lasts, and one with far more to do than another spills.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from samplewise.engines.http.client import Client
from samplewise.engines.http.pace import Gate
from samplewise.types import Message

SPILL = 16  # requests more than twice the least loaded replica's, from which a prompt leaves its own
BAD_IN_A_ROW = 3  # server errors, from which a replica is given a rest
MAX_PROMPTS = 10_000  # orders kept in mind


@dataclass(eq=False, slots=True)
class Replica:
    """One base URL with its own pace."""

    client: Client
    gate: Gate
    bad: int = 0  # server errors in a row

    @property
    def resumes(self) -> float:
        return self.gate.pace.resumes

    def went_well(self) -> None:
        self.bad = 0
        self.gate.pace.went_well(self.gate.in_flight)

    def went_badly(self, sent: float, now: float) -> None:
        """A server error. One is the request's business, many in a row are the replica's."""
        self.bad += 1
        if self.bad >= BAD_IN_A_ROW:
            self.gate.pace.complained(sent, now)


class Router:
    """Replicas in the order that each prompt likes them."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = tuple(replicas)
        self._orders: dict[tuple[Message, ...], tuple[Replica, ...]] = {}

    def choose(self, messages: tuple[Message, ...], now: float) -> Replica:
        """The prompt's own replica, unless it rests or is overloaded. When all rest, the first to be back."""
        if len(self.replicas) == 1:
            return self.replicas[0]
        awake = [replica for replica in self.order(messages) if replica.resumes <= now]
        if not awake:
            return min(self.replicas, key=lambda replica: replica.resumes)
        least = min(awake, key=lambda replica: replica.gate.load)
        return least if awake[0].gate.load > 2 * least.gate.load + SPILL else awake[0]

    def room(self, now: float) -> int:
        """How many requests may be in flight at once, on the replicas that do not rest."""
        return sum(int(replica.gate.pace.limit) for replica in self.replicas if replica.resumes <= now)

    def order(self, messages: tuple[Message, ...]) -> tuple[Replica, ...]:
        order = self._orders.get(messages)
        if order is None:
            text = repr(messages).encode()

            def rank(replica: Replica) -> bytes:
                return hashlib.blake2b(text, digest_size=8, key=_key(replica.client.shown)).digest()

            order = tuple(sorted(self.replicas, key=rank, reverse=True))
            if len(self._orders) >= MAX_PROMPTS:
                self._orders.clear()
            self._orders[messages] = order
        return order


def _key(url: str) -> bytes:
    """A replica's key: at most 64 bytes."""
    return hashlib.blake2b(url.encode(), digest_size=32).digest()
