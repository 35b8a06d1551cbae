"""Slow and obvious twins of the measures: every subset of k draws is looked at. Plain Python, one problem at a time."""

from __future__ import annotations

import math
from itertools import combinations, permutations
from statistics import fmean


def drawn(outcomes):
    """Places of the draws whose outcome is known."""
    return [i for i, outcome in enumerate(outcomes) if not math.isnan(outcome)]


def pass_twin(outcomes, k):
    return fmean(any(outcomes[i] == 1 for i in subset) for subset in combinations(drawn(outcomes), k))


def majority_twin(answers, outcomes, k, weights=None):
    def worth(answer):
        return fmean(outcomes[i] for i in drawn(outcomes) if answers[i] == answer)

    def vote(subset):
        tally = {}
        for i in subset:
            if answers[i] >= 0:
                tally[answers[i]] = tally.get(answers[i], 0) + (1 if weights is None else weights[i])
        top = max(tally.values(), default=0)
        return fmean(worth(answer) for answer, votes in tally.items() if votes == top) if top > 0 else 0.0

    return fmean(vote(subset) for subset in combinations(drawn(outcomes), k))


def best_twin(scores, outcomes, k):
    def rank(i):
        return (not math.isnan(scores[i]), 0.0 if math.isnan(scores[i]) else scores[i])

    def pick(subset):
        top = max(map(rank, subset))
        return fmean(outcomes[i] for i in subset if rank(i) == top)

    return fmean(pick(subset) for subset in combinations(drawn(outcomes), k))


def best_in_random_order_twin(scores, outcomes):
    """Best of all, ties broken by a random order, averaged over every order: what sharing a tie must equal."""
    return fmean(outcomes[max(order, key=lambda i: scores[i])] for order in permutations(range(len(scores))))
