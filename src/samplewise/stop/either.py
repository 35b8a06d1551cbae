"""Several stop rules as one: `either(asc, cap(40))`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from samplewise.spec import build
from samplewise.stop.base import StopRule
from samplewise.types import Candidate, Question, Stop, Usage

# from the strongest statement to none
STRENGTH: Mapping[str, int] = {"anytime-valid": 0, "exact": 1, "model-based": 2, "heuristic": 3}


def either(*rules: str) -> StopRule[tuple[Any, ...]]:
    """Stop at the first of several rules, `either(vote_e(0.05), cap(64))` in a recipe; of two at the same draw, the one
    that is named first.

    The evidence is that of the rule that stopped, with its own guarantee.
    """
    for rule in rules:
        if not isinstance(rule, str):
            raise TypeError(f"either takes stop rules, such as either(asc, cap(40)), got {rule!r}")
    return first_of(*(build("stop", rule) for rule in rules))


def first_of(*rules: StopRule[Any]) -> StopRule[tuple[Any, ...]]:
    """The same for rules as objects. What it guarantees, or is about, beforehand is what the weakest of them does; the
    worth of a draw is that of the first rule that has one."""
    if len(rules) < 2:
        raise ValueError("either takes two rules or more")

    def start(question: Question) -> tuple[Any, ...]:
        return tuple(rule.start(question) for rule in rules)

    def see(state: tuple[Any, ...], candidate: Candidate, answer: str | None) -> tuple[Any, ...]:
        return tuple(rule.see(own, candidate, answer) for rule, own in zip(rules, state, strict=True))

    def decide(state: tuple[Any, ...], spent: Usage) -> Stop | None:
        for rule, own in zip(rules, state, strict=True):
            if stop := rule.verdict(own, spent):
                return stop
        return None

    def at_least(state: tuple[Any, ...]) -> int:
        return min(rule.at_least(own) for rule, own in zip(rules, state, strict=True))

    weakest = max(rules, key=lambda rule: STRENGTH[rule.guarantee])
    verifiers = tuple(dict.fromkeys(name for rule in rules for name in rule.verifiers))
    worths = [_of_part(place, rule.worth) for place, rule in enumerate(rules) if rule.worth is not None]
    worth = worths[0] if worths else None
    return StopRule("either", start, see, decide, verifiers, weakest.guarantee, weakest.about, at_least, worth)


def _of_part(place: int, worth: Callable[[Any], float]) -> Callable[[tuple[Any, ...]], float]:
    return lambda state: worth(state[place])
