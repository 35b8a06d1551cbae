"""A tournament of answers in which all meet a few good ones (arXiv 2607.05391).

A ring comes first: each answer is shown once as A and once as B, so a bias for the order cancels in expectation. The
best of it become pivots, and each answer meets each pivot once. All replies together are then explained by one strength
for each answer and one bias for the order (Bradley and Terry, on the judge's probabilities rather than on wins).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Ask, Candidate, Generate, Message, Question, Sampling
from samplewise.verify.base import Answers, Judge, Replies
from samplewise.verify.judge import MAX_TOKENS, PAIR, VERSION
from samplewise.verify.replies import asked_text, first_better

PIVOTS = 3
PRIOR = 0.05  # inverse variance of strengths and bias, in nats: answers that win all they play stay finite
STEPS = 50  # of Newton's method, which needs about 8
DIGITS = 9  # of a strength: by rounding alone no answer wins


class Met(NamedTuple):
    """A comparison: the positions of the answers shown as A and as B, and the probability that A is better."""

    first: int
    second: int
    better: float  # nan: the reply says nothing


def ring_pairs(order: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs (A, B) of a ring of N answers, N of them: each is once A and once B. None for a single one."""
    return [(first, order[(i + 1) % len(order)]) for i, first in enumerate(order)] if len(order) > 1 else []


def pivot_pairs(order: Sequence[int], pivots: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pairs (A, B) in which each answer meets each pivot once, and pivots each other.

    k (N - k) + k (k - 1) / 2 of them, none if the ring has shown all pairs in both orders (N = 2). A pair that met in
    the ring is shown the other way around; the others alternate, so that each answer is A about as often as B.
    """
    if len(order) < 3:
        return []
    in_ring = set(ring_pairs(order))
    pairs = []
    for rank, pivot in enumerate(pivots):
        for index, other in enumerate(order):
            if other == pivot or other in pivots[:rank]:
                continue
            pair = (other, pivot) if (index + rank) % 2 else (pivot, other)
            pairs.append(pair[::-1] if pair in in_ring else pair)
    return pairs


def bradley_terry(num: int, met: Sequence[Met]) -> tuple[Floats, float]:
    """Return strengths (num,) in nats, with mean 0, and the bias for the answer shown first.

    They maximize the sum of y log p + (1 - y) log(1 - p), p = logistic(strength A - strength B + bias), y the judge's
    probability for A, with a normal prior of inverse variance `PRIOR`.
    """
    seen = [each for each in met if not math.isnan(each.better)]
    rows = np.zeros((len(seen), num + 1))
    for row, each in zip(rows, seen, strict=True):
        row[each.first], row[each.second], row[num] = 1.0, -1.0, 1.0
    better = np.array([each.better for each in seen], dtype=np.float64)
    weights = np.zeros(num + 1)
    for _ in range(STEPS):
        probability = 1.0 / (1.0 + np.exp(-rows @ weights))
        gradient = rows.T @ (better - probability) - PRIOR * weights
        curvature = (rows.T * (probability * (1.0 - probability))) @ rows + PRIOR * np.eye(num + 1)
        step = np.linalg.solve(curvature, gradient)
        weights += step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-300))  # never far at once
        if np.abs(step).max() < 1e-12:
            break
    strengths: Floats = np.round(weights[:num] - weights[:num].mean(), DIGITS)
    return strengths, float(weights[num])


def pivot(engine: str = "", *, pivots: int = PIVOTS) -> Judge:
    """Rank the different answers by a tournament against pivots, one response for each: the strongest scores highest.

    First a ring drawn by the key, in which each answer is shown once first and once second; the `pivots` best of it
    then meet all others (arXiv 2607.05391). The score is the strength in nats that explains all replies, beside a bias
    for the order, by the model of Bradley and Terry; candidates with the same answer share it. nan where no reply says
    anything of an answer. Log-probs of the letters A and B are used where the engine shows them. Cost: for N answers
    and k = `pivots` (at most N) N + k (N - k) + k (k - 1) / 2 requests, 2 for two answers, each of the question, two
    responses and about 90 tokens, and at most 8 tokens of reply.
    """
    check_count("pivots", pivots)

    def ask(key: Key, question: Question, first: str, second: str) -> Generate:
        prompt = PAIR.format(question=asked_text(question), first=first, second=second)
        return Generate(
            (Message("user", prompt),),
            sampling=Sampling(),
            max_tokens=MAX_TOKENS,
            seed=key.fold("pivot", VERSION, first, second).seed(),
            want=("top",),
            engine=engine,
            score_first=("A", "B"),
        )

    def rounds(key: Key, num: int, replies: Replies) -> tuple[list[Met], list[tuple[int, int]]]:
        """Return the comparisons so far, and the pairs of the next round."""
        order = key.fold("ring").generator().permutation(num).tolist()
        ring = ring_pairs(order)
        if not replies:
            return [], ring
        met = [Met(*pair, first_better(reply)) for pair, reply in zip(ring, replies[0], strict=True)]
        strengths, _ = bradley_terry(num, met)
        ranked = sorted(range(num), key=lambda i: (-strengths[i], order.index(i)))  # equals as the key has them
        against = pivot_pairs(order, ranked[: min(pivots, num)])
        if len(replies) == 1:
            return met, against
        return [*met, *(Met(*pair, first_better(r)) for pair, r in zip(against, replies[1], strict=True))], []

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[Ask, ...]:
        named, texts = representatives(candidates, answers)
        _, pairs = rounds(key, len(named), replies)
        return tuple(ask(key, question, texts[first], texts[second]) for first, second in pairs)

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]:
        named, _ = representatives(candidates, answers)
        if len(named) < 2:  # nothing to compare
            return tuple(math.nan if answer is None else 0.0 for answer in answers)
        met, _ = rounds(key, len(named), replies)
        strengths, _ = bradley_terry(len(named), met)
        known = {position for each in met if not math.isnan(each.better) for position in each[:2]}
        score = {name: strengths[i] if i in known else math.nan for i, name in enumerate(named)}
        return tuple(math.nan if answer is None else float(score[answer]) for answer in answers)

    return Judge("pivot", next_asks, rate, engines=frozenset({engine} - {""}))


def representatives(candidates: Sequence[Candidate], answers: Answers) -> tuple[list[str], list[str]]:
    """Return the different answers, sorted, and the first response that gave each."""
    first: dict[str, str] = {}
    for candidate, answer in zip(candidates, answers, strict=True):
        if answer is not None:
            first.setdefault(answer, candidate.text)
    named = sorted(first)
    return named, [first[answer] for answer in named]
