"""A plan as a report page: fixed numbers of draws first, stop rules as points beside them, then what lies beyond."""

from __future__ import annotations

import math

import numpy as np

from samplewise.measure import Estimate, paired_difference, paired_p_value
from samplewise.plan.make import Plan
from samplewise.plan.options import Option
from samplewise.report.data import Method, Point, Report, Series
from samplewise.store import Run


def plan_report(plan: Plan, run: Run) -> Report:
    """The page's data: one curve a selector (fixed numbers of draws), one point a rule, and the options as methods.

    Differences are from the largest fixed number of the first selector. Options beyond the pilot are curves only: they
    have no question of their own to be compared by.
    """
    fixed = [o for o in plan.options if o.kind == "fixed"]
    base = max((o for o in fixed if o.selector == fixed[0].selector), key=lambda o: o.cap)
    shown = [
        o for o in plan.options if o.kind == "rule" or (o.kind == "fixed" and (o is plan.best or _is_last(o, fixed)))
    ]
    facts = {
        "run": run.id,
        "task": run.task,
        "engine": str(run.manifest["engine"]["name"]),
        "pilot": f"{plan.num_draws} draws",
    }
    return Report(
        title=f"{run.task}: what to run next",
        facts=facts,
        tokens=math.nan,
        baseline=base.recipe,
        methods=tuple(_method(o, base) for o in shown),
        series=_series(plan),
        views=(),
        notes=(plan.answer, *([f"recipe: {plan.best.recipe}"] if plan.best else []), *plan.notes),
    )


def _is_last(option: Option, fixed: list[Option]) -> bool:
    return option.cap == max(o.cap for o in fixed if o.selector == option.selector)


def _method(option: Option, base: Option) -> Method:
    is_base = option is base
    return Method(
        name=option.recipe,
        recipe=option.recipe,
        samples=round(option.draws),
        tokens=option.tokens,
        accuracy=option.accuracy,
        coverage=Estimate(*(math.nan,) * 4, 0, 0),
        difference=None if is_base else paired_difference(option.values, base.values),
        p_value=math.nan if is_base else paired_p_value(option.values, base.values),
    )


def _series(plan: Plan) -> tuple[Series, ...]:
    curves: dict[str, list[Option]] = {}
    for option in plan.options:
        beyond = "" if option.kind == "fixed" else " beyond the pilot"
        until = " | until" in option.recipe
        name = option.recipe if option.kind == "rule" else f"{option.selector}{', first pass' if until else ''}{beyond}"
        curves.setdefault(name, []).append(option)
    return tuple(
        Series(name, "accuracy", tuple(_point(o) for o in sorted(options, key=lambda o: o.tokens)))
        for name, options in curves.items()
    )


def _point(option: Option) -> Point:
    a = option.accuracy
    return Point(max(1, int(np.ceil(option.draws))), option.tokens, a.value, a.low, a.high)
