"""Fits a selector to a whole run, so that no answer is chosen by what was learned from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from samplewise.core.keys import Key
from samplewise.select.base import Round, Selector

NUM_FOLDS = 5  # of a run's questions, for a selector that learns from labels


def fitted(selector: Selector, rounds: Sequence[Round], key: Key) -> tuple[Selector, ...]:
    """Return the selector for each of the rounds: itself, or fitted on all of them.

    One that learns from labels is fitted `NUM_FOLDS` times, each time without the rounds that it then chooses for.
    `key` assigns the folds.
    """
    if selector.fit is None:
        return (selector,) * len(rounds)
    if not selector.needs_labels:
        return (selector.fit([one_round._replace(grades=None) for one_round in rounds]),) * len(rounds)
    fold_of_round = np.empty(len(rounds), dtype=np.int64)
    fold_of_round[key.generator().permutation(len(rounds))] = np.arange(len(rounds)) % NUM_FOLDS
    folds = fold_of_round.tolist()
    selectors = [
        selector.fit([one_round for one_round, fold in zip(rounds, folds, strict=True) if fold != left_out])
        for left_out in range(NUM_FOLDS)
    ]
    return tuple(selectors[fold] for fold in folds)
