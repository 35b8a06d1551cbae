"""Show a plan as a report: one curve of fixed numbers of draws a selector, stop rules as points, then extrapolation."""

from __future__ import annotations

import math

import numpy as np

from samplewise.analysis.plan.make import RunPlan
from samplewise.analysis.plan.options import Option
from samplewise.measure import Estimate, paired_difference, paired_p_value
from samplewise.recipe import recipe
from samplewise.report.build import adjust_rows
from samplewise.report.data import CurvePoint, MethodRow, Report, Series
from samplewise.store.records import Run


def plan_report(plan: RunPlan, run: Run) -> Report:
    """Return the report of a plan. Its methods are the options, each at its own cost.

    Differences are from the largest fixed number of draws with the first selector. Options beyond the pilot are curves
    only: they have no per-question accuracy to compare.
    """
    fixed = [option for option in plan.options if option.kind == "fixed"]
    largest = {option.selector: option for option in sorted(fixed, key=lambda option: option.cap)}
    base = largest[fixed[0].selector]
    shown = [
        option
        for option in plan.options
        if option.kind == "rule"
        or option is largest[option.selector]
        or (option.kind == "fixed" and option is plan.best)
    ]
    recommended = () if plan.best is None else (f"recipe: {plan.best.recipe}",)
    return Report(
        title=f"{run.task}: what to run next",
        facts={
            "run": run.id,
            "task": run.task,
            "engine": run.engine_name,
            "pilot": f"{plan.num_draws} draws",
        },
        tokens=math.nan,
        baseline=base.recipe,
        methods=adjust_rows([_method(option, base) for option in shown]),
        series=_series(plan),
        views=(),
        notes=(plan.answer, *recommended, *plan.notes),
    )


def _method(option: Option, base: Option) -> MethodRow:
    is_base = option is base
    return MethodRow(
        name=option.recipe,
        recipe=option.recipe,
        num_draws=round(option.draws),
        tokens=option.tokens,
        accuracy=option.accuracy,
        coverage=Estimate(*(math.nan,) * 4, 0, 0),
        difference=None if is_base else paired_difference(option.values, base.values),
        p_value=math.nan if is_base else paired_p_value(option.values, base.values),
        compared_at="own cost",
    )


def _series(plan: RunPlan) -> tuple[Series, ...]:
    curves: dict[str, list[Option]] = {}
    for option in plan.options:
        beyond = "" if option.kind == "fixed" else " beyond the pilot"
        stops = ", first pass" if recipe(option.recipe).stop is not None else ""
        name = option.recipe if option.kind == "rule" else f"{option.selector}{stops}{beyond}"
        curves.setdefault(name, []).append(option)
    return tuple(
        Series(name, "accuracy", tuple(_point(option) for option in sorted(options, key=lambda option: option.tokens)))
        for name, options in curves.items()
    )


def _point(option: Option) -> CurvePoint:
    accuracy = option.accuracy
    num_draws = max(1, int(np.ceil(option.draws)))
    return CurvePoint(num_draws, option.tokens, accuracy.value, accuracy.low, accuracy.high)
