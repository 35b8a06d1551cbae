"""Measure what arms changed: a stored run with arms against a stored run without, at equal draws and at equal tokens.

Everything is computed from the store; nothing is drawn. The baseline must be a run of its own: the identity arm's draws
within the mix are part of the mix.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from samplewise.analysis.effect.leaks import LeakyArm, find_leaks
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.measure import (
    ArmCounts,
    Compared,
    EffectVerdict,
    Estimate,
    Findings,
    Transitions,
    answer_divergence,
    count_transitions,
    counts_by_arm,
    give_verdict,
    log_dispersion,
    mean_interval,
    paired_difference,
    pass_at,
    stratified_failure,
    two_factor_gain,
)
from samplewise.recipe import Recipe, parse_stages, recipe
from samplewise.runs.arrays import Outcomes, load_outcomes
from samplewise.runs.bills import RunBill, bill_run
from samplewise.store.database import Store
from samplewise.store.records import Run

UNKNOWN = Estimate(*(math.nan,) * 4, 0, 0)


class ArmAccuracy(NamedTuple):
    """One arm's draws of a run. `accuracy` is of a single draw."""

    arm: str
    num_draws: int  # a question
    accuracy: Estimate


class Effect(NamedTuple):
    """What the arms of a mix changed. Coverage is compared at `num_draws` a question.

    The mix's tokens for these draws pay for `direct_draws` direct ones, 0 where the direct run has too few draws to
    spend them, and then there is no gain at equal tokens. Each gain in `findings` says what it was compared at.
    """

    num_draws: int
    direct_draws: int
    mix_tokens: float  # a question, what `num_draws` draws of the mix cost, helpers included
    direct_tokens: float  # a question, what `direct_draws` direct draws cost; nan for none
    recipes: tuple[str, str]  # of the mix and of the direct run, with these draws; "" for none
    arms: tuple[ArmAccuracy, ...]
    transitions: Transitions  # of coverage by the first `num_draws` draws of both
    findings: Findings
    verdict: EffectVerdict
    leaks: tuple[LeakyArm, ...] = ()  # helpers' ideas that hold the answer of their own draws


class EffectRuns(NamedTuple):
    """The runs to compare: without arms, with arms, and a temperature ladder where there is one."""

    direct: Run
    mix: Run
    ladder: Run | None = None


class _Drawn(NamedTuple):
    """A stored run's draws by arm."""

    run: Run
    line: Recipe
    bill: RunBill
    outcomes: Outcomes
    arms: Ints  # (P, N) index of each draw's arm in `names`
    names: tuple[str, ...]

    @property
    def grades(self) -> Floats:
        """Grades (P, N)."""
        return self.outcomes.graded.grades

    @property
    def num_draws(self) -> int:
        """The fewest draws of a question."""
        return int(self.outcomes.num_draws.min(initial=self.grades.shape[1]))

    def tokens(self, num: int) -> float:
        """Return the mean tokens of a question with `num` draws, helpers and the asks that failed before included."""
        return float(np.mean([bill.at(bill.asks_for(num)).total for bill in self.bill.questions]))

    def recipe_with(self, num: int) -> str:
        """Return the line with `num` draws, where its sampler counts them."""
        can_count = self.line.splittable and self.line.stages.sampler.name == "repeat"
        return self.line.with_draws(num).line if can_count else self.line.line

    def counts(self) -> ArmCounts:
        """Draws and failures by question and arm (P, M)."""
        return counts_by_arm(self.grades, self.arms, len(self.names))

    def allocation(self, num: int) -> Ints:
        """Return how many (M,) of the first `num` draws each arm has, on the first question."""
        return np.bincount(self.arms[0, :num], minlength=len(self.names))

    def coverage(self, num: int) -> Floats:
        """Return the probability (P,) that one of `num` draws, allocated as the run's first ones, is right."""
        allocation = np.array([np.bincount(row[:num], minlength=len(self.names)) for row in self.arms])
        return 1.0 - stratified_failure(self.counts(), allocation)

    def solved(self, num: int) -> Floats:
        """Return whether (P,) one of the first `num` draws is right."""
        solved: Floats = np.round(np.nanmax(self.grades[:, :num], axis=1))
        return solved


class _Budget(NamedTuple):
    num_draws: int  # of the mix
    direct_draws: int  # that the mix's tokens for them pay for; 0: more than the direct run has


def measure_effect(
    store: Store, runs: EffectRuns, *, draws: int | None = None, smallest_gain: float = 0.05, seed: int = 0
) -> Effect:
    """Measure the effect of a mix of arms over direct draws, and over a temperature ladder where there is one.

    `draws` of the mix are compared: by default all, but no more than any other run has, and fewer where the direct run
    has too few draws for the mix's tokens. Where it has too few for two draws of the mix, all are compared at equal
    draws alone. `smallest_gain` in coverage is the one of interest; state it before drawing. Raises ValueError for runs
    over different questions, a mix with a single arm, or fewer than two comparable draws.
    """
    key = Key(seed).fold("effect")
    direct, mix = _read(store, runs.direct), _read(store, runs.mix)
    ladder = None if runs.ladder is None else _read(store, runs.ladder)
    _check(direct, mix, ladder)
    most = min(run.num_draws for run in (direct, mix, ladder) if run is not None)
    budget = _common_budget(direct, mix, most if draws is None else min(draws, most))
    num = budget.num_draws
    arms = _accuracies(mix)
    worst = min(arms, key=lambda arm: math.inf if math.isnan(arm.accuracy.value) else arm.accuracy.value)
    counts = mix.counts()
    gain = two_factor_gain(counts, _direct_counts(direct), mix.allocation(num), key.fold("gain"))
    coverage = mix.coverage(num)
    at_draws = paired_difference(coverage, pass_at(direct.grades, [num])[0])
    paid_for = budget.direct_draws
    at_tokens = paired_difference(coverage, pass_at(direct.grades, [paid_for])[0]) if paid_for else UNKNOWN
    mix_tokens, direct_tokens = mix.tokens(num), direct.tokens(paid_for) if paid_for else math.nan
    over_ladder = UNKNOWN if ladder is None else paired_difference(coverage, ladder.coverage(num))
    findings = Findings(
        num_draws=num,
        smallest_gain=smallest_gain,
        detectable=1.96 * at_draws.stderr,
        direct=mean_interval(pass_at(direct.grades, [num])[0]),
        total=gain.total,
        dispersion_p=log_dispersion(counts, key.fold("dispersion")).p_value,
        divergence_p=answer_divergence(mix.outcomes.graded.answers, mix.arms, key.fold("divergence")).p_value,
        at_equal_draws=Compared(at_draws, "draws"),
        at_equal_tokens=Compared(at_tokens, "tokens"),
        over_ladder=Compared(over_ladder, "draws"),
        selected=_selected(store, runs),
        worst_arm=worst.arm,
        allocation=_allocation(runs.mix),
        mix_tokens=mix_tokens,
        direct_tokens=direct_tokens,
        direct_end=direct.tokens(direct.num_draws),
    )
    transitions = count_transitions(direct.solved(num), mix.solved(num))
    verdict, leaks = give_verdict(findings), find_leaks(store, runs.mix)
    recipes = (mix.recipe_with(num), direct.recipe_with(paid_for) if paid_for else "")
    return Effect(num, paid_for, mix_tokens, direct_tokens, recipes, arms, transitions, findings, verdict, leaks)


def _read(store: Store, run: Run) -> _Drawn:
    outcomes = load_outcomes(store, run.id)
    names: dict[str, int] = {}
    arms = np.zeros(outcomes.graded.grades.shape, dtype=np.int64)
    for row, record in enumerate(store.records(run.id)):
        codes = [names.setdefault(candidate.arm, len(names)) for candidate in record.pool.candidates]
        arms[row, : len(codes)] = codes
    line = recipe(run.recipe)
    return _Drawn(run, line, bill_run(store, run, line), outcomes, arms, tuple(names))


def _check(direct: _Drawn, mix: _Drawn, ladder: _Drawn | None) -> None:
    for other in (mix, ladder):
        if other is not None and other.outcomes.questions != direct.outcomes.questions:
            raise ValueError("the runs hold different questions; only equal ones can be compared")
    if len(mix.names) < 2:
        raise ValueError(f"run {mix.run.id} has one arm alone, {mix.names[0]}: there is nothing to compare within it")


def _common_budget(direct: _Drawn, mix: _Drawn, most: int) -> _Budget:
    """Return the draws to compare: at most `most`, and as many as the direct run has tokens for, where it has for two.

    The direct run has tokens for them where its next draw would go beyond them, or where it has at least as many draws
    at as many tokens.
    """
    if most < 2:
        raise ValueError("fewer than two draws of each run can be compared; draw more in the run that has the fewest")
    costs = [direct.tokens(num) for num in range(1, direct.num_draws + 1)]
    end = costs[-1] + (costs[-1] - costs[-2])  # where one more direct draw would fit
    for num in range(most, 1, -1):
        cost = mix.tokens(num)
        if cost < end:
            return _Budget(num, max(1, int(np.searchsorted(costs, cost, side="right"))))
    return _Budget(most, 0)


def _direct_counts(direct: _Drawn) -> ArmCounts:
    failures = (direct.grades == 0).sum(axis=1)[:, None]
    return ArmCounts(failures, (~np.isnan(direct.grades)).sum(axis=1)[:, None])


def _accuracies(mix: _Drawn) -> tuple[ArmAccuracy, ...]:
    counts = mix.counts()
    successes = counts.draws - counts.failures
    accuracy = np.divide(successes, counts.draws, out=np.full(counts.draws.shape, np.nan), where=counts.draws > 0)
    num_draws = counts.draws.mean(axis=0)
    return tuple(
        ArmAccuracy(name, round(num_draws[index]), mean_interval(accuracy[:, index]))
        for index, name in enumerate(mix.names)
    )


def _allocation(run: Run) -> str:
    """Return how the run allocated its draws to arms: the `share` in its recipe, or round-robin."""
    mix = parse_stages(run.recipe).vary
    return str(dict(mix.kwargs).get("share", "round-robin")) if mix else "round-robin"


def _selected(store: Store, runs: EffectRuns) -> Estimate:
    """Return the gain of the chosen answers, unknown where the runs chose differently."""
    selectors = [str(recipe(run.recipe).stages.selector) for run in (runs.direct, runs.mix)]
    direct, mix = (
        {row.question: row.grade for row in store.selections(run.id) if row.selector == selector}
        for run, selector in zip((runs.direct, runs.mix), selectors, strict=True)
    )
    if selectors[0] != selectors[1] or direct.keys() != mix.keys():
        return UNKNOWN
    questions = sorted(direct)
    return paired_difference([mix[q] for q in questions], [direct[q] for q in questions])
