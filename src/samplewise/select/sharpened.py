"""An answer drawn from the pool's answer distribution, raised to a power."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np

from samplewise.core.checks import check_number
from samplewise.core.keys import Key
from samplewise.core.types import Pool, Selection
from samplewise.select.base import Selector
from samplewise.select.votes import pool_weights

MOST_GAMMA = 1e6


def sharpened(gamma: float = 2.0) -> Selector:
    """Draw an answer, each with probability proportional to (the sum of its draws' weights)^gamma.

    Weights are those that `sir` or `smc` leave in the pool, otherwise 1 each. With theirs it draws from the model's
    answer distribution raised to the power gamma, as far as the pool has it (arXiv 2605.28142). gamma = 1 is the answer
    of one draw by weight, gamma = 0 any answer alike, a large gamma the vote. The choice is random: it follows from the
    question's key. No tokens. The weights of the selection are the probabilities, each shared among an answer's draws.
    """
    check_number("gamma", gamma, 0.0, MOST_GAMMA)

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        shares: dict[str, list[float]] = defaultdict(list)
        for answer, weight in zip(answers, pool_weights(pool), strict=True):
            if answer is not None:
                shares[answer].append(weight)
        if not shares:
            return Selection(None, None, (0.0,) * len(answers))
        named = sorted(shares)  # so that the draw depends on no order
        mass = np.array([math.fsum(shares[answer]) for answer in named])
        if not mass.any():  # all of the weight is on what cannot be read
            mass = np.array([float(len(shares[answer])) for answer in named])
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.where(mass > 0, gamma * np.log(mass / mass.max()), -np.inf)
        probability = np.exp(logs) / np.exp(logs).sum()
        cumulative = np.cumsum(probability)
        index = int(np.searchsorted(cumulative, key.generator().random() * cumulative[-1], side="right"))
        answer = named[min(index, int(np.flatnonzero(probability)[-1]))]
        count = Counter(answers)
        probability_of = dict(zip(named, probability.tolist(), strict=True))
        weights = tuple(0.0 if each is None else probability_of[each] / count[each] for each in answers)
        return Selection(answer, answers.index(answer), weights, {"probability": probability_of[answer]})

    return Selector("sharpened", choose)
