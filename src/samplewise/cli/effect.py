"""The command that says whether to vary: a stored run with arms against one without."""

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
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say what arms did in a stored run, against a direct one, and whether to use them. Draws nothing."""
    from samplewise.effect import measure_effect
    from samplewise.store import Store

    with Store(store, must_exist=True) as kept:
        runs = ended(kept)
        chosen = _pick(runs, mix, lambda recipe: recipe.startswith("vary("), "with arms")
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
            verdict=found.verdict.word.value,
            reason=found.verdict.reason,
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
