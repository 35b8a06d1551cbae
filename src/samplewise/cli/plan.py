"""The commands that look ahead: how many draws, with which recipe; and what a verifier's score is worth."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from samplewise.errors import StoreError, UsageError

from .app import DEFAULT_STORE, AsJson, Seed, StorePath, app, out, print_json, write
from .stored import ended

if TYPE_CHECKING:
    from samplewise.measure import Estimate
    from samplewise.measure.reliability import Reliability
    from samplewise.plan.calibrate import Calibrated
    from samplewise.plan.make import Plan
    from samplewise.plan.options import Option

RunId = Annotated[str | None, typer.Option("--run", help="The stored run to read; default: the last finished one")]


@app.command()
def plan(
    run: RunId = None,
    accuracy: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Reach this accuracy")] = None,
    budget_tokens: Annotated[float | None, typer.Option(min=1.0, help="Spend at most so much a question")] = None,
    usd: Annotated[float | None, typer.Option(min=0.0, help="Spend at most so much money a question")] = None,
    price: Annotated[
        float | None, typer.Option(min=0.0, help="USD per million tokens, where the run has no price")
    ] = None,
    selector: Annotated[list[str] | None, typer.Option("--selector", "-s", help="Choose so; give several")] = None,
    rule: Annotated[list[str] | None, typer.Option("--rule", help="Stop so: 'asc(0.99)'; give several")] = None,
    questions: Annotated[int | None, typer.Option(min=1, help="Forecast the cost of so many questions")] = None,
    orders: Annotated[int, typer.Option(min=20, help="Replay stop rules in so many orders a question")] = 100,
    html: Annotated[Path | None, typer.Option("--html", "-o", help="Write the curves as an HTML page")] = None,
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Plan from a stored pilot: how many draws, with which recipe, for this accuracy or this money. Draws nothing."""
    from samplewise.plan.make import forecast, make_plan
    from samplewise.plan.options import Goal
    from samplewise.store import Store

    if sum(x is not None for x in (accuracy, budget_tokens, usd)) > 1:
        raise UsageError("give one of --accuracy, --budget-tokens and --usd")
    with Store(store, must_exist=True) as kept:
        chosen = _run(kept, run)
        found = make_plan(
            kept,
            chosen,
            Goal(accuracy, budget_tokens, usd),
            selectors=selector or (),
            rules=rule or (),
            num_orders=orders,
            usd_per_token=None if price is None else price / 1e6,
            seed=seed,
        )
    _print_options(found)
    for note in found.notes:
        out.print(f"note: {note}", style="dim", highlight=False)
    out.print(f"answer: {found.answer}", highlight=False, soft_wrap=True)
    costs = None
    if found.best is not None:
        if not math.isnan(found.held_out):
            out.print(
                f"options chosen on half of the questions have {found.held_out:.3f} on the other half", highlight=False
            )
        costs = forecast(found, found.best, questions or found.num_questions)
        out.print(f"cost: {_cost(found, costs)}", highlight=False)
        out.print(f"recipe: {found.best.recipe}", highlight=False, markup=False, soft_wrap=True)
    if html is not None:
        from samplewise.plan.page import plan_report
        from samplewise.report.html import html as page

        write(html, page(plan_report(found, chosen)))
    if as_json:
        print_json(
            run=found.run,
            questions=found.num_questions,
            draws=found.num_draws,
            tokens_per_draw=found.tokens_per_draw,
            usd_per_token=found.usd_per_token,
            ceiling=_ends(found.ceiling),
            options=[_plain(option) for option in found.options],
            best=None if found.best is None else _plain(found.best),
            recipe=None if found.best is None else found.best.recipe,
            held_out=found.held_out,
            forecast=None if costs is None else costs._asdict(),
            answer=found.answer,
            notes=list(found.notes),
        )


@app.command()
def calibrate(
    verifier: Annotated[str, typer.Option("--verifier", "-v", help="Whose scores: reward, likelihood ...")],
    run: RunId = None,
    level: Annotated[float, typer.Option(min=0.01, max=0.999, help="P(correct) at which to stop")] = 0.9,
    risk: Annotated[
        float | None, typer.Option(min=0.001, max=0.5, help="Find a target whose answers are wrong at most so often")
    ] = None,
    error: Annotated[float, typer.Option(min=0.001, max=0.5, help="... but for this chance")] = 0.05,
    method: Annotated[str | None, typer.Option(help="isotonic, beta or platt; default: by the number of draws")] = None,
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say what a verifier's score is worth: P(correct) by score, on questions left out. Draws nothing."""
    from samplewise.measure.calibration import METHODS
    from samplewise.plan.calibrate import calibrate_run
    from samplewise.store import Store

    if method is not None and method not in METHODS:
        raise UsageError(f"--method is one of {', '.join(METHODS)}, got {method!r}")
    with Store(store, must_exist=True) as kept:
        chosen = _run(kept, run)
        try:
            found = calibrate_run(
                kept,
                chosen,
                verifier,
                level=level,
                risk=risk,
                error=error,
                method=method,
                seed=seed,
            )
        except ValueError as problem:
            raise UsageError(str(problem)) from None
    _print_calibrated(found)
    if as_json:
        print_json(
            run=chosen.id,
            verifier=found.verifier,
            calibration=found.calibration.to_json(),
            held_out=_reliability(found.held_out),
            raw=None if found.raw is None else _reliability(found.raw),
            targets=[target._asdict() for target in found.targets],
            level=found.level,
            target=found.target,
            stopped=_ends(found.stops.stopped),
            right=_ends(found.stops.right),
            said=found.stops.said,
            stop_draws=found.stops.draws,
            risk=None if found.risk is None else found.risk._asdict(),
            split=found.split,
            recipe=found.recipe or None,
        )


def _run(store: Any, name: str | None) -> Any:
    if name is not None:
        return ended(store, name)[0]
    runs = [run for run in ended(store) if "until(" not in run.recipe]
    if not runs:
        raise StoreError(f"{store.path} holds no finished run without a stop rule; draw one, or name it")
    return runs[-1]


def _print_options(found: Plan) -> None:
    table = Table("recipe", "draws", "tokens", "90 % of questions", "accuracy", "over fixed", box=None)
    for option in found.options:
        fixed = option.kind == "fixed"
        if fixed and option is not found.best and option.cap & (option.cap - 1) and option.cap != found.num_draws:
            continue  # powers of two and the whole pilot; the page and the JSON have all
        low, high = option.range_tokens
        table.add_row(
            option.recipe + (" *" if option is found.best else ""),
            f"{option.draws:.1f}" if not fixed else str(option.cap),
            f"{option.tokens:,.0f}",
            f"{low:,.0f} to {high:,.0f}",
            _text(option.accuracy),
            "" if fixed else _text(option.over_fixed, signed=True) if option.kind == "rule" else "beyond the pilot",
        )
    out.print(table)


def _cost(found: Plan, costs: Any) -> str:
    words = (
        f"{costs.tokens:,.0f} tokens for {costs.questions:,} questions (90 %: {costs.low:,.0f} to {costs.high:,.0f})"
    )
    if found.usd_per_token > 0:
        usd, low, high = (x * found.usd_per_token for x in (costs.tokens, costs.low, costs.high))
        words += f", {usd:,.4g} USD ({low:,.4g} to {high:,.4g})"
    return words


def _print_calibrated(found: Calibrated) -> None:
    fit, held = found.calibration, found.held_out
    table = Table("chance said", "share of draws", "right", box=None)
    for each in held.bins:
        table.add_row(f"{each.chance:.3f}", f"{each.share:.2f}", _text(each.right))
    out.print(table)
    losses = f"log loss {held.log_loss.value:.3f}, Brier {held.brier.value:.3f}, calibration error {held.error:.3f}"
    raw = "" if found.raw is None else f" (scores as they are: Brier {found.raw.brier.value:.3f})"
    lines = [
        f"{fit.method} on {fit.num_draws:,} draws of {fit.num_questions} questions, split {found.split}: {losses}{raw}",
        "P(correct) reaches "
        + ", ".join(f"{t.chance:g} at {t.score:.4g}" for t in found.targets if math.isfinite(t.score)),
        f"stopping where it reaches {found.level:g}: {_text(found.stops.stopped)} of the questions have such an "
        f"answer, of which {_text(found.stops.right)} are right ({found.stops.said:.3f} said), "
        f"after {found.stops.draws:.1f} draws on average",
    ]
    if found.risk is not None:
        at = found.risk.threshold
        verdict = "abstain" if math.isnan(at) else f"target {at:.4g}"
        lines.append(f"risk: {verdict}: {found.risk.reason}")
    for line in lines:
        out.print(line, highlight=False, soft_wrap=True)
    if found.recipe:
        out.print(f"recipe: {found.recipe}", highlight=False, markup=False, soft_wrap=True)
    else:
        out.print(f"no score means P(correct) {found.level:g}: there is no target to stop at", highlight=False)


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


def _reliability(found: Reliability) -> dict[str, Any]:
    bins = [{"share": b.share, "chance": b.chance, "right": _ends(b.right)} for b in found.bins]
    return {
        "log_loss": _ends(found.log_loss),
        "brier": _ends(found.brier),
        "error": found.error,
        "bins": bins,
    }
