"""pass@k and maj@k of one stored run: what k of its draws would have done, for k = 1, 2, 4 and so on.

Both are means over all subsets of k of a question's draws, so one run of 64 draws gives every k up to 64; of draws of
several arms, over those that the arms are dealt in turn. They hold
where the draws are independent: not for a run that stopped by a rule, nor for chains and groups that explore.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from samplewise.core.errors import StoreError
from samplewise.core.numerics import Ints
from samplewise.loop.keys import run_key
from samplewise.measure.estimate import Estimate, mean_interval
from samplewise.recipe import recipe
from samplewise.runs.arrays import load_outcomes
from samplewise.runs.redecide import accuracy_at, coverage_at
from samplewise.select.votes import vote
from samplewise.store.database import Store
from samplewise.store.records import Run


class PassRow(NamedTuple):
    """pass@k and maj@k at one k, with intervals over the questions that have k graded draws."""

    k: int
    pass_at: Estimate
    majority_at: Estimate
    num_questions: int


class PassTable(NamedTuple):
    """The rows of a run, and what a reader must know about them, a line each."""

    run: str
    rows: tuple[PassRow, ...]
    notes: tuple[str, ...]


def can_subset(run: Run) -> bool:
    """Return whether k of a run's draws are a run with k draws: no stop rule, and draws that are exchangeable."""
    parsed = recipe(run.recipe)
    return parsed.stop is None and parsed.sampler.exchangeable


def pass_table(store: Store, run: Run) -> PassTable:
    """Return pass@k and maj@k of a stored run at every power of two, and at its largest number of draws.

    A draw whose grade is unknown is left out; one with a grade below 1 is not right. Raises StoreError where the run
    has no graded draw.
    """
    outcomes = load_outcomes(store, run.id)
    grades = outcomes.graded.grades
    right = np.where(np.isnan(grades), np.nan, (grades >= 1.0).astype(np.float64))  # (P, N)
    num_graded: Ints = (~np.isnan(right)).sum(axis=1)
    most = int(num_graded.max(initial=0))
    if most == 0:
        raise StoreError(f"run {run.id} has no graded draw: pass@k needs questions with a reference")
    ks = np.array(sorted({*(2**i for i in range(most.bit_length())), most}))
    key = run_key(run.seed).fold("passk")
    as_right = outcomes._replace(graded=outcomes.graded._replace(grades=right))
    passed, voted = coverage_at(store, as_right, ks, key), accuracy_at(store, as_right, vote(), ks, key)  # (K, P)
    rows = []
    for row, k in enumerate(ks.tolist()):
        enough = num_graded >= k
        estimates = mean_interval(passed[row, enough]), mean_interval(voted[row, enough])
        rows.append(PassRow(k, *estimates, int(enough.sum())))
    return PassTable(run.id, tuple(rows), _notes(run, num_graded))


def _notes(run: Run, num_graded: Ints) -> tuple[str, ...]:
    notes = []
    parsed = recipe(run.recipe)
    if parsed.stop is not None:
        notes.append(
            f"this run stopped by {parsed.stop.name}: how many draws a question has depends on what they were, so the "
            "figures are biased; run the recipe without until(...)"
        )
    if not parsed.sampler.exchangeable:
        notes.append(f"draws of {parsed.sampler.name} depend on one another: k of them are no run with k draws")
    most = int(num_graded.max())
    if fewer := int((num_graded < most).sum()):
        word = "question has" if fewer == 1 else "questions have"
        notes.append(f"{fewer} {word} fewer than {most} graded draws: left out of the rows above their number")
    return tuple(notes)
