"""The commands that look ahead: plan (how many draws, with which recipe) and calibrate (P(correct) by score)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from samplewise.core.errors import StoreError, UsageError
from samplewise.recipe import recipe as parse_recipe

from .app import DEFAULT_STORE, AsJson, Seed, StorePath, app, out, print_json, write
from .stored import finished_runs

if TYPE_CHECKING:
    from samplewise.analysis.plan.calibrate import VerifierCalibration
    from samplewise.analysis.plan.make import RunPlan
    from samplewise.analysis.plan.options import Option
    from samplewise.measure import Estimate
    from samplewise.measure.reliability import Reliability

RunId = Annotated[str | None, typer.Option("--run", help="The stored run to read; default: the last finished one")]


@app.command()
def plan(
    run: RunId = None,
    accuracy: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Reach this accuracy")] = None,
    budget_tokens: Annotated[
        float | None, typer.Option(min=1.0, help="Spend at most this many tokens a question")
    ] = None,
    usd: Annotated[float | None, typer.Option(min=0.0, help="Spend at most this many USD a question")] = None,
    price: Annotated[
        float | None, typer.Option(min=0.0, help="USD per million tokens, where the run has no price")
    ] = None,
    selector: Annotated[
        list[str] | None, typer.Option("--selector", "-s", help="A selector to try: vote; give several")
    ] = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="A stop rule to try: 'asc(0.99)'; give several")
    ] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Forecast the cost of this many questions")] = None,
    orders: Annotated[
        int, typer.Option(min=20, help="Random orders of each question's draws, in which stop rules are replayed")
    ] = 100,
    html: Annotated[Path | None, typer.Option("--html", "-o", help="Write the curves as an HTML page")] = None,
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Plan from a stored pilot: how many draws, with which recipe, for this accuracy or this money. Draws nothing."""
    from samplewise.analysis.plan.make import PlanSettings, forecast_cost, plan_run
    from samplewise.analysis.plan.options import Goal
    from samplewise.store.database import Store

    if sum(x is not None for x in (accuracy, budget_tokens, usd)) > 1:
        raise UsageError("give one of --accuracy, --budget-tokens and --usd")
    with Store(store, must_exist=True) as kept:
        chosen = _run(kept, run)
        settings = PlanSettings(selector or (), rule or (), orders, None if price is None else price / 1e6, seed)
        planned = plan_run(kept, chosen, Goal(accuracy, budget_tokens, usd), settings)
    _print_options(planned)
    if planned.helper_tokens:
        out.print(
            f"helpers: {planned.helper_tokens:,.0f} tokens a question before its first draw, in every figure above"
        )
    for note in planned.notes:
        out.print(f"note: {note}", style="dim", highlight=False)
    out.print(f"answer: {planned.answer}", highlight=False, soft_wrap=True)
    costs = None
    if planned.best is not None:
        if not math.isnan(planned.held_out):
            out.print(
                f"held out: options chosen on half of the questions reach {planned.held_out:.3f} on the other half",
                highlight=False,
            )
        costs = forecast_cost(planned, planned.best, questions or planned.num_questions)
        out.print(f"cost: {_cost(planned, costs)}", highlight=False)
        out.print(f"recipe: {planned.best.recipe}", highlight=False, soft_wrap=True)
    if html is not None:
        from samplewise.report.html import render_html
        from samplewise.report.plan_page import plan_report

        write(html, render_html(plan_report(planned, chosen)))
    if as_json:
        print_json(
            run=planned.run,
            questions=planned.num_questions,
            draws=planned.num_draws,
            tokens_per_draw=planned.tokens_per_draw,
            helper_tokens=planned.helper_tokens,
            usd_per_token=planned.usd_per_token,
            ceiling=_ends(planned.ceiling),
            options=[_plain(option) for option in planned.options],
            best=None if planned.best is None else _plain(planned.best),
            recipe=None if planned.best is None else planned.best.recipe,
            held_out=planned.held_out,
            forecast=None if costs is None else costs._asdict(),
            answer=planned.answer,
            notes=list(planned.notes),
        )


@app.command()
def calibrate(
    verifier: Annotated[str, typer.Option("--verifier", "-v", help="Whose scores: reward, likelihood ...")],
    run: RunId = None,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="P(correct) at which to stop")] = 0.9,
    risk: Annotated[
        float | None, typer.Option(min=0.001, max=0.5, help="Find a target whose answers are wrong at most this often")
    ] = None,
    error: Annotated[float, typer.Option(min=0.001, max=0.5, help="... except with this probability")] = 0.05,
    method: Annotated[str | None, typer.Option(help="isotonic, beta or platt; default: by the number of draws")] = None,
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Calibrate a verifier on a stored run: P(correct) by score, on held-out questions. Draws nothing."""
    from samplewise.analysis.plan.calibrate import CalibrationGoal, calibrate_run
    from samplewise.measure.calibration import METHODS
    from samplewise.store.database import Store

    if method is not None and method not in METHODS:
        raise UsageError(f"--method is one of {', '.join(METHODS)}, got {method!r}")
    with Store(store, must_exist=True) as kept:
        chosen = _run(kept, run)
        try:
            calibrated = calibrate_run(kept, chosen, verifier, CalibrationGoal(level, risk, error, method), seed=seed)
        except ValueError as problem:
            raise UsageError(str(problem)) from None
    _print_calibrated(calibrated)
    if as_json:
        print_json(
            run=chosen.id,
            verifier=calibrated.verifier,
            calibration=calibrated.calibration.to_json(),
            held_out=_reliability(calibrated.held_out),
            raw=None if calibrated.raw is None else _reliability(calibrated.raw),
            targets=[target._asdict() for target in calibrated.targets],
            level=calibrated.level,
            target=calibrated.target,
            stopped=_ends(calibrated.stops.stopped),
            right=_ends(calibrated.stops.right),
            predicted=calibrated.stops.predicted,
            stop_draws=calibrated.stops.draws,
            risk=None if calibrated.risk is None else calibrated.risk._asdict(),
            split=calibrated.split,
            recipe=calibrated.recipe or None,
        )


def _run(store: Any, name: str | None) -> Any:
    if name is not None:
        return finished_runs(store, name)[0]
    runs = [run for run in finished_runs(store) if parse_recipe(run.recipe).stop is None]
    if not runs:
        raise StoreError(f"{store.path} holds no finished run without a stop rule; draw one, or name it")
    return runs[-1]


def _print_options(plan: RunPlan) -> None:
    table = Table("recipe", "draws", "tokens", "90 % of questions", "accuracy", "over fixed at equal tokens", box=None)
    for option in plan.options:
        fixed = option.kind == "fixed"
        if fixed and option is not plan.best and option.cap & (option.cap - 1) and option.cap != plan.num_draws:
            continue  # powers of two and the whole pilot; the page and the JSON have all
        low, high = option.range_tokens
        table.add_row(
            option.recipe + (" *" if option is plan.best else ""),
            f"{option.draws:.1f}" if not fixed else str(option.cap),
            _tokens(option),
            f"{low:,.0f} to {high:,.0f}",
            _text(option.accuracy),
            "" if fixed else _text(option.over_fixed, signed=True) if option.kind == "rule" else "beyond the pilot",
        )
    out.print(table)


def _tokens(option: Option) -> str:
    """Return the mean tokens of a question; of a rule, a mean over orders, also those of the pilot's own order."""
    words = f"{option.tokens:,.0f}"
    if option.kind == "rule" and not math.isnan(option.billed):
        words += f" ({option.billed:,.0f} in the order drawn)"
    return words


def _cost(plan: RunPlan, costs: Any) -> str:
    words = (
        f"{costs.tokens:,.0f} tokens for {costs.questions:,} questions (90 %: {costs.low:,.0f} to {costs.high:,.0f})"
    )
    if plan.usd_per_token > 0:
        usd, low, high = (x * plan.usd_per_token for x in (costs.tokens, costs.low, costs.high))
        words += f", {usd:,.4g} USD ({low:,.4g} to {high:,.4g})"
    return words


def _print_calibrated(calibrated: VerifierCalibration) -> None:
    fit, held = calibrated.calibration, calibrated.held_out
    table = Table("P(correct) by the score", "share of draws", "right", box=None)
    for bin_ in held.bins:
        table.add_row(f"{bin_.probability:.3f}", f"{bin_.share:.2f}", _text(bin_.right))
    out.print(table)
    losses = f"log loss {held.log_loss.value:.3f}, Brier {held.brier.value:.3f}, calibration error {held.error:.3f}"
    raw = "" if calibrated.raw is None else f" (scores as they are: Brier {calibrated.raw.brier.value:.3f})"
    lines = [
        f"{fit.method} on {fit.num_draws:,} draws of {fit.num_questions} questions, split {calibrated.split}: "
        f"{losses}{raw}",
        "P(correct) reaches "
        + ", ".join(f"{t.probability:g} at {t.score:.4g}" for t in calibrated.targets if math.isfinite(t.score)),
        f"stopping where it reaches {calibrated.level:g}: {_text(calibrated.stops.stopped)} of the questions have "
        f"such an answer, of which {_text(calibrated.stops.right)} are right ("
        f"{calibrated.stops.predicted:.3f} predicted), "
        f"after {calibrated.stops.draws:.1f} draws on average",
    ]
    if calibrated.risk is not None:
        threshold = calibrated.risk.threshold
        verdict = "abstain" if math.isnan(threshold) else f"target {threshold:.4g}"
        lines.append(f"risk: {verdict}: {calibrated.risk.reason}")
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True)
    if calibrated.recipe:
        out.print(f"recipe: {calibrated.recipe}", highlight=False, soft_wrap=True)
    else:
        out.print(
            f"no score reaches P(correct) {calibrated.level:g}: there is no target to stop at; try a lower --level",
            highlight=False,
        )


def _text(estimate: Estimate, *, signed: bool = False) -> str:
    if math.isnan(estimate.value):
        return "unknown"
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.3f} [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"


def _ends(estimate: Estimate) -> list[float]:
    return [estimate.value, estimate.low, estimate.high]


def _plain(option: Option) -> dict[str, Any]:
    fields = option._asdict()
    del fields["values"], fields["costs"]
    return fields | {
        "accuracy": _ends(option.accuracy),
        "over_fixed": _ends(option.over_fixed),
        "reasons": dict(option.reasons),
    }


def _reliability(reliability: Reliability) -> dict[str, Any]:
    bins = [{"share": b.share, "probability": b.probability, "right": _ends(b.right)} for b in reliability.bins]
    return {
        "log_loss": _ends(reliability.log_loss),
        "brier": _ends(reliability.brier),
        "error": reliability.error,
        "bins": bins,
    }
