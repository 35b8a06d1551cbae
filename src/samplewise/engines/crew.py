"""Several engines as one: a solver, and thinkers or judges that are asked by name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from samplewise.engines.base import Arrival, Engine, appetite_of, idle_of
from samplewise.spec import build
from samplewise.types import Ask, Capability, Generate, Usage


class Crew:
    """`engines` are by name; "" is the solver, whose name and capabilities count."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        if "" not in engines:
            raise ValueError("a crew needs a solver, under the name ''")
        self._engines = dict(engines)
        self.members = frozenset(name for name in engines if name)
        others = ", ".join(f"{name}={engine.name}" for name, engine in sorted(engines.items()) if name)
        self.name = f"crew({engines[''].name}{', ' if others else ''}{others})"

    @property
    def identity(self) -> str:
        parts = (f"{name}={engine.identity}" for name, engine in sorted(self._engines.items()))
        return f"crew({', '.join(parts)})"

    @property
    def can(self) -> frozenset[Capability]:
        return self._engines[""].can

    @property
    def appetite(self) -> int:
        return appetite_of(self._engines[""])

    def idle(self) -> int:
        return idle_of(self._engines[""])

    def member(self, ask: Ask) -> Engine:
        """Who answers it. KeyError for a name that nobody has: a run refuses such a recipe before it begins."""
        return self._engines[ask.engine if isinstance(ask, Generate) else ""]

    async def open(self) -> None:
        for engine in self._engines.values():
            await engine.open()

    async def close(self) -> None:
        for engine in self._engines.values():
            await engine.close()

    def worst_case(self, ask: Ask) -> Usage:
        return self.member(ask).worst_case(ask)

    async def answer(self, asks: Sequence[Ask]) -> AsyncGenerator[Arrival]:
        """All members side by side. One that breaks off leaves its asks unanswered; the others go on."""
        parts: dict[int, list[int]] = {}
        for position, ask in enumerate(asks):
            parts.setdefault(id(self.member(ask)), []).append(position)
        arrivals: asyncio.Queue[Arrival | None] = asyncio.Queue()

        async def work(positions: list[int]) -> None:
            stream = self.member(asks[positions[0]]).answer([asks[position] for position in positions])
            try:
                async for place, completion in stream:
                    arrivals.put_nowait(Arrival(positions[place], completion))
            finally:
                if isinstance(stream, AsyncGenerator):
                    await stream.aclose()
                arrivals.put_nowait(None)

        tasks = [asyncio.create_task(work(positions)) for positions in parts.values()]
        try:
            working = len(tasks)
            while working:
                arrival = await arrivals.get()
                if arrival is None:
                    working -= 1
                else:
                    yield arrival
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        broken = [error for error in ended if isinstance(error, Exception)]
        if broken:  # what the loop makes of one engine that breaks off is right for several
            raise broken[0]


def crew(solver: str, **members: str) -> Crew:
    """A solver with thinkers and judges: crew(tiny, strong=http("a-model")). A recipe asks them by name,
    idea(8, thinker="strong"); every engine's tokens are counted."""
    return Crew({"": build("engine", solver), **{name: build("engine", spec) for name, spec in members.items()}})
