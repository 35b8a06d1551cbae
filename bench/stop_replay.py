"""Stop rules on recorded draws of real models, in many random orders, beside the fixed number at equal tokens.

The frontier of a way to choose is its accuracy with 1, 2, ... draws against what they cost; between two numbers it is
what one gets who takes the one or the other by lot. A rule is good only above it. A rule with a setting to choose has
it chosen on the other half of the questions, where it was farthest above the frontier; the published ones stand as
they are. Rounds are sequential waves: a fixed number has one, and a rule sends at once what it needs before it can
stop. Intervals are bootstrapped over questions, whole. Pools hold 8 to 100 draws: where a pool is little larger than
what a rule may draw, orders are much alike.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from samplewise.core.files import data_folder, read_table
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.registry import build
from samplewise.core.types import Candidate
from samplewise.recorded import load_recording
from samplewise.runs.orders import OrderReplays, StoredPool, replay_pools
from samplewise.select.base import Selector
from samplewise.select.best import best
from samplewise.select.votes import vote
from samplewise.stop.base import StopRule
from samplewise.stop.plan_table import learned_vote_prior
from samplewise.tasks.recorded import recorded_task

NUM_ORDERS = 100
NUM_BOOTSTRAPS = 2000
AS_ACCURATE = 0.002  # what a plan may lose on the questions that its prices are chosen on
VOTE_RULES = {
    "asc .95": ("asc(0.95)",),
    "asc .99": ("asc(0.99)",),
    "asc_dirichlet .95": ("asc_dirichlet(0.95)",),
    "esc": ("esc(4)",),
    "agreement 2": ("agreement(2)",),
    "lead 3": ("lead(3)",),
    "bayes_factor 10": ("bayes_factor(10)",),
    "vote_e .1": ("vote_e(0.1)",),
    "vote_e .05": ("vote_e(0.05)",),
    "vote_plan": ("vote_plan(cap=8)",),
    "asc, chosen": ("asc(0.6)", "asc(0.7)", "asc(0.8)", "asc(0.9)", "asc(0.95)", "asc(0.99)"),
}
PRICES = tuple((ratio * price, price) for price in (0.002, 0.005, 0.01, 0.02, 0.04) for ratio in (0, 2, 8))
ROUND_ORDERS = 20  # random orders of each question, in the part on rounds


VOTE, BEST = vote(), best("score")


class Family(NamedTuple):
    """Rules of one kind with several settings, and how the answer is chosen from what was drawn."""

    specs: Sequence[str]
    selector: Selector


def stored(name: str, *, scores: str | None = None) -> list[StoredPool]:
    """A recording's pools, read and graded by our own code."""
    task, pools = recorded_task(name), []
    recording = load_recording(name)
    for problem, draws in zip(recording.problems, recording.draws, strict=True):
        answers = tuple(task.read(problem.question, draw.completion.text) for draw in draws)
        grade = {answer: task.grade(problem, answer).value for answer in set(answers)}
        candidates = tuple(
            Candidate(
                d.completion.text,
                num_tokens=d.completion.usage.completion_tokens,
                scores={} if scores is None else {"score": d.scores[scores]},
            )
            for d in draws
        )
        costs = tuple(float(draw.completion.usage.tokens) for draw in draws)
        pools.append(StoredPool(problem.question, candidates, answers, tuple(grade[a] for a in answers), costs))
    return pools


class Measured(NamedTuple):
    accuracy: Floats  # (P,) mean over orders
    samples: Floats
    tokens: Floats
    rounds: Floats


def measured(replays: OrderReplays) -> Measured:
    return Measured(
        np.nan_to_num(replays.grades).mean(axis=1),
        replays.draws.mean(axis=1).astype(float),
        replays.tokens.mean(axis=1),
        replays.rounds.mean(axis=1),
    )


def frontier(selector: Selector, pools: Sequence[StoredPool], cap: int, key: Key) -> list[Measured]:
    """1 to `cap` draws, whatever they say."""
    never: StopRule[Any] = build("stop", f"cap({cap + 1})")
    rows = replay_pools([never] * len(pools), selector, pools, key, caps=range(1, cap + 1), num_orders=NUM_ORDERS)
    return [measured(each) for each in rows]


def at_equal_tokens(fixed: Sequence[Measured], tokens: float) -> Floats:
    """Each question's accuracy (P,) with the fixed numbers that cost `tokens` on average, two of them by lot."""
    costs = np.array([each.tokens.mean() for each in fixed])
    if tokens <= costs[0]:
        return fixed[0].accuracy
    if tokens >= costs[-1]:
        return fixed[-1].accuracy
    above = int(np.searchsorted(costs, tokens))
    weight = (tokens - costs[above - 1]) / (costs[above] - costs[above - 1])
    mixed: Floats = (1 - weight) * fixed[above - 1].accuracy + weight * fixed[above].accuracy
    return mixed


def bootstrap(values: Floats, groups: Sequence[str], key: Key) -> tuple[float, float]:
    """95 % interval of the mean of (P,), over questions: pools of one question stay together."""
    names = sorted(set(groups))
    own = np.array([np.mean([v for v, group in zip(values, groups, strict=True) if group == name]) for name in names])
    places = key.generator().integers(len(own), size=(NUM_BOOTSTRAPS, len(own)))
    low, high = np.quantile(own[places].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def score(
    console: Console, title: str, pools: Sequence[StoredPool], families: Mapping[str, Family], cap: int, key: Key
) -> dict[str, Any]:
    """Each family's figures on `pools`; halves of the questions take their settings from each other."""
    groups = [pool.question.id for pool in pools]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    halves = [np.array([numbers[name] % 2 == side for name in groups]) for side in (0, 1)]
    fixed: dict[int, list[Measured]] = {}
    figures: dict[str, Any] = {}
    table = Table(title, "accuracy", "draws", "rounds", "tokens", "fixed, same tokens", "above it", "", box=None)
    for name, (specs, selector) in families.items():
        if id(selector) not in fixed:
            fixed[id(selector)] = frontier(selector, pools, cap, key)
        line = fixed[id(selector)]
        rows = []
        for spec in specs:
            rule: StopRule[Any] = build("stop", spec)
            found = replay_pools([rule] * len(pools), selector, pools, key, caps=[cap], num_orders=NUM_ORDERS)
            rows.append(measured(found[0]))
        accuracy, samples, tokens, rounds, equal = (np.zeros(len(pools)) for _ in range(5))
        chosen = []
        for side in (0, 1):
            own, other = halves[side], halves[1 - side]
            above = [_above(row, line, other) for row in rows]
            pick = int(np.argmax(above))
            chosen.append(specs[pick])
            row = rows[pick]
            accuracy[own], samples[own], tokens[own] = row.accuracy[own], row.samples[own], row.tokens[own]
            rounds[own] = row.rounds[own]
            part = [Measured(*(column[own] for column in each)) for each in line]
            equal[own] = at_equal_tokens(part, float(row.tokens[own].mean()))
        low, high = bootstrap(accuracy - equal, groups, key.fold("bootstrap", name))
        figures[name] = {
            "accuracy": float(accuracy.mean()),
            "samples": float(samples.mean()),
            "tokens": float(tokens.mean()),
            "rounds": float(rounds.mean()),
            "frontier_accuracy": float(equal.mean()),
            "above": float((accuracy - equal).mean()),
            "above_low": low,
            "above_high": high,
            "settings": chosen if len(specs) > 1 else specs[0],
        }
        said = chosen[0] if len(set(chosen)) == 1 else " / ".join(chosen)
        table.add_row(
            name,
            f"{accuracy.mean():.4f}",
            f"{samples.mean():.2f}",
            f"{rounds.mean():.2f}",
            f"{tokens.mean():.0f}",
            f"{equal.mean():.4f}",
            f"{(accuracy - equal).mean():+.4f} [{low:+.4f}, {high:+.4f}]",
            said if len(specs) > 1 else "",
        )
    for place, (name, line) in enumerate({_name(f.selector): fixed[id(f.selector)] for f in families.values()}.items()):
        for num in (1, 2, 4, 8, 16, 32, 64):
            if num <= cap and (num > 1 or place == 0):
                row = line[num - 1]
                known = {"accuracy": row.accuracy.mean(), "samples": num, "tokens": row.tokens.mean(), "rounds": 1}
                figures[f"fixed {num}, {name}"] = {**known, "frontier_accuracy": known["accuracy"]}
                shown = (f"{known['accuracy']:.4f}", str(num), "1", f"{known['tokens']:.0f}")
                table.add_row(f"fixed {num}, {name}", *shown)
    console.print(table, "")
    return figures


# --- accuracy, draws and rounds ---------------------------------------------------------------------------------------


class Spent(NamedTuple):
    """Per question (P,), means over orders."""

    accuracy: Floats
    draws: Floats
    rounds: Floats
    tokens: Floats  # nan where some draws were recorded without them


def three_way(console: Console, title: str, pools: Sequence[StoredPool], cap: int, key: Key) -> dict[str, Any]:
    """`vote_plan` beside other rules: accuracy, draws and rounds of each; then against each at its own accuracy.

    Halves of the questions take prices (and the pilot's prior) from each other: of the plans that are there as accurate
    as the rule, up to `AS_ACCURATE`, the one whose larger ratio, of draws or of rounds to the rule's, is the smallest.
    Where none is, it is the most accurate. The default prior and that of the pilot are two rows.
    """
    groups = [pool.question.id for pool in pools]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    halves = [np.array([numbers[name] % 2 == side for name in groups]) for side in (0, 1)]

    is_known = all(cost > 0 for pool in pools for cost in pool.costs)

    def spent(spec: str) -> Spent:
        rule: StopRule[Any] = build("stop", spec)
        (row,) = replay_pools([rule] * len(pools), VOTE, pools, key, caps=[cap], num_orders=ROUND_ORDERS)
        found = measured(row)
        return Spent(found.accuracy, found.samples, found.rounds, found.tokens if is_known else found.tokens * math.nan)

    others = ("asc(0.9)", "asc(0.95)", "asc(0.99)", "esc(3)", "esc(5)", "agreement(2)", "agreement(3)", "lead(2)")
    fixed = [f"cap({num})" for num in (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32) if num <= cap]
    priors = [learned_vote_prior(*_votes(pools, halves[1 - side])) for side in (0, 1)]
    plans: dict[tuple[tuple[float, float], int | None], Spent] = {
        (prices, None): spent(_plan(prices, cap)) for prices in PRICES
    }
    for side, prices in itertools.product((0, 1), PRICES):
        plans[prices, side] = spent(_plan(prices, cap, priors[side]))
    rows = {spec: spent(spec) for spec in (*fixed, *others, f"vote_plan(cap={cap})")}
    figures: dict[str, Any] = {"priors": priors, "orders": ROUND_ORDERS, "rows": {}, "against": {}}
    table = Table(f"{title}, {len(pools)} pools", "accuracy", "draws", "rounds", "tokens", box=None)
    shown = {**rows, **{_plan(prices, cap): row for (prices, side), row in plans.items() if side is None}}
    for spec, row in shown.items():
        figures["rows"][spec] = {name: float(column.mean()) for name, column in row._asdict().items()}
        tokens = f"{row.tokens.mean():.0f}" if is_known else ""
        cells = [f"{row.accuracy.mean():.4f}", f"{row.draws.mean():.2f}", f"{row.rounds.mean():.2f}", tokens]
        table.add_row(spec, *cells)
    console.print(table, "")
    against_draws = "rounds, asked after each draw"  # as published, asc and its like look after each
    columns = ("prior", "accuracy", "draws", "rounds", against_draws, "prices")
    table = Table(f"{title}: vote_plan against", *columns, box=None)
    rivals = ("cap(2)", "cap(4)", f"cap({cap // 2})", *others)
    for spec, kind in itertools.product(dict.fromkeys(rivals), ("default", "pilot")):
        rival, plan = rows[spec], Spent(*(np.zeros(len(pools)) for _ in Spent._fields))
        chosen = []
        for side in (0, 1):
            own, other = halves[side], halves[1 - side]
            found = {p: row for (p, of), row in plans.items() if of == (None if kind == "default" else side)}
            prices = _cheapest(found, rival, other)
            chosen.append(prices)
            for column, values in zip(plan, found[prices], strict=True):
                column[own] = values[own]
        figures["against"][f"{spec}, {kind}"] = against = {
            "settings": chosen,
            **_over("accuracy", plan.accuracy - rival.accuracy, groups, key.fold(spec, kind)),
            **_ratio("draws", plan.draws, rival.draws, groups, key.fold(spec, kind)),
            **_ratio("rounds", plan.rounds, rival.rounds, groups, key.fold(spec, kind)),
            **_ratio("rounds_over_draws", plan.rounds, rival.draws, groups, key.fold(spec, kind)),
        }
        forms = {"accuracy": "+.4f", "draws": ".2f", "rounds": ".2f", "rounds_over_draws": ".2f"}
        cells = [
            f"{against[name]:{form}} [{against[f'{name}_low']:{form}}, {against[f'{name}_high']:{form}}]"
            for name, form in forms.items()
        ]
        table.add_row(spec, kind, cells[0], *(f"x {cell}" for cell in cells[1:]), " / ".join(map(str, chosen)))
    console.print(table, "")
    return figures


def _votes(pools: Sequence[StoredPool], some: Floats) -> tuple[list[list[int]], list[int]]:
    """The votes of some questions' answers, and their draws."""
    answers = [pool.answers for pool, is_in in zip(pools, some, strict=True) if is_in]
    counts = [list(Counter(answer for answer in each if answer is not None).values()) for each in answers]
    return counts, [len(each) for each in answers]


def _plan(prices: tuple[float, float], cap: int, prior: tuple[float, float] | None = None) -> str:
    more = "" if prior is None else f", prior=({prior[0]:.4g}, {prior[1]:.4g})"
    return f"vote_plan({prices[0]:g}, {prices[1]:g}, {cap}{more})"


def _cheapest(plans: Mapping[tuple[float, float], Spent], rival: Spent, some: Floats) -> tuple[float, float]:
    """The prices whose plan is as accurate as the rival on some questions, and best in the worse of both ratios."""
    accuracy = {prices: float(row.accuracy[some].mean()) for prices, row in plans.items()}
    enough = min(float(rival.accuracy[some].mean()) - AS_ACCURATE, max(accuracy.values()))

    def cost(prices: tuple[float, float]) -> tuple[float, float]:
        pairs = ((plans[prices].draws, rival.draws), (plans[prices].rounds, rival.rounds))
        ratios = [float(ours[some].mean() / theirs[some].mean()) for ours, theirs in pairs]
        return max(ratios), min(ratios)

    return min((prices for prices in plans if accuracy[prices] >= enough), key=cost)


def _over(name: str, gain: Floats, groups: Sequence[str], key: Key) -> dict[str, float]:
    low, high = bootstrap(gain, groups, key)
    return {name: float(gain.mean()), f"{name}_low": low, f"{name}_high": high}


def _ratio(name: str, ours: Floats, theirs: Floats, groups: Sequence[str], key: Key) -> dict[str, float]:
    """The ratio of two means, with its 95 % interval over questions."""
    codes = np.unique(groups, return_inverse=True)[1]
    sums = [np.bincount(codes, weights=values) for values in (ours, theirs)]
    places = key.generator().integers(len(sums[0]), size=(NUM_BOOTSTRAPS, len(sums[0])))
    low, high = np.quantile(sums[0][places].sum(axis=1) / sums[1][places].sum(axis=1), [0.025, 0.975])
    return {name: float(ours.sum() / theirs.sum()), f"{name}_low": float(low), f"{name}_high": float(high)}


def rounds(console: Console, key: Key, num_runs: int) -> dict[str, Any]:
    """The three-way comparison on the recordings that can be voted on."""
    folder = data_folder()
    assert folder is not None
    figures = {}
    for cap in (8, 16):
        pools = otis_pools(num_runs, cap)
        figures[f"otis_aime_{cap}x"] = three_way(console, f"otis_aime, cap {cap}", pools, cap, key.fold("otis", cap))
    for part in ("input", "output"):
        name = f"cruxeval_codellama7b_10x/{part}"
        figures[name] = three_way(console, f"cruxeval {part}, cap 10", stored(name), 10, key.fold("cruxeval", part))
    figures["math_qwen_rm_8x"] = three_way(console, "math_qwen, cap 8", stored("math_qwen_rm_8x"), 8, key.fold("math"))
    return figures


def otis_pools(num_runs: int, least: int) -> list[StoredPool]:
    """45 problems, at least so many answers each, by `num_runs` of the runs that have them."""
    folder = data_folder()
    assert folder is not None
    rows = read_table(folder / "recorded" / "otis_aime_8x" / "otis_mock_aime_runs.jsonl.gz")
    runs = sorted({row["run"] for row in rows if row["n"] >= least})
    picked = [runs[place] for place in np.linspace(0, len(runs) - 1, num_runs).round().astype(int)]
    return [pool for run in picked for pool in stored(f"otis_aime_8x/{run}") if len(pool.candidates) >= least]


def otis(console: Console, key: Key, num_runs: int) -> dict[str, Any]:
    """45 problems, 8 answers each by `num_runs` of the runs whose tokens are on record: the majority of votes."""
    folder = data_folder()
    assert folder is not None
    rows = read_table(folder / "recorded" / "otis_aime_8x" / "otis_mock_aime_runs.jsonl.gz")
    runs = sorted({row["run"] for row in rows if row["n"] >= 8 and row.get("output_tokens")})
    picked = [runs[place] for place in np.linspace(0, len(runs) - 1, num_runs).round().astype(int)]
    pools = [pool for run in picked for pool in stored(f"otis_aime_8x/{run}") if len(pool.candidates) >= 8]
    families = {name: Family(specs, VOTE) for name, specs in VOTE_RULES.items()}
    title = f"otis_aime, {len(picked)} of {len(runs)} runs x 45, cap 8"
    return score(console, title, pools, families, 8, key.fold("otis"))


def maths(console: Console, key: Key) -> dict[str, Any]:
    """100 problems, 8 responses each, with the scores of a reward model: votes, and the best score."""
    pools = stored("math_qwen_rm_8x", scores="reward")
    scores = np.array([c.scores["score"] for pool in pools for c in pool.candidates])
    targets = [f"passed(score, score={q:.3f})" for q in np.quantile(scores, [0.2, 0.35, 0.5, 0.65, 0.8, 0.9])]
    families = {name: Family(specs, VOTE) for name, specs in VOTE_RULES.items()}
    families["first pass, chosen"] = Family(targets, BEST)
    families["ucb_pandora .01"] = Family(("ucb_pandora(score, price=0.01, first=3, cap=8)",), BEST)
    families["beacon .05"] = Family(("beacon(score, price=0.05, first=3, cap=8)",), BEST)
    return score(console, "math_qwen, cap 8", pools, families, 8, key.fold("math"))


def humaneval(console: Console, key: Key, every: int) -> dict[str, Any]:
    """Every `every`-th problem, 100 programs each; the verifier runs the examples of the official problem's text, which
    the model was not shown. Problems without any are left out."""
    name = "humaneval_codegen16b_100x"
    recording, task = load_recording(name), recorded_task(name)
    verify, pools = build("verifier", "public_tests"), []
    shown = {each.question.id.rpartition("/")[2]: each.question.facts for each in build("task", "humaneval").problems}
    for problem, draws in list(zip(recording.problems, recording.draws, strict=True))[::every]:
        facts = shown[problem.question.id.rpartition("/")[2]]
        if not facts.get("tests"):
            continue
        question = problem.question._replace(facts={**problem.question.facts, "tests": facts["tests"]})
        texts = [draw.completion.text for draw in draws]
        known: dict[str, tuple[str | None, float, float]] = {}
        for text in dict.fromkeys(texts):
            answer = task.read(problem.question, text)
            passed = verify(question, Candidate(text)).value
            known[text] = (answer, task.grade(problem, answer).value, passed)
        candidates = tuple(
            Candidate(text, scores={} if math.isnan(known[text][2]) else {"score": known[text][2]}) for text in texts
        )
        costs = tuple(float(draw.completion.usage.tokens) for draw in draws)
        answers, grades = tuple(known[t][0] for t in texts), tuple(known[t][1] for t in texts)
        pools.append(StoredPool(problem.question, candidates, answers, grades, costs))
    families = {
        "first pass": Family(("passed(score, cap=64)",), BEST),
        "first pass, futile below .1": Family(("passed(score, price=0.1, cap=64)",), BEST),
        "first pass, futile below .05": Family(("passed(score, price=0.05, cap=64)",), BEST),
        "optscale, code, peek 5": Family(("optscale(0.95, score, target=1, mode='code', peek=5, cap=64)",), BEST),
    }
    return score(console, f"humaneval, {len(pools)} problems, cap 64", pools, families, 64, key.fold("humaneval"))


def _above(row: Measured, line: Sequence[Measured], some: Floats) -> float:
    part = [Measured(*(column[some] for column in each)) for each in line]
    equal = at_equal_tokens(part, float(row.tokens[some].mean()))
    return float((row.accuracy[some] - equal).mean())


def _name(selector: Selector) -> str:
    return "vote" if selector is VOTE else "best"
