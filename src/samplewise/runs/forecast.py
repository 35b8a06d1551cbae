"""What a run may cost, before anything is sent: at most, by the worst case of each draw, and about, by earlier draws.

Asks nothing of the engine. Draws that the store holds cost nothing and are left out. What cannot be known beforehand (a
sampler that decides as it goes, helpers, judges, reward models) is named instead of guessed.

At most: the sum of `engine.worst_case` over all draws of all questions, no more than the budget. About: earlier runs on
the same engine in the store give the tokens and the money of a request, as means over questions with 95 % intervals;
at the low end, a recipe that may stop early makes one draw of each question.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from samplewise.core.types import Ask, BatchVerifier, Usage
from samplewise.engines.base import Engine
from samplewise.loop.drive import FirstAsks, first_asks
from samplewise.loop.keys import run_key
from samplewise.loop.ledger import Budget, total
from samplewise.measure import mean_interval
from samplewise.recipe import Recipe
from samplewise.runs.shards import Shard
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.tasks.base import Task
from samplewise.verify.base import Judge

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
    seed: int = 0,
    budget: Budget = Budget(),
    shard: Shard | None = None,
) -> RunForecast:
    """Return what this run, or one shard of it, may cost. The engine must be open. Costs nothing."""
    problems = [problem for problem in task.problems if shard is None or shard.holds(problem.question.id)]
    recipe = recipe.with_max_tokens(engine.default_max_tokens)
    key, num_stored, costs = run_key(seed), 0, list[Usage]()
    unknown: dict[str, None] = {}
    for problem in problems:
        first = first_asks(problem.question, recipe, key)
        missing = _not_stored(first.draws, engine, store)
        num_stored += len(first.draws) - len(missing)
        costs += [engine.worst_case(ask) for ask in missing]
        unknown |= dict.fromkeys(_unknown(recipe, first))
    worst = total(costs)
    capped = [cap for cap in (budget.tokens,) if cap is not None]
    forecast = RunForecast(len(costs), num_stored, min([worst.tokens, *capped]), worst.usd, unknown=tuple(unknown))
    if budget.usd is not None:  # holds whatever is not known
        forecast = forecast._replace(max_usd=budget.usd if unknown else min(worst.usd, budget.usd), unknown=())
    return _with_earlier(forecast, recipe, len(problems), engine, store)


def _not_stored(asks: Sequence[Ask], engine: Engine, store: Store) -> list[Ask]:
    digests = [digest_of(engine.member(ask).identity, ask) for ask in asks]
    known = store.draws(digests)
    return [ask for ask, digest in zip(asks, digests, strict=True) if digest not in known]


def _unknown(recipe: Recipe, first: FirstAsks) -> Iterator[str]:
    """Yield what the recipe may ask beyond the draws that are known beforehand."""
    if first.helpers:
        yield "helpers"
    if recipe.max_draws is None or len(first.draws) < recipe.max_draws:
        yield f"later draws of {recipe.sampler.name}"
    for name, verifier in recipe.verifiers.items():
        if isinstance(verifier, BatchVerifier) or (isinstance(verifier, Judge) and verifier.asks):
            yield name


def _with_earlier(
    forecast: RunForecast, recipe: Recipe, num_questions: int, engine: Engine, store: Store
) -> RunForecast:
    """Add what draws like these took in earlier runs, if the store has enough of them."""
    tokens, money, num = list[float](), list[float](), 0
    for run in store.runs():
        if run.engine == engine.identity:
            for outcome in store.outcomes(run.id):
                spent = outcome.spent
                if spent.requests and len(tokens) < MAX_EARLIER:
                    num += spent.requests
                    tokens.append(spent.tokens / spent.requests)
                    money.append(spent.usd / spent.requests)
    if len(tokens) < MIN_EARLIER or not forecast.num_draws:
        return forecast
    least = forecast.num_draws if recipe.stop is None else min(num_questions, forecast.num_draws)
    return forecast._replace(
        tokens=_span(tokens, least, forecast.num_draws, forecast.max_tokens),
        usd=_span(money, least, forecast.num_draws, forecast.max_usd),
        num_earlier=num,
    )


def _span(values: Sequence[float], least: int, most: int, cap: float) -> Span:
    """Return the cost of `most` requests, its low end that of `least`, no end above `cap`."""
    mean = mean_interval(values, support=None)
    low, high = (mean.value if math.isnan(end) else end for end in (mean.low, mean.high))  # values that are all equal
    ends = (most * mean.value, least * max(low, 0.0), most * high)
    return Span(*(end if math.isnan(cap) else min(end, cap) for end in ends))
