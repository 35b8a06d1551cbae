"""Empirical Bayes: a prior for the next question from the draws of past ones. No predictor, no network.

Passes: the Beta(a, b) of largest beta-binomial likelihood. Scores: a question's logit mean and log standard deviation
are taken as normal over questions; the variance that comes from having few scores of each is subtracted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.measure.beta_binomial import fit_beta_binomial, fit_precision
from samplewise.stop.prior import BetaPrior, ScorePrior
from samplewise.stop.truncated import ScoreTally

LEAST_SPREAD = 1e-3  # of a question's scores: below it their logarithm says nothing
LEAST_SD = 0.05  # of either parameter: the prior never claims to know a question


class ScoreLocation(NamedTuple):
    """Where a question's scores lie, and how uncertain that is."""

    logit_mean: float
    log_spread: float
    noise_mean: float  # sampling variance of the first
    noise_spread: float  # and of the second


def fit_beta(passes: ArrayLike, draws: ArrayLike, means: ArrayLike | None = None) -> BetaPrior:
    """Fit Beta(a, b) by maximum likelihood to `passes` (P,) of `draws` (P,) of each question.

    With `means` (P,), a predicted pass probability for each question, only a + b is fitted, for a Beta around each
    question's own mean; the returned prior has the mean of theirs. Raise ValueError without a pass or without a miss.
    """
    k, n = np.asarray(passes, dtype=np.float64), np.asarray(draws, dtype=np.float64)
    if not (k.ndim == 1 and k.shape == n.shape and (k >= 0).all() and (k <= n).all()):
        raise ValueError("passes and draws must have shape (P,), passes within draws")
    if not 0 < k.sum() < n.sum():
        raise ValueError("a prior needs a pass and a miss among the draws of past questions")
    if means is None:
        return BetaPrior(*fit_beta_binomial(k, n))
    size, mean = fit_precision(k, n, means), float(np.asarray(means, dtype=np.float64).mean())
    return BetaPrior(mean * size, (1 - mean) * size)


def score_location(tally: ScoreTally) -> ScoreLocation:
    """Return the location of the scores in [0, 1] of a question with at least two.

    A mean of 0 or 1 is moved inwards by half a score.
    """
    if tally.num < 2:
        raise ValueError(f"a question's place needs at least two scores, got {tally.num}")
    num = tally.num
    mean = (tally.mean * num + 0.5) / (num + 1) if tally.mean in (0.0, 1.0) else tally.mean
    spread = max(math.sqrt(tally.square / (num - 1)), LEAST_SPREAD)
    slope = 1 / (mean * (1 - mean))  # of the logit
    noise = spread**2 / num * slope**2
    return ScoreLocation(math.log(mean / (1 - mean)), math.log(spread), noise, 1 / (2 * (num - 1)))


def fit_scores(locations: Sequence[ScoreLocation]) -> ScorePrior:
    """Return the prior of questions like these. Raise ValueError for fewer than two."""
    if len(locations) < 2:
        raise ValueError(f"a prior of scores needs at least two questions, got {len(locations)}")
    table = np.array(locations)  # (P, 4)
    centre, noise = table[:, :2].mean(axis=0), table[:, 2:].mean(axis=0)
    true = table[:, :2].var(axis=0, ddof=1) - noise
    return ScorePrior(*centre.tolist(), *np.sqrt(np.maximum(true, LEAST_SD**2)).tolist())
