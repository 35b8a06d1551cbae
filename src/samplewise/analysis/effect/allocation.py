"""Fit an allocation on a pilot: how many of N draws each arm should get, as a recipe line to paste.

The pilot is a stored, graded run whose arms took turns. Arms are counted by their position in the mix, as `quota`
counts them: where each question draws its own members of a pool, a position stands for the family, not for one text.
Success probabilities are Beta posteriors, and each next draw goes to the arm that lowers the expected failure most
(`samplewise.vary.allocate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samplewise.core.numerics import Floats, Ints
from samplewise.core.spec import Spec
from samplewise.measure import counts_by_arm
from samplewise.recipe import Recipe, recipe
from samplewise.store.database import Store
from samplewise.store.records import Record, Run
from samplewise.vary.allocate import allocate_greedily, expected_failure, fit_betas

ENOUGH = 600  # graded draws an arm: with 320 an allocation gained nothing over taking turns, with 1,600 it did


class ArmAllocation(NamedTuple):
    """A position in the mix. `accuracy` is of a single draw of the pilot."""

    arm: str  # the id, or what the ids at this position have in common
    num_graded: int
    accuracy: float
    draws: int  # that the allocation gives it


class PilotAllocation(NamedTuple):
    """Expected coverage of the pilot's questions at `num_draws`: allocated, and with arms taking turns."""

    recipe: str
    num_draws: int
    arms: tuple[ArmAllocation, ...]
    coverage: float
    in_turn: float
    num_questions: int
    num_left_out: int  # questions with failed draws, whose other draws cannot be assigned to a position

    @property
    def enough(self) -> bool:
        """Whether the pilot is large enough to gain anything over taking turns."""
        return min(arm.num_graded for arm in self.arms) >= ENOUGH


def allocate_draws(store: Store, pilot: Run, num_draws: int) -> PilotAllocation:
    """Allocate `num_draws` a question to the arms of a pilot run. An allocation fits only the number it was made for.

    Raises ValueError for a pilot without arms, with an allocation of its own, without a question that has no failed
    draws, or with grades other than 0 and 1.
    """
    parsed = recipe(pilot.recipe)
    mix = parsed.stages.vary
    if mix is None or not mix.args:
        raise ValueError(f"run {pilot.id} has no arms to share draws among; a pilot's recipe begins with vary(...)")
    if "share" in dict(mix.kwargs):
        raise ValueError(f"run {pilot.id} shares its draws by a rule of its own; in a pilot arms take turns: no share=")
    records = [record for record in store.records(pilot.id) if record.pool.candidates]
    whole = [record for record in records if record.pool.num_failed == 0]
    if not whole:
        raise ValueError(f"run {pilot.id} has no question without failed draws: run the pilot again")
    drawn = _read_draws(whole)
    num_arms = len(drawn.ids)
    if num_arms < 2:
        raise ValueError(f"run {pilot.id} has drawn one arm alone, {drawn.ids[0][0]}: give the pilot more draws")
    counts = counts_by_arm(drawn.grades, drawn.positions, num_arms)
    successes = counts.draws - counts.failures
    posterior = fit_betas(successes, counts.draws).after(successes, counts.draws)
    plan = allocate_greedily(posterior, num_draws)
    in_turn = [num_draws // num_arms + (index < num_draws % num_arms) for index in range(num_arms)]
    graded = counts.draws.sum(axis=0)  # (M,)
    arms = tuple(
        ArmAllocation(
            _common_id(drawn.ids[index]), int(graded[index]), float(successes[:, index].sum() / graded[index]), draws
        )
        for index, draws in enumerate(plan.counts)
    )
    return PilotAllocation(
        recipe=_line(parsed, plan.counts, num_draws),
        num_draws=num_draws,
        arms=arms,
        coverage=1.0 - plan.failure,
        in_turn=1.0 - expected_failure(posterior, in_turn),
        num_questions=len(whole),
        num_left_out=len(records) - len(whole),
    )


class _Drawn(NamedTuple):
    grades: Floats  # (P, N) nan where a question has fewer draws
    positions: Ints  # (P, N) of each draw's arm in the mix
    ids: list[list[str]]  # the arms' ids at each position


def _read_draws(records: Sequence[Record]) -> _Drawn:
    shape = (len(records), max(len(record.grades) for record in records))
    grades, positions = np.full(shape, np.nan), np.zeros(shape, dtype=np.int64)
    ids: list[list[str]] = []
    for row, record in enumerate(records):
        num = len(record.grades)
        grades[row, :num] = record.grades
        mix = list(dict.fromkeys(c.arm for c in record.pool.candidates))  # arms take turns: this is the mix's order
        positions[row, :num] = [mix.index(candidate.arm) for candidate in record.pool.candidates]
        ids += [[] for _ in range(len(mix) - len(ids))]
        for index, arm in enumerate(mix):
            ids[index].append(arm)
    return _Drawn(grades, positions, ids)


def _common_id(ids: list[str]) -> str:
    """Return the id, or the words that different questions' members at one position share: "role/maths/..."."""
    different = sorted(set(ids))
    if len(different) == 1:
        return different[0]
    words = [arm.split("/") for arm in different]
    shared = [parts[0] for parts in zip(*words, strict=False) if len(set(parts)) == 1]
    return "/".join([*shared, "..."])


def _line(pilot: Recipe, draws: tuple[int, ...], num_draws: int) -> str:
    """Return the pilot's recipe with the quota for its share, and `num_draws` draws where the sampler counts them."""
    assert pilot.stages.vary is not None
    mix = pilot.stages.vary._replace(kwargs=(*pilot.stages.vary.kwargs, ("share", Spec("quota", draws))))
    allocated = pilot.with_vary(mix)
    return (allocated.with_draws(num_draws) if allocated.stages.sampler.name == "repeat" else allocated).line
