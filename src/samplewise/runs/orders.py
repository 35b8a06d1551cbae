"""Random orders of stored draws, and stop rules replayed on them: one order is no figure.

A pool of N draws gives N! runs of a rule; some hundred of them tell its mean cost and accuracy. Orders are drawn
without replacement, so a rule never sees a draw twice, and a rule that does not stop ends with the pool. Where the pool
is little larger than what the rule draws, its orders are much alike: the spread between questions is right, that
between runs of one question is too small. A rule is a fold, so an order costs one pass: a few microseconds a draw.

Rounds are sequential waves: what a rule needs before it can stop (`at_least`) is sent together, and once all of it has
been seen, what it needs next. A fixed number of draws is one round, `esc(w)` has one for each window, and a rule that
may stop at any draw has as many rounds as draws.

Arms are dealt draws in turn, and an order keeps that: draws change places with others of their own arm alone.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from samplewise.core.bill import CostSplit
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import Candidate, Pool, Question, Stop, Usage
from samplewise.runs.bills import JudgeTokens, RunBill
from samplewise.select.base import Selector
from samplewise.stop.base import StopRule
from samplewise.store.database import Store
from samplewise.store.records import Record

NUM_ORDERS = 100


def _no_judge(indices: Sequence[int]) -> float:
    return 0.0


class RuleReplay(NamedTuple):
    """A rule on one order of one pool, helpers included. `stop` is None where the rule would have gone on.

    `waves` holds the draws before each wave, from 0 for the first.
    """

    draws: int
    stop: Stop | None
    tokens: float
    waves: tuple[int, ...] = ()

    def rounds(self, draws: int) -> int:
        """Return the number of waves that the first `draws` draws take."""
        return bisect_left(self.waves, draws)


class StoredPool(NamedTuple):
    """A question's pool for replays: N candidates with their scores, answers, grades, and tokens of each draw.

    `fixed` tokens come before the first draw, `rest` are of failed draws after the last candidate, and `judging` gives
    the tokens of judging some candidates, by their indices. `seconds` (N,) is how long each draw took, () if unknown.
    """

    question: Question
    candidates: tuple[Candidate, ...]
    answers: tuple[str | None, ...]
    grades: tuple[float, ...]
    costs: tuple[float, ...]
    fixed: float = 0.0
    rest: float = 0.0
    judging: JudgeTokens = _no_judge
    seconds: tuple[float, ...] = ()

    def first(self, num: int) -> StoredPool:
        """Return the pool of the first `num` draws."""
        return self._replace(
            candidates=self.candidates[:num],
            answers=self.answers[:num],
            grades=self.grades[:num],
            costs=self.costs[:num],
            seconds=self.seconds[:num],
            rest=self.rest if num >= len(self.costs) else 0.0,
        )

    def cost(self, order: Sequence[int]) -> float:
        """Return the tokens of drawing these candidates and no more, nan where a judge's are unknown."""
        rest = self.rest if len(order) == len(self.costs) else 0.0
        return self.fixed + sum(self.costs[i] for i in order) + rest + self.judging(order)

    def duration(self, order: Sequence[int], waves: Sequence[int]) -> float:
        """Return the seconds of drawing these candidates, nan if unknown: of each wave, the slowest draw's.

        `waves` holds the draws before each wave. Helpers, verifiers and failed draws are not in it.
        """
        if not self.seconds:
            return math.nan
        ends = (*waves[1:], len(order))
        return math.fsum(max(self.seconds[i] for i in order[start:end]) for start, end in zip(waves, ends, strict=True))


class OrderReplays(NamedTuple):
    """A rule and a selector on P pools in R orders each, with at most `cap` draws."""

    cap: int
    draws: Ints  # (P, R)
    tokens: Floats  # (P, R)
    grades: Floats  # (P, R) of the answer chosen from the draws
    reasons: Mapping[str, float]  # share of the replays that ended so; "cap" where the rule did not stop
    best_grades: Floats  # (P, R) the best among the draws; nan where none could be graded
    rounds: Ints  # (P, R) sequential waves until the stop
    seconds: Floats  # (P, R) of the draws, with each wave at once; nan where unknown

    @property
    def accuracy(self) -> Floats:
        """Return each pool's mean grade (P,) over the orders whose chosen answer has one; nan without any."""
        return _mean_known(self.grades)

    @property
    def coverage(self) -> Floats:
        """Return each pool's mean best grade (P,) over the orders that have one; nan without any."""
        return _mean_known(self.best_grades)

    @property
    def run_deviation(self) -> float:
        """Return how far a single run's accuracy lies from the mean over orders, as a standard deviation."""
        return float(_mean_known(self.grades.T).std(ddof=1))


def _mean_known(values: Floats) -> Floats:
    """Return the mean of each row of `values` (A, B) without its nan; nan where a row has nothing else."""
    known = ~np.isnan(values)
    total, num = np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1)
    mean: Floats = np.where(num > 0, total / np.maximum(num, 1), math.nan)
    return mean


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
            _seconds(record),
        )
        for record, billed in zip(store.records(run), bill.questions, strict=True)
    )


def _seconds(record: Record) -> tuple[float, ...]:
    """Return how long each candidate (N,) took to draw, () where the engine did not say."""
    bill = CostSplit() if record.bill is None else record.bill
    seconds = tuple(usage.seconds for index, usage in enumerate(bill.draws) if index not in bill.failed)
    return seconds if len(seconds) == len(record.answers) and any(seconds) else ()


def replay_rule(rule: StopRule[Any], pool: StoredPool, order: Sequence[int]) -> RuleReplay:
    """Replay a rule on the draws of a pool in this order until it stops."""
    spent = pool.fixed
    state = rule.start(pool.question)
    waves, wave_end = [0], rule.at_least(state)
    for draws, index in enumerate(order, start=1):
        spent += pool.costs[index]
        state = rule.see(state, pool.candidates[index], pool.answers[index])
        stop = rule.verdict(state, Usage(requests=draws, completion_tokens=round(spent)))
        if stop is not None:
            return RuleReplay(draws, stop, spent + pool.judging(order[:draws]), tuple(waves))
        if draws >= wave_end:
            waves.append(draws)
            wave_end = draws + rule.at_least(state)
    return RuleReplay(len(order), None, pool.cost(order), tuple(waves))


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
    draws, rounds = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    tokens, grades, best, seconds = (np.zeros(shape) for _ in range(4))
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
                rounds[level, row, column] = replay.rounds(num)
                seconds[level, row, column] = pool.duration(order[:num], replay.waves[: replay.rounds(num)])
                stopped = reason != "cap"
                tokens[level, row, column] = replay.tokens if stopped else pool.cost(order[:num])
                grades[level, row, column] = grade_by_draws[num]
                best[level, row, column] = best_by_draws[num - 1]
                reasons[level][reason] += 1
    total = max(1, len(pools) * num_orders)
    shares = [{why: num / total for why, num in sorted(counts.items())} for counts in reasons]
    return tuple(
        OrderReplays(cap, draws[i], tokens[i], grades[i], shares[i], best[i], rounds[i], seconds[i])
        for i, cap in enumerate(caps)
    )


def _grade(selector: Selector, key: Key, pool: StoredPool, indices: Sequence[int]) -> float:
    """Return the grade of the answer chosen among some draws.

    No answer is wrong, grade 0, unless nothing of the question could be graded: then it is nan.
    """
    seen = Pool(tuple(pool.candidates[i] for i in indices))
    position = selector.choose(key, seen, tuple(pool.answers[i] for i in indices)).position
    if position is not None:
        return pool.grades[indices[position]]
    return math.nan if all(math.isnan(grade) for grade in pool.grades) else 0.0
