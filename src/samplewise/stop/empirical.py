"""Empirical Bayes: a prior for the next question from the draws of past ones. No predictor, no network.

Passes: Beta(a, b) of largest beta-binomial likelihood. Scores: a question's logit mean and log standard deviation are
taken as normal; of their variance over questions the part that comes from the few scores of each is taken off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.numerics import Floats
from samplewise.stop.prior import BetaPrior, ScorePrior
from samplewise.stop.truncated import Tally

LEAST_SPREAD = 1e-3  # of a question's scores: below it their logarithm says nothing
LEAST_SD = 0.05  # of either parameter: the prior never claims to know a question
LARGEST = 1e4  # a + b: questions that are all alike have no largest likelihood


class Place(NamedTuple):
    """Where a question's scores lie, and how unsure that is."""

    logit_mean: float
    log_spread: float
    noise_mean: float  # sampling variance of the first
    noise_spread: float  # and of the second


def fit_beta(passes: ArrayLike, draws: ArrayLike, means: ArrayLike | None = None) -> BetaPrior:
    """Beta(a, b) of largest likelihood for `passes` (P,) among `draws` (P,) of each question.

    With `means` (P,), the chance that somebody predicts for each, only the size a + b is fitted, for a law around every
    question's own mean; the prior's own mean is then theirs. ValueError without a pass or without a miss.
    """
    from scipy.optimize import minimize
    from scipy.special import betaln, expit

    k, n = np.asarray(passes, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if not (k.ndim == 1 and k.shape == n.shape and (k >= 0).all() and (k <= n).all()):
        raise ValueError("passes and draws must have shape (P,), passes within draws")
    if not 0 < k.sum() < n.sum():
        raise ValueError("a prior needs a pass and a miss among the draws of past questions")
    given = None if means is None else np.asarray(means, dtype=np.float64)

    def cost(parameters: Floats) -> float:
        mean = expit(parameters[-1]) if given is None else given
        size = math.exp(min(parameters[0], math.log(LARGEST)))
        a, b = mean * size, (1 - mean) * size
        return -float((betaln(a + k, b + n - k) - betaln(a, b)).sum())

    overall = float(k.sum() / n.sum())
    start = [0.0] if given is not None else [0.0, math.log(overall / (1 - overall))]
    found = minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-8})
    size = math.exp(min(found.x[0], math.log(LARGEST)))
    mean = float(expit(found.x[1])) if given is None else float(given.mean())
    return BetaPrior(mean * size, (1 - mean) * size)


def place_of(tally: Tally) -> Place:
    """Of a question with at least two scores in [0, 1]. Means at the very end are pulled in by half a score."""
    if tally.num < 2:
        raise ValueError(f"a question's place needs at least two scores, got {tally.num}")
    num = tally.num
    mean = (tally.mean * num + 0.5) / (num + 1) if tally.mean in (0.0, 1.0) else tally.mean
    spread = max(math.sqrt(tally.square / (num - 1)), LEAST_SPREAD)
    slope = 1 / (mean * (1 - mean))  # of the logit
    noise = spread**2 / num * slope**2
    return Place(math.log(mean / (1 - mean)), math.log(spread), noise, 1 / (2 * (num - 1)))


def fit_scores(places: Sequence[Place]) -> ScorePrior:
    """The prior of questions like these. ValueError for fewer than two."""
    if len(places) < 2:
        raise ValueError(f"a prior of scores needs at least two questions, got {len(places)}")
    table = np.array(places)  # (P, 4)
    centre, noise = table[:, :2].mean(axis=0), table[:, 2:].mean(axis=0)
    true = table[:, :2].var(axis=0, ddof=1) - noise
    return ScorePrior(*centre.tolist(), *np.sqrt(np.maximum(true, LEAST_SD**2)).tolist())
