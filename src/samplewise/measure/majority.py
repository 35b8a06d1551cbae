"""maj@k: how often plurality among k draws is right, from n >= k draws without replacement.

Per problem the mean over all C(n, k) subsets of: 1 if the largest class of answers is right, 1/T if T classes tie and
one of them is; in general the mean outcome of the tied classes. Up to 128 draws it is exact (`_plurality.py`).

Beyond, and for weighted votes, subsets are drawn: `num_resamples` = R random orders of a problem's draws, and of each
the first k and the last k. The error has a standard deviation of at most .5 / sqrt(R) per problem (.09 at the default
32; in practice .06 or less), is independent between problems, and is therefore part of what an interval over problems
shows. All k share the orders, so a curve in k is smoother than its points are certain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.core.keys import Key
from samplewise.measure._arrays import Floats, Integers, read_beside, read_outcomes, read_sizes
from samplewise.measure._plurality import plurality

MAX_EXACT_DRAWS = 128


def majority_at(
    answers: ArrayLike,
    outcomes: ArrayLike,
    ks: Sequence[int] | NDArray[np.integer],
    *,
    weights: ArrayLike | None = None,
    ties: Sequence[ArrayLike] = (),
    key: Key | None = None,
    num_resamples: int = 32,
) -> Floats:
    """Return the expected outcome of the plurality vote among k draws, for each problem and each k of `ks`: (K, P).

    `answers` (P, N) are integer codes, equal for equal answers of one problem; -1 = unreadable: a draw that counts
    towards k and never wins; a subset of nothing else has the value 0. `outcomes` (P, N) in [0, 1] are the draws'
    outcomes; a class whose draws differ has their mean, and a draw whose outcome is nan is left out (so an unreadable
    draw that was made needs the outcome 0). A problem without any outcome is nan. `weights` (P, N) >= 0 make it a
    weighted vote; a draw of weight 0 or nan has no vote, as if unreadable. `ties` are further weights (P, N), each for
    the classes that are equal by those before, also where nothing among the k has any. `key` is needed where subsets
    are drawn: with weights, or above 128 draws. Raise ValueError for wrong shapes, codes below -1, negative or infinite
    weights, a missing key, or a k above the smallest number of outcomes.
    """
    outcome = read_outcomes(outcomes)
    codes = np.asarray(answers)
    if codes.shape != outcome.shape or codes.dtype.kind not in "iu":
        raise ValueError(
            f"answers must be integers of the shape of outcomes, {outcome.shape}; got {codes.dtype} {codes.shape}"
        )
    codes = codes.astype(np.int64)
    if codes.min(initial=0) < -1:
        raise ValueError(f"answers must be codes >= 0, or -1 for unread; got {codes.min()}")
    present = ~np.isnan(outcome)
    num_draws = present.sum(axis=1)  # (P,)
    sizes = read_sizes(ks, num_draws)
    classes = classify_answers(codes, outcome, present)
    if weights is None and num_draws.max(initial=0) <= MAX_EXACT_DRAWS:
        value = plurality(classes.counts, classes.outcomes, num_draws, sizes)
        return np.where(num_draws > 0, value, np.nan)

    if key is None:
        raise ValueError(f"a key is needed to draw subsets (weights, or above {MAX_EXACT_DRAWS} draws); got None")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    levels = [] if weights is None else [_read_weights(level, outcome) for level in (weights, *ties)]
    if sizes.min() >= num_draws.max():  # all draws: every order gives the same
        num_resamples = 1
    generator = key.generator()
    present_first = np.argsort(~present, axis=1, kind="stable")  # draws that are left out go to the end
    value = np.full((len(sizes), len(outcome)), np.nan)
    for n in np.unique(num_draws[num_draws > 0]):
        rows = np.flatnonzero(num_draws == n)
        kept = present_first[rows, :n]
        value[:, rows] = _resampled(
            np.take_along_axis(classes.ids[rows], kept, axis=1),
            [np.take_along_axis(level[rows], kept, axis=1) for level in levels],
            classes.outcomes[rows],
            sizes,
            generator,
            num_resamples,
        )
    return value


def _read_weights(weights: ArrayLike, outcome: Floats) -> Floats:
    read = np.nan_to_num(read_beside("weights", weights, outcome), nan=0.0, posinf=np.inf)
    if not ((read >= 0) & (read < np.inf)).all():
        raise ValueError(f"weights must be finite and >= 0, or nan; got {weights!r}")
    return read


class AnswerClasses(NamedTuple):
    """The answers of each problem, as classes 0 .. T - 1 of its own."""

    ids: Integers  # (P, N) the class of a draw; -1 unreadable or left out
    counts: Integers  # (P, T) draws in a class; 0 for a class the problem does not have
    outcomes: Floats  # (P, T) mean outcome of a class's draws


def classify_answers(codes: Integers, outcome: Floats, present: NDArray[np.bool_]) -> AnswerClasses:
    codes = np.where(present, codes, -1)
    order = np.argsort(codes, axis=1, kind="stable")
    ranked = np.take_along_axis(codes, order, axis=1)
    first = np.ones(codes.shape, dtype=bool)
    first[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    first &= ranked >= 0
    ids = np.empty_like(codes)
    np.put_along_axis(ids, order, np.where(ranked >= 0, np.cumsum(first, axis=1) - 1, -1), axis=1)
    table = (len(codes), int(first.sum(axis=1).max(initial=0)))
    readable = ids >= 0
    cell = (np.arange(len(codes))[:, None] * table[1] + ids)[readable]
    counts = np.bincount(cell, minlength=math.prod(table)).reshape(table)
    total = np.bincount(cell, weights=outcome[readable], minlength=math.prod(table)).reshape(table)
    return AnswerClasses(ids, counts, total / np.maximum(counts, 1))


def _resampled(
    ids: Integers,
    levels: Sequence[Floats],
    outcomes: Floats,
    ks: Integers,
    generator: np.random.Generator,
    num_resamples: int,
) -> Floats:
    """Return (K, P) from `ids` (P, n), `levels` of weights (P, n), none for one vote each, class `outcomes` (P, T)."""
    num, n = ids.shape
    width = outcomes.shape[1] + 1  # the last column takes the draws without a vote
    cells = np.arange(num)[:, None] * width + np.where(ids < 0, width - 1, ids)
    cells = cells.astype(np.int32 if num * width < 2**31 else np.int64)
    positions = np.broadcast_to(np.arange(n, dtype=np.int32), ids.shape)
    sizes = [0, *sorted(ks.tolist())]
    rank = np.argsort(np.argsort(ks, kind="stable"), kind="stable")  # of each k among the sorted ones
    total = np.zeros((len(ks), num))
    for _ in range(num_resamples):
        votes: list[Floats | None] = [None]
        if not levels:
            shuffled = generator.permuted(cells, axis=1)
        else:
            order = generator.permuted(positions, axis=1)
            shuffled = np.take_along_axis(cells, order, axis=1)
            votes = [np.take_along_axis(level, order, axis=1) for level in levels]
        for backwards in (False, True):
            if backwards:
                shuffled = shuffled[:, ::-1]
                votes = [None if level is None else level[:, ::-1] for level in votes]
            tallies = []
            for level in votes:
                tally = np.empty((len(ks), num * width))
                for row, (last, size) in enumerate(pairwise(sizes)):
                    new = None if level is None else level[:, last:size].ravel()
                    tally[row] = np.bincount(shuffled[:, last:size].ravel(), weights=new, minlength=num * width)
                tallies.append(tally.cumsum(axis=0).reshape(-1, num, width)[:, :, :-1])
            total += _shares(tallies, outcomes)
    return total[rank] / (2 * num_resamples)


def _shares(tallies: Sequence[Floats], outcomes: Floats) -> Floats:
    """Return the mean outcome of the classes with the largest tally (K, P, T): (K, P), 0 where nobody voted.

    Where classes tie by one tally, the next decides. Sums of weights count as equal up to rounding, 1e-12 of the
    largest.
    """
    first = tallies[0]
    if not first.shape[2]:
        return np.zeros(first.shape[:2])
    top = first.max(axis=2)
    tied, voted = first >= (top * (1 - 1e-12))[:, :, None], top > 0
    for tally in tallies[1:]:
        top = np.where(tied, tally, 0.0).max(axis=2)
        tied &= tally >= (top * (1 - 1e-12))[:, :, None]
        voted |= top > 0
    weights = tied.astype(np.float64)
    won = np.einsum("kpt,pt->kp", weights, outcomes) / np.einsum("kpt->kp", weights)
    return np.where(voted, won, 0.0)
