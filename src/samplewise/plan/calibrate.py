"""What a verifier's score is worth, read from a stored run: P(correct) by score, checked on questions left out.

Everything that is claimed is measured on questions that the map was not fitted on. It is fitted on single draws; that a
stop rule takes the *first good one* of several, which is over-scored, is measured beside it: the answers that would
have been stopped at, in the stored order of the draws.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samplewise.errors import SetupError
from samplewise.evaluate import Outcomes, load, rescore
from samplewise.keys import Key
from samplewise.measure.calibration import Calibration, Method, cross_fit, deal_folds, fit_calibration
from samplewise.measure.estimate import Estimate, mean_interval
from samplewise.measure.reliability import Reliability, Risk, control_risk, measure_reliability
from samplewise.numerics import Floats
from samplewise.recipe import recipe
from samplewise.spec import build, names
from samplewise.store import Run, Store

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # chances whose scores are printed
STRICT_TO_LAX = tuple(np.linspace(0.99, 0.5, 50).round(2).tolist())  # chances that risk control tries
FOLDS = 5
ALPHA = 0.95  # of the stop rule in the recipe


class Target(NamedTuple):
    """The least raw score at which P(correct) reaches `chance`; nan: no score does."""

    chance: float
    score: float


class Stops(NamedTuple):
    """The first answer that reaches a target: how many questions have one, and how often it is right."""

    stopped: Estimate
    right: Estimate  # of the questions that have one
    said: float  # the chance that they were given, by maps fitted without the question; above `right`: over-scored
    draws: float  # mean draws, those without one counted with all of theirs


class Calibrated(NamedTuple):
    """`held_out` is of maps fitted without the question, `raw` of the scores taken as chances (None outside [0, 1])."""

    verifier: str
    calibration: Calibration
    held_out: Reliability
    raw: Reliability | None
    targets: tuple[Target, ...]
    level: float
    target: float  # the score at `level`
    stops: Stops  # at targets found without the question
    risk: Risk | None  # where one was asked for; its map is of half of the questions, its test of the others
    split: str  # the digest of the folds
    recipe: str  # "" where no score reaches the level


def calibrate_run(
    store: Store,
    run: Run,
    verifier: str,
    *,
    level: float = 0.9,
    risk: float | None = None,
    error: float = 0.05,
    method: Method | None = None,
    seed: int = 0,
) -> Calibrated:
    """Calibrate `verifier` on a stored run's graded draws. Draws nothing; scores those that it has not seen yet.

    `level` is the P(correct) that an answer must have to be stopped at. `risk` asks for a target whose answers are
    wrong at most that often, with confidence 1 - `error`. SetupError where a judge has not judged the run, or there are
    fewer than ten questions with scores and grades.
    """
    rescore(store, run.id, {verifier: build("verifier", verifier)})
    outcomes = load(store, run.id, scores=[verifier])
    scores, right = outcomes.graded.scores[verifier], outcomes.graded.grades
    usable = np.isfinite(scores) & ~np.isnan(right)  # (P, N)
    num = int(usable.any(axis=1).sum())
    if num < 2 * FOLDS:
        raise SetupError(f"{num} questions of run {run.id} have both scores by {verifier} and grades; 10 are needed")
    flat, truth = scores[usable], right[usable]
    names_of = np.nonzero(usable)[0]
    key = Key(seed).fold("calibrate", verifier)
    whole = fit_calibration(flat, truth, names_of, method)
    fold = cross_fit(flat, truth, names_of, key.fold("folds"), whole.method, num_folds=FOLDS)
    inside = bool(((flat >= 0) & (flat <= 1)).all())
    target = whole.score_at(level)
    chances = np.full(scores.shape, np.nan)
    chances[usable] = fold.chances
    own = targets_by_question(outcomes, verifier, level, key.fold("folds"), whole.method)
    return Calibrated(
        verifier=verifier,
        calibration=whole,
        held_out=measure_reliability(fold.chances, truth, names_of),
        raw=measure_reliability(flat, truth, names_of) if inside else None,
        targets=tuple(Target(chance, whole.score_at(chance)) for chance in LEVELS),
        level=level,
        target=target,
        stops=_stops(scores, right, chances, own),
        risk=None if risk is None else _risk(scores, right, risk, error, whole.method, key.fold("halves")),
        split=fold.digest,
        recipe=_line(run, verifier, target),
    )


def targets_by_question(
    outcomes: Outcomes, verifier: str, level: float, key: Key, method: Method | None = None
) -> Floats:
    """For each question (P,) the score at which P(correct) reaches `level`, by a map fitted on other questions; nan
    where no score does. Few questions make few folds."""
    scores, right = outcomes.graded.scores[verifier], outcomes.graded.grades
    num = len(scores)
    folds = deal_folds(np.arange(num), key, min(FOLDS, num))
    usable = np.isfinite(scores) & ~np.isnan(right)
    target = np.full(num, np.nan)
    for fold in range(int(folds.max()) + 1):
        kept = usable & (folds != fold)[:, None]
        if kept.any():
            fitted = fit_calibration(scores[kept], right[kept], np.nonzero(kept)[0], method)
            target[folds == fold] = fitted.score_at(level)
    return target


def _first(scores: Floats, target: Floats) -> NDArray[np.int64]:
    """The place (P,) of the first score that reaches the question's target; -1 for none."""
    with np.errstate(invalid="ignore"):
        reached = scores >= target[:, None]
    return np.where(reached.any(axis=1), reached.argmax(axis=1), -1)


def _stops(scores: Floats, right: Floats, chances: Floats, target: Floats) -> Stops:
    place = _first(scores, target)
    made = np.where(place >= 0, place + 1, (~np.isnan(right)).sum(axis=1))
    at = np.maximum(place, 0)[:, None]
    chosen, said = (np.take_along_axis(each, at, axis=1)[:, 0] for each in (right, chances))
    known = (place >= 0) & ~np.isnan(said)
    return Stops(
        stopped=mean_interval((place >= 0).astype(np.float64)),
        right=mean_interval(np.where(place >= 0, chosen, np.nan)),
        said=float(said[known].mean()) if known.any() else math.nan,
        draws=float(made.mean()),
    )


def _risk(scores: Floats, right: Floats, risk: float, error: float, method: Method, key: Key) -> Risk:
    """Half of the questions make the thresholds, the others test them, so that these are fixed when they are tested."""
    halves = deal_folds(np.arange(len(scores)), key, 2)
    fitting = (halves == 0)[:, None] & np.isfinite(scores) & ~np.isnan(right)
    fitted = fit_calibration(scores[fitting], right[fitting], np.nonzero(fitting)[0], method)
    thresholds = list(dict.fromkeys(t for t in map(fitted.score_at, STRICT_TO_LAX) if math.isfinite(t)))
    own_scores, own_right = scores[halves == 1], right[halves == 1]
    stopped, errors = [], []
    for threshold in thresholds:
        place = _first(own_scores, np.full(len(own_scores), threshold))
        grades = np.take_along_axis(own_right, np.maximum(place, 0)[:, None], axis=1)[:, 0]
        stopped.append(int((place >= 0).sum()))
        errors.append(int(((place >= 0) & ~(grades >= 1)).sum()))  # one that could not be graded counts as wrong
    counts = np.array([stopped, errors], dtype=np.int64).reshape(2, -1)
    return control_risk(thresholds, counts[0], counts[1], risk=risk, error=error)


def _line(run: Run, verifier: str, target: float) -> str:
    if not math.isfinite(target):
        return ""
    return (
        f"{recipe(run.recipe).draws.partition(' | until(')[0]} | until({stop_at(verifier, target)}) | best({verifier})"
    )


def stop_at(verifier: str, target: float) -> str:
    """The stop rule, as text, that takes the first answer whose score reaches `target`, rounded to four digits."""
    rounded = float(f"{target:.4g}")
    if "optscale" in names("stop"):
        return f"optscale({ALPHA}, {verifier}, target={rounded})"
    return f"passed({verifier}, score={rounded})"
