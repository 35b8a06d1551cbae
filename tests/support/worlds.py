"""Synthetic worlds with known truth: distributions of scores and of answers, to test stop rules against.

A world draws scores (R, N), R questions with N draws each, and knows the probability p (R,) that a draw reaches a
target. `follow` shows them to a rule draw by draw, as the loop would, and reports where it stopped and why.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Candidate, Question, Usage
from samplewise.stop.base import NOBODY, StopRule

VERIFIER = "score"

ANSWER_DISTRIBUTIONS: tuple[tuple[float, ...], ...] = (
    (0.7, 0.1, 0.1, 0.1),
    (0.5, 0.3, 0.2),
    (0.4, 0.3, 0.3),
    (0.26, 0.25, 0.25, 0.24),
    (0.12, *(0.08,) * 11),
)


class ScoreDraws(NamedTuple):
    """Scores (R, N), and the true probability (R,) that a draw of each question is at the target or above."""

    scores: Floats
    probability: Floats


class Draw(Protocol):
    def __call__(self, rng: np.random.Generator, shape: tuple[int, int], target: float) -> ScoreDraws: ...


class ScoreWorld(NamedTuple):
    """A way to draw scores. `independent`: a question's draws are i.i.d.; only then can a rule promise anything."""

    name: str
    target: float  # as in the published tables
    draw: Draw
    independent: bool = True

    def play(self, key: Key, questions: int, draws: int, target: float | None = None) -> ScoreDraws:
        target = self.target if target is None else target
        return self.draw(key.fold("world", self.name).generator(), (questions, draws), target)


def _alike(sample: Callable[[np.random.Generator, tuple[int, int]], Floats], tail: Callable[[float], float]) -> Draw:
    """Return a world in which all questions are alike; `tail(s)` is P(S >= s)."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], target: float) -> ScoreDraws:
        return ScoreDraws(sample(rng, shape), np.full(shape[0], tail(target)))

    return draw


def truncated(mu: float, sg: float) -> Draw:
    from samplewise.stop.truncated import log_cdf, truncated_normal

    distribution = truncated_normal(mu, sg)

    def sample(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        from scipy.special import ndtr, ndtri

        low, high = ndtr(-mu / sg), ndtr((1 - mu) / sg)
        drawn: Floats = np.clip(mu + sg * ndtri(low + rng.random(shape) * (high - low)), 0.0, 1.0)
        return drawn

    return _alike(sample, lambda s: -math.expm1(log_cdf(distribution, s)))


def beta(a: float, b: float, scale: float = 1.0) -> Draw:
    """Beta(a, b), shrunk to [0, scale]: a verifier that never gives more."""
    from scipy.special import betainc

    return _alike(
        lambda rng, shape: scale * rng.beta(a, b, shape), lambda s: 1.0 - float(betainc(a, b, min(1.0, s / scale)))
    )


def bimodal(share: float) -> Draw:
    """Right with probability `share`: Beta(20, 1.5), else Beta(5, 5)."""
    from scipy.special import betainc

    def sample(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        return np.where(rng.random(shape) < share, rng.beta(20, 1.5, shape), rng.beta(5, 5, shape))

    return _alike(sample, lambda s: 1 - share * float(betainc(20, 1.5, s)) - (1 - share) * float(betainc(5, 5, s)))


def checker(p: float, noise: float = 0.005) -> Draw:
    """A verifier of 0 and 1, blurred inwards by |normal| noise. Targets lie between the two heaps."""

    def sample(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        blur = np.abs(rng.normal(0.0, noise, shape))
        return np.clip(np.where(rng.random(shape) < p, 1 - blur, blur), 0.0, 1.0)

    return _alike(sample, lambda s: p)


def with_atom(share: float, a: float, b: float) -> Draw:
    """Exactly 1.0 with probability `share`, else Beta(a, b)."""
    from scipy.special import betainc

    def sample(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        return np.where(rng.random(shape) < share, 1.0, rng.beta(a, b, shape))

    return _alike(sample, lambda s: share + (1 - share) * (1 - float(betainc(a, b, s))))


def rounded(a: float, b: float) -> Draw:
    """Beta(a, b) rounded to tenths."""
    from scipy.special import betainc

    def tail(s: float) -> float:
        return 1.0 - float(betainc(a, b, math.ceil(s * 10 - 1e-9) / 10 - 0.05))

    return _alike(lambda rng, shape: np.round(rng.beta(a, b, shape), 1), tail)


def correlated(spread: float = 1.0) -> Draw:
    """Every question has its own ease: scores are logistic(1 + spread Z + 0.7 e), Z the question's."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], target: float) -> ScoreDraws:
        from scipy.special import expit, logit, ndtr

        ease = 1 + spread * rng.normal(size=(shape[0], 1))
        return ScoreDraws(expit(ease + 0.7 * rng.normal(size=shape)), 1 - ndtr((logit(target) - ease[:, 0]) / 0.7))

    return draw


def drifting(start: float = 0.2, end: float = 0.02) -> Draw:
    """0/1 scores whose probability falls from draw to draw: no guarantee holds. `probability` is the mean."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], target: float) -> ScoreDraws:
        probability = np.linspace(start, end, shape[1])
        scores = (rng.random(shape) < probability).astype(np.float64)
        return ScoreDraws(scores, np.full(shape[0], probability.mean()))

    return draw


def matched_beta(mean: float, sd: float) -> Draw:
    """Return the Beta distribution with this mean and standard deviation. ValueError if there is none."""
    size = mean * (1 - mean) / sd**2 - 1
    if not size > 0:
        raise ValueError(f"no Beta distribution has mean {mean} and standard deviation {sd}")
    return beta(mean * size, (1 - mean) * size)


def judged(right: NDArray[np.bool_], auc: float, rng: np.random.Generator) -> Floats:
    """Draw scores for answers that are right or not (any shape), by a verifier with this AUC.

    Beta(a, 1) for a right answer and Beta(1, a) for a wrong one, with a found by bisection on the AUC's series.
    """
    if not 0.5 <= auc < 1:
        raise ValueError(f"auc must be in [0.5, 1), got {auc}")
    low, high = 1.0, 64.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if auc_of(middle) < auc else (low, middle)
    a = 0.5 * (low + high)
    return np.where(right, rng.beta(a, 1, right.shape), rng.beta(1, a, right.shape))


def auc_of(a: float) -> float:
    """Return P(X > Y) for X ~ Beta(a, 1), Y ~ Beta(1, a): 1 - a B(a, a + 1)."""
    return 1.0 - a * math.exp(math.lgamma(a) + math.lgamma(a + 1) - math.lgamma(2 * a + 1))


@functools.cache
def score_worlds() -> Mapping[str, ScoreWorld]:
    """Return every world of scores by its name."""
    worlds = [
        ScoreWorld("TN(.9,.1)", 0.95, truncated(0.9, 0.1)),
        ScoreWorld("TN(.8,.1)", 0.95, truncated(0.8, 0.1)),
        ScoreWorld("TN(.6,.12)", 0.85, truncated(0.6, 0.12)),
        *(ScoreWorld(f"bimodal {share:g}", 0.9, bimodal(share)) for share in (0.05, 0.1, 0.3, 0.7)),
        ScoreWorld("checker .1", 0.9, checker(0.1)),
        ScoreWorld("checker .02", 0.9, checker(0.02)),
        ScoreWorld("Beta(12,1.2)", 0.99, beta(12, 1.2)),
        ScoreWorld("bounded .93", 0.95, beta(10, 2, 0.93)),
        ScoreWorld("atom at 1", 0.95, with_atom(0.2, 4, 4)),
        ScoreWorld("rounded", 0.9, rounded(6, 2)),
        ScoreWorld("correlated", 0.9, correlated()),
        ScoreWorld("drifting", 0.9, drifting(), independent=False),
    ]
    return {world.name: world for world in worlds}


class Followed(NamedTuple):
    """Per question (R,): draws taken, the best score among them, and the reason to stop ("" for none)."""

    draws: NDArray[np.int64]
    best: Floats
    reasons: tuple[str, ...]

    def attained(self, target: float) -> float:
        """Return the share of questions whose best score reaches the target."""
        return float((self.best >= target).mean())


def follow(rule: StopRule[Any], scores: Floats, *, verifier: str = VERIFIER, question: Question = NOBODY) -> Followed:
    """Show scores (R, N) to a rule draw by draw. A question that it never stops ends with its last draw."""
    draws, reasons = np.full(len(scores), scores.shape[1], dtype=np.int64), []
    for row, values in enumerate(scores.tolist()):
        state, reason = rule.start(question), ""
        for num_drawn, value in enumerate(values, start=1):
            state = rule.see(state, Candidate("x", scores={verifier: value}), None)
            stop = rule.decide(state, Usage())
            if stop is not None:
                draws[row], reason = num_drawn, stop.reason
                break
        reasons.append(reason)
    best = np.array([row[:num].max() for row, num in zip(scores, draws, strict=True)])
    return Followed(draws, best, tuple(reasons))


class FirstPass(NamedTuple):
    """Stopping at the first success, after at most `cap` draws: the probability of one, and the expected draws."""

    attained: float
    draws: float


def exact_first_pass(probability: float, cap: int) -> FirstPass:
    """Return 1 - F^cap and (1 - F^cap) / (1 - F), F = 1 - probability; at probability 0 all are drawn."""
    if probability == 0:
        return FirstPass(0.0, float(cap))
    attained = -math.expm1(cap * math.log1p(-probability)) if probability < 1 else 1.0
    return FirstPass(attained, attained / probability)
