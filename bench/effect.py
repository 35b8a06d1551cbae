"""Does what we say of an arm's effect hold? Every estimator against a synthetic world whose truth is known.

Standard world (tests.support.policy): direct, a verbatim copy of it, five arms that lean to other modes, an
irrelevant one. Outcomes are simulated straight from the success probabilities; truths are exact integrals. Repeats draw
fresh questions and fresh outcomes, as a user's next benchmark would. For each estimator: the bias in standard errors of
the mean over repeats, and how often its 95 % interval holds the truth. Then what allocation gains over round-robin,
what the screen drops, and negative controls, in which there is no effect to be found.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import beta
from tests.support.policy import LEVELS, NUM_ANSWERS, Policy, Slant, World, level_world, standard_world

from bench.about import about
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.measure.blindspots import blind_spots
from samplewise.measure.clustering import analyse_clustering, between_arm_variance
from samplewise.measure.compare import paired_difference
from samplewise.measure.dispersion import log_dispersion, mean_deviation
from samplewise.measure.estimate import mean_interval
from samplewise.measure.gain import certain_dispersion, certified_reused, even_allocation, fidelity, two_factor_gain
from samplewise.measure.margins import margin_pieces, vote_margins
from samplewise.measure.powers import (
    ArmCounts,
    failure_power,
    independent_failure,
    reused_failure,
    stratified_failure,
)
from samplewise.measure.spread import answer_divergence, divergence
from samplewise.measure.transitions import count_transitions
from samplewise.vary.allocate import Betas, allocate_greedily, fit_betas, hazard_order, screen_rung

SEED = 0
NUM_DRAWS = 32  # N
NUM_PROBLEMS = 200
NUM_GRADED = 40  # draws of each arm, and of a direct run of its own
WORLD = standard_world()
NUM_ARMS = len(WORLD.arms)
EVEN = even_allocation(NUM_DRAWS, NUM_ARMS)
ANSWER_DRAWS = 16  # per arm, for what looks at answers
# truth, Beta(a, b) of the solvable: worlds with problems that nothing solves
BLIND = ((0.2, 0.6, 1.5), (0.2, 0.3, 2.0), (0.0, 0.3, 2.0))


# what is biased by construction, and says so where it is defined
STATED = {
    "certified_reused": "a bound from below",
    "divergence": "about 1 % low at 16 draws per arm where arms differ",
    "margin_bonus": "low where wrong answers differ; the interval makes up for it",
    "zero_fraction": "a bound from above",
    "chao2": "a bound from above",
    "blind": "not identifiable: the interval begins at 0",
}


class Interval(NamedTuple):
    """One repeat of one estimator."""

    value: float
    low: float
    high: float


class Truths(NamedTuple):
    """Exact expectations over the world's questions."""

    mix: float
    independent: float
    reused: float
    direct: float
    alone: Floats  # (M,) failure of each arm alone
    variance: float
    within: float
    m1_variance: float  # what the pooled correction by variance aims at: sqrt(2/pi (M-1)/M E var_j log f)
    m1_permutation: float  # the other one: root mean square of M1


class Tally:
    """Repeats of many estimators."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Interval]] = {}
        self.truth: dict[str, float] = {}

    def add(self, name: str, truth: float, measured: Any) -> None:
        """Add one repeat of an estimator: anything with a value and the ends of its interval."""
        self.seen.setdefault(name, []).append(Interval(measured.value, measured.low, measured.high))
        self.truth[name] = truth

    def figures(self) -> dict[str, dict[str, Any]]:
        return {name: self.figure(name) for name in self.seen}

    def figure(self, name: str) -> dict[str, Any]:
        values, low, high = np.array(self.seen[name]).T
        truth = self.truth[name]
        known = ~np.isnan(low)
        error = values.std(ddof=1) / math.sqrt(len(values))
        covered = ((low <= truth) & (truth <= high))[known]
        return {
            "truth": truth,
            "mean": values.mean(),
            "bias": values.mean() - truth,
            "bias_se": (values.mean() - truth) / error if error > 0 else math.nan,
            "coverage": covered.mean() if len(covered) else math.nan,
            "below": (high < truth)[known].mean() if known.any() else math.nan,
            "above": (low > truth)[known].mean() if known.any() else math.nan,
            "repeats": len(values),
            "stated": next((text for part, text in STATED.items() if part in name), ""),
        }


def truths(world: World) -> Truths:
    items, weights = world.grid()
    failure = 1 - world.success(items)
    spread = mean_deviation(np.log(failure))
    return Truths(
        mix=world.failure(EVEN),
        independent=float(weights @ failure.mean(axis=1) ** NUM_DRAWS),
        reused=float(weights @ (failure**NUM_DRAWS).mean(axis=1)),
        direct=float(weights @ failure[:, 0] ** NUM_DRAWS),
        alone=weights @ failure**NUM_DRAWS,
        variance=float(weights @ failure.var(axis=1, ddof=1)),
        within=float(weights @ (failure * (1 - failure)).mean(axis=1)),
        m1_variance=math.sqrt(weights @ np.log(failure).var(axis=1) * 2 / math.pi),
        m1_permutation=math.sqrt(weights @ spread**2),
    )


def drawn(success: Floats, num_draws: int, generator: np.random.Generator) -> ArmCounts:
    draws = np.full(success.shape, num_draws)
    return ArmCounts(draws - generator.binomial(num_draws, success), draws)


def estimators(num_repeats: int, key: Key) -> Tally:
    """From counts: powers, gain, fidelity, variance, dispersion."""
    tally, true = Tally(), truths(WORLD)
    for repeat in range(num_repeats):
        here = key.fold("counts", repeat)
        generator = here.generator()
        success = WORLD.success(WORLD.items(here.fold("items"), NUM_PROBLEMS))
        arms, direct = drawn(success, NUM_GRADED, generator), drawn(success[:, :1], NUM_GRADED, generator)
        plain = failure_power(direct.failures, direct.draws, NUM_DRAWS)[:, 0]
        mix = stratified_failure(arms, EVEN)
        tally.add("direct_failure", true.direct, mean_interval(plain))
        tally.add("stratified_failure", true.mix, mean_interval(mix))
        tally.add("independent_failure", true.independent, mean_interval(independent_failure(arms, NUM_DRAWS)))
        tally.add("reused_failure", true.reused, mean_interval(reused_failure(arms, NUM_DRAWS)))
        tally.add("gain_difference", true.direct - true.mix, paired_difference(plain, mix))
        gain = two_factor_gain(arms, direct, EVEN, here.fold("gain"))
        tally.add("gain_total", true.mix / true.direct, gain.total)
        tally.add("gain_diversity", true.mix / true.reused, gain.diversity)
        tally.add("gain_fidelity", true.reused / true.direct, gain.fidelity)
        faith = fidelity(arms, direct, NUM_DRAWS, here.fold("fidelity"))
        tally.add("eps_mode", true.alone[2] / true.direct - 1, faith.by_arm[2])
        tally.add("eps_irrelevant", true.alone[-1] / true.direct - 1, faith.by_arm[-1])
        variance = between_arm_variance(arms)
        tally.add("between_arm_variance", true.variance, mean_interval(variance, support=None))
        icc = true.variance / (true.variance + true.within)
        tally.add("icc", icc, analyse_clustering(arms).pooled_icc)
        spread = log_dispersion(arms, here.fold("m1"), num_shuffles=20)
        tally.add("m1_variance", true.m1_variance, Interval(spread.by_variance, spread.low, spread.high))
        tally.add("m1_permutation", true.m1_permutation, Interval(spread.by_permutation, math.nan, math.nan))
        least = certain_dispersion(arms, mix, here.fold("certified"))
        bound = certified_reused(mix, least, NUM_DRAWS)  # a bound from below: only "missed high" counts against it
        tally.add("certified_reused", true.reused, Interval(bound, bound, math.inf))
    return tally


def answer_estimators(num_repeats: int, key: Key, tally: Tally) -> None:
    """From answers: divergence and the pieces of the vote's margin, at 16 draws per arm, each arm with a favourite
    wrong answer of its own. The truth is the mean over 400,000 questions."""
    world = standard_world(own_attractors=True)
    arms = np.repeat(np.arange(NUM_ARMS), ANSWER_DRAWS)
    parts = []
    for part in range(10):
        policy = Policy(world, 40_000, seed=key.fold("truth", part).seed())
        distribution = policy.answer_distributions()
        pieces = margin_pieces(distribution, policy.right)
        parts.append([divergence(distribution).mean(), pieces.fidelity_term.mean(), pieces.bonus.mean()])
    true = np.mean(parts, axis=0)
    for repeat in range(num_repeats):
        here = key.fold("answers", repeat)
        policy = Policy(world, NUM_PROBLEMS, seed=here.seed())
        answers = answers_of(policy, arms, here.fold("draws").generator())
        measured = answer_divergence(answers, arms, here.fold("null"), num_shuffles=20)
        margins = vote_margins(answers, arms, policy.right, here.fold("margins"), num_shuffles=20)
        tally.add("divergence", true[0], measured.corrected)
        tally.add("margin_fidelity", true[1], margins.fidelity_term)
        tally.add("margin_bonus", true[2], margins.bonus)


def answers_of(policy: Policy, arms: Any, generator: np.random.Generator) -> Any:
    """Answers (P, N) drawn from the policy's distributions."""
    upto = policy.answer_distributions().cumsum(axis=2)[:, arms]  # (P, N, K)
    picks = (upto < generator.random((len(upto), len(arms), 1))).sum(axis=2)
    return np.minimum(picks, NUM_ANSWERS - 1)


def blind_estimators(num_repeats: int, key: Key, tally: Tally) -> None:
    """The share of problems that nothing solves, at 100 draws, and the least share that is hard."""
    for share, a, b in BLIND:
        for repeat in range(num_repeats):
            generator = key.fold("blind", str((share, a, b)), repeat).generator()
            probability = np.where(generator.random(NUM_PROBLEMS) < share, 0.0, generator.beta(a, b, NUM_PROBLEMS))
            measured = blind_spots(generator.binomial(100, probability), 100)
            name = f"blind_{share}_beta_{a}_{b}"
            tally.add(f"{name}_zero_fraction", share, Interval(measured.zero_fraction, math.nan, math.nan))
            tally.add(f"{name}_chao2", share, Interval(measured.chao, math.nan, math.nan))
            tally.add(name, share, Interval(measured.beta_binomial, 0.0, measured.high))
            hard = share + (1 - share) * float(beta.cdf(measured.hard, a, b))
            tally.add(f"{name}_hard", hard, Interval(measured.hard_low, measured.hard_low, 1.0))


def allocation(num_repeats: int, key: Key) -> dict[str, Any]:
    """pass@N of plans made from calibration draws, on the whole world: mean and standard deviation over repeats."""
    rows: dict[str, Any] = {}
    for num_draws in (8, 32, 100):
        even = even_allocation(num_draws, NUM_ARMS)
        only = [num_draws] + [0] * (NUM_ARMS - 1)
        rows[str(num_draws)] = {"direct": 1 - WORLD.failure(only), "round_robin": 1 - WORLD.failure(even)}
    for num, graded in ((40, 8), (80, 20), (200, 50)):
        measured: dict[str, list[float]] = {}
        for repeat in range(num_repeats):
            here = key.fold("allocation", num, repeat)
            counts = drawn(WORLD.success(WORLD.items(here.fold("items"), num)), graded, here.generator())
            won = counts.draws - counts.failures
            prior = fit_betas(won, counts.draws)
            posterior: Betas = prior.after(won, counts.draws)
            for num_draws in (8, 32, 100):
                for name, plan in (
                    ("greedy", allocate_greedily(posterior, num_draws)),
                    ("hazard", hazard_order(prior, num_draws)),
                ):
                    measured.setdefault(f"{num_draws}/{name}_{num}x{graded}", []).append(1 - WORLD.failure(plan.counts))
        for name, values in measured.items():
            num_draws_name, _, column = name.partition("/")
            rows[num_draws_name][column] = float(np.mean(values))
            rows[num_draws_name][f"{column}_sd"] = float(np.std(values, ddof=1))
    return rows


def screen(num_repeats: int, key: Key) -> dict[str, float]:
    """Successive halving, 8 then 16 then 32 graded draws per arm on 200 questions: how often each arm is dropped."""
    dropped = np.zeros(NUM_ARMS)
    paid = 0
    for repeat in range(num_repeats):
        here = key.fold("screen", repeat)
        generator = here.generator()
        success = WORLD.success(WORLD.items(here.fold("items"), NUM_PROBLEMS))
        failures, draws = np.zeros(success.shape, dtype=np.int64), np.zeros(success.shape, dtype=np.int64)
        kept: tuple[int, ...] = tuple(range(NUM_ARMS))
        for rung, wanted in enumerate((8, 16, 32)):
            for arm in kept:
                more = wanted - draws[:, arm]
                failures[:, arm] += generator.binomial(more, 1 - success[:, arm])
                draws[:, arm] = wanted
                paid += int(more.sum())
            kept = screen_rung(ArmCounts(failures, draws), kept, NUM_DRAWS, here.fold(rung)).kept
        dropped += [arm not in kept for arm in range(NUM_ARMS)]
    shares = {arm.name: share for arm, share in zip(WORLD.arms, dropped / num_repeats, strict=True)}
    return {**shares, "draws_per_question": paid / num_repeats / NUM_PROBLEMS}


def level_found(num_repeats: int, key: Key) -> float:
    """How often the relevance level that is best by design, 3, covers most at N draws: 200 questions, 16 graded draws
    of direct and of five arms of each level."""
    measured = 0
    for repeat in range(num_repeats):
        here = key.fold("levels", repeat)
        generator = here.generator()
        worlds = {level: level_world(level) for level in LEVELS}
        items = WORLD.items(here.fold("items"), NUM_PROBLEMS)
        failure = {
            level: stratified_failure(drawn(world.success(items), 16, generator), even_allocation(NUM_DRAWS, 6)).mean()
            for level, world in worlds.items()
        }
        measured += min(failure, key=lambda level: failure[level]) == 3
    return measured / num_repeats


def controls(num_repeats: int, key: Key) -> dict[str, float]:
    """Where there is no effect: direct in eight copies, and real arms whose labels are shuffled within a question."""
    copies = World(tuple(Slant(f"copy/{i}", WORLD.arms[0].modes) for i in range(NUM_ARMS)))
    rows: dict[str, list[float]] = {}

    def record(**values: float) -> None:
        for name, value in values.items():
            rows.setdefault(name, []).append(value)

    labels = np.repeat(np.arange(NUM_ARMS), ANSWER_DRAWS)
    for repeat in range(num_repeats):
        here = key.fold("controls", repeat)
        generator = here.generator()
        success = copies.success(copies.items(here.fold("items"), NUM_PROBLEMS))
        arms, direct = drawn(success, NUM_GRADED, generator), drawn(success[:, :1], NUM_GRADED, generator)
        gain = two_factor_gain(arms, direct, EVEN, here.fold("gain"))
        record(copies_gain=gain.total.value, copies_gain_covered=float(gain.total.low <= 1 <= gain.total.high))
        if repeat >= num_repeats // 2:
            continue
        spread = log_dispersion(arms, here.fold("m1"), num_shuffles=99)
        record(copies_m1_raw=spread.raw, copies_m1_variance=spread.by_variance)
        record(copies_m1_permutation=spread.by_permutation, copies_m1_p=spread.p_value)
        solved = [drawn(success[:, :1], NUM_DRAWS, generator).failures[:, 0] < NUM_DRAWS for _ in range(2)]
        record(copies_mcnemar_p=count_transitions(solved[0].astype(float), solved[1].astype(float)).p_value)
        mixed = drawn(WORLD.success(WORLD.items(here.fold("mixed"), NUM_PROBLEMS)), NUM_GRADED, generator)
        outcomes = np.arange(NUM_GRADED * NUM_ARMS) < mixed.failures.sum(axis=1)[:, None]
        dealt = generator.permuted(outcomes, axis=1).reshape(NUM_PROBLEMS, NUM_ARMS, NUM_GRADED).sum(axis=2)
        shuffled = log_dispersion(ArmCounts(dealt, mixed.draws), here.fold("shuffled"), num_shuffles=99)
        record(shuffled_m1_raw=shuffled.raw, shuffled_m1_variance=shuffled.by_variance)
        record(shuffled_m1_permutation=shuffled.by_permutation, shuffled_m1_p=shuffled.p_value)
        if repeat < num_repeats // 8:
            policy = Policy(copies, NUM_PROBLEMS, seed=here.seed())
            answers = answers_of(policy, labels, generator)
            measured = answer_divergence(answers, labels, here.fold("null"), num_shuffles=19)
            bonus = vote_margins(answers, labels, policy.right, here.fold("bonus"), num_shuffles=19)
            record(copies_divergence=measured.corrected.value, copies_divergence_p=measured.p_value)
            record(copies_margin_bonus=bonus.bonus.value, copies_margin_bonus_p=bonus.p_value)
    figures = {name: float(np.mean(values)) for name, values in rows.items()}
    for name, values in rows.items():
        if name.endswith("_p"):
            figures[f"{name}_below_.05"] = float(np.mean(np.array(values) <= 0.05))
            if "mcnemar" not in name:  # whose p-values are few and large by nature
                figures[f"{name}_distance"] = distance(values)
    return figures


def distance(p_values: Iterable[float]) -> float:
    """Return Kolmogorov's distance of p-values from the uniform distribution, times the root of their number.

    1.36 is its 5 % point. A discrete p-value lies on the high side.
    """
    p = np.sort(np.array(list(p_values)))
    upto = np.arange(1, len(p) + 1) / len(p)
    return float(np.sqrt(len(p)) * np.max(np.abs(upto - p)))


def rounded(value: Any) -> Any:
    """Plain numbers with four digits after the point."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else round(float(value), 4)
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=500, help="of the estimators; the rest scale with it")
    options = parser.parse_args()
    started, key, num = time.monotonic(), Key(SEED).fold("effect"), options.repeats
    console = Console(width=120)
    tally = estimators(num, key)
    answer_estimators(max(20, num // 4), key, tally)
    blind_estimators(max(10, num // 10), key, tally)
    table = Table("estimator", "truth", "mean", "bias / se", "coverage", "stated", box=None)
    figures = tally.figures()
    for name, row in figures.items():
        shown = (row["truth"], row["mean"], row["bias_se"], row["coverage"])
        table.add_row(name, *(f"{cell:.4f}" for cell in shown), row["stated"])
    console.print(table)
    rows = allocation(12, key)
    table = Table("pass@N", *rows, box=None)
    for name in rows["8"]:
        if not name.endswith("_sd"):
            cells = [f"{row[name]:.3f} ± {row.get(f'{name}_sd', 0):.3f}" for row in rows.values()]
            table.add_row(name, *cells)
    console.print(table)
    dropped = screen(max(20, num // 2), key)
    console.print("screen, share of runs that drop:", rounded(dropped))
    level = level_found(max(40, num // 2), key)
    console.print(f"the level that is best by design is found in {level:.3f} of runs")
    without = controls(max(40, num), key)
    console.print("negative controls:", rounded(without))
    gains = {n: row["greedy_200x50"] - row["round_robin"] for n, row in rows.items()}
    result = {
        "estimators": figures,
        "screen_drops": dropped["irrelevant"],
        "screen_kept_direct": 1 - dropped["direct"],
        "screen": dropped,
        "allocation_gain": gains["32"],
        "allocation_gains": gains,
        "allocation": rows,
        "level_found": level,
        "controls": without,
    }
    print(json.dumps({**about("effect", SEED, started), **rounded(result)}))


if __name__ == "__main__":
    main()
