"""One budget for many questions: who draws next, that it is never passed, and that nothing but the draws decides it."""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplewise.core.errors import UsageError
from samplewise.core.events import Event, Stopped
from samplewise.core.keys import Key
from samplewise.core.spec import parse_spec
from samplewise.core.types import Ask, Candidate, Generate, Message, Problem, Question, Score, Stop, Usage
from samplewise.engines.base import Arrival
from samplewise.engines.toy import Toy
from samplewise.loop.drive import MIN_DRAWS
from samplewise.loop.ledger import Budget
from samplewise.loop.sharing import PSEUDO_DRAWS, SharedBudget
from samplewise.recipe import Recipe, recipe
from samplewise.runs.run import Summary, run_id, run_task
from samplewise.stop.base import StopRule
from samplewise.store.database import Store
from samplewise.store.records import Record
from samplewise.tasks.base import Task
from samplewise.testing import WatchedEngine
from samplewise.verify.base import Judge

LINE = "repeat(24, max_tokens=6) | vote"


def make_task(num: int) -> Task:
    problems = [Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(num)]

    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer == problem.reference))

    return Task("words", tuple(problems), lambda question, text: text[:1] or None, grade)


def passes(value: float = 1.0, p0: float = 1.0) -> StopRule[int]:
    """Stops at the first "a"; the chance of one, from a Beta(1, p0 + misses) law, is what the next draw is worth."""

    def see(state: int, candidate: Candidate, answer: str | None) -> int:
        return -1 if state < 0 or answer == "a" else state + 1

    def decide(state: int, spent: Usage) -> Stop | None:
        return Stop("success", {"worth": value}) if state < 0 else None

    return StopRule(
        "passes", lambda q: 0, see, decide, (), "exact", "truth", expected_gain=lambda state: value / (2 + p0 + state)
    )


def margin() -> StopRule[tuple[int, int]]:
    """Never stops; a question whose votes are even is worth most."""

    def see(state: tuple[int, int], candidate: Candidate, answer: str | None) -> tuple[int, int]:
        return state[0] + (answer == "a"), state[1] + (answer != "a")

    def worth(state: tuple[int, int]) -> float:
        return math.exp(-abs(state[0] - state[1])) / (1 + sum(state))

    return StopRule("margin", lambda q: (0, 0), see, lambda state, spent: None, expected_gain=worth)


def with_rule(rule: StopRule[Any], line: str = LINE) -> Recipe:
    plain = recipe(line)
    return replace(plain, stages=plain.stages._replace(stop=parse_spec(f"until({rule.name})")), stop=rule)


class Scattered(Toy):
    """Answers in an order of its own: who is asked first may be answered last."""

    def __init__(self, key: Key, max_concurrency: int = 32) -> None:
        super().__init__(3)
        self._shuffle, self.max_concurrency = key, max_concurrency
        self.asked: list[str] = []
        self.rounds: list[int] = []
        self._under_way = 0

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        self._under_way += len(asks)
        self.rounds = (
            [*self.rounds, len(asks)] if self._under_way == len(asks) else [*self.rounds[:-1], self._under_way]
        )
        for position in self._shuffle.generator().permutation(len(asks)).tolist():
            ask = asks[position]
            assert isinstance(ask, Generate)
            self.asked.append(ask.messages[0].content.replace("word ", "q"))
            for _ in range(5 + self._shuffle.fold(ask.seed).seed() % 13):
                await asyncio.sleep(0)
            self._under_way -= 1
            yield Arrival(position, self.one(ask))


def go(task: Task, made: Recipe, engine: Any, store: Store, **more: Any) -> Summary:
    more.setdefault("spread", "gain")
    return asyncio.run(run_task(task, made, engine, store, **more))


def state(store: Store) -> object:
    """Everything but the clock."""
    runs = store.runs()
    return [r.id for r in runs], [list(map(repr, store.records(r.id))) for r in runs]


def counts(store: Store) -> list[int]:
    (run,) = store.runs()
    return [len(record.answers) + record.pool.num_failed for record in store.records(run.id)]


# --- who draws next ---------------------------------------------------------------------------------------------------


@functools.cache
def known(num: int) -> list[Record]:
    """Every draw that the questions could have."""
    with Store(":memory:") as store:
        go(make_task(num), recipe(LINE), Toy(3), store, spread="even")
        return list(store.records(store.runs()[0].id))


def greedy(task: Task, rule: StopRule[Any], budget: Budget, wave: int) -> list[int]:
    """How many draws each question gets, worked out barrier by barrier from draws that are known beforehand."""
    num, records = len(task.problems), known(len(task.problems))
    prompt = 2
    cost = [[prompt + c.num_tokens for c in record.pool.candidates] for record in records]
    worst = prompt + 6
    assert budget.tokens is not None
    drawn, spent, going, states = [0] * num, 0, set(range(num)), [rule.start(p.question) for p in task.problems]

    def draw(q: int) -> None:
        nonlocal spent
        candidate, answer = records[q].pool.candidates[drawn[q]], records[q].answers[drawn[q]]
        spent += cost[q][drawn[q]]
        drawn[q] += 1
        states[q] = rule.see(states[q], candidate, answer)
        if rule.verdict(states[q], Usage()) or drawn[q] == len(records[q].answers):
            going.discard(q)

    while going and spent + worst <= budget.tokens:
        low = [q for q in sorted(going) if drawn[q] < MIN_DRAWS]
        if low:
            chosen = low
        else:
            mean = spent / sum(drawn)
            merits = {
                q: rule.expected_gain(states[q])  # type: ignore[misc]
                / (sum(cost[q][: drawn[q]]) + PSEUDO_DRAWS * mean)
                * (drawn[q] + PSEUDO_DRAWS)
                for q in going
            }
            chosen = sorted(going, key=lambda q: (-merits[q], q))[: max(1, min(wave, len(going) // 4))]
        fitting = (budget.tokens - spent) // worst
        for q in chosen[:fitting]:
            draw(q)
    return drawn


@given(st.integers(0, 10**6), st.integers(30, 700), st.sampled_from([1, 2, 32]), st.booleans())
@settings(max_examples=10)
def test_the_next_draw_goes_where_it_is_worth_most(seed: int, tokens: int, wave: int, votes: bool) -> None:
    """The loop, with answers that arrive in any order, against the same greedy rule written down over a table."""
    task, rule, budget = make_task(9), margin() if votes else passes(), Budget(tokens=tokens)
    with Store(":memory:") as store:
        done = go(task, with_rule(rule), Scattered(Key(seed), wave), store, budget=budget)
        assert counts(store) == greedy(task, rule, budget, wave)
        assert done.spent == done.paid
        assert done.paid.tokens <= tokens


def test_a_barrier_that_is_broken_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where turns are dealt out as they are asked for, whoever comes back first draws next."""
    meet = SharedBudget._meet

    def too_early(shared: SharedBudget) -> None:
        num = shared._num_in_progress
        shared._num_in_progress = min(num, len(shared._waiting))
        meet(shared)
        shared._num_in_progress = num

    def drawn(key: int) -> list[int]:
        with Store(":memory:") as store:
            go(make_task(9), with_rule(margin()), Scattered(Key(key), 2), store, budget=Budget(tokens=400))
            return counts(store)

    right = [drawn(key) for key in range(3)]
    assert right[0] == right[1] == right[2] == greedy(make_task(9), margin(), Budget(tokens=400), 2)
    monkeypatch.setattr(SharedBudget, "_meet", too_early)
    assert any(drawn(key) != right[0] for key in range(3))


def test_the_engine_is_kept_busy_but_not_everybody_is_served() -> None:
    for max_concurrency, num, most in ((32, 16, 4), (3, 16, 3), (32, 3, 1)):
        engine = Scattered(Key(0), max_concurrency)
        with Store(":memory:") as store:
            go(make_task(num), with_rule(margin()), engine, store, budget=Budget(requests=num * 6))
            assert sum(counts(store)) == num * 6
        assert engine.rounds[:MIN_DRAWS] == [num] * MIN_DRAWS, "the first few of everybody together"
        assert max(engine.rounds[MIN_DRAWS:]) == most


# --- the budget -------------------------------------------------------------------------------------------------------


@given(
    st.fixed_dictionaries(
        {"requests": st.integers(0, 60)},
        optional={
            "prompt_tokens": st.integers(0, 80),
            "completion_tokens": st.integers(0, 120),
            "tokens": st.integers(0, 200),
            "usd": st.floats(0.001, 0.2),
        },
    ),
    st.sampled_from([0.0, 0.4]),
)
@settings(max_examples=12)
def test_no_mix_of_limits_is_passed(limits: dict[str, Any], fails: float) -> None:
    watched = WatchedEngine(Toy(3), fails=fails, usd_per_token=0.001)
    budget = Budget(**limits)
    with Store(":memory:") as store:
        done = go(make_task(6), with_rule(passes()), watched, store, budget=budget)
        assert budget.admits(watched.used)
        assert watched.used._replace(usd=0.0) == done.paid._replace(usd=0.0)
        assert math.isclose(watched.used.usd, done.paid.usd)
        assert done.num_done == 6, "a question without a draw is finished too"


def judge() -> Judge:
    def next_asks(key: Key, question: Question, candidates: Any, answers: Any, heard: Any) -> tuple[Generate, ...]:
        if heard or not candidates:
            return ()
        words = (Message("user", f"word 7 {len(candidates)}"),)
        return (Generate(words, max_tokens=3, seed=key.fold(len(candidates)).seed()),)

    def rate(key: Key, question: Question, candidates: Any, answers: Any, heard: Any) -> tuple[float, ...]:
        return tuple(float(bool(heard) and heard[0][0].text.startswith("a")) for _ in candidates)

    return Judge("judge", next_asks, rate)


@given(st.integers(0, 10**6), st.integers(20, 500))
@settings(max_examples=6)
def test_what_judges_cost_comes_out_of_the_pot_in_turn(seed: int, tokens: int) -> None:
    rule = passes()
    rule = StopRule(rule.name, rule.start, rule.see, rule.decide, ("judge",), expected_gain=rule.expected_gain)
    made = with_rule(rule)
    made = replace(made, stop=rule, verifiers={"judge": judge()})
    found = []
    for key in (Key(seed), Key(seed + 1)):
        with Store(":memory:") as store:
            done = go(make_task(5), made, Scattered(key, 2), store, budget=Budget(tokens=tokens))
            assert done.paid.tokens <= tokens
            found.append(state(store))
    assert found[0] == found[1]


# --- runs that are cut off --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_run_that_was_cut_off_ends_as_an_uninterrupted_one(tmp_path: Path, after: int) -> None:
    """What finished questions drew decides what the others may: a resumed run must go through all of it again."""
    made, budget, task = with_rule(passes(p0=3.0)), Budget(tokens=250), make_task(9)
    with Store(":memory:") as whole:
        full = go(task, made, Scattered(Key(0), 2), whole, budget=budget)
        expected = state(whole)
    cancel, stops = asyncio.Event(), 0

    def on_event(event: Event, /) -> None:
        nonlocal stops
        stops += isinstance(event, Stopped)
        if stops == after:
            cancel.set()

    with Store(tmp_path / "s.db") as store:
        first = go(task, made, Scattered(Key(0), 2), store, budget=budget, cancel=cancel, on_event=on_event)
        assert first.cancelled
        assert 0 < first.num_done < 9
        second = go(task, made, Scattered(Key(5), 2), store, budget=budget)
        assert state(store) == expected
        assert first.paid.requests + second.paid.requests == full.paid.requests
        again = go(task, made, Scattered(Key(5), 2), store, budget=budget)
        assert (again.paid, again.accuracy, again.spent) == (Usage(), full.accuracy, full.spent)


def test_a_run_is_named_by_how_it_spreads() -> None:
    task, made, budget = make_task(3), with_rule(passes()), Budget(tokens=100)
    few, many = Scattered(Key(0), 2), Scattered(Key(0), 32)
    names = [run_id(task, made, engine, 0, budget, spread) for engine in (few, many) for spread in ("even", "gain")]
    assert names[0] == names[2] == run_id(task, made, Toy(3), 0, budget), "an even run is what it always was"
    assert len(set(names)) == 3


def test_a_run_that_shares_its_budget_keeps_the_id_of_earlier_versions() -> None:
    """They called it "worth", and that word is folded in the ids of stored runs."""
    line = recipe("repeat(4) | until(blend_asc) | vote")
    assert run_id(make_task(3), line, Toy(3), 0, Budget(tokens=100), "gain") == "e8b1829da70b"


def test_what_cannot_be_spread_is_said_before_anything_is_paid() -> None:
    engine = WatchedEngine(Toy(3))
    wrong = [
        (with_rule(passes()), {}, "shares a budget among the questions: give one, such as --budget-tokens"),
        (with_rule(passes()), {"budget": Budget(seconds=3)}, "give one"),
        (recipe("repeat(4) | until(lead(2)) | vote"), {"budget": Budget(tokens=50)}, "stops by lead, which does not"),
        (recipe("repeat(4) | vote"), {"budget": Budget(tokens=50)}, "has no stop rule"),
        (with_rule(passes()), {"budget": Budget(tokens=50), "spread": "wide"}, "even or gain, got 'wide'"),
    ]
    for made, more, told in wrong:
        with Store(":memory:") as store, pytest.raises(UsageError, match=told):
            go(make_task(3), made, engine, store, **more)  # type: ignore[arg-type]
    assert engine.asked == []


def test_an_error_in_one_question_ends_the_run() -> None:
    def decide(state: int, spent: Usage) -> Stop | None:
        if state > 4:
            raise UsageError("no more of this")
        return None

    rule = passes()
    broken = StopRule("broken", rule.start, rule.see, decide, expected_gain=rule.expected_gain)
    with Store(":memory:") as store, pytest.raises(UsageError, match="no more of this"):
        go(make_task(6), with_rule(broken), Scattered(Key(0)), store, budget=Budget(tokens=5000))
