"""How the answer is chosen: pure functions of a key, a scored pool and its answers."""

from samplewise.select.base import Selector
from samplewise.select.best import best
from samplewise.select.votes import first, vote, weighted

__all__ = ["Selector", "best", "first", "vote", "weighted"]
