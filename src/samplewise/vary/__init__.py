"""How a question's prompt is varied, and how draws are allocated to the variants."""

from samplewise.vary.base import Arm, Vary, vary
from samplewise.vary.temperature import ladder

__all__ = ["Arm", "Vary", "ladder", "vary"]
