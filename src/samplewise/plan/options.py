"""What one selector would come to with a pilot's draws: fixed numbers, stop rules in replay, and beyond the pilot."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from samplewise.errors import BadSpec, UnknownName
from samplewise.evaluate import Outcomes, accuracy_at, verifier_tokens
from samplewise.keys import Key
from samplewise.measure import Curve, Estimate, at_tokens, majority_at, mean_interval, paired_difference
from samplewise.measure.extrapolate import PassModel, majority_beyond
from samplewise.numerics import Floats
from samplewise.plan.calibrate import stop_at, targets_by_question
from samplewise.plan.replays import Stored, replay_pools, stored_pools
from samplewise.recipe import Recipe, selector_of
from samplewise.select.base import Selector
from samplewise.spec import build, names
from samplewise.stop.base import StopRule
from samplewise.store import Run, Store

NAN = Estimate(math.nan, math.nan, math.nan, math.nan, 0, 0)
VOTE_RULES = ("asc(0.95)", "vote_e(0.05)", "lead(3)")  # published settings, none tuned on the pilot
LEVEL = 0.9  # P(correct) at which an answer is taken, where no accuracy is asked for
NUM_LIKELY = 200  # questions that stand for the law of a stop's costs
FARTHEST = 16  # times the pilot's draws: as far as options are offered


class Goal(NamedTuple):
    """What is asked: an accuracy, or the most tokens or money that a question may cost on average; or nothing."""

    accuracy: float | None = None
    tokens: float | None = None
    usd: float | None = None


class Option(NamedTuple):
    """One recipe and what it would come to. `kind`: "fixed", "rule" (in replay), "beyond" (extrapolated by a model), or
    "plug-in" (a vote beyond the pilot: shown, and never recommended)."""

    recipe: str
    selector: str
    kind: str
    cap: int  # draws at most
    draws: float  # mean a question
    tokens: float
    range_tokens: tuple[float, float]  # 5 % and 95 % over questions
    accuracy: Estimate
    over_fixed: Estimate  # accuracy less that of the fixed number at equal tokens, paired; nan but for rules
    reasons: Mapping[str, float]
    values: Floats  # (P,) accuracy of each question; empty beyond the pilot
    costs: Floats  # (P,) tokens of each question; of a rule beyond the pilot, of questions equally likely


class Pilot(NamedTuple):
    store: Store
    run: Run
    line: Recipe
    outcomes: Outcomes
    most: int
    key: Key
    num_orders: int


def options_of(pilot: Pilot, text: str, rules: Sequence[str], goal: Goal, notes: list[str]) -> list[Option]:
    _, selector, verifiers = selector_of(text)
    extra = verifier_tokens(pilot.store, pilot.run, verifiers)
    per_draw = pilot.outcomes.tokens_per_draw + extra  # (P,)
    ks = np.array([1]) if selector.name == "first" else _grid(pilot.most, dense=selector.expected is not None)
    values = accuracy_at(pilot.store, pilot.outcomes, selector, ks, pilot.key.fold(text))  # (K, P)
    mean = float(np.nanmean(per_draw))
    curve = Curve(text, ks, (ks * mean).astype(np.float64), values)
    found = [
        Option(
            _line(pilot.line, k, "", text), text, "fixed", k, float(k), k * mean, _ends(k * per_draw), e, NAN, {}, v, c
        )
        for k, e, v, c in zip(ks.tolist(), map(mean_interval, values), values, ks[:, None] * per_draw, strict=True)
    ]
    if selector.name == "first":
        return found
    pools = tuple(_cut(pool, pilot.most) for pool in stored_pools(pilot.store, pilot.run.id, extra=extra))
    for rule, made in _rules(pilot, selector, rules, goal, notes):
        found += _replayed(pilot, text, selector, rule, made, pools, curve)
    return found + _beyond(pilot, text, selector, per_draw, goal, notes)


def _replayed(
    pilot: Pilot,
    text: str,
    selector: Selector,
    rule: str,
    made: Sequence[StopRule[Any]],
    pools: Sequence[Stored],
    fixed: Curve,
) -> list[Option]:
    caps = sorted({max(2, pilot.most // 2), pilot.most})
    options = []
    key = pilot.key.fold(text, rule)
    for each in replay_pools(made, selector, pools, key, caps=caps, num_orders=pilot.num_orders):
        values, costs = each.grades.mean(axis=1), each.tokens.mean(axis=1)
        tokens = float(costs.mean())
        beside = at_tokens(fixed, tokens, interpolate=True).per_problem
        options.append(
            Option(
                recipe=_line(pilot.line, each.cap, rule, text),
                selector=text,
                kind="rule",
                cap=each.cap,
                draws=float(each.draws.mean()),
                tokens=tokens,
                range_tokens=_ends(each.tokens),
                accuracy=mean_interval(values),
                over_fixed=paired_difference(values, beside),
                reasons=each.reasons,
                values=values,
                costs=costs,
            )
        )
    return options


def _rules(
    pilot: Pilot, selector: Selector, asked: Sequence[str], goal: Goal, notes: list[str]
) -> list[tuple[str, list[StopRule[Any]]]]:
    """The rules that suit a selector, as text and one for each question."""
    num = len(pilot.outcomes.questions)
    found: list[tuple[str, list[StopRule[Any]]]] = []
    wanted = list(asked) if asked else list(VOTE_RULES) if not selector.verifiers else []
    for text in wanted:
        if text.partition("(")[0] not in names("stop") and not asked:
            continue
        rule: StopRule[Any] = build("stop", text)
        if set(rule.verifiers) <= set(selector.verifiers):
            found.append((text, [rule] * num))
    if asked or selector.name != "best":
        return found
    verifier = selector.verifiers[0]
    scores = pilot.outcomes.graded.scores[verifier]
    if np.isin(scores[np.isfinite(scores)], (0.0, 1.0)).all():
        return [(f"passed({verifier})", [build("stop", f"passed({verifier})")] * num)]
    level = LEVEL if goal.accuracy is None else goal.accuracy
    targets = targets_by_question(pilot.outcomes, verifier, min(level, 0.99), pilot.key.fold("targets", verifier))
    known = targets[np.isfinite(targets)]
    if not len(known):
        notes.append(f"no score of {verifier} means P(correct) {level:g}: there is no target to stop at")
        return []
    never = f"cap({pilot.most})"
    try:
        made = [build("stop", stop_at(verifier, t) if math.isfinite(t) else never) for t in targets.tolist()]
    except (BadSpec, UnknownName) as error:
        notes.append(f"{verifier}: {str(error).splitlines()[0]}")
        return []
    notes.append(f"the target of {verifier} is where P(correct) reaches {level:g}, found on other questions")
    return [(stop_at(verifier, float(np.median(known))), made)]


def _beyond(
    pilot: Pilot, text: str, selector: Selector, per_draw: Floats, goal: Goal, notes: list[str]
) -> list[Option]:
    """More draws than the pilot has, where something can be said of them."""
    graded, mean = pilot.outcomes.graded, float(np.nanmean(per_draw))
    ks = [pilot.most * 2**i for i in range(1, FARTHEST.bit_length())]
    if selector.name == "vote" and not selector.verifiers:
        values = majority_beyond(graded.answers, graded.grades, ks, pilot.key.fold("beyond"))
        notes.append(_plug_in_bias(pilot))
        return [
            _far(pilot.line, text, "", k, float(k), mean_interval(v), k * per_draw)._replace(kind="plug-in")
            for k, v in zip(ks, values, strict=True)
        ]
    model = pass_model(pilot.outcomes)
    if selector.name != "best" or model is None or not _is_exact(pilot.outcomes, selector.verifiers[0]):
        return []
    verifier = selector.verifiers[0]
    notes.append(f"{verifier} agreed with the grader on every draw of the pilot; beyond it, it is taken to be exact")
    if model.note:
        notes.append(model.note)
    if goal.accuracy is not None:
        needed = model.needed(goal.accuracy, most=FARTHEST * pilot.most).draws
        if pilot.most < needed < math.inf:
            ks = sorted({*ks, int(needed)})
    rule, options = f"passed({verifier})", []
    every = model.values(range(1, max(ks) + 1))
    missed = np.cumsum(np.append(1.0, 1 - every))  # mean draws of the first pass, by cap
    ranks = (np.arange(NUM_LIKELY) + 0.5) / NUM_LIKELY
    for k, accuracy in zip(ks, model.at(ks), strict=True):
        options.append(_far(pilot.line, text, "", k, float(k), accuracy, k * per_draw))
        stops = np.minimum(1 + np.searchsorted(every[:k], ranks), k)  # P(at most d draws) is pass@d
        stopped = _far(pilot.line, text, rule, k, float(missed[k - 1]), accuracy, stops * mean)
        options.append(stopped._replace(tokens=stopped.draws * mean))
    return options


def _far(line: Recipe, text: str, rule: str, cap: int, draws: float, accuracy: Estimate, costs: Floats) -> Option:
    tokens, ends = float(np.nanmean(costs)), _ends(costs)
    name = _line(line, cap, rule, text)
    return Option(name, text, "beyond", cap, draws, tokens, ends, accuracy, NAN, {}, np.zeros(0), costs)


def pass_model(outcomes: Outcomes) -> PassModel | None:
    grades = outcomes.graded.grades
    return PassModel(grades) if np.isin(grades[~np.isnan(grades)], (0.0, 1.0)).all() else None


def _is_exact(outcomes: Outcomes, verifier: str) -> bool:
    """Whether the score is at least 1 on every right draw and less on every wrong one, and there are some of both."""
    scores, grades = outcomes.graded.scores[verifier], outcomes.graded.grades
    known = ~(np.isnan(scores) | np.isnan(grades))
    passes, right = scores[known] >= 1, grades[known] == 1
    return bool((passes == right).all() and right.any() and not right.all())


def _plug_in_bias(pilot: Pilot) -> str:
    graded, half = pilot.outcomes.graded, pilot.most // 2
    part = slice(0, half)
    guess = majority_beyond(graded.answers[:, part], graded.grades[:, part], [pilot.most], pilot.key.fold("bias"))[0]
    truth = majority_at(graded.answers, graded.grades, [pilot.most], key=pilot.key.fold("bias"))[0]
    off = paired_difference(guess, truth)
    return (
        "votes beyond the pilot take its shares for the truth; from half of it, that is off by "
        f"{off.value:+.3f} [{off.low:+.3f}, {off.high:+.3f}]"
    )


def _line(line: Recipe, draws: int, rule: str, selector: str) -> str:
    """The pilot's line with other draws, rule and selector."""
    drawing = re.sub(r"repeat\((num_samples=)?\d+", f"repeat({draws}", line.draws, count=1)
    return " | ".join([drawing, *([f"until({rule})"] if rule else []), selector])


def _cut(pool: Stored, most: int) -> Stored:
    first = slice(0, most)
    return Stored(pool.question, pool.candidates[first], pool.answers[first], pool.grades[first], pool.costs[first])


def _ends(tokens: Floats) -> tuple[float, float]:
    low, high = np.nanquantile(tokens, [0.05, 0.95])
    return float(low), float(high)


def _grid(most: int, *, dense: bool) -> Any:
    """Every k up to 16, then steps of a quarter; where every point is drawn anew, steps of two."""
    grow = 1.25 if dense else 2.0
    ks = list(range(1, min(most, 16) + 1)) if dense else [1]
    while ks[-1] < most:
        ks.append(min(most, max(ks[-1] + 1, int(ks[-1] * grow))))
    return np.array(ks, dtype=np.int64)
