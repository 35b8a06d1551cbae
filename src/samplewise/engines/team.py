"""A solver with named helpers and judges, as one engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from samplewise.core.registry import build
from samplewise.core.types import Ask, Capability, Generate, Sampling, Usage
from samplewise.engines.base import Arrival, Engine
from samplewise.store.database import Store


class Team(Engine):
    """Several engines by name. The one named "" is the solver, whose capabilities and size count for the team.

    Raises ValueError without a solver.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        if "" not in engines:
            raise ValueError("a team needs a solver, under the name ''")
        self._engines = dict(engines)
        self._solver = engines[""]
        self.members = frozenset(name for name in engines if name)
        self.max_concurrency = self._solver.max_concurrency
        self._arrived: set[int] = set()  # ids of asks whose completion nobody has taken from the team
        self._set_names()

    def _set_names(self) -> None:
        """Join the members' names. An endpoint's may change when it is opened."""
        others = ", ".join(f"{name}={engine.name}" for name, engine in sorted(self._engines.items()) if name)
        self.name = f"team({self._solver.name}{', ' if others else ''}{others})"
        identities = ", ".join(f"{name}={engine.identity}" for name, engine in sorted(self._engines.items()))
        self.identity = f"crew({identities})"  # part of run ids: must not change

    @property
    def default_max_tokens(self) -> int | None:  # type: ignore[override]  # known once the solver is open
        return self._solver.default_max_tokens

    @property
    def can(self) -> frozenset[Capability]:
        return self._solver.can

    def why_no_logp(self, sampling: Sampling) -> str:
        return self._solver.why_no_logp(sampling)

    def free_slots(self) -> int:
        return self._solver.free_slots()

    def member(self, ask: Ask) -> Engine:
        """Return the engine that answers this ask. Raises KeyError for an unknown name; `check` refuses it earlier."""
        return self._engines[ask.engine if isinstance(ask, Generate) else ""]

    async def open(self) -> None:
        for engine in self._engines.values():
            await engine.open()
        self._set_names()

    async def close(self) -> None:
        for engine in self._engines.values():
            await engine.close()

    def worst_case(self, ask: Ask) -> Usage:
        return self.member(ask).worst_case(ask)

    @property
    def is_batched(self) -> bool:  # type: ignore[override]  # one member is enough: its asks are collected
        return any(engine.is_batched for engine in self._engines.values())

    def remember(self, store: Store) -> None:
        for engine in self._engines.values():
            engine.remember(store)

    def waits_for(self) -> str:
        return "; ".join(filter(None, (engine.waits_for() for engine in self._engines.values())))

    async def call_off(self) -> None:
        await asyncio.gather(*(engine.call_off() for engine in self._engines.values()))

    def may_bill(self, ask: Ask) -> bool:
        return self.member(ask).may_bill(ask)

    def has_arrived(self, ask: Ask) -> bool:
        return id(ask) in self._arrived or self.member(ask).has_arrived(ask)

    def num_drawn(self, ask: Ask) -> int | None:
        return self.member(ask).num_drawn(ask)

    @property
    def is_worst_case_known(self) -> bool:  # type: ignore[override]  # a team knows what its members know
        return all(engine.is_worst_case_known for engine in self._engines.values())

    async def answer(self, asks: Sequence[Ask]) -> AsyncGenerator[Arrival]:
        """Yield arrivals of all members side by side. If one breaks off, the others finish first."""
        positions_of: dict[int, list[int]] = {}  # by member
        for position, ask in enumerate(asks):
            positions_of.setdefault(id(self.member(ask)), []).append(position)
        arrivals: asyncio.Queue[Arrival | None] = asyncio.Queue()

        async def collect(positions: list[int]) -> None:
            stream = self.member(asks[positions[0]]).answer([asks[position] for position in positions])
            try:
                async for index, completion in stream:
                    self._arrived.add(id(asks[positions[index]]))
                    arrivals.put_nowait(Arrival(positions[index], completion))
            finally:
                if isinstance(stream, AsyncGenerator):
                    await stream.aclose()
                arrivals.put_nowait(None)

        tasks = [asyncio.create_task(collect(positions)) for positions in positions_of.values()]
        try:
            num_open = len(tasks)
            while num_open:
                arrival = await arrivals.get()
                if arrival is None:
                    num_open -= 1
                else:
                    self._arrived.discard(id(asks[arrival.position]))
                    yield arrival
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
            self._arrived.difference_update(map(id, asks))
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        if errors:  # the dispatcher treats it as it treats a single engine that breaks off
            raise errors[0]


def team(solver: str, **members: str) -> Team:
    """A solver with named helpers and judges: team(tiny, strong=http("a-model")).

    A recipe addresses them by name, as in idea(8, helper="strong"). Every engine's tokens are counted.
    """
    return Team({"": build("engine", solver), **{name: build("engine", spec) for name, spec in members.items()}})
