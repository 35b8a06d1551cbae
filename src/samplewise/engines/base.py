"""The engine interface: asks in, completions out in the order in which they finish.

An engine knows nothing of samplers, budgets or stores. An engine that claims `Capability.SEED` returns the same
completion for the same ask, whatever else it is computing at the time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from samplewise.core.errors import EngineError
from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Ask, Capability, Completion, Failure, Generate, Json, Sampling, Usage, explores

if TYPE_CHECKING:
    from samplewise.store.database import Store

REASONING_MAX_TOKENS = 16_384  # of a draw, by default, where the model reasons: most reasoning ends within it
MAX_CONCURRENCY = 32  # asks at once, of an engine that does not set its own
GROUP_SCOPE = "\x1f"  # what stands before it in a group's name tells equal names apart, and changes no draw


class Arrival(NamedTuple):
    """The completion of the ask at `position` of the call."""

    position: int
    completion: Completion


class Hear(Protocol):
    """Hears the pieces of a draw as they come: of its text, or of its reasoning."""

    def __call__(self, piece: str, *, is_reasoning: bool) -> None: ...


class Engine(ABC):
    """Base class of everything that answers asks. `can`, `worst_case` and `answer` are required; the rest has defaults.

    `name` is for people. `identity` is what a stored draw depends on: model, weights, precision, template. It is part
    of every digest, so engines that share an identity must draw from the same distribution.
    """

    name: str
    identity: str
    max_concurrency: int = MAX_CONCURRENCY  # asks answered at once without slowing; constant during a run
    is_worst_case_known: bool = True  # no reply can cost more than `worst_case`, or one has shown what it can cost
    is_batched: bool = False  # asks of all questions are collected and answered together, hours later
    default_max_tokens: int | None = None  # for a draw of a recipe that names no limit; None: the sampler's own default
    members: frozenset[str] = frozenset()  # names that asks may be addressed to, besides the solver

    @property
    @abstractmethod
    def can(self) -> frozenset[Capability]:
        """What the engine can do. Known once it is open."""

    @abstractmethod
    def worst_case(self, ask: Ask) -> Usage:
        """Return the most that this ask can cost. Budgets are checked against it before the ask is sent."""

    @abstractmethod
    def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        """Yield a completion for each position once, in the order in which they finish.

        A failed ask is a completion with finish "error", never an exception. Closing the iterator cancels the asks in
        flight.
        """

    async def open(self) -> None:  # noqa: B027
        """Find out what the engine can do. Called before a run reads `can`; later calls do nothing.

        Raises EngineError if the engine cannot be reached, or SetupError.
        """

    async def close(self) -> None:  # noqa: B027
        """Free what the engine holds. A closed engine is not used again."""

    def remember(self, store: Store) -> None:  # noqa: B027
        """Keep in the store what outlives this process: a batch that was submitted. Called before `answer`.

        An engine whose work ends with the process does nothing.
        """

    def waits_for(self) -> str:
        """Return what a batched engine is waiting for, for people; "" for nothing. Asked once a second."""
        return ""

    async def call_off(self) -> None:  # noqa: B027
        """Cancel what would outlive this process. Called at once when a user cancels the run."""

    def may_bill(self, ask: Ask) -> bool:
        """Return whether an ask that was cut off may be billed all the same; True if the engine does not know.

        Asked once for each ask that had not arrived when its call of `answer` was closed.
        """
        return True

    def has_arrived(self, ask: Ask) -> bool:
        """Return whether an ask's completion is here already, and waits to be taken from `answer`.

        Such completions are paid for, so they are taken before a call is closed. False if the engine does not know.
        """
        return False

    def why_no_logp(self, sampling: Sampling) -> str:
        """Return why draws at this temperature and filter come without the model's log-probs, "" if they have them."""
        return "" if Capability.LOGP in self.can else "gives no log-probs"

    def why_missing(self, capability: Capability) -> str:
        """Return what the engine lacks for a capability and what a user can do about it, "" if nobody knows."""
        return ""

    def free_slots(self) -> int:
        """Return how many more asks the engine could take now without slowing; 0 if it does not know."""
        return 0

    def num_drawn(self, ask: Ask) -> int | None:
        """Return how many tokens an ask in flight has drawn so far, None if the engine never knows.

        Never more than its completion will have. For people who wait: asked a few times a second, in the event loop.
        """
        return None

    def listen(self, ask: Ask, hear: Hear) -> None:  # noqa: B027
        """Have the pieces of an ask's draw told as they come. Called before `answer`, with the same ask.

        Whoever hears must do with none at all, and with text that the completion does not begin with: the draw may have
        been tried again. An engine that cannot tell does nothing.
        """

    def member(self, ask: Ask) -> Engine:
        """Return the engine that answers this ask. Draws are stored under that engine's identity."""
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the engine after a run, one line each."""
        return ()

    @property
    def digest(self) -> str | None:
        """sha256 of the model's files, or None if the engine has none."""
        return None

    def findings(self) -> Mapping[str, Json] | None:
        """Return what probing an endpoint found, or None for an engine that is not probed."""
        return None

    async def examine_model(self) -> Mapping[str, Json] | None:
        """Return what the model in this process is and how fast it runs now, or None if there is none to examine."""
        return None

    def runtime(self) -> Mapping[str, str]:
        """Return what runs the model and what that allows, for people, by name; empty where there is nothing to tell.
        Known once the engine is open."""
        return {}

    def exploration(self) -> Mapping[str, Json] | None:
        """Return what the model offers to token policies that explore, or None if there is nothing to examine."""
        return None


def tell_reasoning(completion: Completion, ask: Generate, tag: str = "", reasoning: str = "") -> Completion:
    """Return a completion with its reasoning cut out of its text, at the model's own tags.

    `tag` is the opening tag in which the prompt ended, `reasoning` what the engine has told apart itself. A piece that
    continues a prefix is left as it is: only the whole response shows where its reasoning ends.
    """
    if ask.prefix and "whole" not in ask.want:
        return completion
    raw = tag + completion.text
    reply = split_reasoning(raw)
    if reply.closed and not reply.reasoning and reply.text == completion.text:
        return completion._replace(reasoning=reasoning) if reasoning else completion
    return completion._replace(
        text=reply.text,
        reasoning="\n\n".join(part for part in (reasoning, reply.reasoning) if part),
        raw=raw if "tokens" in ask.want else None,
    )


def joins_group(asks: Sequence[Ask], position: int) -> bool:
    """Return whether an ask belongs to the group of the one before it, with which it begins."""
    ask, before = asks[position], asks[position - 1] if position else None
    return explores(ask) and isinstance(before, Generate) and isinstance(ask, Generate) and before.group == ask.group


def failed(error: EngineError, usage: Usage = Usage(requests=1), retry_after_s: float | None = None) -> Completion:
    """Return an engine error as a completion with finish "error"."""
    failure = Failure(type(error).__name__, str(error), error.retryable, retry_after_s)
    return Completion(text="", finish="error", usage=usage, failure=failure)
