"""What an arm did: a stored run with arms against a stored run without, at equal draws and at equal tokens, in words.

All of it is computed from what the store holds; nothing is drawn. The baseline must be a run of its own: the identity
arm's draws within the mix are part of the mix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from samplewise.effect.ideas import LeakyArm, find_leaks
from samplewise.evaluate import Outcomes, load
from samplewise.keys import Key
from samplewise.measure import (
    Counts,
    Dispersion,
    Divergence,
    Estimate,
    Findings,
    Gain,
    Transitions,
    Verdict,
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
from samplewise.numerics import Floats
from samplewise.store import Run, Store

UNKNOWN = Estimate(*(math.nan,) * 4, 0, 0)


class ArmRow(NamedTuple):
    """One arm's draws of a run. `accuracy` is of a single draw."""

    arm: str
    num_draws: int  # a question
    accuracy: Estimate


class Effect(NamedTuple):
    """`num_draws` a question are compared; the mix's tokens for them pay for `direct_draws` direct ones."""

    num_draws: int
    direct_draws: int
    arms: tuple[ArmRow, ...]
    transitions: Transitions  # of coverage by the first draws of both, at equal draws
    gain: Gain
    dispersion: Dispersion
    divergence: Divergence
    findings: Findings
    verdict: Verdict
    leaks: tuple[LeakyArm, ...] = ()  # thinkers' ideas that hold the answer of their own draws


class _Read(NamedTuple):
    outcomes: Outcomes
    arms: NDArray[np.int64]  # (P, N)
    names: tuple[str, ...]

    @property
    def num_draws(self) -> int:
        return int(self.outcomes.num_draws.min(initial=self.outcomes.graded.grades.shape[1]))

    @property
    def tokens(self) -> float:
        """A draw, with its share of the thinkers' tokens."""
        return float(np.nanmean(self.outcomes.tokens_per_draw))


def measure_effect(
    store: Store,
    direct: Run,
    mix: Run,
    ladder: Run | None = None,
    *,
    draws: int | None = None,
    smallest_gain: float = 0.05,
    seed: int = 0,
) -> Effect:
    """The effect of the arms of run `mix` over run `direct`, and over a temperature `ladder` where there is one.

    `draws` of the mix are compared, as many as there are by default; where the direct run has too few for the mix's
    tokens, fewer. `smallest_gain` in coverage is the one of interest, to be stated before drawing. ValueError for runs
    over different questions, or where the mix has a single arm.
    """
    key = Key(seed).fold("effect")
    base, mixed, rungs = _read(store, direct), _read(store, mix), None if ladder is None else _read(store, ladder)
    for other in (mixed, rungs):
        if other is not None and other.outcomes.questions != base.outcomes.questions:
            raise ValueError("the runs hold different questions; only equal ones can be compared")
    if len(mixed.names) < 2:
        raise ValueError(f"run {mix.id} has one arm alone, {mixed.names[0]}: there is nothing to compare within it")
    pay = mixed.tokens / base.tokens  # direct draws for a draw of the mix
    num = min(mixed.num_draws, int(base.num_draws / max(1.0, pay)))
    num = num if draws is None else min(num, draws)
    if num < 2:
        raise ValueError("fewer than two draws of each run can be compared; draw more direct ones")
    afforded = max(1, int(num * pay + 1e-9))
    counts = counts_by_arm(mixed.outcomes.graded.grades, mixed.arms, len(mixed.names))
    allocation = np.bincount(mixed.arms[0, :num], minlength=len(mixed.names))
    covered = 1.0 - _failure(mixed, counts, num)
    plain = base.outcomes.graded.grades
    at_draws = paired_difference(covered, pass_at(plain, [num])[0])
    at_tokens = paired_difference(covered, pass_at(plain, [afforded])[0])
    over_ladder = UNKNOWN if rungs is None else paired_difference(covered, 1.0 - _failure(rungs, None, num))
    wrong = (plain == 0).sum(axis=1)[:, None]
    gain = two_factor_gain(counts, Counts(wrong, (~np.isnan(plain)).sum(axis=1)[:, None]), allocation, key.fold("gain"))
    dispersion = log_dispersion(counts, key.fold("dispersion"))
    divergence = answer_divergence(mixed.outcomes.graded.answers, mixed.arms, key.fold("divergence"))
    rows = tuple(
        ArmRow(name, round(counts.draws[:, place].mean()), mean_interval(_share(counts, place)))
        for place, name in enumerate(mixed.names)
    )
    worst = min(rows, key=lambda row: row.accuracy.value if not math.isnan(row.accuracy.value) else math.inf)
    findings = Findings(
        num_draws=num,
        smallest_gain=smallest_gain,
        detectable=1.96 * at_draws.stderr,
        direct=mean_interval(pass_at(plain, [num])[0]),
        total=gain.total,
        dispersion_p=dispersion.p_value,
        divergence_p=divergence.p_value,
        at_equal_draws=at_draws,
        at_equal_tokens=at_tokens,
        over_ladder=over_ladder,
        selected=_selected(store, direct, mix),
        worst_arm=worst.arm,
    )
    ever = (np.nanmax(each.outcomes.graded.grades[:, :num], axis=1) for each in (base, mixed))
    moved = count_transitions(*(np.round(each) for each in ever))
    said, leaks = give_verdict(findings), find_leaks(store, mix)
    return Effect(num, afforded, rows, moved, gain, dispersion, divergence, findings, said, leaks)


def _read(store: Store, run: Run) -> _Read:
    outcomes = load(store, run.id)
    names: dict[str, int] = {}
    arms = np.zeros(outcomes.graded.grades.shape, dtype=np.int64)
    for row, record in enumerate(store.records(run.id)):
        codes = [names.setdefault(candidate.arm, len(names)) for candidate in record.pool.candidates]
        arms[row, : len(codes)] = codes
    return _Read(outcomes, arms, tuple(names))


def _failure(read: _Read, counts: Counts | None, num: int) -> Floats:
    """Chance (P,) that `num` draws, shared as the run shared its first ones, all fail."""
    counts = counts or counts_by_arm(read.outcomes.graded.grades, read.arms, len(read.names))
    num = min(num, read.num_draws)
    shares = np.array([np.bincount(row[:num], minlength=len(read.names)) for row in read.arms])
    return stratified_failure(counts, shares)


def _share(counts: Counts, place: int) -> Floats:
    drawn = counts.draws[:, place]
    right = drawn - counts.failures[:, place]
    share: Floats = np.divide(right, drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
    return share


def _selected(store: Store, direct: Run, mix: Run) -> Estimate:
    """The gain of the chosen answers, where both runs chose in the same way."""
    chosen: list[dict[str, float]] = []
    selectors: Sequence[str] = [run.recipe.rpartition(" | ")[2] for run in (direct, mix)]
    for run, selector in zip((direct, mix), selectors, strict=True):
        rows = store.selections(run.id)
        chosen.append({question: grade for question, name, _, _, grade in rows if name == selector})
    if selectors[0] != selectors[1] or chosen[0].keys() != chosen[1].keys():
        return UNKNOWN
    questions = sorted(chosen[0])
    return paired_difference([chosen[1][q] for q in questions], [chosen[0][q] for q in questions])
