"""The stop rule of one question, folded over its candidates. Pure.

Each candidate is seen once. If a sampler or a judge changes earlier ones (a judge compares candidates with one
another), the fold begins again.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from samplewise.core.types import Candidate, Question, Stop, Usage
from samplewise.stop.base import StopRule, as_drawn
from samplewise.stop.votes import count_vote, no_votes

Answers = tuple[str | None, ...]


class Standing(NamedTuple):
    """Votes for the first and the second answer, and the best score of the rule's first verifier; nan without one."""

    first: int
    second: int
    best: float


class StopFold:
    """A stop rule's state for one question. `independent`: draws do not depend on one another."""

    def __init__(self, rule: StopRule[Any], question: Question, *, independent: bool) -> None:
        self.rule, self._question, self._independent = rule, question, independent
        self._start()

    def _start(self) -> None:
        self._state = self.rule.start(self._question)
        self._votes, self._best = no_votes(self._question), math.nan
        self._candidates: tuple[Candidate, ...] = ()
        self._answers: Answers = ()

    @property
    def num_needed(self) -> int:
        """Draws needed before the rule can stop, at least 1."""
        return max(1, self.rule.at_least(self._state))

    @property
    def expected_gain(self) -> float:
        """What the rule expects of the next draw; nan if it does not say."""
        return math.nan if self.rule.expected_gain is None else self.rule.expected_gain(self._state)

    @property
    def standing(self) -> Standing:
        return Standing(self._votes.first, self._votes.second, self._best)

    def see(self, candidates: tuple[Candidate, ...], answers: Answers) -> None:
        """Fold in the candidates (N,) that are new."""
        num = len(self._candidates)
        if candidates[:num] != self._candidates or answers[:num] != self._answers:
            self._start()
            num = 0
        for candidate, answer in zip(candidates[num:], answers[num:], strict=True):
            self._state = self.rule.see(self._state, candidate, answer)
            self._votes = count_vote(self._votes, candidate, answer)
            score = candidate.scores.get(self.rule.verifiers[0], math.nan) if self.rule.verifiers else math.nan
            self._best = self._best if math.isnan(score) else max(score, self._best)  # max keeps a number over nan
        self._candidates, self._answers = candidates, answers

    def verdict(self, spent: Usage, order: str) -> Stop | None:
        """Return whether to stop. `order` says what the rule saw: single draws in the order of "asks", or "steps"."""
        stop = self.rule.verdict(self._state, spent) if self._candidates else None
        if stop is None:
            return None
        arms = len({candidate.arm for candidate in self._candidates})
        stop = as_drawn(stop, arms=arms, independent=self._independent)
        return stop._replace(evidence={**stop.evidence, "order": order})
