"""What past runs say of the next question: a prior, for all or for each, with the proof that it is worth having.

Read the scores of a stored run (`read_scores`), learn a prior from them (`learn`), keep it (`write`), and name the file
in a recipe: `until(optscale(0.95, reward, target=0.9, price=0.01, prior="prior.json"))`.

The default is one prior for all questions, by empirical Bayes. A *head* gives each question its own, from the words of
its prompt: "knn" asks the 16 nearest past questions, "ridge" is a linear map of hashed words and length. A head has to
earn its place: on held-out questions it must beat the constant in squared error (95 % bootstrap) and have positive rank
correlation with the truth, else it is refused, with the two numbers. (OptScale's released predictor fails: its error on
MATH-500 is .191, a constant's .0032.) Past questions get the prior that was made without them.

Whether a prior fits is seen by walking through the run: each question is predicted from those before it, and its place
in that prediction (PIT) must be uniform. A Kolmogorov-Smirnov test at .01 over the last 50 drops a prior that does not
fit: rules then run without one, and say so.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from samplewise.errors import SetupError
from samplewise.keys import Key
from samplewise.measure.texts import character_grams
from samplewise.numerics import Floats
from samplewise.stop.empirical import LEAST_SD, fit_beta, fit_scores, place_of
from samplewise.stop.prior import BetaPrior, Prior, ScorePrior, beliefs, log_below
from samplewise.stop.truncated import Tally
from samplewise.store import Store
from samplewise.types import Json, Question

Head = Literal["none", "knn", "ridge"]

LEAST_QUESTIONS, LEAST_DRAWS = 20, 4
NEIGHBOURS, PULL = 16, 4.0  # nearest questions, and the weight of the constant beside theirs
WORDS = 256  # buckets of hashed words
PENALTIES = tuple(float(10.0**power) for power in range(-3, 4))
NUM_FOLDS, NUM_RESAMPLES = 5, 2000
LAST, ALARM = 50, 0.01  # questions looked at, and the level of the alarm


class Seen(NamedTuple):
    """A past question and its scores, without those that are missing."""

    question: Question
    scores: tuple[float, ...]


class Gate(NamedTuple):
    """A head against the constant on held-out questions. `low` to `high` is the 95 % interval of its squared error less
    the constant's."""

    passed: bool
    error: float
    constant: float
    low: float
    high: float
    rank: float  # Spearman's

    def __str__(self) -> str:
        word = "kept" if self.passed else "refused"
        return f"{word}: squared error {self.error:.4g}, a constant's {self.constant:.4g}; rank {self.rank:+.2f}"


class Health(NamedTuple):
    """Of a walk through the past questions: PITs, the KS test's p over the last 50, and the share of questions inside
    the central 90 %."""

    kept: bool
    reason: str
    num: int
    p_value: float
    coverage: float


class Learned(NamedTuple):
    """A prior for everybody, those of single questions, and what speaks for them."""

    default: Prior
    questions: Mapping[str, Prior]
    gate: Gate | None
    health: Health


def read_scores(store: Store, run: str, verifier: str) -> list[Seen]:
    """A stored run's scores by `verifier`, in the order of the task. SetupError where it kept none."""
    found = []
    for record in store.records(run):
        values = [candidate.scores.get(verifier, math.nan) for candidate in record.pool.candidates]
        found.append(Seen(record.problem.question, tuple(v for v in values if not math.isnan(v))))
    if not any(seen.scores for seen in found):
        raise SetupError(f"run {run} holds no scores of {verifier}; score it: samplewise select 'best({verifier})'")
    return found


def learn(
    past: Sequence[Seen],
    *,
    target: float | None = None,
    head: Head = "none",
    questions: Sequence[Question] = (),
    seed: int = 0,
) -> Learned:
    """A prior from past questions, of the chance to reach `target`, or of the scores where that is None.

    `questions` are those that a head should predict beside the past ones. SetupError below 20 questions of 4 scores.
    """
    enough = [seen for seen in past if len(seen.scores) >= LEAST_DRAWS]
    if len(enough) < LEAST_QUESTIONS:
        raise SetupError(
            f"a prior needs {LEAST_QUESTIONS} past questions with {LEAST_DRAWS} scores each, got {len(enough)}"
        )
    if target is None and any(not 0 <= score <= 1 for seen in enough for score in seen.scores):
        raise SetupError("a prior of scores needs scores in [0, 1]; calibrate the verifier, or give a target")
    key = Key(seed).fold("predictor")
    health = walk(enough, target, key.fold("walk"))
    counts = np.array([_count(seen, target) for seen in enough])  # (P, 2) passes, draws
    places = [] if target is not None else [place_of(_tally(seen)) for seen in enough]
    default = fit_scores(places) if target is None else fit_beta(counts[:, 0], counts[:, 1])
    if head == "none":
        return Learned(default, {}, None, health)
    if head not in ("knn", "ridge"):
        raise ValueError(f"head must be 'none', 'knn' or 'ridge', got {head!r}")
    truth = np.array([p.logit_mean for p in places]) if target is None else counts[:, 0] / counts[:, 1]
    texts = [_text(seen.question) for seen in enough]
    new = [_text(question) for question in questions]
    held_out, fresh = _cross_fitted(head, texts, truth, new, key.fold("folds"))
    gate = judge_head(held_out.head, held_out.constant, truth, key.fold("gate"))
    if not gate.passed:
        return Learned(default, {}, gate, health)
    names = [*(seen.question.id for seen in enough), *(question.id for question in questions)]
    predicted = np.concatenate([held_out.head, fresh])
    made: list[Prior]
    if isinstance(default, ScorePrior):
        noise = float(np.mean([p.noise_mean for p in places]))
        left = math.sqrt(max(float(((held_out.head - truth) ** 2).mean()) - noise, LEAST_SD**2))
        made = [default._replace(logit_mean=value, sd_mean=left) for value in predicted.tolist()]
    else:
        inside = np.clip(predicted, 1e-3, 1 - 1e-3)
        size = sum(fit_beta(counts[:, 0], counts[:, 1], inside[: len(enough)]))
        made = [BetaPrior(mean * size, (1 - mean) * size) for mean in inside.tolist()]
    return Learned(default, dict(zip(names, made, strict=True)), gate, health)


def write(path: str | Path, learned: Learned) -> None:
    """Keep what was learned as a file that recipes can name."""
    found: dict[str, Json] = {
        "samplewise": "prior",
        "kind": "beta" if isinstance(learned.default, BetaPrior) else "scores",
        "default": list(learned.default),
        "questions": {name: list(prior) for name, prior in learned.questions.items()},
        "gate": None if learned.gate is None else str(learned.gate),
        "health": {"kept": learned.health.kept, "reason": learned.health.reason},
    }
    Path(path).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _count(seen: Seen, target: float | None) -> tuple[int, int]:
    return sum(target is not None and score >= target for score in seen.scores), len(seen.scores)


def _tally(seen: Seen) -> Tally:
    tally = Tally()
    for score in seen.scores:
        tally = tally.add(score)
    return tally


def _text(question: Question) -> str:
    return "\n".join(message.content for message in question.messages)


# --- does it fit? -----------------------------------------------------------------------------------------------------


def walk(past: Sequence[Seen], target: float | None, key: Key) -> Health:
    """Predict the last 50 questions, each from all before it, at least 20; the same questions give the same answer."""
    pits = []
    for place in range(max(LEAST_QUESTIONS, len(past) - LAST), len(past)):
        before = past[:place]
        try:
            prior = _plain(before, target)
        except ValueError:
            continue  # no pass yet, or no miss
        pits.append(pit(prior, past[place], target, float(key.fold(place).generator().random())))
    return judge_pits(pits)


def _plain(past: Sequence[Seen], target: float | None) -> Prior:
    if target is None:
        return fit_scores([place_of(_tally(seen)) for seen in past])
    counts = np.array([_count(seen, target) for seen in past])
    return fit_beta(counts[:, 0], counts[:, 1])


def pit(prior: Prior, seen: Seen, target: float | None, uniform: float) -> float:
    """Chance under the prior of less than was seen: of passes, with ties split by `uniform`, or of its first score."""
    if isinstance(prior, ScorePrior):
        return float(beliefs(prior).posterior(Tally()) @ np.exp(log_below(prior, seen.scores[0])))
    from scipy.stats import betabinom

    passes, draws = _count(seen, target)
    law = betabinom(draws, *prior)
    return float(law.cdf(passes - 1) + uniform * law.pmf(passes))


def judge_pits(pits: Sequence[float]) -> Health:
    """Whether the last 50 PITs are uniform. With fewer than 10 nothing is said, and the prior stays."""
    from scipy.stats import kstest

    last = np.asarray(pits[-LAST:], dtype=np.float64)
    if len(last) < 10:
        return Health(True, "", len(last), math.nan, math.nan)
    p_value = float(kstest(last, "uniform").pvalue)
    coverage = float(((last >= 0.05) & (last <= 0.95)).mean())
    reason = "" if p_value >= ALARM else f"it does not fit the last {len(last)} questions (KS p = {p_value:.2g})"
    return Health(not reason, reason, len(last), p_value, coverage)


# --- heads ------------------------------------------------------------------------------------------------------------


class _HeldOut(NamedTuple):
    head: Floats  # (P,)
    constant: Floats  # (P,) the mean of the other folds


class _Predicted(NamedTuple):
    held_out: _HeldOut
    fresh: Floats  # (Q,) of new questions, from all past ones


def judge_head(head: Floats, constant: Floats, truth: Floats, key: Key) -> Gate:
    """Held-out predictions (P,) against a constant's. Passes where the whole interval of the difference in squared
    error lies below 0 and the rank correlation above it."""
    from scipy.stats import spearmanr

    ours, theirs = (head - truth) ** 2, (constant - truth) ** 2
    difference = ours - theirs
    picks = key.generator().integers(len(truth), size=(NUM_RESAMPLES, len(truth)))
    low, high = np.quantile(difference[picks].mean(axis=1), [0.025, 0.975]).tolist()
    flat = bool(np.ptp(head) == 0 or np.ptp(truth) == 0)
    rank = 0.0 if flat else float(spearmanr(head, truth).statistic)
    return Gate(high < 0 and rank > 0, float(ours.mean()), float(theirs.mean()), low, high, rank)


def _cross_fitted(head: Head, texts: Sequence[str], truth: Floats, new: Sequence[str], key: Key) -> _Predicted:
    num = len(texts)
    if head == "knn":
        vectors = character_grams([*texts, *new])
        alike = vectors @ vectors[:num].T  # (P + Q, P)
    else:
        vectors = hashed_words([*texts, *new])
    fold = np.empty(num, dtype=np.int64)
    fold[key.generator().permutation(num)] = np.arange(num) % NUM_FOLDS
    held, constant = np.empty(num), np.empty(num)

    def predict(rows: NDArray[np.intp], known: NDArray[np.intp]) -> Floats:
        if head == "knn":
            return _neighbours(alike[np.ix_(rows, known)], truth[known])
        return _ridge(vectors[known], truth[known], vectors[rows])

    for left_out in range(NUM_FOLDS):
        rows, known = np.flatnonzero(fold == left_out), np.flatnonzero(fold != left_out)
        held[rows], constant[rows] = predict(rows, known), truth[known].mean()
    fresh = predict(np.arange(num, num + len(new)), np.arange(num)) if new else np.empty(0)
    return _Predicted(_HeldOut(held, constant), fresh)


def _neighbours(alike: Floats, truth: Floats) -> Floats:
    """Means (Q,) of the nearest questions' truth, weighed by their cosines (Q, P); the constant weighs `PULL`."""
    num = min(NEIGHBOURS, alike.shape[1])
    nearest = np.argsort(-alike, axis=1, kind="stable")[:, :num]
    weight = np.maximum(np.take_along_axis(alike, nearest, axis=1), 0.0)
    total: Floats = (weight * truth[nearest]).sum(axis=1) + PULL * truth.mean()
    total /= weight.sum(axis=1) + PULL
    return total


def hashed_words(texts: Sequence[str]) -> Floats:
    """Vectors (T, 257): counts of words in 256 buckets as a row of length 1, and the log of the length, halved."""
    table = np.zeros((len(texts), WORDS + 1))
    for row, text in enumerate(texts):
        for word in text.lower().split():
            table[row, zlib.crc32(word.encode(errors="surrogatepass")) % WORDS] += 1
        table[row, :WORDS] /= max(1.0, float(np.linalg.norm(table[row, :WORDS])))
        table[row, WORDS] = 0.5 * math.log1p(len(text))
    return table


def _ridge(vectors: Floats, truth: Floats, new: Floats) -> Floats:
    """Ridge predictions (Q,), its penalty by exact leave-one-out error over the questions."""
    centre, middle = vectors.mean(axis=0), float(truth.mean())
    left, sizes, right = np.linalg.svd(vectors - centre, full_matrices=False)
    rotated = left.T @ (truth - middle)
    best, chosen = math.inf, PENALTIES[-1]
    for penalty in PENALTIES:
        shrink = sizes**2 / (sizes**2 + penalty)
        leverage = (left**2 * shrink).sum(axis=1) + 1 / len(truth)
        left_out = (truth - middle - left @ (shrink * rotated)) / (1 - np.minimum(leverage, 1 - 1e-9))
        error = float((left_out**2).mean())
        if error < best:
            best, chosen = error, penalty
    weights = right.T @ (sizes / (sizes**2 + chosen) * rotated)
    found: Floats = middle + (new - centre) @ weights
    return found
