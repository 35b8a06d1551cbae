"""Several stop rules as one: `either(asc, cap(40))`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from samplewise.core.registry import build
from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule

# from the strongest statement to none
STRENGTH: Mapping[str, int] = {"anytime-valid": 0, "exact": 1, "model-based": 2, "heuristic": 3}


def either(*rules: str) -> StopRule[tuple[Any, ...]]:
    """Stop at the first of several rules, as in `either(vote_e(0.05), cap(64))`; at the same draw, the one named first.

    The evidence is that of the rule that stopped, with its own guarantee.
    """
    for rule in rules:
        if not isinstance(rule, str):
            raise TypeError(f"either takes stop rules, such as either(asc, cap(40)), got {rule!r}")
    return first_of(*(build("stop", rule) for rule in rules))


def first_of(*rules: StopRule[Any]) -> StopRule[tuple[Any, ...]]:
    """Combine rules given as objects, as `either` does for specs.

    The guarantee stated beforehand is that of the weakest rule. The expected gain is that of the first rule that has
    one.
    """
    if len(rules) < 2:
        raise ValueError("either takes two rules or more")

    def start(question: Question) -> tuple[Any, ...]:
        return tuple(rule.start(question) for rule in rules)

    def see(state: tuple[Any, ...], candidate: Candidate, answer: str | None) -> tuple[Any, ...]:
        return tuple(rule.see(part, candidate, answer) for rule, part in zip(rules, state, strict=True))

    def decide(state: tuple[Any, ...], spent: Usage) -> Stop | None:
        for rule, part in zip(rules, state, strict=True):
            if stop := rule.verdict(part, spent):
                return stop
        return None

    def at_least(state: tuple[Any, ...]) -> int:
        return min(rule.at_least(part) for rule, part in zip(rules, state, strict=True))

    weakest = max(rules, key=lambda rule: STRENGTH[rule.guarantee])
    verifiers = tuple(dict.fromkeys(name for rule in rules for name in rule.verifiers))
    gains = [_of_part(index, rule.expected_gain) for index, rule in enumerate(rules) if rule.expected_gain is not None]
    expected_gain = gains[0] if gains else None
    return StopRule("either", start, see, decide, verifiers, weakest.guarantee, weakest.about, at_least, expected_gain)


def _of_part(index: int, expected_gain: Callable[[Any], float]) -> Callable[[tuple[Any, ...]], float]:
    return lambda state: expected_gain(state[index])
