"""Stored runs into a report: every method at equal tokens, its curves, and the problems with their samples.

A method is a stored run and a selector. What k of a run's draws are worth is the mean over all subsets of k of them;
what they cost is k times the mean cost of a draw, everything counted. A run that stops by a rule is one point: what it
chose, for what it spent; and so is one whose draws depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samplewise.evaluate import Outcomes, accuracy_at, load, rescore, verifier_tokens
from samplewise.keys import Key
from samplewise.measure import (
    Curve,
    adjust_holm,
    at_tokens,
    best_at,
    mean_interval,
    mean_intervals,
    paired_difference,
    paired_p_value,
    pass_at,
)
from samplewise.numerics import Floats
from samplewise.recipe import Recipe, recipe, selector_of
from samplewise.report.data import Draws, Explored, Method, Point, Report, Sample, Series, View
from samplewise.report.explored import Played, played, summary
from samplewise.store import Run, Store


class Entry(NamedTuple):
    """One method to be compared: its name, a stored run, and how to choose."""

    name: str
    run: Run
    selector: str


class _Measured(NamedTuple):
    entry: Entry
    line: str  # the recipe's draws part, its sampler's number of draws as run
    accuracy: Curve
    coverage: Curve


def build(
    store: Store,
    entries: Sequence[Entry],
    *,
    title: str,
    baseline: str,
    tokens: float | None = None,
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
    views: bool = True,
    seed: int = 0,
) -> Report:
    """Compare `entries` at `tokens` per problem (default: the most that every method with more than one draw reached).

    `baseline` names the entry that differences are taken from. ValueError where there is none, or where runs hold
    different problems.
    """
    if baseline not in [entry.name for entry in entries]:
        raise ValueError(f"baseline must be one of {[entry.name for entry in entries]}, got {baseline!r}")
    measured = _measure(store, entries, Key(seed).fold("report"))
    again = {run.id: {each.question: each for each in played(store, run)} for run in _runs(entries)}
    reach = [m.accuracy.tokens[-1] for m in measured if len(m.accuracy.ks) > 1]
    common = tokens if tokens is not None else float(min(reach, default=max(m.accuracy.tokens[-1] for m in measured)))
    base = next(m for m in measured if m.entry.name == baseline)
    return Report(
        title=title,
        facts=dict(facts or {}),
        tokens=common,
        baseline=baseline,
        methods=_methods(measured, base, common),
        series=tuple(
            _series(m.entry.name, kind, curve)
            for m in measured
            for kind, curve in (("coverage", m.coverage), ("accuracy", m.accuracy))
        ),
        views=_views(store, entries, again) if views else (),
        notes=tuple(notes),
        explored=_explored(entries, again),
    )


def _measure(store: Store, entries: Sequence[Entry], key: Key) -> list[_Measured]:
    needed: dict[str, dict[str, None]] = {}
    for entry in entries:
        verifiers = selector_of(entry.selector)[2]
        if verifiers:
            rescore(store, entry.run.id, verifiers)
        needed.setdefault(entry.run.id, {}).update(dict.fromkeys(verifiers))
    outcomes = {run: load(store, run, scores=tuple(names)) for run, names in needed.items()}
    if len({o.questions for o in outcomes.values()}) > 1:
        raise ValueError("the runs hold different problems, or are not finished; only equal problems can be compared")
    return [_curves(store, entry, outcomes[entry.run.id], key) for entry in entries]


def _curves(store: Store, entry: Entry, outcomes: Outcomes, key: Key) -> _Measured:
    parsed = recipe(entry.run.recipe)
    _, selector, verifiers = selector_of(entry.selector)
    scored = ~np.isnan(outcomes.graded.grades)
    per_draw = float(np.nanmean(outcomes.tokens_per_draw)) if len(outcomes.questions) else math.nan
    per_draw += verifier_tokens(store, entry.run, verifiers)
    if _is_whole(parsed):
        return _one_point(store, entry, outcomes, parsed.draws)
    most = int(scored.sum(axis=1)[scored.any(axis=1)].min(initial=outcomes.graded.grades.shape[1]))
    ks = np.array([1]) if selector.name == "first" else _grid(most)
    tokens = (ks * per_draw).astype(np.float64)
    accuracy = accuracy_at(store, outcomes, selector, ks, key)
    return _Measured(
        entry,
        parsed.draws,
        Curve(entry.name, ks, tokens, accuracy),
        Curve(entry.name, ks, tokens, _coverage(outcomes.graded.grades, ks)),
    )


def _one_point(store: Store, entry: Entry, outcomes: Outcomes, draws: str) -> _Measured:
    chosen = {q: grade for q, selector, _, _, grade in store.selections(entry.run.id) if selector == entry.selector}
    grades = np.array([[chosen.get(q, math.nan) for q in outcomes.questions]])
    ever = np.where(np.isnan(outcomes.graded.grades), -np.inf, outcomes.graded.grades).max(axis=1, initial=0.0)[None]
    tokens = np.array([float(np.nansum(outcomes.tokens_per_draw * outcomes.num_draws) / len(outcomes.questions))])
    ks = np.array([max(1, round(float(outcomes.num_draws.mean())))])
    return _Measured(entry, draws, Curve(entry.name, ks, tokens, grades), Curve(entry.name, ks, tokens, ever))


def _grid(most: int) -> NDArray[np.int64]:
    """Every k up to 64, then steps of 8 %, and the last."""
    ks = list(range(1, min(most, 64) + 1))
    while ks[-1] < most:
        ks.append(min(most, round(ks[-1] * 1.08)))
    return np.array(ks, dtype=np.int64)


def _coverage(grades: Floats, ks: NDArray[np.int64]) -> Floats:
    binary = np.isin(grades[~np.isnan(grades)], (0.0, 1.0)).all()
    return pass_at(grades, ks) if binary else best_at(grades, grades, ks)


def _methods(measured: Sequence[_Measured], base: _Measured, tokens: float) -> tuple[Method, ...]:
    against = at_tokens(base.accuracy, tokens).per_problem
    rows: list[Method] = []
    for m in measured:
        # What is whole cannot be had for less: where it costs more than the others may, its row says so.
        most = max(tokens, float(m.accuracy.tokens[0])) if _is_whole(recipe(m.entry.run.recipe)) else tokens
        accuracy, coverage = at_tokens(m.accuracy, most), at_tokens(m.coverage, most)
        is_base = m is base
        rows.append(
            Method(
                name=m.entry.name,
                recipe=f"{_with_samples(m, int(accuracy.k))} | {m.entry.selector}",
                samples=int(accuracy.k),
                tokens=accuracy.tokens,
                accuracy=mean_interval(accuracy.per_problem),
                coverage=mean_interval(coverage.per_problem),
                difference=None if is_base else paired_difference(accuracy.per_problem, against),
                p_value=math.nan if is_base else paired_p_value(accuracy.per_problem, against),
            )
        )
    others = [i for i, row in enumerate(rows) if row.difference is not None]
    adjusted = adjust_holm([rows[i].p_value for i in others]).tolist()
    for i, p_value in zip(others, adjusted, strict=True):
        rows[i] = rows[i]._replace(p_value=p_value)
    return tuple(rows)


def _is_whole(parsed: Recipe) -> bool:
    """Whether a part of the draws would be no run of this recipe."""
    return parsed.stop is not None or not parsed.sampler.exchangeable


def _with_samples(m: _Measured, samples: int) -> str:
    """The draws part of the line that draws `samples`, where it is a plain `repeat`. What is whole stays as it is."""
    if _is_whole(recipe(m.entry.run.recipe)):
        return m.line
    most = int(m.accuracy.ks[-1])
    return m.line.replace(f"repeat({_drawn(m.line)}", f"repeat({samples}", 1) if most > 1 or samples == 1 else m.line


def _drawn(line: str) -> str:
    _, _, rest = line.partition("repeat(")
    return rest.partition(",")[0].partition(")")[0]


def _series(name: str, kind: str, curve: Curve) -> Series:
    keep = sorted({*range(min(len(curve.ks), 8)), *np.geomspace(1, len(curve.ks), 24).round().astype(int) - 1})
    estimates = mean_intervals(curve.per_problem[keep])
    points = tuple(
        Point(int(curve.ks[i]), float(curve.tokens[i]), e.value, e.low, e.high)
        for i, e in zip(keep, estimates, strict=True)
    )
    return Series(name, kind, points)


def _runs(entries: Sequence[Entry]) -> list[Run]:
    return list({entry.run.id: entry.run for entry in entries}.values())


def _explored(entries: Sequence[Entry], again: Mapping[str, Mapping[str, Played]]) -> tuple[Explored, ...]:
    """How the groups of each run explored, over all of its questions."""
    found = [
        summary([info for each in again[run.id].values() for info in each.trace], recipe(run.recipe).draws)
        for run in _runs(entries)
        if again[run.id]
    ]
    return tuple(each for each in found if each is not None)


def _views(store: Store, entries: Sequence[Entry], again: Mapping[str, Mapping[str, Played]]) -> tuple[View, ...]:
    views: dict[str, View] = {}
    for run in _runs(entries):
        chosen: dict[str, dict[str, int | None]] = {}
        for name, selector, _, position, _ in store.selections(run.id):
            chosen.setdefault(name, {})[selector] = position
        for record in store.records(run.id):
            question = record.problem.question
            one = again[run.id].get(question.id)
            logq = one.logq if one else (math.nan,) * len(record.answers)
            samples = tuple(
                Sample(c.text, answer, grade, c.arm, c.num_tokens, c.logp_sum, c.finish, c.scores, drawn)
                for c, answer, grade, drawn in zip(
                    record.pool.candidates, record.answers, record.grades, logq, strict=True
                )
            )
            prompt = "\n".join(message.content for message in question.messages)
            view = views.setdefault(question.id, View(question.id, prompt, record.problem.reference, ()))
            draws = Draws(recipe(run.recipe).draws, samples, chosen.get(question.id, {}))
            views[question.id] = view._replace(draws=(*view.draws, draws))
    return tuple(views.values())
