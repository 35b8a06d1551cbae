"""How a question's prompt is varied, and how the variants are shared among draws."""

from samplewise.vary.base import Arm, Vary, vary
from samplewise.vary.temperature import ladder

__all__ = ["Arm", "Vary", "ladder", "vary"]
