"""Selectors between best-of-n and plurality: votes by rank, the law of a bootstrapped best-of-m, and the best answer
among the frequent ones. All of them trust a score less than best-of-n does, and more than plurality does.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from samplewise.keys import Key
from samplewise.numerics import Floats
from samplewise.select.arms import tally
from samplewise.select.base import Selector, choose_class
from samplewise.types import Pool, Selection

DECAY = 0.75  # from one m to the next, where m is found


def mob(verifier: str, m: int | None = None, *, find: bool = False) -> Selector:
    """Majority of the best: plurality among many best-of-m, m drawn from the pool with replacement (arXiv 2511.18630).

    Exact, nothing is drawn: of n candidates the one of rank t (0 is the best) wins a best-of-m with probability
    ((n-t)/n)^m - ((n-t-1)/n)^m. `m` is the square root of n by default; with `find` the one of n, .75 n, .75^2 n ...
    at which the law of the answer changes least. m = 1 is plurality, a large m best-of-n.
    """
    if m is not None and (find or m < 1):
        raise ValueError(f"m must be at least 1, and is not given where it is to be found; got m={m}, find={find}")

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        readable, scores = _scored(pool, answers, verifier)
        if not readable:
            return Selection(None, None, (0.0,) * len(answers))
        num = len(readable)
        named = [str(answers[i]) for i in readable]
        size = m if m is not None else _stable_size(named, scores) if find else math.isqrt(num)
        return choose_class(key, pool, answers, _law(named, scores, size), _total(named, scores))

    return Selector("mob", choose, (verifier,))


def borda(verifier: str, p: float = 0.5) -> Selector:
    """Votes by rank: of N candidates the one of rank r (0 is the best) has (N - r)^p votes (arXiv 2502.18581, where the
    score is self-certainty). p = 0 is plurality, a large p best-of-n."""
    if not p >= 0:
        raise ValueError(f"p must be 0 or more, got {p}")

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        readable, scores = _scored(pool, answers, verifier)
        named = [str(answers[i]) for i in readable]
        votes = _shared(np.arange(len(readable), 0, -1, dtype=np.float64) ** p, scores)
        return choose_class(key, pool, answers, _sum(named, votes), _total(named, scores))

    return Selector("borda", choose, (verifier,))


def bom(verifier: str, *, alpha: float = 0.05, at_least: int = 2) -> Selector:
    """Best of the majority: the highest mean score among answers that are frequent enough (arXiv 2510.03199, k = 1).

    An answer's frequency is the mean over arms of its share of the arm's readable draws; it must reach `alpha`, and be
    drawn `at_least` times. Where no answer does, all of them stand. Unlike best-of-n it does not decay as draws grow.
    """
    if not 0 <= alpha <= 1 or at_least < 1:
        raise ValueError(f"alpha must be in [0, 1] and at_least 1 or more, got {alpha} and {at_least}")

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        found = tally(pool, answers)
        often = {a for a, share in found.shares().items() if share >= alpha and found.drawn(a) >= at_least}
        kept = often or set(found.answers)
        scores: dict[str, list[float]] = defaultdict(list)
        for answer, candidate in zip(answers, pool.candidates, strict=True):
            score = candidate.scores.get(verifier, math.nan)
            if answer in kept and not math.isnan(score):
                scores[str(answer)].append(score)
        mean = {answer: math.fsum(each) / len(each) for answer, each in scores.items()}
        mass = mean or dict.fromkeys(kept, 0.0)  # an unscored answer never wins over a scored one
        count = Counter(a for a in answers if a is not None)
        chosen = choose_class(key, pool, answers, mass, {a: float(n) for a, n in count.items()})
        if chosen.answer is None:
            return chosen
        held = [float(answer == chosen.answer) for answer in answers]
        return chosen._replace(weights=tuple(each / sum(held) for each in held), info={"kept": len(kept)})

    return Selector("bom", choose, (verifier,))


def _scored(pool: Pool, answers: Sequence[str | None], verifier: str) -> tuple[list[int], Floats]:
    """Positions (N,) of the readable candidates from the best to the worst, and their scores (N,); unscored ones are
    last, as equals."""
    readable = [i for i, answer in enumerate(answers) if answer is not None]
    score = {i: pool.candidates[i].scores.get(verifier, math.nan) for i in readable}
    ranked = sorted(readable, key=lambda i: (math.isnan(score[i]), 0.0 if math.isnan(score[i]) else -score[i]))
    return ranked, np.array([score[i] for i in ranked], dtype=np.float64)


def _shared(votes: Floats, scores: Floats) -> Floats:
    """Votes (N,) by rank, where candidates of equal score, and unscored ones, share theirs evenly."""
    if not len(votes):
        return votes
    unscored, value = np.isnan(scores), np.nan_to_num(scores, nan=0.0, posinf=np.inf, neginf=-np.inf)
    differs = (value[1:] != value[:-1]) | (unscored[1:] != unscored[:-1])
    group = np.concatenate([[0], np.cumsum(differs)])
    shared: Floats = (np.bincount(group, weights=votes) / np.bincount(group))[group]
    return shared


def _law(named: Sequence[str], scores: Floats, m: int) -> dict[str, float]:
    """The probability of each answer to win a best-of-m."""
    num = len(named)
    left = (num - np.arange(num + 1)) / num
    return _sum(named, _shared(left[:-1] ** m - left[1:] ** m, scores))


def _stable_size(named: Sequence[str], scores: Floats) -> int:
    sizes = [len(named)]
    while sizes[-1] > 1:
        sizes.append(max(1, math.floor(len(named) * DECAY ** len(sizes))))
    laws = [_law(named, scores, size) for size in sizes]
    changes = [sum(abs(one[a] - other[a]) for a in one) for one, other in pairwise(laws)]
    return sizes[int(np.argmin(changes))] if changes else sizes[0]


def _sum(named: Sequence[str], votes: Floats) -> dict[str, float]:
    mass: dict[str, float] = defaultdict(float)
    for answer, vote in zip(named, votes.tolist(), strict=True):
        mass[answer] += vote
    return dict(mass)


def _total(named: Sequence[str], scores: Floats) -> dict[str, float]:
    return _sum(named, np.nan_to_num(scores, nan=0.0, posinf=0.0, neginf=0.0))
