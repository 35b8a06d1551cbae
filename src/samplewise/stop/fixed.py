"""Stop rules without a model: at the first pass of a verifier, or once a vote cannot reasonably turn."""

from __future__ import annotations

import math
from collections import Counter

from samplewise.stop.base import StopRule
from samplewise.types import Pool, Stop, Usage


def passed(verifier: str, *, score: float = 1.0) -> StopRule:
    """Stop at the first candidate that `verifier` gives at least `score`. Exact where the verifier is."""

    def check(pool: Pool, answers: tuple[str | None, ...], spent: Usage) -> Stop | None:
        scores = [c.scores.get(verifier, math.nan) for c in pool.candidates]
        best = max((s for s in scores if not math.isnan(s)), default=-math.inf)
        return Stop("passed", {"score": best, "samples": len(pool.candidates)}) if best >= score else None

    return StopRule("passed", check, (verifier,), guarantee="exact")


def lead(margin: int) -> StopRule:
    """Stop once the most frequent answer leads the next by `margin` votes. Unreadable candidates do not vote."""
    if margin < 1:
        raise ValueError(f"margin must be at least 1 vote, got {margin}")

    def check(pool: Pool, answers: tuple[str | None, ...], spent: Usage) -> Stop | None:
        votes = sorted(Counter(a for a in answers if a is not None).values(), reverse=True)
        ahead = votes[0] - (votes[1] if len(votes) > 1 else 0) if votes else 0
        return Stop("lead", {"margin": ahead, "votes": sum(votes)}) if ahead >= margin else None

    return StopRule("lead", check)
