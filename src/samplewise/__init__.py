"""samplewise: many samples, one good answer, as few tokens as possible.

    from samplewise import solve
    solve("make 24 from 4 6 7 8", engine="tiny", recipe="repeat(16) | vote").answer

Names are imported when they are first used, so that importing the package costs next to nothing. A function that has
the name of its module (`samplewise.loop.drive.run_question`, `samplewise.recipe.recipe`) is imported from there.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing.TYPE_CHECKING without importing typing
if TYPE_CHECKING:
    from samplewise.api import asolve, solve
    from samplewise.core.errors import SamplewiseError, SetupError
    from samplewise.core.keys import Key
    from samplewise.core.types import (
        Ask,
        Candidate,
        Capability,
        Completion,
        Generate,
        Likelihood,
        Message,
        Pool,
        Problem,
        Question,
        Sampling,
        Score,
        Selection,
        Stop,
        Usage,
    )
    from samplewise.engines.base import Arrival, Engine
    from samplewise.loop.ledger import Budget
    from samplewise.loop.result import Result
    from samplewise.recipe import Recipe
    from samplewise.runs.run import run_task
    from samplewise.samplers.base import Sampler, Step, Variant
    from samplewise.select.base import Selector
    from samplewise.stop.base import StopRule
    from samplewise.store.database import Store
    from samplewise.tasks.base import Task

__version__ = "0.1.0"

_HOMES = {
    "samplewise.api": ("asolve", "solve"),
    "samplewise.engines.base": ("Arrival", "Engine"),
    "samplewise.core.errors": ("SamplewiseError", "SetupError"),
    "samplewise.runs.run": ("run_task",),
    "samplewise.core.keys": ("Key",),
    "samplewise.recipe": ("Recipe",),
    "samplewise.loop.ledger": ("Budget",),
    "samplewise.loop.result": ("Result",),
    "samplewise.samplers.base": ("Sampler", "Step", "Variant"),
    "samplewise.select.base": ("Selector",),
    "samplewise.stop.base": ("StopRule",),
    "samplewise.store.database": ("Store",),
    "samplewise.tasks.base": ("Task",),
    "samplewise.core.types": (
        "Ask",
        "Candidate",
        "Capability",
        "Completion",
        "Generate",
        "Likelihood",
        "Message",
        "Pool",
        "Problem",
        "Question",
        "Sampling",
        "Score",
        "Selection",
        "Stop",
        "Usage",
    ),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Arrival",
    "Ask",
    "Budget",
    "Candidate",
    "Capability",
    "Completion",
    "Engine",
    "Generate",
    "Key",
    "Likelihood",
    "Message",
    "Pool",
    "Problem",
    "Question",
    "Recipe",
    "Result",
    "Sampler",
    "SamplewiseError",
    "Sampling",
    "Score",
    "Selection",
    "Selector",
    "SetupError",
    "Step",
    "Stop",
    "StopRule",
    "Store",
    "Task",
    "Usage",
    "Variant",
    "asolve",
    "run_task",
    "solve",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'samplewise' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
