"""How different the answers of the arms are: information between arm and answer, Vendi score, distinct answers.

Jensen-Shannon divergence over arms is I(arm; answer) = H(mean_j p_j) - mean_j H(p_j), nats: 0 where the arm changes
nothing. The plug-in is far too high at few draws, also for identical arms, so its mean over shuffles of the draws over
the arms of the problem is subtracted, which is exact where the arms are alike and slightly too much where they differ.

Answers are integer codes, equal for equal answers of a problem, -1 for unread; unread draws are left out. Different
answers are no gain by themselves: correctness-aware numbers (gain.py, dispersion.py) come first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.core.keys import Key
from samplewise.core.numerics import Ints
from samplewise.measure._arrays import Floats, Integers
from samplewise.measure.estimate import Estimate, mean_interval
from samplewise.measure.powers import read_arms

NUM_SHUFFLES = 200


class Divergence(NamedTuple):
    """Nats, means over the problems in which every arm has a readable draw. nan without such a problem."""

    raw: float  # biased upwards
    null: float  # mean of shuffled arms
    corrected: Estimate  # raw - null, its interval over problems
    p_value: float  # of raw against shuffled arms, one-sided
    per_problem: Floats  # (P,) raw - null; nan where left out


class Dealt(NamedTuple):
    """Answers sorted into arms: what `tally` counts and what shuffles permute."""

    codes: Integers  # (P, N) 0 .. K - 1, or K: unread
    arms: Integers  # (P, N)
    num_arms: int
    num_codes: int  # K

    def tally(self, codes: Integers | None = None) -> Integers:
        """Return (P, M, K) readable draws of each arm and answer."""
        use = self.codes if codes is None else codes
        width = self.num_codes + 1
        cells = (np.arange(len(use))[:, None] * self.num_arms + self.arms) * width + use
        size = len(use) * self.num_arms * width
        table = np.bincount(cells.ravel(), minlength=size).reshape(len(use), self.num_arms, width)
        return np.asarray(table[:, :, :-1], dtype=np.int64)

    def shuffled(self, generator: np.random.Generator) -> Integers:
        """Return codes (P, N) with the readable draws of each problem permuted over the readable positions."""
        order = np.argsort(np.where(self.codes == self.num_codes, 2.0, generator.random(self.codes.shape)), axis=1)
        readable_first = np.argsort(self.codes == self.num_codes, axis=1, kind="stable")
        codes = np.empty_like(self.codes)
        np.put_along_axis(codes, readable_first, np.take_along_axis(self.codes, order, axis=1), axis=1)
        return codes


def deal_answers(answers: ArrayLike, arms: ArrayLike, num_arms: int | None = None) -> Dealt:
    """Read `answers` (P, N), codes from 0, -1 for unreadable, and `arms` (N,) or (P, N), else ValueError."""
    codes = np.asarray(answers)
    if codes.ndim != 2 or codes.dtype.kind not in "iu" or codes.min(initial=0) < -1:
        raise ValueError(f"answers must be codes (P, N) from 0, or -1 for unread; got {codes.dtype} {codes.shape}")
    labels = read_arms(arms, codes.shape)
    num = int(labels.max(initial=-1)) + 1 if num_arms is None else num_arms
    if labels.max(initial=-1) >= num:
        raise ValueError(f"arms must be 0 to {num - 1}, got {labels.max()}")
    num_codes = int(codes.max(initial=-1)) + 1
    return Dealt(np.where(codes < 0, num_codes, codes).astype(np.int64), labels, num, num_codes)


def divergence(distributions: ArrayLike) -> Floats:
    """Return I(arm; answer) of answer distributions (..., M, K) with equal weights of the arms: (...), nats."""
    p = np.asarray(distributions, dtype=np.float64)
    return np.asarray(_entropy(p.mean(axis=-2)) - _entropy(p).mean(axis=-1), dtype=np.float64)


def answer_divergence(
    answers: ArrayLike, arms: ArrayLike, key: Key, *, num_arms: int | None = None, num_shuffles: int = NUM_SHUFFLES
) -> Divergence:
    """Return the divergence over arms minus its null, from `answers` (P, N) and `arms` (N,) or (P, N)."""
    dealt = deal_answers(answers, arms, num_arms)
    table = dealt.tally()
    rows = np.flatnonzero((table.sum(axis=2) > 0).all(axis=1))
    per_problem = np.full(len(table), np.nan)
    if not len(rows) or num_shuffles < 1:
        return Divergence(math.nan, math.nan, mean_interval(per_problem, support=None), math.nan, per_problem)
    kept = Dealt(dealt.codes[rows], dealt.arms[rows], dealt.num_arms, dealt.num_codes)
    generator = key.generator()
    raw = _of_tally(table[rows])  # (R,)
    null = np.zeros(len(rows))
    above = 0
    for _ in range(num_shuffles):
        shuffled = _of_tally(kept.tally(kept.shuffled(generator)))
        null += shuffled / num_shuffles
        above += int(shuffled.sum() >= raw.sum() - 1e-9)
    per_problem[rows] = raw - null
    corrected = mean_interval(per_problem, support=None)
    return Divergence(float(raw.mean()), float(null.mean()), corrected, (1 + above) / (1 + num_shuffles), per_problem)


def distinct_answers(answers: ArrayLike) -> Integers:
    """Return how many different readable answers each problem has: (P,)."""
    table = deal_answers(answers, np.zeros(np.shape(answers), dtype=np.int64), 1).tally()
    return np.asarray((table > 0).sum(axis=(1, 2)), dtype=np.int64)


def semantic_entropy(classes: Sequence[int], log_weights: ArrayLike | None = None) -> float:
    """Return the entropy (nats) of classes of equal meaning, draws (N,) weighted equally or by `log_weights`; nan for
    none.
    """
    if not len(classes):
        return math.nan
    logs = np.zeros(len(classes)) if log_weights is None else np.asarray(log_weights, dtype=np.float64)
    _, index = np.unique(np.asarray(classes), return_inverse=True)
    mass = np.bincount(index.ravel(), weights=np.exp(logs - logs.max()))
    return float(_entropy(mass / mass.sum()))


def vendi(similarity: ArrayLike) -> float:
    """Return the effective number of different items: exp of the entropy of the eigenvalues of K / n (arXiv
    2210.02410).

    K (n, n) is a similarity matrix, positive semi-definite with 1 on the diagonal. Raise ValueError for another shape
    or diagonal; nan for none.
    """
    kernel = np.asarray(similarity, dtype=np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1] or not np.allclose(np.diag(kernel), 1.0):
        raise ValueError(f"similarity must be a square matrix with ones on its diagonal, got shape {kernel.shape}")
    if not len(kernel):
        return math.nan
    values = np.clip(np.linalg.eigvalsh(kernel / len(kernel)), 0.0, None)
    return float(np.exp(_entropy(values / values.sum())))


def distinct_k(classes: Sequence[int]) -> int:
    """Return how many classes of equal meaning k generations fall into."""
    return len(set(classes))


def utility(rewards: Sequence[float], classes: Sequence[int], *, patience: float = 0.8) -> float:
    """Return the value of generations to a reader who goes on with probability `patience` after each.

    The rewards of those that are new, weights patience^i, over the sum of the weights. A repeated class earns 0. nan
    for none.
    """
    if len(rewards) != len(classes):
        raise ValueError(f"rewards and classes must be equally many, got {len(rewards)} and {len(classes)}")
    seen: set[int] = set()
    earned, total = 0.0, 0.0
    for i, (reward, kind) in enumerate(zip(rewards, classes, strict=True)):
        total += patience**i
        earned += 0.0 if kind in seen else patience**i * reward
        seen.add(kind)
    return earned / total if total else math.nan


def _of_tally(table: Ints) -> Floats:
    return divergence(table / table.sum(axis=2, keepdims=True))


def _entropy(distributions: Floats) -> Floats:
    safe = np.where(distributions > 0, distributions, 1.0)
    return np.asarray(-(distributions * np.log(safe)).sum(axis=-1), dtype=np.float64)
