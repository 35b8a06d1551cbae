"""Arms that only change the sampling. They add no tokens: the first baseline that any prompt must beat."""

from __future__ import annotations

from samplewise.core.types import Question
from samplewise.samplers.base import Variant
from samplewise.vary.base import PlainArm


def ladder(*temperatures: float) -> PlainArm:
    """Vary the temperature, one variant each; by default .4 .6 .8 1.2.

    1.0 is usually the sampler's own temperature, which the direct arm already has.
    """
    rungs = temperatures or (0.4, 0.6, 0.8, 1.2)
    for rung in rungs:
        if not 0.0 <= rung < float("inf"):
            raise ValueError(f"a temperature must be 0 or more, got {rung}")
        if rung == 0.0:
            raise ValueError("a ladder must not contain temperature 0: all greedy draws are the same draw")

    def arm(question: Question) -> tuple[Variant, ...]:
        return tuple(
            Variant(f"temperature/{rung:g}", question.messages, {"temperature": float(rung)}) for rung in rungs
        )

    return arm
