"""What a run may cost, before it is sent: exact worst cases, stored draws left out, and what is not known named."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.paid import PaidToy

from samplewise.core.prices import Price
from samplewise.core.types import Message, Problem, Question, Score
from samplewise.loop.keys import run_key
from samplewise.loop.ledger import Budget, total
from samplewise.recipe import recipe
from samplewise.runs.forecast import RunForecast, Span, forecast_run
from samplewise.runs.foresee import foresee
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
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s.db") as opened:
        yield opened


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
        ("power(2, 3) | best(judge)", ("later draws of power", "judge")),
    ],
)
def test_what_is_not_known_counts_as_too_much(line: str, unknown: tuple[str, ...], store: Store) -> None:
    told = forecast(line, store)
    assert tuple(name.partition("(")[0] for name in told.unknown) == unknown
    assert told.most_usd == math.inf
    assert forecast(line, store, Budget(usd=0.5)).most_usd == 0.5, "a budget holds whatever is asked"


HELPED = [
    "repeat(4, max_tokens=3) | best(judge)",
    "repeat(4, max_tokens=3) | best(judge(samples=1))",
    "repeat(5, max_tokens=3) | best(knockout)",
    "repeat(5, max_tokens=3) | best(knockout(votes=2))",
    "repeat(5, max_tokens=3) | best(pivot)",
    "repeat(4, max_tokens=3) | usc",
    "vary(idea(2)) | repeat(4, max_tokens=3) | vote",
    "vary(rephrase(2)) | repeat(4, max_tokens=3) | vote",
    "vary(rephrase(2), idea(1)) | repeat(6, max_tokens=3) | best(judge)",
    "repeat(6, max_tokens=3) | until(passed(judge, score=0.9)) | best(judge)",
    "repeat(6, max_tokens=3) | until(passed(knockout, score=9)) | best(knockout)",
]


@pytest.mark.parametrize("line", HELPED)
def test_helpers_and_judges_are_counted_and_a_run_spends_no_more(line: str, store: Store) -> None:
    made = recipe(line)
    told = forecast(line, store)
    assert told.unknown == ()
    assert told.num_draws == NUM * (made.max_draws or 0)
    assert told.num_others > 0
    summary = asyncio.run(run_task(TASK, made, PaidToy(), store))
    of_draws = NUM * (made.max_draws or 0)
    bills = [record.bill for record in store.records(summary.run)]
    asked = sum(bill.helpers.requests + sum(j.requests for j in bill.judges.values()) for bill in bills if bill)
    assert 0 < asked <= told.num_others
    assert summary.spent.requests <= told.num_requests == of_draws + told.num_others
    assert summary.spent.tokens <= told.max_tokens
    assert summary.spent.usd <= told.max_usd
    assert told.most_usd == told.max_usd < 50 * summary.spent.usd, "a bound that says something"
    if made.stop is None:
        again = forecast(line, store)
        assert (again.num_requests, again.max_usd) == (0, 0.0), "it knows the very requests of helpers and judges"


def test_how_many_requests_a_judge_is_sure_to_make(store: Store) -> None:
    """A request for each response, and as every digit may be unreadable two more; a knockout of 5 has 4 pairs."""
    assert forecast("repeat(4, max_tokens=3) | best(judge)", store).num_others == NUM * 4 * 3
    assert forecast("repeat(4, max_tokens=3) | best(judge(samples=1))", store).num_others == NUM * 4
    assert forecast("repeat(5, max_tokens=3) | best(knockout)", store).num_others == NUM * 4 * 2
    assert forecast("vary(idea(2)) | repeat(4, max_tokens=3) | vote", store).num_others == NUM * 2 * 2, "asked twice"


@pytest.mark.parametrize("line", ["vary(idea(2)) | repeat(6) | vote", "vary(idea(4)) | repeat(6) | vote"])
def test_a_prompt_with_a_helpers_text_is_no_longer_than_foreseen(line: str, store: Store) -> None:
    question = TASK.problems[0].question
    most = foresee(question, recipe(line), run_key(0), PaidToy(), store, TASK.read).draws
    summary = asyncio.run(run_task(TASK, recipe(line), PaidToy(), store))
    bill = next(iter(store.records(summary.run))).bill
    assert bill is not None
    lengths = [usage.prompt_tokens for usage in bill.draws]
    assert max(lengths) > min(lengths), "a helper's text is in some of them"
    assert all(spent.prompt_tokens <= worst.prompt_tokens for spent, worst in zip(bill.draws, most, strict=True))


def test_a_judge_that_a_rule_looks_at_is_asked_about_every_pool(store: Store) -> None:
    often = forecast("repeat(5, max_tokens=3) | until(passed(knockout, score=9)) | best(knockout)", store).num_others
    once = forecast("repeat(5, max_tokens=3) | best(knockout)", store).num_others
    assert often > once


def test_what_helpers_and_judges_took_before_is_what_they_will_take_about(store: Store) -> None:
    line = "repeat(4, max_tokens=3) | best(judge(samples=1))"
    first = asyncio.run(run_task(TASK, recipe(line), PaidToy(), store))
    other = forecast_run(TASK, recipe(line), PaidToy(), store, seed=1)
    assert other.num_earlier == first.spent.requests
    bills = [record.bill for record in store.records(first.run) if record.bill]
    per_draw = math.fsum(total(bill.draws).usd / 4 for bill in bills) / NUM
    judged = [total(bill.judges.values()) for bill in bills]
    per_verdict = math.fsum(usage.usd / usage.requests for usage in judged) / NUM
    assert other.usd.value == pytest.approx(NUM * 4 * (per_draw + per_verdict))
    summary = asyncio.run(run_task(TASK, recipe(line), PaidToy(), store, seed=1))
    assert other.usd.low <= summary.spent.usd <= other.usd.high, "equal responses are judged once, so less is asked"


def test_a_judge_of_unknown_cost_has_no_figure_about_it(store: Store) -> None:
    asyncio.run(run_task(TASK, recipe(LINE), PaidToy(), store))
    told = forecast("repeat(4, max_tokens=3) | best(judge)", store)
    assert math.isnan(told.usd.value)
    assert told.num_earlier == 0


def test_a_limit_of_requests_bounds_it_by_the_dearest(store: Store) -> None:
    """All draws were forecast, whatever the limit, and a question was asked about money that could not be spent."""
    told = forecast(LINE, store, Budget(requests=10))
    assert (told.num_draws, told.max_tokens) == (10, 50)
    assert told.max_usd == pytest.approx(10 * PER_DRAW)
    judged = forecast("repeat(4, max_tokens=3) | best(judge)", store, Budget(requests=3))
    whole = forecast("repeat(4, max_tokens=3) | best(judge)", store)
    assert judged.num_others == 3 < whole.num_others
    assert 3 * PER_DRAW < judged.max_usd < whole.max_usd / 3, "judges' requests are the dearest"
    assert math.isnan(forecast(LINE, store, Budget(requests=3), PaidToy(Price())).max_usd)


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
