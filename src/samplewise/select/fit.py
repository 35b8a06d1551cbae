"""Fitting a selector to a whole run, so that nothing is chosen by what was learned from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from samplewise.keys import Key
from samplewise.select.base import Round, Selector

NUM_FOLDS = 5  # of a run's questions, for a selector that learns from labels


def fitted(selector: Selector, rounds: Sequence[Round], key: Key) -> tuple[Selector, ...]:
    """The selector for each of the rounds: itself, or fitted on all of them. One that learns from labels is fitted
    `NUM_FOLDS` times, each time without the rounds that it then chooses for; `key` deals out the folds."""
    if selector.fit is None:
        return (selector,) * len(rounds)
    if not selector.needs_labels:
        return (selector.fit([each._replace(grades=None) for each in rounds]),) * len(rounds)
    fold = np.empty(len(rounds), dtype=np.int64)
    fold[key.generator().permutation(len(rounds))] = np.arange(len(rounds)) % NUM_FOLDS
    places = fold.tolist()
    made = [
        selector.fit([each for each, place in zip(rounds, places, strict=True) if place != left_out])
        for left_out in range(NUM_FOLDS)
    ]
    return tuple(made[place] for place in places)
