"""Selectors between best-of-n and plurality: votes by rank, the answer distribution of a bootstrapped best-of-m, and
the best answer among the frequent ones. They trust a score less than best-of-n does, and more than plurality does.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from samplewise.core.checks import check_number
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Pool, Selection
from samplewise.select.arms import tally_arms
from samplewise.select.base import Selector, choose_class, unscored
from samplewise.select.votes import pool_weights

DECAY = 0.75  # from one m to the next, with find=True
MOST_POWER = 64.0  # of a rank: the votes of ten thousand candidates are still finite, and the best has all but all


def mob(verifier: str, m: int | None = None, *, find: bool = False) -> Selector:
    """Choose the majority of the best: plurality among many best-of-m, m drawn with replacement (arXiv 2511.18630).

    Exact, nothing is drawn: of n candidates the one of rank t (0 is the best) wins a best-of-m with probability
    ((n-t)/n)^m - ((n-t-1)/n)^m. `m` is the square root of n by default; with `find` the one of n, .75 n, .75^2 n ... at
    which the answer distribution changes least. m = 1 is plurality, a large m best-of-n.
    """
    if m is not None and (find or m < 1):
        raise ValueError(f"m must be at least 1, and cannot be given with find; got m={m}, find={find}")

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        readable, scores = _scored(pool, answers, verifier)
        if not readable:
            return Selection(None, None, (0.0,) * len(answers))
        num = len(readable)
        named = [str(answers[i]) for i in readable]
        size = m if m is not None else _stable_size(named, scores) if find else math.isqrt(num)
        return choose_class(key, pool, answers, _answer_distribution(named, scores, size), _total(named, scores))

    return Selector("mob", choose, (verifier,), note=unscored(verifier, "by a vote"))


def borda(verifier: str, p: float = 0.5) -> Selector:
    """Choose by votes by rank: of N candidates the one of rank r (0 is the best) has (N - r)^p votes.

    From arXiv 2502.18581, where the score is self-certainty. p = 0 is plurality, a large p best-of-n.
    """
    check_number("p", p, 0.0, MOST_POWER)

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        readable, scores = _scored(pool, answers, verifier)
        named = [str(answers[i]) for i in readable]
        votes = _shared(np.arange(len(readable), 0, -1, dtype=np.float64) ** p, scores)
        return choose_class(key, pool, answers, _sum(named, votes), _total(named, scores))

    return Selector("borda", choose, (verifier,), note=unscored(verifier, "by a vote"))


def softsat(m: float = 0.75, beta: float = 1.0) -> Selector:
    """Choose by a vote weighted by the rank of a response's log-probability, which saturates (arXiv 2608.14420).

    With u the share of the readable draws whose log-probability is at most a draw's own, it votes with the weight
    exp(beta * S(u)), S(u) = 1 - (1 - min(u / m, 1))^2: the likeliest share 1 - m of them weigh alike, and no draw
    weighs more than exp(beta) times another. beta = 0 is plurality. Draws without a log-probability rank last, as
    equals. A weighted pool votes with its weights. Needs log-probs of the draws; no tokens beyond them.
    """
    check_number("m", m, 0.0, 1.0, above=True)
    check_number("beta", beta, 0.0, MOST_POWER)

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        readable, scores = _scored(pool, answers, "likelihood")
        named, weight = [str(answers[i]) for i in readable], pool_weights(pool)
        votes = saturating_weights(scores, m, beta) * np.array([weight[i] for i in readable], dtype=np.float64)
        return choose_class(key, pool, answers, _sum(named, votes), _total(named, scores))

    return Selector("softsat", choose, ("likelihood",))


def saturating_weights(scores: Floats, m: float, beta: float) -> Floats:
    """Return exp(beta * S(u)) for draws with `scores` (N,), where u is the share of draws with at most a draw's score;
    nan is below all numbers."""
    value = np.nan_to_num(scores, nan=-np.inf, posinf=np.inf, neginf=-np.inf)
    share = np.searchsorted(np.sort(value), value, side="right") / max(1, len(value))
    weights: Floats = np.exp(beta * (1 - (1 - np.minimum(share, m) / m) ** 2))
    return weights


def bom(verifier: str, *, alpha: float = 0.05, at_least: int = 2) -> Selector:
    """Choose the best of the majority: the highest mean score among frequent answers (arXiv 2510.03199, k = 1).

    An answer's frequency is the mean over arms of its share of the arm's readable draws. It must reach `alpha`, and be
    drawn `at_least` times; if no answer does, all of them qualify. Unlike best-of-n it does not decay as draws grow.
    """
    if not 0 <= alpha <= 1 or at_least < 1:
        raise ValueError(f"alpha must be in [0, 1] and at_least 1 or more, got {alpha} and {at_least}")

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        tally = tally_arms(pool, answers)
        frequent = {a for a, share in tally.shares().items() if share >= alpha and tally.drawn(a) >= at_least}
        kept = frequent or set(tally.answers)
        scores: dict[str, list[float]] = defaultdict(list)
        for answer, candidate in zip(answers, pool.candidates, strict=True):
            score = candidate.scores.get(verifier, math.nan)
            if answer in kept and not math.isnan(score):
                scores[str(answer)].append(score)
        mean = {answer: _mean(values) for answer, values in scores.items()}
        mass = mean or dict.fromkeys(kept, 0.0)  # an unscored answer never wins over a scored one
        count = Counter(a for a in answers if a is not None)
        chosen = choose_class(key, pool, answers, mass, {a: float(n) for a, n in count.items()})
        if chosen.answer is None:
            return chosen
        count_chosen = count[chosen.answer]
        weights = tuple(float(answer == chosen.answer) / count_chosen for answer in answers)
        return chosen._replace(weights=weights, info={"kept": len(kept)})

    return Selector("bom", choose, (verifier,), note=unscored(verifier, "by a vote"))


def _mean(scores: Sequence[float]) -> float:
    """Return the mean; nan of infinities of both signs, which is no score."""
    total = math.fsum(scores) if all(map(math.isfinite, scores)) else sum(scores)
    return total / len(scores)


def _scored(pool: Pool, answers: Sequence[str | None], verifier: str) -> tuple[list[int], Floats]:
    """Return positions (N,) of the readable candidates from the best to the worst, and their scores (N,).

    Unscored ones are last, as equals.
    """
    readable = [i for i, answer in enumerate(answers) if answer is not None]
    score = {i: pool.candidates[i].scores.get(verifier, math.nan) for i in readable}
    ranked = sorted(readable, key=lambda i: (math.isnan(score[i]), 0.0 if math.isnan(score[i]) else -score[i]))
    return ranked, np.array([score[i] for i in ranked], dtype=np.float64)


def _shared(votes: Floats, scores: Floats) -> Floats:
    """Return votes (N,) by rank, where candidates of equal score, and unscored ones, share theirs evenly."""
    if not len(votes):
        return votes
    unscored, value = np.isnan(scores), np.nan_to_num(scores, nan=0.0, posinf=np.inf, neginf=-np.inf)
    differs = (value[1:] != value[:-1]) | (unscored[1:] != unscored[:-1])
    group = np.concatenate([[0], np.cumsum(differs)])
    shared: Floats = (np.bincount(group, weights=votes) / np.bincount(group))[group]
    return shared


def _answer_distribution(named: Sequence[str], scores: Floats, m: int) -> dict[str, float]:
    """Return the probability of each answer to win a best-of-m."""
    num = len(named)
    left = (num - np.arange(num + 1)) / num
    return _sum(named, _shared(left[:-1] ** m - left[1:] ** m, scores))


def _stable_size(named: Sequence[str], scores: Floats) -> int:
    """Return the m of n, .75 n, .75^2 n ... at which the answer distribution changes least."""
    sizes = [len(named)]
    while sizes[-1] > 1:
        sizes.append(max(1, math.floor(len(named) * DECAY ** len(sizes))))
    distributions = [_answer_distribution(named, scores, size) for size in sizes]
    changes = [sum(abs(one[a] - other[a]) for a in one) for one, other in pairwise(distributions)]
    return sizes[int(np.argmin(changes))] if changes else sizes[0]


def _sum(named: Sequence[str], votes: Floats) -> dict[str, float]:
    """Return the sum of votes (N,) of each answer."""
    mass: dict[str, float] = defaultdict(float)
    for answer, vote in zip(named, votes.tolist(), strict=True):
        mass[answer] += vote
    return dict(mass)


def _total(named: Sequence[str], scores: Floats) -> dict[str, float]:
    """Return the sum of the scores of each answer, which breaks ties.

    Infinite scores lie a step beyond the finite ones, and those of unscored draws below all.
    """
    if np.isnan(scores).all():
        return _sum(named, np.zeros(len(scores)))
    finite = scores[np.isfinite(scores)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    step = high - low + 1.0
    return _sum(named, np.nan_to_num(scores, nan=low - 2 * step, posinf=high + step, neginf=low - step))
