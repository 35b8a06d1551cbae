"""Stops recomputed from the store: honest ones hold, and every way of tampering is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from samplewise.core.types import Message, Problem, Question, Score, Stop
from samplewise.engines.toy import Toy
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs import recheck as recheck_module
from samplewise.runs.recheck import CheckedStop, recheck_run
from samplewise.runs.run import run_task
from samplewise.stop.base import StopRule
from samplewise.store.database import Store
from samplewise.tasks.base import Task

LEAD = "repeat(20, max_tokens=4) | until(lead(3)) | vote"


def make_task(num: int = 6) -> Task:
    problems = [Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(num)]

    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer == problem.reference))

    return Task("words", tuple(problems), lambda question, text: text[:1] or None, grade)


def drawn(store: Store, line: str = LEAD, **more: Any) -> list[CheckedStop]:
    asyncio.run(run_task(make_task(), recipe(line), Toy(3), store, **more))
    return recheck_run(store, store.runs()[-1])


@pytest.mark.parametrize(
    "line",
    [
        LEAD,
        "repeat(20, max_tokens=4, wave=3) | until(lead(4), ahead=5) | vote",
        "repeat(20, max_tokens=4) | until(passed(logp, score=-0.3)) | best(likelihood)",
        "repeat(20, max_tokens=4) | until(either(lead(3), cap(5))) | vote",
        "repeat(4, max_tokens=4) | until(lead(4)) | vote",
        "repeat(4, max_tokens=4) | vote",
        "repeat(20, max_tokens=4, temperature=0) | until(vote_e) | vote",
        "vary(ladder(0.5, 1.0)) | repeat(20, max_tokens=4) | until(vote_e) | vote",
    ],
)
@pytest.mark.parametrize("budget", [Budget(), Budget(tokens=150), Budget(requests=0)])
def test_what_a_run_says_holds(line: str, budget: Budget) -> None:
    with Store(":memory:") as store:
        found = drawn(store, line, budget=budget)
        assert len(found) == 6
        assert {each.difference for each in found} == {""}


@pytest.mark.parametrize(
    ("line", "guarantee", "about"),
    [
        ("repeat(99, max_tokens=4) | until(vote_e(0.3)) | vote", "anytime-valid", "mode"),
        ("repeat(99, max_tokens=4, temperature=0) | until(vote_e(0.3)) | vote", "heuristic", "mode"),
        (
            "vary(ladder(0.5, 1.0)) | repeat(99, max_tokens=4) | until(vote_e(0.3)) | vote",
            "heuristic",
            "mode of the mix",
        ),
        (
            "repeat(9, max_tokens=4, temperature=0) | until(passed(logp, score=-99)) | best(likelihood)",
            "exact",
            "verifier",
        ),
    ],
)
def test_a_guarantee_is_no_larger_than_how_draws_were_made(line: str, guarantee: str, about: str) -> None:
    with Store(":memory:") as store:
        stops = [checked.stop for checked in drawn(store, line)]
    evidence = [stop.evidence for stop in stops if stop.reason in ("settled", "success")]
    assert evidence
    assert {(seen["guarantee"], seen["about"]) for seen in evidence} == {(guarantee, about)}


def tampered(change: Callable[[Any, list[Any]], None]) -> CheckedStop:
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
        again = recheck_run(store, store.runs()[0])
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
        differences = [each.difference for each in recheck_run(store, store.runs()[0])]
    assert all(differences)
    assert "went on to 10 draws, and lead says settled after 3" in differences


def test_whole_steps_and_spending_are_not_judged_by_what_nobody_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule may look at what was spent, of which only the end is kept; steps may be handed over whole."""
    made = recipe("repeat(20, max_tokens=4) | vote")
    rule = StopRule("poor", lambda q: 0, lambda s, c, a: s + 1, lambda s, u: Stop("futile") if u.tokens > 30 else None)
    with Store(":memory:") as store:
        asyncio.run(run_task(make_task(), replace(made, stop=rule), Toy(3), store))
        monkeypatch.setattr(recheck_module, "recipe", lambda line: replace(made, stop=rule))
        found = recheck_run(store, store.runs()[0])
        assert {each.stop.reason for each in found} == {"futile"}
        assert {each.difference for each in found} == {""}
        whole = replace(made, stop=recipe("repeat(3) | until(cap(3)) | vote").stop)
        monkeypatch.setattr(recheck_module, "recipe", lambda line: whole)
        store._db.execute("""UPDATE pools SET stop='["cap", {"rule": "cap", "order": "steps"}]'""")
        assert not any("went on" in each.difference for each in recheck_run(store, store.runs()[0]))
        store._db.execute("""UPDATE pools SET stop='["cap", {"rule": "cap", "order": "asks"}]'""")
        assert all("went on" in each.difference for each in recheck_run(store, store.runs()[0]))
