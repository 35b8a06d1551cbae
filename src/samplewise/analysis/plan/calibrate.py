"""Calibrate a verifier on a stored run: P(correct) by score, checked on held-out questions.

Every reported figure is measured on questions that the map was not fitted on. The map is fitted on single draws, but a
stop rule takes the *first good one* of several, which is over-scored. So the answers that a stop would have taken, in
the stored order of the draws, are measured beside it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from samplewise.core.errors import SetupError
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.registry import build, names
from samplewise.measure.calibration import Calibration, Method, cross_fit, deal_folds, fit_calibration
from samplewise.measure.estimate import Estimate, mean_interval
from samplewise.measure.reliability import Reliability, Risk, control_risk, measure_reliability
from samplewise.recipe import recipe
from samplewise.runs.arrays import Outcomes, load_outcomes
from samplewise.runs.redecide import rescore
from samplewise.store.database import Store
from samplewise.store.records import Run

LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # probabilities whose scores are printed
STRICT_TO_LAX = tuple(np.linspace(0.99, 0.5, 50).round(2).tolist())  # probabilities that risk control tries
FOLDS = 5
ALPHA = 0.95  # of the stop rule in the recipe


class CalibrationGoal(NamedTuple):
    """What to calibrate for: the P(correct) at which to stop, and the rate of wrong answers to control.

    `risk` asks for a target whose answers are wrong at most that often, with confidence 1 - `error`. `method` None
    chooses by the number of draws.
    """

    level: float = 0.9
    risk: float | None = None
    error: float = 0.05
    method: Method | None = None


DEFAULT_GOAL = CalibrationGoal()


class ScoreTarget(NamedTuple):
    """The least raw score at which P(correct) reaches `probability`; nan: no score does."""

    probability: float
    score: float


class TargetStops(NamedTuple):
    """The first answer that reaches a target: how many questions have one, and how often it is right."""

    stopped: Estimate
    right: Estimate  # of the questions that have one
    predicted: float  # mean P(correct) by maps fitted without the question; above `right`: over-scored
    draws: float  # mean; a question without such an answer counts with all of its draws


class VerifierCalibration(NamedTuple):
    """A verifier calibrated on a stored run.

    `held_out` is of maps fitted without the question; `raw` of the scores taken as probabilities, None where they are
    not in [0, 1].
    """

    verifier: str
    calibration: Calibration
    held_out: Reliability
    raw: Reliability | None
    targets: tuple[ScoreTarget, ...]
    level: float
    target: float  # the score at `level`
    stops: TargetStops  # at targets found without the question
    risk: Risk | None  # where asked for: thresholds from half of the questions, tested on the others
    split: str  # the digest of the folds
    recipe: str  # "" where no score reaches the level


def calibrate_run(
    store: Store, run: Run, verifier: str, goal: CalibrationGoal = DEFAULT_GOAL, *, seed: int = 0
) -> VerifierCalibration:
    """Calibrate `verifier` on a stored run's graded draws. Draws nothing; scores the draws it has not scored yet.

    Raises SetupError where a judge has not judged the run, or where fewer than ten questions have scores and grades.
    """
    rescore(store, run.id, {verifier: build("verifier", verifier)})
    outcomes = load_outcomes(store, run.id, scores=[verifier])
    scores, grades = outcomes.graded.scores[verifier], outcomes.graded.grades
    usable = np.isfinite(scores) & ~np.isnan(grades)  # (P, N)
    num = int(usable.any(axis=1).sum())
    if num < 2 * FOLDS:
        raise SetupError(f"{num} questions of run {run.id} have both scores by {verifier} and grades; 10 are needed")
    flat, right = scores[usable], grades[usable]
    questions = np.nonzero(usable)[0]
    key = Key(seed).fold("calibrate", verifier)
    calibration = fit_calibration(flat, right, questions, goal.method)
    fold = cross_fit(flat, right, questions, key.fold("folds"), calibration.method, num_folds=FOLDS)
    is_probability = bool(((flat >= 0) & (flat <= 1)).all())
    target = calibration.score_at(goal.level)
    held_out = np.full(scores.shape, np.nan)
    held_out[usable] = fold.probabilities
    targets = targets_by_question(outcomes, verifier, goal.level, key.fold("folds"), calibration.method)
    return VerifierCalibration(
        verifier=verifier,
        calibration=calibration,
        held_out=measure_reliability(fold.probabilities, right, questions),
        raw=measure_reliability(flat, right, questions) if is_probability else None,
        targets=tuple(ScoreTarget(level, calibration.score_at(level)) for level in LEVELS),
        level=goal.level,
        target=target,
        stops=_measure_stops(scores, grades, held_out, targets),
        risk=_control(scores, grades, goal, calibration.method, key.fold("halves")),
        split=fold.digest,
        recipe=_line(run, verifier, target),
    )


def targets_by_question(
    outcomes: Outcomes, verifier: str, level: float, key: Key, method: Method | None = None
) -> Floats:
    """Return for each question (P,) the score at which P(correct) reaches `level`; nan where no score does.

    Each is by a map fitted on other questions, in `FOLDS` folds or as many as there are questions.
    """
    scores, grades = outcomes.graded.scores[verifier], outcomes.graded.grades
    num = len(scores)
    folds = deal_folds(np.arange(num), key, min(FOLDS, num))
    usable = np.isfinite(scores) & ~np.isnan(grades)
    targets = np.full(num, np.nan)
    for fold in range(int(folds.max()) + 1):
        kept = usable & (folds != fold)[:, None]
        if kept.any():
            fitted = fit_calibration(scores[kept], grades[kept], np.nonzero(kept)[0], method)
            targets[folds == fold] = fitted.score_at(level)
    return targets


def stop_at(verifier: str, target: float) -> str:
    """Return the stop rule that takes the first answer whose score reaches `target`, rounded to four digits."""
    rounded = float(f"{target:.4g}")
    if "optscale" in names("stop"):
        return f"optscale({ALPHA}, {verifier}, target={rounded})"
    return f"passed({verifier}, score={rounded})"


def _first_reaching(scores: Floats, targets: Floats) -> Ints:
    """Return the index (P,) of the first score that reaches the question's target; -1 for none."""
    with np.errstate(invalid="ignore"):
        reached = scores >= targets[:, None]
    return np.where(reached.any(axis=1), reached.argmax(axis=1), -1)


def _measure_stops(scores: Floats, grades: Floats, probabilities: Floats, targets: Floats) -> TargetStops:
    index = _first_reaching(scores, targets)
    stopped = index >= 0
    draws = np.where(stopped, index + 1, (~np.isnan(grades)).sum(axis=1))
    columns = np.maximum(index, 0)[:, None]
    right, predicted = (np.take_along_axis(values, columns, axis=1)[:, 0] for values in (grades, probabilities))
    known = stopped & ~np.isnan(predicted)
    return TargetStops(
        stopped=mean_interval(stopped.astype(np.float64)),
        right=mean_interval(np.where(stopped, right, np.nan)),
        predicted=float(predicted[known].mean()) if known.any() else math.nan,
        draws=float(draws.mean()),
    )


def _control(scores: Floats, grades: Floats, goal: CalibrationGoal, method: Method, key: Key) -> Risk | None:
    """Fit thresholds on half of the questions and test them on the other half, so that tests see fixed thresholds."""
    if goal.risk is None:
        return None
    halves = deal_folds(np.arange(len(scores)), key, 2)
    fitting = (halves == 0)[:, None] & np.isfinite(scores) & ~np.isnan(grades)
    fitted = fit_calibration(scores[fitting], grades[fitting], np.nonzero(fitting)[0], method)
    thresholds = list(dict.fromkeys(t for t in map(fitted.score_at, STRICT_TO_LAX) if math.isfinite(t)))
    test_scores, test_grades = scores[halves == 1], grades[halves == 1]
    stopped, errors = [], []
    for threshold in thresholds:
        index = _first_reaching(test_scores, np.full(len(test_scores), threshold))
        first = np.take_along_axis(test_grades, np.maximum(index, 0)[:, None], axis=1)[:, 0]
        stopped.append(int((index >= 0).sum()))
        errors.append(int(((index >= 0) & ~(first >= 1)).sum()))  # an answer that could not be graded counts as wrong
    counts = np.array([stopped, errors], dtype=np.int64).reshape(2, -1)
    return control_risk(thresholds, counts[0], counts[1], risk=goal.risk, error=goal.error)


def _line(run: Run, verifier: str, target: float) -> str:
    if not math.isfinite(target):
        return ""
    return recipe(run.recipe).with_stop(stop_at(verifier, target)).with_selector(f"best({verifier})").line
