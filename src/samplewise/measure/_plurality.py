"""The expected outcome of a plurality vote among k draws of n, exactly, from the sizes of the answer classes.

The mean over all C(n, k) subsets of the mean outcome of the classes that tie for the largest. Knows no draws, only
counts. Method (ours):

- m > k/2 equal answers cannot tie: sum over classes t and m of y_t C(c_t, m) C(n - c_t, k - m).
- A winning count m <= k/2 is counted with polynomials in x (draws taken) and z (winners): a class of c >= m draws
  gives sum_{j<m} C(c, j) x^j + z C(c, m) x^m; all smaller classes and the unreadable draws together give (1 + x)^rest.
  A second polynomial carries the outcomes of the winners, and the share 1/T of a T-way tie is applied at the end.

All terms are positive, so nothing cancels: right to about 1e-13. A problem costs less than n k^2 multiplications, all
smaller k included.
"""

from __future__ import annotations

import math

import numpy as np

from samplewise.measure._arrays import Floats, Integers

CHUNK = 1 << 18  # numbers of one polynomial held at once: a few MB, so that they stay near the processor


def plurality(counts: Integers, outcomes: Floats, num_draws: Integers, ks: Integers) -> Floats:
    """Return the expected outcome (K, P) of the vote.

    `counts` and `outcomes` (P, T) are the size (0 = no such class) and outcome of each class; `num_draws` (P,) includes
    unreadable draws. Every k is at most the smallest positive number of draws.
    """
    largest = int(num_draws.max(initial=0))
    choose = np.array([[math.comb(n, k) for k in range(largest + 1)] for n in range(largest + 1)], dtype=np.float64)
    value = _outright(counts, outcomes, num_draws, ks, choose)
    # Classes of outcome 0 first, each side in descending order: the second polynomial starts at the first other class.
    wrong, right = np.where(outcomes == 0, counts, 0), np.where(outcomes == 0, 0, counts)
    order = np.argsort(-right, axis=1, kind="stable")
    slots = np.concatenate([-np.sort(-wrong, axis=1), np.take_along_axis(right, order, axis=1)], axis=1)
    class_outcomes = np.concatenate([np.zeros(wrong.shape), np.take_along_axis(outcomes, order, axis=1)], axis=1)
    class_outcomes = np.where(slots > 0, class_outcomes, 0.0)

    longest = int(ks.max())
    num_classes = (counts > 0).sum(axis=1)
    by_classes = np.argsort(num_classes, kind="stable")  # problems of similar shape are counted together
    start = 0
    while start < len(by_classes):
        most = int(num_classes[by_classes[start]]) + 2
        rows = max(1, CHUNK // ((longest + 1) * (min(longest, most) + 1)))
        chunk = by_classes[start : start + rows]
        value[:, chunk] += _with_ties(slots[chunk], class_outcomes[chunk], num_draws[chunk], ks, choose)
        start += rows
    return value


def _outright(counts: Integers, outcomes: Floats, num_draws: Integers, ks: Integers, choose: Floats) -> Floats:
    """Return the part of the value from winners with more than k/2 of the draws: (K, P)."""
    draws = np.broadcast_to(num_draws[:, None], counts.shape)
    pairs, pair_index = np.unique(np.stack([draws.ravel(), counts.ravel()], axis=1), axis=0, return_inverse=True)
    n, c = pairs.T  # (U,) the distinct pairs of draws and class size
    value = np.empty((len(ks), len(counts)))
    for row, k in enumerate(ks):
        m = np.arange(k // 2 + 1, k + 1)[:, None]  # winning counts
        ways = np.where(m < len(choose), choose[c, np.minimum(m, len(choose) - 1)], 0.0) * choose[n - c, k - m]
        total = np.maximum(choose[n, np.minimum(k, len(choose) - 1)], 1.0)  # 1 only for problems without draws
        probability = ways.sum(axis=0) / total
        value[row] = (probability[pair_index.reshape(counts.shape)] * outcomes).sum(axis=1)
    return value


def _with_ties(slots: Integers, class_outcomes: Floats, num_draws: Integers, ks: Integers, choose: Floats) -> Floats:
    """Return the part of the value from winners with at most k/2 of the draws: (K, P)."""
    num, longest = len(slots), int(ks.max())
    value = np.zeros((len(ks), num))
    for m in range(1, min(longest // 2, int(slots.max(initial=0))) + 1):
        # [p, w, j]: ways to take j draws of the classes so far, none above m, with w of them at m
        subsets = np.ones((num, 1, 1))
        # the same, each way counted with the sum of its winners' outcomes
        earned = np.zeros((num, 1, 1))
        for slot in np.flatnonzero((slots >= m).any(axis=0)):
            rows = np.flatnonzero(slots[:, slot] >= m)
            size = slots[rows, slot]
            below, win = choose[size, :m], choose[size, m]  # (rows, m), (rows,)
            gain = win * class_outcomes[rows, slot]
            before = subsets[rows]
            product = _times(before, below, win, longest)
            winners, width = product.shape[1:]
            if gain.any() or earned.any():
                more = _times(_grown(earned[rows], *before.shape[1:]), below, win, longest)
                more[:, 1:, m:] += gain[:, None, None] * before[:, : winners - 1, : width - m]
                earned = _grown(earned, winners, width)
                earned[rows] = more
            subsets = _grown(subsets, winners, width)
            subsets[rows] = product
        if not earned.any():
            continue
        shared = (earned[:, 1:] / np.arange(1, earned.shape[1])[:, None]).sum(axis=1)  # (P, j): a tie is shared
        rest = num_draws - np.where(slots >= m, slots, 0).sum(axis=1)  # smaller classes, and unreadable draws
        for row, k in enumerate(ks):
            if k >= 2 * m:
                taken_draws = np.arange(m, min(int(k), shared.shape[1] - 1) + 1)
                total = np.maximum(choose[num_draws, np.minimum(k, len(choose) - 1)], 1.0)
                value[row] += (shared[:, taken_draws] * choose[rest[:, None], k - taken_draws]).sum(axis=1) / total
    return value


def _times(polynomial: Floats, below: Floats, win: Floats, longest: int) -> Floats:
    """Multiply (rows, w, j) by sum_{i<m} below_i x^i + z win x^m, without the terms above x^longest."""
    rows, winners, width = polynomial.shape
    m = below.shape[1]
    grown = min(width + m, longest + 1)
    product = np.zeros((rows, min(winners + 1, longest // m + 1), grown))
    if width < m:
        for j in range(width):
            stop = min(m, grown - j)
            product[:, :winners, j : j + stop] += polynomial[:, :, j, None] * below[:, None, :stop]
    else:
        for i in range(m):
            stop = min(width, grown - i)
            product[:, :winners, i : i + stop] += below[:, i, None, None] * polynomial[:, :, :stop]
    product[:, 1:, m:] += win[:, None, None] * polynomial[:, : product.shape[1] - 1, : grown - m]
    return product


def _grown(polynomial: Floats, winners: int, width: int) -> Floats:
    """Append zeros up to (rows, winners, width); never smaller than it was."""
    rows, had_winners, had_width = polynomial.shape
    if winners <= had_winners and width <= had_width:
        return polynomial
    larger = np.zeros((rows, max(winners, had_winners), max(width, had_width)))
    larger[:, :had_winners, :had_width] = polynomial
    return larger
