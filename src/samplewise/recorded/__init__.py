"""Recorded draws of real models: what a replay engine serves, and the problems they were drawn for."""

from .base import Draw, Recording
from .load import load

__all__ = ["Draw", "Recording", "load"]
