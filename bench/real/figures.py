"""What a method is worth: its value on each problem, its tokens, rounds and seconds; differences with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.real.benchmarks import SEED
from bench.real.pools import Pools, Row, candidates_of, graded
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import Pool
from samplewise.measure import mean_interval, paired_difference
from samplewise.measure.compare import Curve, at_tokens
from samplewise.measure.coverage import pass_at
from samplewise.select.base import Selector

NUM_ORDERS = 40  # random orders of a question's draws
KEY = Key(SEED).fold("real", "decide")
Worth = Callable[[Row], Callable[[Sequence[int]], float]]  # of a row: what some of its draws, by index, are worth


class Figure(NamedTuple):
    """A method at one size. Tokens and processor seconds are means over the questions."""

    values: Floats  # (P,) in [0, 1]
    tokens: float
    seconds: float
    rounds: float
    draws: float = 1.0

    def json(self) -> dict[str, Any]:
        """Return what the bench prints of it."""
        estimate = mean_interval(self.values)
        return {
            "accuracy": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "draws": self.draws,
        }


class Difference(NamedTuple):
    """A paired difference of two methods over problems, with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def word(self) -> str:
        """What it says of a claim that it is above zero."""
        return "confirmed" if self.low > 0 else "opposite" if self.high < 0 else "not seen"

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def difference(first: Floats, second: Floats) -> Difference:
    """Return by how much `first` is better than `second`, both (P,)."""
    estimate = paired_difference(first, second)
    return Difference(estimate.value, estimate.low, estimate.high)


# --------------------------------------------------------------------------------------------------------------- orders


def family(arm: str) -> str:
    """Return the arm that a variant is of: `role` for `role/code/03`."""
    return arm.partition("/")[0].partition(".")[0]


def dealt_orders(arms: Sequence[str], key: Key, num_orders: int = NUM_ORDERS) -> Ints:
    """Return random orders (R, N) of draws, dealt in turn to the families of arms, in a family to its variants.

    A direct draw comes first, where there is one: so a mix begins. Draws of one arm alone are simply shuffled.
    """
    generator, num = key.generator(), len(arms)
    families = [family(arm) for arm in arms]
    orders = np.zeros((num_orders, num), dtype=np.int64)
    for row in orders:
        chance = generator.random(num)
        in_variant = _turns(arms, chance)
        in_family = _turns(families, in_variant + chance / 2)
        first = np.array([name != "direct" for name in families]) if len(set(families)) > 1 else np.zeros(num)
        row[:] = np.lexsort((chance, first * (in_family == 0), in_family))
    return orders


def _turns(names: Sequence[str], rank: Floats) -> Floats:
    """Return each item's place (N,) among those of its name, by `rank`."""
    turns = np.zeros(len(names))
    for name in set(names):
        own = np.array([i for i, other in enumerate(names) if other == name])
        turns[own[np.argsort(rank[own], kind="stable")]] = np.arange(len(own))
    return turns


# --------------------------------------------------------------------------------------------------------------- worths


def solved(row: Row) -> Callable[[Sequence[int]], float]:
    """Return whether any draw is right."""
    return lambda indices: max((row.grades[i] for i in indices), default=0.0)


def distinct_right(row: Row, indices: Sequence[int]) -> float:
    """Return the number of different right answers; of programs, of different syntax trees."""
    return float(len({row.answers[i] for i in indices if row.grades[i] == 1.0}))


def chosen_by(selector: Selector) -> Worth:
    """Return the grade of what a selector chooses, 0 where it chooses nothing.

    Each order of the draws has a key of its own: what a selector leaves to chance, as ties, is averaged over orders.
    """

    def of(row: Row) -> Callable[[Sequence[int]], float]:
        candidates, key = candidates_of(row), KEY.fold("select", row.question)

        def worth(indices: Sequence[int]) -> float:
            pool = Pool(tuple(candidates[i] for i in indices))
            own_key = key.fold(*indices)
            position = selector.choose(own_key, pool, tuple(row.answers[i] for i in indices)).position
            return 0.0 if position is None else row.grades[indices[position]]

        return worth

    return of


class Dealt(NamedTuple):
    """A method's rows (P) with the draws that are counted, and what a drawn token costs in processor seconds."""

    rows: Sequence[Row]
    seconds_per_token: float
    rounds: float = 1.0

    def at(self, worth: Worth, k: int, num_orders: int = NUM_ORDERS) -> Figure:
        """Return what k draws are worth: means over random orders."""
        values, tokens, drawn = (np.zeros(len(self.rows)) for _ in range(3))
        for index, row in enumerate(self.rows):
            own, arms = worth(row), row.arms or ("direct",) * len(row.answers)
            orders = dealt_orders(arms, KEY.fold("orders", row.question), num_orders)[:, :k].tolist()
            values[index] = np.mean([own(order) for order in orders])
            tokens[index] = row.helpers + np.mean([sum(row.costs[i] for i in order) for order in orders])
            drawn[index] = np.mean([sum(row.tokens[i] for i in order) for order in orders])
        return Figure(values, float(tokens.mean()), float(drawn.mean()) * self.seconds_per_token, self.rounds, k)

    def curve(self, worth: Worth, ks: Sequence[int]) -> list[Figure]:
        """Return the figures at several k."""
        return [self.at(worth, k) for k in ks]


def passes(dealt: Dealt, k: int) -> Figure:
    """Return pass@k of draws of one arm, exactly."""
    figure = dealt.at(solved, k, 1)
    grades = graded(dealt.rows).grades
    mean = float(np.mean([np.mean(row.costs) for row in dealt.rows]))
    drawn = float(np.mean([np.mean(row.tokens) for row in dealt.rows]))
    return figure._replace(
        values=np.asarray(pass_at(grades, [k])[0]), tokens=k * mean, seconds=k * drawn * dealt.seconds_per_token
    )


def at_equal(figures: Sequence[Figure], ks: Sequence[int], cost: float, *, by: str = "tokens") -> Floats:
    """Return the values (P,) of a curve at a cost in tokens or seconds, two neighboring k by lot; nan below it."""
    costs = np.maximum.accumulate([getattr(figure, by) for figure in figures])
    curve = Curve("", np.array(ks), costs, np.stack([figure.values for figure in figures]))
    return at_tokens(curve, cost, interpolate=True).per_problem


def method(pools: Pools, name: str, arms: Sequence[str] = (), rounds: float = 1.0) -> Dealt:
    """Return a method's recorded draws; only those of some families of arms, where they are named."""
    rows = pools.of(name)
    if arms:
        rows = [_only(row, [i for i, arm in enumerate(row.arms) if family(arm) in arms]) for row in rows]
    return Dealt(rows, pools.seconds_per_token(name), rounds)


def greedy_of(pools: Pools, questions: Collection[str]) -> Figure | None:
    """Return the one draw at temperature 0 of some questions, None where it is not recorded for all of them."""
    dealt = method(pools, "greedy")
    dealt = dealt._replace(rows=[row for row in dealt.rows if row.question in questions])
    return dealt.at(solved, 1, 1) if len(dealt.rows) == len(questions) else None


def joined(*parts: Dealt) -> Dealt:
    """Return several methods' draws as one pool a question, helpers' tokens and all."""
    by_question: dict[str, list[Row]] = {}
    for part in parts:
        for row in part.rows:
            by_question.setdefault(row.question, []).append(row)
    whole = [rows for rows in by_question.values() if len(rows) == len(parts)]
    drawn = [sum(sum(row.tokens) for row in part.rows) for part in parts]
    seconds = sum(part.seconds_per_token * num for part, num in zip(parts, drawn, strict=True)) / max(1, sum(drawn))
    return Dealt([_join(rows) for rows in whole], seconds, max(part.rounds for part in parts))


def _only(row: Row, indices: Sequence[int]) -> Row:
    def some(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[i] for i in indices) if values else ()

    scores = {name: some(values) for name, values in row.scores.items()}
    return row._replace(
        answers=some(row.answers),
        grades=some(row.grades),
        tokens=some(row.tokens),
        costs=some(row.costs),
        logps=some(row.logps),
        arms=some(row.arms),
        log_weights=some(row.log_weights),
        scores=scores,
    )


def _join(rows: Sequence[Row]) -> Row:
    first = rows[0]

    def all_of(name: str) -> tuple[Any, ...]:
        return tuple(value for row in rows for value in getattr(row, name))

    names = set.intersection(*(set(row.scores) for row in rows)) - {"outputs"}  # whose numbers count within a row
    return first._replace(
        answers=all_of("answers"),
        grades=all_of("grades"),
        tokens=all_of("tokens"),
        costs=all_of("costs"),
        logps=all_of("logps"),
        arms=tuple(arm for row in rows for arm in row.arms or ("direct",) * len(row.answers)),
        log_weights=(),
        scores={name: tuple(v for row in rows for v in row.scores[name]) for name in names},
        helpers=math.fsum(row.helpers for row in rows),
        rest=math.fsum(row.rest for row in rows),
    )


def common(*parts: Dealt) -> list[Dealt]:
    """Return the parts with the questions alone that all of them have, in one order."""
    shared = set.intersection(*({row.question for row in part.rows} for part in parts))
    return [part._replace(rows=[row for row in part.rows if row.question in shared]) for part in parts]


def spread_json(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Return figures as plain data."""
    return {name: figure.json() for name, figure in figures.items()}
