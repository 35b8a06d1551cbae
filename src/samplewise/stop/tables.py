"""Three statistics of a pair of counts (a, b), in logs (nats), and the smallest a that reaches a level.

    asc(a, b) = 1 - I_half(a + 1, b + 1)                     probability that a's answer is the more frequent of the
                                                             two, uniform prior (Adaptive-Consistency, 2305.11860)
    e1(a, b)  = 2 * 2^(a+b) * B(a + 1, b + 1) * asc(a, b)    e-value against "a's answer is not the more frequent":
                                                             the mean of the likelihood ratio over q in (1/2, 1]
    e2(a, b)  = 2^(a+b) * B(a + 1, b + 1)                    the same over q in [0, 1], against "equally frequent"

I is the regularised incomplete Beta function. At 1/2 it is a tail of the binomial distribution, summed here from its
largest term down: all terms are positive, so nothing cancels at either edge. Rules compare counts with `boundary_at`, a
list that grows on demand, so a vote costs one comparison and no integral.
"""

from __future__ import annotations

import functools
import math
from typing import Protocol

LOG2 = math.log(2.0)
ROUNDING = 1e-12  # nats; a level that is met exactly must not be missed by the last bit


class LogTable(Protocol):
    """The log of a statistic that grows with `a` where a >= b >= 0, without bound or up to 0."""

    def __call__(self, a: int, b: int) -> float: ...


@functools.lru_cache(maxsize=1 << 16)
def log_tail(a: int, b: int) -> float:
    """Return log I_half(a + 1, b + 1): the log probability of at most b heads in a + b + 1 throws.

    Costs at most b terms, about the square root of a + b where a > b.
    """
    throws = a + b + 1
    log_most = math.lgamma(throws + 1) - math.lgamma(b + 1) - math.lgamma(throws - b + 1) - throws * LOG2
    total, term = 1.0, 1.0
    for heads in range(b, 0, -1):
        term *= heads / (throws - heads + 1)
        total += term
        if term < total * 1e-17:
            break
    return log_most + math.log(total)


@functools.lru_cache(maxsize=1 << 16)
def log_asc(a: int, b: int) -> float:
    """Return the log probability that the answer with `a` votes is more frequent than the one with `b`."""
    return math.log1p(-math.exp(log_tail(a, b))) if a >= b else log_tail(b, a)


def asc_value(a: int, b: int) -> float:
    """Return `exp(log_asc(a, b))`."""
    return math.exp(log_asc(a, b))


def log_e2(a: int, b: int) -> float:
    """Return log e2(a, b)."""
    return (a + b) * LOG2 + math.lgamma(a + 1) + math.lgamma(b + 1) - math.lgamma(a + b + 2)


def log_e1(a: int, b: int) -> float:
    """Return log e1(a, b)."""
    return LOG2 + log_e2(a, b) + log_asc(a, b)


class Boundary:
    """The smallest a >= b at which a table reaches a level, computed once for each b."""

    def __init__(self, table: LogTable, log_level: float) -> None:
        self._table, self._level = table, log_level - ROUNDING
        self._known: list[int] = []

    def __call__(self, b: int) -> int:
        return self._known[b] if b < len(self._known) else self._longer(b)

    def _longer(self, b: int) -> int:
        values = list(self._known)
        while len(values) <= b:
            a = max(values[-1] if values else 0, len(values))
            while self._table(a, len(values)) < self._level:
                a += 1
            values.append(a)
        self._known = values  # at once: another thread sees the old list or the new one
        return values[b]


@functools.lru_cache(maxsize=256)
def boundary_at(table: LogTable, log_level: float) -> Boundary:
    """Return the boundary of a table at a level (nats), shared by all rules that use it."""
    return Boundary(table, log_level)
