"""The command that measures arms: a stored run with arms against one without, or an allocation fitted on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.table import Table

from samplewise.core.errors import StoreError, UsageError
from samplewise.core.text import printable
from samplewise.recipe import recipe as parse_recipe

from .app import DEFAULT_STORE, AsJson, Seed, StorePath, app, out, print_json
from .stored import finished_runs

if TYPE_CHECKING:
    from samplewise.analysis.effect import Effect
    from samplewise.measure import Estimate


@app.command()
def effect(
    mix: Annotated[str | None, typer.Option(help="The run with arms; default: the last one that has some")] = None,
    direct: Annotated[str | None, typer.Option(help="The run without arms; default: the last one")] = None,
    ladder: Annotated[str | None, typer.Option(help="A run of the temperature ladder, beside it")] = None,
    draws: Annotated[int | None, typer.Option(min=2, help="Compare this many draws of the mix; default: all")] = None,
    smallest_gain: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="The smallest gain in coverage that is of interest")
    ] = 0.05,
    plan: Annotated[
        int | None, typer.Option(min=1, help="Allocate this many draws to the arms of the run, a pilot, instead")
    ] = None,
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure what arms changed in a stored run against a direct one, and advise whether to use them. Draws nothing.

    With --plan N, allocate N draws to the arms instead, as a recipe to paste.
    """
    from samplewise.analysis.effect import EffectRuns, measure_effect
    from samplewise.store.database import Store

    with Store(store, must_exist=True) as kept:
        stored = finished_runs(kept)
        chosen = _pick(stored, mix, lambda recipe: recipe.stages.vary is not None, "with arms")
        if plan is not None:
            return _plan(kept, chosen, plan, as_json)
        base = _pick(stored, direct, lambda recipe: recipe.stages.vary is None, "without arms")
        rungs = None if ladder is None else _pick(stored, ladder, lambda recipe: True, "")
        runs = EffectRuns(base, chosen, rungs)
        try:
            report = measure_effect(kept, runs, draws=draws, smallest_gain=smallest_gain, seed=seed)
        except ValueError as error:
            raise UsageError(str(error)) from None
    _print_effect(report)
    if as_json:
        print_json(
            direct=base.id,
            mix=chosen.id,
            draws=report.num_draws,
            direct_draws=report.direct_draws,
            mix_tokens=report.mix_tokens,
            direct_tokens=report.direct_tokens,
            recipes=list(report.recipes),
            allocation=report.findings.allocation,
            arms=[{"arm": row.arm, "draws": row.num_draws, "accuracy": row.accuracy.value} for row in report.arms],
            gains={
                gain.name: [gain.estimate.value, gain.estimate.low, gain.estimate.high] if gain.known else None
                for gain in _gains(report)
            },
            transitions=report.transitions._asdict(),
            leaks=[arm._asdict() for arm in report.leaks],
            verdict=report.verdict.word.value,
            reason=report.verdict.reason,
            compared_at=report.verdict.compared_at,
        )
    return None


class _Gain(NamedTuple):
    name: str  # in JSON: what it is over, and what it was compared at
    words: str
    estimate: Estimate

    @property
    def known(self) -> bool:
        return bool(self.estimate.num_problems)


def _gains(report: Effect) -> list[_Gain]:
    """Return the figures of an effect, each with what it was compared at."""
    findings = report.findings
    over_ladder = findings.over_ladder
    draws, direct_draws = report.num_draws, report.direct_draws
    return [
        _Gain("direct_coverage", f"coverage of direct with {draws} draws", findings.direct),
        _Gain("at_equal_draws", f"gain over direct at equal draws ({draws} each)", findings.at_equal_draws.gain),
        _Gain(
            "at_equal_tokens",
            f"gain over direct at equal tokens ({draws} draws of the mix for {report.mix_tokens:,.0f} tokens, "
            f"{direct_draws} direct ones for {report.direct_tokens:,.0f})",
            findings.at_equal_tokens.gain,
        ),
        _Gain(
            f"over_ladder_at_equal_{over_ladder.compared_at}",
            f"gain over the temperature ladder at equal {over_ladder.compared_at}",
            over_ladder.gain,
        ),
        _Gain(
            "selected",
            "gain in accuracy of the chosen answer, each run with all its draws (not at equal tokens)",
            findings.selected,
        ),
    ]


def _print_effect(report: Effect) -> None:
    table = Table("arm", "draws", "accuracy of one", box=None)
    for row in report.arms:
        table.add_row(row.arm, str(row.num_draws), _text(row.accuracy))
    out.print(table)
    moved, findings = report.transitions, report.findings
    lines = [f"allocation: {findings.allocation}"]
    lines += [
        f"{gain.words}: {_text(gain.estimate, signed=gain.name != 'direct_coverage')}"
        for gain in _gains(report)
        if gain.known
    ]
    lines += [
        f"newly solved {moved.newly_solved}, newly lost {moved.newly_lost}, both {moved.both}, neither {moved.neither} "
        f"(McNemar p = {moved.p_value:.3f})",
        f"arms against shuffled arms: p = {findings.dispersion_p:.3f} for failures, "
        f"{findings.divergence_p:.3f} for answers",
    ]
    if report.leaks:
        ideas, leaks, draws = (sum(column) for column in list(zip(*report.leaks, strict=True))[1:])
        lines.append(
            f"ideas that hold the answer of their own draws: {leaks} of {ideas}, with {draws} draws; the draws of such "
            "an idea count as one"
        )
    lines.append(f"verdict: {report.verdict.word}: {report.verdict.reason}")
    lines.append(f"compared at: {report.verdict.compared_at}")
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True)


def _plan(store: Any, pilot: Any, num_draws: int, as_json: bool) -> None:
    from samplewise.analysis.effect import allocate_draws
    from samplewise.analysis.effect.allocation import ENOUGH

    try:
        allocated = allocate_draws(store, pilot, num_draws)
    except ValueError as error:
        raise UsageError(str(error)) from None
    table = Table("arm", "graded draws", "accuracy of one", f"of {num_draws} draws", box=None)
    for arm in allocated.arms:
        table.add_row(arm.arm, str(arm.num_graded), f"{arm.accuracy:.3f}", str(arm.draws))
    out.print(table)
    out.print(
        f"expected coverage at {num_draws} draws: {allocated.coverage:.3f} with this allocation, "
        f"{allocated.in_turn:.3f} round-robin, on "
        f"questions like the pilot's {allocated.num_questions}",
        highlight=False,
        soft_wrap=True,
    )
    if allocated.num_left_out:
        out.print(f"left out: {allocated.num_left_out} questions with failed draws", highlight=False, soft_wrap=True)
    if not allocated.enough:
        out.print(
            f"below about {ENOUGH} graded draws an arm an allocation gains nothing over round-robin: draw more first",
            highlight=False,
            soft_wrap=True,
        )
    out.print("run this on other questions than the pilot's, with the same model:", highlight=False, soft_wrap=True)
    print(printable(allocated.recipe), flush=True)  # a wrapped line could not be pasted
    if as_json:
        print_json(
            pilot=pilot.id,
            recipe=allocated.recipe,
            draws=num_draws,
            arms=[arm._asdict() for arm in allocated.arms],
            coverage=allocated.coverage,
            in_turn=allocated.in_turn,
            enough=allocated.enough,
            questions=allocated.num_questions,
            left_out=allocated.num_left_out,
        )


def _pick(runs: list[Any], name: str | None, fits: Any, what: str) -> Any:
    if name is not None:
        named = [run for run in runs if run.id == name]
        if not named:
            raise StoreError(f"the store holds no finished run {name!r}; see: samplewise list run")
        return named[0]
    fitting = [run for run in runs if fits(parse_recipe(run.recipe))]
    if not fitting:
        raise StoreError(f"the store holds no finished run {what}; draw one, or name it")
    return fitting[-1]


def _text(estimate: Estimate, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"
