"""Stops recomputed from the store: honest ones hold, and every way of tampering is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from samplewise import recheck as recheck_module
from samplewise.engines.toy import Toy
from samplewise.evaluate import run_task
from samplewise.recheck import Checked, recheck
from samplewise.recipe import recipe
from samplewise.run import Budget
from samplewise.stop.base import StopRule
from samplewise.store import Store
from samplewise.tasks.base import Task
from samplewise.types import Message, Problem, Question, Score, Stop

LEAD = "repeat(20, max_tokens=4) | until(lead(3)) | vote"


def make_task(num: int = 6) -> Task:
    problems = [Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(num)]

    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer == problem.reference))

    return Task("words", tuple(problems), lambda question, text: text[:1] or None, grade)


def drawn(store: Store, line: str = LEAD, **more: Any) -> list[Checked]:
    asyncio.run(run_task(make_task(), recipe(line), Toy(3), store, **more))
    return recheck(store, store.runs()[-1])


@pytest.mark.parametrize(
    "line",
    [
        LEAD,
        "repeat(20, max_tokens=4, wave=3) | until(lead(4), ahead=5) | vote",
        "repeat(20, max_tokens=4) | until(passed(logp, score=-0.3)) | best(likelihood)",
        "repeat(20, max_tokens=4) | until(either(lead(3), cap(5))) | vote",
        "repeat(4, max_tokens=4) | until(lead(4)) | vote",
        "repeat(4, max_tokens=4) | vote",
    ],
)
@pytest.mark.parametrize("budget", [Budget(), Budget(tokens=150), Budget(requests=0)])
def test_what_a_run_says_holds(line: str, budget: Budget) -> None:
    with Store(":memory:") as store:
        found = drawn(store, line, budget=budget)
        assert len(found) == 6
        assert {each.difference for each in found} == {""}


def tampered(change: Callable[[Any, list[Any]], None]) -> Checked:
    """What is said of a stop after `change(stop, answers)` has been at the store."""
    with Store(":memory:") as store:
        found = drawn(store)
        place = next(i for i, each in enumerate(found) if each.stop.reason == "settled")
        name = found[place].question
        query = "SELECT stop, answers FROM pools WHERE question=?"
        stop, answers = (json.loads(text) for text in store._db.execute(query, (name,)).fetchone())
        change(stop, answers)
        row = (json.dumps(stop), json.dumps(answers), name)
        store._db.execute("UPDATE pools SET stop=?, answers=? WHERE question=?", row)
        again = recheck(store, store.runs()[0])
        assert [each.question for each in again if each.difference] == [name]
        return again[place]


def test_every_tampering_is_named() -> None:
    def votes(stop: Any, answers: list[Any]) -> None:
        stop[1]["votes"] += 1

    def reason(stop: Any, answers: list[Any]) -> None:
        stop[0] = "success"

    def guarantee(stop: Any, answers: list[Any]) -> None:
        stop[1]["guarantee"] = "anytime-valid"

    def none(stop: Any, answers: list[Any]) -> None:
        stop[:] = ["finished", {}]

    def answer(stop: Any, answers: list[Any]) -> None:
        answers[-1] = "z"

    assert "the evidence says votes=" in tampered(votes).difference
    assert "stopped: success, and lead says settled" in tampered(reason).difference
    assert tampered(guarantee).difference == 'the evidence says guarantee="anytime-valid", and it is "heuristic"'
    assert "ended: finished, and lead says settled" in tampered(none).difference
    assert "stopped: settled, and lead does not say so" in tampered(answer).difference


def test_a_run_that_went_on_for_too_long_is_found_out() -> None:
    """Whoever is paid by the draw may like to draw a few more: with the rule of the recipe they do not add up."""
    made = recipe(LEAD)
    assert made.stop is not None
    slow = replace(
        made.stop, at_least=lambda state: 1, decide=lambda s, spent: Stop("settled") if s.draws > 9 else None
    )
    with Store(":memory:") as store:
        asyncio.run(run_task(make_task(), replace(made, stop=slow), Toy(3), store))
        differences = [each.difference for each in recheck(store, store.runs()[0])]
    assert all(differences)
    assert "went on to 10 draws, and lead says settled after 3" in differences


def test_whole_steps_and_spending_are_not_judged_by_what_nobody_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule may look at what was spent, of which only the end is kept; steps may be handed over whole."""
    made = recipe("repeat(20, max_tokens=4) | vote")
    rule = StopRule("poor", lambda q: 0, lambda s, c, a: s + 1, lambda s, u: Stop("futile") if u.tokens > 30 else None)
    with Store(":memory:") as store:
        asyncio.run(run_task(make_task(), replace(made, stop=rule), Toy(3), store))
        monkeypatch.setattr(recheck_module, "recipe", lambda line: replace(made, stop=rule))
        found = recheck(store, store.runs()[0])
        assert {each.stop.reason for each in found} == {"futile"}
        assert {each.difference for each in found} == {""}
        whole = replace(made, stop=recipe("repeat(3) | until(cap(3)) | vote").stop)
        monkeypatch.setattr(recheck_module, "recipe", lambda line: whole)
        store._db.execute("""UPDATE pools SET stop='["cap", {"rule": "cap", "order": "steps"}]'""")
        assert not any("went on" in each.difference for each in recheck(store, store.runs()[0]))
        store._db.execute("""UPDATE pools SET stop='["cap", {"rule": "cap", "order": "asks"}]'""")
        assert all("went on" in each.difference for each in recheck(store, store.runs()[0]))
