"""Exploring as recipes: what `repeat(explore=...)` asks for, who refuses it, and what a store may answer of a group."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from samplewise.core.errors import BadSpec, EngineUnavailable, UnknownName, Unsupported
from samplewise.core.keys import Key
from samplewise.core.types import Capability, Completion, Generate, Message, Question, Stop, Usage, explores
from samplewise.engines.base import Arrival, failed
from samplewise.engines.toy import Toy, toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.recipe import recipe
from samplewise.samplers.base import Variant, direct
from samplewise.samplers.repeat import repeat
from samplewise.stop.base import of_dependent
from samplewise.store.database import Store
from samplewise.verify.puzzle import is_solution, read_puzzle

QUESTION = Question("q", (Message("user", "hello"),))


def asks_of(line: str, variants: Sequence[Variant] = (direct(QUESTION),)) -> list[Generate]:
    sampler = recipe(line).sampler
    _, step = sampler.step(Key(1), sampler.init(tuple(variants)), ())
    assert step.splittable is not explores(step.asks[0])
    return [ask for ask in step.asks if isinstance(ask, Generate)]


# --- what is asked for ------------------------------------------------------------------------------------------------


def test_the_asks_of_a_group() -> None:
    plain, asks = asks_of("repeat(4)"), asks_of("repeat(4, explore=esamp(beta=0.25, rate=0.004))")
    assert [ask.seed for ask in asks] == [ask.seed for ask in plain]
    assert {ask.sampling.explore for ask in asks} == {"esamp(rate=0.004)"}  # canonical: defaults left out
    assert len({ask.group for ask in asks}) == 1
    assert [(ask.draw, ask.group_size) for ask in asks] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert {ask.group_size for ask in plain} == {0}
    assert recipe("repeat(4, explore=css)").sampler.needs == {
        Capability.GENERATE,
        Capability.EXPLORE,
        Capability.LOGQ,
    }
    # So that no report or plan takes the first n of a group for a group of n.
    assert recipe("repeat(4)").sampler.exchangeable
    assert not recipe("repeat(4, explore=css)").sampler.exchangeable


def test_an_arm_is_a_group() -> None:
    arms = [Variant(name, QUESTION.messages, {}, "idea") for name in ("a", "b", "c")]
    asks = asks_of("repeat(7, explore=css)", arms)
    groups: dict[str, list[Generate]] = {}
    for ask in asks:
        groups.setdefault(ask.group, []).append(ask)
    assert [len(group) for group in groups.values()] == [3, 2, 2]
    assert all(ask.group_size == len(group) for group in groups.values() for ask in group)


def test_an_allocation_deals_an_arm_several_times_and_its_draws_are_one_group() -> None:
    """The size said 2 of 4 draws, so the engine refused every draw and the run ended without an answer."""
    arms = [Variant(name, QUESTION.messages) for name in ("a", "b", "a", "a")]
    asks = asks_of("repeat(6, explore=css)", arms)
    assert len({ask.group for ask in asks}) == 2
    assert [ask.group_size for ask in asks] == [4, 2, 4, 4, 4, 2]


def test_what_makes_a_difference_makes_another_group() -> None:
    lines = [
        "repeat(4, explore=css)",
        "repeat(5, explore=css)",
        "repeat(4, explore=lss)",
        "repeat(4, explore=css, temperature=1.5)",
        "repeat(4, explore=css, min_p=0.05)",
        "repeat(4, explore=css, max_tokens=9)",
        "repeat(4, explore=css, wave=2)",
        "repeat(4, explore=css, stop='x')",
    ]
    assert len({asks_of(line)[0].group for line in lines}) == len(lines)
    assert asks_of(lines[0]) == asks_of("repeat(4, explore='css(min_cosine=0.9)')")


def test_spec_errors_are_marked() -> None:
    with pytest.raises(BadSpec, match="needs a temperature above 0"):
        recipe("repeat(4, explore=css, temperature=0)")
    with pytest.raises(UnknownName, match="no explore is called 'cs'"):
        recipe("repeat(4, explore=cs)")
    with pytest.raises(BadSpec, match="beta must be at least 0"):
        recipe("repeat(4, explore=esamp(beta=-1))")
    with pytest.raises(ValueError, match="above 0"):
        repeat(4, explore="css", temperature=0.0)


def test_engines_without_states_refuse_before_the_first_token() -> None:
    with pytest.raises(Unsupported, match=r"needs explore, which toy.* cannot do"):
        asyncio.run(
            run_question(
                QUESTION, recipe("repeat(4, explore=css)"), RunContext(toy()), Key(0), read=lambda q, text: text
            )
        )
    assert toy().one(asks_of("repeat(1, explore=css)")[0]).finish == "error"


# --- the store --------------------------------------------------------------------------------------------------------


class Grouped(Toy):
    """The toy with a group's state that can be seen: a sample's text is how many of its group came before it."""

    can = frozenset(Capability)

    def __init__(self, broken: int = -1) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}
        self.batches: list[list[int]] = []
        self.broken = broken  # the draw that fails, once

    async def answer(self, asks: Sequence[Any]) -> Any:
        self.batches.append([ask.draw for ask in asks])
        for position, ask in enumerate(asks):
            if ask.draw == 0:
                self.seen[ask.group] = 0
            if ask.draw == self.broken:
                self.broken = -1
                yield Arrival(position, failed(EngineUnavailable("gone")))
                continue
            assert self.seen[ask.group] == ask.draw, "a group is drawn from its start, in order"
            self.seen[ask.group] += 1
            completion = Completion(f"{ask.draw}", "stop", Usage(1, 2, 3), logq=(-0.25, -0.5), logp_sum=-1.0)
            if self.seen[ask.group] == ask.group_size:
                numbers = {"seen": 3.0 * ask.group_size, "guided": 1.5}
                told = {"policy": "css", "samples": ask.group_size, "numbers": numbers, "problem": ""}
                completion = completion._replace(explored=told)
            yield Arrival(position, completion)


def drawn(engine: Grouped, store: Store, line: str, budget: Budget = Budget()) -> Result:
    return asyncio.run(
        run_question(
            QUESTION, recipe(line), RunContext(engine, budget=budget, store=store), Key(0), read=lambda q, t: t
        )
    )


def forget(store: Store, *texts: str) -> None:
    """As if these draws had not been kept: a process was killed between two of a group."""
    for text in texts:
        store._db.execute("DELETE FROM draws WHERE text=?", (text,))


def test_a_whole_group_comes_from_the_store() -> None:
    with Store(":memory:") as store:
        first = drawn(Grouped(), store, "repeat(6, explore=css)")
        engine = Grouped()
        again = drawn(engine, store, "repeat(6, explore=css)")
        assert engine.batches == []
        assert again.pool == first.pool
        assert again.paid == Usage()
        assert again.spent == first.spent


def test_what_a_group_says_of_itself_is_in_the_trace_and_comes_from_the_store() -> None:
    with Store(":memory:") as store:
        first = drawn(Grouped(), store, "repeat(4, explore=css)")
        told = {"policy": "css", "samples": 4, "numbers": {"seen": 12.0, "guided": 1.5}, "problem": ""}
        assert first.trace == ({"explored": [{"arm": "direct", **told}], "logp": [-1.0] * 4, "logq": [-0.75] * 4},)
        assert drawn(Grouped(), store, "repeat(4, explore=css)").trace == first.trace
        waves = drawn(Grouped(), store, "repeat(4, explore=css, wave=3)").trace
        assert [(len(info["explored"]), len(info["logq"])) for info in waves] == [(0, 3), (1, 1)]
        forget(store, "1")  # of a run that was cut off
        assert drawn(Grouped(), store, "repeat(4, explore=css)").trace == first.trace


def test_every_arm_tells_of_its_own_group() -> None:
    arms = tuple(Variant(name, QUESTION.messages, {}, "idea") for name in ("a", "b"))
    sampler = recipe("repeat(3, explore=css)").sampler
    state, _ = sampler.step(Key(1), sampler.init(arms), ())
    said = [Completion("", "error"), Completion("", "stop", explored={"policy": "css"})]
    state, step = sampler.step(Key(1), state, [*said, Completion("", "stop", logq=(-2.0,), explored={"policy": "lss"})])
    assert step.info == {
        "explored": [{"arm": "b", "policy": "css"}, {"arm": "a", "policy": "lss"}],
        "logp": [None, None],
        "logq": [None, -2.0],
    }


def test_failures_and_plain_draws_say_nothing() -> None:
    with Store(":memory:") as store:
        (info,) = drawn(Grouped(broken=1), store, "repeat(2, explore=css)").trace
        assert info == {"explored": [], "logp": [-1.0], "logq": [-0.75]}
    assert (
        asyncio.run(run_question(QUESTION, recipe("repeat(2)"), RunContext(toy()), Key(0), read=lambda q, t: t)).trace
        == ()
    )


def test_half_a_group_is_drawn_again_whole() -> None:
    with Store(":memory:") as store:
        first = drawn(Grouped(), store, "repeat(6, explore=css)")
        forget(store, "3", "5")
        engine = Grouped()
        again = drawn(engine, store, "repeat(6, explore=css)")
        assert engine.batches == [[0, 1, 2, 3, 4, 5]]
        assert again.pool == first.pool
        assert store.num_draws() == 6


def test_plain_draws_are_paid_for_once_all_the_same() -> None:
    with Store(":memory:") as store:
        line = "repeat(6)"
        asyncio.run(run_question(QUESTION, recipe(line), RunContext(toy(), store=store), Key(0), read=lambda q, t: t))
        store._db.execute("DELETE FROM draws WHERE digest = (SELECT MIN(digest) FROM draws)")
        result = asyncio.run(
            run_question(QUESTION, recipe(line), RunContext(toy(), store=store), Key(0), read=lambda q, t: t)
        )
        assert result.paid.requests == 1


def test_earlier_waves_are_drawn_again_before_a_later_one() -> None:
    """A run was cut off in its third wave. The first two are answered by the store, but what the group had learnt is
    gone: they are drawn again for its sake, paid for, and not counted as spent."""
    with Store(":memory:") as store:
        line = "repeat(6, explore=css, wave=2)"
        first = drawn(Grouped(), store, line)
        forget(store, "5")
        engine = Grouped()
        again = drawn(engine, store, line)
        assert engine.batches == [[0, 1], [2, 3], [4, 5]]
        assert again.pool == first.pool
        assert again.spent == first.spent
        assert again.paid == first.spent


def test_a_larger_budget_goes_on_where_the_smaller_ended() -> None:
    with Store(":memory:") as store:
        line = "repeat(6, explore=css, wave=2)"
        cut = drawn(Grouped(), store, line, Budget(requests=5))
        assert [c.text for c in cut.pool.candidates] == ["0", "1", "2", "3"]  # a wave is drawn whole or not at all
        whole = drawn(Grouped(), store, line)
        assert [c.text for c in whole.pool.candidates] == list("012345")


def test_one_of_a_group_is_not_tried_again_alone() -> None:
    with Store(":memory:") as store:
        engine = Grouped(broken=5)
        result = drawn(engine, store, "repeat(6, explore=css)")
        assert engine.batches == [[0, 1, 2, 3, 4, 5]]
        assert result.pool.num_failed == 1
        assert drawn(engine, store, "repeat(6, explore=css)").pool.num_failed == 0


def test_a_rule_guarantees_nothing_about_draws_that_depend_on_one_another() -> None:
    def stop_of(more: str) -> Stop:
        made = recipe(f"repeat(48{more}) | until(vote_e(0.05)) | vote")
        return asyncio.run(run_question(QUESTION, made, RunContext(Grouped()), Key(0), read=lambda q, t: "always")).stop

    alone, grouped = stop_of(""), stop_of(", explore=css, wave=24")
    assert alone.reason == grouped.reason == "settled"
    assert alone.evidence["guarantee"] == "anytime-valid"
    assert "dependent" not in alone.evidence
    assert (grouped.evidence["guarantee"], grouped.evidence["dependent"]) == ("heuristic", True)


def test_a_success_needs_no_independence() -> None:
    for reason in ("success", "cap"):
        stop = Stop(reason, {"guarantee": "exact"})
        assert of_dependent(stop) == stop
    assert of_dependent(Stop("futile", {"guarantee": "model-based", "by": "value"})).evidence == {
        "guarantee": "heuristic",
        "by": "value",
        "dependent": True,
    }


# --- the bundled model ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> Any:
    pytest.importorskip("torch", reason="the local engine's extra is not installed")
    from samplewise.engines.local import tiny

    return tiny(device="cpu")


PUZZLE = Question("p", (Message("user", "make 24 from 4 6 7 8"),), {"numbers": [4, 6, 7, 8], "target": 24})


def made(engine: Any, line: str, store: Store | None = None) -> Result:
    return asyncio.run(run_question(PUZZLE, recipe(line), RunContext(engine, store=store), Key(3), read=read_puzzle))


@pytest.mark.parametrize("num", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_the_bundled_model_explores(num: int, tiny: Any) -> None:
    found = made(tiny, f"repeat({num}, explore=esamp(beta=0.25), max_tokens=60) | best(puzzle)")
    assert num < 64 or (found.answer is not None and is_solution([4, 6, 7, 8], 24, found.answer))
    assert len(found.pool.candidates) == num
    plain, css = (made(tiny, f"repeat({num}, max_tokens=60{more}) | vote") for more in ("", ", explore=css"))
    assert [c.text for c in plain.pool.candidates] != [c.text for c in css.pool.candidates]
    assert css.pool.num_failed == 0
    for report in list(tiny._batch.exploring.reports)[-2:]:
        assert report.problem == ""
        assert report.numbers["seen"] in (found.spent.completion_tokens, css.spent.completion_tokens)


def test_no_strength_is_plain_draws(tiny: Any) -> None:
    """By the whole way: the same seeds, the same tokens."""
    lines = [f"repeat(8, max_tokens=60{more}) | vote" for more in ("", ", explore=esamp(beta=0)")]
    plain, none = (made(tiny, line) for line in lines)
    assert [c.text for c in none.pool.candidates] == [c.text for c in plain.pool.candidates]
    assert none.spent == plain.spent


def test_a_group_gives_one_answer(tiny: Any) -> None:
    """Through the whole way, and from the store: what follows the cue is the same text for all who came to it."""
    line = "repeat(8, explore=consensus(start='=', answer_tokens=6), max_tokens=40) | vote"
    with Store(":memory:") as store:
        found = made(tiny, line, store)
        answers = [c.text.split("=", 1)[1] for c in found.pool.candidates if "=" in c.text]
        (told,) = [group for info in found.trace for group in info["explored"]]  # type: ignore[index, call-overload, union-attr]
        assert told["problem"] == ""
        assert told["numbers"]["members"] == len(answers) > 1
        assert len(set(answers)) == 1
        assert len({c.text for c in found.pool.candidates}) > 1
        again = made(tiny, line, store)
        assert (again.pool, again.paid) == (found.pool, Usage())


def test_consensus_takes_no_waves_and_needs_tokens_to_reason_with() -> None:
    """Both were let in, and then every draw failed."""
    with pytest.raises(BadSpec, match="draws a group at once: leave out wave=2"):
        recipe("repeat(4, explore=consensus(start='='), wave=2, max_tokens=80) | vote")
    with pytest.raises(BadSpec, match="keeps 64 tokens for the answer, and max_tokens=64 leaves none to reason with"):
        recipe("repeat(4, explore=consensus, max_tokens=64) | vote")
    assert recipe("repeat(4, explore=consensus, wave=4, max_tokens=65) | vote").max_draws is None


@pytest.mark.parametrize(
    "line",
    ["repeat(8, explore=lss, max_tokens=40)", "vary(permute(2)) | repeat(9, explore=lss, wave=3, max_tokens=40)"],
)
def test_a_run_that_was_cut_off_ends_as_it_would_have(line: str, tiny: Any) -> None:
    with Store(":memory:") as store:
        whole = made(tiny, line, store)
        store._db.execute("DELETE FROM draws WHERE digest IN (SELECT digest FROM draws LIMIT 3)")
        again = made(tiny, line, store)
        assert [c.text for c in again.pool.candidates] == [c.text for c in whole.pool.candidates]
        assert again.spent == whole.spent
        assert again.paid.requests > 3
        assert made(tiny, line, store).paid == Usage()
