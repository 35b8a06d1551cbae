"""The local engine: any causal model of `transformers`, in this process, on a CPU or a CUDA device.

torch and transformers are imported when an engine is made, never before.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from samplewise.errors import MissingExtra

SPIN = "4000"

if TYPE_CHECKING:
    from .engine import Local


def local(
    model: str = "tiny",
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_rows: int | None = None,
    max_bytes: int | None = None,
) -> Local:
    """An engine for a model folder or a name on the Hugging Face Hub; "tiny" is the one that is bundled.

    `device` is "cpu" or "cuda" (default: CUDA where there is one). `dtype` is "float32", "float16" or "bfloat16"
    (default: float32 on a CPU, what the checkpoint was saved in on CUDA). `max_rows` responses are drawn at once, fewer
    where their keys and values would take more than `max_bytes` (default: a share of the memory); the rest wait.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        # How long libgomp's threads spin for each other before they sleep; read once, as torch is loaded. By default
        # it is some milliseconds for each of a small model's short operations, which next to one other busy process
        # made a run more than ten times slower.
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra("the local engine", "local") from error
    from .engine import Local

    return Local(model, device=device, dtype=dtype, max_rows=max_rows, max_bytes=max_bytes)


def tiny(*, device: str | None = None, dtype: str | None = None, max_rows: int | None = None) -> Local:
    """The engine for the bundled model."""
    return local("tiny", device=device, dtype=dtype, max_rows=max_rows)
