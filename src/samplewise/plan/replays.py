"""Stop rules in replay: what a rule would have done on pools that are stored, in many random orders.

A pool of N draws gives N! runs of a rule, of which some hundred tell its mean cost and accuracy. The orders are drawn
without replacement, so a rule never sees a draw twice, and a rule that does not stop ends with the pool. Where the pool
is little larger than what the rule draws, its orders are much alike: the spread between questions is right, that
between runs of one question is too small. A rule is a fold, so an order costs one pass: a few microseconds a draw.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samplewise.keys import Key
from samplewise.numerics import Floats
from samplewise.select.base import Selector
from samplewise.stop.base import NOBODY, StopRule
from samplewise.store import Store
from samplewise.types import Candidate, Pool, Question, Stop, Usage

NUM_ORDERS = 100


class Replay(NamedTuple):
    """One order of one pool. `stop` is None where the rule would have gone on."""

    draws: int
    stop: Stop | None
    tokens: float


class Stored(NamedTuple):
    """A question's pool as replays take it: N candidates with their scores, answers, grades, and tokens each."""

    question: Question
    candidates: tuple[Candidate, ...]
    answers: tuple[str | None, ...]
    grades: tuple[float, ...]
    costs: tuple[float, ...]


class Replays(NamedTuple):
    """A rule and a selector on P pools in R orders each, none drawing more than `cap`."""

    cap: int
    draws: NDArray[np.int64]  # (P, R)
    tokens: Floats  # (P, R)
    grades: Floats  # (P, R) of the answer chosen from the draws made
    reasons: Mapping[str, float]  # share of the runs that ended so; "cap" where the rule did not stop


def stored_pools(store: Store, run: str, *, extra: float = 0.0) -> tuple[Stored, ...]:
    """A run's pools. A draw costs its own tokens, an even share of what else its question spent (prompts, thinkers,
    judges), and `extra` tokens for verifiers that the run did not pay for."""
    pools = []
    for record in store.records(run):
        drawn = [float(candidate.num_tokens) for candidate in record.pool.candidates]
        shared = (record.spent.tokens - sum(drawn)) / max(1, len(drawn)) + extra
        costs = tuple(tokens + shared for tokens in drawn)
        pools.append(Stored(record.problem.question, record.pool.candidates, record.answers, record.grades, costs))
    return tuple(pools)


def replay_rule(
    rule: StopRule[Any],
    candidates: Sequence[Candidate],
    answers: Sequence[str | None],
    costs: Sequence[float],
    order: Sequence[int],
    question: Question = NOBODY,
) -> Replay:
    """The rule on the draws `order` of a pool, one after the other, until it stops. `costs` are tokens a draw."""
    state, spent = rule.start(question), 0.0
    for made, place in enumerate(order, start=1):
        state = rule.see(state, candidates[place], answers[place])
        spent += costs[place]
        stop = rule.verdict(state, Usage(requests=made, completion_tokens=round(spent)))
        if stop is not None:
            return Replay(made, stop, spent)
    return Replay(len(order), None, spent)


def draw_orders(num: int, key: Key, num_orders: int = NUM_ORDERS) -> NDArray[np.int64]:
    """Random orders (R, num) of `num` draws."""
    places = np.broadcast_to(np.arange(num, dtype=np.int64), (num_orders, num))
    return np.asarray(key.generator().permuted(places, axis=1), dtype=np.int64)


def replay_pools(
    rules: Sequence[StopRule[Any]],
    selector: Selector,
    pools: Sequence[Stored],
    key: Key,
    *,
    caps: Sequence[int],
    num_orders: int = NUM_ORDERS,
) -> tuple[Replays, ...]:
    """`rules`, one a pool, replayed on `pools`, with each of `caps` on the number of draws; all caps share the orders.

    The selector chooses among the draws made. Every pool must hold as many draws as the largest cap.
    """
    if not caps or min(caps) < 1 or any(len(pool.candidates) < max(caps) for pool in pools):
        raise ValueError(f"caps must be from 1 to the draws of the smallest pool, got {caps}")
    shape = (len(caps), len(pools), num_orders)
    draws, tokens, grades = np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape)
    reasons: list[Counter[str]] = [Counter() for _ in caps]
    for row, (rule, pool) in enumerate(zip(rules, pools, strict=True)):
        own = key.fold(pool.question.id)
        orders = draw_orders(len(pool.candidates), own, num_orders)[:, : max(caps)]
        choose = own.fold("select")
        for column, order in enumerate(orders.tolist()):
            found = replay_rule(rule, pool.candidates, pool.answers, pool.costs, order, pool.question)
            chosen: dict[int, float] = {}
            for place, cap in enumerate(caps):
                stopped = found.stop is not None and found.draws <= cap
                made = found.draws if stopped else cap
                if made not in chosen:
                    chosen[made] = _grade(selector, choose.fold(column), pool, order[:made])
                draws[place, row, column] = made
                tokens[place, row, column] = sum(pool.costs[i] for i in order[:made])
                grades[place, row, column] = chosen[made]
                reasons[place][found.stop.reason if stopped and found.stop is not None else "cap"] += 1
    total = max(1, len(pools) * num_orders)
    return tuple(
        Replays(cap, draws[i], tokens[i], grades[i], {why: n / total for why, n in sorted(reasons[i].items())})
        for i, cap in enumerate(caps)
    )


def _grade(selector: Selector, key: Key, pool: Stored, places: Sequence[int]) -> float:
    """Of the answer chosen among some draws: no answer is wrong, unless nothing of the question could be graded."""
    seen = Pool(tuple(pool.candidates[i] for i in places))
    position = selector.choose(key, seen, tuple(pool.answers[i] for i in places)).position
    if position is not None:
        return pool.grades[places[position]]
    return math.nan if all(math.isnan(grade) for grade in pool.grades) else 0.0
