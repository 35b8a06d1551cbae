"""What a run may cost, before it is sent: exact worst cases, stored draws left out, and what is not known named."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.paid import PaidToy

from samplewise.core.prices import Price
from samplewise.core.types import Message, Problem, Question, Score
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.forecast import RunForecast, Span, forecast_run
from samplewise.runs.run import run_task
from samplewise.runs.shards import Shard
from samplewise.store.database import Store
from samplewise.tasks.base import Task

NUM = 6
TASK = Task(
    "say",
    tuple(Problem(Question(f"q{i}", (Message("user", f"say {i}"),)), "a") for i in range(NUM)),  # 2 prompt tokens each
    read=lambda question, text: text or None,
    grade=lambda problem, answer: Score(float(answer == problem.reference)),
)
LINE = "repeat(4, max_tokens=3) | vote"
PER_DRAW = 2 * 1e-3 + 3 * 4e-3  # USD at most


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.db")


def forecast(line: str, store: Store, budget: Budget = Budget(), engine: PaidToy | None = None) -> RunForecast:
    return forecast_run(TASK, recipe(line), engine or PaidToy(), store, budget=budget)


def test_at_most_is_the_worst_case_of_every_draw(store: Store) -> None:
    told = forecast(LINE, store)
    assert (told.num_draws, told.num_stored, told.max_tokens) == (24, 0, 24 * 5)
    assert told.max_usd == pytest.approx(24 * PER_DRAW)
    assert told.most_usd == told.max_usd
    assert told.unknown == ()
    assert math.isnan(told.usd.value), "nothing was drawn before"
    assert forecast("repeat(4, max_tokens=3) | until(lead(2)) | vote", store).num_draws == 24, "it may go on to the end"
    assert forecast("vary(ladder) | repeat(4, max_tokens=3) | vote", store).num_draws == 24


@pytest.mark.parametrize(
    "line", [LINE, *(f"vary({arm}) | repeat(4, max_tokens=3) | vote" for arm in ("ladder", "role"))]
)
def test_what_the_store_holds_is_left_out(line: str, store: Store) -> None:
    """The forecast knows the very asks of the run: the digests of all of them are in the store afterwards."""
    engine = PaidToy()
    summary = asyncio.run(run_task(TASK, recipe(line), engine, store))
    told = forecast(line, store)
    assert (told.num_draws, told.num_stored, told.max_usd) == (0, 24, 0.0)
    more = forecast(line.replace("4", "6"), store) if line == LINE else None
    if more is not None:
        assert (more.num_draws, more.num_stored) == (12, 24)
        assert more.num_earlier == 24
        per_draw = summary.spent.usd / 24
        assert more.usd.value == pytest.approx(12 * per_draw)
        assert more.tokens.value == pytest.approx(12 * summary.spent.tokens / 24)
        assert 0 < more.usd.low < more.usd.value < more.usd.high <= more.max_usd


def test_a_rule_may_end_each_question_at_its_first_draw(store: Store) -> None:
    asyncio.run(run_task(TASK, recipe(LINE), PaidToy(), store))
    whole = forecast("repeat(8, max_tokens=3) | vote", store)
    early = forecast("repeat(8, max_tokens=3) | until(lead(2)) | vote", store)
    assert whole.num_draws == early.num_draws == 24
    assert early.usd.high == pytest.approx(whole.usd.high)
    assert early.usd.low == pytest.approx(whole.usd.low * NUM / 24)


def test_equal_costs_give_a_span_without_width(store: Store) -> None:
    """An interval of values that are all equal has no ends; the span is then the value itself."""
    asyncio.run(run_task(TASK, recipe("repeat(4, max_tokens=1) | vote"), PaidToy(), store))
    told = forecast(LINE, store)
    assert told.usd == Span(*[pytest.approx(24 * 6e-3)] * 3)


@pytest.mark.parametrize(
    ("line", "unknown"),
    [
        ("power(2, 3) | first", ("later draws of power",)),
        ("smc(4, 2) | first", ("later draws of smc",)),
        ("repeat(4, max_tokens=3) | best(judge)", ("judge",)),
        ("vary(idea) | repeat(4, max_tokens=3) | vote", ("helpers",)),
    ],
)
def test_what_is_not_known_counts_as_too_much(line: str, unknown: tuple[str, ...], store: Store) -> None:
    told = forecast(line, store)
    assert tuple(name.partition("(")[0] for name in told.unknown) == unknown
    assert told.most_usd == math.inf
    assert forecast(line, store, Budget(usd=0.5)).most_usd == 0.5, "a budget holds whatever is asked"


def test_budgets_bound_it(store: Store) -> None:
    assert forecast(LINE, store, Budget(usd=0.1)).max_usd == 0.1
    assert forecast(LINE, store, Budget(usd=100)).max_usd == pytest.approx(24 * PER_DRAW)
    assert forecast(LINE, store, Budget(tokens=50)).max_tokens == 50


def test_a_shard_pays_for_its_own_questions(store: Store) -> None:
    parts = [forecast_run(TASK, recipe(LINE), PaidToy(), store, shard=Shard(i, 2)) for i in range(2)]
    assert sum(part.num_draws for part in parts) == 24
    assert [part.num_draws for part in parts] == [
        4 * sum(Shard(i, 2).holds(f"q{n}") for n in range(NUM)) for i in (0, 1)
    ]


def test_an_unknown_price_is_not_zero(store: Store) -> None:
    told = forecast(LINE, store, engine=PaidToy(Price()))
    assert math.isnan(told.max_usd)
    assert told.most_usd == math.inf


@given(draws=st.integers(1, 9), max_tokens=st.integers(1, 5))
def test_no_run_costs_more_than_at_most(draws: int, max_tokens: int) -> None:
    line = f"repeat({draws}, max_tokens={max_tokens}) | vote"
    with Store(":memory:") as store:
        told = forecast(line, store)
        summary = asyncio.run(run_task(TASK, recipe(line), PaidToy(), store))
    assert told.num_draws == NUM * draws
    assert summary.spent.usd <= told.max_usd + 1e-12
    assert summary.spent.tokens <= told.max_tokens
