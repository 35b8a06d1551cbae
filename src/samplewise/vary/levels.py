"""How close what an arm adds is to the question: five levels, and 0 where its text is not touched.

The levels of the literature, with help said to be largest in the middle: 1 unrelated text of matched length, 2 advice
that fits the domain, 3 an idea for this very question, 4 the question in other words, 5 the question once more.

With labels a level is chosen as any arm is (`allocate.py`). Without any, `pick_level` takes the one whose arms differ
most in their answers among those that a judge finds nearly as good as direct and that still agree with it: a heuristic,
which says so. It costs no requests beyond the draws and the judge's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.keys import Key
from samplewise.measure.powers import read_arms
from samplewise.measure.spread import Divergence, answer_divergence
from samplewise.numerics import Floats

ALPHA = 0.05  # of the divergence of a level's arms against shuffled ones
JUDGED_FLOOR = 0.8  # a level's mean judge score by direct's
AGREEMENT_FLOOR = 0.4  # a level's agreement with direct by direct's with itself

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
    """The family in an arm's id: "idea" of "idea.dual/5"; of a composition the families, joined by +."""
    return "+".join(re.split(r"[/.~@]", part, maxsplit=1)[0] for part in arm.split("+"))


def level_of(arm: str) -> int | None:
    """The level of an arm by its id, the largest in a composition; None where a family is not in the table."""
    levels = [LEVELS.get(family) for family in family_of(arm).split("+")]
    return None if None in levels else max(level for level in levels if level is not None)


# --- a level without labels -------------------------------------------------------------------------------------------


class LevelReading(NamedTuple):
    """What the arms of one level did, beside direct. Shares of what direct has itself; nan where nothing is known."""

    level: int
    divergence: Divergence  # of the answers over direct and the level's arms
    judged: float  # mean judge score by direct's
    agreement: float  # chance that a draw of the level and one of direct agree, by that of two draws of direct


class PickedLevel(NamedTuple):
    """`level` is None where none is to be had: leave the question as it is. `reason` is a sentence for people."""

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
    judged_floor: float = JUDGED_FLOOR,
    agreement_floor: float = AGREEMENT_FLOOR,
) -> PickedLevel:
    """The relevance level to vary at, from draws without labels: the most divergent one above both floors.

    `answers` (P, N) are codes, equal for equal answers of a question, -1 unread; `arms` (N,) or (P, N) each draw's arm,
    0 direct; `levels` (M,) the arms' levels, `level_of(arm)`, of which 0 is left aside; `judged` (P, N) scores in
    [0, 1] by a judge that saw no reference, nan unknown. A level whose answers cannot be told from those of shuffled
    arms changes nothing, and is not taken. ValueError for other values, or where direct has no two draws of a question.
    """
    codes, scores = np.asarray(answers), np.asarray(judged, dtype=np.float64)
    if codes.ndim != 2 or scores.shape != codes.shape or ((scores < 0) | (scores > 1)).any():
        raise ValueError(f"judged must be scores in [0, 1] of the shape of answers, {codes.shape}, or nan")
    labels, stage = read_arms(arms, codes.shape), np.asarray(levels)
    if stage.ndim != 1 or labels.max(initial=0) >= len(stage):
        raise ValueError(f"levels must be one for each of the {labels.max(initial=0) + 1} arms, got {list(levels)!r}")
    direct = labels == 0
    own, good = _agreement(codes, direct, direct), _mean(scores[direct])
    if math.isnan(own):
        raise ValueError("direct has no two readable draws of any question, so agreement with it is not known")
    readings = []
    for level in sorted(set(stage[1:].tolist()) - {0}):
        members = [0, *(np.flatnonzero(stage[1:] == level) + 1).tolist()]
        mine, theirs = np.isin(labels, members), np.isin(labels, members[1:])
        renamed = np.where(mine, np.searchsorted(members, labels).clip(max=len(members) - 1), 0)
        shown = mine.any(axis=0)  # shuffling draws of other levels along would take time and change nothing
        own_codes = np.where(mine, codes, -1)[:, shown]
        found = answer_divergence(own_codes, renamed[:, shown], key.fold(level), num_arms=len(members))
        agreed = _agreement(codes, theirs, direct)
        readings.append(LevelReading(level, found, _by(_mean(scores[theirs]), good), _by(agreed, own)))
    return _picked(tuple(readings), judged_floor, agreement_floor)


def _picked(readings: tuple[LevelReading, ...], judged_floor: float, agreement_floor: float) -> PickedLevel:
    moving = [each for each in readings if each.divergence.p_value <= ALPHA]
    fit = [each for each in moving if each.judged >= judged_floor and each.agreement >= agreement_floor]
    if not fit:
        why = "no level changes the answers" if not moving else "every level that changes the answers is below a floor"
        return PickedLevel(None, f"heuristic: {why}; leave the question as it is", readings)
    best = max(fit, key=lambda each: each.divergence.corrected.value)
    reason = (
        f"heuristic: level {best.level} differs most ({best.divergence.corrected.value:.3f} nats) of those that a "
        f"judge finds at least {judged_floor:g} as good as direct ({best.judged:.2f}) and that agree with it "
        f"({best.agreement:.2f})"
    )
    return PickedLevel(best.level, reason, readings)


def _agreement(codes: np.ndarray, one: np.ndarray, other: np.ndarray) -> float:
    """The mean over questions of the chance that a readable draw of `one` and another one of `other` (P, N) agree."""
    chances = []
    for row, mine, theirs in zip(codes, one & (codes >= 0), other & (codes >= 0), strict=True):
        pairs = int(mine.sum()) * int(theirs.sum()) - int((mine & theirs).sum())
        if pairs:
            size = int(row.max()) + 1
            same = np.bincount(row[mine], minlength=size) @ np.bincount(row[theirs], minlength=size)
            chances.append((int(same) - int((mine & theirs).sum())) / pairs)
    return math.fsum(chances) / len(chances) if chances else math.nan


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _by(value: float, base: float) -> float:
    return value / base if base > 0 else math.nan
