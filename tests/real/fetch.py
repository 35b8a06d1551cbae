"""Fetch the real model that these tests run on: `python tests/real/fetch.py`, from the repository's root.

The model is the folder `smollm2` (SmolLM2-135M-Instruct) in `SAMPLEWISE_MODELS`, else in ~/.cache/samplewise-models.
Where it is absent, the script `models/get.py` in `SAMPLEWISE_SHARED`, else in ../shared, makes it if there is one.
Where that fails, one line says why, and the tests are skipped.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NAME = "smollm2"
ROOT = Path(__file__).parents[2]
HELPERS = ROOT / ".venv-real"
PINNED = Path(__file__).parent / "requirements.txt"
LIMIT_S = 300.0


def model_folder() -> Path:
    """Return where the model is, or would be."""
    models = os.environ.get("SAMPLEWISE_MODELS")
    return (Path(models).expanduser() if models else Path.home() / ".cache" / "samplewise-models") / NAME


def is_whole(folder: Path) -> bool:
    """Return whether a model lies in the folder; this file is written last."""
    return (folder / "generation_config.json").is_file()


def why_not(limit_s: float = LIMIT_S) -> str:
    """Fetch the model unless it is there. Return why that cannot be done, or ""."""
    folder = model_folder()
    if is_whole(folder):
        return ""
    script = Path(os.environ.get("SAMPLEWISE_SHARED") or ROOT.parent / "shared") / "models" / "get.py"
    if not script.is_file():
        return f"no model in {folder}, and no models/get.py to fetch it in SAMPLEWISE_SHARED or ../shared"
    until = time.monotonic() + limit_s
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade"]
    steps: list[Sequence[str]] = [
        [*pip, "--target", str(HELPERS), "-r", str(PINNED)],
        [sys.executable, str(script), NAME, str(folder.parent)],
    ]
    for step in steps:
        if said := _failure(step, until - time.monotonic()):
            return f"the model cannot be fetched: {said}"
    return "" if is_whole(folder) else f"the model cannot be fetched: {script.name} made no {folder}"


def _failure(command: Sequence[str], limit_s: float) -> str:
    """Run a command, and end it with all its children at the limit. Return the last line of its error, or ""."""
    environment = {**os.environ, "PYTHONPATH": str(HELPERS), "PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "15"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, error = process.communicate(timeout=max(limit_s, 0.0))
    except subprocess.TimeoutExpired:
        return "it took too long"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    lines = error.strip().splitlines() or [f"exit status {process.returncode}"]
    return lines[-1] if process.returncode else ""


if __name__ == "__main__":
    if why := why_not():
        print(f"the tests on a real model are skipped: {why}")
