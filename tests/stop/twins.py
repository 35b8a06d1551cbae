"""Slow and obvious twins of what stop rules keep, and how the tests feed them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, TypeVar

from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule

S = TypeVar("S")
QUESTION = Question("q", ())
FREE = Usage()
PLAIN = Candidate("x")

VOTE_RULES = (  # specs of all rules that look at votes alone
    "agreement",
    "agreement(3)",
    "asc",
    "asc(0.99)",
    "asc_dirichlet",
    "bayes_factor",
    "bayes_l3(((0.6, 0.3, 0.1), (0.4, 0.3, 0.2, 0.1)))",
    "blend_asc",
    'certify("a")',
    "either(vote_e, cap(9))",
    "entropy",
    "esc(3)",
    "lead(3)",
    "mmc(0.3)",
    "ppr_1v1(4)",
    "sprt",
    "sprt(0.7)",
    'sprt(0.7, pair=("a", "b"))',
    "vote_e",
    "vote_e(0.3)",
    "vote_plan",
    "vote_plan(0.03, 0.01, 9, prior=(0.1, 0.5))",
    "vote_share",
)


def scored(score: float, name: str = "v") -> Candidate:
    return Candidate("x", scores={name: score})


def fed(rule: StopRule[Any], answers: Sequence[str | None], candidates: Sequence[Candidate] | None = None) -> Any:
    """The state after all of the answers."""
    state = rule.start(QUESTION)
    for place, answer in enumerate(answers):
        state = rule.see(state, PLAIN if candidates is None else candidates[place], answer)
    return state


def verdict(rule: StopRule[Any], answers: Sequence[str | None]) -> Stop | None:
    return rule.verdict(fed(rule, answers), FREE)


def stops_after(
    rule: StopRule[Any], answers: Sequence[str | None], candidates: Sequence[Candidate] | None = None
) -> int | None:
    """The number of draws at which the rule stops first."""
    state = rule.start(QUESTION)
    for place, answer in enumerate(answers):
        state = rule.see(state, PLAIN if candidates is None else candidates[place], answer)
        if rule.decide(state, FREE):
            return place + 1
    return None


def means(
    law: Sequence[float], length: int, start: S, see: Callable[[S, str], S], value: Callable[[S], float]
) -> list[float]:
    """The exact mean of `value` after 1, 2 ... `length` votes: every sequence of labels a, b, c ... is walked."""
    sums = [0.0] * length

    def walk(state: S, chance: float, depth: int) -> None:
        for label, p in zip("abcdefgh", law, strict=False):
            after = see(state, label)
            sums[depth] += chance * p * value(after)
            if depth + 1 < length:
                walk(after, chance * p, depth + 1)

    walk(start, 1.0, 0)
    return sums


def leader_but(votes: str, k: str) -> str | None:
    """Who leads among all answers but k: the first to have reached its count."""
    others = [vote for vote in votes if vote != k]
    if not others:
        return None
    most = max(others.count(label) for label in others)
    reached = [label for place, label in enumerate(others) if others[: place + 1].count(label) == most]
    return reached[0]


def pair_twin(votes: str, k: str) -> tuple[int, int]:
    """(A, B) of `vote_e` for k, by its definition."""
    a = b = 0
    for place, vote in enumerate(votes):
        leader = leader_but(votes[:place], k)
        if leader is not None:
            a, b = a + (vote == leader), b + (vote == k)
    return a, b


@functools.cache
def asc_exact(a: int, b: int) -> Fraction:
    """The chance that a's answer is the more frequent one: the mean over a uniform q of P(q > 1/2 | a, b)."""
    total = a + b + 1
    return Fraction(sum(math.comb(total, heads) for heads in range(a + 1)), 2**total)


@functools.cache
def e1_exact(a: int, b: int) -> Fraction:
    """The integral of (1 + lam)^a (1 - lam)^b over lam in [0, 1]: the mixture of the bets, multiplied out."""
    return _integral(a, b, 0)


@functools.cache
def e2_exact(a: int, b: int) -> Fraction:
    """The same over [-1, 1], halved."""
    return _integral(a, b, -1) / 2


def _integral(a: int, b: int, low: int) -> Fraction:
    total = Fraction(0)
    for i in range(a + 1):
        for j in range(b + 1):
            power = i + j + 1
            total += math.comb(a, i) * math.comb(b, j) * (-1) ** j * Fraction(1 - low**power, power)
    return total
