"""What one selector would reach with a pilot's draws: fixed numbers, stop rules in replay, and beyond the pilot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from samplewise.analysis.plan.calibrate import stop_at, targets_by_question
from samplewise.core.errors import BadSpec, UnknownName
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.registry import build, names
from samplewise.measure import Curve, Estimate, at_tokens, majority_at, mean_interval, paired_difference
from samplewise.measure.extrapolate import PassModel, majority_beyond
from samplewise.recipe import Recipe, parse_choice
from samplewise.runs.arrays import Outcomes
from samplewise.runs.bills import RunBill, bill_run
from samplewise.runs.orders import StoredPool, replay_pools, replay_rule, stored_pools
from samplewise.runs.redecide import accuracy_at, at_paid_asks
from samplewise.select.base import Selector
from samplewise.stop.base import StopRule
from samplewise.store.database import Store
from samplewise.store.records import Run

NAN = Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)
VOTE_RULES = ("asc(0.95)", "vote_e(0.05)", "lead(3)")  # published settings, none tuned on the pilot
LEVEL = 0.9  # P(correct) at which an answer is taken, where no accuracy is asked for
NUM_QUANTILES = 200  # questions that stand for the distribution of a stop's costs
FARTHEST = 16  # times the pilot's draws: as far as options are offered


class Goal(NamedTuple):
    """What is asked for: an accuracy, or the most tokens or money that a question may cost on average, or nothing."""

    accuracy: float | None = None
    tokens: float | None = None
    usd: float | None = None


class Option(NamedTuple):
    """One recipe and what it would reach.

    `tokens` is the mean over questions: of a fixed number, what running `recipe` with the pilot's seed costs; of a
    rule, a mean over random orders. `billed` is what running `recipe` with the pilot's seed costs for either; nan
    beyond the pilot, and where targets are found on other questions.

    `kind`: "fixed" number of draws; "rule" in replay; "beyond" the pilot, extrapolated by a model; "plug-in", a vote
    beyond the pilot, which is shown and never recommended. `over_fixed` is compared at equal tokens.
    """

    recipe: str
    selector: str
    kind: Literal["fixed", "rule", "beyond", "plug-in"]
    cap: int  # draws at most
    draws: float  # mean a question
    tokens: float
    range_tokens: tuple[float, float]  # 5 % and 95 % over questions
    accuracy: Estimate
    over_fixed: Estimate  # accuracy minus that of the fixed number at equal tokens, paired; nan but for rules
    reasons: Mapping[str, float]
    values: Floats  # (P,) accuracy of each question; empty beyond the pilot
    costs: Floats  # (P,) tokens of each question; of a rule beyond the pilot, of equally likely questions
    helpers: float = 0.0  # the part of `tokens` that comes before the first draw
    billed: float = math.nan


class Pilot(NamedTuple):
    """A stored pilot run, and how to replay rules on it."""

    store: Store
    run: Run
    line: Recipe
    outcomes: Outcomes
    most: int  # the fewest graded draws of a question
    key: Key
    num_orders: int


class _Selected(NamedTuple):
    """A selector on the pilot: its cost, and its accuracy by fixed number of draws."""

    text: str
    selector: Selector
    bill: RunBill
    fixed: Curve  # at mean costs: what rules, means over orders, are compared with

    @property
    def helpers(self) -> float:
        """Mean tokens of a question before its first draw."""
        return float(np.mean([bill.helpers for bill in self.bill.questions]))


class _Rule(NamedTuple):
    """A stop rule as text, and one for each question: targets are found on other questions."""

    text: str
    by_question: Sequence[StopRule[Any]]


def options_of(pilot: Pilot, text: str, rules: Sequence[str], goal: Goal, notes: list[str]) -> list[Option]:
    """Return every option with the selector `text`. Adds to `notes` what a reader must know about them."""
    selector = parse_choice(text).selector
    bill = bill_run(pilot.store, pilot.run, pilot.line.with_selector(text))
    if bill.note:
        notes.append(bill.note)
    ks = np.array([1]) if selector.name == "first" else _grid(pilot.most, dense=selector.expected is not None)
    key = pilot.key.fold(text)
    values = at_paid_asks(  # (K, P)
        pilot.outcomes, bill, ks, lambda sizes: accuracy_at(pilot.store, pilot.outcomes, selector, sizes, key)
    )
    means = np.array([bill.beyond(k).mean() for k in ks.tolist()])
    selected = _Selected(text, selector, bill, Curve(text, ks, means, values))
    options = _fixed(selected, pilot)
    if len(options) < len(ks):
        notes.append(f"{text} judges a pool as a whole: what it costs with fewer draws than the pilot's is not known")
    if selector.name == "first":
        return options
    pools = tuple(pool.first(pilot.most) for pool in stored_pools(pilot.store, pilot.run.id, bill))
    for rule in _rules(pilot, selector, rules, goal, notes):
        options += _replayed(pilot, selected, rule, pools)
    return options + _beyond(pilot, selected, goal, notes)


def pass_model(outcomes: Outcomes) -> PassModel | None:
    """Return the model of coverage beyond the pilot, None for grades other than 0 and 1."""
    grades = outcomes.graded.grades
    return PassModel(grades) if np.isin(grades[~np.isnan(grades)], (0.0, 1.0)).all() else None


def _fixed(selected: _Selected, pilot: Pilot) -> list[Option]:
    curve = selected.fixed
    costs_by_draws = {k: selected.bill.at(k) for k in curve.ks.tolist()}
    return [
        Option(
            recipe=_line(pilot.line, k, "", selected.text),
            selector=selected.text,
            kind="fixed",
            cap=k,
            draws=float(k),
            tokens=float(costs.mean()),
            range_tokens=_range(costs),
            accuracy=mean_interval(values),
            over_fixed=NAN,
            reasons={},
            values=values,
            costs=costs,
            helpers=selected.helpers,
            billed=float(costs.mean()),
        )
        for (k, costs), values in zip(costs_by_draws.items(), curve.per_problem, strict=True)
        if not np.isnan(costs).any()
    ]


def _replayed(pilot: Pilot, selected: _Selected, rule: _Rule, pools: Sequence[StoredPool]) -> list[Option]:
    caps = sorted({max(2, pilot.most // 2), pilot.most})
    key = pilot.key.fold(selected.text, rule.text)
    options = []
    for replays in replay_pools(
        rule.by_question, selected.selector, pools, key, caps=caps, num_orders=pilot.num_orders
    ):
        values, costs = replays.accuracy, replays.tokens.mean(axis=1)
        if np.isnan(costs).any():  # a judge of whole pools
            continue
        tokens = float(costs.mean())
        at_equal_tokens = at_tokens(selected.fixed, tokens, interpolate=True).per_problem
        options.append(
            Option(
                recipe=_line(pilot.line, replays.cap, rule.text, selected.text),
                selector=selected.text,
                kind="rule",
                cap=replays.cap,
                draws=float(replays.draws.mean()),
                tokens=tokens,
                range_tokens=_range(replays.tokens),
                accuracy=mean_interval(values),
                over_fixed=paired_difference(values, at_equal_tokens),
                reasons=replays.reasons,
                values=values,
                costs=costs,
                helpers=selected.helpers,
                billed=_billed(selected.bill, rule, pools, replays.cap),
            )
        )
    return options


def _billed(bill: RunBill, rule: _Rule, pools: Sequence[StoredPool], cap: int) -> float:
    """Return the mean tokens of a rule on the stored order of at most `cap` draws: what its line costs to run."""
    if len(set(map(id, rule.by_question))) > 1:  # no line has a rule for each question
        return math.nan
    costs = []
    for one, pool, question in zip(rule.by_question, pools, bill.questions, strict=True):
        replay = replay_rule(one, pool, [index for index, ask in enumerate(question.asks) if ask < cap])
        costs.append(question.at(cap).total if replay.stop is None else replay.tokens)
    return float(np.mean(costs))


def _rules(pilot: Pilot, selector: Selector, wanted: Sequence[str], goal: Goal, notes: list[str]) -> list[_Rule]:
    """Return the rules that suit a selector: the wanted ones, or the published ones for votes, or by score."""
    num = len(pilot.outcomes.questions)
    defaults = () if selector.verifiers else tuple(r for r in VOTE_RULES if r.partition("(")[0] in names("stop"))
    rules: list[_Rule] = []
    for text in wanted or defaults:
        rule: StopRule[Any] = build("stop", text)
        if set(rule.verifiers) <= set(selector.verifiers):
            rules.append(_Rule(text, [rule] * num))
    if wanted or selector.name != "best":
        return rules
    verifier = selector.verifiers[0]
    scores = pilot.outcomes.graded.scores[verifier]
    if np.isin(scores[np.isfinite(scores)], (0.0, 1.0)).all():
        return [_Rule(f"passed({verifier})", [build("stop", f"passed({verifier})")] * num)]
    return _rule_by_score(pilot, verifier, LEVEL if goal.accuracy is None else goal.accuracy, notes)


def _rule_by_score(pilot: Pilot, verifier: str, level: float, notes: list[str]) -> list[_Rule]:
    """Return the rule that stops where P(correct) reaches `level`, each question's target found on other questions."""
    targets = targets_by_question(pilot.outcomes, verifier, min(level, 0.99), pilot.key.fold("targets", verifier))
    finite = targets[np.isfinite(targets)]
    if not len(finite):
        notes.append(f"no score of {verifier} reaches P(correct) {level:g}, so no rule can stop by it")
        return []
    never = f"cap({pilot.most})"
    try:
        rules = [build("stop", stop_at(verifier, t) if math.isfinite(t) else never) for t in targets.tolist()]
    except (BadSpec, UnknownName) as error:
        notes.append(f"{verifier}: {str(error).splitlines()[0]}")
        return []
    notes.append(f"the target of {verifier} is where P(correct) reaches {level:g}, found on other questions")
    return [_Rule(stop_at(verifier, float(np.median(finite))), rules)]


def _beyond(pilot: Pilot, selected: _Selected, goal: Goal, notes: list[str]) -> list[Option]:
    """Return options with more draws than the pilot has, where something can be said of them."""
    graded, selector = pilot.outcomes.graded, selected.selector
    ks = [pilot.most * 2**i for i in range(1, FARTHEST.bit_length())]
    if selector.name == "vote" and not selector.verifiers:
        values = majority_beyond(graded.answers, graded.grades, ks, pilot.key.fold("beyond"))
        notes.append(_plug_in_bias(pilot))
        return [
            _far(pilot, selected, k, mean_interval(value))._replace(kind="plug-in")
            for k, value in zip(ks, values, strict=True)
        ]
    model = pass_model(pilot.outcomes)
    if selector.name != "best" or model is None or not _is_exact(pilot.outcomes, selector.verifiers[0]):
        return []
    verifier = selector.verifiers[0]
    notes.append(
        f"{verifier} agreed with the grader on every draw of the pilot; beyond it, {verifier} is taken as exact"
    )
    if model.note:
        notes.append(model.note)
    if goal.accuracy is not None:
        needed = model.needed(goal.accuracy, most=FARTHEST * pilot.most).draws
        if pilot.most < needed < math.inf:
            ks = sorted({*ks, int(needed)})
    pass_at = model.values(range(1, max(ks) + 1))
    options = []
    for k, accuracy in zip(ks, model.at(ks), strict=True):
        options.append(_far(pilot, selected, k, accuracy))
        options.append(_first_pass(pilot, selected, f"passed({verifier})", pass_at[:k], accuracy))
    return options


def _far(pilot: Pilot, selected: _Selected, k: int, accuracy: Estimate) -> Option:
    """Return the option of `k` draws beyond the pilot."""
    costs = selected.bill.beyond(k)
    return Option(
        recipe=_line(pilot.line, k, "", selected.text),
        selector=selected.text,
        kind="beyond",
        cap=k,
        draws=float(k),
        tokens=float(np.nanmean(costs)),
        range_tokens=_range(costs),
        accuracy=accuracy,
        over_fixed=NAN,
        reasons={},
        values=np.zeros(0),
        costs=costs,
        helpers=selected.helpers,
    )


def _first_pass(pilot: Pilot, selected: _Selected, rule: str, pass_at: Floats, accuracy: Estimate) -> Option:
    """Return the option of stopping at the first pass. `pass_at` (K,) is pass@1 ... pass@K."""
    cap = len(pass_at)
    quantiles = (np.arange(NUM_QUANTILES) + 0.5) / NUM_QUANTILES
    fixed, per_draw = selected.helpers, float(np.mean([bill.per_draw for bill in selected.bill.questions]))
    costs = fixed + np.minimum(1 + np.searchsorted(pass_at, quantiles), cap) * per_draw  # P(at most d) is pass@d
    draws = float(np.cumsum(np.append(1.0, 1 - pass_at))[cap - 1])
    return _far(pilot, selected, cap, accuracy)._replace(
        recipe=_line(pilot.line, cap, rule, selected.text),
        draws=draws,
        tokens=fixed + draws * per_draw,
        range_tokens=_range(costs),
        costs=costs,
    )


def _is_exact(outcomes: Outcomes, verifier: str) -> bool:
    """Return whether scores reach 1 on exactly the right draws, and there are right and wrong ones."""
    scores, grades = outcomes.graded.scores[verifier], outcomes.graded.grades
    known = ~(np.isnan(scores) | np.isnan(grades))
    passes, right = scores[known] >= 1, grades[known] == 1
    return bool((passes == right).all() and right.any() and not right.all())


def _plug_in_bias(pilot: Pilot) -> str:
    """Say how far votes extrapolated from half of the pilot are from those of the whole pilot."""
    graded, half = pilot.outcomes.graded, slice(0, pilot.most // 2)
    key = pilot.key.fold("bias")
    guess = majority_beyond(graded.answers[:, half], graded.grades[:, half], [pilot.most], key)[0]
    truth = majority_at(graded.answers, graded.grades, [pilot.most], key=key)[0]
    bias = paired_difference(guess, truth)
    return (
        "votes beyond the pilot assume that its shares of answers are exact; extrapolated from half of it, they are "
        f"off by {bias.value:+.3f} [{bias.low:+.3f}, {bias.high:+.3f}]"
    )


def _line(line: Recipe, draws: int, rule: str, selector: str) -> str:
    """Return the pilot's line with other draws, rule and selector."""
    return line.with_draws(draws).with_stop(rule or None).with_selector(selector).line


def _range(tokens: Floats) -> tuple[float, float]:
    low, high = np.nanquantile(tokens, [0.05, 0.95])
    return float(low), float(high)


def _grid(most: int, *, dense: bool) -> Ints:
    """Return every k up to 16, then steps of a quarter; steps of two where every point costs fresh subsets."""
    grow = 1.25 if dense else 2.0
    ks = list(range(1, min(most, 16) + 1)) if dense else [1]
    while ks[-1] < most:
        ks.append(min(most, max(ks[-1] + 1, int(ks[-1] * grow))))
    return np.array(ks, dtype=np.int64)
