"""What is believed of a question before its first draw, in numbers: from past questions, or from nothing.

Two kinds. `BetaPrior`: the chance p that a draw reaches the target is Beta(a, b); all that matters of the draws is how
many reached it. `ScorePrior`: the question's scores follow a law on [0, 1] (`samplewise.stop.truncated`) whose logit
mean and log standard deviation are normal; then every score says something, also those far below the target.

A recipe's line holds the numbers, `prior=(2.0, 5.1)` or `prior=(logit_mean, log_spread, sd, sd)`, or the name of a JSON
file with a prior for each question, which `samplewise.predictor` writes:

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

from samplewise import files
from samplewise.errors import BadInput
from samplewise.numerics import Floats
from samplewise.stop.truncated import Law, Tally, excess, log_cdf, matched, moments
from samplewise.types import Json, Question

SIDES = (41, 15)  # means and spreads of the lattice that stands for a ScorePrior: a mean needs the finer steps
REACH = 3.0  # standard deviations that it spans on either side
WIDEST = 0.98  # of the largest standard deviation that a mean allows


class BetaPrior(NamedTuple):
    """Chance of a draw to reach the target ~ Beta(a, b)."""

    a: float
    b: float

    def chance(self, misses: int) -> float:
        """That the next draw reaches it, after so many that did not."""
        return self.a / (self.a + self.b + misses)

    def none_in(self, draws: int, misses: int = 0) -> float:
        """Chance that none of `draws` more reaches it: B(a, b + misses + draws) / B(a, b + misses)."""
        if math.isinf(draws):
            return 0.0
        late, early = self.b + misses + draws, self.b + misses
        return math.exp(
            math.lgamma(late) - math.lgamma(self.a + late) - math.lgamma(early) + math.lgamma(self.a + early)
        )

    def expected_draws(self, cap: int) -> float:
        """Of stopping at the first success, at most `cap`: the sum over j < cap of the chance of none among j."""
        return math.fsum(self.none_in(drawn) for drawn in range(cap))


class ScorePrior(NamedTuple):
    """Of a question's scores: logit of their mean and log of their standard deviation are independent normals."""

    logit_mean: float
    log_spread: float
    sd_mean: float
    sd_spread: float


Prior = BetaPrior | ScorePrior


def draws_for(prior: BetaPrior, confidence: float, cap: int, misses: int = 0) -> int:
    """The least R in 1..cap whose chance of a success, averaged over the prior, is `confidence`; `cap` if none is.
    O(log cap)."""
    return _least(lambda num: prior.none_in(num, misses), confidence, cap)


def _least(none_in: Callable[[int], float], confidence: float, cap: int) -> int:
    low, high = 1, cap
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if none_in(middle) <= (1 - confidence) * (1 + 1e-9) else (middle + 1, high)
    return low


class Beliefs(NamedTuple):
    """A `ScorePrior` as laws on a lattice: their natural parameters, log masses and prior log weights, (K,) each."""

    e1: Floats
    e2: Floats
    log_mass: Floats
    log_weight: Floats

    def posterior(self, tally: Tally) -> Floats:
        """Weights (K,), summing to 1, after the scores of a tally."""
        log_weight = self.log_weight
        if tally.num:
            second = tally.square / tally.num + tally.mean**2
            log_weight = log_weight + tally.num * (self.e1 * tally.mean + self.e2 * second - self.log_mass)
        weight: Floats = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        return weight


@functools.lru_cache(maxsize=64)
def beliefs(prior: ScorePrior) -> Beliefs:
    """The lattice of a prior: 615 laws, each with the mean and spread of its place. About 60 ms, once a prior.

    Scores that spread by less than a fifth of the prior's own step in the mean are taken for wider ones.
    """
    across, along = (np.linspace(-REACH, REACH, side).tolist() for side in SIDES)
    laws, weights, masses = [], [], []
    for one in across:
        mean = 1 / (1 + math.exp(-(prior.logit_mean + prior.sd_mean * one)))
        widest = WIDEST * math.sqrt(mean * (1 - mean))
        law = None
        for two in along:
            spread = min(math.exp(prior.log_spread + prior.sd_spread * two), widest)
            law = matched(mean, spread**2, law)
            laws.append(law)
            masses.append(moments(*law).log_mass)
            weights.append(-0.5 * (one * one + two * two))
    table = np.array(laws)
    return Beliefs(table[:, 0], table[:, 1], np.array(masses), np.array(weights))


@functools.lru_cache(maxsize=256)
def log_below(prior: ScorePrior, target: float) -> Floats:
    """ln F(target) (K,) of every law of the lattice."""
    held = beliefs(prior)
    return np.array([log_cdf(law, target) for law in _laws(held)])


@functools.lru_cache(maxsize=64)
def gains(prior: ScorePrior) -> tuple[Floats, Floats]:
    """Best scores so far (G,), and E[(S - best)+] (K, G) of every law. About 0.5 s, once a prior."""
    places = np.linspace(0.0, 1.0, 33)
    return places, np.array([[excess(law, place) for place in places.tolist()] for law in _laws(beliefs(prior))])


def _laws(held: Beliefs) -> list[Law]:
    return [Law(*both) for both in zip(held.e1.tolist(), held.e2.tolist(), strict=True)]


def plan(weights: Floats, log_f: Floats, confidence: float, cap: int) -> int:
    """The least R in 1..cap with E[F^R] <= 1 - confidence over laws (K,) with these weights; `cap` if none is."""
    return _least(lambda num: float(weights @ np.exp(num * log_f)), confidence, cap)


# --- from a recipe's line, or a file ----------------------------------------------------------------------------------


class Source(NamedTuple):
    """Where a rule's prior comes from: one for all questions, one each, or none and why."""

    default: Prior | None = None
    questions: Mapping[str, Prior] = {}
    dropped: str = ""  # why a prior that was given is not used

    def of(self, question: Question) -> Prior | None:
        return self.questions.get(question.id, self.default)


def read_prior(given: tuple[float, ...] | str | None) -> Source:
    """The prior that a recipe's line names. ValueError for numbers that are none, BadInput for a file that is none."""
    if given is None:
        return Source()
    if not isinstance(given, str):
        return Source(prior_from(given))
    found = files.read_json(given)
    if not isinstance(found, dict) or found.get("samplewise") != "prior" or found.get("kind") not in ("beta", "scores"):
        raise BadInput(f"{given}: is no file of priors; samplewise.predictor writes them")
    health = found.get("health") or {}
    if not health.get("kept", True):
        return Source(dropped=str(health.get("reason") or "it does not fit"))
    num = 2 if found["kind"] == "beta" else 4

    def one(numbers: Json, of: str) -> Prior:
        if not isinstance(numbers, list) or len(numbers) != num:
            raise BadInput(f"{given}: the prior of {of} must be {num} numbers, got {numbers!r}")
        try:
            return prior_from(numbers)
        except ValueError as error:
            raise BadInput(f"{given}: {of}: {error}") from None

    default = found.get("default")
    rest = {str(name): one(numbers, str(name)) for name, numbers in (found.get("questions") or {}).items()}
    return Source(None if default is None else one(default, "default"), rest)


def prior_from(numbers: Sequence[float]) -> Prior:
    """(a, b) or (logit_mean, log_spread, sd_mean, sd_spread); ValueError for anything else."""
    fine = all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
    if fine and len(numbers) == 2 and min(numbers) > 0:
        return BetaPrior(*map(float, numbers))
    if fine and len(numbers) == 4 and min(numbers[2:]) > 0:
        return ScorePrior(*map(float, numbers))
    raise ValueError(
        f"a prior is (a, b), both above 0, or (logit_mean, log_spread, sd_mean, sd_spread), got {tuple(numbers)}"
    )
