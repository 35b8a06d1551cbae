"""Learn a stop rule's prior from past runs: one for all questions or one for each, with the test it passed.

Read the scores of a stored run (`read_scores`), learn a prior from them (`learn_prior`), keep it (`write_prior`), and
name the file in a recipe: `until(optscale(0.95, reward, target=0.9, price=0.01, prior="prior.json"))`.

The default is one prior for all questions, by empirical Bayes. A *head* gives each question its own, from the words of
its prompt: "knn" averages the 16 nearest past questions, "ridge" is a linear map of hashed words and length. A head is
kept only if, on held-out questions, it beats the constant in squared error (95 % bootstrap) and correlates with the
truth in rank; otherwise it is refused, with both numbers. (OptScale's released predictor is refused: its error on
MATH-500 is .191, a constant's .0032.) Past questions get the prior that was fitted without them.

Whether a prior fits is tested by walking through the run: each question is predicted from those before it, and its
probability integral transform (PIT) in that prediction must be uniform. A Kolmogorov-Smirnov test at .01 over the last
50 questions drops a prior that does not fit. Rules then run without one, and say so.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from samplewise.core.errors import SetupError
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import Json, Question
from samplewise.measure.texts import character_grams
from samplewise.stop.empirical import LEAST_SD, ScoreLocation, fit_beta, fit_scores, score_location
from samplewise.stop.prior import BetaPrior, Prior, ScorePrior, lattice_of, log_below
from samplewise.stop.truncated import ScoreTally
from samplewise.store.database import Store

Head = Literal["none", "knn", "ridge"]

LEAST_QUESTIONS, LEAST_DRAWS = 20, 4
NEIGHBORS, CONSTANT_WEIGHT = 16, 4.0  # nearest questions, and the weight of the constant beside theirs
WORDS = 256  # buckets of hashed words
PENALTIES = tuple(float(10.0**power) for power in range(-3, 4))
NUM_FOLDS, NUM_RESAMPLES = 5, 2000
LAST, ALARM = 50, 0.01  # questions that are tested, and the level of the test


class PastScores(NamedTuple):
    """A past question and its scores, without missing ones."""

    question: Question
    scores: tuple[float, ...]

    def passes(self, target: float | None) -> int:
        """Return how many scores reach `target`; 0 without one."""
        return sum(target is not None and score >= target for score in self.scores)

    def location(self) -> ScoreLocation:
        """Return mean and noise of the scores on the logit scale."""
        tally = ScoreTally()
        for score in self.scores:
            tally = tally.add(score)
        return score_location(tally)

    @property
    def text(self) -> str:
        """The question's messages."""
        return "\n".join(message.content for message in self.question.messages)


class HeadGate(NamedTuple):
    """A head against the constant on held-out questions.

    `low` to `high` is the 95 % interval of its squared error minus the constant's.
    """

    passed: bool
    error: float
    constant: float
    low: float
    high: float
    rank: float  # Spearman's

    def __str__(self) -> str:
        word = "kept" if self.passed else "refused"
        return f"{word}: squared error {self.error:.4g}, a constant's {self.constant:.4g}; rank {self.rank:+.2f}"


class PriorHealth(NamedTuple):
    """Whether a prior fits: number of PITs, the KS test's p-value, and the share of them inside the central 90 %."""

    kept: bool
    reason: str
    num: int
    p_value: float
    coverage: float


class LearnedPrior(NamedTuple):
    """A prior for all questions, those of single questions, and the tests behind them."""

    default: Prior
    questions: Mapping[str, Prior]
    gate: HeadGate | None
    health: PriorHealth


def read_scores(store: Store, run: str, verifier: str) -> list[PastScores]:
    """Return a stored run's scores by `verifier`, in the order of the task. Raises SetupError where it kept none."""
    past = []
    for record in store.records(run):
        values = [candidate.scores.get(verifier, math.nan) for candidate in record.pool.candidates]
        past.append(PastScores(record.problem.question, tuple(v for v in values if not math.isnan(v))))
    if not any(question.scores for question in past):
        raise SetupError(f"run {run} holds no scores of {verifier}; score it: samplewise select 'best({verifier})'")
    return past


def learn_prior(
    past: Sequence[PastScores],
    *,
    target: float | None = None,
    head: Head = "none",
    questions: Sequence[Question] = (),
    seed: int = 0,
) -> LearnedPrior:
    """Learn a prior of the probability to reach `target`, or of the scores where that is None.

    `questions` are those that a head should predict beside the past ones. Raises SetupError below 20 questions of 4
    scores, or for scores outside [0, 1] without a target.
    """
    enough = [question for question in past if len(question.scores) >= LEAST_DRAWS]
    if len(enough) < LEAST_QUESTIONS:
        raise SetupError(
            f"a prior needs {LEAST_QUESTIONS} past questions with {LEAST_DRAWS} scores each, got {len(enough)}"
        )
    if target is None and any(not 0 <= score <= 1 for question in enough for score in question.scores):
        raise SetupError("a prior of scores needs scores in [0, 1]; calibrate the verifier, or give a target")
    if head not in ("none", "knn", "ridge"):
        raise ValueError(f"head must be 'none', 'knn' or 'ridge', got {head!r}")
    key = Key(seed).fold("predictor")
    health = check_fit(enough, target, key.fold("walk"))
    default = _fit(enough, target)
    if head == "none":
        return LearnedPrior(default, {}, None, health)
    truth = np.array([q.location().logit_mean if target is None else q.passes(target) / len(q.scores) for q in enough])
    new = [PastScores(question, ()) for question in questions]
    predicted = _cross_fit(head, [q.text for q in enough], truth, [q.text for q in new], key.fold("folds"))
    gate = judge_head(predicted.held_out, predicted.constant, truth, key.fold("gate"))
    if not gate.passed:
        return LearnedPrior(default, {}, gate, health)
    priors = _priors(default, enough, target, truth, predicted)
    names = [q.question.id for q in (*enough, *new)]
    return LearnedPrior(default, dict(zip(names, priors, strict=True)), gate, health)


def write_prior(path: str | Path, learned: LearnedPrior) -> None:
    """Write a prior as a file that recipes can name."""
    data: dict[str, Json] = {
        "samplewise": "prior",
        "kind": "beta" if isinstance(learned.default, BetaPrior) else "scores",
        "default": list(learned.default),
        "questions": {name: list(prior) for name, prior in learned.questions.items()},
        "gate": None if learned.gate is None else str(learned.gate),
        "health": {"kept": learned.health.kept, "reason": learned.health.reason},
    }
    Path(path).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _fit(past: Sequence[PastScores], target: float | None) -> Prior:
    if target is None:
        return fit_scores([question.location() for question in past])
    counts = _counts(past, target)
    return fit_beta(counts[:, 0], counts[:, 1])


def _counts(past: Sequence[PastScores], target: float | None) -> Ints:
    """Return passes and draws (P, 2) of past questions."""
    return np.array([(question.passes(target), len(question.scores)) for question in past])


# --- does it fit? -----------------------------------------------------------------------------------------------------


def check_fit(past: Sequence[PastScores], target: float | None, key: Key) -> PriorHealth:
    """Predict each of the last 50 questions from all before it, at least 20, and test their PITs. Deterministic."""
    pits = []
    for index in range(max(LEAST_QUESTIONS, len(past) - LAST), len(past)):
        try:
            prior = _fit(past[:index], target)
        except ValueError:
            continue  # no pass yet, or no miss
        pits.append(pit(prior, past[index], target, float(key.fold(index).generator().random())))
    return judge_pits(pits)


def pit(prior: Prior, question: PastScores, target: float | None, uniform: float) -> float:
    """Return the probability under the prior of less than was observed: of passes, or of the first score.

    `uniform` in [0, 1] splits ties of passes.
    """
    if isinstance(prior, ScorePrior):
        return float(lattice_of(prior).posterior(ScoreTally()) @ np.exp(log_below(prior, question.scores[0])))
    from scipy.stats import betabinom

    passes = question.passes(target)
    distribution = betabinom(len(question.scores), *prior)
    return float(distribution.cdf(passes - 1) + uniform * distribution.pmf(passes))


def judge_pits(pits: Sequence[float]) -> PriorHealth:
    """Test whether the last 50 PITs are uniform. With fewer than 10 there is no test, and the prior is kept."""
    from scipy.stats import kstest

    last = np.asarray(pits[-LAST:], dtype=np.float64)
    if len(last) < 10:
        return PriorHealth(True, "", len(last), math.nan, math.nan)
    p_value = float(kstest(last, "uniform").pvalue)
    coverage = float(((last >= 0.05) & (last <= 0.95)).mean())
    reason = "" if p_value >= ALARM else f"it does not fit the last {len(last)} questions (KS p = {p_value:.2g})"
    return PriorHealth(not reason, reason, len(last), p_value, coverage)


# --- heads ------------------------------------------------------------------------------------------------------------


class _Predicted(NamedTuple):
    held_out: Floats  # (P,) by the head, without the question's fold
    constant: Floats  # (P,) the mean of the other folds
    fresh: Floats  # (Q,) of new questions, from all past ones


def judge_head(head: Floats, constant: Floats, truth: Floats, key: Key) -> HeadGate:
    """Judge held-out predictions (P,) of a head against a constant's.

    It passes if the whole interval of the difference in squared error lies below 0 and the rank correlation is
    positive.
    """
    from scipy.stats import spearmanr

    head_errors, constant_errors = (head - truth) ** 2, (constant - truth) ** 2
    difference = head_errors - constant_errors
    picks = key.generator().integers(len(truth), size=(NUM_RESAMPLES, len(truth)))
    low, high = np.quantile(difference[picks].mean(axis=1), [0.025, 0.975]).tolist()
    flat = bool(np.ptp(head) == 0 or np.ptp(truth) == 0)
    rank = 0.0 if flat else float(spearmanr(head, truth).statistic)
    return HeadGate(high < 0 and rank > 0, float(head_errors.mean()), float(constant_errors.mean()), low, high, rank)


def _priors(
    default: Prior, past: Sequence[PastScores], target: float | None, truth: Floats, predicted: _Predicted
) -> list[Prior]:
    """Return the priors of the past questions, then of the new ones."""
    means = np.concatenate([predicted.held_out, predicted.fresh])
    if isinstance(default, ScorePrior):
        noise = float(np.mean([question.location().noise_mean for question in past]))
        error = float(((predicted.held_out - truth) ** 2).mean())
        sd = math.sqrt(max(error - noise, LEAST_SD**2))
        return [default._replace(logit_mean=mean, sd_mean=sd) for mean in means.tolist()]
    inside = np.clip(means, 1e-3, 1 - 1e-3)
    counts = _counts(past, target)
    size = sum(fit_beta(counts[:, 0], counts[:, 1], inside[: len(past)]))
    return [BetaPrior(mean * size, (1 - mean) * size) for mean in inside.tolist()]


def _cross_fit(head: Head, texts: Sequence[str], truth: Floats, new: Sequence[str], key: Key) -> _Predicted:
    num = len(texts)
    if head == "knn":
        vectors = character_grams([*texts, *new])
        similarity = vectors @ vectors[:num].T  # (P + Q, P)
    else:
        vectors = hashed_words([*texts, *new])

    def predict(rows: Ints, training: Ints) -> Floats:
        if head == "knn":
            return _nearest_mean(similarity[np.ix_(rows, training)], truth[training])
        return _ridge(vectors[training], truth[training], vectors[rows])

    fold = np.empty(num, dtype=np.int64)
    fold[key.generator().permutation(num)] = np.arange(num) % NUM_FOLDS
    held_out, constant = np.empty(num), np.empty(num)
    for left_out in range(NUM_FOLDS):
        rows, training = np.flatnonzero(fold == left_out), np.flatnonzero(fold != left_out)
        held_out[rows], constant[rows] = predict(rows, training), truth[training].mean()
    fresh = predict(np.arange(num, num + len(new)), np.arange(num)) if new else np.empty(0)
    return _Predicted(held_out, constant, fresh)


def _nearest_mean(similarity: Floats, truth: Floats) -> Floats:
    """Return means (Q,) of the nearest questions' truth, weighted by cosine (Q, P) beside the overall mean."""
    num = min(NEIGHBORS, similarity.shape[1])
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :num]
    weights = np.maximum(np.take_along_axis(similarity, nearest, axis=1), 0.0)
    total: Floats = (weights * truth[nearest]).sum(axis=1) + CONSTANT_WEIGHT * truth.mean()
    total /= weights.sum(axis=1) + CONSTANT_WEIGHT
    return total


def hashed_words(texts: Sequence[str]) -> Floats:
    """Return vectors (T, 257): counts of words in 256 buckets, as a unit vector, and half the log of the length."""
    table = np.zeros((len(texts), WORDS + 1))
    for row, text in enumerate(texts):
        for word in text.lower().split():
            table[row, zlib.crc32(word.encode(errors="surrogatepass")) % WORDS] += 1
        table[row, :WORDS] /= max(1.0, float(np.linalg.norm(table[row, :WORDS])))
        table[row, WORDS] = 0.5 * math.log1p(len(text))
    return table


def _ridge(vectors: Floats, truth: Floats, new: Floats) -> Floats:
    """Return ridge predictions (Q,). The penalty has the least exact leave-one-out error over the questions."""
    center, mean = vectors.mean(axis=0), float(truth.mean())
    left, sizes, right = np.linalg.svd(vectors - center, full_matrices=False)
    rotated = left.T @ (truth - mean)
    least_error, chosen = math.inf, PENALTIES[-1]
    for penalty in PENALTIES:
        shrink = sizes**2 / (sizes**2 + penalty)
        leverage = (left**2 * shrink).sum(axis=1) + 1 / len(truth)
        residuals = (truth - mean - left @ (shrink * rotated)) / (1 - np.minimum(leverage, 1 - 1e-9))
        error = float((residuals**2).mean())
        if error < least_error:
            least_error, chosen = error, penalty
    weights = right.T @ (sizes / (sizes**2 + chosen) * rotated)
    predictions: Floats = mean + (new - center) @ weights
    return predictions
