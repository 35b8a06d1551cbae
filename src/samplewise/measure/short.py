"""Curves over problems of which some have fewer draws than others.

A problem with fewer draws than k stands at k with all of its draws, and is named as short. Leaving it out would bend
the curve for a reason that is not k; ending the curve at the shortest problem would throw the others' draws away.
"""

from __future__ import annotations

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
