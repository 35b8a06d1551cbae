"""What every bench says of itself in its JSON object."""

from __future__ import annotations

import math
import os
import platform
import time
from pathlib import Path
from typing import Any

from samplewise import __version__


def about(bench: str, seed: int, started: float) -> dict[str, Any]:
    """`started` is `time.monotonic()` at the start."""
    machine = {"cores": os.cpu_count(), "cpu": cpu()}
    seconds = round(time.monotonic() - started, 1)
    return {"bench": bench, "seed": seed, "seconds": seconds, "machine": machine, "version": __version__}


def cpu() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def rounded(value: Any) -> Any:
    """Plain JSON: numbers with four digits after the point, unknown ones as null."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, bool | int | str | None):
        return value
    return None if math.isnan(value) else round(float(value), 4)
