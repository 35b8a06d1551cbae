"""The command that says whether to vary, and how: a stored run with arms against one without, or a plan out of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from samplewise.errors import StoreError, UsageError

from .app import DEFAULT_STORE, AsJson, Seed, StorePath, app, out, print_json
from .stored import ended


@app.command()
def effect(
    mix: Annotated[str | None, typer.Option(help="The run with arms; default: the last one that has some")] = None,
    direct: Annotated[str | None, typer.Option(help="The run without arms; default: the last one")] = None,
    ladder: Annotated[str | None, typer.Option(help="A run of the temperature ladder, beside it")] = None,
    draws: Annotated[int | None, typer.Option(min=2, help="Compare so many draws of the mix; default: all")] = None,
    smallest_gain: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="The smallest gain in coverage that is of interest")
    ] = 0.05,
    plan: Annotated[
        int | None, typer.Option(min=1, help="Plan so many draws over the arms of the run, a pilot, instead")
    ] = None,
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say what arms did in a stored run, against a direct one, and whether to use them. Draws nothing.

    With --plan N it says how N draws should be shared among them, as a recipe to paste.
    """
    from samplewise.effect import measure_effect
    from samplewise.store import Store

    with Store(store, must_exist=True) as kept:
        runs = ended(kept)
        chosen = _pick(runs, mix, lambda recipe: recipe.startswith("vary("), "with arms")
        if plan is not None:
            return _plan(kept, chosen, plan, as_json)
        base = _pick(runs, direct, lambda recipe: not recipe.startswith("vary("), "without arms")
        rungs = None if ladder is None else _pick(runs, ladder, lambda recipe: True, "")
        try:
            found = measure_effect(kept, base, chosen, rungs, draws=draws, smallest_gain=smallest_gain, seed=seed)
        except ValueError as error:
            raise UsageError(str(error)) from None
    table = Table("arm", "draws", "accuracy of one", box=None)
    for row in found.arms:
        table.add_row(row.arm, str(row.num_draws), f"{row.accuracy.value:.3f} {_ends(row.accuracy)}")
    out.print(table)
    moved, gains = found.transitions, found.findings
    lines = {
        "coverage of direct": gains.direct,
        f"over direct at {found.num_draws} draws each": gains.at_equal_draws,
        f"over direct at equal tokens ({found.direct_draws} direct draws)": gains.at_equal_tokens,
        "over the ladder at equal draws": gains.over_ladder,
        "of the chosen answer": gains.selected,
    }
    for name, estimate in lines.items():
        if estimate.num_problems:
            out.print(f"{name}: {estimate.value:+.3f} {_ends(estimate)}", highlight=False)
    out.print(
        f"newly solved {moved.newly_solved}, newly lost {moved.newly_lost}, both {moved.both}, neither {moved.neither} "
        f"(McNemar p = {moved.p_value:.3f}); arms against shuffled arms: p = {gains.dispersion_p:.3f} for failures, "
        f"{gains.divergence_p:.3f} for answers",
        highlight=False,
    )
    if found.leaks:
        ideas, leaks, draws = (sum(column) for column in list(zip(*found.leaks, strict=True))[1:])
        out.print(
            f"ideas that hold the answer of their own draws: {leaks} of {ideas}, with {draws} draws; the draws of such "
            "an idea count as one",
            highlight=False,
        )
    out.print(f"verdict: {found.verdict.word}: {found.verdict.reason}", highlight=False)
    if as_json:
        print_json(
            direct=base.id,
            mix=chosen.id,
            draws=found.num_draws,
            direct_draws=found.direct_draws,
            arms=[{"arm": row.arm, "draws": row.num_draws, "accuracy": row.accuracy.value} for row in found.arms],
            gains={name: None if not e.num_problems else [e.value, e.low, e.high] for name, e in lines.items()},
            transitions=moved._asdict(),
            leaks=[arm._asdict() for arm in found.leaks],
            verdict=found.verdict.word.value,
            reason=found.verdict.reason,
        )


def _plan(store: Any, pilot: Any, num_draws: int, as_json: bool) -> None:
    from samplewise.effect import plan_draws
    from samplewise.effect.planned import ENOUGH

    try:
        planned = plan_draws(store, pilot, num_draws)
    except ValueError as error:
        raise UsageError(str(error)) from None
    table = Table("arm", "graded draws", "accuracy of one", f"of {num_draws} draws", box=None)
    for arm in planned.arms:
        table.add_row(arm.arm, str(arm.num_graded), f"{arm.accuracy:.3f}", str(arm.draws))
    out.print(table)
    out.print(
        f"expected coverage at {num_draws} draws: {planned.coverage:.3f} as planned, {planned.in_turn:.3f} in turn, on "
        f"questions like the pilot's {planned.num_questions}",
        highlight=False,
    )
    if planned.num_left_out:
        out.print(f"left out: {planned.num_left_out} questions with failed draws", highlight=False)
    if not planned.enough:
        out.print(f"below about {ENOUGH} graded draws an arm a plan gains nothing over taking turns", highlight=False)
    out.print("use it for other questions than the pilot's, with this model and this number of draws:", highlight=False)
    print(planned.recipe, flush=True)  # as it is: a wrapped line cannot be pasted
    if as_json:
        print_json(
            pilot=pilot.id,
            recipe=planned.recipe,
            draws=num_draws,
            arms=[arm._asdict() for arm in planned.arms],
            coverage=planned.coverage,
            in_turn=planned.in_turn,
            enough=planned.enough,
            questions=planned.num_questions,
            left_out=planned.num_left_out,
        )


def _pick(runs: list[Any], name: str | None, fits: Any, what: str) -> Any:
    if name is not None:
        found = [run for run in runs if run.id == name]
        if not found:
            raise StoreError(f"the store holds no finished run {name!r}; see: samplewise list run")
        return found[0]
    fitting = [run for run in runs if fits(run.recipe)]
    if not fitting:
        raise StoreError(f"the store holds no finished run {what}; draw one, or name it")
    return fitting[-1]


def _ends(estimate: Any) -> str:
    return f"[{estimate.low:+.3f}, {estimate.high:+.3f}]"
