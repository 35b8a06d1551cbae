"""Decide again on stored pools with other verifiers, judges and selectors.

Nothing is drawn. Only a judge may ask an engine, and only in `rejudge`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np

from samplewise.core.errors import SetupError
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import BatchVerifier, Generate, Pool, RemoteVerifier, Selection, Usage, Verifier
from samplewise.engines.base import Engine
from samplewise.loop.context import RunContext
from samplewise.loop.dispatch import Dispatcher
from samplewise.loop.drive import check_judge, check_scorable
from samplewise.loop.keys import question_keys, run_key
from samplewise.loop.ledger import Budget, Ledger
from samplewise.loop.scoring import judge_pool
from samplewise.measure.best import best_at
from samplewise.measure.coverage import pass_at
from samplewise.measure.short import at_asks, with_short_problems
from samplewise.recipe import parse_choice, recipe
from samplewise.runs.arrays import Outcomes
from samplewise.runs.bills import RunBill
from samplewise.runs.orders import draw_orders
from samplewise.select.base import Expected, Graded, Round, Selector
from samplewise.select.fit import fitted
from samplewise.store.database import Store
from samplewise.store.records import Record, Run
from samplewise.verify.base import Judge
from samplewise.verify.confidence import ConfidenceVerifier

DECISIONS_AT_ONCE = 500  # kept in one transaction
NUM_RESAMPLES = 64  # subsets per problem and k, for a selector without a formula


def rescore(store: Store, run: str, verifiers: Mapping[str, Verifier | Judge], *, again: bool = False) -> None:
    """Score a stored run's pools with verifiers that it has not used yet. Draws nothing.

    With `again`, what a reward model's server could not score is asked again.

    Raises SetupError for a judge that has not judged this run: it has to ask an engine (see `rejudge`). UsageError for
    one that asks nothing and cannot score any question of the run.
    """
    if not verifiers:  # reading a run's records takes longer than choosing among them
        return
    for name, verify in verifiers.items():
        if isinstance(verify, Judge) and not verify.asks:
            check_scorable(name, verify, (record.problem.question for record in store.records(run)))
    stored_run = next((stored for stored in store.runs() if stored.id == run), None)
    seed = 0 if stored_run is None else stored_run.seed
    own = set() if stored_run is None else set(recipe(stored_run.recipe).verifiers)
    for record in store.records(run):
        question = record.problem.question
        scored = store.scores(run, question.id)
        for name, verify in verifiers.items():
            is_open = again and isinstance(verify, RemoteVerifier)
            if name in scored and not (is_open and _has_gaps(name, scored, record, own)):
                continue
            if isinstance(verify, Judge):
                if verify.asks:
                    raise SetupError(f"{name} has to ask an engine about run {run}: give select an --engine")
                key = question_keys(run_key(seed), question.id).judge(name)
                columns = verify.scores(key, question, record.pool.candidates, record.answers, ())
                for further, scores_of in columns.items():
                    store.save_scores(run, question.id, f"{name}{further}", scores_of)
                continue
            pairs = [(question, candidate) for candidate in record.pool.candidates]
            if isinstance(verify, BatchVerifier):
                scores = iter(verify.score_all([pair for pair in pairs if not pair[1].is_unanswered]))
                values = [math.nan if candidate.is_unanswered else next(scores) for _, candidate in pairs]
            else:
                values = [verify(*pair).value for pair in pairs]
            store.save_scores(run, question.id, name, values)


async def rejudge(store: Store, run: Run, judges: Mapping[str, Judge], engine: Engine, budget: Budget) -> Usage:
    """Let judges that have not judged a stored run score its pools. Return what was spent, at most `budget` in all.

    Where a request has failed, the next call makes it again; the replies that are stored cost nothing then.

    Raises Unsupported where the engine cannot do what a judge needs.
    """
    await engine.open()
    records = list(store.records(run.id))
    for name, judge in judges.items():
        check_judge(name, judge, engine)
        check_scorable(name, judge, (record.problem.question for record in records))
    spent, own = Usage(), set(recipe(run.recipe).verifiers)
    for index, record in enumerate(records):
        question = record.problem.question
        keys = question_keys(run_key(run.seed), question.id)
        context = RunContext(engine, store, budget.share(len(records), index))
        dispatcher = Dispatcher(context, question.id, Ledger(context.budget))
        scored = store.scores(run.id, question.id)
        for name, judge in judges.items():
            if (name in scored and not _has_gaps(name, scored, record, own)) or not record.pool.candidates:
                continue
            candidates, ledger = record.pool.candidates, dispatcher.ledger
            before = ledger.paid if name in scored else ledger.spent
            columns = await judge_pool(judge, keys.judge(name), question, candidates, record.answers, dispatcher)
            for further, values in columns.items():
                store.save_scores(run.id, question.id, f"{name}{further}", values)
            spent = spent.plus((ledger.paid if name in scored else ledger.spent).minus(before))
    members = {name: engine.member(Generate((), engine=name)).identity for name in ("", *sorted(engine.members))}
    if spent.requests:
        store.note(run.id, "judged", [sorted(judges), spent, members])
    return spent


def _has_gaps(name: str, scored: Mapping[str, Sequence[float]], record: Record, own: Set[str]) -> bool:
    """Return whether a verifier that is not the run's own has left answers unscored. Perhaps its requests failed.

    What the run's own verifiers left is the run's: its next start asks again for what failed, and its budget holds.
    """
    pairs = zip(record.pool.candidates, scored[name], strict=True)
    return name not in own and any(math.isnan(score) for candidate, score in pairs if not candidate.is_unanswered)


def _check_scored(store: Store, run: Run, verifiers: Mapping[str, Verifier | Judge]) -> None:
    """Raise SetupError where no draw of the run carries what a verifier scores by: any choice would be arbitrary."""
    for name, verify in verifiers.items():
        if not isinstance(verify, ConfidenceVerifier):
            continue
        questions = [record.problem.question.id for record in store.records(run.id)]
        scores = [score for question in questions for score in store.scores(run.id, question)[name]]
        if scores and all(math.isnan(score) for score in scores):
            option = f": draw with repeat(..., {verify.option})" if verify.option else ""
            raise SetupError(
                f"no draw of run {run.id} has a score by {name}, as they came without {verify.needs}{option}"
            )


def redecide(store: Store, run: Run, selector: str) -> list[float]:
    """Choose again on a stored run's pools with another selector. Keep the decisions; return their grades (P,)."""
    choice = parse_choice(selector)
    rescore(store, run.id, choice.verifiers, again=True)
    _check_scored(store, run, choice.verifiers)
    key = run_key(run.seed)
    grades: list[float] = []
    decisions: list[tuple[str, str, Selection, float]] = []
    for record, fit in zip(store.records(run.id), _fit_selectors(store, run.id, choice.selector, key), strict=True):
        question = record.problem.question.id
        selection = fit.choose(question_keys(key, question).select, record.pool, record.answers)
        grades.append(grade_at(record, selection.position))
        decisions.append((question, choice.text, selection, grades[-1]))
        if len(decisions) == DECISIONS_AT_ONCE:
            store.save_selections(run.id, decisions)
            decisions.clear()
    if decisions:
        store.save_selections(run.id, decisions)
    return grades


def num_tied(run: Run, record: Record, selector: Selector) -> int:
    """Return how many answers of a stored question the selector finds equal, 1 where it has a favorite.

    A selector that learns from a whole run is taken to have one.
    """
    if selector.fit is not None:
        return 1
    key = question_keys(run_key(run.seed), record.problem.question.id).select
    return int(selector.choose(key, record.pool, record.answers).info.get("tied", 1))


def accuracy_at(store: Store, outcomes: Outcomes, selector: Selector, ks: Ints, key: Key) -> Floats:
    """Return the expected grade (K, P) of what `selector` chooses among k of a problem's draws, for each k of `ks`.

    By the selector's formula where it has one, else over `NUM_RESAMPLES` subsets. A problem with fewer than k graded
    draws stands with all that it has; one whose every draw failed has no answer, which is wrong. Where draws are of
    several arms, k of them are dealt to the arms as the recipe deals them (see `samplewise.runs.orders`).
    """
    return _with_failed(_accuracy_at(store, outcomes, selector, ks, key), outcomes)


def _accuracy_at(store: Store, outcomes: Outcomes, selector: Selector, ks: Ints, key: Key) -> Floats:
    expected = selector.expected
    if _has_arms(store, outcomes.run):
        fits = _fit_selectors(store, outcomes.run, selector, key)
        rows = [
            _dealt_expected(expected, outcomes.graded, i, _deal(record, outcomes, i, key), ks, key)
            if expected is not None and not selector.by_order
            else _dealt_choices(record, fit, _deal(record, outcomes, i, key), ks, key.fold(i))
            for i, (record, fit) in enumerate(zip(store.records(outcomes.run), fits, strict=True))
        ]
        return np.stack(rows, axis=1) if rows else np.zeros((len(ks), 0))
    if expected is not None:
        return with_short_problems(
            ks, outcomes.num_graded, lambda rows, sizes: expected(outcomes.graded.of(rows), sizes, key)
        )
    value = np.full((len(ks), len(outcomes.questions)), np.nan)
    fits = _fit_selectors(store, outcomes.run, selector, key)
    for column, (record, fit) in enumerate(zip(store.records(outcomes.run), fits, strict=True)):
        graded = np.flatnonzero(~np.isnan(outcomes.graded.grades[column]))
        for row, k in enumerate(ks.tolist() if len(graded) else ()):
            grades = [
                _grade_of_subset(record, fit, graded, k, resample)
                for resample in key.fold(column, k).split(NUM_RESAMPLES)
            ]
            value[row, column] = np.mean(grades)
    return value


def at_paid_asks(outcomes: Outcomes, bill: RunBill, ks: Ints, measure: Callable[[Ints], Floats]) -> Floats:
    """Return what `measure` gives (K, P) at sizes in draws, at k asks instead: what a bill at k has paid for."""
    failed = {each.question: each.num_failed for each in bill.questions}
    num_failed = np.array([failed.get(question, 0) for question in outcomes.questions], dtype=np.int64)
    return at_asks(ks, outcomes.num_draws, num_failed, measure)


def _with_failed(value: Floats, outcomes: Outcomes) -> Floats:
    """Return values (K, P) that are 0 for a problem without a draw, as no answer is; nan in a run without a grade."""
    value[:, outcomes.num_draws == 0] = 0.0 if outcomes.num_graded.any() else math.nan
    return value


def coverage_at(store: Store, outcomes: Outcomes, ks: Ints, key: Key) -> Floats:
    """Return the expected best grade (K, P) among k of a problem's draws, for each k of `ks`.

    Exact for draws of one arm. As in `accuracy_at`, problems with fewer draws stand with all that they have, those
    whose every draw failed with 0, and arms are dealt draws in turn: the same key takes the same orders there, so that
    no accuracy is above its ceiling.
    """
    return _with_failed(_coverage_at(store, outcomes, ks, key), outcomes)


def _coverage_at(store: Store, outcomes: Outcomes, ks: Ints, key: Key) -> Floats:
    grades = outcomes.graded.grades
    if _has_arms(store, outcomes.run):
        rows = [
            _dealt_best(grades[i][_deal(record, outcomes, i, key)], ks)
            for i, record in enumerate(store.records(outcomes.run))
        ]
        return np.stack(rows, axis=1) if rows else np.zeros((len(ks), 0))
    is_binary = bool(np.isin(grades[~np.isnan(grades)], (0.0, 1.0)).all())

    def measure(rows: Ints, sizes: Ints) -> Floats:
        some = grades[rows]
        return pass_at(some, sizes) if is_binary else best_at(some, some, sizes)

    return with_short_problems(ks, outcomes.num_graded, measure)


def _has_arms(store: Store, run_id: str) -> bool:
    return any(run.id == run_id and recipe(run.recipe).stages.vary is not None for run in store.runs())


def _deal(record: Record, outcomes: Outcomes, index: int, key: Key) -> Ints:
    """Return orders (R, N) of a problem's graded draws, as indices, in which each position keeps its arm."""
    graded = np.flatnonzero(~np.isnan(outcomes.graded.grades[index]))
    arms = [record.pool.candidates[i].arm for i in graded.tolist()]
    return graded[draw_orders(arms, key.fold("deal", index), NUM_RESAMPLES)]


def _dealt_best(grades: Floats, ks: Ints) -> Floats:
    """Return the mean best grade (K,) among the first k draws, of `grades` (R, N) in order."""
    num = grades.shape[1]
    if not num:
        return np.full(len(ks), math.nan)
    mean: Floats = np.maximum.accumulate(grades, axis=1)[:, np.minimum(ks, num) - 1].mean(axis=0)
    return mean


def _dealt_expected(expected: Expected, graded: Graded, index: int, orders: Ints, ks: Ints, key: Key) -> Floats:
    """Return the mean grade (K,) of what is chosen among the first k draws, by a selector's formula on those alone."""
    sizes, num = np.minimum(ks, orders.shape[1]), orders.shape[1]
    if not num:
        return np.full(len(ks), math.nan)
    by_size = {}
    for k in np.unique(sizes).tolist():
        first = orders[:, :k]
        part = Graded(
            graded.answers[index][first],
            graded.grades[index][first],
            {name: scores[index][first] for name, scores in graded.scores.items()},
        )
        by_size[k] = expected(part, np.array([k]), key.fold(index, k))[0].mean()
    return np.array([by_size[k] for k in sizes.tolist()], dtype=np.float64)


def _dealt_choices(record: Record, selector: Selector, orders: Ints, ks: Ints, key: Key) -> Floats:
    """Return the mean grade (K,) of what is chosen among the first k draws, by choosing."""
    num = orders.shape[1]
    if not num:
        return np.full(len(ks), math.nan)
    grades = np.zeros((len(orders), len(ks)))
    for row, order in enumerate(orders.tolist()):
        grade_by_size: dict[int, float] = {}
        for column, k in enumerate(np.minimum(ks, num).tolist()):
            if k not in grade_by_size:
                grade_by_size[k] = _grade_of(record, selector, order[:k], key.fold(row, k))
            grades[row, column] = grade_by_size[k]
    mean: Floats = grades.mean(axis=0)
    return mean


def _grade_of(record: Record, selector: Selector, indices: Sequence[int], key: Key) -> float:
    pool = Pool(tuple(record.pool.candidates[i] for i in indices))
    position = selector.choose(key, pool, tuple(record.answers[i] for i in indices)).position
    return grade_at(record, None if position is None else indices[position])


def _grade_of_subset(record: Record, selector: Selector, graded: Ints, k: int, key: Key) -> float:
    subset = np.sort(key.generator().choice(graded, size=min(k, len(graded)), replace=False)).tolist()
    return _grade_of(record, selector, subset, key.fold("select"))


def _fit_selectors(store: Store, run: str, selector: Selector, key: Key) -> tuple[Selector, ...]:
    """Return the selector for each question of a stored run."""
    if selector.fit is None:
        return fitted(selector, [Round(Pool(), ())] * len(store.questions(run)), key)
    return fitted(selector, [Round(r.pool, r.answers, r.grades) for r in store.records(run)], key.fold("folds"))


def grade_at(record: Record, position: int | None) -> float:
    """Return the grade of a stored candidate's answer.

    No answer is wrong, grade 0, unless nothing of the question could be graded: then it is nan.
    """
    if position is not None:
        return record.grades[position]
    return math.nan if record.grades and all(math.isnan(g) for g in record.grades) else 0.0
