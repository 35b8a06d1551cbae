"""A report as plain JSON data: for scripts, and for the page. Unknown numbers are null."""

from __future__ import annotations

import math

from samplewise.core.types import Json
from samplewise.measure import Estimate
from samplewise.report.data import ExplorationSummary, MethodRow, PoolView, ProblemView, Report, RunPasses, Series


def report_json(report: Report, *, views: bool = False) -> dict[str, Json]:
    """Return all that a report says. An interval stands beside its value as `x`, `x_low`, `x_high`.

    `views` adds every problem with all of its draws, which may be large.
    """
    data: dict[str, Json] = {
        "title": report.title,
        "facts": dict(report.facts),
        "notes": list(report.notes),
        "tokens": finite(report.tokens),
        "baseline": report.baseline,
        "methods": [_method(row) for row in report.methods],
        "series": [_series(series) for series in report.series],
        "explored": [exploration_json(summary) for summary in report.explored],
        "passes": [_passes(passes) for passes in report.passes],
    }
    if views:
        data["views"] = [_view(view) for view in report.views]
    return data


def finite(value: float) -> float | None:
    """Return the number, None for nan and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None


def clean(value: Json) -> Json:
    """Return a JSON value with its unknown numbers as None."""
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, dict):
        return {str(name): clean(item) for name, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list | tuple) else value


def exploration_json(summary: ExplorationSummary) -> dict[str, Json]:
    """Return how groups explored, as plain data; members only where an answer was decoded together."""
    data: dict[str, Json] = clean(summary._asdict())
    if data["members"] is None:
        del data["members"]
    return data


def _interval(name: str, e: Estimate | None) -> dict[str, Json]:
    value, low, high = (None,) * 3 if e is None else (finite(e.value), finite(e.low), finite(e.high))
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _method(row: MethodRow) -> dict[str, Json]:
    return {
        "name": row.name,
        "recipe": row.recipe,
        "draws": row.num_draws,
        "tokens": finite(row.tokens),
        **_interval("accuracy", row.accuracy),
        **_interval("coverage", row.coverage),
        **_interval("difference", row.difference),
        "compared_at": row.compared_at,
        "cost": None if row.parts is None else clean(row.parts._asdict()),
        "draws_end": row.ends,
        "short": list(row.short),
        "p_value": finite(row.p_value),
        "seconds": finite(row.seconds),
        "num_problems": row.accuracy.num_problems,
        "num_unscored": row.accuracy.num_unscored,
    }


def _passes(passes: RunPasses) -> dict[str, Json]:
    rows = [
        {"k": row.k, **_interval("pass", row.pass_at), **_interval("majority", row.majority_at)}
        | {"questions": row.num_questions}
        for row in passes.table.rows
    ]
    return {"run": passes.table.run, "recipe": passes.recipe, "rows": rows, "notes": list(passes.table.notes)}


def _series(series: Series) -> dict[str, Json]:
    points = [
        {
            "draws": point.num_draws,
            "tokens": finite(point.tokens),
            "value": finite(point.value),
            "value_low": finite(point.low),
            "value_high": finite(point.high),
        }
        for point in series.points
    ]
    return {"name": series.name, "kind": series.kind, "points": points}


def _view(view: ProblemView) -> dict[str, Json]:
    pools = [_pool(pool) for pool in view.pools]
    return {"id": view.id, "prompt": view.prompt, "reference": clean(view.reference), "pools": pools}


def _pool(pool: PoolView) -> dict[str, Json]:
    draws = [clean(draw._asdict() | {"scores": dict(draw.scores)}) for draw in pool.draws]
    return {"recipe": pool.recipe, "chosen": dict(pool.chosen), "draws": draws}
