"""Selectors that know of arms. Draws of one arm share its habits, wrong ones too, so what all arms support is worth
more than what one of them says often. With draws of a single arm each of these is plurality.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from samplewise.keys import Key
from samplewise.numerics import Floats
from samplewise.select.base import Round, Selector, choose_class, draw_tied
from samplewise.types import Pool, Selection

ADDED = 0.5  # to every count before its logarithm: an answer that an arm never gave is rare there, not impossible


class Tally(NamedTuple):
    """Readable draws by arm and answer."""

    arms: tuple[str, ...]  # (J,) in the order of their first readable draw
    answers: tuple[str, ...]  # (K,) in the order of their first draw
    counts: Floats  # (J, K)

    @property
    def totals(self) -> Floats:
        """Readable draws of each arm (J,), at least 1."""
        return np.asarray(self.counts.sum(axis=1))

    def drawn(self, answer: str) -> int:
        return int(self.counts[:, self.answers.index(answer)].sum())

    def shares(self) -> dict[str, float]:
        """Each answer's share of an arm's draws, averaged over arms."""
        if not self.answers:
            return {}
        mean = (self.counts / self.totals[:, None]).mean(axis=0)
        return dict(zip(self.answers, mean.tolist(), strict=True))


def tally(pool: Pool, answers: tuple[str | None, ...]) -> Tally:
    """Count a pool's readable draws."""
    count: Counter[tuple[str, str]] = Counter()
    for candidate, answer in zip(pool.candidates, answers, strict=True):
        if answer is not None:
            count[candidate.arm, answer] += 1
    arms = tuple(dict.fromkeys(arm for arm, _ in count))
    named = tuple(dict.fromkeys(answer for _, answer in count))
    counts = np.array([[count[arm, answer] for answer in named] for arm in arms], dtype=np.float64)
    return Tally(arms, named, counts.reshape(len(arms), len(named)))


def log_pool(*, fallback: bool = False) -> Selector:
    """The answer that all arms support: the largest sum over arms of log((count + .5) / (readable draws + .5 K)), K the
    number of different answers.

    A wrong answer has to be supported in every arm. One arm that never gives the right answer can sink it: screen arms
    first. With one draw an arm it orders answers as plurality does. With `fallback`, and labels on other problems, it
    votes among direct draws alone where that was right more often there.
    """
    pooled = by_log({})
    if not fallback:
        return pooled
    return Selector(
        "log_pool", pooled.choose, fit=lambda rounds: most_right(rounds, (pooled, only())), needs_labels=True
    )


def most_right(rounds: Sequence[Round], selectors: Sequence[Selector]) -> Selector:
    """The selector whose answers have the highest mean grade; the first of those that are equal."""
    key = Key(0).fold("most right")
    worth = [0.0] * len(selectors)
    for number, (pool, answers, grades) in enumerate(rounds):
        for place, selector in enumerate(selectors):
            position = selector.choose(key.fold(number), pool, answers).position
            grade = math.nan if grades is None or position is None else grades[position]
            worth[place] += 0.0 if math.isnan(grade) else grade
    return selectors[worth.index(max(worth))]


def by_log(weights: Mapping[str, float], name: str = "log_pool") -> Selector:
    """`log_pool` with weights of arms, 1 where not given."""

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        found = tally(pool, answers)
        if not found.answers:
            return Selection(None, None, (0.0,) * len(answers))
        smooth = np.log((found.counts + ADDED) / (found.totals + ADDED * len(found.answers))[:, None])
        score = np.array([weights.get(arm, 1.0) for arm in found.arms]) @ smooth
        scored = dict(zip(found.answers, score.tolist(), strict=True))
        pooled = dict(zip(found.answers, found.counts.sum(axis=0).tolist(), strict=True))
        chosen = choose_class(key, pool, answers, scored, pooled)
        weight = np.exp(score - score.max())
        share = dict(zip(found.answers, (weight / weight.sum()).tolist(), strict=True))
        count = Counter(answers)
        shares = tuple(0.0 if a is None else share[a] / count[a] for a in answers)
        return chosen._replace(weights=shares)

    return Selector(name, choose)


def by_share(weights: Mapping[str, float], name: str) -> Selector:
    """The largest weighted sum over arms of an answer's share of the arm's readable draws; plurality where no arm of
    the pool has a positive weight. An arm that is not named has the weight 0."""

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        found = tally(pool, answers)
        if not found.answers:
            return Selection(None, None, (0.0,) * len(answers))
        weight = np.array([max(0.0, weights.get(arm, 0.0)) for arm in found.arms])
        share = found.counts / found.totals[:, None]
        mass = weight @ share if weight.any() else found.counts.sum(axis=0)
        pooled = dict(zip(found.answers, found.counts.sum(axis=0).tolist(), strict=True))
        return choose_class(key, pool, answers, dict(zip(found.answers, mass.tolist(), strict=True)), pooled)

    return Selector(name, choose)


def only(arm: str = "direct") -> Selector:
    """Plurality among the draws of one arm; among all of them where it has no readable draw."""
    return by_share({arm: 1.0}, "only")


def arm_vote() -> Selector:
    """One vote an arm: the plurality of the arms' own pluralities. Ties by the count over all arms."""

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        found = tally(pool, answers)
        pooled = dict(zip(found.answers, found.counts.sum(axis=0).tolist(), strict=True))
        mass: dict[str, float] = defaultdict(float)
        for arm, row in zip(found.arms, found.counts, strict=True):
            most = [found.answers[i] for i in np.flatnonzero(row == row.max())]
            best = max(pooled[answer] for answer in most)
            mass[draw_tied(key.fold("arm", arm), [a for a in most if pooled[a] == best])] += 1.0
        return choose_class(key, pool, answers, mass, pooled)

    return Selector("arm_vote", choose)
