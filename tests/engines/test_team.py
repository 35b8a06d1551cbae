"""Several engines as one: asks go to those they name, draws keep the identity of the one that answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from samplewise.api import asolve, solve
from samplewise.core.errors import EngineUnavailable, Unsupported
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Generate, Message, Question
from samplewise.engines.base import Arrival
from samplewise.engines.team import Team, team
from samplewise.engines.toy import Toy
from samplewise.recipe import Recipe, recipe
from samplewise.samplers.base import Variant
from samplewise.store.database import Store
from samplewise.vary.base import Arm, ArmResult, HelperTexts, vary

HI = (Message("user", "hi"),)


def asked(name: str, seed: int = 0) -> Generate:
    return Generate(HI, max_tokens=4, seed=seed, engine=name)


def answers(engine: Team, asks: Sequence[Ask]) -> dict[int, str]:
    async def go() -> dict[int, str]:
        return {arrival.position: arrival.completion.text async for arrival in engine.answer(asks)}

    return asyncio.run(go())


def test_each_ask_goes_to_the_one_it_names() -> None:
    one, two = Toy(3), Toy(5, seed=1)
    asks = [asked("", 1), asked("two", 2), asked("", 3), asked("two", 4)]
    found = answers(Team({"": one, "two": two}), asks)
    assert found == {i: (two if i % 2 else one).one(ask).text for i, ask in enumerate(asks)}


def test_draws_of_the_solver_are_those_it_makes_alone(tmp_path: Path) -> None:
    """A store that the solver has filled alone serves it in a team, and the helper's draws stay apart."""
    line = "repeat(5, max_tokens=3) | vote"
    alone = solve("hi", engine="toy", recipe=line, store=tmp_path / "s.db")
    with_others = solve("hi", engine="team(toy, two=toy(5))", recipe=line, store=tmp_path / "s.db")
    assert with_others.paid.requests == 0
    assert with_others.pool == alone.pool


def thoughtful(name: str) -> Recipe:
    """One variant with a helper's word in it."""

    def next_asks(key: Key, question: Question, heard: HelperTexts) -> tuple[Generate, ...]:
        return () if heard else (Generate(HI, max_tokens=4, seed=7, engine=name),)

    def make(key: Key, question: Question, heard: HelperTexts) -> ArmResult:
        word = heard[0][0] if heard else None
        return ArmResult((Variant("idea/0", (Message("user", f"hi {word}"),)),), fallbacks=int(word is None))

    plain = recipe("repeat(4, max_tokens=3) | vote")
    return replace(plain, vary=vary(Arm("idea", make, next_asks, engines=frozenset({name} - {""}))))


def test_a_helpers_tokens_are_counted_and_its_words_arrive(tmp_path: Path) -> None:
    helper = Toy(5, seed=1)
    word = helper.one(Generate(HI, max_tokens=4, seed=7))
    engine = Team({"": Toy(3), "two": helper})
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
    assert by_solver.paid.requests > 0, "the solver's thought is another draw than the helper's"


def test_an_engine_that_is_not_there_is_refused_before_anything_is_paid() -> None:
    for engine in ("toy", "team(toy, three=toy(4))"):
        with pytest.raises(Unsupported, match=r"asks an engine called two; give one, .*: --engine .team\("):
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
            async for arrival in Team({"": Toy(3), "two": Broken(4)}).answer([asked("two"), asked(""), asked("", 1)]):
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
            await asyncio.sleep(600)
        finally:
            self.closed = True


def test_closing_closes_every_member() -> None:
    async def go() -> None:
        members = {"": Slow(3), "two": Slow(4)}
        stream = Team(dict(members)).answer([asked(""), asked("two")])
        await anext(stream)
        await stream.aclose()
        assert all(engine.closed for engine in members.values())

    asyncio.run(asyncio.wait_for(go(), 120))


def test_a_team_needs_a_solver() -> None:
    with pytest.raises(ValueError, match="needs a solver"):
        Team({"two": Toy(3)})
    assert team("toy", two="toy(2)").name == "team(toy(3, seed=0, scale=1.0), two=toy(2, seed=0, scale=1.0))"


def test_it_is_awaited_like_any_engine() -> None:
    async def go() -> int:
        engine = Team({"": Toy(3)})
        await engine.open()
        result = await asolve("hi", engine=engine, recipe="repeat(3) | vote")
        await engine.close()
        return result.spent.requests

    assert asyncio.run(go()) == 3


def test_a_team_has_the_room_of_its_solver() -> None:
    class Wide(Toy):
        max_concurrency = 7

        def free_slots(self) -> int:
            return 5

    assert (Team({"": Wide()}).max_concurrency, Team({"": Wide(), "two": Toy()}).free_slots()) == (7, 5)
    plain = Team({"": Toy(), "two": Wide()})
    assert (plain.max_concurrency, plain.free_slots()) == (Toy().max_concurrency, 0)
