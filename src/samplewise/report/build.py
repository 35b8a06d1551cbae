"""Build a report from stored runs: methods at equal tokens, their curves, and the problems with their draws.

A method is a stored run and a selector. Accuracy and coverage with k draws are means over all subsets of k of a run's
draws; their cost is what running the line with k draws costs, prompts, helpers and verifiers included (see
`samplewise.runs.bills`). A run that stops by a rule, or whose draws depend on one another, is a single point: what it
chose, at what it spent. Where the store also holds a run of the same draws without the rule, the point is the mean
over random orders of those; otherwise it says that it is one run's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from samplewise.core.errors import SetupError, StoreError
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import Pool
from samplewise.loop.result import choice_notes, unanswered_note
from samplewise.measure import (
    Curve,
    adjust_holm,
    at_tokens,
    mean_interval,
    mean_intervals,
    paired_difference,
    paired_p_value,
)
from samplewise.recipe import Recipe, parse_choice, recipe, why_unread
from samplewise.report.data import (
    NAN,
    Basis,
    ComparedAt,
    CurvePoint,
    DrawView,
    ExplorationSummary,
    MethodRow,
    PoolView,
    ProblemView,
    Report,
    RunPasses,
    Series,
)
from samplewise.report.explored import explored_questions, summarize_exploration
from samplewise.runs.arrays import Outcomes, has_draws, load_outcomes
from samplewise.runs.bills import CostParts, RunBill, bill_run
from samplewise.runs.orders import replay_pools, stored_pools
from samplewise.runs.passk import can_subset, pass_table
from samplewise.runs.redecide import accuracy_at, at_paid_asks, coverage_at, rescore
from samplewise.runs.replay import QuestionReplay
from samplewise.stop.base import Reason
from samplewise.store.database import Store
from samplewise.store.records import Record, Run


class ReportEntry(NamedTuple):
    """A method to compare: its name, a stored run, and a selector."""

    name: str
    run: Run
    selector: str


ReplaysByRun = Mapping[str, Mapping[str, QuestionReplay]]  # run id -> question id -> its replay


class _Measured(NamedTuple):
    entry: ReportEntry
    parsed: Recipe  # of the entry's run, with the entry's selector
    accuracy: Curve
    coverage: Curve
    bill: RunBill
    num_graded: Mapping[str, int]  # draws by question
    basis: Basis = "subsets"
    run_deviation: float = NAN

    @property
    def whole_cost(self) -> float:
        """Tokens of a run that cannot be had in part; nan where it can."""
        return NAN if self.parsed.splittable else float(self.accuracy.tokens[0])

    @property
    def is_settled(self) -> bool:
        """Whether more draws would change nothing: the first answer is taken, or a rule says when it is enough."""
        return self.parsed.stop is not None or self.parsed.selector.name == "first"

    def ends_before(self, tokens: float) -> bool:
        """Return whether the stored draws end where these tokens would pay for more of them."""
        costs = self.accuracy.tokens
        step = costs[-1] - costs[-2] if len(costs) > 1 else costs[-1]
        return not self.is_settled and bool(costs[-1] + step <= tokens)

    def parts(self, num_draws: int) -> CostParts:
        """Return the mean cost at `num_draws` in parts, of the run as it was where it cannot be had in part."""
        return self.bill.parts(num_draws if self.parsed.splittable else self.bill.most)

    def short(self, num_draws: int) -> tuple[str, ...]:
        """Return the questions with fewer draws, that stand with all they have."""
        if not self.parsed.splittable:
            return ()
        return tuple(question for question, num in self.num_graded.items() if 0 < num < num_draws)

    def draw_line(self, num_draws: int) -> str:
        """Return the part of the line that draws, with `num_draws` draws where it is a `repeat` that can be split."""
        can_split = self.parsed.splittable and self.parsed.stages.sampler.name == "repeat"
        if can_split and (self.accuracy.ks[-1] > 1 or num_draws == 1):
            return self.parsed.with_draws(max(1, num_draws)).draw_line  # 0: the tokens pay for no draw
        return self.parsed.draw_line


def build_report(
    store: Store,
    entries: Sequence[ReportEntry],
    *,
    title: str,
    baseline: str,
    tokens: float | None = None,
    views: bool = True,
) -> Report:
    """Compare `entries` at `tokens` per problem. By default: the most that every method with several draws reached.

    `baseline` names the entry that differences are taken from. No difference is taken across methods whose draws end
    where `tokens` would pay for more. `views` adds every problem with all of its draws.
    Raises ValueError where no entry has that name, or where the runs hold different problems; StoreError where a run
    has no draw.
    """
    if baseline not in [entry.name for entry in entries]:
        raise ValueError(f"baseline must be one of {[entry.name for entry in entries]}, got {baseline!r}")
    for run in _runs(entries):
        if not has_draws(store, run.id):
            raise StoreError(f"run {run.id} ({run.recipe}) has no draw: nothing can be compared; leave it out")
    measured = _measure(store, entries, Key(0).fold("report"))
    replays = {
        run.id: {record.problem.question.id: replay for record, replay in explored_questions(store, run)}
        for run in _runs(entries)
    }
    if tokens is None:
        reach = [m.accuracy.tokens[-1] for m in measured if len(m.accuracy.ks) > 1]
        tokens = float(min(reach, default=max(m.accuracy.tokens[-1] for m in measured)))
    base = next(m for m in measured if m.entry.name == baseline)
    return Report(
        title=title,
        facts={},
        tokens=tokens,
        baseline=baseline,
        methods=_methods(measured, base, tokens),
        series=tuple(series for m in measured for series in _both_series(m)),
        views=_views(store, entries, replays) if views else (),
        explored=_explored(entries, replays),
        passes=_passes(store, entries),
        notes=(*_notes(measured), *_unanswered(store, entries)),
        choices=_choices(store, entries),
    )


def _unanswered(store: Store, entries: Sequence[ReportEntry]) -> tuple[str, ...]:
    """Return a note on each run with draws that ended while reasoning."""
    names = {entry.run.id: entry.name for entry in reversed(entries)}
    notes = {
        run: unanswered_note([candidate for record in store.records(run) for candidate in record.pool.candidates])
        for run in names
        if store.has_unread(run)  # a draw without an answer
    }
    return tuple(f"{names[run]}: {note}" for run, note in reversed(notes.items()) if note)


def _choices(store: Store, entries: Sequence[ReportEntry]) -> tuple[str, ...]:
    """Return a note on each method whose choices rest on nothing: votes where no two draws agree."""
    notes = []
    for entry in entries:
        selector = parse_choice(entry.selector).selector
        if selector.note is not None:
            run = entry.run.id
            pools = (
                [(record.pool, record.answers) for record in store.records(run)]
                if selector.verifiers
                else [(Pool(), outcome.answers) for outcome in store.outcomes(run)]  # answers alone are quick
            )
            notes += [f"{entry.name}: {note}" for note in choice_notes(selector, pools)]
    return tuple(notes)


def _notes(measured: Sequence[_Measured]) -> tuple[str, ...]:
    """Say what of the bills is not known, and which questions have fewer draws than the others."""
    notes = dict.fromkeys(m.bill.note for m in measured if m.bill.note)
    for m in measured:
        most = int(m.accuracy.ks[-1])
        if short := m.short(most):
            some = ", ".join(f"{question} has {m.num_graded[question]}" for question in short[:3])
            some += f" and {len(short) - 3:,} more" if len(short) > 3 else ""
            notes[
                f"{len(short):,} of {len(m.num_graded):,} problems have fewer than the {most} draws of "
                f"{m.parsed.draw_line} ({some}): with more draws than that they stand with all that they have."
            ] = None
    return tuple(notes)


def _measure(store: Store, entries: Sequence[ReportEntry], key: Key) -> list[_Measured]:
    needed: dict[str, dict[str, None]] = {}
    for entry in entries:
        verifiers = parse_choice(entry.selector).verifiers
        if verifiers:
            rescore(store, entry.run.id, verifiers)
        needed.setdefault(entry.run.id, {}).update(dict.fromkeys(verifiers))
    outcomes = {run: load_outcomes(store, run, scores=tuple(names)) for run, names in needed.items()}
    if len({o.questions for o in outcomes.values()}) > 1:
        raise ValueError("the runs hold different problems, or are not finished; only equal problems can be compared")
    bills: dict[tuple[str, ...], RunBill] = {}  # entries that draw alike and look at the same verifiers cost the same
    measured = []
    for entry in entries:
        parsed = recipe(entry.run.recipe).with_selector(entry.selector)
        same = (entry.run.id, *parsed.verifiers)
        if same not in bills:
            bills[same] = bill_run(store, entry.run, parsed)
        measured.append(_measure_entry(store, entry, parsed, outcomes[entry.run.id], bills[same], key))
    return measured


def _measure_entry(
    store: Store, entry: ReportEntry, parsed: Recipe, outcomes: Outcomes, bill: RunBill, key: Key
) -> _Measured:
    if not parsed.splittable:
        over_orders = _measure_over_orders(store, entry, parsed, outcomes, bill, key.fold("orders"))
        return over_orders or _measure_whole(store, entry, parsed, outcomes, bill)
    ks, tokens = _billed(bill, _grid(outcomes, parsed))
    chosen = at_paid_asks(outcomes, bill, ks, lambda sizes: accuracy_at(store, outcomes, parsed.selector, sizes, key))
    covered = at_paid_asks(outcomes, bill, ks, lambda sizes: coverage_at(store, outcomes, sizes, key))
    accuracy, coverage = (Curve(entry.name, ks, tokens, values) for values in (chosen, covered))
    num_graded = dict(zip(outcomes.questions, outcomes.num_graded.tolist(), strict=True))
    return _Measured(entry, parsed, accuracy, coverage, bill, num_graded)


def _billed(bill: RunBill, ks: Ints) -> tuple[Ints, Floats]:
    """Return the sizes whose cost is known, and their mean tokens. A judge of whole pools may cost less with more
    draws, and such sizes, which nobody would ask for, are left out."""
    tokens = bill.along(ks)
    known = np.isfinite(tokens)
    known[known] = tokens[known] >= np.maximum.accumulate(tokens[known])
    return ks[known], tokens[known]


def _measure_whole(store: Store, entry: ReportEntry, parsed: Recipe, outcomes: Outcomes, bill: RunBill) -> _Measured:
    """Measure a run that cannot be split, as one point."""
    chosen = {row.question: row.grade for row in store.selections(entry.run.id) if row.selector == entry.selector}
    accuracy = np.array([[chosen.get(question, math.nan) for question in outcomes.questions]])
    best = np.nan_to_num(outcomes.graded.grades, nan=0.0).max(axis=1, initial=0.0)
    is_unknown = (outcomes.num_graded == 0) & (outcomes.num_draws > 0)  # without a draw there is no answer: wrong
    coverage = np.where(is_unknown, math.nan, best)[None]
    tokens = np.array([float(bill.whole().mean())])
    ks = np.array([max(1, round(float(outcomes.num_draws.mean())))])
    num_graded = dict(zip(outcomes.questions, outcomes.num_graded.tolist(), strict=True))
    return _Measured(
        entry,
        parsed,
        Curve(entry.name, ks, tokens, accuracy),
        Curve(entry.name, ks, tokens, coverage),
        bill,
        num_graded,
        "one run",
    )


def _measure_over_orders(
    store: Store, entry: ReportEntry, parsed: Recipe, outcomes: Outcomes, bill: RunBill, key: Key
) -> _Measured | None:
    """Measure a stop rule as the mean over orders of a stored run with the same draws and no rule, None without one.

    Also None where a budget ended some of the run's questions, as a shared one does: the rule alone says less.
    """
    pilot = _pilot(store, entry.run, parsed)
    ended = {record.stop.reason for record in store.records(entry.run.id)}
    if pilot is None or parsed.stop is None or not ended <= {*get_args(Reason), "finished"}:
        return None
    try:
        rescore(store, pilot.id, parsed.verifiers)
    except SetupError:  # a judge that has not judged the pilot
        return None
    pools = stored_pools(store, pilot.id, bill_run(store, pilot, parsed))
    if [pool.question.id for pool in pools] != list(outcomes.questions):
        return None
    cap = recipe(entry.run.recipe).max_draws or 0
    if min(len(pool.candidates) for pool in pools) < cap:
        return None
    (replays,) = replay_pools([parsed.stop] * len(pools), parsed.selector, pools, key, caps=[cap])
    ks = np.array([max(1, round(float(replays.draws.mean())))])
    tokens = np.array([float(replays.tokens.mean())])
    return _Measured(
        entry,
        parsed,
        Curve(entry.name, ks, tokens, replays.accuracy[None]),
        Curve(entry.name, ks, tokens, replays.coverage[None]),
        bill,
        dict(zip(outcomes.questions, outcomes.num_graded.tolist(), strict=True)),
        "orders",
        replays.run_deviation,
    )


def _pilot(store: Store, run: Run, parsed: Recipe) -> Run | None:
    """Return the stored run with the most of the draws that `parsed` stops, made by the same engine and seed.

    None where the rule wants draws ahead, which are dropped at a stop, where draws depend on one another, and for a
    selector that learns from a whole run.
    """
    is_repeat = parsed.stages.sampler.name == "repeat" and parsed.sampler.exchangeable
    if parsed.ahead or not is_repeat or parsed.selector.fit is not None:
        return None
    wanted = parsed.with_stop(None).with_draws(1).draw_line
    runs: list[tuple[int, Run]] = []
    for other in store.runs():
        if why_unread(other.recipe):
            continue
        plain = recipe(other.recipe)
        num = plain.max_draws if plain.stop is None and plain.stages.sampler.name == "repeat" else None
        is_same = (other.task, other.engine, other.seed) == (run.task, run.engine, run.seed)
        if num and is_same and plain.with_draws(1).draw_line == wanted:
            runs.append((num, other))
    return max(runs, key=lambda pair: pair[0], default=(0, None))[1]


def _grid(outcomes: Outcomes, parsed: Recipe) -> Ints:
    """Return every k up to 64, then steps of 8 %, up to the most graded draws of a problem; 1 for the first answer."""
    if parsed.selector.name == "first":
        return np.array([1])
    last = int(outcomes.num_graded.max(initial=0)) or outcomes.graded.grades.shape[1]
    ks = list(range(1, min(last, 64) + 1))
    while ks[-1] < last:
        ks.append(min(last, round(ks[-1] * 1.08)))
    return np.array(ks, dtype=np.int64)


def _methods(measured: Sequence[_Measured], base: _Measured, tokens: float) -> tuple[MethodRow, ...]:
    base_accuracy = at_tokens(base.accuracy, tokens).per_problem
    base_ends = base.ends_before(tokens)
    rows: list[MethodRow] = []
    for m in measured:
        is_costly, ends = m.whole_cost > tokens, m.ends_before(tokens)
        budget = m.whole_cost if is_costly else tokens  # what cannot be split cannot be had for less
        accuracy, coverage = at_tokens(m.accuracy, budget), at_tokens(m.coverage, budget)
        num_draws = int(accuracy.k)
        is_claimed = not (ends or base_ends)
        compared_at: ComparedAt = "draws end" if not is_claimed else "own cost" if is_costly else "equal tokens"
        # Across methods whose draws end at different costs, a difference would be one of tokens.
        values = accuracy.per_problem if is_claimed else np.full(len(base_accuracy), np.nan)
        is_base = m is base
        rows.append(
            MethodRow(
                name=m.entry.name,
                recipe=f"{m.draw_line(num_draws)} | {m.entry.selector}",
                num_draws=num_draws,
                tokens=accuracy.tokens,
                accuracy=mean_interval(accuracy.per_problem),
                coverage=mean_interval(coverage.per_problem),
                difference=None if is_base else paired_difference(values, base_accuracy),
                p_value=math.nan if is_base else paired_p_value(values, base_accuracy),
                compared_at=compared_at,
                parts=m.parts(num_draws) if num_draws else None,
                least_tokens=float(m.accuracy.tokens[0]),
                ends=ends,
                short=m.short(num_draws),
                basis=m.basis,
                run_deviation=m.run_deviation,
            )
        )
    return adjust_rows(rows)


def adjust_rows(rows: Sequence[MethodRow]) -> tuple[MethodRow, ...]:
    """Return the rows with Holm-adjusted p-values; the baseline's is not one of them."""
    adjusted = iter(adjust_holm([row.p_value for row in rows if row.difference is not None]).tolist())
    return tuple(row if row.difference is None else row._replace(p_value=next(adjusted)) for row in rows)


def _both_series(measured: _Measured) -> tuple[Series, Series]:
    name = measured.entry.name
    return _series(name, "coverage", measured.coverage), _series(name, "accuracy", measured.accuracy)


def _series(name: str, kind: Literal["coverage", "accuracy"], curve: Curve) -> Series:
    keep = sorted({*range(min(len(curve.ks), 8)), *np.geomspace(1, len(curve.ks), 24).round().astype(int) - 1})
    estimates = mean_intervals(curve.per_problem[keep])
    points = tuple(
        CurvePoint(int(curve.ks[i]), float(curve.tokens[i]), e.value, e.low, e.high)
        for i, e in zip(keep, estimates, strict=True)
    )
    return Series(name, kind, points)


def _runs(entries: Sequence[ReportEntry]) -> list[Run]:
    return list({entry.run.id: entry.run for entry in entries}.values())


def _explored(entries: Sequence[ReportEntry], replays: ReplaysByRun) -> tuple[ExplorationSummary, ...]:
    """Summarize how the groups of each run explored, over all of its questions."""
    summaries = []
    for run in _runs(entries):
        trace = [info for replay in replays[run.id].values() for info in replay.trace]
        if trace:
            summaries.append(summarize_exploration(trace, recipe(run.recipe).draw_line))
    return tuple(summary for summary in summaries if summary is not None)


def _passes(store: Store, entries: Sequence[ReportEntry]) -> tuple[RunPasses, ...]:
    """Return pass@k and maj@k of each run with several graded draws, where k of them are a run with k draws."""
    tables = []
    for run in _runs(entries):
        if can_subset(run) and load_outcomes(store, run.id).num_graded.max(initial=0) > 1:
            tables.append(RunPasses(recipe(run.recipe).draw_line, pass_table(store, run)))
    return tuple(tables)


def _views(store: Store, entries: Sequence[ReportEntry], replays: ReplaysByRun) -> tuple[ProblemView, ...]:
    views: dict[str, ProblemView] = {}
    for run in _runs(entries):
        chosen: dict[str, dict[str, int | None]] = {}
        for row in store.selections(run.id):
            chosen.setdefault(row.question, {})[row.selector] = row.position
        draw_line = recipe(run.recipe).draw_line
        for record in store.records(run.id):
            question = record.problem.question
            prompt = "\n".join(message.content for message in question.messages)
            view = views.setdefault(question.id, ProblemView(question.id, prompt, record.problem.reference, ()))
            draws = _draw_views(record, replays[run.id].get(question.id))
            pool = PoolView(draw_line, draws, chosen.get(question.id, {}))
            views[question.id] = view._replace(pools=(*view.pools, pool))
    return tuple(views.values())


def _draw_views(record: Record, replay: QuestionReplay | None) -> tuple[DrawView, ...]:
    logq = (math.nan,) * len(record.answers) if replay is None else replay.logq(record)
    rows = zip(record.pool.candidates, record.answers, record.grades, logq, strict=True)
    return tuple(
        DrawView(c.text, answer, grade, c.arm, c.num_tokens, c.logp_sum, c.finish, c.scores, log_q)
        for c, answer, grade, log_q in rows
    )
