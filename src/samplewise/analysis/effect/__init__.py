"""Measure arms on stored runs: what they changed, which ideas leaked the answer, how to allocate draws to them.

Nothing is drawn. An allocation is fitted on a pilot run; use it on other questions than the pilot's.
"""

from __future__ import annotations

from samplewise.analysis.effect.allocation import ArmAllocation, PilotAllocation, allocate_draws
from samplewise.analysis.effect.leaks import LeakyArm, find_leaks
from samplewise.analysis.effect.measure import ArmAccuracy, Effect, EffectRuns, measure_effect

__all__ = [
    "ArmAccuracy",
    "ArmAllocation",
    "Effect",
    "EffectRuns",
    "LeakyArm",
    "PilotAllocation",
    "allocate_draws",
    "find_leaks",
    "measure_effect",
]
