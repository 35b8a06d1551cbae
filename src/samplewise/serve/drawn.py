"""What one run draws, token by token: an engine that asks for more, and a store that remembers it.

Candidates keep the sum of their log-probs alone. A reply with `logprobs` needs those of each token of the chosen ones.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence

from samplewise.core.types import Ask, Candidate, Capability, Completion, Generate, Sampling, Usage
from samplewise.engines.base import Arrival, Engine, Hear
from samplewise.loop.context import Draws
from samplewise.store.database import Store
from samplewise.store.digests import digest_of


class DrawLog(Store):
    """A store of one run's draws in memory, in front of another store or of none."""

    def __init__(self, behind: Draws | None) -> None:
        self._behind = behind
        self._drawn: dict[bytes, Completion] = {}

    def draws(self, digests: Sequence[bytes]) -> dict[bytes, Completion]:
        """Return the completions that are known, by digest."""
        known = {digest: self._drawn[digest] for digest in digests if digest in self._drawn}
        if self._behind is not None:
            stored = self._behind.draws([digest for digest in digests if digest not in known])
            self._drawn.update(stored)
            known.update(stored)
        return known

    def put_draw(self, digest: bytes | None, identity: str, ask: Ask, completion: Completion) -> None:
        """Keep a completion, here and in the store behind."""
        digest = digest_of(identity, ask) if digest is None else digest
        self._drawn[digest] = completion
        if self._behind is not None:
            self._behind.put_draw(digest, identity, ask, completion)

    def completion_of(self, candidate: Candidate) -> Completion | None:
        """Return the completion that a candidate was made of. Of equal ones any: they are equal."""
        for completion in self._drawn.values():
            if (
                completion.text == candidate.text
                and completion.reasoning == candidate.reasoning
                and completion.finish == candidate.finish
                and completion.usage.completion_tokens == candidate.num_tokens
                and (
                    completion.logp_sum == candidate.logp_sum
                    or (math.isnan(completion.logp_sum) and math.isnan(candidate.logp_sum))
                )
            ):
                return completion
        return None


class FrontEngine(Engine):
    """An engine in front of another, for one run: everything is that one's. It leaves closing to who opened that."""

    def __init__(self, behind: Engine) -> None:
        self._behind = behind
        self.name, self.identity = behind.name, behind.identity
        self.max_concurrency, self.members = behind.max_concurrency, behind.members
        self.default_max_tokens = behind.default_max_tokens

    @property
    def can(self) -> frozenset[Capability]:
        return self._behind.can

    @property
    def is_worst_case_known(self) -> bool:  # type: ignore[override]  # it is learned from the replies
        return self._behind.is_worst_case_known

    async def open(self) -> None:
        await self._behind.open()

    def worst_case(self, ask: Ask) -> Usage:
        return self._behind.worst_case(ask)

    def member(self, ask: Ask) -> Engine:
        return self._behind.member(ask)

    def why_no_logp(self, sampling: Sampling) -> str:
        return self._behind.why_no_logp(sampling)

    def why_missing(self, capability: Capability) -> str:
        return self._behind.why_missing(capability)

    def free_slots(self) -> int:
        return self._behind.free_slots()

    def may_bill(self, ask: Ask) -> bool:
        return self._behind.may_bill(ask)

    def has_arrived(self, ask: Ask) -> bool:
        return self._behind.has_arrived(ask)

    def num_drawn(self, ask: Ask) -> int | None:
        return self._behind.num_drawn(ask)

    def listen(self, ask: Ask, hear: Hear) -> None:
        self._behind.listen(ask, hear)

    def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        return self._behind.answer(asks)


class WantingEngine(FrontEngine):
    """An engine whose draws carry more arrays than they were asked with. In a store they are what was asked for."""

    def __init__(self, behind: Engine, want: Sequence[str]) -> None:
        super().__init__(behind)
        self._want = tuple(want)
        self._sent: dict[int, tuple[Ask, Ask]] = {}  # by id of the ask: it, and what the engine was asked

    def may_bill(self, ask: Ask) -> bool:
        return self._behind.may_bill(self._asked(ask))

    def has_arrived(self, ask: Ask) -> bool:
        return self._behind.has_arrived(self._asked(ask))

    def num_drawn(self, ask: Ask) -> int | None:
        return self._behind.num_drawn(self._asked(ask))

    def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for ask in asks:
            self._sent[id(ask)] = (ask, self._widened(ask))
        return self._behind.answer([self._asked(ask) for ask in asks])

    def _widened(self, ask: Ask) -> Ask:
        if not isinstance(ask, Generate) or ask.engine:
            return ask
        return ask._replace(want=(*ask.want, *(name for name in self._want if name not in ask.want)))

    def _asked(self, ask: Ask) -> Ask:
        return self._sent[id(ask)][1] if id(ask) in self._sent else ask
