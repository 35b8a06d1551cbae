"""pass@k beyond the draws that were made, from the spread of the problems' chances.

The value is a model's: a share z of the problems is never solved, the others have chances from Beta(a, b), so that the
successes in n draws are zero-inflated beta-binomial and

    pass@k = (1 - z) (1 - B(a, b + k) / B(a, b))

The likelihood is searched on a grid of (mean, precision) = (a / (a+b), a + b), in logits and logs, and z, drawn closer
around the top three times: no start to choose and no local top to get stuck in.

The interval trusts no such shape. It holds every pass@k of any law of chances whatever whose log-likelihood is within
1.92 of the best law's: k problems more that are solved (or not) within k draws are pretended until the likelihood has
fallen so far (`_Mixture`). The model's own interval covers .95 where the chances are Beta and .43 where they are not,
and resampling the problems .83 and .37; this one is wide where n draws cannot tell, which is the truth of the matter.

Within the draws nothing is modelled: there `pass_at` is unbiased. Costs no requests and no tokens; about .3 s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.keys import Key
from samplewise.measure._arrays import Floats, Integers, read_outcomes
from samplewise.measure.coverage import pass_at
from samplewise.measure.estimate import Estimate, mean_interval
from samplewise.measure.majority import _classes

DROP = 1.920729  # of a log-likelihood at 95 %: half the chi-square quantile at one degree of freedom
MEANS = (-9.0, 9.0)  # logit of a / (a + b)
PRECISIONS = (-5.0, 8.0)  # log of a + b: from chances of 0 and 1 alone to one and the same for all
SHARES = (-7.0, 7.0)  # logit of z; 0 itself is a place of its own
SIZE = (31, 31, 20)  # places of a grid: mean, precision, share
NUM_ZOOMS = 3
CHANCES = (-13.0, 7.0)  # logits of the grid of chances, 0 and 1 apart
NUM_CHANCES = 90
NUM_STEPS, NUM_HALVINGS = 60, 12
TAIL = 0.025


class Spread(NamedTuple):
    """Maximum likelihood: `blind` of the problems are never solved, the others' chances are from Beta(a, b)."""

    blind: float
    a: float
    b: float
    log_likelihood: float


class Needed(NamedTuple):
    """The least number of draws that reach a coverage; inf: no number does. `low` and `high` are where the upper and
    the lower 95 % end of the coverage reach it."""

    draws: float
    low: float
    high: float


UNKNOWN = Spread(*(math.nan,) * 4)


class PassModel:
    """pass@k for every k, from the outcomes of a pilot: unbiased up to its `num_draws`, by the model beyond.

    `spread` is nan where nothing could be fitted (every draw right, none, or one draw of each problem). `ceiling` is
    1 - z, what draws without end would cover. `note` says what must be said beside every figure, "" for nothing.
    """

    def __init__(self, outcomes: ArrayLike, *, blind: bool = True) -> None:
        """`outcomes` (P, N) of 0 and 1, nan = not drawn or not graded; `blind` False leaves z out. ValueError for other
        outcomes."""
        array = read_outcomes(outcomes)
        made = (~np.isnan(array)).sum(axis=1).astype(np.int64)
        self._outcomes, self._made = array[made > 0], made[made > 0]
        self.num_problems = len(self._made)
        self.num_draws = int(self._made.min()) if self.num_problems else 0
        solved = np.nansum(self._outcomes, axis=1).astype(np.int64)
        self._mixture: _Mixture | None = None
        self._share = float((solved / np.maximum(self._made, 1)).mean()) if self.num_problems else math.nan
        self.spread, self.note = UNKNOWN, ""
        if not self.num_problems:
            self.note = "nothing was drawn"
        elif solved.sum() == 0:
            self.note = "no draw is right: the values are 0, their upper ends what may hide"
        elif (solved == self._made).all():
            self.note = "every draw is right"
        elif self._made.max() == 1:
            self.note = "one draw a problem says nothing about the spread of their chances: bounds alone are known"
        else:
            self.spread = _Places(solved, self._made, blind).fit
            self._mixture = _Mixture(solved, self._made)
        self.ceiling = self._beyond([math.inf])[0]

    def at(self, ks: Sequence[int]) -> tuple[Estimate, ...]:
        """pass@k for each k >= 1 of `ks`; standard errors are nan beyond the draws. ValueError for other ks."""
        values = self.values(ks)
        inside = sorted({k for k in ks if k <= self.num_draws})
        known = dict(zip(inside, map(mean_interval, pass_at(self._outcomes, inside)), strict=True)) if inside else {}
        beyond = sorted(set(ks) - known.keys())
        known |= dict(zip(beyond, self._beyond(beyond), strict=True))
        return tuple(
            known[k]._replace(value=v, low=min(known[k].low, v), high=max(known[k].high, v))
            if not math.isnan(v)
            else known[k]
            for k, v in zip(ks, values.tolist(), strict=True)
        )

    def values(self, ks: Sequence[int]) -> Floats:
        """The values (K,) of `at` alone, which takes no time."""
        asked = np.asarray(ks)
        if asked.ndim != 1 or not asked.size or asked.dtype.kind not in "iu" or asked.min() < 1:
            raise ValueError(f"ks must be integers of at least 1, got {ks!r}")
        if not self.num_problems:
            return np.full(len(asked), np.nan)
        curve = pass_at(self._outcomes, list(range(1, self.num_draws + 1))).mean(axis=1)
        if self._mixture is not None:  # the model may lie below what the draws have covered already
            far = np.maximum((1 - self.spread.blind) * _covered_all(self.spread, asked), curve[-1])
        else:
            far = np.full(len(asked), self._share if self._share in (0.0, 1.0) else np.nan)
        inside = curve[np.minimum(asked, self.num_draws) - 1]
        return np.asarray(np.where(asked <= self.num_draws, inside, far), dtype=np.float64)

    def modelled(self, k: float) -> float:
        """pass@k as the model alone has it, within the draws too; nan without a fit."""
        fit = self.spread
        return float((1 - fit.blind) * _covered(np.array(fit.a), np.array(fit.b), k))

    def needed(self, coverage: float, *, most: int = 1 << 20) -> Needed:
        """How many draws reach `coverage`. More than `most` counts as never. ValueError outside (0, 1]."""
        if not 0 < coverage <= 1:
            raise ValueError(f"coverage must be above 0 and at most 1, got {coverage}")

        grid = sorted({*range(1, 33), *np.geomspace(32, most, 48).round().astype(int).tolist()})
        values, ends = self.values(grid), self.at(grid)
        low = next((k for k, e in zip(grid, ends, strict=True) if e.high >= coverage), math.inf)
        high = next((k for k, e in zip(grid, ends, strict=True) if e.low >= coverage), math.inf)
        place = next((i for i, value in enumerate(values) if value >= coverage), None)
        if place is None:
            return Needed(math.inf, low, high)
        under, over = (grid[place - 1] if place else 0), grid[place]
        while over - under > 1:
            middle = (under + over) // 2
            under, over = (under, middle) if self.values([middle])[0] >= coverage else (middle, over)
        return Needed(over, min(low, over), max(high, over))

    def _beyond(self, ks: Sequence[float]) -> list[Estimate]:
        """By the model, with the ends of any law; a k may be infinite."""
        num = self.num_problems
        if not num:
            return [Estimate(*(math.nan,) * 4, 0, 0)] * len(ks)
        if self._mixture is not None:
            return [
                Estimate(self.modelled(k), float(low), float(high), math.nan, num, 0)
                for k, low, high in zip(ks, *self._mixture.ends(ks), strict=True)
            ]
        if self._share == 0:  # most may hide where every problem has the same small chance: none seen, at level .025
            grown = [-math.expm1(math.log(TAIL) * k / float(self._made.sum())) for k in ks]
            return [Estimate(0.0, 0.0, max(g, 1 - TAIL ** (1 / num)), math.nan, num, 0) for g in grown]
        if self._share == 1:
            return [Estimate(1.0, TAIL ** (1 / num), 1.0, math.nan, num, 0)] * len(ks)
        once = mean_interval(self._outcomes[~np.isnan(self._outcomes)])  # chances of 0 and 1 alone, or all the same
        tops = [-math.expm1(k * math.log1p(-once.high)) if once.high < 1 else 1.0 for k in ks]
        return [Estimate(math.nan, once.low, top, math.nan, num, 0) for top in tops]


class _Range(NamedTuple):
    low: Floats
    high: Floats


class _Mixture:
    """Laws of chances without a shape: weights on a grid of chances, 0 and 1 among them.

    The law that is likeliest with `extra` more problems that are solved within k draws (or not solved) is the one with
    the largest (least) pass@k at its likelihood, so the end of an interval is where the likelihood has fallen by
    `DROP`: one bisection over `extra`. Each law is found by EM, which needs no step size; all ends are searched
    at once.
    """

    def __init__(self, solved: Integers, made: Integers) -> None:
        from scipy.special import expit

        self._chances = np.concatenate([[0.0], expit(np.linspace(*CHANCES, NUM_CHANCES)), [1.0]])
        pairs, times = np.unique(np.stack([solved, made]), axis=1, return_counts=True)
        s, n = pairs.astype(np.float64)[:, :, None]
        with np.errstate(divide="ignore"):
            log_p, log_q = np.log(self._chances), np.log1p(-self._chances)
        with np.errstate(invalid="ignore"):
            log_law = np.where(s > 0, s * log_p, 0.0) + np.where(n > s, (n - s) * log_q, 0.0)  # (U, G)
        self._law = np.exp(log_law - log_law.max(axis=1, keepdims=True))
        self._times = times.astype(np.float64)
        start = np.full((1, len(self._chances)), 1 / len(self._chances))
        self._weights = self._climb(start, np.zeros_like(start), np.zeros(1), 20 * NUM_STEPS)
        self._top = float(self._log_likelihood(self._weights)[0])

    def ends(self, ks: Sequence[float]) -> _Range:
        """Least and largest pass@k (K,) of the laws that are likely enough."""
        with np.errstate(divide="ignore", invalid="ignore"):
            missed = np.exp(np.array(ks)[:, None] * np.log1p(-self._chances))
        missed = np.where(self._chances == 0, 1.0, missed)  # (K, G), also for draws without end
        wanted = np.concatenate([missed, 1 - missed])  # (2K, G): the ends below, then those above
        low, high = np.full(len(wanted), -7.0), np.full(len(wanted), math.log(20 * self._times.sum()))
        weights = np.repeat(self._weights, len(wanted), axis=0)
        kept = weights
        for _ in range(NUM_HALVINGS):
            middle = (low + high) / 2
            start = 0.98 * weights + 0.02 / weights.shape[1]  # a weight near 0 would take long to come back
            weights = self._climb(start, wanted, np.exp(middle), NUM_STEPS)
            fine = self._log_likelihood(weights) >= self._top - DROP
            kept = np.where(fine[:, None], weights, kept)
            low, high = np.where(fine, middle, low), np.where(fine, high, middle)
        reached = (kept * wanted).sum(axis=1)
        reached = np.clip(reached, 0.0, 1.0)
        return _Range(1 - reached[: len(ks)], reached[len(ks) :])

    def _climb(self, weights: Floats, wanted: Floats, extra: Floats, num_steps: int) -> Floats:
        """EM for (B, G) weights, with `extra` (B,) problems more of likelihood `wanted` (B, G)."""
        total = (self._times.sum() + extra)[:, None]
        for _ in range(num_steps):
            seen = self._times / np.maximum(weights @ self._law.T, 1e-300)  # (B, U)
            pull = seen @ self._law
            if extra.any():
                pull += (extra / np.maximum((weights * wanted).sum(axis=1), 1e-300))[:, None] * wanted
            weights = weights * pull / total
        return weights

    def _log_likelihood(self, weights: Floats) -> Floats:
        return np.asarray(np.log(np.maximum(weights @ self._law.T, 1e-300)) @ self._times, dtype=np.float64)


def _covered_all(spread: Spread, ks: NDArray[np.int64]) -> Floats:
    return np.array([float(_covered(np.array(spread.a), np.array(spread.b), k)) for k in ks.tolist()])


def majority_beyond(
    answers: ArrayLike, outcomes: ArrayLike, ks: Sequence[float], key: Key, *, num_resamples: int = 200
) -> Floats:
    """Plurality among k draws, k beyond what was drawn: (K, P), inputs as for `majority_at`; k may be infinite.

    The multinomial plug-in: k draws with replacement from a problem's own draws, ties shared. It takes the shares seen
    for the truth, and so is biased towards whatever leads in the pilot: too high where a right answer leads by luck,
    too low where it trails by bad luck. Predict what was drawn from half of it to see how far off it is.
    """
    outcome = read_outcomes(outcomes)
    codes = np.asarray(answers, dtype=np.int64)
    present = ~np.isnan(outcome)
    classes = _classes(codes, outcome, present)
    num = present.sum(axis=1)
    counts = np.concatenate([classes.counts, (num - classes.counts.sum(axis=1))[:, None]], axis=1)  # unread come last
    generator = key.generator()
    value = np.full((len(ks), len(outcome)), np.nan)
    for row in np.flatnonzero(num > 0):
        shares = counts[row] / num[row]
        worth = np.append(classes.outcomes[row], 0.0)
        for place, k in enumerate(ks):
            drawn = shares[None] if math.isinf(k) else generator.multinomial(int(k), shares, size=num_resamples)
            votes = drawn[:, :-1]
            top = votes.max(axis=1, keepdims=True, initial=0.0)
            tied = (votes == top) & (top > 0)
            value[place, row] = float(np.mean((tied @ worth[:-1]) / np.maximum(tied.sum(axis=1), 1)))
    return value


def _covered(a: Floats, b: Floats, k: float) -> Floats:
    """1 - B(a, b + k) / B(a, b): the chance of a success in k draws, over Beta(a, b)."""
    from scipy.special import betaln

    if math.isinf(k):
        return np.where(np.isnan(a), np.nan, 1.0)
    return np.asarray(-np.expm1(betaln(a, b + k) - betaln(a, b)), dtype=np.float64)


def _logit_inverse(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)), dtype=np.float64)


class _Places:
    """The likelihood of z, a and b on a grid, and its top, `fit`."""

    def __init__(self, solved: Integers, made: Integers, blind: bool) -> None:
        pairs, times = np.unique(np.stack([solved, made]), axis=1, return_counts=True)
        self._pairs, self._times = pairs.astype(np.float64), times.astype(np.float64)
        box = [MEANS, PRECISIONS, SHARES]
        for _ in range(1 + NUM_ZOOMS):
            axes = [np.linspace(*ends, size) for ends, size in zip(box, SIZE, strict=True)]
            shares = np.concatenate([[-np.inf], axes[2]]) if blind else np.array([-np.inf])
            value = self._log_likelihood(axes[0][:, None], axes[1], shares)  # (mean, precision, share)
            near = value >= value.max() - 2 * DROP
            box = [
                _around(axis, near.any(axis=tuple({0, 1, 2} - {place})), limit)
                for place, (axis, limit) in enumerate(zip(axes[:2], (MEANS, PRECISIONS), strict=True))
            ]
            box.append(_around(axes[2], near.any(axis=(0, 1))[1:], SHARES) if blind else SHARES)
        self.fit = self._top(axes, shares, value)

    def _log_likelihood(self, mean: Floats, precision: Floats, share: Floats) -> Floats:
        """(..., Z) at logit means and log precisions (...) and logit shares (Z,); binomial coefficients, which are
        constant, left out."""
        from scipy.special import betaln

        total = np.exp(precision)
        a, b = _logit_inverse(mean) * total, _logit_inverse(-mean) * total
        start = betaln(a, b)
        z = _logit_inverse(share)
        rest = np.log(_logit_inverse(-share))
        value = np.zeros((*np.shape(start), len(share)))
        for s, n, times in zip(*self._pairs, self._times, strict=True):
            log_p = (betaln(s + a, n - s + b) - start)[..., None]
            value += times * (rest + log_p if s else np.log(z + np.exp(rest + log_p)))
        return value

    def _top(self, axes: Sequence[Floats], shares: Floats, value: Floats) -> Spread:
        """From the best place of the grid to the top, with z free and with z = 0."""
        from scipy.optimize import minimize

        found = []
        for edge in (True, False):
            part = value[..., :1] if edge else value[..., 1:]
            if not part.size:
                continue
            mean, precision, share = np.unravel_index(int(part.argmax()), part.shape)
            start = [axes[0][mean], axes[1][precision], *([] if edge else [shares[1:][share]])]

            def loss(place: Floats, edge: bool = edge) -> float:
                held = np.array([-np.inf]) if edge else place[2:]
                return -float(self._log_likelihood(place[0], place[1], held)[0])

            bounds = [MEANS, PRECISIONS, SHARES][: len(start)]
            options = {"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000}
            done = minimize(loss, start, method="Nelder-Mead", bounds=bounds, options=options)
            a, b = _logit_inverse(done.x[0]) * math.exp(done.x[1]), _logit_inverse(-done.x[0]) * math.exp(done.x[1])
            blind = 0.0 if edge else float(_logit_inverse(done.x[2]))
            found.append(Spread(blind, float(a), float(b), -float(done.fun)))
        return max(found, key=lambda spread: spread.log_likelihood)


def _around(axis: Floats, near: NDArray[np.bool_], limit: tuple[float, float]) -> tuple[float, float]:
    """The part of an axis where something is near, and one step more on either side."""
    places = np.flatnonzero(near)
    if not len(places):  # only z = 0 is near: look where it begins
        places = np.array([0])
    step = float(axis[1] - axis[0])
    return max(limit[0], float(axis[places[0]]) - step), min(limit[1], float(axis[places[-1]]) + step)
