"""Two methods over the same problems, and several at the same number of tokens.

Paired: the difference is taken problem by problem, so what the problems share (how hard they are) cancels; an unpaired
interval on the same numbers is wider for no reason. At equal tokens: methods are compared at what they cost, not at the
same k; `Curve.tokens` must count everything a method spent, verifier and helper tokens included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.measure._arrays import Floats, Integers
from samplewise.measure.estimate import Estimate, mean_interval


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, support: tuple[float, float] | None = (-1.0, 1.0)
) -> Estimate:
    """Return the mean of `first` - `second`, both (P,) over the same problems, with its 95 % interval.

    nan in either is an unscored problem. `support` is where a difference can lie; None for unbounded values (tokens).
    Raise ValueError for different shapes or differences outside the support.
    """
    pair = _read_pair(first, second)
    return mean_interval(pair.first - pair.second, support=support)


def paired_p_value(first: ArrayLike, second: ArrayLike) -> float:
    """Return the two-sided p value of a mean difference of 0: Student's t over problems (P,); nan in either is
    unscored.

    For values that are themselves expectations over draws, where a sign test would let a problem that differs in the
    sixth decimal weigh as much as one that differs by 1. For single draws of 0 and 1, `sign_test` is exact. Equal
    everywhere is 1.0; the same difference everywhere has no spread, and the p value of its signs. Below two scored
    problems it is nan. Raise ValueError for different shapes.
    """
    from scipy.special import stdtr

    pair = _read_pair(first, second)
    difference = (pair.first - pair.second)[~np.isnan(pair.first - pair.second)]
    if len(difference) < 2:
        return float("nan")
    spread, mean = float(difference.std(ddof=1)), float(difference.mean())
    if spread <= 1e-12 * max(1.0, abs(mean)):  # a constant difference, up to rounding
        return 1.0 if abs(mean) <= 1e-12 else math.ldexp(1.0, 1 - len(difference))
    return float(2 * stdtr(len(difference) - 1, -abs(mean) / spread * np.sqrt(len(difference))))


class SignTest(NamedTuple):
    num_wins: int  # problems where the first is better
    num_losses: int
    num_ties: int
    num_unscored: int
    p_value: float  # two-sided, exact; 1.0 without wins and losses; nan where no problem is scored


def sign_test(first: ArrayLike, second: ArrayLike) -> SignTest:
    """Run the exact two-sided sign test of `first` against `second` (P,); for 0 and 1 it is McNemar's exact test.

    With w wins and l losses p = min(1, 2 P(Binomial(w + l, 1/2) <= min(w, l))); ties carry no sign. It asks whether a
    win is as likely as a loss, whatever their sizes. Raise ValueError for different shapes.
    """
    pair = _read_pair(first, second)
    difference = pair.first - pair.second
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    ties = int((difference == 0).sum())
    unscored = int(np.isnan(difference).sum())
    if wins + losses + ties == 0:
        return SignTest(0, 0, 0, unscored, np.nan)
    ways, term = 0, 1  # integers: exact for every number of problems
    for lost in range(min(wins, losses) + 1):
        ways += term
        term = term * (wins + losses - lost) // (lost + 1)
    return SignTest(wins, losses, ties, unscored, min(1.0, 2 * ways / (1 << wins + losses)))


def adjust_holm(p_values: ArrayLike) -> Floats:
    """Apply Holm's (1979) adjustment to `p_values` (M,) of M comparisons: (M,), same order; nan stays nan, uncounted.

    Rejecting where the result is <= .05 keeps the probability of any false rejection at .05, whatever the dependence.
    Raise ValueError outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or ((p < 0) | (p > 1)).any():
        raise ValueError(f"p_values must have shape (M,) and be in [0, 1] or nan, got {p_values!r}")
    order = np.argsort(p, kind="stable")  # nan last
    order = order[: int((~np.isnan(p)).sum())]
    adjusted = np.full(p.shape, np.nan)
    stepped = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return adjusted


class Curve(NamedTuple):
    """A method at several k: its cost and its values."""

    name: str
    ks: Integers  # (K,) strictly increasing, >= 1
    tokens: Floats  # (K,) mean tokens per problem at k, everything counted; not decreasing
    per_problem: Floats  # (K, P) value of each problem at k, nan = unscored


class MethodAtCost(NamedTuple):
    """A method at one cost. `k` is 0 and the values are nan where the tokens do not buy its smallest k."""

    name: str
    k: float  # a whole number, unless interpolated
    tokens: float  # what it costs, at most what was allowed
    per_problem: Floats  # (P,)


def at_tokens(curve: Curve, tokens: float, *, interpolate: bool = False) -> MethodAtCost:
    """Return `curve` at the largest k whose mean cost is at most `tokens` per problem.

    `interpolate` mixes the two neighboring k linearly so that the cost is `tokens` exactly: the value of a method that
    picks one of the two at random. Beyond the last k nothing is extrapolated. Compare two methods at the same tokens by
    `paired_difference(at_tokens(a, t).per_problem, at_tokens(b, t).per_problem)`. Raise ValueError for an invalid
    curve.
    """
    checked = _read_curve(curve)
    if np.isnan(tokens):
        raise ValueError(f"tokens must be a number, got {tokens}")
    last = int(np.searchsorted(checked.tokens, tokens, side="right")) - 1
    if last < 0:
        return MethodAtCost(curve.name, 0, 0.0, np.full(checked.per_problem.shape[1], np.nan))
    below = MethodAtCost(curve.name, int(checked.ks[last]), float(checked.tokens[last]), checked.per_problem[last])
    if not interpolate or last == len(checked.ks) - 1 or below.tokens == tokens:
        return below
    share = (tokens - below.tokens) / (checked.tokens[last + 1] - below.tokens)
    return MethodAtCost(
        curve.name,
        float(below.k + share * (checked.ks[last + 1] - below.k)),
        float(tokens),
        below.per_problem + share * (checked.per_problem[last + 1] - below.per_problem),
    )


class FrontierPoint(NamedTuple):
    name: str
    k: int
    tokens: float  # mean per problem
    value: float  # mean over the problems scored at every point of every curve


def frontier(curves: Sequence[Curve]) -> tuple[FrontierPoint, ...]:
    """Return the points of all curves that no point beats at equal or fewer tokens: tokens and value both strictly
    increase.

    Means are over the problems scored at every point of every curve, so that none wins by leaving hard ones out. The
    frontier chooses among noisy points and is therefore optimistic: quote a paired difference, not a step of it. Rows
    of a curve that are nan everywhere (k beyond what was drawn) are left out. Raise ValueError where the curves have
    different numbers of problems, or no problem is scored in all.
    """
    checked = [_read_curve(curve) for curve in curves]
    if len({curve.per_problem.shape[1] for curve in checked}) > 1:
        raise ValueError(
            f"curves must be over the same problems, got {[(c.name, c.per_problem.shape[1]) for c in checked]} problems"
        )
    rows = [(c, k) for c in checked for k in range(len(c.ks)) if not np.isnan(c.per_problem[k]).all()]
    if not rows:
        return ()
    values = np.stack([curve.per_problem[k] for curve, k in rows])
    common = ~np.isnan(values).any(axis=0)
    if not common.any():
        raise ValueError(f"no problem is scored at every point of {[curve.name for curve in checked]}")
    points = [
        FrontierPoint(curve.name, int(curve.ks[k]), float(curve.tokens[k]), float(value))
        for (curve, k), value in zip(rows, values[:, common].mean(axis=1), strict=True)
    ]
    best: list[FrontierPoint] = []
    for point in sorted(points, key=lambda p: (p.tokens, -p.value)):
        if not best or point.value > best[-1].value:
            best.append(point)
    return tuple(best)


class _Pair(NamedTuple):
    first: Floats
    second: Floats


def _read_pair(first: ArrayLike, second: ArrayLike) -> _Pair:
    pair = _Pair(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    if pair.first.ndim != 1 or pair.first.shape != pair.second.shape:
        raise ValueError(f"both must have shape (P,), the same problems; got {pair.first.shape}, {pair.second.shape}")
    return pair


def _read_curve(curve: Curve) -> Curve:
    ks, tokens = np.asarray(curve.ks), np.asarray(curve.tokens, dtype=np.float64)
    per_problem = np.asarray(curve.per_problem, dtype=np.float64)
    shapes = (ks.shape, tokens.shape, per_problem.shape)
    if ks.ndim != 1 or not ks.size or tokens.shape != ks.shape or per_problem.shape[:-1] != ks.shape:
        raise ValueError(f"curve {curve.name!r} must have ks (K,), tokens (K,), per_problem (K, P); got {shapes}")
    if ks.dtype.kind not in "iu" or ks[0] < 1 or (np.diff(ks) <= 0).any():
        raise ValueError(f"ks of curve {curve.name!r} must be increasing integers >= 1, got {ks}")
    if not np.isfinite(tokens).all() or tokens[0] < 0 or (np.diff(tokens) < 0).any():
        raise ValueError(f"tokens of curve {curve.name!r} must be finite, >= 0 and not decrease with k; got {tokens}")
    return Curve(curve.name, ks.astype(np.int64), tokens, per_problem)
