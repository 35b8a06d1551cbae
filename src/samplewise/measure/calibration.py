"""From a verifier's score to P(correct): a map fitted on graded questions, and how well it holds on others.

Three maps, none of which ever falls as the score rises:

- isotonic: the best non-decreasing steps (pool adjacent violators), from 500 draws on;
- beta: logit P = a ln s - b ln(1-s) + c with a, b >= 0 (Kull et al. 2017), for scores in [0, 1];
- Platt: logit P = a s + c with a >= 0 (Platt 1999), up to 100 draws, and for scores of any range.

Draws of one question are not independent evidence: each question weighs 1 however many draws it has, and splits, folds
and intervals are by question. What is certain in the sample (all right, all wrong) is not certain elsewhere: Platt's
targets, (N+1)/(N+2) for N questions that have right draws and 1/(N+2) for N that have wrong ones, keep every map off 0
and 1.

The best of many scores is over-scored: a map fitted to single draws flatters what a stop rule or a best-of-n returns.
So fit the *stopped answer*, one row a question, with `draws` (how many were looked at) and `shares` (its share of the
votes) beside the score. A map is about one model, verifier, prompt and task, and does not carry over to others.

Costs no requests and no tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import ArrayLike

from samplewise.core.keys import Key
from samplewise.measure._arrays import Floats, Integers

Method = Literal["isotonic", "beta", "platt"]
METHODS: tuple[Method, ...] = get_args(Method)
EDGE = 1e-6  # beta takes logs: a score of 0 or 1 is taken for one this far inside
STEEPEST = 1e4  # of a slope, per standard deviation of its feature: it is unbounded if the classes do not overlap
MANY, FEW = 500, 100  # draws from which steps can be trusted, and up to which only two parameters can


@dataclass(frozen=True, slots=True)
class Calibration:
    """A fitted map, plain data. Call it with scores (any shape) for P(correct), nan for a score of nan.

    isotonic: `knots` (K,) scores, rising, and `probabilities` (K,) at them, straight lines between.
    Others: `slopes` of the features and an `intercept`, in logits: (ln s, -ln(1-s)) for beta, (s,) for Platt; then, if
    fitted to stopped answers, ln(draws) and the vote share.
    """

    method: Method
    knots: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    slopes: tuple[float, ...] = ()
    intercept: float = 0.0
    num_questions: int = 0
    num_draws: int = 0
    stopped: bool = False  # fitted to stopped answers: it wants draws and shares

    def __call__(self, scores: ArrayLike, draws: ArrayLike | None = None, shares: ArrayLike | None = None) -> Floats:
        """Return P(correct).

        Raise ValueError if `draws` and `shares` are given to a map without them, or missing for one with them.
        """
        score = np.asarray(scores, dtype=np.float64)
        if (draws is not None, shares is not None) != (self.stopped, self.stopped):
            raise ValueError("draws and shares go with a map that was fitted to stopped answers, and with no other")
        if self.method == "isotonic":
            probability = np.interp(score, self.knots, self.probabilities)
            return np.where(np.isnan(score), np.nan, probability)
        columns = _features(self.method, score, draws, shares)
        logit = columns @ np.array(self.slopes) + self.intercept
        return np.asarray(0.5 * (1 + np.tanh(logit / 2)), dtype=np.float64)

    def score_at(self, probability: float) -> float:
        """Return the least score at which P(correct) reaches `probability`: a stop rule's target.

        nan if no score does. For the plain map alone, without draws and shares.
        """
        if self.stopped:
            raise ValueError("a map of stopped answers has no single score at which a probability is reached")
        if not 0 < probability < 1:
            raise ValueError(f"probability must be above 0 and below 1, got {probability}")
        if self.method == "isotonic":
            return _crossing(np.array(self.knots), np.array(self.probabilities), probability)
        need = math.log(probability / (1 - probability)) - self.intercept
        if self.method == "platt":
            return need / self.slopes[0] if self.slopes[0] > 0 else math.nan if need > 0 else -math.inf
        return _bisect(lambda s: float(self(s)) >= probability)

    def to_json(self) -> str:
        """Return the map as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read a map. Raise ValueError for text that `to_json` did not write."""
        try:
            fields = json.loads(text)
            values: dict[str, Any] = {n: tuple(map(float, v)) if isinstance(v, list) else v for n, v in fields.items()}
            calibration = cls(**values)
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a calibration: {error}") from None
        if calibration.method not in METHODS or len(calibration.knots) != len(calibration.probabilities):
            raise ValueError(f"not a calibration: method {calibration.method!r}, {len(calibration.knots)} knots")
        return calibration


def choose_method(scores: ArrayLike) -> Method:
    """Return the map that this number of draws can carry: isotonic from 500 on, Platt up to 100, else beta.

    Platt in place of beta if a score lies outside [0, 1].
    """
    finite = _finite(scores)
    if len(finite) >= MANY:
        return "isotonic"
    inside = bool(((finite >= 0) & (finite <= 1)).all())
    return "beta" if inside and len(finite) > FEW else "platt"


def fit_calibration(
    scores: ArrayLike,
    right: ArrayLike,
    questions: ArrayLike,
    method: Method | None = None,
    *,
    draws: ArrayLike | None = None,
    shares: ArrayLike | None = None,
) -> Calibration:
    """Fit the map from `scores` (N,) to the probability that `right` (N,), in [0, 1], is 1.

    `questions` (N,) say whose draw each is. A draw that is nan in either is left out. `draws` and `shares` (N,), both
    or none, make it a map of stopped answers, by Platt or beta. Raise ValueError for other shapes, nothing to fit, a
    score outside [0, 1] under beta, or isotonic with more features.
    """
    rows = read_rows(scores, right, questions)
    stopped = draws is not None or shares is not None
    method = method or choose_method(rows.scores)
    if stopped and method == "isotonic":
        method = "beta" if ((rows.scores >= 0) & (rows.scores <= 1)).all() else "platt"
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "beta" and not ((rows.scores >= 0) & (rows.scores <= 1)).all():
        raise ValueError("beta calibration takes scores in [0, 1]; use platt or isotonic")
    if not len(rows.scores):
        raise ValueError("there is no draw with both a score and a grade to fit")
    num = len(np.unique(rows.questions))
    if method == "isotonic":
        knots, probabilities = _steps(rows)
        return Calibration(method, tuple(knots.tolist()), tuple(probabilities.tolist()), (), 0.0, num, len(rows.scores))
    extra = [None if x is None else np.asarray(x, dtype=np.float64)[rows.kept] for x in (draws, shares)]
    columns = _features(method, rows.scores, *extra)
    parameters = _logistic(columns, rows, num_signed=columns.shape[1] - (2 if stopped else 0))
    slopes = tuple(parameters[:-1].tolist())
    return Calibration(method, (), (), slopes, float(parameters[-1]), num, len(rows.scores), stopped)


class Fold(NamedTuple):
    """Held-out probabilities: `probabilities` (N,) of every draw, by a map that was fitted without its question."""

    probabilities: Floats
    digest: str  # 12 hex digits that name the split


def cross_fit(
    scores: ArrayLike,
    right: ArrayLike,
    questions: ArrayLike,
    key: Key,
    method: Method | None = None,
    *,
    num_folds: int = 5,
) -> Fold:
    """Return P(correct) of every draw from a map fitted on the other questions.

    Only this shows how good a calibration is on questions like these. Raise ValueError with fewer questions than folds.
    """
    score, folds = np.asarray(scores, dtype=np.float64), deal_folds(questions, key, num_folds)
    truth, names = np.asarray(right, dtype=np.float64), np.asarray(questions)
    method = method or choose_method(score)
    probabilities = np.full(score.shape, np.nan)
    for fold in range(num_folds):
        out = folds == fold
        probabilities[out] = fit_calibration(score[~out], truth[~out], names[~out], method)(score[out])
    plain = json.dumps([[str(name), int(fold)] for name, fold in zip(names, folds, strict=True)])
    return Fold(probabilities, hashlib.blake2b(plain.encode(errors="surrogatepass"), digest_size=6).hexdigest())


def deal_folds(questions: ArrayLike, key: Key, num_folds: int) -> Integers:
    """Return each draw's fold (N,): all draws of a question in one, folds of equal numbers of questions up to one."""
    names, index = np.unique(np.asarray(questions), return_inverse=True)
    if not 2 <= num_folds <= len(names):
        raise ValueError(f"num_folds must be from 2 to the number of questions, {len(names)}; got {num_folds}")
    dealt = key.generator().permutation(len(names)) % num_folds
    return np.asarray(dealt[index.reshape(-1)], dtype=np.int64)


# --- the fits ---------------------------------------------------------------------------------------------------------


class CalibrationRows(NamedTuple):
    """The usable rows, (M,) each; `kept` are their indices among the N that were given."""

    scores: Floats
    right: Floats
    questions: Integers
    weights: Floats  # sum to 1 over a question
    kept: Integers


def read_rows(scores: ArrayLike, right: ArrayLike, questions: ArrayLike) -> CalibrationRows:
    score, truth = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=np.float64)
    names = np.asarray(questions)
    if score.ndim != 1 or not score.shape == truth.shape == names.shape:
        raise ValueError(
            f"scores, right and questions must have shape (N,); got {score.shape}, {truth.shape}, {names.shape}"
        )
    if ((truth < 0) | (truth > 1)).any():
        raise ValueError("right must be in [0, 1] or nan")
    kept = np.flatnonzero(np.isfinite(score) & ~np.isnan(truth))
    index = np.unique(names[kept], return_inverse=True)[1].reshape(-1).astype(np.int64)
    return CalibrationRows(
        score[kept], truth[kept], index, 1.0 / np.bincount(index)[index] if len(index) else score[kept], kept
    )


def _finite(scores: ArrayLike) -> Floats:
    array = np.asarray(scores, dtype=np.float64)
    return np.asarray(array[np.isfinite(array)], dtype=np.float64)


def _features(method: Method, score: Floats, draws: ArrayLike | None = None, shares: ArrayLike | None = None) -> Floats:
    """Return the (..., F) columns that the slopes multiply."""
    inside = np.clip(score, EDGE, 1 - EDGE)
    columns = [np.log(inside), -np.log1p(-inside)] if method == "beta" else [score]
    if draws is not None:
        columns.append(np.log(np.asarray(draws, dtype=np.float64)))
    if shares is not None:
        columns.append(np.asarray(shares, dtype=np.float64))
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _targets(rows: CalibrationRows) -> Floats:
    """Return Platt's targets: a little short of 1 and 0, by how many questions have right and wrong draws."""
    good, bad = (len(np.unique(rows.questions[some])) for some in (rows.right > 0, rows.right < 1))
    high, low = (good + 1) / (good + 2), 1 / (bad + 2)
    return np.asarray(low + (high - low) * rows.right, dtype=np.float64)


def _logistic(columns: Floats, rows: CalibrationRows, num_signed: int) -> Floats:
    """Return slopes and intercept (F + 1,) by weighted maximum likelihood; the first `num_signed` slopes are at least
    0.

    The loss is convex, so one start is enough; features are standardised, or the search would be slow.
    """
    from scipy.optimize import minimize

    centre, scale = columns.mean(axis=0), columns.std(axis=0)
    scale = np.where(scale > 1e-12 * np.maximum(1, np.abs(centre)), scale, np.inf)  # a constant carries no information
    x = np.concatenate([(columns - centre) / scale, np.ones((len(columns), 1))], axis=1)
    target = _targets(rows)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        logit = x @ parameters
        value = np.logaddexp(0.0, logit) - target * logit
        slope = 0.5 * (1 + np.tanh(logit / 2)) - target
        return float(rows.weights @ value), np.asarray((rows.weights * slope) @ x, dtype=np.float64)

    num = columns.shape[1]
    ends = [(0.0 if i < num_signed else -STEEPEST, STEEPEST) for i in range(num)] + [(None, None)]
    start = np.zeros(num + 1)
    done = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=ends, options={"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-8}
    )
    slopes = done.x[:-1] / scale
    return np.append(slopes, done.x[-1] - float(slopes @ centre))


class _Line(NamedTuple):
    knots: Floats
    probabilities: Floats


def _steps(rows: CalibrationRows) -> _Line:
    """Return knots at both ends of every block of pooled scores."""
    knots, index = np.unique(rows.scores, return_inverse=True)
    index = index.reshape(-1)
    weight = np.bincount(index, weights=rows.weights)
    value = np.bincount(index, weights=rows.weights * _targets(rows)) / weight
    fitted = pool_violators(value, weight)
    ends = np.ones(len(knots), dtype=bool)
    ends[1:-1] = (fitted[1:-1] != fitted[:-2]) | (fitted[1:-1] != fitted[2:])
    return _Line(knots[ends], fitted[ends])


def pool_violators(values: ArrayLike, weights: ArrayLike) -> Floats:
    """Return the non-decreasing sequence (N,) nearest to `values` (N,) in weighted squares. O(N).

    Neighbours that fall are pooled until none does.
    """
    means: list[float] = []
    masses: list[float] = []
    lengths: list[int] = []
    pairs = zip(
        np.asarray(values, dtype=np.float64).tolist(), np.asarray(weights, dtype=np.float64).tolist(), strict=True
    )
    for mean, mass in pairs:
        length = 1
        while means and means[-1] >= mean:
            before = masses.pop()
            mean = (means.pop() * before + mean * mass) / (before + mass)
            mass, length = before + mass, length + lengths.pop()
        means.append(mean)
        masses.append(mass)
        lengths.append(length)
    return np.repeat(np.array(means), np.array(lengths, dtype=np.int64)) if means else np.zeros(0)


def _crossing(knots: Floats, probabilities: Floats, probability: float) -> float:
    above = np.flatnonzero(probabilities >= probability)
    if not len(above):
        return math.nan
    first = int(above[0])
    if first == 0:
        return float(knots[0])
    share = (probability - probabilities[first - 1]) / (probabilities[first] - probabilities[first - 1])
    return float(knots[first - 1] + share * (knots[first] - knots[first - 1]))


class _Reached(Protocol):
    def __call__(self, score: float) -> bool: ...


def _bisect(reached: _Reached) -> float:
    """Return the least score in [0, 1] that is enough; nan if 1 is not."""
    low, high = 0.0, 1.0
    if reached(low):
        return low
    if not reached(high):
        return math.nan
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high
