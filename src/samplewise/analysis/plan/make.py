"""Plan from a stored pilot run: how many draws, with which recipe, for this accuracy or this money. Draws nothing.

A pilot draws the same number for every question and does not stop early. From its draws, for every selector:

- fixed numbers of draws, up to the pilot's own: the mean over subsets, as in every report;
- stop rules in replay, in random orders of each question's draws, beside the fixed number at equal tokens;
- beyond the pilot: pass@k by the spread of the questions' success probabilities where the verifier told right from
  wrong without an error (measure/extrapolate.py); the vote by the multinomial plug-in, which assumes that the pilot's
  shares of answers are exact.

A learned verifier's target score is found on other questions than those it is tried on. Choosing the best of many
options on the figures that are shown flatters it; `held_out` is the accuracy of options chosen on half of the questions
and measured on the other half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samplewise.analysis.plan.options import FARTHEST, NAN, Goal, Option, Pilot, options_of, pass_model
from samplewise.core.errors import SetupError
from samplewise.core.keys import Key
from samplewise.core.registry import names
from samplewise.measure import Estimate
from samplewise.recipe import parse_choice, recipe
from samplewise.runs.arrays import load_outcomes
from samplewise.runs.bills import bill_run
from samplewise.runs.orders import NUM_ORDERS
from samplewise.runs.redecide import rescore
from samplewise.store.database import Store
from samplewise.store.records import GRADE, Run

NUM_SPLITS = 20
CLOSE = 0.01  # without a goal: the cheapest option at most so far below the best


class PlanSettings(NamedTuple):
    """What to try. `selectors` default to the run's own, the vote, and the best by every verifier with stored scores;
    `rules` to those that suit each selector; `usd_per_token` to what the run paid."""

    selectors: Sequence[str] = ()
    rules: Sequence[str] = ()
    num_orders: int = NUM_ORDERS  # of replays a question
    usd_per_token: float | None = None
    seed: int = 0


NO_GOAL, DEFAULT_SETTINGS = Goal(), PlanSettings()


class RunPlan(NamedTuple):
    """Every option, and the one for the goal. `usd_per_token` is nan where no price is known."""

    run: str
    num_questions: int
    num_draws: int
    tokens_per_draw: float  # without the helpers
    helper_tokens: float  # of a question, before its first draw
    usd_per_token: float
    options: tuple[Option, ...]
    goal: Goal
    best: Option | None  # for the goal; None where no option reaches it
    sure: Option | None  # the cheapest within the pilot whose accuracy's lower end reaches the one asked for
    held_out: float  # accuracy of options chosen on other questions; nan beyond the pilot, or where none is chosen
    ceiling: Estimate  # coverage with `FARTHEST` times the pilot's draws
    answer: str  # in words
    notes: tuple[str, ...]


class CostForecast(NamedTuple):
    """Tokens for a number of questions: the mean, and the range that holds 90 of 100 such runs."""

    questions: int
    tokens: float
    low: float
    high: float


def plan_run(store: Store, run: Run, goal: Goal = NO_GOAL, settings: PlanSettings = DEFAULT_SETTINGS) -> RunPlan:
    """Plan from a stored run. Takes about a second for 100 questions of 32 draws.

    Raises SetupError where the run cannot be a pilot, or where money is asked for and no price is known.
    """
    line = recipe(run.recipe)
    if line.stop is not None or not line.sampler.exchangeable:
        raise SetupError(f"a pilot draws a fixed number with repeat(...); run {run.id} is {run.recipe}")
    selectors = settings.selectors or _default_selectors(store, run)
    texts = tuple(dict.fromkeys(parse_choice(text).text for text in selectors))
    verifiers = {name: v for text in texts for name, v in parse_choice(text).verifiers.items()}
    rescore(store, run.id, verifiers)
    outcomes = load_outcomes(store, run.id, scores=tuple(verifiers))
    graded = ~np.isnan(outcomes.graded.grades)
    most = int(graded.sum(axis=1).min(initial=graded.shape[1])) if graded.any() else 0
    if most < 2:
        raise SetupError(f"a pilot has at least two graded draws of every question; run {run.id} has {most} of one")
    pilot = Pilot(store, run, line, outcomes, most, Key(settings.seed).fold("plan"), settings.num_orders)
    price = _price(store, run) if settings.usd_per_token is None else settings.usd_per_token
    if goal.usd is not None and not price > 0:
        raise SetupError(f"run {run.id} has no price; give --price, in USD per million tokens, or ask for tokens")
    notes = list(_notes(pilot))
    options: list[Option] = []
    for text in texts:
        options += options_of(pilot, text, settings.rules, goal, notes)
    model = pass_model(outcomes)
    best = choose_option(options, goal, price)
    bill = bill_run(store, run, line)
    plan = RunPlan(
        run=run.id,
        num_questions=len(outcomes.questions),
        num_draws=most,
        tokens_per_draw=float(np.nanmean([question.per_draw for question in bill.questions])),
        helper_tokens=float(np.mean([question.helpers for question in bill.questions])),
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
    return plan._replace(answer=_answer(plan))


def forecast_cost(plan: RunPlan, option: Option, questions: int) -> CostForecast:
    """Forecast the tokens of an option for a number of questions like the pilot's.

    Normal, with the spread between questions and that of the pilot's own mean. Costs of questions are skewed: below
    some twenty questions the range is rough.
    """
    mean, num = option.tokens * questions, plan.num_questions
    half = 1.645 * float(np.nanstd(option.costs, ddof=1)) * math.sqrt(questions + questions**2 / num)
    return CostForecast(questions, mean, float(np.maximum(0.0, mean - half)), mean + half)


def choose_option(options: Sequence[Option], goal: Goal, usd_per_token: float = math.nan) -> Option | None:
    """Choose the option for a goal, None where none reaches it.

    For an accuracy, the cheapest that reaches it, within the pilot first; for a budget, the most accurate within it;
    without a goal, the cheapest within `CLOSE` of the best within the pilot.
    """
    known = [option for option in options if not math.isnan(option.accuracy.value)]
    seen = [option for option in known if option.kind in ("fixed", "rule")]
    beyond = [option for option in known if option.kind == "beyond"]
    least = goal.accuracy
    if least is None and (goal.tokens is not None or goal.usd is not None):
        most = goal.tokens if goal.tokens is not None else (goal.usd or 0.0) / usd_per_token
        affordable = [option for option in (*seen, *beyond) if option.tokens <= most]
        return max(affordable, key=lambda option: (option.accuracy.value, -option.tokens), default=None)
    if least is None:
        least, beyond = max((option.accuracy.value for option in seen), default=math.nan) - CLOSE, []
    for group in (seen, beyond):
        if reaching := [option for option in group if option.accuracy.value >= least]:
            return min(reaching, key=lambda option: (option.tokens, -option.accuracy.value))
    return None


# --- reading the pilot ------------------------------------------------------------------------------------------------


def _default_selectors(store: Store, run: Run) -> list[str]:
    own = str(recipe(run.recipe).stages.selector)
    question = next(iter(store.questions(run.id)), None)
    stored = [] if question is None else [name for name in store.scores(run.id, question) if name != GRADE]
    usable = [name for name in stored if name.partition("(")[0] in names("verifier")]
    return [own, "vote", *(f"best({name})" for name in usable)]


def _price(store: Store, run: Run) -> float:
    """Return USD a token as the run paid it; nan where it paid nothing."""
    spent = [outcome.spent for outcome in store.outcomes(run.id)]
    tokens, usd = sum(usage.tokens for usage in spent), math.fsum(usage.usd for usage in spent)
    return usd / tokens if usd > 0 and tokens else math.nan


def _notes(pilot: Pilot) -> list[str]:
    num = len(pilot.outcomes.questions)
    notes = [f"stop rules were replayed in {pilot.num_orders} random orders of each question's {pilot.most} draws"]
    if num < 50:
        notes.append(f"the pilot has {num} questions: one of them is {1 / num:.3f} of accuracy")
    if pilot.line.stages.vary is not None:
        notes.append("the pilot has arms: beyond its draws, arms are taken in random order, not in turn")
    return notes


def _sure(options: Sequence[Option], goal: Goal) -> Option | None:
    if goal.accuracy is None:
        return None
    by_lower_end = [
        option._replace(accuracy=option.accuracy._replace(value=option.accuracy.low))
        for option in options
        if option.kind != "beyond"
    ]
    sure = choose_option(by_lower_end, goal)
    return None if sure is None else next(option for option in options if option.recipe == sure.recipe)


def _held_out(options: Sequence[Option], goal: Goal, price: float, key: Key) -> float:
    seen = [option for option in options if option.kind in ("fixed", "rule")]
    num = len(seen[0].values)
    if num < 4 or any(np.isnan(option.values).any() for option in seen):
        return math.nan
    accuracies = []
    for split in key.fold("halves").split(NUM_SPLITS):
        order = split.generator().permutation(num)
        first, second = order[: num // 2], order[num // 2 :]
        for choosing, measuring in ((first, second), (second, first)):
            halved = [
                option._replace(
                    tokens=float(option.costs[choosing].mean()),
                    accuracy=NAN._replace(value=float(option.values[choosing].mean())),
                    values=option.values[measuring],
                )
                for option in seen
            ]
            best = choose_option(halved, goal, price)
            if best is not None:
                accuracies.append(float(best.values.mean()))
    return float(np.mean(accuracies)) if accuracies else math.nan


# --- the answer in words ----------------------------------------------------------------------------------------------


def _answer(plan: RunPlan) -> str:
    return _why_none(plan) if plan.best is None else _recommendation(plan, plan.best)


def _recommendation(plan: RunPlan, best: Option) -> str:
    accuracy, goal = best.accuracy, plan.goal
    words = f"accuracy {accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}]"
    words += f" for {best.tokens:,.0f} tokens a question"
    if best.kind == "beyond":
        words = f"by extrapolation beyond the pilot, {words}"
    if goal.accuracy is None or best is plan.sure:
        return words
    if plan.sure is None:
        return f"{words}; no option's interval lies above {goal.accuracy:g}"
    sure = f"{plan.sure.recipe}, for {plan.sure.tokens:,.0f} tokens"
    return f"{words}; the first whose whole interval reaches {goal.accuracy:g} is {sure}"


def _why_none(plan: RunPlan) -> str:
    """Say why no option reaches the goal, and what to do next."""
    accuracy, ceiling = plan.goal.accuracy, plan.ceiling
    if accuracy is None:
        cheapest = min(plan.options, key=lambda option: option.tokens)
        return f"cannot be paid for: the cheapest recipe costs {cheapest.tokens:,.0f} tokens a question"
    top = max(
        (option for option in plan.options if option.kind != "plug-in"),
        key=lambda option: (not math.isnan(option.accuracy.value), option.accuracy.value),
    )
    best = f"cannot be reached by these selectors: the best is {top.accuracy.value:.3f} with {top.recipe}"
    if math.isnan(ceiling.value):
        return best
    ends = f"coverage ends at {ceiling.value:.3f} [{ceiling.low:.3f}, {ceiling.high:.3f}] with "
    ends += f"{FARTHEST * plan.num_draws:,} draws"
    if accuracy > ceiling.high:
        return f"cannot be reached: {ends}"
    if accuracy > ceiling.value:
        return f"not reached as far as this pilot tells: {ends}; run a larger pilot to know"
    advice = ", so look for a better verifier before drawing more" if ceiling.value > top.accuracy.value else ""
    return f"{best}; {ends}{advice}"
