"""What a method is worth: its value on each problem, its tokens, rounds and seconds; differences with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bench.real.benchmarks import SEED
from bench.real.pools import JOINT, Pools, Row, candidates_of, graded
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
    compared: tuple[Floats, Floats] | None = None  # both (P,), where problems of several benchmarks can be pooled

    def json(self) -> dict[str, float]:
        """Return what the bench prints of it."""
        return {"value": self.value, "low": self.low, "high": self.high}

    @property
    def word(self) -> str:
        """What it says of a claim that it is above zero."""
        return "confirmed" if self.low > 0 else "opposite" if self.high < 0 else "not seen"

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def difference(first: Floats, second: Floats) -> Difference:
    """Return by how much `first` is better than `second`, both (P,)."""
    estimate = paired_difference(first, second)
    return Difference(estimate.value, estimate.low, estimate.high, (first, second))


def pooled(differences: Sequence[Difference]) -> Difference | None:
    """Return one difference over the problems of all of them, each problem counting the same; None for fewer than two
    whose problems are known."""
    known = [each.compared for each in differences if each.compared is not None]
    if len(known) < 2 or len(known) < len(differences):
        return None
    return difference(np.concatenate([ours for ours, _ in known]), np.concatenate([theirs for _, theirs in known]))


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
    """A method's rows (P) with the draws that are counted, and what they cost in processor seconds.

    A helper's replies are paid for whole, in tokens and in seconds, however many draws use them.
    """

    rows: Sequence[Row]
    seconds_per_token: float
    rounds: float = 1.0
    helper_seconds: float = 0.0  # a question, before its first draw

    def curve(self, worth: Worth, ks: Sequence[int], num_orders: int = NUM_ORDERS) -> list[Figure]:
        """Return what k draws are worth, for several k: means over random orders, which all k share."""
        values, tokens, drawn = (np.zeros((len(ks), len(self.rows))) for _ in range(3))
        for index, row in enumerate(self.rows):
            own = worth(row)
            orders = dealt_orders(row.all_arms, KEY.fold("orders", row.question), num_orders)
            for level, k in enumerate(ks):
                some = orders[:, :k]
                values[level, index] = np.mean([own(order) for order in some.tolist()])
                tokens[level, index] = row.helpers + np.array(row.costs)[some].sum(axis=1).mean()
                drawn[level, index] = np.array(row.tokens)[some].sum(axis=1).mean()
        seconds = self.helper_seconds + drawn.mean(axis=1) * self.seconds_per_token
        return [
            Figure(values[level], float(tokens[level].mean()), float(seconds[level]), self.rounds, k)
            for level, k in enumerate(ks)
        ]

    def at(self, worth: Worth, k: int, num_orders: int = NUM_ORDERS) -> Figure:
        """Return what k draws are worth: means over random orders."""
        return self.curve(worth, [k], num_orders)[0]


def passes(dealt: Dealt, ks: Sequence[int]) -> list[Figure]:
    """Return pass@k of draws of one arm, exactly, for several k."""
    values = pass_at(graded(dealt.rows).grades, ks)
    mean = float(np.mean([np.mean(row.costs) for row in dealt.rows]))
    drawn = float(np.mean([np.mean(row.tokens) for row in dealt.rows])) * dealt.seconds_per_token
    return [Figure(np.asarray(values[i]), k * mean, k * drawn, dealt.rounds, k) for i, k in enumerate(ks)]


def at_equal(figures: Sequence[Figure], ks: Sequence[int], cost: float, *, by: str = "tokens") -> Floats:
    """Return the values (P,) of a curve at a cost in tokens or seconds, two neighboring k by lot.

    nan where the cost does not buy the smallest k, or more than the largest: what costs less is no equal.
    """
    costs = np.maximum.accumulate([getattr(figure, by) for figure in figures])
    if np.isnan(costs).any() or not cost <= costs[-1] * (1 + 1e-9):
        return np.full(len(figures[0].values), np.nan)
    curve = Curve("", np.array(ks), costs, np.stack([figure.values for figure in figures]))
    return at_tokens(curve, cost, interpolate=True).per_problem


def method(pools: Pools, name: str, rounds: float = 1.0) -> Dealt:
    """Return a method's recorded draws."""
    pace = pools.pace(name)
    return Dealt(pools.of(name), pace.token, rounds, pace.helpers)


def only(dealt: Dealt, arms: Collection[str]) -> Dealt:
    """Return the draws of some families of arms alone; what helpers said is paid for all the same."""
    indices = [[i for i, arm in enumerate(row.all_arms) if family(arm) in arms] for row in dealt.rows]
    return dealt._replace(rows=[row.some(own) for row, own in zip(dealt.rows, indices, strict=True)])


def complete(drawn: Mapping[str, Dealt]) -> dict[str, Dealt]:
    """Return the methods that have all questions of the first one, with those alone: others are not drawn to the end.

    So a method of which a part is recorded takes no question away from the others.
    """
    if not drawn:
        return {}
    questions = {row.question for row in next(iter(drawn.values())).rows}
    shared = {
        name: dealt._replace(rows=[row for row in dealt.rows if row.question in questions])
        for name, dealt in drawn.items()
    }
    return {name: dealt for name, dealt in shared.items() if dealt.rows and len(dealt.rows) == len(questions)}


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
    helpers = math.fsum(part.helper_seconds for part in parts)
    return Dealt([_join(rows) for rows in whole], seconds, max(part.rounds for part in parts), helpers)


def _join(rows: Sequence[Row]) -> Row:
    first = rows[0]

    def all_of(name: str) -> tuple[Any, ...]:
        return tuple(value for row in rows for value in getattr(row, name))

    names = {_shared_name(name): name for name in set.intersection(*(set(row.scores) for row in rows))}
    names.pop("", None)
    return first._replace(
        answers=all_of("answers"),
        grades=all_of("grades"),
        tokens=all_of("tokens"),
        costs=all_of("costs"),
        logps=all_of("logps"),
        arms=tuple(arm for row in rows for arm in row.all_arms),
        log_weights=(),
        scores={shared: tuple(v for row in rows for v in row.scores[name]) for shared, name in names.items()},
        helpers=math.fsum(row.helpers for row in rows),
        rest=math.fsum(row.rest for row in rows),
    )


def _shared_name(score: str) -> str:
    """Return what a score is called in joined rows: `outputs` counts within a row alone, and is "" there."""
    return "" if score == "outputs" else "outputs" if score.startswith(JOINT) else score


def spread_json(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Return figures as plain data."""
    return {name: figure.json() for name, figure in figures.items()}
