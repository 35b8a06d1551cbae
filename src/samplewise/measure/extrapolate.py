"""pass@k beyond the draws that were made, from the spread of the problems' success probabilities.

The value is a model's: a share z of the problems is never solved, the others have success probabilities from
Beta(a, b), so that the successes in n draws are zero-inflated beta-binomial and

    pass@k = (1 - z) (1 - B(a, b + k) / B(a, b))

The likelihood is searched on a grid of (mean, precision) = (a / (a+b), a + b), in logits and logs, and z, narrowed
around the top three times: no start to choose and no local top to get stuck in.

The interval assumes no such shape. It holds every pass@k of any distribution of success probabilities whose
log-likelihood is within 1.92 of the best one's: k more problems that are solved (or not) within k draws are assumed
until the likelihood has fallen that far (`_Mixture`). The model's own interval covers .95 where the distribution is
Beta and .43 where it is not, and resampling the problems .83 and .37; this one is wide where n draws cannot tell.

Within the draws nothing is modelled: there `pass_at` is unbiased. Costs no requests and no tokens; about .3 s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.core.keys import Key
from samplewise.core.numerics import Ints
from samplewise.measure._arrays import Floats, Integers, read_outcomes
from samplewise.measure.beta_binomial import group_counts, log_beta_binomial
from samplewise.measure.coverage import pass_at
from samplewise.measure.estimate import Estimate, mean_interval
from samplewise.measure.majority import classify_answers

DROP = 1.920729  # of a log-likelihood at 95 %: half the chi-square quantile at one degree of freedom
MEANS = (-9.0, 9.0)  # logit of a / (a + b)
PRECISIONS = (-5.0, 8.0)  # log of a + b: from probabilities of 0 and 1 alone to one for all problems
SHARES = (-7.0, 7.0)  # logit of z; 0 itself is a point of its own
SIZE = (31, 31, 20)  # points of a grid: mean, precision, share
NUM_ZOOMS = 3
LOGITS = (-13.0, 7.0)  # logits of the grid of probabilities; 0 and 1 are added
NUM_PROBABILITIES = 90
NUM_STEPS, NUM_HALVINGS = 60, 12
TAIL = 0.025


class Spread(NamedTuple):
    """Maximum likelihood: `blind` of the problems are never solved, the others' success probabilities are from Beta(a,
    b).
    """

    blind: float
    a: float
    b: float
    log_likelihood: float


class DrawsNeeded(NamedTuple):
    """The least number of draws that reach a coverage; inf if no number does.

    `low` and `high` are where the upper and the lower 95 % end of the coverage reach it.
    """

    draws: float
    low: float
    high: float


UNKNOWN = Spread(*(math.nan,) * 4)


class PassModel:
    """pass@k for every k, from the outcomes of a pilot: unbiased up to its `num_draws`, by the model beyond.

    `spread` is nan where nothing could be fitted (every draw right, none, or one draw of each problem). `ceiling` is 1
    - z, what unlimited draws would cover. `note` must be printed beside every figure, "" for nothing.
    """

    def __init__(self, outcomes: ArrayLike, *, blind: bool = True) -> None:
        """Fit `outcomes` (P, N) of 0 and 1, nan = not drawn or not graded; `blind` False leaves z out.

        Raise ValueError for other outcomes.
        """
        array = read_outcomes(outcomes)
        draws = (~np.isnan(array)).sum(axis=1).astype(np.int64)
        self._outcomes, self._draws = array[draws > 0], draws[draws > 0]
        self.num_problems = len(self._draws)
        self.num_draws = int(self._draws.min()) if self.num_problems else 0
        solved = np.nansum(self._outcomes, axis=1).astype(np.int64)
        self._mixture: _Mixture | None = None
        self._share = float((solved / np.maximum(self._draws, 1)).mean()) if self.num_problems else math.nan
        self.spread, self.note = UNKNOWN, ""
        if not self.num_problems:
            self.note = "nothing was drawn"
        elif solved.sum() == 0:
            self.note = "no draw is right: the values are 0, and the upper ends what these draws cannot exclude"
        elif (solved == self._draws).all():
            self.note = "every draw is right"
        elif self._draws.max() == 1:
            self.note = "one draw a problem says nothing about the spread of their probabilities: only bounds are known"
        else:
            self.spread = _LikelihoodGrid(solved, self._draws, blind).fit
            self._mixture = _Mixture(solved, self._draws)
        self.ceiling = self._beyond([math.inf])[0]

    def at(self, ks: Sequence[int]) -> tuple[Estimate, ...]:
        """Return pass@k for each k >= 1 of `ks`; standard errors are nan beyond the draws. Raise ValueError for other
        ks.
        """
        values = self.values(ks)
        inside = sorted({k for k in ks if k <= self.num_draws})
        within = map(mean_interval, pass_at(self._outcomes, inside)) if inside else ()
        estimates = dict(zip(inside, within, strict=True))
        beyond = sorted(set(ks) - estimates.keys())
        estimates |= dict(zip(beyond, self._beyond(beyond), strict=True))
        return tuple(
            estimates[k]._replace(value=v, low=min(estimates[k].low, v), high=max(estimates[k].high, v))
            if not math.isnan(v)
            else estimates[k]
            for k, v in zip(ks, values.tolist(), strict=True)
        )

    def values(self, ks: Sequence[int]) -> Floats:
        """Return the values (K,) of `at` alone, which takes almost no time."""
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
        """Return pass@k by the model alone, within the draws too; nan without a fit."""
        fit = self.spread
        return float((1 - fit.blind) * _covered(np.array(fit.a), np.array(fit.b), k))

    def needed(self, coverage: float, *, most: int = 1 << 20) -> DrawsNeeded:
        """Return how many draws reach `coverage`. More than `most` counts as never. Raise ValueError outside (0, 1]."""
        if not 0 < coverage <= 1:
            raise ValueError(f"coverage must be above 0 and at most 1, got {coverage}")

        grid = sorted({*range(1, 33), *np.geomspace(32, most, 48).round().astype(int).tolist()})
        values, ends = self.values(grid), self.at(grid)
        low = next((k for k, e in zip(grid, ends, strict=True) if e.high >= coverage), math.inf)
        high = next((k for k, e in zip(grid, ends, strict=True) if e.low >= coverage), math.inf)
        first = next((i for i, value in enumerate(values) if value >= coverage), None)
        if first is None:
            return DrawsNeeded(math.inf, low, high)
        under, over = (grid[first - 1] if first else 0), grid[first]
        while over - under > 1:
            middle = (under + over) // 2
            under, over = (under, middle) if self.values([middle])[0] >= coverage else (middle, over)
        return DrawsNeeded(over, min(low, over), max(high, over))

    def _beyond(self, ks: Sequence[float]) -> list[Estimate]:
        """Return estimates by the model, with the ends of any distribution; a k may be infinite."""
        num = self.num_problems
        if not num:
            return [Estimate(*(math.nan,) * 4, 0, 0)] * len(ks)
        if self._mixture is not None:
            return [
                Estimate(self.modelled(k), float(low), float(high), math.nan, num, 0)
                for k, low, high in zip(ks, *self._mixture.ends(ks), strict=True)
            ]
        if self._share == 0:  # the upper end: every problem has the same small probability, none seen at level .025
            grown = [-math.expm1(math.log(TAIL) * k / float(self._draws.sum())) for k in ks]
            return [Estimate(0.0, 0.0, max(g, 1 - TAIL ** (1 / num)), math.nan, num, 0) for g in grown]
        if self._share == 1:
            return [Estimate(1.0, TAIL ** (1 / num), 1.0, math.nan, num, 0)] * len(ks)
        once = mean_interval(self._outcomes[~np.isnan(self._outcomes)])  # probabilities all 0 or 1, or all the same
        tops = [-math.expm1(k * math.log1p(-once.high)) if once.high < 1 else 1.0 for k in ks]
        return [Estimate(math.nan, once.low, top, math.nan, num, 0) for top in tops]


class _Range(NamedTuple):
    low: Floats
    high: Floats


class _Mixture:
    """Distributions of success probabilities of any shape: weights on a grid of probabilities, 0 and 1 among them.

    The distribution that is likeliest with `extra` more problems that are solved within k draws (or not solved) is the
    one with the largest (least) pass@k at its likelihood, so the end of an interval is where the likelihood has fallen
    by `DROP`: one bisection over `extra`. Each is found by EM, which needs no step size; all ends are searched at once.
    """

    def __init__(self, solved: Integers, draws: Integers) -> None:
        from scipy.special import expit

        self._probabilities = np.concatenate([[0.0], expit(np.linspace(*LOGITS, NUM_PROBABILITIES)), [1.0]])
        groups = group_counts(solved, draws)
        s, n = groups.successes[:, None], groups.draws[:, None]
        with np.errstate(divide="ignore"):
            log_p, log_q = np.log(self._probabilities), np.log1p(-self._probabilities)
        with np.errstate(invalid="ignore"):
            log_likelihood = np.where(s > 0, s * log_p, 0.0) + np.where(n > s, (n - s) * log_q, 0.0)  # (U, G)
        self._likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
        self._times = groups.times
        start = np.full((1, len(self._probabilities)), 1 / len(self._probabilities))
        self._weights = self._climb(start, np.zeros_like(start), np.zeros(1), 20 * NUM_STEPS)
        self._top = float(self._log_likelihood(self._weights)[0])

    def ends(self, ks: Sequence[float]) -> _Range:
        """Return the least and largest pass@k (K,) of the distributions that are likely enough."""
        with np.errstate(divide="ignore", invalid="ignore"):
            missed = np.exp(np.array(ks)[:, None] * np.log1p(-self._probabilities))
        missed = np.where(self._probabilities == 0, 1.0, missed)  # (K, G), also for draws without end
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
        """Run EM on (B, G) weights, with `extra` (B,) more problems of likelihood `wanted` (B, G)."""
        total = (self._times.sum() + extra)[:, None]
        for _ in range(num_steps):
            seen = self._times / np.maximum(weights @ self._likelihood.T, 1e-300)  # (B, U)
            pull = seen @ self._likelihood
            if extra.any():
                pull += (extra / np.maximum((weights * wanted).sum(axis=1), 1e-300))[:, None] * wanted
            weights = weights * pull / total
        return weights

    def _log_likelihood(self, weights: Floats) -> Floats:
        return np.asarray(np.log(np.maximum(weights @ self._likelihood.T, 1e-300)) @ self._times, dtype=np.float64)


def _covered_all(spread: Spread, ks: Ints) -> Floats:
    return np.array([float(_covered(np.array(spread.a), np.array(spread.b), k)) for k in ks.tolist()])


def majority_beyond(
    answers: ArrayLike, outcomes: ArrayLike, ks: Sequence[float], key: Key, *, num_resamples: int = 200
) -> Floats:
    """Return plurality among k draws, k beyond what was drawn: (K, P), inputs as for `majority_at`; k may be infinite.

    The multinomial plug-in: k draws with replacement from a problem's own draws, ties shared. It takes the observed
    shares as the truth, and so is biased towards whatever leads in the pilot: too high where a right answer leads by
    chance, too low where it trails by chance. Predict what was drawn from half of it to see how far off it is.
    """
    outcome = read_outcomes(outcomes)
    codes = np.asarray(answers, dtype=np.int64)
    present = ~np.isnan(outcome)
    classes = classify_answers(codes, outcome, present)
    num = present.sum(axis=1)
    counts = np.concatenate([classes.counts, (num - classes.counts.sum(axis=1))[:, None]], axis=1)  # unreadable last
    generator = key.generator()
    value = np.full((len(ks), len(outcome)), np.nan)
    for row in np.flatnonzero(num > 0):
        shares = counts[row] / num[row]
        class_outcomes = np.append(classes.outcomes[row], 0.0)
        for index, k in enumerate(ks):
            drawn = shares[None] if math.isinf(k) else generator.multinomial(int(k), shares, size=num_resamples)
            votes = drawn[:, :-1]
            top = votes.max(axis=1, keepdims=True, initial=0.0)
            tied = (votes == top) & (top > 0)
            value[index, row] = float(np.mean((tied @ class_outcomes[:-1]) / np.maximum(tied.sum(axis=1), 1)))
    return value


def _covered(a: Floats, b: Floats, k: float) -> Floats:
    """Return 1 - B(a, b + k) / B(a, b): the probability of a success in k draws, over Beta(a, b)."""
    if math.isinf(k):
        return np.where(np.isnan(a), np.nan, 1.0)
    return -np.expm1(log_beta_binomial(0, k, a, b))


def _logit_inverse(x: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)), dtype=np.float64)


class _LikelihoodGrid:
    """The likelihood of z, a and b on a grid, and its top, `fit`."""

    def __init__(self, solved: Integers, draws: Integers, blind: bool) -> None:
        self._groups = group_counts(solved, draws)
        box = [MEANS, PRECISIONS, SHARES]
        for _ in range(1 + NUM_ZOOMS):
            axes = [np.linspace(*ends, size) for ends, size in zip(box, SIZE, strict=True)]
            shares = np.concatenate([[-np.inf], axes[2]]) if blind else np.array([-np.inf])
            value = self._log_likelihood(axes[0][:, None], axes[1], shares)  # (mean, precision, share)
            near = value >= value.max() - 2 * DROP
            box = [
                _around(axis, near.any(axis=tuple({0, 1, 2} - {index})), limit)
                for index, (axis, limit) in enumerate(zip(axes[:2], (MEANS, PRECISIONS), strict=True))
            ]
            box.append(_around(axes[2], near.any(axis=(0, 1))[1:], SHARES) if blind else SHARES)
        self.fit = self._top(axes, shares, value)

    def _log_likelihood(self, mean: Floats, precision: Floats, share: Floats) -> Floats:
        """Return (..., Z) at logit means, log precisions (...) and logit shares (Z,), no binomial coefficients."""
        total = np.exp(precision)
        a, b = _logit_inverse(mean) * total, _logit_inverse(-mean) * total
        z = _logit_inverse(share)
        rest = np.log(_logit_inverse(-share))
        value = np.zeros((*np.shape(a), len(share)))
        for s, n, times in zip(*self._groups, strict=True):
            log_p = log_beta_binomial(s, n, a, b)[..., None]
            value += times * (rest + log_p if s else np.log(z + np.exp(rest + log_p)))
        return value

    def _top(self, axes: Sequence[Floats], shares: Floats, value: Floats) -> Spread:
        """Climb from the best point of the grid to the top, with z free and with z = 0."""
        from scipy.optimize import minimize

        spreads = []
        for edge in (True, False):
            part = value[..., :1] if edge else value[..., 1:]
            if not part.size:
                continue
            mean, precision, share = np.unravel_index(int(part.argmax()), part.shape)
            start = [axes[0][mean], axes[1][precision], *([] if edge else [shares[1:][share]])]

            def loss(point: Floats, edge: bool = edge) -> float:
                logit_share = np.array([-np.inf]) if edge else point[2:]
                return -float(self._log_likelihood(point[0], point[1], logit_share)[0])

            bounds = [MEANS, PRECISIONS, SHARES][: len(start)]
            options = {"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000}
            result = minimize(loss, start, method="Nelder-Mead", bounds=bounds, options=options)
            a, b = (_logit_inverse(mean) * math.exp(result.x[1]) for mean in (result.x[0], -result.x[0]))
            blind = 0.0 if edge else float(_logit_inverse(result.x[2]))
            spreads.append(Spread(blind, float(a), float(b), -float(result.fun)))
        return max(spreads, key=lambda spread: spread.log_likelihood)


def _around(axis: Floats, near: NDArray[np.bool_], limit: tuple[float, float]) -> tuple[float, float]:
    """Return the part of an axis where something is near, and one step more on either side."""
    near_indices = np.flatnonzero(near)
    if not len(near_indices):  # only z = 0 is near: start at the lower end
        near_indices = np.array([0])
    step = float(axis[1] - axis[0])
    return max(limit[0], float(axis[near_indices[0]]) - step), min(limit[1], float(axis[near_indices[-1]]) + step)
