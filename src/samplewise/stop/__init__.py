"""When enough is enough: pure rules over a scored pool."""

from samplewise.stop.base import StopRule
from samplewise.stop.fixed import cap, lead, passed

__all__ = ["StopRule", "cap", "lead", "passed"]
