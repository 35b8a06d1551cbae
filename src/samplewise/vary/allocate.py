"""Allocate N draws to arms from no, some, or many graded draws of each arm.

Arm 0 is the identity arm. Every allocator draws it first and at least once, so N = 1 is direct. f is a failure
probability, rows are problems, columns arms.

- `allocate_greedily` (offline): the next draw goes to the arm that lowers the expected failure over calibration
  problems most. Success probabilities are Beta posteriors; k more failures have probability
  prod_{i<k} (B + i) / (A + B + i). Integrating the probabilities out is essential: with point estimates a greedy
  allocation puts all draws on one lucky arm. Optimal for one problem, near the optimum for a mean. Below about 600
  graded draws per arm it gains nothing over arms in turn. An allocation fits the N it was made for.
- `screen_rung`: successive halving (Karnin et al. 2013) with failures at N draws as the score. It drops arms that the
  rest is better off without, or that fail far more than direct.
- `next_arm`, `hazard_order` (online, a verifier after each draw): the largest a / (a + b + k) / cost after k failures;
  right for independent Beta arms, whose hazards fall with every failure.

The method is our own and costs no requests. To use an allocation in a mix: `quota(*allocation.counts)` of share.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.measure._bootstrap import ratios
from samplewise.measure.beta_binomial import fit_beta_binomial, log_beta_binomial
from samplewise.measure.compare import paired_difference
from samplewise.measure.powers import ArmCounts, failure_power, read_counts, stratified_failure

PENALTY = 0.02  # on log a^2 and log b^2: keeps a fit of equal or empty counts finite
TAU = 1.0  # an arm is dropped if its failure at N is surely more than 1 + TAU times direct's


class Betas(NamedTuple):
    """Distributions Beta(a, b) of success probabilities: (M,), or (P, M) problem by problem."""

    a: Floats
    b: Floats

    def after(self, successes: ArrayLike, draws: ArrayLike) -> Betas:
        """Return the posterior after `successes` of `draws` (P, M). Ragged is fine: 0 draws leave the prior."""
        num_right, num_drawn = np.asarray(successes), np.asarray(draws)
        if (num_right < 0).any() or (num_right > num_drawn).any():
            raise ValueError("successes must be at least 0 and at most the draws")
        return Betas(self.a + num_right, self.b + num_drawn - num_right)


class DrawAllocation(NamedTuple):
    """Draws in the order in which they are given out, and the failure that is expected of them."""

    order: tuple[int, ...]  # the arm of each draw
    counts: tuple[int, ...]  # (M,)
    failure: float  # expected probability that all of them fail


def fit_betas(successes: ArrayLike, draws: ArrayLike) -> Betas:
    """Fit each arm's distribution of success probabilities over problems, (M,), from `successes` of `draws` (P, M).

    Beta-binomial by maximum likelihood, with a penalty of .02 on log a^2 and log b^2. Uniform for an arm without draws.
    """
    num_right, num_drawn = np.asarray(successes), np.asarray(draws)
    if (
        num_right.ndim != 2
        or num_drawn.shape != num_right.shape
        or (num_right < 0).any()
        or (num_right > num_drawn).any()
    ):
        raise ValueError(
            f"successes and draws must be (P, M), 0 <= successes <= draws; got {num_right.shape}, {num_drawn.shape}"
        )
    fits = [fit_beta_binomial(num_right[:, arm], num_drawn[:, arm], PENALTY) for arm in range(num_right.shape[1])]
    return Betas(*np.array(fits).reshape(-1, 2).T)


def allocate_greedily(posterior: Betas, budget: float, costs: Sequence[float] | None = None) -> DrawAllocation:
    """Return an allocation of `budget`, in draws or in the unit of `costs` (M,), from posteriors (P, M) of calibration
    problems.

    Each draw goes to the arm that lowers the log mean failure most per cost; ties go to the lowest arm. Arms that no
    longer fit the budget are skipped. ValueError if the budget does not pay for the identity arm's first draw.
    """
    a, b = np.atleast_2d(posterior.a), np.atleast_2d(posterior.b)
    price = _prices(costs, a.shape[1])
    if not budget >= price[0]:
        raise ValueError(f"the budget must pay one draw of the identity arm, {price[0]:g}; got {budget}")
    num_failed = np.zeros(a.shape[1])
    survival = np.ones(len(a))
    order: list[int] = []
    remaining = budget
    while (fits := price <= remaining * (1 + 1e-12)).any():
        miss = (b + num_failed) / (a + b + num_failed)  # (P, M)
        fall = np.log(survival.mean()) - np.log((survival[:, None] * miss).mean(axis=0))
        arm = 0 if not order else int(np.argmax(np.where(fits, fall / price, -np.inf)))
        survival *= miss[:, arm]
        num_failed[arm] += 1
        remaining -= price[arm]
        order.append(arm)
    return DrawAllocation(tuple(order), tuple(num_failed.astype(int).tolist()), float(survival.mean()))


def expected_failure(posterior: Betas, counts: Sequence[int]) -> float:
    """Return the mean over problems of the probability that all draws of `counts` (M,) fail."""
    a, b = np.atleast_2d(posterior.a), np.atleast_2d(posterior.b)
    return float(np.exp(log_beta_binomial(0, counts, a, b).sum(axis=1)).mean())


def next_arm(
    arms: Betas,
    failures: Sequence[int],
    *,
    pending: Sequence[int] | None = None,
    costs: Sequence[float] | None = None,
    identity_first: bool = True,
    key: Key | None = None,
) -> int:
    """Return the arm of the next draw on a question after `failures` (M,) without a success; ties go to the lowest arm.

    `pending` (M,) draws in flight count as failures, so a batch spreads. `costs` (M,) per draw. With a `key`,
    probabilities are drawn from their posteriors instead (Thompson sampling): for weak priors.
    """
    num_failed = np.asarray(failures) + (0 if pending is None else np.asarray(pending))
    if num_failed.shape != arms.a.shape or (num_failed < 0).any():
        raise ValueError(f"failures and pending must be {arms.a.shape}, at least 0; got {failures!r}, {pending!r}")
    price = _prices(costs, len(arms.a))
    if identity_first and not num_failed.any():
        return 0
    b = arms.b + num_failed
    probability = arms.a / (arms.a + b) if key is None else key.generator().beta(arms.a, b)
    return _first_largest(probability / price)


def hazard_order(
    arms: Betas, num_draws: int, costs: Sequence[float] | None = None, *, identity_first: bool = True
) -> DrawAllocation:
    """Return the draws that `next_arm` would make if all of them failed, and the probability that they do."""
    _check(num_draws, len(arms.a))
    failures = np.zeros(len(arms.a), dtype=np.int64)
    order: list[int] = []
    failure = 1.0
    for _ in range(num_draws):
        arm = next_arm(arms, failures.tolist(), costs=costs, identity_first=identity_first)
        failure *= float((arms.b[arm] + failures[arm]) / (arms.a[arm] + arms.b[arm] + failures[arm]))
        failures[arm] += 1
        order.append(arm)
    return DrawAllocation(tuple(order), tuple(failures.tolist()), failure)


class Rung(NamedTuple):
    """The arms that a rung of the screen kept, and for each dropped arm why."""

    kept: tuple[int, ...]
    dropped: dict[int, str]


def screen_rung(counts: ArmCounts, kept: Sequence[int], num_draws: int, key: Key, *, tau: float = TAU) -> Rung:
    """Drop arms of `kept` that a mix for N = `num_draws` is better off without; call again with twice the draws.

    `counts` (P, M) are all graded draws so far, on the same problems for every kept arm. Arm 0 is the identity and
    stays. An arm is dropped if the 95 % limit of its gain, failure at N without it minus failure with it, is at most 0,
    or if its failure alone is surely more than 1 + `tau` times direct's, at N draws or as many as all arms have. One
    arm at a time, the worst first, because of two arms that replace each other only one may go; at most half of `kept`
    in a rung. Gains at fewer draws than N mislead, so until the draws suffice, no arm is dropped for its gain.
    """
    failures, draws = read_counts(counts)
    names = list(kept)
    if not names or names[0] != 0 or len(set(names)) < len(names) or not set(names) <= set(range(failures.shape[1])):
        raise ValueError(f"kept must be different arms of 0 to {failures.shape[1] - 1}, 0 first; got {kept!r}")
    _check(num_draws, len(names))
    dropped: dict[int, str] = {}
    max_dropped = len(names) // 2
    rows = (draws[:, names] > 0).all(axis=1)
    failures, draws = failures[rows], draws[rows]
    if not len(failures):
        return Rung(tuple(names), dropped)
    min_draws = int(draws[:, names].min())
    size = min(num_draws, min_draws)
    alone = failure_power(failures[:, names], draws[:, names], size)
    ratio = ratios(alone, np.broadcast_to(alone[:, :1], alone.shape), key, 2_000)
    for index in sorted(range(1, len(names)), key=lambda index: -ratio[index].value):
        if ratio[index].low > 1 + tau and len(dropped) < max_dropped:
            dropped[names[index]] = f"fails {ratio[index].value:.2f} times as often as direct at {size} draws"
    while len(dropped) < max_dropped and len(remaining := [arm for arm in names if arm not in dropped]) > 1:
        if math.ceil(num_draws / (len(remaining) - 1)) > min_draws:
            break
        with_all = _shared_failure(failures, draws, remaining, num_draws)
        gains = {
            arm: paired_difference(
                _shared_failure(failures, draws, [a for a in remaining if a != arm], num_draws), with_all
            )
            for arm in remaining[1:]
        }
        arm = min(gains, key=lambda arm: gains[arm].high)
        if not gains[arm].high <= 0:
            break
        dropped[arm] = f"the rest solves {-100 * gains[arm].value:.1f} points more at {num_draws} draws without it"
    return Rung(tuple(arm for arm in names if arm not in dropped), dropped)


def _shared_failure(failures: ArrayLike, draws: ArrayLike, arms: list[int], num_draws: int) -> Floats:
    """Return the failure (P,) of N draws allocated evenly, the odd ones rotating over the problems as a keyed order
    would.

    Without the rotation they would favor the first arms.
    """
    counts = ArmCounts(np.asarray(failures)[:, arms], np.asarray(draws)[:, arms])
    num, over = len(arms), num_draws % len(arms)
    turn = np.concatenate(
        [
            np.zeros((len(counts.draws), 1), dtype=np.int64),
            1 + (np.arange(num - 1) + np.arange(len(counts.draws))[:, None]) % max(num - 1, 1),
        ],
        axis=1,
    )
    return stratified_failure(counts, num_draws // num + (turn < over))


def _first_largest(values: Floats) -> int:
    """Return the first index whose value is the largest up to rounding."""
    return int(np.flatnonzero(values >= values.max() * (1 - 1e-12))[0])


def _prices(costs: Sequence[float] | None, num_arms: int) -> Floats:
    price = np.ones(num_arms) if costs is None else np.asarray(costs, dtype=np.float64)
    if price.shape != (num_arms,) or not (price > 0).all():
        raise ValueError(f"costs must be {num_arms} numbers above 0, one per arm; got {costs!r}")
    return price


def _check(num_draws: int, num_arms: int) -> None:
    if num_draws < 1 or num_arms < 1:
        raise ValueError(f"need at least one draw and one arm, got {num_draws} and {num_arms}")
