"""How close an arm's text is to the question: five levels, and 0 if the text is not changed.

The levels are those of the literature, which reports the largest benefit in the middle: 1 unrelated text of matched
length, 2 advice for the domain, 3 an idea for this question, 4 the question in other words, 5 the question repeated.

With labels a level is chosen as any arm is (`allocate.py`). Without labels, `pick_level` takes the level whose arms
differ most in their answers, among those whose judge scores are close to direct's and whose answers still agree with
direct's. This is a heuristic, and its reason says so. It costs no requests beyond the draws and the judge's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.measure.powers import read_arms
from samplewise.measure.spread import Divergence, answer_divergence

ALPHA = 0.05  # significance level of the test that a level's arms differ from shuffled ones
MIN_JUDGED = 0.8  # a level's mean judge score, divided by direct's
MIN_AGREEMENT = 0.4  # a level's agreement with direct, divided by direct's with itself

LEVELS: Mapping[str, int] = {
    "direct": 0,
    "temperature": 0,
    "irrelevant": 1,
    "jabberwocky": 1,
    "remark": 1,
    "instruction": 2,
    "prefer": 2,
    "role": 2,
    "ssot": 2,
    "concept": 3,
    "idea": 3,
    "plan": 3,
    "random_step": 3,
    "step": 3,
    "verbalized": 3,
    "backtranslate": 4,
    "permute": 4,
    "rephrase": 4,
    "again": 5,
    "verbatim": 5,
}


def family_of(arm: str) -> str:
    """Return the family in an arm's id: "idea" of "idea.dual/5"; for a composition the families, joined by +."""
    return "+".join(re.split(r"[/.~@]", part, maxsplit=1)[0] for part in arm.split("+"))


def level_of(arm: str) -> int | None:
    """Return the level of an arm by its id, the largest in a composition; None if a family is not in the table."""
    levels = [LEVELS.get(family) for family in family_of(arm).split("+")]
    return None if None in levels else max(level for level in levels if level is not None)


# --- a level without labels -------------------------------------------------------------------------------------------


class LevelReading(NamedTuple):
    """What the arms of one level did, compared with direct. Ratios to direct's own values; nan if unknown."""

    level: int
    divergence: Divergence  # of the answers over direct and the level's arms
    judged: float  # mean judge score by direct's
    agreement: float  # P(a draw of the level and one of direct agree), divided by that of two draws of direct


class PickedLevel(NamedTuple):
    """The level to vary at, None to leave the question as it is, and the reason in one sentence."""

    level: int | None
    reason: str
    readings: tuple[LevelReading, ...]


def pick_level(
    answers: ArrayLike,
    arms: ArrayLike,
    levels: Sequence[int],
    judged: ArrayLike,
    key: Key,
    *,
    min_judged: float = MIN_JUDGED,
    min_agreement: float = MIN_AGREEMENT,
) -> PickedLevel:
    """Pick the relevance level to vary at from draws without labels: the most divergent one above both minimums.

    `answers` (P, N) are codes, equal for equal answers of a question, -1 for unread. `arms` (N,) or (P, N) is each
    draw's arm, 0 for direct. `levels` (M,) are the arms' levels, `level_of(arm)`; level 0 is ignored. `judged` (P, N)
    are scores in [0, 1] by a judge that saw no reference, nan if unknown. A level whose answers cannot be told from
    those of shuffled arms changes nothing and is not picked. ValueError for other values, or if direct has no two
    readable draws of a question.
    """
    codes, scores = np.asarray(answers), np.asarray(judged, dtype=np.float64)
    if codes.ndim != 2 or scores.shape != codes.shape or ((scores < 0) | (scores > 1)).any():
        raise ValueError(f"judged must be scores in [0, 1] of the shape of answers, {codes.shape}, or nan")
    labels, arm_levels = read_arms(arms, codes.shape), np.asarray(levels)
    if arm_levels.ndim != 1 or labels.max(initial=0) >= len(arm_levels):
        raise ValueError(f"levels must be one for each of the {labels.max(initial=0) + 1} arms, got {list(levels)!r}")
    direct = labels == 0
    self_agreement, direct_score = _agreement(codes, direct, direct), _mean(scores[direct])
    if math.isnan(self_agreement):
        raise ValueError("direct has no two readable draws of any question, so agreement with it is not known")
    readings = []
    for level in sorted(set(arm_levels[1:].tolist()) - {0}):
        members = [0, *(np.flatnonzero(arm_levels[1:] == level) + 1).tolist()]
        in_level, in_arms = np.isin(labels, members), np.isin(labels, members[1:])
        renamed = np.where(in_level, np.searchsorted(members, labels).clip(max=len(members) - 1), 0)
        shown = in_level.any(axis=0)  # shuffling draws of other levels along would take time and change nothing
        own_codes = np.where(in_level, codes, -1)[:, shown]
        divergence = answer_divergence(own_codes, renamed[:, shown], key.fold(level), num_arms=len(members))
        agreement = _agreement(codes, in_arms, direct)
        readings.append(
            LevelReading(level, divergence, _by(_mean(scores[in_arms]), direct_score), _by(agreement, self_agreement))
        )
    return _picked(tuple(readings), min_judged, min_agreement)


def _picked(readings: tuple[LevelReading, ...], min_judged: float, min_agreement: float) -> PickedLevel:
    moving = [reading for reading in readings if reading.divergence.p_value <= ALPHA]
    fit = [reading for reading in moving if reading.judged >= min_judged and reading.agreement >= min_agreement]
    if not fit:
        reason_none = (
            "no level changes the answers" if not moving else "every level that changes the answers is below a minimum"
        )
        return PickedLevel(None, f"heuristic: {reason_none}; leave the question as it is", readings)
    best = max(fit, key=lambda reading: reading.divergence.corrected.value)
    reason = (
        f"heuristic: level {best.level} differs most ({best.divergence.corrected.value:.3f} nats) of those that a "
        f"judge finds at least {min_judged:g} as good as direct ({best.judged:.2f}) and that agree with it "
        f"({best.agreement:.2f})"
    )
    return PickedLevel(best.level, reason, readings)


def _agreement(codes: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean over questions of the probability that a readable draw of `one` and another of `other` (P, N)
    agree."""
    probabilities = []
    for row, of_first, of_second in zip(codes, first & (codes >= 0), second & (codes >= 0), strict=True):
        pairs = int(of_first.sum()) * int(of_second.sum()) - int((of_first & of_second).sum())
        if pairs:
            size = int(row.max()) + 1
            same = np.bincount(row[of_first], minlength=size) @ np.bincount(row[of_second], minlength=size)
            probabilities.append((int(same) - int((of_first & of_second).sum())) / pairs)
    return math.fsum(probabilities) / len(probabilities) if probabilities else math.nan


def _mean(values: Floats) -> float:
    finite = values[~np.isnan(values)]
    return float(finite.mean()) if len(finite) else math.nan


def _by(value: float, base: float) -> float:
    return value / base if base > 0 else math.nan
