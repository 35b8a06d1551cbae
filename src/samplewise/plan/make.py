"""How many draws, with which recipe, for this accuracy or this money: read from a stored pilot run. Draws nothing.

A pilot draws the same number for every question and does not stop early. From its draws, for every selector:

- fixed numbers of draws, up to the pilot's own: the mean over subsets, as in every report;
- stop rules in replay, in random orders of each question's draws, beside the fixed number at equal tokens;
- beyond the pilot: pass@k by the spread of the questions' chances where the verifier told right from wrong without an
  error (measure/extrapolate.py), the vote by the multinomial plug-in, which takes the pilot's shares for the truth.

A target score of a learned verifier is found on other questions than those it is tried on. The choice of the best
option is made on the same figures that are shown, which flatters it: `held_out` is the accuracy of options chosen on
half of the questions and measured on the other half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samplewise.errors import SetupError
from samplewise.evaluate import load, rescore
from samplewise.keys import Key
from samplewise.measure import Estimate
from samplewise.plan.options import FARTHEST, NAN, Goal, Option, Pilot, options_of, pass_model
from samplewise.plan.replays import NUM_ORDERS
from samplewise.recipe import recipe, selector_of
from samplewise.spec import names
from samplewise.store import GRADE, Run, Store

NUM_SPLITS = 20
CLOSE = 0.01  # without a goal: the cheapest option at most so far below the best
NO_GOAL = Goal()


class Plan(NamedTuple):
    """`best` is the option for the goal, None where none reaches it. `usd_per_token` is nan where no price is known."""

    run: str
    num_questions: int
    num_draws: int
    tokens_per_draw: float
    usd_per_token: float
    options: tuple[Option, ...]
    goal: Goal
    best: Option | None
    sure: Option | None  # the cheapest that was seen whose accuracy's lower end reaches the one asked for
    held_out: float  # accuracy where options are chosen on other questions; nan beyond the pilot, or where no half does
    ceiling: Estimate  # coverage with `FARTHEST` times the pilot's draws
    answer: str  # in words
    notes: tuple[str, ...]


def make_plan(
    store: Store,
    run: Run,
    goal: Goal = NO_GOAL,
    *,
    selectors: Sequence[str] = (),
    rules: Sequence[str] = (),
    num_orders: int = NUM_ORDERS,
    usd_per_token: float | None = None,
    seed: int = 0,
) -> Plan:
    """Plan from a stored run. `selectors` default to the run's own, the vote, and the best by every verifier whose
    scores are stored; `rules` to those that suit each selector. About a second for 100 questions of 32 draws.

    SetupError where the run cannot be a pilot, or money is asked for and no price is known.
    """
    line = recipe(run.recipe)
    if line.stop is not None or not line.sampler.exchangeable:
        raise SetupError(f"a pilot draws a fixed number with repeat(...); run {run.id} is {run.recipe}")
    texts = tuple(dict.fromkeys(selector_of(text)[0] for text in selectors or _default_selectors(store, run)))
    verifiers = {name: v for text in texts for name, v in selector_of(text)[2].items()}
    rescore(store, run.id, verifiers)
    outcomes = load(store, run.id, scores=tuple(verifiers))
    graded = ~np.isnan(outcomes.graded.grades)
    most = int(graded.sum(axis=1).min(initial=graded.shape[1])) if graded.any() else 0
    if most < 2:
        raise SetupError(f"a pilot has at least two graded draws of every question; run {run.id} has {most} of one")
    pilot = Pilot(store, run, line, outcomes, most, Key(seed).fold("plan"), num_orders)
    price = _price(store, run) if usd_per_token is None else usd_per_token
    if goal.usd is not None and not price > 0:
        raise SetupError(f"run {run.id} has no price; give --price, in USD per million tokens, or ask for tokens")
    notes = list(_notes(pilot))
    options: list[Option] = []
    for text in texts:
        options += options_of(pilot, text, rules, goal, notes)
    model = pass_model(outcomes)
    best = choose(options, goal, price)
    plan = Plan(
        run=run.id,
        num_questions=len(outcomes.questions),
        num_draws=most,
        tokens_per_draw=float(np.nanmean(outcomes.tokens_per_draw)),
        usd_per_token=price,
        options=tuple(options),
        goal=goal,
        best=best,
        sure=_sure(options, goal),
        held_out=math.nan if best and best.kind == "beyond" else _held_out(options, goal, price, pilot.key),
        ceiling=NAN if model is None else model.at([FARTHEST * most])[0],
        answer="",
        notes=tuple(dict.fromkeys(notes)),
    )
    return plan._replace(answer=_in_words(plan))


class Forecast(NamedTuple):
    """Tokens for so many questions: the mean, and the range that holds them in 90 of 100 such runs."""

    questions: int
    tokens: float
    low: float
    high: float


def forecast(plan: Plan, option: Option, questions: int) -> Forecast:
    """What an option costs for `questions` others like the pilot's: normal, with the spread between questions, and that
    of the pilot's own mean. Questions' costs are skewed: below some twenty the range is a rough one."""
    mean, num = option.tokens * questions, plan.num_questions
    half = 1.645 * float(np.nanstd(option.costs, ddof=1)) * math.sqrt(questions + questions**2 / num)
    return Forecast(questions, mean, max(0.0, mean - half), mean + half)


def choose(options: Sequence[Option], goal: Goal, usd_per_token: float = math.nan) -> Option | None:
    """The option for a goal: the cheapest that reaches an accuracy, what was seen going before what is extrapolated;
    the most accurate that a budget pays for; without a goal, the cheapest within `CLOSE` of the best that was seen."""
    known = [o for o in options if not math.isnan(o.accuracy.value)]
    seen = [o for o in known if o.kind in ("fixed", "rule")]
    beyond = [o for o in known if o.kind == "beyond"]
    least = goal.accuracy
    if least is None and (goal.tokens is not None or goal.usd is not None):
        most = goal.tokens if goal.tokens is not None else (goal.usd or 0.0) / usd_per_token
        affordable = [o for o in (*seen, *beyond) if o.tokens <= most]
        return max(affordable, key=lambda o: (o.accuracy.value, -o.tokens), default=None)
    if least is None:
        least, beyond = max((o.accuracy.value for o in seen), default=math.nan) - CLOSE, []
    for group in (seen, beyond):
        if reaching := [o for o in group if o.accuracy.value >= least]:
            return min(reaching, key=lambda o: (o.tokens, -o.accuracy.value))
    return None


# --- reading the pilot ------------------------------------------------------------------------------------------------


def _default_selectors(store: Store, run: Run) -> list[str]:
    own = run.recipe.rpartition(" | ")[2]
    question = next(iter(store.questions(run.id)), None)
    stored = [] if question is None else [name for name in store.scores(run.id, question) if name != GRADE]
    usable = [name for name in stored if name.partition("(")[0] in names("verifier")]
    return [own, "vote", *(f"best({name})" for name in usable)]


def _price(store: Store, run: Run) -> float:
    """USD a token as the run paid it; nan where it paid nothing."""
    spent = [outcome.spent for outcome in store.outcomes(run.id)]
    tokens, usd = sum(each.tokens for each in spent), math.fsum(each.usd for each in spent)
    return usd / tokens if usd > 0 and tokens else math.nan


def _notes(pilot: Pilot) -> list[str]:
    notes = [f"rules were replayed in {pilot.num_orders} orders a question of {pilot.most} draws"]
    if len(pilot.outcomes.questions) < 50:
        share = 1 / len(pilot.outcomes.questions)
        notes.append(f"with {len(pilot.outcomes.questions)} questions one is worth {share:.3f} of accuracy")
    if pilot.line.line.startswith("vary("):
        notes.append("the pilot has arms: its draws are taken in random order, not in turns")
    return notes


def _sure(options: Sequence[Option], goal: Goal) -> Option | None:
    lower = [o._replace(accuracy=o.accuracy._replace(value=o.accuracy.low)) for o in options if o.kind != "beyond"]
    found = None if goal.accuracy is None else choose(lower, goal)
    return None if found is None else next(o for o in options if o.recipe == found.recipe)


def _held_out(options: Sequence[Option], goal: Goal, price: float, key: Key) -> float:
    seen = [o for o in options if o.kind in ("fixed", "rule")]
    num = len(seen[0].values)
    if num < 4 or any(np.isnan(o.values).any() for o in seen):
        return math.nan
    found = []
    for split in key.fold("halves").split(NUM_SPLITS):
        order = split.generator().permutation(num)
        for mine, other in ((order[: num // 2], order[num // 2 :]), (order[num // 2 :], order[: num // 2])):
            halved = [
                o._replace(
                    tokens=float(o.costs[mine].mean()),
                    accuracy=NAN._replace(value=float(o.values[mine].mean())),
                    values=o.values[other],
                )
                for o in seen
            ]
            best = choose(halved, goal, price)
            if best is not None:
                found.append(float(best.values.mean()))
    return float(np.mean(found)) if found else math.nan


def _in_words(plan: Plan) -> str:
    best, goal = plan.best, plan.goal
    if best is not None:
        how = "by extrapolation beyond the pilot, " if best.kind == "beyond" else ""
        a = best.accuracy
        words = f"{how}accuracy {a.value:.3f} [{a.low:.3f}, {a.high:.3f}] for {best.tokens:,.0f} tokens a question"
        if goal.accuracy is None or best is plan.sure:
            return words
        if plan.sure is None:
            return f"{words}; no lower end reaches {goal.accuracy:g}"
        return f"{words}; the lower end reaches it with {plan.sure.recipe}, for {plan.sure.tokens:,.0f} tokens"
    seen = max(
        (o for o in plan.options if o.kind != "plug-in"),
        key=lambda o: (not math.isnan(o.accuracy.value), o.accuracy.value),
    )
    c = plan.ceiling
    if goal.accuracy is None:
        cheapest = min(plan.options, key=lambda o: o.tokens)
        return f"cannot be paid for: the cheapest recipe costs {cheapest.tokens:,.0f} tokens a question"
    if math.isnan(c.value):
        return f"cannot be reached by these selectors: the best is {seen.accuracy.value:.3f} with {seen.recipe}"
    ends = f"coverage ends at {c.value:.3f} [{c.low:.3f}, {c.high:.3f}] with {FARTHEST * plan.num_draws:,} draws"
    if goal.accuracy > c.high:
        return f"cannot be reached: {ends}"
    if goal.accuracy > c.value:
        return f"not reached as far as this pilot tells: {ends}; a larger pilot would tell more"
    return (
        f"cannot be reached by these selectors: the best is {seen.accuracy.value:.3f} with {seen.recipe}; "
        f"{ends}{', so a better verifier is worth more than draws' if c.value > seen.accuracy.value else ''}"
    )
