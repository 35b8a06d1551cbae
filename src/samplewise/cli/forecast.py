"""The line that says what a run may cost, and the question whether to go on."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

from samplewise.core.errors import UsageError
from samplewise.core.types import Generate
from samplewise.engines.base import Engine
from samplewise.loop.ledger import Budget
from samplewise.recipe import Recipe
from samplewise.runs.forecast import RunForecast, forecast_run
from samplewise.runs.shards import Shard
from samplewise.store.database import Store
from samplewise.tasks.base import Task


class Declined(UsageError):
    """The user does not want the run at this price."""


def confirm_cost(
    task: Task,
    recipes: Sequence[Recipe],
    engine: Engine,
    store: Store,
    seed: int,
    budget: Budget,
    shard: Shard | None,
    limit_usd: float | None,
) -> None:
    """Say what each run may cost where it costs money, and ask whether to go on where the sum may pass the limit.

    Raises UsageError where nobody can be asked, or the answer is no. The engine must be open; nothing is sent.
    """
    members = ("", *engine.members)  # a helper or a judge may cost money where the solver does not
    if limit_usd is None and all(engine.worst_case(Generate((), engine=name)).usd == 0 for name in members):
        return
    forecasts = [forecast_run(task, recipe, engine, store, seed=seed, budget=budget, shard=shard) for recipe in recipes]
    for forecast in forecasts:
        if forecast.num_requests:
            print(f"forecast: {describe_forecast(forecast)}", file=sys.stderr)
    most = math.fsum(forecast.most_usd for forecast in forecasts if forecast.num_requests)
    if limit_usd is None or most <= limit_usd:
        return
    cost = f"up to {most:,.2f} USD" if math.isfinite(most) else "an amount that is not known beforehand"
    cost_text = f"this may cost {cost}; the limit without asking is {limit_usd:g} USD"
    if not sys.stdin.isatty():
        raise Declined(f"{cost_text}: --yes goes on, --budget-usd {limit_usd:g} holds it there")
    print(f"{cost_text}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Declined("nothing was sent")


def describe_forecast(forecast: RunForecast) -> str:
    """Return a forecast in words: 1,600 draws, at most 1.9 M tokens and 4.10 USD; about 1.2 M tokens, ..."""
    stored = f" beyond {forecast.num_stored:,} in the store" if forecast.num_stored else ""
    most = "money of unknown price" if math.isnan(forecast.max_usd) else f"{forecast.max_usd:,.2f} USD"
    others = f" and up to {forecast.num_others:,} requests of helpers and judges" if forecast.num_others else ""
    text = f"{forecast.num_draws:,} draws{stored}{others}, at most {_tokens(forecast.max_tokens)} and {most}"
    if forecast.num_earlier:
        text += f"; about {_tokens(forecast.tokens.value)}"
        if not math.isnan(forecast.usd.value):
            text += f", {forecast.usd.low:,.2f} to {forecast.usd.high:,.2f} USD"
        text += f", as {forecast.num_earlier:,} earlier requests"
    if forecast.unknown:
        text += f"; without {', '.join(forecast.unknown)}"
    return text


def _tokens(num: float) -> str:
    for unit, name in ((1e9, "G "), (1e6, "M "), (1e3, "k ")):
        if num >= unit:
            return f"{num / unit:.1f} {name}tokens"
    return f"{num:.0f} tokens"
