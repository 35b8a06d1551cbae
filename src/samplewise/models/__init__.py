"""The bundled models, ordinary Hugging Face checkpoints with a card each, and what it takes to load any checkpoint."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from samplewise.core.errors import MissingExtra

TINY = Path(__file__).parent / "tiny"
REWARD = Path(__file__).parent / "reward"
SPIN_COUNT = "4000"

owns_process = False  # a command of samplewise sets it: nobody else uses transformers in this process


def require_torch(what: str) -> None:
    """Import torch and transformers, or raise MissingExtra: `what` needs them.

    libgomp reads `GOMP_SPINCOUNT` once, when torch is loaded: how long its threads spin for each other before they
    sleep. The default is some milliseconds after each of a small model's short operations. Beside one other busy
    process that made a run more than ten times slower.

    In a process of our own, transformers is imported lean: see lean.py.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    try:
        if owns_process and "transformers" not in sys.modules:
            from .lean import import_transformers

            import_transformers()
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra(what, "local") from error
