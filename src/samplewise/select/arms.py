"""Selectors that use the arms of draws.

Draws of one arm share its habits, wrong ones too, so support from every arm is worth more than frequency in one. With
draws of a single arm each of these is plurality. In a weighted pool the draws of an arm count with their weights among
those of the arm.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, log_normalise
from samplewise.core.types import Pool, Selection
from samplewise.select.base import Round, Selector, choose_class, draw_tied, no_vote

ADDED = 0.5  # to every count before its logarithm: an answer that an arm never gave is rare there, not impossible


class ArmTally(NamedTuple):
    """Readable draws by arm and answer."""

    arms: tuple[str, ...]  # (J,) in the order of their first readable draw
    answers: tuple[str, ...]  # (K,) in the order of their first draw
    counts: Floats  # (J, K)

    @property
    def totals(self) -> Floats:
        """Return the readable draws of each arm (J,), at least 1."""
        return np.asarray(self.counts.sum(axis=1))

    def drawn(self, answer: str) -> int:
        """Return how often an answer was drawn."""
        return int(self.counts[:, self.answers.index(answer)].sum())

    def shares(self) -> dict[str, float]:
        """Return each answer's share of an arm's draws, averaged over arms."""
        if not self.answers:
            return {}
        mean = (self.counts / self.totals[:, None]).mean(axis=0)
        return dict(zip(self.answers, mean.tolist(), strict=True))


def tally_arms(pool: Pool, answers: tuple[str | None, ...], weights: Sequence[float] | None = None) -> ArmTally:
    """Count a pool's readable draws by arm and answer, each as 1 or as its weight (N,)."""
    count: dict[tuple[str, str], float] = defaultdict(float)
    ones = (1.0,) * len(answers)
    for candidate, answer, weight in zip(pool.candidates, answers, weights or ones, strict=True):
        if answer is not None:
            count[candidate.arm, answer] += weight
    arms = tuple(dict.fromkeys(arm for arm, _ in count))
    named = tuple(dict.fromkeys(answer for _, answer in count))
    counts = np.array([[count[arm, answer] for answer in named] for arm in arms], dtype=np.float64)
    return ArmTally(arms, named, counts.reshape(len(arms), len(named)))


def weights_in_arms(pool: Pool, answers: tuple[str | None, ...]) -> list[float]:
    """Return weights (N,) of draws that sum to the number of readable ones of each arm: 1 each but in a weighted
    pool."""
    readable: dict[str, list[int]] = defaultdict(list)
    for position, answer in enumerate(answers):
        if answer is not None:
            readable[pool.candidates[position].arm].append(position)
    weights = [1.0] * len(answers)
    for positions in readable.values():
        logs = [pool.candidates[position].log_weight for position in positions]
        if any(log != logs[0] for log in logs):
            for position, log in zip(positions, log_normalise(logs).tolist(), strict=True):
                weights[position] = math.exp(log) * len(positions)
    return weights


def log_pool(*, fallback: bool = False) -> Selector:
    """Choose the answer that all arms support, by the largest sum over arms of log((count + .5) / (readable draws + .5
    K)).

    K is the number of different answers. A wrong answer must be supported in every arm. One arm that never gives the
    right answer can sink it: screen arms first. With one draw an arm it orders answers as plurality does. With
    `fallback`, and labels on other problems, it votes among direct draws alone if that was right more often there.
    """
    pooled = by_log({})
    if not fallback:
        return pooled
    return Selector(
        "log_pool",
        pooled.choose,
        fit=lambda rounds: most_right(rounds, (pooled, only())),
        needs_labels=True,
        note=no_vote,
    )


def most_right(rounds: Sequence[Round], selectors: Sequence[Selector]) -> Selector:
    """Return the selector whose answers have the highest mean grade; the first of those that are equal."""
    key = Key(0).fold("most right")
    total = [0.0] * len(selectors)
    for num, (pool, answers, grades) in enumerate(rounds):
        for index, selector in enumerate(selectors):
            position = selector.choose(key.fold(num), pool, answers).position
            grade = math.nan if grades is None or position is None else grades[position]
            total[index] += 0.0 if math.isnan(grade) else grade
    return selectors[total.index(max(total))]


def by_log(weights: Mapping[str, float], name: str = "log_pool") -> Selector:
    """Return `log_pool` with weights of arms, 1 where not given."""

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        tally = tally_arms(pool, answers, weights_in_arms(pool, answers))
        if not tally.answers:
            return Selection(None, None, (0.0,) * len(answers))
        smooth = np.log((tally.counts + ADDED) / (tally.totals + ADDED * len(tally.answers))[:, None])
        score = np.array([weights.get(arm, 1.0) for arm in tally.arms]) @ smooth
        scored = dict(zip(tally.answers, score.tolist(), strict=True))
        pooled = dict(zip(tally.answers, tally.counts.sum(axis=0).tolist(), strict=True))
        chosen = choose_class(key, pool, answers, scored, pooled)
        weight = np.exp(score - score.max())
        share = dict(zip(tally.answers, (weight / weight.sum()).tolist(), strict=True))
        count = Counter(answers)
        shares = tuple(0.0 if a is None else share[a] / count[a] for a in answers)
        return chosen._replace(weights=shares)

    return Selector(name, choose, note=no_vote)


def by_share(weights: Mapping[str, float], name: str) -> Selector:
    """Choose the largest weighted sum over arms of an answer's share of the arm's readable draws.

    An arm that is not named has the weight 0. Plurality if no arm of the pool has a positive weight.
    """

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        tally = tally_arms(pool, answers, weights_in_arms(pool, answers))
        if not tally.answers:
            return Selection(None, None, (0.0,) * len(answers))
        weight = np.array([max(0.0, weights.get(arm, 0.0)) for arm in tally.arms])
        share = tally.counts / tally.totals[:, None]
        mass = weight @ share if weight.any() else tally.counts.sum(axis=0)
        pooled = dict(zip(tally.answers, tally.counts.sum(axis=0).tolist(), strict=True))
        return choose_class(key, pool, answers, dict(zip(tally.answers, mass.tolist(), strict=True)), pooled)

    return Selector(name, choose, note=no_vote)


def only(arm: str = "direct") -> Selector:
    """Choose the plurality among the draws of one arm; among all of them if it has no readable draw."""
    return by_share({arm: 1.0}, "only")


def arm_vote() -> Selector:
    """Give each arm one vote: choose the plurality of the arms' own pluralities. Ties by the count over all arms."""

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        tally = tally_arms(pool, answers, weights_in_arms(pool, answers))
        pooled = dict(zip(tally.answers, tally.counts.sum(axis=0).tolist(), strict=True))
        mass: dict[str, float] = defaultdict(float)
        for arm, row in zip(tally.arms, tally.counts, strict=True):
            most = [tally.answers[i] for i in np.flatnonzero(row == row.max())]
            best = max(pooled[answer] for answer in most)
            mass[draw_tied(key.fold("arm", arm), [a for a in most if pooled[a] == best])] += 1.0
        return choose_class(key, pool, answers, mass, pooled)

    return Selector("arm_vote", choose, note=no_vote)
