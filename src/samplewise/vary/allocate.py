"""How many of N draws each arm gets, from none, some, or many graded draws of each arm.

Arm 0 is the identity arm: it is drawn first and at least once by every allocator, so that what the mix never solves
direct never solves either, and N = 1 is direct. f is a failure probability, rows are problems, columns arms.

- `in_turn`: the arms in turn, a keyed order per question. Per problem prod_j f_j^(N/M) <= (mean f)^N <= mean f^N: never
  worse than tossing the arm of each draw (`at_random`), which is never worse than tossing one arm and keeping it.
- `greedy` (offline): the next draw goes to the arm that lowers the expected failure over calibration problems most.
  Chances of success are Beta posteriors; k more failures have probability prod_{i<k} (B + i) / (A + B + i). Integrating
  the chances out is essential: with point estimates a greedy puts all draws on one lucky arm. Best for one problem,
  near the best for a mean. Below about 600 graded draws per arm it gains nothing over `in_turn`. An allocation fits the
  N it was made for.
- `screen_rung`: successive halving (Karnin et al. 2013) with failures at N draws as the score: arms go that the rest is
  better off without, or that fail far more than direct.
- `next_arm`, `hazard_order` (online, a verifier after each draw): the largest a / (a + b + k) / cost after k failures;
  right for independent Beta arms, whose hazards fall with every failure.

The method's own; costs no requests. Plan into a mix: `quota(*plan.counts)` of share.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from samplewise.keys import Key
from samplewise.measure._bootstrap import ratios
from samplewise.measure.compare import paired_difference
from samplewise.measure.powers import Counts, failure_power, read_counts, stratified_failure
from samplewise.numerics import Floats

PENALTY = 0.02  # on log a^2 and log b^2: keeps a fit of equal or empty counts finite
TAU = 1.0  # an arm whose failure at N is surely more than 1 + TAU times direct's goes


class Betas(NamedTuple):
    """Laws Beta(a, b) of chances of success: (M,), or (P, M) problem by problem."""

    a: Floats
    b: Floats

    def after(self, successes: ArrayLike, draws: ArrayLike) -> Betas:
        """The posterior after `successes` of `draws` (P, M); ragged is fine, 0 draws leave the prior."""
        won, made = np.asarray(successes), np.asarray(draws)
        if (won < 0).any() or (won > made).any():
            raise ValueError("successes must be at least 0 and at most the draws")
        return Betas(self.a + won, self.b + made - won)


class Plan(NamedTuple):
    """Draws in the order in which they are given out, and what is expected of them."""

    order: tuple[int, ...]  # the arm of each draw
    counts: tuple[int, ...]  # (M,)
    failure: float  # expected chance that all of them fail


def in_turn(num_draws: int, num_arms: int, key: Key) -> tuple[int, ...]:
    """The arm of each draw: identity first, the others in an order of the key, and so on round. Identity gets
    ceil(N / M) draws, the others that or one less. Fold the question into the key."""
    _check(num_draws, num_arms)
    others = (key.generator().permutation(num_arms - 1) + 1).tolist()
    turn = (0, *others)
    return tuple(turn[i % num_arms] for i in range(num_draws))


def at_random(num_draws: int, num_arms: int, key: Key) -> tuple[int, ...]:
    """The arm of each draw tossed anew, but for the first, which is the identity's."""
    _check(num_draws, num_arms)
    return (0, *key.generator().integers(num_arms, size=num_draws - 1).tolist())


def fit_betas(successes: ArrayLike, draws: ArrayLike) -> Betas:
    """Each arm's law of chances over problems, (M,), from `successes` of `draws` (P, M): beta-binomial by maximum
    likelihood, with a penalty of .02 on log a^2 and log b^2. Uniform for an arm without draws."""
    won, made = np.asarray(successes), np.asarray(draws)
    if won.ndim != 2 or made.shape != won.shape or (won < 0).any() or (won > made).any():
        raise ValueError(f"successes and draws must be (P, M), 0 <= successes <= draws; got {won.shape}, {made.shape}")
    fits = [_fit_beta(won[:, arm].astype(np.float64), made[:, arm].astype(np.float64)) for arm in range(won.shape[1])]
    return Betas(*np.array(fits).reshape(-1, 2).T)


def greedy(posterior: Betas, budget: float, costs: Sequence[float] | None = None) -> Plan:
    """A plan for `budget`, in draws, or in the unit of `costs` (M,), from posteriors (P, M) of calibration problems.

    Each draw goes to the arm that lowers log mean failure most per cost; ties to the lowest arm. What no longer fits
    the budget is passed over. ValueError for a budget that does not pay the identity's first draw.
    """
    a, b = np.atleast_2d(posterior.a), np.atleast_2d(posterior.b)
    price = _prices(costs, a.shape[1])
    if not budget >= price[0]:
        raise ValueError(f"the budget must pay one draw of the identity arm, {price[0]:g}; got {budget}")
    num_failed = np.zeros(a.shape[1])
    survival = np.ones(len(a))
    order: list[int] = []
    left = budget
    while (fits := price <= left * (1 + 1e-12)).any():
        miss = (b + num_failed) / (a + b + num_failed)  # (P, M)
        fall = np.log(survival.mean()) - np.log((survival[:, None] * miss).mean(axis=0))
        arm = 0 if not order else int(np.argmax(np.where(fits, fall / price, -np.inf)))
        survival *= miss[:, arm]
        num_failed[arm] += 1
        left -= price[arm]
        order.append(arm)
    return Plan(tuple(order), tuple(num_failed.astype(int).tolist()), float(survival.mean()))


def expected_failure(posterior: Betas, counts: Sequence[int]) -> float:
    """The mean over problems of the chance that all draws of `counts` (M,) fail, chances integrated out."""
    from scipy.special import betaln

    a, b = np.atleast_2d(posterior.a), np.atleast_2d(posterior.b)
    return float(np.exp((betaln(a, b + np.asarray(counts)) - betaln(a, b)).sum(axis=1)).mean())


def next_arm(
    arms: Betas,
    failures: Sequence[int],
    *,
    pending: Sequence[int] | None = None,
    costs: Sequence[float] | None = None,
    identity_first: bool = True,
    key: Key | None = None,
) -> int:
    """The arm of the next draw on a question, after `failures` (M,) without a success; ties to the lowest arm.

    `pending` (M,) draws in flight count as failures, so a batch spreads. `costs` (M,) per draw. With a `key` chances
    are drawn from their posteriors instead (Thompson): for priors that are weak.
    """
    num_failed = np.asarray(failures) + (0 if pending is None else np.asarray(pending))
    if num_failed.shape != arms.a.shape or (num_failed < 0).any():
        raise ValueError(f"failures and pending must be {arms.a.shape}, at least 0; got {failures!r}, {pending!r}")
    price = _prices(costs, len(arms.a))
    if identity_first and not num_failed.any():
        return 0
    b = arms.b + num_failed
    chance = arms.a / (arms.a + b) if key is None else key.generator().beta(arms.a, b)
    return _first_largest(chance / price)


def hazard_order(
    arms: Betas, num_draws: int, costs: Sequence[float] | None = None, *, identity_first: bool = True
) -> Plan:
    """The draws that `next_arm` would make if all of them failed, and the chance that they do."""
    _check(num_draws, len(arms.a))
    failures = np.zeros(len(arms.a), dtype=np.int64)
    order: list[int] = []
    failure = 1.0
    for _ in range(num_draws):
        arm = next_arm(arms, failures.tolist(), costs=costs, identity_first=identity_first)
        failure *= float((arms.b[arm] + failures[arm]) / (arms.a[arm] + arms.b[arm] + failures[arm]))
        failures[arm] += 1
        order.append(arm)
    return Plan(tuple(order), tuple(failures.tolist()), failure)


class Rung(NamedTuple):
    """What a rung of the screen decided. `dropped` says of each arm why."""

    kept: tuple[int, ...]
    dropped: dict[int, str]


def screen_rung(counts: Counts, kept: Sequence[int], num_draws: int, key: Key, *, tau: float = TAU) -> Rung:
    """Drops arms of `kept` that a mix for N = `num_draws` is better off without; ask again with twice the draws.

    `counts` (P, M) are all graded draws so far, the same problems for every arm kept, arm 0 the identity, which stays.
    An arm goes if the 95 % limit of its gain, failure at N without it minus failure with it, is at most 0, or if its
    failure alone is surely more than 1 + `tau` times direct's, at N draws or as many as all have. One at a time, the
    worst first, since of two arms that replace each other only one may go; at most half of `kept` in a rung.
    Gains at fewer draws than N mislead, so while the draws do not reach, nothing is dropped for its gain.
    """
    failures, draws = read_counts(counts)
    names = list(kept)
    if not names or names[0] != 0 or len(set(names)) < len(names) or not set(names) <= set(range(failures.shape[1])):
        raise ValueError(f"kept must be different arms of 0 to {failures.shape[1] - 1}, 0 first; got {kept!r}")
    _check(num_draws, len(names))
    dropped: dict[int, str] = {}
    most = len(names) // 2
    rows = (draws[:, names] > 0).all(axis=1)
    failures, draws = failures[rows], draws[rows]
    if not len(failures):
        return Rung(tuple(names), dropped)
    least = int(draws[:, names].min())
    size = min(num_draws, least)
    alone = failure_power(failures[:, names], draws[:, names], size)
    ratio = ratios(alone, np.broadcast_to(alone[:, :1], alone.shape), key, 2_000)
    for place in sorted(range(1, len(names)), key=lambda place: -ratio[place].value):
        if ratio[place].low > 1 + tau and len(dropped) < most:
            dropped[names[place]] = f"fails {ratio[place].value:.2f} times as often as direct at {size} draws"
    while len(dropped) < most and len(here := [arm for arm in names if arm not in dropped]) > 1:
        if math.ceil(num_draws / (len(here) - 1)) > least:
            break
        with_all = _shared_failure(failures, draws, here, num_draws)
        gains = {
            arm: paired_difference(_shared_failure(failures, draws, [a for a in here if a != arm], num_draws), with_all)
            for arm in here[1:]
        }
        arm = min(gains, key=lambda arm: gains[arm].high)
        if not gains[arm].high <= 0:
            break
        dropped[arm] = f"the rest solves {-100 * gains[arm].value:.1f} points more at {num_draws} draws without it"
    return Rung(tuple(arm for arm in names if arm not in dropped), dropped)


def _shared_failure(failures: ArrayLike, draws: ArrayLike, arms: list[int], num_draws: int) -> Floats:
    """Failure (P,) of N draws shared evenly, the odd ones rotating over the problems as a keyed order would deal them:
    otherwise they would favour the first arms."""
    counts = Counts(np.asarray(failures)[:, arms], np.asarray(draws)[:, arms])
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
    """The first of those that are the largest up to rounding."""
    return int(np.flatnonzero(values >= values.max() * (1 - 1e-12))[0])


def _fit_beta(won: Floats, made: Floats) -> tuple[float, float]:
    from scipy.optimize import minimize
    from scipy.special import betaln, psi

    pairs, times = np.unique(np.stack([won, made])[:, made > 0], axis=1, return_counts=True)
    s, n = pairs

    def loss(place: Floats) -> tuple[float, Floats]:
        a, b = np.exp(place)
        both = psi(a + b) - psi(n + a + b)
        slopes = np.stack([(psi(s + a) - psi(a) + both) * a, (psi(n - s + b) - psi(b) + both) * b])
        value = float((betaln(s + a, n - s + b) - betaln(a, b)) @ times)
        return PENALTY * float(place @ place) - value, 2 * PENALTY * place - slopes @ times.astype(np.float64)

    mean = float((won.sum() + 0.5) / (made.sum() + 1))
    starts = [np.log([size * mean, size * (1 - mean)]) for size in (0.7, 5.0)]
    fits = [minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-9.0, 9.0)] * 2) for start in starts]
    a, b = np.exp(min(fits, key=lambda fit: fit.fun).x)
    return float(a), float(b)


def _prices(costs: Sequence[float] | None, num_arms: int) -> Floats:
    price = np.ones(num_arms) if costs is None else np.asarray(costs, dtype=np.float64)
    if price.shape != (num_arms,) or not (price > 0).all():
        raise ValueError(f"costs must be {num_arms} numbers above 0, one per arm; got {costs!r}")
    return price


def _check(num_draws: int, num_arms: int) -> None:
    if num_draws < 1 or num_arms < 1:
        raise ValueError(f"need at least one draw and one arm, got {num_draws} and {num_arms}")
