"""An allocation out of a pilot: how many of N draws each arm should get, as a recipe line that can be pasted.

The pilot is a stored, graded run whose arms took turns. An arm is a place in the mix, as `quota` counts them: where
each question draws its own members of a pool, a place is the family's, not one text's. Chances of success are Beta
posteriors, and each next draw goes to the arm that lowers the expected failure most (`samplewise.vary.allocate`).
"""

from __future__ import annotations

import ast
from typing import NamedTuple

import numpy as np

from samplewise.measure import counts_by_arm
from samplewise.recipe import recipe
from samplewise.spec import Spec, parse_expression, spec_of
from samplewise.store import Run, Store
from samplewise.vary.allocate import expected_failure, fit_betas, greedy

ENOUGH = 600  # graded draws an arm; with 320 a plan gained nothing over taking turns, with 1,600 it did


class PlannedArm(NamedTuple):
    """A place in the mix. `accuracy` is of a single draw of the pilot."""

    arm: str  # the id, or what the ids of this place have in common
    num_graded: int
    accuracy: float
    draws: int  # that the plan gives it


class Planned(NamedTuple):
    """Expected coverage of the pilot's questions at `num_draws`, by the plan and by taking turns."""

    recipe: str
    num_draws: int
    arms: tuple[PlannedArm, ...]
    coverage: float
    in_turn: float
    num_questions: int
    num_left_out: int  # questions with failed draws, whose draws cannot be told apart by their place

    @property
    def enough(self) -> bool:
        """Whether the pilot is large enough for a plan to gain anything over taking turns."""
        return min(arm.num_graded for arm in self.arms) >= ENOUGH


def plan_draws(store: Store, pilot: Run, num_draws: int) -> Planned:
    """A plan for `num_draws` a question over the arms of the run `pilot`. An allocation fits the number that it was
    made for.

    ValueError for a pilot without arms, one whose draws were shared otherwise than in turn, one that has no question
    without failed draws, or grades other than 0 and 1.
    """
    stages = _stages(pilot.recipe)
    if stages[0].name != "vary" or not stages[0].args:
        raise ValueError(f"run {pilot.id} has no arms to share draws among; a pilot's recipe begins with vary(...)")
    if "share" in dict(stages[0].kwargs):
        raise ValueError(f"run {pilot.id} shares its draws by a rule of its own; in a pilot arms take turns: no share=")
    records = [record for record in store.records(pilot.id) if record.pool.candidates]
    whole = [record for record in records if record.pool.num_failed == 0]
    if not whole:
        raise ValueError(f"run {pilot.id} has no question without failed draws: run the pilot again")
    grades = np.full((len(whole), max(len(record.grades) for record in whole)), np.nan)
    places = np.zeros(grades.shape, dtype=np.int64)
    ids: dict[int, list[str]] = {}
    for row, record in enumerate(whole):
        grades[row, : len(record.grades)] = record.grades
        mix = list(dict.fromkeys(candidate.arm for candidate in record.pool.candidates))  # in turn: the mix's own order
        places[row, : len(record.grades)] = [mix.index(candidate.arm) for candidate in record.pool.candidates]
        for place, arm in enumerate(mix):
            ids.setdefault(place, []).append(arm)
    if len(ids) < 2:
        raise ValueError(f"run {pilot.id} has drawn one arm alone, {ids[0][0]}: give the pilot more draws")
    counts = counts_by_arm(grades, places, len(ids))
    won = counts.draws - counts.failures
    posterior = fit_betas(won, counts.draws).after(won, counts.draws)
    plan = greedy(posterior, num_draws)
    turns = [num_draws // len(ids) + (place < num_draws % len(ids)) for place in range(len(ids))]
    arms = tuple(
        PlannedArm(
            _common(ids[place]),
            int(counts.draws[:, place].sum()),
            float(won[:, place].sum() / counts.draws[:, place].sum()),
            draws,
        )
        for place, draws in enumerate(plan.counts)
    )
    return Planned(
        recipe=_line(stages, plan.counts, num_draws),
        num_draws=num_draws,
        arms=arms,
        coverage=1.0 - plan.failure,
        in_turn=1.0 - expected_failure(posterior, turns),
        num_questions=len(whole),
        num_left_out=len(records) - len(whole),
    )


def _common(ids: list[str]) -> str:
    """The id, or the families that different questions' members at one place share: "role/maths/..."."""
    different = sorted(set(ids))
    if len(different) == 1:
        return different[0]
    words = [each.split("/") for each in different]
    same = [parts[0] for parts in zip(*words, strict=False) if len(set(parts)) == 1]
    return "/".join([*same, "..."])


def _line(stages: list[Spec], draws: tuple[int, ...], num_draws: int) -> str:
    """The pilot's recipe with the quota for its share, and the sampler's first number, `num_samples`, for its draws."""
    mix = stages[0]._replace(kwargs=(*stages[0].kwargs, ("share", Spec("quota", draws))))
    sampler = stages[1]
    if sampler.name == "repeat":
        named = tuple((name, num_draws if name == "num_samples" else value) for name, value in sampler.kwargs)
        sampler = sampler._replace(args=(num_draws, *sampler.args[1:]) if sampler.args else (), kwargs=named)
    return recipe(" | ".join(map(str, [mix, sampler, *stages[2:]]))).line


def _stages(line: str) -> list[Spec]:
    node, found = parse_expression(line), []
    while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        found.append(spec_of(node.right, line))
        node = node.left
    return [spec_of(node, line), *reversed(found)]
