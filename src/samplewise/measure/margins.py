"""Why a vote over several arms gains or loses against a vote of direct draws: an exact identity.

Per problem, with weights w of the arms, p_j the answer distribution of arm j, pbar = sum_j w_j p_j, y* the right answer
and margin D_j = p_j(y*) - max_{y != y*} p_j(y):

    D_mix = sum_j w_j D_j + B,    B = sum_j w_j max_{y != y*} p_j(y) - max_{y != y*} pbar(y) >= 0
    D_mix - D_direct = [sum_j w_j D_j - D_0] (fidelity term) + B (decorrelation bonus)

So voting gains if wrong answers disagree across arms by more than the mean margin falls; with one wrong answer shared
by all arms B is 0. It explains: accuracy is P(D > 0), not E D, so decide by accuracy.

B of counts is too high where arms are alike, as maxima of noise are; its mean over shuffles of the draws over the arms
of a problem is subtracted. That is right for arms that are alike and subtracts too much where their wrong answers
differ: truth .394, 16 draws of 8 arms, gives .387 raw and .326 corrected. So the interval of the bonus runs from the
lower limit of the corrected value to the upper limit of one that cannot be too low: the arms' maxima as counted, less
the share that the mixture's favorite wrong answer in one half of the draws has in the other half.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.core.keys import Key
from samplewise.core.numerics import Ints
from samplewise.measure._arrays import Floats, Integers
from samplewise.measure.estimate import Estimate, mean_interval
from samplewise.measure.spread import Dealt, deal_answers

NUM_SHUFFLES = 100


class Margins(NamedTuple):
    """Exact pieces of the identity, (...): problem by problem."""

    mix: Floats
    direct: Floats
    fidelity_term: Floats
    bonus: Floats  # B


class MarginReport(NamedTuple):
    """Means over the problems where every arm has a readable draw and the right answer is given, as shares."""

    mix: Estimate  # from counts, uncorrected: fair against direct at the same number of draws alone
    fidelity_term: Estimate
    bonus_raw: float  # biased upwards
    bonus_null: float  # mean over shuffles
    bonus: Estimate  # raw - null; its interval also covers what the correction may have subtracted too much
    p_value: float  # of raw against shuffled arms, one-sided


def margin_pieces(distributions: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None) -> Margins:
    """Return the identity for answer distributions (P, M, K), arm 0 direct.

    `right` (P,) is the code of the right answer, -1 where no draw has it; `weights` (M,) sum to 1, default equal. Raise
    ValueError for other shapes.
    """
    p = np.asarray(distributions, dtype=np.float64)
    code = np.asarray(right)
    if p.ndim != 3 or code.shape != p.shape[:1] or code.dtype.kind not in "iu":
        raise ValueError(
            f"distributions must be (P, M, K) and right integers (P,); got {p.shape} and {code.dtype} {code.shape}"
        )
    if code.max(initial=-1) >= p.shape[2] or code.min(initial=-1) < -1:
        raise ValueError(f"right must be codes below {p.shape[2]}, or -1; got {code}")
    w = np.full(p.shape[1], 1 / p.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (p.shape[1],) or (w < 0).any() or abs(w.sum() - 1) > 1e-9:
        raise ValueError(f"weights must be ({p.shape[1]},), >= 0 and sum to 1; got {weights!r}")
    is_right = np.arange(p.shape[2]) == code[:, None]  # (P, K)
    correct = (p * is_right[:, None]).sum(axis=2)  # (P, M)
    rival = np.where(is_right[:, None], 0.0, p).max(axis=2, initial=0.0)
    mean = np.einsum("m,pmk->pk", w, p)
    mean_rival = np.where(is_right, 0.0, mean).max(axis=1, initial=0.0)
    margin = correct - rival
    return Margins(
        mix=(mean * is_right).sum(axis=1) - mean_rival,
        direct=margin[:, 0],
        fidelity_term=margin @ w - margin[:, 0],
        bonus=rival @ w - mean_rival,
    )


def vote_margins(
    answers: ArrayLike,
    arms: ArrayLike,
    right: ArrayLike,
    key: Key,
    *,
    num_arms: int | None = None,
    num_shuffles: int = NUM_SHUFFLES,
) -> MarginReport:
    """Return the pieces from `answers` (P, N) codes, -1 unreadable, and `arms` (N,) or (P, N) with 0 = direct.

    `right` (P,) is the right answer's code: -1 where no draw has it, -2 where it is unknown and the problem is left
    out.
    """
    dealt = deal_answers(answers, arms, num_arms)
    code = np.asarray(right)
    if code.shape != (len(dealt.codes),) or code.dtype.kind not in "iu":
        raise ValueError(f"right must be integers ({len(dealt.codes)},), got {code.dtype} {code.shape}")
    table = dealt.tally()
    rows = np.flatnonzero((table.sum(axis=2) > 0).all(axis=1) & (code > -2))
    if not len(rows) or num_shuffles < 1:
        nothing = mean_interval(np.full(len(code), np.nan), support=(-1.0, 1.0))
        return MarginReport(nothing, nothing, math.nan, math.nan, nothing, math.nan)
    kept = Dealt(dealt.codes[rows], dealt.arms[rows], dealt.num_arms, dealt.num_codes)
    pieces = _pieces(table[rows], code[rows])
    generator = key.generator()
    null, above = np.zeros(len(rows)), 0
    for _ in range(num_shuffles):
        bonus = _pieces(kept.tally(kept.shuffled(generator)), code[rows]).bonus
        null += bonus / num_shuffles
        above += int(bonus.sum() >= pieces.bonus.sum() - 1e-9)
    most = mean_interval(pieces.bonus + _overestimate(kept, code[rows]), support=(-2.0, 2.0))
    return MarginReport(
        mix=mean_interval(pieces.mix, support=(-1.0, 1.0)),
        fidelity_term=mean_interval(pieces.fidelity_term, support=(-2.0, 2.0)),
        bonus_raw=float(pieces.bonus.mean()),
        bonus_null=float(null.mean()),
        bonus=mean_interval(pieces.bonus - null, support=(-1.0, 1.0))._replace(high=most.high),
        p_value=(1 + above) / (1 + num_shuffles),
    )


def _overestimate(dealt: Dealt, right: Integers) -> Floats:
    """Return by how much the mixture's largest wrong share (P,) is too large, from the two halves of the draws.

    The halves are the even and the odd draws of each arm. 0 where an arm has one draw.
    """
    readable = dealt.codes < dealt.num_codes
    odd = np.zeros(dealt.codes.shape, dtype=bool)
    for arm in range(dealt.num_arms):
        of_arm = (dealt.arms == arm) & readable
        odd |= of_arm & (np.cumsum(of_arm, axis=1) % 2 == 0)
    wrong = np.arange(dealt.num_codes) != right[:, None]  # (P, K)
    halves = [dealt.tally(np.where(part, dealt.codes, dealt.num_codes)) for part in (odd, ~odd)]
    both_drawn = np.all([half.sum(axis=2).min(axis=1) > 0 for half in halves], axis=0)
    means = [(half / np.maximum(half.sum(axis=2, keepdims=True), 1)).mean(axis=1) * wrong for half in halves]
    whole = dealt.tally()
    largest = ((whole / whole.sum(axis=2, keepdims=True)).mean(axis=1) * wrong).max(axis=1)
    crossed = [
        np.take_along_axis(other, one.argmax(axis=1)[:, None], axis=1)[:, 0] for one, other in (means, means[::-1])
    ]
    return np.asarray(np.where(both_drawn, largest - (crossed[0] + crossed[1]) / 2, 0.0), dtype=np.float64)


def _pieces(table: Ints, right: Integers) -> Margins:
    return margin_pieces(table / table.sum(axis=2, keepdims=True), right)
