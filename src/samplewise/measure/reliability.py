"""How far predicted probabilities can be believed, and the threshold whose risk is under control.

Reliability: held-out probabilities against the truth, with the question as the unit of every interval. Risk control
(Learn then Test, Angelopoulos et al. 2021): the laxest threshold at which answers are wrong no more often than asked
for, by exact binomial tests, or the statement that there are too few questions. Costs no requests and no tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.measure._arrays import Floats, Integers
from samplewise.measure.calibration import CalibrationRows, read_rows
from samplewise.measure.estimate import Estimate, mean_interval


class Bin(NamedTuple):
    """Draws of similar predicted probability. `share` is the questions' weight in it, `right` a mean over its
    questions.
    """

    share: float
    probability: float
    right: Estimate


class Reliability(NamedTuple):
    """How far predicted probabilities can be believed.

    `error` (ECE) is the weighted mean gap between prediction and truth over the bins; it is not 0 for a perfect map, as
    bins are noisy.
    """

    log_loss: Estimate  # nats a question
    brier: Estimate
    error: float
    bins: tuple[Bin, ...]


def measure_reliability(
    probabilities: ArrayLike, right: ArrayLike, questions: ArrayLike, *, num_bins: int = 10
) -> Reliability:
    """Compare predicted `probabilities` (N,) with `right` (N,); each question weighs 1.

    The question is the unit of every interval. Bins hold equal weight; there are fewer where predictions are equal.
    Raise ValueError for other shapes or predictions outside [0, 1].
    """
    rows = read_rows(probabilities, right, questions)
    p = rows.scores
    if ((p < 0) | (p > 1)).any():
        raise ValueError("probabilities must be in [0, 1] or nan")
    inside = np.clip(p, 1e-15, 1 - 1e-15)
    loss = -(rows.right * np.log(inside) + (1 - rows.right) * np.log1p(-inside))
    square = (p - rows.right) ** 2
    bins, error = [], 0.0
    total = rows.weights.sum()
    for members in _bins(p, rows.weights, num_bins):
        part = CalibrationRows(p[members], rows.right[members], rows.questions[members], rows.weights[members], members)
        share = float(part.weights.sum() / total)
        error += share * abs(float(np.average(part.scores - part.right, weights=part.weights)))
        bins.append(
            Bin(share, float(_by_question(part.scores, part).mean()), mean_interval(_by_question(part.right, part)))
        )
    return Reliability(
        mean_interval(_by_question(loss, rows), support=None),
        mean_interval(_by_question(square, rows)),
        error if bins else math.nan,
        tuple(bins),
    )


class Risk(NamedTuple):
    """A threshold whose answers are wrong with at most the risk asked for, or why there is none. nan: abstain."""

    threshold: float
    stopped: int  # questions that the threshold answered
    errors: int  # wrong ones among them
    p_value: float
    needed: int  # answered questions without an error that it takes at the least
    reason: str


def needed_without_error(risk: float, error: float) -> int:
    """Return the questions to answer without one error before P(wrong) <= `risk` can be claimed at level 1 - `error`.

    It is the least n with (1 - risk)^n <= error.
    """
    if not (0 < risk < 1 and 0 < error < 1):
        raise ValueError(f"risk and error must be above 0 and below 1, got {risk} and {error}")
    return math.ceil(math.log(error) / math.log1p(-risk) - 1e-9)


def control_risk(
    thresholds: ArrayLike, stopped: ArrayLike, errors: ArrayLike, *, risk: float, error: float = 0.05
) -> Risk:
    """Return the laxest threshold with P(wrong | answered) <= `risk`; that claim is wrong with probability at most
    `error`.

    `thresholds` (K,) from strict to lax, fixed before the questions were looked at; `stopped` and `errors` (K,) how
    many questions each answered, and how many of those wrongly, in a replay of the whole recipe. Tested one after the
    other (a fixed sequence, so no correction for their number): accepted while P(Bin(stopped, risk) <= errors) is at
    most `error`; the last accepted one is taken. Thresholds that answered too few questions to be accepted even without
    an error are passed over. That is exact for questions like these where answers do not get better as the threshold
    falls.
    """
    from scipy.special import bdtr

    levels, num, wrong = (np.asarray(x) for x in (thresholds, stopped, errors))
    if (
        levels.ndim != 1
        or not levels.shape == num.shape == wrong.shape
        or {num.dtype.kind, wrong.dtype.kind} - set("iu")
    ):
        raise ValueError(
            f"thresholds, stopped and errors must be (K,), counts as integers; got {levels.shape}, {num.shape}"
        )
    if (wrong < 0).any() or (wrong > num).any() or (np.diff(num) < 0).any():
        raise ValueError("errors must be 0 to stopped, and a laxer threshold answers no fewer questions")
    needed = needed_without_error(risk, error)
    best = Risk(math.nan, 0, 0, math.nan, needed, "")
    for threshold, n, e in zip(levels.tolist(), num.tolist(), wrong.tolist(), strict=True):
        if n < needed:
            continue
        p_value = float(bdtr(e, n, risk))
        if p_value > error:
            if math.isnan(best.threshold):
                best = Risk(
                    math.nan, n, e, p_value, needed, f"{e} of {n} answered questions are wrong, too many for {risk}"
                )
            break
        best = Risk(threshold, n, e, p_value, needed, f"{e} of {n} answered questions are wrong")
    if math.isnan(best.threshold) and not best.reason:
        most = int(num.max(initial=0))
        return best._replace(stopped=most, reason=f"too few: {needed} answered questions are needed, there are {most}")
    return best


def _bins(values: Floats, weights: Floats, num_bins: int) -> list[Integers]:
    """Return indices of equal weight, in the order of their values; equal values stay together."""
    order = np.argsort(values, kind="stable")
    if not len(order):
        return []
    before = np.cumsum(weights[order]) - weights[order] / 2
    code = np.minimum((before / weights.sum() * num_bins).astype(np.int64), num_bins - 1)
    first = np.unique(values[order], return_index=True)[1]
    code = np.repeat(code[first], np.diff(np.append(first, len(order))))
    return [order[code == bin_code] for bin_code in np.unique(code)]


def _by_question(values: Floats, rows: CalibrationRows) -> Floats:
    """Return each question's mean (Q,)."""
    names, index = np.unique(rows.questions, return_inverse=True)
    index = index.reshape(-1)
    return np.asarray(np.bincount(index, weights=values, minlength=len(names)) / np.bincount(index), dtype=np.float64)
