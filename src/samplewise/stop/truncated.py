"""The distribution of a verifier's scores on one question: a normal truncated to [0, 1], in its natural parameters.

The density on [0, 1] is exp(e1 s + e2 s^2 - A), with e1 = mu / sg^2 and e2 = -1 / (2 sg^2) for a normal (mu, sg);
e2 >= 0 is allowed too, and is what scores piled up at both ends need. The negative log-likelihood of n scores with mean
m1 and mean square m2 is n (A - e1 m1 - e2 m2): convex in two unknowns, and its optimum is the distribution with these
moments. So a tally of scores is three numbers, and fitting is Newton's method on them.

Every integral is taken by one rule of 48 nodes over the window where the integrand is within e^-40 of its top, which is
exact to about 1e-12 however narrow the distribution is. A fixed grid over [0, 1] misses one with sg = .003, and
differences of normal tails lose their digits at mu = 60 or sg > 70; both occur in released fits. No ridge is added to
the fit: it buys fewer draws by losing coverage.

Cost: about 8 microseconds an integral, 100 a fit.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from samplewise.core.numerics import Floats

NUM_NODES = 48
DEPTH = 40.0  # nats below the top at which a window ends
MAX_STEPS = 60  # of Newton's method; six to ten are usual
CLOSE = 1e-8  # error of a fitted moment, in units of the spread, that ends the search
ACCEPTED = 1e-6  # the same, where rounding ends the search
ROUNDING = 1e-12  # what a count of draws forgives


class ScoreTally(NamedTuple):
    """The sufficient statistics of the scores seen: number, mean, sum of squared deviations, range."""

    num: int = 0
    mean: float = 0.0
    square: float = 0.0
    low: float = math.inf
    high: float = -math.inf

    def add(self, score: float) -> ScoreTally:
        """Return the tally with one more score."""
        num, off = self.num + 1, score - self.mean
        mean = self.mean + off / num
        square = self.square + off * (score - mean)
        return ScoreTally(num, mean, square, min(self.low, score), max(self.high, score))

    @property
    def variance(self) -> float:
        """Return the variance with ddof 0: exactly 0.0 where all scores are equal."""
        return self.square / self.num if self.num and self.low < self.high else 0.0


class TruncatedNormal(NamedTuple):
    """Natural parameters of a distribution on [0, 1]."""

    e1: float
    e2: float


class Moments(NamedTuple):
    """Log of the integral, mean, and central moments two to four of an unnormalised density."""

    log_mass: float
    mean: float
    two: float
    three: float
    four: float


def truncated_normal(mu: float, sg: float) -> TruncatedNormal:
    """Return the normal (mu, sg) truncated to [0, 1]."""
    if not (sg > 0 and math.isfinite(mu) and math.isfinite(sg)):
        raise ValueError(f"a normal needs a finite mean and a standard deviation above 0, got {mu} and {sg}")
    return TruncatedNormal(mu / sg**2, -0.5 / sg**2)


@functools.cache
def _rule() -> tuple[Floats, Floats]:
    """Return nodes (48,) on [-1, 1], and the weights times the powers 0 to 4 of the nodes (5, 48)."""
    nodes, weights = np.polynomial.legendre.leggauss(NUM_NODES)
    return nodes, np.stack([weights * nodes**power for power in range(5)])


def _panels(e1: float, e2: float, low: float, high: float) -> list[tuple[float, float]]:
    """Return where in [low, high] the integrand has its mass: one window, or one at either end where it is U-shaped."""
    if e2 < 0:
        top = min(max(-0.5 * e1 / e2, low), high)
        slope = abs(e1 + 2 * e2 * top)
        reach = 2 * DEPTH / (slope + math.sqrt(slope * slope - 4 * e2 * DEPTH))
        return [(max(low, top - reach), min(high, top + reach))]
    panels = []
    down, up = e1 + 2 * e2 * low, e1 + 2 * e2 * high  # slopes at the ends
    bottom = 0.5 * (low + high) if e2 == 0 else min(max(-0.5 * e1 / e2, low), high)
    if down < 0:
        panels.append((low, min(low + _fall(-down, e2), bottom if up > 0 else high)))
    if up > 0:
        panels.append((max(high - _fall(up, e2), bottom if down < 0 else low), high))
    return panels or [(low, high)]


def _fall(slope: float, e2: float) -> float:
    """Return how far from an end the exponent, falling at `slope` and bending up, falls by `DEPTH`; inf if never."""
    rest = slope * slope - 4 * e2 * DEPTH
    return 2 * DEPTH / (slope + math.sqrt(rest)) if rest > 0 else math.inf


def moments(e1: float, e2: float, low: float = 0.0, high: float = 1.0) -> Moments:
    """Return the moments of exp(e1 s + e2 s^2) over [low, high]. An empty interval has a mass of 0."""
    if not low < high:
        return Moments(-math.inf, low, 0.0, 0.0, 0.0)
    parts = [_panel(e1, e2, *panel) for panel in _panels(e1, e2, low, high)]
    if len(parts) == 1:
        return parts[0]
    one, other = parts
    if math.isinf(one.log_mass) or math.isinf(other.log_mass):
        return other if math.isinf(one.log_mass) else one
    top = max(one.log_mass, other.log_mass)
    first, second = math.exp(one.log_mass - top), math.exp(other.log_mass - top)
    total = first + second
    mean = (first * one.mean + second * other.mean) / total
    central = [0.0, 0.0, 0.0]
    for part, weight in ((one, first / total), (other, second / total)):
        off = part.mean - mean
        central[0] += weight * (part.two + off**2)
        central[1] += weight * (part.three + 3 * off * part.two + off**3)
        central[2] += weight * (part.four + 4 * off * part.three + 6 * off**2 * part.two + off**4)
    return Moments(top + math.log(total), mean, *central)


def _panel(e1: float, e2: float, low: float, high: float) -> Moments:
    nodes, powers = _rule()
    middle, half = 0.5 * (low + high), 0.5 * (high - low)
    if half <= 0:  # narrower than the numbers here can tell
        return Moments(-math.inf, middle, 0.0, 0.0, 0.0)
    slope, bend = (e1 + 2 * e2 * middle) * half, e2 * half * half
    ends = max(bend + slope, bend - slope)
    top = -0.25 * slope * slope / bend if bend < 0 and abs(slope) < -2 * bend else ends
    exponent = nodes * bend  # (48,), in place from here: this is where the time goes
    exponent += slope
    exponent *= nodes
    exponent -= top
    np.exp(exponent, exponent)
    mass, *raw = powers.dot(exponent).tolist()
    m1, m2, m3, m4 = (value / mass for value in raw)
    two = m2 - m1 * m1
    three = m3 - 3 * m1 * m2 + 2 * m1**3
    four = m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1**4
    log_mass = (e1 + e2 * middle) * middle + top + math.log(mass * half)
    return Moments(log_mass, middle + half * m1, half**2 * two, half**3 * three, half**4 * four)


def log_cdf(distribution: TruncatedNormal, score: float) -> float:
    """Return ln F(score), nats: -inf at 0 and below, 0.0 at 1 and above."""
    if score <= 0:
        return -math.inf
    if score >= 1:
        return 0.0
    below, above = moments(*distribution, 0.0, score).log_mass, moments(*distribution, score, 1.0).log_mass
    if below <= above:
        return below - above - math.log1p(math.exp(below - above))
    return -math.log1p(math.exp(above - below))


def quantile(distribution: TruncatedNormal, probability: float) -> float:
    """Return the score that a draw is below with probability `share`, to 1e-12, by bisection on the smaller tail."""
    if not 0 <= probability <= 1:
        raise ValueError(f"share must be in [0, 1], got {probability}")
    if probability in (0.0, 1.0):
        return float(probability)
    low, high = 0.0, 1.0
    wanted_odds = math.log(probability) - math.log1p(-probability)
    for _ in range(60):
        middle = 0.5 * (low + high)
        log_odds = moments(*distribution, 0.0, middle).log_mass - moments(*distribution, middle, 1.0).log_mass
        low, high = (middle, high) if log_odds < wanted_odds else (low, middle)
    return 0.5 * (low + high)


def excess(distribution: TruncatedNormal, score: float) -> float:
    """Return E[(S - score)+]: what a draw is expected to add to a best score so far."""
    if score >= 1:
        return 0.0
    if score <= 0:
        return moments(*distribution).mean - score
    above = moments(*distribution, score, 1.0)
    return math.exp(above.log_mass - moments(*distribution).log_mass) * (above.mean - score)


def draws_needed(log_f: float, confidence: float, cap: int) -> int:
    """Return the least N in 1..cap with F^N <= 1 - confidence, where ln F is `log_f`; else `cap`."""
    if log_f >= 0:
        return cap
    needed = math.log1p(-confidence) / log_f
    return cap if needed >= cap else max(1, math.ceil(needed - ROUNDING))


def fit(tally: ScoreTally, start: TruncatedNormal | None = None) -> TruncatedNormal | None:
    """Return the distribution of largest likelihood, or None if there is none.

    There is none for scores that are all equal, or all 0 and 1, or so nearly one of these that rounding hides the
    difference. In u = (s - m1) / sd the scores have mean 0 and variance 1, so the problem depends only on where 0 and 1
    lie and is well scaled for the narrowest distribution. `start`, the fit to one draw less, saves half of the steps.
    """
    variance = tally.variance
    if variance <= 0 or tally.low < 0 or tally.high > 1 or variance >= tally.mean * (1 - tally.mean) * (1 - 1e-12):
        return None
    try:
        return matched(tally.mean, variance, start)
    except ArithmeticError:
        return None


def matched(mean: float, variance: float, start: TruncatedNormal | None = None) -> TruncatedNormal:
    """Return the distribution with these moments.

    Raise ValueError unless 0 < variance < mean (1 - mean), as no distribution on [0, 1] has others, and ArithmeticError
    if it is so close to points that doubles cannot hold it.
    """
    if not 0 < variance < mean * (1 - mean):
        raise ValueError(f"no distribution on [0, 1] has mean {mean} and variance {variance}")
    sd = math.sqrt(variance)
    low, high = -mean / sd, (1 - mean) / sd
    one, two = (0.0, -0.5) if start is None else ((start.e1 + 2 * start.e2 * mean) * sd, start.e2 * variance)
    current = moments(one, two, low, high)
    cost = current.log_mass - two
    for _ in range(MAX_STEPS):
        # gradient and Hessian of log mass - (one * 0 + two * 1): means and covariances of (u, u^2)
        g1, g2 = current.mean, current.two + current.mean**2 - 1
        if abs(g1) < CLOSE and abs(g2) < CLOSE:
            break
        h11 = current.two
        h12 = current.three + 2 * current.mean * current.two
        h22 = current.four + 4 * current.mean * current.three + 4 * current.mean**2 * current.two - current.two**2
        det = h11 * h22 - h12 * h12
        if det <= 0:
            break  # the distribution has become two points, to rounding
        s1, s2 = (h12 * g2 - h22 * g1) / det, (h12 * g1 - h11 * g2) / det
        falls = g1 * s1 + g2 * s2
        step = 1.0
        while True:
            candidate = moments(one + step * s1, two + step * s2, low, high)
            lower = candidate.log_mass - (two + step * s2)
            if lower <= cost + 1e-4 * step * falls or (step == 1.0 and abs(falls) < 1e-9):
                break
            step *= 0.5
            if step < 1e-10:
                break
        if step < 1e-10:
            break
        one, two, current, cost = one + step * s1, two + step * s2, candidate, lower
    if not (abs(current.mean) < ACCEPTED and abs(current.two - 1) < ACCEPTED):
        raise ArithmeticError(f"no distribution was found with mean {mean} and variance {variance}")
    return TruncatedNormal(one / sd - 2 * two * mean / variance, two / variance)
