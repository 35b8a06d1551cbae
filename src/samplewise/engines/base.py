"""The engine protocol: asks in, completions out, as they arrive.

An engine knows nothing of samplers, budgets or stores. It must give the same completion for the same ask whatever else
it is doing at the time, if it claims `Capability.SEED`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple, Protocol

from samplewise.errors import EngineError
from samplewise.types import Ask, Capability, Completion, Failure, Usage

APPETITE = 32  # of an engine that does not say its own


class Arrival(NamedTuple):
    """The completion of the ask at `position` of the call."""

    position: int
    completion: Completion


class Engine(Protocol):
    """Everything that can answer asks.

    `name` is for people. `identity` is what a stored draw depends on (model, weights, precision, template). It is in
    every digest, so engines that share an identity must share their law.
    """

    @property
    def name(self) -> str: ...

    @property
    def identity(self) -> str: ...

    @property
    def can(self) -> frozenset[Capability]: ...

    async def open(self) -> None:
        """Finds out what is not known yet of what it can do. Awaited before a run looks at `can`; from the second time
        on it does nothing. Raises EngineError where the engine cannot be reached, or SetupError."""
        ...

    def worst_case(self, ask: Ask) -> Usage:
        """The most that this ask can cost. A budget is checked against it before the ask is sent."""
        ...

    def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        """Completions in the order in which they finish, each position once. A failed ask is a completion with finish
        "error", never an exception. Closing the iterator cancels what is still in flight."""
        ...

    async def close(self) -> None:
        """Frees what the engine holds. It is not used afterwards."""
        ...


class Team(Protocol):
    """An engine that is several. Draws are kept under the identity of the one that answers."""

    @property
    def members(self) -> frozenset[str]: ...

    def member(self, ask: Ask) -> Engine: ...


def identity_of(engine: Engine, ask: Ask) -> str:
    """What a draw of this ask depends on."""
    member = getattr(engine, "member", None)
    return engine.identity if member is None else str(member(ask).identity)


def members_of(engine: Engine) -> frozenset[str]:
    """The names that asks may be addressed to, beside the solver."""
    return frozenset(getattr(engine, "members", ()))


class Roomy(Protocol):
    """An engine that knows its own size. Both are optional, and change no draw."""

    @property
    def appetite(self) -> int:
        """Asks that it answers at once without slowing."""
        ...

    def idle(self) -> int:
        """How many more asks it could take at this moment without slowing."""
        ...


def idle_of(engine: Engine) -> int:
    """Asks that it could take now without slowing; 0 where it does not say."""
    idle = getattr(engine, "idle", None)
    return 0 if idle is None else max(0, int(idle()))


def appetite_of(engine: Engine) -> int:
    """Asks that it answers at once without slowing."""
    return max(1, int(getattr(engine, "appetite", APPETITE)))


def failed(error: EngineError, usage: Usage = Usage(requests=1), retry_after_s: float | None = None) -> Completion:
    """An engine error as a value."""
    failure = Failure(type(error).__name__, str(error), error.retryable, retry_after_s)
    return Completion(text="", finish="error", usage=usage, failure=failure)
