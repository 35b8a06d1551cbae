"""Random orders of stored draws, and stop rules replayed on them: one order is no figure.

A pool of N draws gives N! runs of a rule; some hundred of them tell its mean cost and accuracy. Orders are drawn
without replacement, so a rule never sees a draw twice, and a rule that does not stop ends with the pool. Where the pool
is little larger than what the rule draws, its orders are much alike: the spread between questions is right, that
between runs of one question is too small. A rule is a fold, so an order costs one pass: a few microseconds a draw.

Arms are dealt draws in turn, and an order keeps that: draws change places with others of their own arm alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import Candidate, Pool, Question, Stop, Usage
from samplewise.runs.bills import JudgeTokens, RunBill
from samplewise.runs.replay import fold_rule
from samplewise.select.base import Selector
from samplewise.stop.base import StopRule
from samplewise.store.database import Store

NUM_ORDERS = 100


def _no_judge(indices: Sequence[int]) -> float:
    return 0.0


class RuleReplay(NamedTuple):
    """A rule on one order of one pool, helpers included. `stop` is None where the rule would have gone on."""

    draws: int
    stop: Stop | None
    tokens: float


class StoredPool(NamedTuple):
    """A question's pool for replays: N candidates with their scores, answers, grades, and tokens of each draw.

    `fixed` tokens come before the first draw, `rest` are of failed draws after the last candidate, and `judging` gives
    the tokens of judging some candidates, by their indices.
    """

    question: Question
    candidates: tuple[Candidate, ...]
    answers: tuple[str | None, ...]
    grades: tuple[float, ...]
    costs: tuple[float, ...]
    fixed: float = 0.0
    rest: float = 0.0
    judging: JudgeTokens = _no_judge

    def first(self, num: int) -> StoredPool:
        """Return the pool of the first `num` draws."""
        return self._replace(
            candidates=self.candidates[:num],
            answers=self.answers[:num],
            grades=self.grades[:num],
            costs=self.costs[:num],
            rest=self.rest if num >= len(self.costs) else 0.0,
        )

    def cost(self, order: Sequence[int]) -> float:
        """Return the tokens of drawing these candidates and no more, nan where a judge's are unknown."""
        rest = self.rest if len(order) == len(self.costs) else 0.0
        return self.fixed + sum(self.costs[i] for i in order) + rest + self.judging(order)


class OrderReplays(NamedTuple):
    """A rule and a selector on P pools in R orders each, with at most `cap` draws."""

    cap: int
    draws: Ints  # (P, R)
    tokens: Floats  # (P, R)
    grades: Floats  # (P, R) of the answer chosen from the draws
    reasons: Mapping[str, float]  # share of the replays that ended so; "cap" where the rule did not stop
    best_grades: Floats  # (P, R) the best among the draws; nan where none could be graded


def stored_pools(store: Store, run: str, bill: RunBill) -> tuple[StoredPool, ...]:
    """Return a stored run's pools, billed by `bill`."""
    return tuple(
        StoredPool(
            record.problem.question,
            record.pool.candidates,
            record.answers,
            record.grades,
            billed.by_candidate,
            billed.helpers,
            billed.rest,
            billed.judging,
        )
        for record, billed in zip(store.records(run), bill.questions, strict=True)
    )


def replay_rule(rule: StopRule[Any], pool: StoredPool, order: Sequence[int]) -> RuleReplay:
    """Replay a rule on the draws of a pool in this order until it stops."""
    spent = pool.fixed
    candidates, answers = (pool.candidates[i] for i in order), (pool.answers[i] for i in order)
    verdicts = fold_rule(rule, pool.question, candidates, answers)
    for draws, (index, verdict) in enumerate(zip(order, verdicts, strict=True), start=1):
        spent += pool.costs[index]
        stop = verdict(Usage(requests=draws, completion_tokens=round(spent)))
        if stop is not None:
            return RuleReplay(draws, stop, spent + pool.judging(order[:draws]))
    return RuleReplay(len(order), None, pool.cost(order))


def draw_orders(arms: Sequence[str], key: Key, num_orders: int = NUM_ORDERS) -> Ints:
    """Return random orders (R, N) of draws whose arms are `arms` (N,): each position keeps its arm."""
    generator = key.generator()
    orders = np.broadcast_to(np.arange(len(arms), dtype=np.int64), (num_orders, len(arms))).copy()
    for arm in dict.fromkeys(arms):
        own = np.array([index for index, name in enumerate(arms) if name == arm])
        orders[:, own] = generator.permuted(orders[:, own], axis=1)
    return orders


def replay_pools(
    rules: Sequence[StopRule[Any]],
    selector: Selector,
    pools: Sequence[StoredPool],
    key: Key,
    *,
    caps: Sequence[int],
    num_orders: int = NUM_ORDERS,
) -> tuple[OrderReplays, ...]:
    """Replay `rules`, one a pool, on `pools` (P) for each cap of `caps`. All caps share the orders.

    The selector chooses among the draws before the stop. Raises ValueError where a pool holds fewer draws than the
    largest cap.
    """
    if not caps or min(caps) < 1 or any(len(pool.candidates) < max(caps) for pool in pools):
        raise ValueError(f"caps must be from 1 to the draws of the smallest pool, got {caps}")
    shape = (len(caps), len(pools), num_orders)
    draws, tokens, grades, best = np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape), np.zeros(shape)
    reasons: list[Counter[str]] = [Counter() for _ in caps]
    for row, (rule, pool) in enumerate(zip(rules, pools, strict=True)):
        pool_key = key.fold(pool.question.id)
        orders = draw_orders([c.arm for c in pool.candidates], pool_key, num_orders)[:, : max(caps)]
        select_key = pool_key.fold("select")
        for column, order in enumerate(orders.tolist()):
            replay = replay_rule(rule, pool, order)
            best_by_draws = np.fmax.accumulate([pool.grades[index] for index in order])
            grade_by_draws: dict[int, float] = {}
            for level, cap in enumerate(caps):
                num, reason = cap, "cap"
                if replay.stop is not None and replay.draws <= cap:
                    num, reason = replay.draws, replay.stop.reason
                if num not in grade_by_draws:
                    grade_by_draws[num] = _grade(selector, select_key.fold(column), pool, order[:num])
                draws[level, row, column] = num
                stopped = reason != "cap"
                tokens[level, row, column] = replay.tokens if stopped else pool.cost(order[:num])
                grades[level, row, column] = grade_by_draws[num]
                best[level, row, column] = best_by_draws[num - 1]
                reasons[level][reason] += 1
    total = max(1, len(pools) * num_orders)
    shares = [{why: num / total for why, num in sorted(counts.items())} for counts in reasons]
    return tuple(OrderReplays(cap, draws[i], tokens[i], grades[i], shares[i], best[i]) for i, cap in enumerate(caps))


def _grade(selector: Selector, key: Key, pool: StoredPool, indices: Sequence[int]) -> float:
    """Return the grade of the answer chosen among some draws.

    No answer is wrong, grade 0, unless nothing of the question could be graded: then it is nan.
    """
    seen = Pool(tuple(pool.candidates[i] for i in indices))
    position = selector.choose(key, seen, tuple(pool.answers[i] for i in indices)).position
    if position is not None:
        return pool.grades[indices[position]]
    return math.nan if all(math.isnan(grade) for grade in pool.grades) else 0.0
