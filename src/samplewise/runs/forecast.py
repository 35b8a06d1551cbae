"""What a run may cost, before anything is sent: at most, by the worst case of each draw, and about, by earlier draws.

Asks nothing of the engine. What the store holds costs nothing and is left out. What cannot be known beforehand (a
sampler that decides as it goes, reward models) is named instead of guessed.

At most: the sum of `engine.worst_case` over all draws of all questions, and all that helpers and judges may be asked
about them (see `samplewise.runs.foresee`), no more than the budget. About: earlier runs on the same engine in the store
give the tokens and the money of a draw, and of a request of a helper or judge, as means over questions with 95 %
intervals, times as many as there may be; at the low end, a recipe that may stop early makes one draw of each question,
and helpers and judges are not asked.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from samplewise.core.bill import read_bill
from samplewise.core.types import Usage
from samplewise.engines.base import Engine
from samplewise.loop.keys import run_key
from samplewise.loop.ledger import Budget, total
from samplewise.measure import mean_interval
from samplewise.recipe import Recipe
from samplewise.runs.foresee import foresee
from samplewise.runs.shards import Shard
from samplewise.store.database import Store
from samplewise.tasks.base import Task

MIN_EARLIER = 5  # questions of earlier runs that an interval takes
MAX_EARLIER = 500  # that are read


class Span(NamedTuple):
    """A figure with its lower and upper end; nan where nothing is known."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


class RunForecast(NamedTuple):
    """What a run may cost. Money is in US dollars, nan where a price is unknown."""

    num_draws: int  # that are asked at most; those in the store left out
    num_stored: int
    max_tokens: int
    max_usd: float
    tokens: Span = Span()
    usd: Span = Span()
    num_earlier: int = 0  # requests of earlier runs that `tokens` and `usd` rest on
    unknown: tuple[str, ...] = ()  # what costs something that is not in any figure
    num_others: int = 0  # requests of helpers and judges, at most; those in the store left out

    @property
    def num_requests(self) -> int:
        """All requests, at most."""
        return self.num_draws + self.num_others

    @property
    def most_usd(self) -> float:
        """The most that the run can cost: infinite where something is not known."""
        return math.inf if self.unknown or math.isnan(self.max_usd) else self.max_usd


def forecast_run(
    task: Task,
    recipe: Recipe,
    engine: Engine,
    store: Store,
    *,
    shard: Shard | None = None,
    seed: int = 0,
    budget: Budget = Budget(),
) -> RunForecast:
    """Return what this run, or one shard of it, may cost. The engine must be open. Costs nothing."""
    problems = [problem for problem in task.problems if shard is None or shard.holds(problem.question.id)]
    recipe = recipe.with_max_tokens(engine.default_max_tokens)
    key = run_key(seed)
    foreseen = [foresee(problem.question, recipe, key, engine, store, task.read) for problem in problems]
    unknown = tuple(dict.fromkeys(name for each in foreseen for name in each.unknown))
    draws = [cost for each in foreseen for cost in each.draws]
    others = [cost for each in foreseen for cost in each.others]
    num_stored = sum(each.num_stored for each in foreseen)
    costs = [*draws, *others]
    most = len(costs) if budget.requests is None else min(budget.requests, len(costs))
    tokens = sum(heapq.nlargest(most, (cost.tokens for cost in costs)))
    usd = math.fsum(heapq.nlargest(most, (cost.usd for cost in costs), key=lambda usd: (math.isnan(usd), usd)))
    forecast = RunForecast(
        min(len(draws), most),
        num_stored,
        tokens if budget.tokens is None else min(tokens, budget.tokens),
        usd,
        unknown=unknown,
        num_others=min(len(others), most),
    )
    if budget.usd is not None:  # holds whatever is not known
        forecast = forecast._replace(max_usd=budget.usd if unknown else min(usd, budget.usd), unknown=())
    return _with_earlier(forecast, recipe, len(problems), engine, store)


def _with_earlier(
    forecast: RunForecast, recipe: Recipe, num_questions: int, engine: Engine, store: Store
) -> RunForecast:
    """Add what requests like these took in earlier runs, if the store has enough of them of each kind."""
    draws, others, num = list[Usage](), list[Usage](), 0  # means over the requests of a question
    for run in store.runs():
        if run.engine != engine.identity or len(draws) >= MAX_EARLIER:
            continue
        for of_draws, of_others in _costs_by_kind(store, run.id):
            num += of_draws.requests + of_others.requests
            draws += [of_draws] if of_draws.requests else []
            others += [of_others] if of_others.requests else []
    if len(draws) < MIN_EARLIER or (forecast.num_others and len(others) < MIN_EARLIER) or not forecast.num_requests:
        return forecast
    least = forecast.num_draws if recipe.stop is None else min(num_questions, forecast.num_draws)
    num_others = forecast.num_others
    tokens = [
        _span([usage.tokens / usage.requests for usage in draws], least, forecast.num_draws),
        _span([usage.tokens / usage.requests for usage in others], 0, num_others),
    ]
    money = [
        _span([usage.usd / usage.requests for usage in draws], least, forecast.num_draws),
        _span([usage.usd / usage.requests for usage in others], 0, num_others),
    ]
    return forecast._replace(
        tokens=_capped(tokens, forecast.max_tokens), usd=_capped(money, forecast.max_usd), num_earlier=num
    )


def _costs_by_kind(store: Store, run: str) -> Iterator[tuple[Usage, Usage]]:
    """Yield what the draws of each question of a run cost, and what its helpers and judges did.

    A run of the first stores has one sum for both: it counts as that of the draws.
    """
    if not store.has_bills(run):
        yield from ((outcome.spent, Usage()) for outcome in store.outcomes(run))
        return
    for _, _, data in store.bills(run):
        bill = read_bill(data)
        yield total(bill.draws), total([bill.helpers, *bill.judges.values()])


def _span(values: Sequence[float], least: int, most: int) -> Span:
    """Return the cost of `most` requests, its low end that of `least`."""
    if not most:
        return Span(0.0, 0.0, 0.0)
    mean = mean_interval(values, support=None)
    low, high = (mean.value if math.isnan(end) else end for end in (mean.low, mean.high))  # values that are all equal
    return Span(most * mean.value, least * max(low, 0.0), most * high)


def _capped(spans: Sequence[Span], cap: float) -> Span:
    """Return the sum of spans, no end above `cap`."""
    ends = (math.fsum(ends) for ends in zip(*spans, strict=True))
    return Span(*(end if math.isnan(cap) else min(end, cap) for end in ends))
