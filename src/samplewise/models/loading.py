"""What loading a checkpoint by `transformers` takes, whatever it is a model of. Imports torch: import it late."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from samplewise.errors import SetupError

hugging: Any = transformers  # its functions are typed in part only


def find_place(source: str, bundled: Path) -> tuple[str, str]:
    """Where to load from, and what to call it; "tiny" is the one that is bundled. Raises SetupError."""
    path = bundled if source == "tiny" else Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise SetupError(f"the folder {path} holds no model: there is no config.json in it")
        return str(path), source if source == "tiny" else path.resolve().name
    if source == "tiny" or path.is_absolute() or source.startswith((".", "~")) or path.exists():
        raise SetupError(f"there is no model folder {path}")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        raise SetupError(f"{source!r} is neither a folder nor a name on the Hugging Face Hub (owner/model)")
    return source, source


def find_device(device: str | None, what: str) -> torch.device:
    """CUDA where there is one, or the device that is named. Raises SetupError; `what` runs on it."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise SetupError(f"no such device: {device}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise SetupError(f"{what} runs on cpu and cuda, not on {chosen.type}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise SetupError(f"this torch sees no CUDA device: got device={device!r}")
    return chosen


def all_there(missing: Any, name: str) -> None:
    """SetupError where the files of a model lack some of its weights."""
    if missing:
        raise SetupError(f"the files of {name} lack {len(missing)} of its weights, such as {min(missing)}")


def put(model: Any, device: torch.device, name: str) -> Any:
    """The model on a device, ready to compute. Raises SetupError where it does not fit."""
    try:
        return model.to(device).eval().requires_grad_(False)
    except RuntimeError as error:
        raise SetupError(f"cannot put {name} on {device}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no advice while a model is loaded."""
    logging = hugging.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
