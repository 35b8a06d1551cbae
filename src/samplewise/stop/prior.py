"""What is believed of a question before its first draw, in numbers: from past questions, or from nothing.

Two kinds. `BetaPrior`: the probability p that a draw reaches the target is Beta(a, b); of the draws, only how many
reached it matters. `ScorePrior`: the question's scores follow a distribution on [0, 1] (`samplewise.stop.truncated`)
whose logit mean and log standard deviation are normal; then every score is informative, also those far below the
target.

A recipe's line holds the numbers, `prior=(2.0, 5.1)` or `prior=(logit_mean, log_spread, sd, sd)`, or the name of a JSON
file with a prior for each question, which `samplewise.analysis.prior` writes:

    {"samplewise": "prior", "kind": "beta" | "scores", "default": [numbers] | null,
     "questions": {id: [numbers]}, "health": {"kept": true, "reason": ""}}

A file whose health says that the prior does not fit is not used: the rule runs without a prior and says so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from samplewise.core import files
from samplewise.core.errors import BadInput
from samplewise.core.numerics import Floats
from samplewise.core.types import Json, Question
from samplewise.stop.truncated import ScoreTally, TruncatedNormal, excess, log_cdf, matched, moments

SIDES = (41, 15)  # means and spreads of the lattice that stands for a ScorePrior: a mean needs the finer steps
REACH = 3.0  # standard deviations that it spans on either side
WIDEST = 0.98  # of the largest standard deviation that a mean allows


class BetaPrior(NamedTuple):
    """The probability that a draw reaches the target ~ Beta(a, b)."""

    a: float
    b: float

    def pass_probability(self, misses: int) -> float:
        """Return the probability that the next draw reaches it, after `misses` that did not."""
        return self.a / (self.a + self.b + misses)

    def none_in(self, draws: int, misses: int = 0) -> float:
        """Return the probability that none of `draws` more reaches it: B(a, b + misses + draws) / B(a, b + misses)."""
        if math.isinf(draws):
            return 0.0
        late, early = self.b + misses + draws, self.b + misses
        return math.exp(
            math.lgamma(late) - math.lgamma(self.a + late) - math.lgamma(early) + math.lgamma(self.a + early)
        )


class ScorePrior(NamedTuple):
    """A question's scores: logit of their mean and log of their standard deviation are independent normals."""

    logit_mean: float
    log_spread: float
    sd_mean: float
    sd_spread: float


Prior = BetaPrior | ScorePrior


def draws_for(prior: BetaPrior, confidence: float, cap: int, misses: int = 0) -> int:
    """Return the least R in 1..cap whose success probability, averaged over the prior, is `confidence`; else `cap`.

    O(log cap).
    """
    return _least(lambda num: prior.none_in(num, misses), confidence, cap)


def _least(none_in: Callable[[int], float], confidence: float, cap: int) -> int:
    low, high = 1, cap
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if none_in(middle) <= (1 - confidence) * (1 + 1e-9) else (middle + 1, high)
    return low


class ScoreLattice(NamedTuple):
    """A `ScorePrior` as distributions on a lattice: natural parameters, log masses and prior log weights, (K,) each."""

    e1: Floats
    e2: Floats
    log_mass: Floats
    log_weight: Floats

    def posterior(self, tally: ScoreTally) -> Floats:
        """Return weights (K,), summing to 1, given the scores of a tally."""
        log_weight = self.log_weight
        if tally.num:
            second = tally.square / tally.num + tally.mean**2
            log_weight = log_weight + tally.num * (self.e1 * tally.mean + self.e2 * second - self.log_mass)
        weight: Floats = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        return weight


@functools.lru_cache(maxsize=64)
def lattice_of(prior: ScorePrior) -> ScoreLattice:
    """Return the lattice of a prior: 615 distributions, one for each mean and spread. About 60 ms, once a prior.

    Scores that spread by less than a fifth of the lattice's step in the mean are treated as wider.
    """
    across, along = (np.linspace(-REACH, REACH, side).tolist() for side in SIDES)
    distributions, weights, masses = [], [], []
    for one in across:
        mean = 1 / (1 + math.exp(-(prior.logit_mean + prior.sd_mean * one)))
        widest = WIDEST * math.sqrt(mean * (1 - mean))
        distribution = None
        for two in along:
            spread = min(math.exp(prior.log_spread + prior.sd_spread * two), widest)
            distribution = matched(mean, spread**2, distribution)
            distributions.append(distribution)
            masses.append(moments(*distribution).log_mass)
            weights.append(-0.5 * (one * one + two * two))
    table = np.array(distributions)
    return ScoreLattice(table[:, 0], table[:, 1], np.array(masses), np.array(weights))


@functools.lru_cache(maxsize=256)
def log_below(prior: ScorePrior, target: float) -> Floats:
    """Return ln F(target) (K,) of every distribution of the lattice."""
    lattice = lattice_of(prior)
    return np.array([log_cdf(distribution, target) for distribution in _distributions(lattice)])


@functools.lru_cache(maxsize=64)
def gain_table(prior: ScorePrior) -> tuple[Floats, Floats]:
    """Return best scores so far (G,), and E[(S - best)+] (K, G) of every distribution. About 0.5 s, once a prior."""
    scores = np.linspace(0.0, 1.0, 33)
    return scores, np.array(
        [
            [excess(distribution, score) for score in scores.tolist()]
            for distribution in _distributions(lattice_of(prior))
        ]
    )


def _distributions(lattice: ScoreLattice) -> list[TruncatedNormal]:
    return [TruncatedNormal(*both) for both in zip(lattice.e1.tolist(), lattice.e2.tolist(), strict=True)]


def draws_for_mixture(weights: Floats, log_f: Floats, confidence: float, cap: int) -> int:
    """Return the least R in 1..cap with E[F^R] <= 1 - confidence over distributions (K,) with these weights; else
    `cap`.
    """
    return _least(lambda num: float(weights @ np.exp(num * log_f)), confidence, cap)


# --- from a recipe's line, or a file ----------------------------------------------------------------------------------


class PriorSource(NamedTuple):
    """Where a rule's prior comes from: one for all questions, one for each, or none and why."""

    default: Prior | None = None
    questions: Mapping[str, Prior] = {}
    dropped: str = ""  # why a prior that was given is not used

    def of(self, question: Question) -> Prior | None:
        """Return the prior of a question, None if there is none."""
        return self.questions.get(question.id, self.default)


def read_prior(given: tuple[float, ...] | str | None) -> PriorSource:
    """Return the prior that a recipe's line names. Raise ValueError for bad numbers, BadInput for a bad file."""
    if given is None:
        return PriorSource()
    if not isinstance(given, str):
        return PriorSource(prior_from(given))
    content = files.read_json(given)
    if (
        not isinstance(content, dict)
        or content.get("samplewise") != "prior"
        or content.get("kind") not in ("beta", "scores")
    ):
        raise BadInput(f"{given}: is no file of priors; samplewise.analysis.prior writes them")
    health = content.get("health") or {}
    if not health.get("kept", True):
        return PriorSource(dropped=str(health.get("reason") or "it does not fit"))
    num = 2 if content["kind"] == "beta" else 4

    def one(numbers: Json, of: str) -> Prior:
        if not isinstance(numbers, list) or len(numbers) != num:
            raise BadInput(f"{given}: the prior of {of} must be {num} numbers, got {numbers!r}")
        try:
            return prior_from(numbers)
        except ValueError as error:
            raise BadInput(f"{given}: {of}: {error}") from None

    default = content.get("default")
    rest = {str(name): one(numbers, str(name)) for name, numbers in (content.get("questions") or {}).items()}
    return PriorSource(None if default is None else one(default, "default"), rest)


def prior_from(numbers: Sequence[float]) -> Prior:
    """Read (a, b) or (logit_mean, log_spread, sd_mean, sd_spread). Raise ValueError for anything else."""
    finite = all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
    if finite and len(numbers) == 2 and min(numbers) > 0:
        return BetaPrior(*map(float, numbers))
    if finite and len(numbers) == 4 and min(numbers[2:]) > 0:
        return ScorePrior(*map(float, numbers))
    raise ValueError(
        f"a prior is (a, b), both above 0, or (logit_mean, log_spread, sd_mean, sd_spread), got {tuple(numbers)}"
    )
