"""A report as plain JSON data: for scripts, and for the page."""

from __future__ import annotations

import math
from typing import Any

from samplewise.measure import Estimate
from samplewise.report.data import Draws, Explored, Method, Report, Sample, Series, View
from samplewise.types import Json


def as_json(report: Report, *, views: bool = False) -> dict[str, Json]:
    """Everything a report says; nan becomes None, an interval stands next to its value as `x`, `x_low`, `x_high`.

    `views` adds every problem with all its samples, which may be large.
    """
    data: dict[str, Json] = {
        "title": report.title,
        "facts": dict(report.facts),
        "notes": list(report.notes),
        "tokens": finite(report.tokens),
        "baseline": report.baseline,
        "methods": [_method(m) for m in report.methods],
        "series": [_series(s) for s in report.series],
        "explored": [explored_json(e) for e in report.explored],
    }
    if views:
        data["views"] = [_view(v) for v in report.views]
    return data


def finite(value: float) -> float | None:
    """JSON has no nan and no infinity: unknown is null."""
    return value if math.isfinite(value) else None


def clean(value: Json) -> Json:
    """Any JSON value with its unknown numbers as None."""
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, dict):
        return {str(k): clean(v) for k, v in value.items()}
    return [clean(v) for v in value] if isinstance(value, list | tuple) else value


def _interval(name: str, e: Estimate | None) -> dict[str, Any]:
    value, low, high = (None,) * 3 if e is None else (finite(e.value), finite(e.low), finite(e.high))
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _method(m: Method) -> dict[str, Json]:
    return {
        "name": m.name,
        "recipe": m.recipe,
        "samples": m.samples,
        "tokens": finite(m.tokens),
        **_interval("accuracy", m.accuracy),
        **_interval("coverage", m.coverage),
        **_interval("difference", m.difference),
        "p_value": finite(m.p_value),
        "seconds": finite(m.seconds),
        "num_problems": m.accuracy.num_problems,
        "num_unscored": m.accuracy.num_unscored,
    }


def _series(s: Series) -> dict[str, Json]:
    points = [
        {
            "samples": p.samples,
            "tokens": finite(p.tokens),
            "value": finite(p.value),
            "value_low": finite(p.low),
            "value_high": finite(p.high),
        }
        for p in s.points
    ]
    return {"name": s.name, "kind": s.kind, "points": points}


def explored_json(e: Explored) -> dict[str, Json]:
    """How groups explored, as plain data."""
    return clean(e._asdict())  # type: ignore[no-any-return]


def _view(v: View) -> dict[str, Json]:
    return {"id": v.id, "prompt": v.prompt, "reference": clean(v.reference), "draws": [_draws(d) for d in v.draws]}


def _draws(d: Draws) -> dict[str, Json]:
    return {"recipe": d.recipe, "chosen": dict(d.chosen), "samples": [_sample(s) for s in d.samples]}


def _sample(s: Sample) -> dict[str, Json]:
    return clean(s._asdict() | {"scores": dict(s.scores)})  # type: ignore[no-any-return]
