"""Stored pools as arrays: what comparisons, plans and reports compute with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samplewise.core.numerics import Floats, Ints
from samplewise.select.base import Graded
from samplewise.store.database import Store


class Outcomes(NamedTuple):
    """A run's pools as arrays. What its draws cost is in `samplewise.runs.bills`."""

    run: str
    questions: tuple[str, ...]  # (P,)
    graded: Graded
    num_draws: Ints  # (P,)
    tokens: Floats  # (P,) of all that the problem's pool rests on, prompts, helpers and judges included

    @property
    def num_graded(self) -> Ints:
        """Draws (P,) that could be graded."""
        counts: Ints = (~np.isnan(self.graded.grades)).sum(axis=1)
        return counts


def has_draws(store: Store, run: str) -> bool:
    """Return whether any question of a stored run has a draw: without one there is nothing to measure."""
    return any(outcome.grades for outcome in store.outcomes(run))


def load_outcomes(store: Store, run: str, *, scores: Sequence[str] = ()) -> Outcomes:
    """Load the outcomes of a stored run, with the named verifiers' scores where the run kept them."""
    outcomes = list(store.outcomes(run))
    num_draws = np.array([len(outcome.grades) for outcome in outcomes], dtype=np.int64)
    shape = (len(outcomes), int(num_draws.max(initial=0)))
    answers, grades = np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan)
    scores_by_name = {name: np.full(shape, np.nan) for name in scores}
    for row, outcome in enumerate(outcomes):
        num = len(outcome.grades)
        grades[row, :num] = outcome.grades
        codes: dict[str | None, int] = {None: -1}
        answers[row, :num] = [codes.setdefault(answer, len(codes) - 1) for answer in outcome.answers]
        stored = store.scores(run, outcome.question) if scores else {}
        for name in scores:
            scores_by_name[name][row, :num] = stored.get(name, np.nan)
    cost = np.array([outcome.spent.tokens for outcome in outcomes], dtype=np.float64)
    questions = tuple(outcome.question for outcome in outcomes)
    return Outcomes(run, questions, Graded(answers, grades, scores_by_name), num_draws, cost)
