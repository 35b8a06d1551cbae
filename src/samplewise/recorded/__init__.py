"""Read recorded draws of real models, and the problems they were drawn for. A replay engine serves them."""

from .base import Draw, Recording
from .load import load_recording

__all__ = ["Draw", "Recording", "load_recording"]
