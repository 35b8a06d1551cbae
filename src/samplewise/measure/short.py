"""Curves over problems of which some have fewer draws than others.

A problem with fewer draws than k stands at k with all of its draws, and is named as short. Leaving it out would bend
the curve for a reason that is not k; ending the curve at the shortest problem would throw the others' draws away.

Where asks failed, k asks are fewer than k draws, and they are what is paid for: `at_asks` counts by asks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from samplewise.measure._arrays import Floats, Integers

Measure = Callable[[Integers, Integers], Floats]  # rows of problems (R,), sizes (K,) -> (K, R)


def with_short_problems(ks: Sequence[int] | Integers, num_draws: Integers, measure: Measure) -> Floats:
    """Return values (K, P) at the sizes `ks`, each problem's at no more draws than the `num_draws` (P,) it has.

    `measure(rows, sizes)` returns the values (K, R) of some problems at sizes that all of them have. A problem without
    draws is measured at every size, and says itself that it is unscored.
    """
    sizes = np.asarray(ks, dtype=np.int64)
    value = np.full((len(sizes), len(num_draws)), np.nan)
    enough = (num_draws == 0) | (num_draws >= sizes.max(initial=0))
    if enough.any():
        rows = np.flatnonzero(enough)
        value[:, rows] = measure(rows, sizes)
    for num in np.unique(num_draws[~enough]).tolist():
        rows = np.flatnonzero(num_draws == num)
        own, index = np.unique(np.minimum(sizes, num), return_inverse=True)
        value[:, rows] = measure(rows, own)[index.reshape(-1)]
    return value


def at_asks(ks: Integers, num_draws: Integers, num_failed: Integers, measure: Callable[[Integers], Floats]) -> Floats:
    """Return values (K, P) at k asks for each k of `ks`, where `num_failed` (P,) of a problem's asks gave no draw.

    `measure(sizes)` returns the values (K, P) at sizes in draws. k of the A asks of a problem, taken at random, hold m
    of its N draws with the hypergeometric probability C(N, m) C(A - N, k - m) / C(A, k); none at all is no answer,
    which is wrong. With all of its asks a problem has all of its draws.
    """
    if not num_failed.any():
        return measure(ks)
    by_draws = measure(np.arange(1, ks.max(initial=0) + 1))
    by_draws = np.concatenate([np.zeros((1, len(num_draws))), by_draws])  # (M + 1, P)
    values = by_draws[ks]
    for problem in np.flatnonzero((num_failed > 0) & (num_draws > 0)).tolist():
        drawn, failed = int(num_draws[problem]), int(num_failed[problem])
        for row, k in enumerate(np.minimum(ks, drawn + failed).tolist()):
            ways = [math.comb(drawn, m) * math.comb(failed, k - m) for m in range(k + 1)]
            probabilities = np.array([way / math.comb(drawn + failed, k) for way in ways])
            values[row, problem] = probabilities @ by_draws[: k + 1, problem]
    return values
