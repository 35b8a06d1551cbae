"""The local engine: any causal model of `transformers`, in this process, on a CPU or a CUDA device.

torch and transformers are imported when an engine is made, never before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from samplewise.core.types import Json
from samplewise.models import require_torch

if TYPE_CHECKING:
    from .engine import Local


def local(
    model: str = "tiny",
    *,
    device: str | None = None,
    dtype: str | None = None,
    max_rows: int | None = None,
    max_bytes: int | None = None,
    template: Mapping[str, Json] | None = None,
    reasoning_effort: str | None = None,
    enable_thinking: bool | None = None,
    allow_slow: bool = False,
) -> Local:
    """Make the engine of a model folder or a name on the Hugging Face Hub; "tiny" is the bundled model.

    `device` is "cpu" or "cuda" (default: CUDA if present). `dtype` is "float32", "float16" or "bfloat16"
    (default: float32 on a CPU, what the checkpoint was saved in on CUDA), or on a CPU "int8": 8-bit weights, faster but
    another distribution (docs/engines.md says how far off). At most `max_rows` responses are drawn at
    once, fewer if their keys and values would take more than `max_bytes` (default: a share of the memory); the rest
    wait. `template` are arguments for the chat template; `reasoning_effort` and `enable_thinking` are two that those of
    reasoning models take. Raises MissingExtra without torch, and SetupError for a model that cannot be used.

    A model is checked as it is loaded: what its fast pass computes must agree with a plain pass. Where no fast pass
    does, that is a SetupError, unless `allow_slow`: then every token costs a pass over all tokens before it.
    """
    require_torch("the local engine")
    from .engine import Local

    switches = {"reasoning_effort": reasoning_effort, "enable_thinking": enable_thinking}
    arguments = {**(template or {}), **{name: value for name, value in switches.items() if value is not None}}
    return Local(
        model,
        device=device,
        dtype=dtype,
        max_rows=max_rows,
        max_bytes=max_bytes,
        template=arguments,
        allow_slow=allow_slow,
    )


def tiny(*, device: str | None = None, dtype: str | None = None, max_rows: int | None = None) -> Local:
    """Make the engine of the bundled model."""
    return local("tiny", device=device, dtype=dtype, max_rows=max_rows)
