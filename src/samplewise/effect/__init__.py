"""What an arm did, what its ideas gave away, and how its draws should be shared: all of it from what a store holds.

Nothing is drawn. A plan is made from a pilot run, and is worth what it says on other questions than the pilot's.
"""

from __future__ import annotations

from samplewise.effect.ideas import LeakyArm, find_leaks
from samplewise.effect.measured import ArmRow, Effect, measure_effect
from samplewise.effect.planned import Planned, PlannedArm, plan_draws

__all__ = ["ArmRow", "Effect", "LeakyArm", "Planned", "PlannedArm", "find_leaks", "measure_effect", "plan_draws"]
