"""Weights of arms, learned from a whole run: without labels by agreement, or with labels of other problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samplewise.core.numerics import Floats
from samplewise.select.arms import ArmTally, by_log, by_share, most_right, only, tally_arms
from samplewise.select.base import Round, Selector, no_vote
from samplewise.select.votes import vote

ROUNDS = 50  # of expectation and maximisation
START = 0.6  # accuracy of every arm, to begin with
CLIP = (0.02, 0.98)
STEPS, STEP, SHARPNESS = 800, 0.1, 25.0  # of exponentiated gradient
ENOUGH_LABELS = 150  # problems; with fewer, weights are learned too badly to be tried


class _Shares(NamedTuple):
    """The answers of all problems by arm. Problems with nothing to read are left out."""

    arms: tuple[str, ...]  # (J,)
    shares: list[Floats]  # R of (J, K of the problem): each answer's share of an arm's readable draws
    sizes: list[Floats]  # R of (J,) readable draws
    tallies: list[ArmTally]


def dawid_skene() -> Selector:
    """Choose by votes weighted by each arm's accuracy, estimated without labels over a run's questions.

    An arm that agrees with the others is right more often (one-coin Dawid-Skene, by expectation and maximisation).
    Draws of one arm are not independent: n of them count as n / (1 + (n - 1) ICC), ICC from how much more often two
    draws of an arm agree than two of different arms. Before it is fitted, and if no arm is better than guessing, it is
    plurality.
    """
    return Selector("dawid_skene", vote().choose, fit=_fit_dawid_skene, note=no_vote)


def _fit_dawid_skene(rounds: Sequence[Round]) -> Selector:
    weights = accuracy_weights(rounds)
    return by_share(weights, "dawid_skene") if any(weights.values()) else vote()


def accuracy_weights(rounds: Sequence[Round]) -> dict[str, float]:
    """Return each arm's weight: effective draws times the log odds of right against wrong, 0 where that is negative."""
    arms, shares, sizes, _ = table = _read(rounds)
    if not shares:
        return {}
    correlation = excess_agreement(table)
    effective = [size / (1 + np.maximum(size - 1, 0) * correlation) for size in sizes]
    distinct = max(2.0, float(np.mean([share.shape[1] for share in shares])))
    accuracy = np.full(len(arms), START)
    for _ in range(ROUNDS):
        weight = log_odds(accuracy, distinct)
        total, drawn = np.zeros(len(arms)), np.zeros(len(arms))
        for share, size in zip(shares, effective, strict=True):
            logits = (size * weight) @ share
            posterior = np.exp(logits - logits.max())
            total += share @ (posterior / posterior.sum())
            drawn += size > 0
        accuracy = np.clip(total / np.maximum(drawn, 1), *CLIP)
    mean = np.mean(effective, axis=0)
    return dict(zip(arms, (log_odds(accuracy, distinct) * mean).tolist(), strict=True))


def log_odds(accuracy: Floats, distinct: float) -> Floats:
    """Return log(accuracy (K - 1) / (1 - accuracy)), at least 0: the weight of evidence of one draw among K answers."""
    return np.maximum(0.0, np.log(accuracy * (distinct - 1) / (1 - accuracy)))


def excess_agreement(table: _Shares) -> float:
    """Return how much more often two draws of an arm agree than two of different arms, as a share of 1."""
    within, between = [], []
    for row, share in zip(table.tallies, table.shares, strict=True):
        drawn = row.totals
        several = row.counts[drawn > 1]
        size = several.sum(axis=1)
        within += ((several * (several - 1)).sum(axis=1) / (size * (size - 1))).tolist()
        present = share[share.sum(axis=1) > 0]  # arms with a readable draw
        across = present @ present.T
        if len(present) > 1:
            between.append((across.sum() - np.trace(across)) / (len(present) * (len(present) - 1)))
    if not within or not between or np.mean(between) >= 1:
        return 0.0
    return float(np.clip((np.mean(within) - np.mean(between)) / (1 - np.mean(between)), 0.0, 1.0))


def learned() -> Selector:
    """Choose by log-pool, direct draws alone or learned weights of arms, whichever is best on other labelled problems.

    Weights need 150 labelled problems. Before it is fitted it is log-pool.
    """
    return Selector("learned", by_log({}).choose, fit=_fit_learned, needs_labels=True, note=no_vote)


def _fit_learned(rounds: Sequence[Round]) -> Selector:
    candidates = [by_log({}), only()]
    if sum(1 for one_round in rounds if one_round.grades is not None) >= ENOUGH_LABELS:
        candidates.append(by_share(label_weights(rounds), "learned"))
    return most_right(rounds, candidates)


def label_weights(rounds: Sequence[Round]) -> dict[str, float]:
    """Return weights on the simplex that make the right answer likely under softmax(25 x weighted share).

    By exponentiated gradient. Problems with no right answer among their draws teach nothing.
    """
    arms, shares, _, tallies = _read(rounds)
    graded = [one_round for one_round in rounds if any(answer is not None for answer in one_round.answers)]
    examples = []
    for (_, answers, grades), share, row in zip(graded, shares, tallies, strict=True):
        grade_of_answer = np.zeros(len(row.answers))
        for answer, grade in zip(answers, grades or (), strict=False):
            if answer is not None and not math.isnan(grade):
                grade_of_answer[row.answers.index(answer)] = grade
        if grade_of_answer.any():
            examples.append((share, grade_of_answer))
    weight = np.full(len(arms), 1 / max(1, len(arms)))
    for _ in range(STEPS if examples else 0):
        slope = np.zeros(len(arms))
        for share, grade_of_answer in examples:
            logits = SHARPNESS * (weight @ share)
            probabilities = np.exp(logits - logits.max())
            probabilities /= probabilities.sum()
            right = probabilities * grade_of_answer / max(1e-300, float(probabilities @ grade_of_answer))
            slope += share @ (right - probabilities)
        weight = weight * np.exp(STEP * slope / len(examples))
        weight /= weight.sum()
    return dict(zip(arms, weight.tolist(), strict=True))


def _read(rounds: Sequence[Round]) -> _Shares:
    """Tally every round on the arms of all of them."""
    tallies = [tally for one_round in rounds if (tally := tally_arms(one_round.pool, one_round.answers)).answers]
    arms = tuple(dict.fromkeys(arm for tally in tallies for arm in tally.arms))
    shares, sizes = [], []
    for tally in tallies:
        share, size = np.zeros((len(arms), len(tally.answers))), np.zeros(len(arms))
        indices = [arms.index(arm) for arm in tally.arms]
        share[indices] = tally.counts / tally.totals[:, None]
        size[indices] = tally.totals
        shares.append(share)
        sizes.append(size)
    return _Shares(arms, shares, sizes, tallies)
