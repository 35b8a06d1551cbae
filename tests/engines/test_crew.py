"""Several engines as one: asks go to those they name, draws keep the identity of the one that answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path

import pytest

from samplewise.api import asolve, solve
from samplewise.engines.base import Arrival, appetite_of, idle_of
from samplewise.engines.crew import Crew, crew
from samplewise.engines.toy import Toy
from samplewise.errors import EngineUnavailable, Unsupported
from samplewise.keys import Key
from samplewise.recipe import Recipe, recipe
from samplewise.samplers.base import Variant
from samplewise.store import Store
from samplewise.types import Ask, Generate, Message, Question
from samplewise.vary.base import Arm, Heard, Made, vary

HI = (Message("user", "hi"),)


def asked(name: str, seed: int = 0) -> Generate:
    return Generate(HI, max_tokens=4, seed=seed, engine=name)


def answers(engine: Crew, asks: Sequence[Ask]) -> dict[int, str]:
    async def go() -> dict[int, str]:
        return {arrival.position: arrival.completion.text async for arrival in engine.answer(asks)}

    return asyncio.run(go())


def test_each_ask_goes_to_the_one_it_names() -> None:
    one, two = Toy(3), Toy(5, seed=1)
    asks = [asked("", 1), asked("two", 2), asked("", 3), asked("two", 4)]
    found = answers(Crew({"": one, "two": two}), asks)
    assert found == {i: (two if i % 2 else one).one(ask).text for i, ask in enumerate(asks)}


def test_draws_of_the_solver_are_those_it_makes_alone(tmp_path: Path) -> None:
    """A store that the solver has filled alone serves it in a crew, and the thinker's draws stay apart."""
    line = "repeat(5, max_tokens=3) | vote"
    alone = solve("hi", engine="toy", recipe=line, store=tmp_path / "s.db")
    with_others = solve("hi", engine="crew(toy, two=toy(5))", recipe=line, store=tmp_path / "s.db")
    assert with_others.paid.requests == 0
    assert with_others.pool == alone.pool


def thoughtful(name: str) -> Recipe:
    """One variant with a thinker's word in it."""

    def inquire(key: Key, question: Question, heard: Heard) -> tuple[Generate, ...]:
        return () if heard else (Generate(HI, max_tokens=4, seed=7, engine=name),)

    def make(key: Key, question: Question, heard: Heard) -> Made:
        word = heard[0][0] if heard else None
        return Made((Variant("idea/0", (Message("user", f"hi {word}"),)),), fallbacks=int(word is None))

    plain = recipe("repeat(4, max_tokens=3) | vote")
    return Recipe(
        plain.line,
        vary(Arm("idea", make, inquire, engines=frozenset({name} - {""}))),
        plain.sampler,
        None,
        plain.selector,
        {},
    )


def test_a_thinkers_tokens_are_counted_and_its_words_arrive(tmp_path: Path) -> None:
    thinker = Toy(5, seed=1)
    word = thinker.one(Generate(HI, max_tokens=4, seed=7))
    engine = Crew({"": Toy(3), "two": thinker})
    with Store(tmp_path / "s.db") as store:
        result = solve("hi", engine=engine, recipe=thoughtful("two"), store=store)
        again = solve("hi", engine=engine, recipe=thoughtful("two"), store=store)
        by_solver = solve("hi", engine=engine, recipe=thoughtful(""), store=store)
    drawn = [
        Toy(3).worst_case(Generate(messages)).prompt_tokens for messages in (HI, (Message("user", f"hi {word.text}"),))
    ]
    assert result.spent.prompt_tokens == word.usage.prompt_tokens + 2 * sum(drawn)
    assert result.spent.requests == 5
    assert again.paid.requests == 0
    assert by_solver.paid.requests > 0, "the solver's thought is another draw than the thinker's"


def test_an_engine_that_is_not_there_is_refused_before_anything_is_paid() -> None:
    for engine in ("toy", "crew(toy, three=toy(4))"):
        with pytest.raises(Unsupported, match=r"asks an engine called two; give one: --engine .crew\("):
            solve("hi", engine=engine, recipe=thoughtful("two"))


class Broken(Toy):
    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        if asks:
            raise EngineUnavailable("gone")
        yield Arrival(0, self.one(asks[0]))


def test_one_that_breaks_off_does_not_stop_the_others() -> None:
    async def go() -> tuple[list[int], str]:
        got = []
        try:
            async for arrival in Crew({"": Toy(3), "two": Broken(4)}).answer([asked("two"), asked(""), asked("", 1)]):
                got.append(arrival.position)
        except EngineUnavailable as error:
            return got, str(error)
        return got, ""

    assert asyncio.run(go()) == ([1, 2], "gone")


class Slow(Toy):
    closed = False

    async def answer(self, asks: Sequence[Ask]) -> AsyncGenerator[Arrival]:
        try:
            yield Arrival(0, self.one(asks[0]))
            await asyncio.sleep(60)
        finally:
            self.closed = True


def test_closing_closes_every_member() -> None:
    async def go() -> None:
        members = {"": Slow(3), "two": Slow(4)}
        stream = Crew(dict(members)).answer([asked(""), asked("two")])
        await anext(stream)
        await stream.aclose()
        assert all(engine.closed for engine in members.values())

    asyncio.run(asyncio.wait_for(go(), 10))


def test_a_crew_needs_a_solver() -> None:
    with pytest.raises(ValueError, match="needs a solver"):
        Crew({"two": Toy(3)})
    assert crew("toy", two="toy(2)").name == "crew(toy(3, seed=0, scale=1.0), two=toy(2, seed=0, scale=1.0))"


def test_it_is_awaited_like_any_engine() -> None:
    async def go() -> int:
        engine = Crew({"": Toy(3)})
        await engine.open()
        result = await asolve("hi", engine=engine, recipe="repeat(3) | vote")
        await engine.close()
        return result.spent.requests

    assert asyncio.run(go()) == 3


def test_a_crew_has_the_room_of_its_solver() -> None:
    class Wide(Toy):
        appetite = 7

        def idle(self) -> int:
            return 5

    assert (appetite_of(Crew({"": Wide()})), idle_of(Crew({"": Wide(), "two": Toy()}))) == (7, 5)
    plain = Crew({"": Toy(), "two": Wide()})
    assert (appetite_of(plain), idle_of(plain)) == (appetite_of(Toy()), 0)
