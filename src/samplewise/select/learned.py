"""Weights of arms, learned from a whole run: without labels by agreement, or with labels of other problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samplewise.numerics import Floats
from samplewise.select.arms import Tally, by_log, by_share, most_right, only, tally
from samplewise.select.base import Round, Selector
from samplewise.select.votes import vote

ROUNDS = 50  # of expectation and maximisation
START = 0.6  # accuracy of every arm, to begin with
CLIP = (0.02, 0.98)
STEPS, STEP, SHARPNESS = 800, 0.1, 25.0  # of exponentiated gradient
ENOUGH_LABELS = 150  # problems; with fewer, weights are learned too badly to be tried


class _Shares(NamedTuple):
    """What all problems' arms say. Problems with nothing to read are left out."""

    arms: tuple[str, ...]  # (J,)
    shares: list[Floats]  # R of (J, K of the problem): each answer's share of an arm's readable draws
    sizes: list[Floats]  # R of (J,) readable draws
    tallies: list[Tally]


def dawid_skene() -> Selector:
    """Votes weighted by each arm's accuracy, found without labels over a run's questions.

    An arm that agrees with the others is right more often (one-coin Dawid-Skene, by expectation and maximisation).
    Draws of one arm are not independent witnesses: n of them count as n / (1 + (n - 1) ICC), ICC from how much more
    often two draws of an arm agree than two of different arms. Before it is fitted, and where no arm is better than
    chance, it is plurality.
    """
    return Selector("dawid_skene", vote().choose, fit=_fit_dawid_skene)


def _fit_dawid_skene(rounds: Sequence[Round]) -> Selector:
    weights = accuracy_weights(rounds)
    return by_share(weights, "dawid_skene") if any(weights.values()) else vote()


def accuracy_weights(rounds: Sequence[Round]) -> dict[str, float]:
    """Each arm's weight: effective draws times the log odds of being right against a wrong answer, 0 where that is
    negative."""
    arms, shares, sizes, _ = found = _read(rounds)
    if not shares:
        return {}
    correlation = agreement(found)
    effective = [size / (1 + np.maximum(size - 1, 0) * correlation) for size in sizes]
    distinct = max(2.0, float(np.mean([share.shape[1] for share in shares])))
    accuracy = np.full(len(arms), START)
    for _ in range(ROUNDS):
        weight = odds(accuracy, distinct)
        total, drawn = np.zeros(len(arms)), np.zeros(len(arms))
        for share, size in zip(shares, effective, strict=True):
            logits = (size * weight) @ share
            posterior = np.exp(logits - logits.max())
            total += share @ (posterior / posterior.sum())
            drawn += size > 0
        accuracy = np.clip(total / np.maximum(drawn, 1), *CLIP)
    mean = np.mean(effective, axis=0)
    return dict(zip(arms, (odds(accuracy, distinct) * mean).tolist(), strict=True))


def odds(accuracy: Floats, distinct: float) -> Floats:
    """log(accuracy (K - 1) / (1 - accuracy)), at least 0: the weight of evidence of one draw among K answers."""
    return np.maximum(0.0, np.log(accuracy * (distinct - 1) / (1 - accuracy)))


def agreement(found: _Shares) -> float:
    """How much more often two draws of an arm agree than two of different arms, as a share of what is possible."""
    within, between = [], []
    for row, share in zip(found.tallies, found.shares, strict=True):
        drawn = row.totals
        several = row.counts[drawn > 1]
        size = several.sum(axis=1)
        within += ((several * (several - 1)).sum(axis=1) / (size * (size - 1))).tolist()
        held = share[share.sum(axis=1) > 0]
        across = held @ held.T
        if len(held) > 1:
            between.append((across.sum() - np.trace(across)) / (len(held) * (len(held) - 1)))
    if not within or not between or np.mean(between) >= 1:
        return 0.0
    return float(np.clip((np.mean(within) - np.mean(between)) / (1 - np.mean(between)), 0.0, 1.0))


def learned() -> Selector:
    """Log-pool, direct draws alone, or votes with learned weights of arms: what is best on other, labelled problems.

    Weights need 150 labelled problems. Before it is fitted it is log-pool."""
    return Selector("learned", by_log({}).choose, fit=_fit_learned, needs_labels=True)


def _fit_learned(rounds: Sequence[Round]) -> Selector:
    candidates = [by_log({}), only()]
    if sum(1 for each in rounds if each.grades is not None) >= ENOUGH_LABELS:
        candidates.append(by_share(label_weights(rounds), "learned"))
    return most_right(rounds, candidates)


def label_weights(rounds: Sequence[Round]) -> dict[str, float]:
    """Weights on the simplex that make the right answer likely under softmax(25 x weighted share), by exponentiated
    gradient. Problems with no right answer among their draws teach nothing."""
    arms, shares, _, tallies = _read(rounds)
    graded = [each for each in rounds if any(answer is not None for answer in each.answers)]
    lessons = []
    for (_, answers, grades), share, row in zip(graded, shares, tallies, strict=True):
        worth = np.zeros(len(row.answers))
        for answer, grade in zip(answers, grades or (), strict=False):
            if answer is not None and not math.isnan(grade):
                worth[row.answers.index(answer)] = grade
        if worth.any():
            lessons.append((share, worth))
    weight = np.full(len(arms), 1 / max(1, len(arms)))
    for _ in range(STEPS if lessons else 0):
        slope = np.zeros(len(arms))
        for share, worth in lessons:
            logits = SHARPNESS * (weight @ share)
            law = np.exp(logits - logits.max())
            law /= law.sum()
            right = law * worth / max(1e-300, float(law @ worth))
            slope += share @ (right - law)
        weight = weight * np.exp(STEP * slope / len(lessons))
        weight /= weight.sum()
    return dict(zip(arms, weight.tolist(), strict=True))


def _read(rounds: Sequence[Round]) -> _Shares:
    """Every round's tally on the arms of all of them."""
    tallies = [found for each in rounds if (found := tally(each.pool, each.answers)).answers]
    arms = tuple(dict.fromkeys(arm for found in tallies for arm in found.arms))
    shares, sizes = [], []
    for found in tallies:
        share, size = np.zeros((len(arms), len(found.answers))), np.zeros(len(arms))
        places = [arms.index(arm) for arm in found.arms]
        share[places] = found.counts / found.totals[:, None]
        size[places] = found.totals
        shares.append(share)
        sizes.append(size)
    return _Shares(arms, shares, sizes, tallies)
